"""The real pair, started once: two processes on free ports with the example model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from saccade_cli.pair import Pair, Ports

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"


@pytest.fixture(scope="session")
def images() -> Path:
    """The example photos."""
    return ROOT / "examples" / "images"


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Transformer and predictor, ready; stopped cleanly at the end of the run."""
    running = Pair(
        ROOT / "examples" / "model-repository",
        "detector",
        HOST,
        Ports.choose(HOST),
        log_dir=tmp_path_factory.mktemp("pair-logs"),
    )
    running.start()
    try:
        asyncio.run(running.wait_ready())
        yield running
    finally:
        codes = running.stop()
    assert codes == {"transformer": 0, "predictor": 0}
