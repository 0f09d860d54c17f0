"""The pair as two local processes: ports that differ, a process that dies, an end that is reported."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import astuple
from pathlib import Path

import pytest

from saccade_cli.curl_lines import curl_lines
from saccade_cli.pair import Pair, PairFailed, Ports

HOST = "127.0.0.1"


def test_ports_are_free_and_differ() -> None:
    chosen = astuple(Ports.choose(HOST))
    assert len(set(chosen)) == len(chosen) == 6
    for port in chosen:
        socket.create_server((HOST, port)).close()


def test_given_ports_are_kept() -> None:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    ports = Ports.choose(HOST, rest=port)
    assert ports.rest == port
    assert astuple(ports).count(port) == 1


@pytest.mark.parametrize(
    ("name", "option"), [("rest", "--port"), ("grpc", "--grpc-port"), ("metrics", "--metrics-port")]
)
def test_a_given_port_in_use_is_an_error_that_names_the_option(name: str, option: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PairFailed, match=f"port {port} is in use; choose another with {option}"):
            Ports.choose(HOST, **{name: port})


def test_a_port_given_twice_is_an_error() -> None:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(PairFailed, match=f"port {port} is given twice; choose another with --grpc-port"):
        Ports.choose(HOST, rest=port, grpc=port)


def test_a_pair_that_was_not_started_stops_without_a_word(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "m", HOST, Ports.choose(HOST))
    pair.check()
    assert pair.stop() == {}


def test_what_up_prints_names_both_metrics_ports(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "m", HOST, Ports.choose(HOST))
    shown = curl_lines(pair, tmp_path / "photo.jpg")
    for port in (pair.ports.metrics, pair.ports.predictor_metrics):
        assert f"http://{HOST}:{port}/metrics" in shown


async def test_a_process_that_dies_at_the_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "nowhere", "m", HOST, Ports.choose(HOST), log_dir=tmp_path / "logs")
    pair.start()
    steps: list[str] = []
    try:
        with pytest.raises(PairFailed) as caught:
            await asyncio.wait_for(pair.wait_ready(steps.append), 60)
        with pytest.raises(PairFailed, match="the predictor ended with exit code 1"):
            pair.check()
    finally:
        codes = pair.stop()
    assert steps == ["waiting for the predictor"]
    assert str(caught.value).startswith("the predictor ended with exit code 1; the end of ")
    assert f"model repository {tmp_path / 'nowhere'} is not a directory" in str(caught.value)
    assert codes["predictor"] == 1
    assert list(codes) == ["transformer", "predictor"], "the transformer is stopped first"
    assert pair.stop() == {}
