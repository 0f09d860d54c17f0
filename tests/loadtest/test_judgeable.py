"""What a run could not tell is refused before it, as is a place that cannot be written to; metrics that were lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtest_support import HEIGHT, WIDTH, invoke
from saccade_loadtest.judging import slo
from saccade_loadtest.judging.judgeable import Intended, NotJudgeable, check
from saccade_loadtest.judging.verdict import judge
from saccade_loadtest.record.scraping import Scraper
from saccade_loadtest.record.server_metrics import Scrape, ServerRecord, StageTimes
from virtual_run import virtual_run

STAGE = {"latency": [{"percentile": 99, "limit_ms": 50, "stage": "predictor/queue"}]}
GROWTH = {"growth": {"descriptors_per_hour": 5}}
ASKED = {"predictor": ["total", "queue", "own"]}


def intended(**changes: Any) -> Intended:
    return Intended(**{"protocols": ["jpeg"], "cache": "use", "measured_s": 3600.0, "compares": True, **changes})


@pytest.mark.parametrize(
    ("objectives", "changes", "sentence"),
    [
        (STAGE, {}, "the metrics of predictor are not asked; give --metrics predictor=URL"),
        (STAGE, {"unreadable": {"predictor": "they cannot be read"}}, "predictor/queue, and they cannot be read"),
        (
            {"latency": [{"percentile": 99, "limit_ms": 50, "stage": "predictor/que"}]},
            {"stages": ASKED},
            "predictor/que, which there is not; did you mean predictor/queue?",
        ),
        (
            {"latency": [{"percentile": 99, "limit_ms": 50, "protocol": "v1"}]},
            {},
            "a limit for protocol v1, and the run sends by jpeg",
        ),
        ({"cache": {"hits_at_least": 0.5}}, {"cache": "bypass"}, "cache hits, and the run asks with cache=bypass"),
        ({"cache": {"hits_at_least": 0.5}}, {"cache": ""}, "cache hits, and the service has no frame cache"),
        ({"agreement": {"at_least": 0.9}}, {"compares": False}, "answers are not compared"),
        (GROWTH, {}, "no metrics are asked; give --metrics predictor=URL"),
        (
            GROWTH,
            {"stages": ASKED, "measured_s": 300.0},
            "is told after 10 min at least, and the run measures for 5 min",
        ),
    ],
)
def test_what_a_run_would_tell_nothing_of_is_refused(
    objectives: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(NotJudgeable) as refused:
        check(slo.parse({"name": "mine", **objectives}), intended(**changes))
    assert str(refused.value).startswith("SLO mine cannot be judged by this run: ")
    assert sentence in str(refused.value)


def test_what_a_run_tells_of_is_let_pass() -> None:
    every = {
        **GROWTH,
        "latency": [*STAGE["latency"], {"percentile": 99, "limit_ms": 5, "protocol": "each"}],
        "cache": {"hits_at_least": 0.5},
        "agreement": {"at_least": 0.9},
    }
    check(slo.parse({"name": "x", **every}), intended(stages=ASKED))
    # A service that has served nothing yet tells of no stage, and one of its own is known once it is told.
    check(slo.parse({"name": "x", **STAGE}), intended(stages={"predictor": []}))
    own = [{"percentile": 99, "limit_ms": 50, "stage": "predictor/own"}]
    check(slo.parse({"name": "x", "latency": own}), intended(stages=ASKED))


@pytest.mark.parametrize(
    ("command", "content", "sentence"),
    [
        (("run", "smoke"), "agreement: {at_least: 2}", "agreement.at_least is 2"),
        (("run", "smoke"), "cache: {hits_at_least: 0.5}", "the run asks with cache=bypass"),
        (
            ("run", "smoke", "--metrics", "predictor=http://127.0.0.1:1/metrics"),
            "latency: [{percentile: 99, limit_ms: 5, stage: predictor/queue}]",
            "the metrics of predictor at http://127.0.0.1:1/metrics cannot be read",
        ),
        (("run", "soak", "--rate", "5"), "growth: {memory_mib_per_hour: 5}", "no metrics are asked"),
        (("capacity",), "growth: {memory_mib_per_hour: 5}", "no metrics are asked"),
    ],
)
def test_the_commands_refuse_it_before_they_send_anything(
    url: str, tmp_path: Path, command: tuple[str, ...], content: str, sentence: str
) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(f"name: test\n{content}\n")
    out = tmp_path / "out"
    status, said = invoke(*command, "--url", url, "--slo", path, "--out", out, "--size", f"{WIDTH}x{HEIGHT}")
    assert (status, sentence in said) == (2, True), said
    assert not out.exists()


def test_where_nothing_can_be_written_is_told_before_the_run(url: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    common = ("--url", url, "--size", f"{WIDTH}x{HEIGHT}", "--duration", "3600")
    status, said = invoke("run", "smoke", *common, "--out", path)
    assert status == 2
    assert f"{path} is a file; expected a folder for the record" in said
    status, said = invoke("run", "smoke", *common, "--out", path / "below")
    assert status == 2
    assert "Not a directory" in said
    slo_file = tmp_path / "slo.yaml"
    slo_file.write_text("name: test\nerrors: {at_most: 0.1}\n")
    status, said = invoke("capacity", "--url", url, "--slo", slo_file, "--out", tmp_path)
    assert status == 2
    assert f"{tmp_path} is a folder; expected a file to write" in said
    assert path.read_text() == "mine"


class Service:
    """Metrics that a test sets, over HTTP."""

    def __init__(self) -> None:
        self.queue = 0
        self.started_at = 1000.0
        self.is_up = True
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = service.text().encode()
                self.send_response(200 if service.is_up else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/metrics"

    def text(self) -> str:
        return (
            f'saccade_request_seconds_bucket{{stage="queue",le="0.1"}} {self.queue}\n'
            f'saccade_request_seconds_bucket{{stage="queue",le="+Inf"}} {self.queue}\n'
            f'saccade_request_seconds_sum{{stage="queue"}} {self.queue * 0.05}\n'
            f"process_start_time_seconds {self.started_at}\n"
        )


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def watched(service: Service, *steps: Callable[[], None]) -> ServerRecord:
    """The record of a run with a warm-up of 10 s on a clock of its own, in which something happens every 6 s."""
    now = [0.0]
    scraper = Scraper({"predictor": service.url}, every_s=60, clock=lambda: now[0], warmup_s=10.0)
    scraper.begin()
    for step in steps:
        now[0] += 6.0
        step()
        scraper.look()
    record = scraper.end()
    assert record is not None
    return record


def counting(service: Service, count: int, **changes: Any) -> Callable[[], None]:
    def step() -> None:
        service.queue = count
        for name, value in changes.items():
            setattr(service, name, value)

    return step


def test_what_is_counted_in_the_warm_up_is_left_out(service: Service) -> None:
    record = watched(service, counting(service, 100), counting(service, 150), counting(service, 400))
    assert record.stages["predictor/queue"].count == 250
    assert record.missing == {}


@pytest.mark.parametrize(
    "steps",
    [
        lambda service: [counting(service, 20), counting(service, 300)],
        lambda service: [counting(service, 160, started_at=2000.0), counting(service, 300)],
    ],
    ids=["its counters went back", "it began later"],
)
def test_a_restart_within_the_run_is_seen_also_where_its_counters_have_caught_up(
    service: Service, steps: Callable[[Service], list[Callable[[], None]]]
) -> None:
    record = watched(service, counting(service, 100), counting(service, 150), *steps(service))
    assert "its counters went back: it was restarted" in record.missing["predictor"]


def test_a_restart_in_the_warm_up_and_a_reading_that_failed_between_do_not_matter(service: Service) -> None:
    record = watched(
        service,
        counting(service, 100),
        counting(service, 5),  # the warm-up is over here
        counting(service, 50, is_up=False),
        counting(service, 80, is_up=True),
    )
    assert record.missing == {}
    assert record.stages["predictor/queue"].count == 75


def test_a_service_that_cannot_be_read_in_the_end_is_named(service: Service) -> None:
    record = watched(service, counting(service, 100), counting(service, 150), counting(service, 200, is_up=False))
    assert "cannot be read: HTTP Error 503" in record.missing["predictor"]


def test_objectives_that_stand_on_a_service_whose_metrics_are_lost_are_invalid() -> None:
    run = virtual_run([10.0] * 5_000)
    run.server = ServerRecord({"predictor/queue": StageTimes((0.01, 0.05), (9_000.0, 0.0, 0.0), 1.0)})
    for at_s in range(0, 1200, 10):
        run.server.watch("predictor", float(at_s), Scrape(gauges={"process_open_fds": 40}))
    both = slo.parse({"name": "x", **STAGE, **GROWTH})
    assert judge(run, both).outcome == "pass"
    run.server.missing["transformer"] = "it is another"
    assert judge(run, both).outcome == "pass"
    run.server.missing["predictor"] = "its counters went back"
    verdict = judge(run, both)
    assert verdict.outcome == "invalid"
    assert len(verdict.reasons) == 2
    assert all("the metrics of predictor tell no whole run: its counters went back" in one for one in verdict.reasons)
