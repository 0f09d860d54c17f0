"""The load test against the real pair: answers of every protocol pass, the cache agrees, the example runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from saccade_loadtest.__main__ import app
from saccade_loadtest.commands.example import Addresses, ExamplePair
from saccade_loadtest.record import run_file

#: How fast this machine is at the moment is not what is tested.
LENIENT = "generator: {schedule_error_p99_ms: 60000, offered_at_least: 0.5}\n"
SLO = "name: test\nerrors: {at_most: 0}\n" + LENIENT


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    found = ExamplePair(tmp_path_factory.mktemp("pair") / "log")
    yield found.start()
    found.stop()


def invoke(*arguments: str | Path) -> tuple[int, str]:
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    assert "Traceback" not in result.output
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def slo(tmp_path: Path) -> Path:
    path = tmp_path / "slo.yaml"
    path.write_text(SLO)
    return path


def test_every_protocol_is_answered_rightly(pair: Addresses, slo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said = invoke(
        *("run", "smoke", "--url", pair.url, "--grpc", pair.grpc, "--protocol", "all", "--arrivals", "even"),
        *("--rate", "1.5", "--duration", "12", "--patience", "60", "--slo", slo, "--out", out),
        *(f"--metrics={service}={url}" for service, url in pair.metrics.items()),
    )
    assert status == 0, said
    run = run_file.load(out / "run.json")
    assert set(run.series) == {"v2-binary", "v2-json", "v2-grpc", "jpeg", "v1"}
    assert all(set(series.cache) <= {"bypass"} for series in run.series.values())
    assert run.server is not None
    assert run.server.missing == {}
    assert {"transformer/decode", "predictor/compute"} <= set(run.server.stages)


def test_a_predictor_is_found_out_and_asked_about_tensors(pair: Addresses, slo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, said = invoke(
        *("run", "smoke", "--url", pair.predictor, "--rate", "1.5", "--duration", "8", "--patience", "60"),
        *("--arrivals", "even", "--slo", slo, "--out", out),
    )
    assert status == 0, said
    run = run_file.load(out / "run.json")
    assert run.target.service == "predictor"
    assert set(run.series) == {"v2-binary"}


def test_still_cameras_are_answered_from_the_cache_and_rightly(pair: Addresses, tmp_path: Path) -> None:
    slo, out = tmp_path / "slo.yaml", tmp_path / "out"
    slo.write_text("name: test\nagreement: {at_least: 0.8}\ncache: {hits_at_least: 0.3}\n" + LENIENT)
    status, said = invoke(
        *("run", "cache", "--url", pair.url, "--cameras", "2", "--fps", "4", "--duration", "14", "--warmup", "4"),
        *("--patience", "60", "--slo", slo, "--out", out),
    )
    assert status == 0, said
    [series] = run_file.load(out / "run.json").series.values()
    assert series.agreement_checked >= 10
    assert series.cache["near"] + series.cache["exact"] > series.cache["miss"]


def test_the_example_finds_its_rate_and_says_what_it_offered(tmp_path: Path) -> None:
    slo, out = tmp_path / "slo.yaml", tmp_path / "out"
    slo.write_text(SLO)
    status, said = invoke("example", "--probe", "8", "--duration", "8", "--slo", slo, "--out", out)
    verdict = json.loads((out / "verdict.json").read_text())
    assert status == verdict["exit_code"], said
    run = run_file.load(out / "run.json")
    total = run.measured()
    assert total.answered > 0
    assert "wrong_answer" not in total.errors
    assert set(run.series["jpeg"].cache) == {"bypass"}
    found = re.search(r"probe: ([\d.,]+) answers/s", said)
    assert found is not None
    assert float(found[1].replace(",", "")) > 0
    assert (run.schedule.nominal_per_s, run.schedule.nominal_limit_ms) == (1000, 100)
    assert any("the scenario stands for 1,000/s within 100 ms, which this is not" in note for note in run.notes)
    assert (out / "report.html").is_file()
