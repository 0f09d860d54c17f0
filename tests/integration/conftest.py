"""The real pair, started once: two processes on free ports with the example model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from integration_support import (
    HOST,
    INFER,
    MODEL,
    PHOTOS,
    REPOSITORY,
    ROOT,
    Address,
    Detection,
    Service,
    from_v2,
    v2_binary,
)
from measuring.processes import free_port
from saccade_cli.pair import Pair, Ports
from saccade_serving.oip import binary_codec
from stub_predictor import StubPredictor

#: The tests send the same photos again and again, and want them answered by the predictor.
NO_CACHE = {"SACCADE_TRANSFORMER_CACHE": "off"}


@pytest.fixture(scope="session")
def images() -> Path:
    """The example photos."""
    return ROOT / "examples" / "images"


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Transformer and predictor, ready; stopped cleanly at the end of the run."""
    logs = tmp_path_factory.mktemp("pair-logs")
    ports = Ports(*(free_port() for _ in fields(Ports)))
    running = Pair(REPOSITORY, MODEL, HOST, ports, log_dir=logs, environment=NO_CACHE)
    running.start()
    try:
        asyncio.run(running.wait_ready())
        yield running
    finally:
        codes = running.stop()
    assert codes == {"transformer": 0, "predictor": 0}


@pytest.fixture(scope="session")
def transformer(pair: Pair) -> Address:
    """Where the pair's transformer listens."""
    return Address(pair.ports.rest, pair.ports.grpc, pair.ports.metrics)


@pytest.fixture(scope="session")
def predictor(pair: Pair) -> Address:
    """Where the pair's predictor listens."""
    return Address(pair.ports.predictor_rest, pair.ports.predictor_grpc, pair.ports.predictor_metrics)


@pytest.fixture(scope="session")
def photos(images: Path) -> dict[str, bytes]:
    """The example photos' bytes by file name."""
    return {name: (images / name).read_bytes() for name in PHOTOS}


@pytest.fixture(scope="session")
def expected(transformer: Address, photos: dict[str, bytes]) -> dict[str, list[Detection]]:
    """What the pair finds in each photo by V2 REST with binary tensors; all else is held against it."""
    found = {}
    for name, image in photos.items():
        answer = transformer.http(INFER, *v2_binary(image))
        assert answer.status == 200, answer.body
        response = binary_codec.decode_response(answer.body, answer.headers["inference-header-content-length"])
        [found[name]] = from_v2(response)
    return found


@pytest.fixture(scope="session")
def choose_address() -> Callable[[], Address]:
    """Make addresses on free ports."""

    def choose() -> Address:
        return Address(free_port(), free_port(), free_port())

    return choose


@pytest.fixture
def stub() -> Iterator[StubPredictor]:
    made = StubPredictor()
    yield made
    made.close()


@pytest.fixture
def start(choose_address: Callable[[], Address], tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services that are killed after the test, whatever happens."""
    with contextlib.ExitStack() as stack:

        def begin(name: str, *flags: str, model: str = MODEL, **settings: str) -> Service:
            address = choose_address()
            service = Service(name, address, tmp_path / f"{name}-{address.rest}.log", flags, settings)
            stack.enter_context(service)
            service.wait_ready(model)
            return service

        yield begin
