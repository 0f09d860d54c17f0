"""``saccade-loadtest run``: what a person sees who mistypes, asks nobody, or runs a scenario."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest_support import HEIGHT, ROOT, WIDTH, invoke, plan_for
from measuring.processes import free_port
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.load.loads import ClientsLoad
from saccade_loadtest.load.plan import Pictures
from saccade_loadtest.load.trace import read_trace
from saccade_loadtest.record import run_file
from saccade_loadtest.sending.conductor import Conductor, GeneratorProcess, RunFailed

SIZE = ("--size", f"{WIDTH}x{HEIGHT}")
LENIENT = "name: test\nerrors: {at_most: 0.001}\ngenerator: {schedule_error_p99_ms: 10000}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("smokee", "--url", "http://h"), "there is no scenario 'smokee'; did you mean 'smoke'?"),
        (("smoke", "--url", "localhost:8080"), "'localhost:8080' is no address of a service"),
        (("overload", "--url", "http://h"), "needs --rate, or --capacity"),
        (("drain", "--url", "http://h"), "needs --during with the command"),
        (("smoke", "--url", "http://h", "--header", "X"), "has no colon; expected NAME: VALUE"),
        (("smoke", "--url", "http://h", "--header", "X: a\nB: c"), "cannot be sent"),
        (("smoke", "--url", "http://h", "--arrivals", "odd"), "choose even or poisson"),
        (("smoke", "--url", "http://h", "--trace", "/no/such/trace"), "No such file"),
        (("smoke", "--url", "http://h", "--capacity", "/no/such/file"), "No such file"),
    ],
)
def test_a_mistake_is_named_before_anything_is_sent(arguments: tuple[str, ...], sentence: str) -> None:
    status, said = invoke("run", *arguments)
    assert status == 2
    assert sentence in said


def test_a_target_that_is_not_there_is_named() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    status, said = invoke("run", "smoke", "--url", nobody)
    assert status == 2
    assert f"{nobody} cannot be reached" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "other"), "has no model 'other'; it serves detector"),
        (("--protocol", "jpg"), "jpg is not served by a transformer; known: v2-binary"),
        (("--protocol", "jpeg=many"), "'many' is no weight"),
        (("--protocol", "v2-grpc"), "needs the address of the gRPC port"),
        (("--size", "big"), "'big' is no size; expected WIDTHxHEIGHT"),
        (("--pictures", "/no/such/folder"), "is no folder; name one with photos"),
        (("--warmup", "30", "--duration", "30"), "leaves nothing of 30 s to measure"),
        (("--metrics", "transformer"), "is not SERVICE=URL"),
    ],
)
def test_what_does_not_fit_the_target_is_named(url: str, arguments: tuple[str, ...], sentence: str) -> None:
    status, said = invoke("run", "smoke", "--url", url, *arguments)
    assert status == 2
    assert sentence in said


def test_a_broken_trace_is_named_with_its_line(url: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("due_s,camera\n3,0\n1,0\n")
    status, said = invoke("run", "smoke", "--url", url, "--trace", path)
    assert status == 2
    assert "bad.csv, line 3: due_s 1 comes after 3" in said


def test_a_run_that_is_too_short_for_its_percentiles_is_told_before_and_is_invalid(url: str, tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text(LENIENT + "latency: [{percentile: 99.9, limit_ms: 60000}]\n")
    status, said = invoke(
        *("run", "smoke", "--url", url, "--slo", slo, "--out", tmp_path / "out", "--rate", "10", "--duration", "5"),
        *SIZE,
    )
    assert status == 2
    assert "it can fail, but not pass" in said
    assert "INVALID" in said


def test_a_run_leaves_its_record_verdict_and_report(url: str, tmp_path: Path) -> None:
    slo, out = tmp_path / "slo.yaml", tmp_path / "out"
    slo.write_text(LENIENT)
    arguments = ("run", "smoke", "--url", url, "--slo", slo, "--out", out, "--duration", "6", "--rate", "40")
    status, said = invoke(*arguments, "--processes", "2", "--protocol", "all", *SIZE)
    assert status == 0, said
    run = run_file.load(out / "run.json")
    assert set(run.series) == {"v2-binary", "v2-json", "jpeg", "v1"} or "wrong" in said
    assert len(run.workers) == 2
    assert all(worker.cpu_share > 0 for worker in run.workers)
    assert (out / "report.html").stat().st_size > 10_000
    assert json.loads((out / "verdict.json").read_text())["verdict"] == "pass"


def test_a_generator_that_cannot_keep_up_says_so_and_never_passes(url: str, tmp_path: Path) -> None:
    slo, out = tmp_path / "slo.yaml", tmp_path / "out"
    # What is wrong is not the server: the load was not the one that was asked for.
    slo.write_text("name: test\nlatency: [{percentile: 99, limit_ms: 600}]\n")
    status, said = invoke(
        *("run", "smoke", "--url", url, "--slo", slo, "--out", out, "--rate", "30000", "--duration", "2"),
        *("--warmup", "0", "--protocol", "v2-binary", "--patience", "60", *SIZE),
    )
    assert status == 2
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["verdict"] == "invalid"
    broken = {check["name"] for check in verdict["generator"] if not check["kept"]}
    assert broken & {"schedule error", "generator CPU", "not sent"}, said


def test_a_trace_is_replayed_frame_by_frame(url: str, tmp_path: Path) -> None:
    slo, path, out = tmp_path / "slo.yaml", tmp_path / "trace.csv", tmp_path / "out"
    slo.write_text(LENIENT)
    path.write_text("due_s,camera,scene\n" + "".join(f"{at / 10},{at % 3},{at}\n" for at in range(30)))
    status, said = invoke(
        *("run", "smoke", "--url", url, "--slo", slo, "--out", out, "--trace", path, "--warmup", "0"), *SIZE
    )
    assert status == 0, said
    timeline = run_file.load(out / "run.json").timeline()
    assert [tally.due for tally in timeline.values()] == [10, 10, 10]


def test_what_cameras_do_is_written_as_a_trace_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    options = (
        "--cameras",
        "4",
        "--fps",
        "5",
        "--duration",
        "30",
        "--day",
        "10",
        "--night-fps",
        "1",
        "--burst-every",
        "5",
    )
    status, said = invoke("trace", path, *options)
    assert status == 0
    trace = read_trace(path)
    assert f"{len(trace.shots):,} frames of 4 cameras" in said
    assert {shot.light for shot in trace.shots} == {"day", "night"}
    status, said = invoke("trace", path, "--jitter", "0.9")
    assert status == 2
    assert "jitter is 0.9; it must be from 0 to 0.5" in said


def test_a_command_in_the_middle_of_a_run_is_run_and_its_failure_is_a_fault(url: str, tmp_path: Path) -> None:
    slo, out, mark = tmp_path / "slo.yaml", tmp_path / "out", tmp_path / "mark"
    slo.write_text(LENIENT)
    common = ("run", "drain", "--url", url, "--slo", slo, "--out", out, "--duration", "7", "--warmup", "1")
    status, said = invoke(*common, "--during", f"touch {mark}", "--at", "2", *SIZE)
    assert status == 0, said
    assert mark.exists()
    assert any(f"touch {mark}" in note for note in run_file.load(out / "run.json").notes)
    status, said = invoke(*common, "--during", "false", *SIZE)
    assert status == 2
    assert "the command 'false' ended with 1" in said


def test_ctrl_c_ends_a_run_early_and_the_record_says_so(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "saccade_loadtest", "run", "smoke", "--url", url, "--out", str(out)),
        *("--duration", "300", "--rate", "20", *SIZE),
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ)
        try:
            deadline = time.monotonic() + 60
            while "10 s" not in (tmp_path / "log").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 2, (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()
    run = run_file.load(out / "run.json")
    assert any("cut short" in fault and "SIGINT" in fault for fault in run.faults)
    assert run.measured().answered > 0


def test_a_generator_that_dies_marks_the_run_and_the_other_goes_on(url: str) -> None:
    made: list[GeneratorProcess] = []

    def make(name: str) -> GeneratorProcess:
        made.append(GeneratorProcess(name))
        return made[-1]

    def kill_one(at_s: float, _: object) -> None:
        if at_s >= 2 and made[0].exit_status is None:
            os.kill(made[0].pid, signal.SIGKILL)

    plan = plan_for(url, constant(40, 6), load=ClientsLoad.of(constant(40, 6), "even", "even"))
    run = Conductor(plan, 2, on_beat=kill_one, generator=make).run().run
    lost = {worker.name: worker.lost for worker in run.workers}
    assert "ended with -9" in lost["generator-1"]
    assert lost["generator-2"] == ""
    assert run.measured().answered == 120, "the half that is left"


def test_a_generator_that_cannot_begin_says_why(url: str) -> None:
    plan = plan_for(url, constant(1, 2), pictures=Pictures(folder=str(ROOT / "no-such-folder")))
    with pytest.raises(RunFailed, match="is no folder"):
        Conductor(plan).run()


def test_few_descriptors_are_fewer_requests_under_way_and_no_failures() -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))\n"
        "from saccade_loadtest.sending.generator import allow_open\n"
        "print(allow_open(10), allow_open(2000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["10", "236", "300"]


def test_who_drives_a_generator_and_goes_takes_it_along(url: str) -> None:
    generator = GeneratorProcess("alone")
    plan = plan_for(url, constant(5, 600))
    generator.say({"plan": plan.model_dump(mode="json"), "index": 0, "count": 1, "worker": "alone"})
    deadline = time.monotonic() + 60
    while not any("ready" in line for line in generator.hear()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    generator.say({"begin": time.time()})
    generator.close()  # only closes the streams at first
    assert generator.exit_status == 0
