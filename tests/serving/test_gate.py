"""The gate: who gets in, which model answers, and that the books balance whatever the outcome."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import CLIENT_LEFT, Gate
from saccade_serving.errors import EngineFailed, InvalidRequest, ModelNotFound, Overloaded, SaccadeError
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.model import ServedModel
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata
from saccade_serving.recording import Recorder
from saccade_serving.scheduling.trace import read_trace
from saccade_serving.settings import ServiceSettings
from saccade_serving.telemetry import configure_logging


class StubModel(ServedModel):
    """Ready or not, with one version."""

    def __init__(self, name: str, ready: bool = True) -> None:
        super().__init__(name)
        self.ready = ready
        self.probe: Overloaded | None = None

    async def prepare(self) -> None:
        self.ready = True

    def metadata(self, version: str = "") -> ModelMetadata:
        return ModelMetadata(self.name, self.versions(), "stub", [], [])

    async def infer(self, request: InferRequest, exchange: Exchange) -> InferResponse:
        return InferResponse(self.name, [])

    async def close(self) -> None:
        self.ready = False

    def versions(self) -> list[str]:
        return ["2"]

    def check_probe(self, version: str = "") -> None:
        super().check_probe(version)
        if self.probe is not None:
            raise self.probe


class Told:
    """Takes note of how exchanges end."""

    def __init__(self) -> None:
        self.errors: list[SaccadeError] = []
        self.answers: list[object] = []

    def answered(self, exchange: Exchange, answer: object) -> None:
        self.answers.append(answer)

    def failed(self, exchange: Exchange, error: SaccadeError) -> None:
        self.errors.append(error)


class Accounts:
    """A gate and what its metrics say."""

    def __init__(self, *models: StubModel, limit: int = 2, request_log: bool = False) -> None:
        self.metrics = Metrics()
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        self.arena = Arena(2**20)
        settings = ServiceSettings(max_inflight_requests=limit, request_log=request_log)
        self.gate = Gate({model.name: model for model in models}, settings, self.metrics, self.arena)

    def begin(self, protocol: str, headers: dict[str, str] | None = None) -> Exchange:
        """Let a request in that nobody waits for in particular."""
        exchange = self.gate.begin(protocol, headers or {})
        exchange.sink = Told()
        return exchange

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


async def test_a_request_is_in_flight_from_begin_to_finish() -> None:
    books = Accounts(StubModel("m"))
    exchange = books.gate.begin("rest", {})
    assert books.value("saccade_inflight_requests") == 1
    books.gate.find("m", "", exchange)
    books.gate.finish(exchange, "rest", "200", received=10, sent=20)
    assert books.value("saccade_inflight_requests") == 0
    assert books.value("saccade_requests_total", model="m", protocol="rest", code="200") == 1
    assert books.value("saccade_request_seconds_count", model="m", version="", stage="total") == 1
    assert books.value("saccade_network_bytes_total", direction="received") == 10
    assert books.value("saccade_network_bytes_total", direction="sent") == 20
    assert books.gate.open == set()


async def test_more_requests_than_the_limit_are_refused_until_one_ends() -> None:
    books = Accounts(StubModel("m"), limit=2)
    first, second = books.gate.begin("rest", {}), books.gate.begin("grpc", {})
    still_sending = books.gate.begin("rest", {})
    books.gate.enter(first)
    books.gate.enter(second)
    for refused in (books.gate.check_room, lambda: books.gate.enter(still_sending)):
        with pytest.raises(Overloaded, match="2 requests are in flight, which is the limit") as caught:
            refused()
        assert caught.value.retry_after_s
    books.gate.finish(first, "rest", "200")
    books.gate.enter(still_sending)
    with pytest.raises(Overloaded):
        books.gate.check_room()


async def test_who_only_sends_takes_no_place_from_others() -> None:
    books = Accounts(StubModel("m"), limit=1)
    for _ in range(5):
        books.gate.begin("rest", {})
    books.gate.enter(books.gate.begin("rest", {}))


async def test_a_request_that_never_got_in_is_counted_but_not_taken_off_the_inflight_ones() -> None:
    books = Accounts(StubModel("m"), limit=1)
    books.gate.begin("rest", {})
    books.gate.finish(None, "rest", "503", error=Overloaded("full"))
    assert books.value("saccade_inflight_requests") == 1
    assert books.value("saccade_requests_total", model="", protocol="rest", code="503") == 1
    assert books.value("saccade_rejected_requests_total", model="", reason="overloaded") == 1


async def test_a_deadline_header_that_cannot_be_read_does_not_count_as_in_flight() -> None:
    books = Accounts(StubModel("m"))
    with pytest.raises(InvalidRequest):
        books.gate.begin("rest", {"x-deadline-ms": "never"})
    assert books.value("saccade_inflight_requests") == 0


async def test_an_unknown_model_is_named_and_never_becomes_a_label() -> None:
    books = Accounts(StubModel("m"), StubModel("a"))
    exchange = books.gate.begin("rest", {})
    with pytest.raises(ModelNotFound, match="model 'x' is not served here; available: a, m"):
        books.gate.find("x", "", exchange)
    books.gate.finish(exchange, "rest", "404", error=ModelNotFound("x"))
    assert books.value("saccade_requests_total", model="", protocol="rest", code="404") == 1
    assert books.value("saccade_rejected_requests_total", model="", reason="model_not_found") == 1


async def test_an_unknown_version_is_named() -> None:
    books = Accounts(StubModel("m"))
    books.gate.find("m", "2")
    with pytest.raises(ModelNotFound, match="version '9' of model 'm' is not served here; available: 2"):
        books.gate.find("m", "9")


async def test_a_model_that_is_not_ready_says_why() -> None:
    model = StubModel("m", ready=False)
    books = Accounts(model)
    with pytest.raises(Overloaded, match="model 'm' is not ready: it is still loading"):
        books.gate.find("m", "")
    model.not_ready_because = "the moon is full"
    with pytest.raises(Overloaded, match="the moon is full"):
        books.gate.check_ready("m")


async def test_readiness_turns_false_while_draining_but_requests_are_still_served() -> None:
    books = Accounts(StubModel("m"))
    books.gate.check_ready("m")
    books.gate.draining = True
    with pytest.raises(Overloaded, match="shutting down"):
        books.gate.check_ready("m")
    assert books.gate.find("m", "").name == "m"


async def test_a_probe_may_be_stricter_than_what_requests_need() -> None:
    model = StubModel("m")
    model.probe = Overloaded("the predictor is not ready")
    books = Accounts(model)
    with pytest.raises(Overloaded, match="the predictor"):
        books.gate.check_ready("m")
    books.gate.find("m", "")


async def test_stages_are_observed_beside_the_total() -> None:
    books = Accounts(StubModel("m"))
    exchange = books.gate.begin("rest", {})
    books.gate.find("m", "", exchange)
    exchange.version = "2"
    exchange.spent("decode", 0.25)
    books.gate.finish(exchange, "rest", "200")
    assert books.value("saccade_request_seconds_sum", model="m", version="2", stage="decode") == 0.25


async def test_arrivals_and_answers_move_the_quiet_clock() -> None:
    books = Accounts(StubModel("m"))
    books.gate.last_seen = 0
    exchange = books.gate.begin("rest", {})
    arrived = books.gate.last_seen
    assert arrived == exchange.started > 0
    books.gate.last_seen = 0
    books.gate.finish(exchange, "rest", "200")
    assert books.gate.last_seen >= arrived


async def test_a_request_is_logged_in_one_line_by_switch_only(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("info", "json")
        for switch in (False, True):
            books = Accounts(StubModel("m"), request_log=switch)
            exchange = books.gate.begin("rest", {"x-request-id": "r1"})
            books.gate.find("m", "", exchange)
            exchange.spent("decode", 0.0125)
            books.gate.finish(exchange, "rest", "200", received=5, sent=6)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    [line] = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["total_ms"] >= 0
    wanted = {"event": "request", "request_id": "r1", "model": "m", "code": "200", "decode_ms": 12.5}
    assert {key: event[key] for key in wanted} == wanted
    assert (event["received_bytes"], event["sent_bytes"]) == (5, 6)


async def test_requests_of_known_models_are_recorded_with_the_version_that_they_were_for(tmp_path: Path) -> None:
    books = Accounts(StubModel("m"), limit=9)
    with Recorder(tmp_path / "trace", 2**20) as recorder:
        books.gate.recorder = recorder
        for version, code in (("1", "200"), ("", CLIENT_LEFT)):
            exchange = books.begin("rest")
            books.gate.find("m", "", exchange)
            exchange.version = version
            books.gate.finish(exchange, "rest", code)
        books.gate.finish(books.begin("rest"), "rest", "404", error=ModelNotFound("x"))
        books.gate.finish(None, "rest", "400", error=InvalidRequest("no"))
    with (tmp_path / "trace").open("rb") as lines:
        assert [(one.model, one.version, one.code) for one in read_trace(lines)] == [
            ("m", "1", "200"),
            ("m", "2", "499"),
        ]


async def test_an_error_is_counted_by_its_reason_and_a_client_that_left_by_one_of_its_own() -> None:
    books = Accounts(StubModel("m"), limit=9)
    for code, error in (("500", EngineFailed("broken")), (CLIENT_LEFT, None), ("200", None)):
        exchange = books.begin("rest")
        books.gate.find("m", "", exchange)
        books.gate.finish(exchange, "rest", code, error=error)
    assert books.value("saccade_rejected_requests_total", model="m", reason="engine_failed") == 1
    assert books.value("saccade_rejected_requests_total", model="m", reason="client_left") == 1
    assert {labels[2]: count for labels, count in books.metrics.requests.values.items()} == {
        "500": 1,
        CLIENT_LEFT: 1,
        "200": 1,
    }
    assert sum(books.metrics.rejected.values.values()) == 2


async def test_finishing_gives_the_bodys_memory_back_unless_somebody_took_it() -> None:
    books = Accounts(StubModel("m"))
    kept, taken = books.begin("rest"), books.begin("rest")
    kept.lease, taken.lease = books.arena.lease(10), books.arena.lease(10)
    assert books.value("saccade_arena_bytes", state="receiving") == 2 * 4096
    lease = taken.take_lease()
    assert lease is not None
    for exchange in (kept, taken):
        books.gate.finish(exchange, "rest", "200")
    assert books.arena.leases == 1
    lease.release()
    assert books.value("saccade_arena_bytes", state="receiving") == 0


async def test_when_the_grace_is_over_whoever_is_still_there_is_answered_and_the_work_stopped() -> None:
    books = Accounts(StubModel("m"))
    told = Told()
    stopped: list[str] = []
    working, receiving = books.begin("rest"), books.begin("grpc")
    for exchange in (working, receiving):
        exchange.sink = told

    def stop() -> str:
        stopped.append("stopped")
        return "somewhere"

    working.work(stop)
    books.gate.abort()
    assert [type(error) for error in told.errors] == [Overloaded] * 2
    assert stopped == ["stopped"]
    assert working.over
    assert receiving.over


async def test_a_request_is_in_the_models_statistics_by_its_outcome() -> None:
    books = Accounts(StubModel("m"))
    for code, error in (("200", None), ("500", EngineFailed("broken"))):
        exchange = books.begin("rest")
        books.gate.find("m", "", exchange)
        exchange.version = "2"
        exchange.rows = 3
        books.gate.finish(exchange, "rest", code, error=error)
    counted = books.metrics.statistics.of("m", "2")
    assert (counted.success_count, counted.fail_count, counted.inference_count) == (1, 1, 3)


@pytest.mark.parametrize(("code", "error"), [("400", InvalidRequest("no")), (CLIENT_LEFT, None)])
async def test_a_failure_before_a_version_is_known_is_in_the_newest_ones_statistics(
    code: str, error: SaccadeError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = StubModel("m")
    books = Accounts(model)
    for versions, newest in ((["2"], "2"), (["9", "10", "latest"], "10"), (["b", "a"], "b")):
        monkeypatch.setattr(model, "versions", lambda found=versions: found)
        before = books.metrics.statistics.of("m", newest).fail_count
        exchange = books.begin("rest")
        books.gate.find("m", "", exchange)
        books.gate.finish(exchange, "rest", code, error=error)
        assert books.metrics.statistics.of("m", newest).fail_count == before + 1
    monkeypatch.setattr(model, "versions", list)
    for _ in range(2):  # nobody knows the model, or the model knows no version yet
        exchange = books.begin("rest")
        books.gate.finish(exchange, "rest", code, error=error)
        exchange = books.begin("rest")
        exchange.model = "m"
        books.gate.finish(exchange, "rest", code, error=error)
    assert set(books.metrics.statistics._all) == {("m", "2"), ("m", "10"), ("m", "b")}
