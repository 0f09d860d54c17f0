"""A transformer with two predictors: calls are spread, one that dies costs no request, one that returns is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from integration_support import Address, Service, eventually
from stub_predictor import Reply, StubPredictor, refusal


@pytest.fixture(scope="module")
def stubs() -> Iterator[tuple[StubPredictor, StubPredictor]]:
    made = StubPredictor(), StubPredictor()
    yield made
    for stub in made:
        stub.close()


@pytest.fixture(scope="module")
def address(
    stubs: tuple[StubPredictor, StubPredictor],
    choose_address: Callable[[], Address],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Address]:
    hosts = ",".join(f"localhost:{stub.port}" for stub in stubs)  # a name, as in a cluster
    log = tmp_path_factory.mktemp("log") / "log"
    with Service("transformer", choose_address(), log, [f"--predictor_host={hosts}"]) as transformer:
        transformer.wait_ready()
        yield transformer.address
        assert transformer.stop() == 0


@pytest.fixture(scope="module")
def photo(photos: dict[str, bytes]) -> bytes:
    return photos["coffee.jpg"]


def test_calls_are_spread(stubs: tuple[StubPredictor, StubPredictor], address: Address, photo: bytes) -> None:
    for stub in stubs:
        stub.reset()
    assert [address.http("/detect", photo).status for _ in range(10)] == [200] * 10
    assert [len(stub.asked) for stub in stubs] == [5, 5]
    assert address.scrape().total("saccade_predictor_targets", state="asked") == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(Reply(0, {}, b""), "connection"), (refusal(503, "busy", **{"retry-after": "1"}), "overloaded")],
    ids=["accepts and closes", "busy"],
)
def test_a_failing_one_costs_no_request_and_comes_back(
    stubs: tuple[StubPredictor, StubPredictor], address: Address, photo: bytes, reply: Reply, reason: str
) -> None:
    for stub in stubs:
        stub.reset()
    before = address.scrape().total("saccade_predictor_retries_total", reason=reason)
    stubs[0].reply = lambda request: reply
    assert [address.http("/detect", photo).status for _ in range(20)] == [200] * 20
    scrape = address.scrape()
    assert scrape.total("saccade_predictor_targets", state="set_aside") == 1
    retries = scrape.total("saccade_predictor_retries_total", reason=reason) - before
    assert 1 <= retries == len(stubs[0].asked)
    stubs[0].reset()

    def back() -> bool:
        assert address.http("/detect", photo).status == 200
        return address.scrape().total("saccade_predictor_targets", state="set_aside") == 0

    eventually("the first is asked again", back)
    assert stubs[0].asked
