"""Whatever is given to the commands that cannot be: a sentence that names it, and never an exception's name."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from loadtest_support import HEIGHT, WIDTH, invoke, plan_for
from saccade_loadtest.commands.dashboard import Dashboard
from saccade_loadtest.judging import slo
from saccade_loadtest.judging.comparing import compare
from saccade_loadtest.judging.verdict import judge
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.load.loads import TraceLoad
from saccade_loadtest.load.trace import BadTrace, read_text, read_trace
from saccade_loadtest.record import run_file
from saccade_loadtest.reports import comparison_report, tables
from virtual_run import virtual_run

SIZE = ("--size", f"{WIDTH}x{HEIGHT}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--warmup", "29.5", "--duration", "30"), "in whole seconds of the record 30 s, leaves nothing of 30 s"),
        (("--rate", "nan"), "Invalid value for '--rate'"),
        (("--rate", "1e9"), "1,000,000 requests per second and 2,592,000 s (30 days) at most; this one has 1e+09/s"),
        (("--duration", "inf"), "--duration is inf; expected a finite number"),
        (("--duration", "1e12"), "30 days"),
        (("--warmup", "nan"), "Invalid value for '--warmup'"),
        (("--patience", "nan"), "Invalid value for '--patience'"),
        (("--header", "X-Team"), "has no colon; expected NAME: VALUE"),
        (("--header", "Content-Length: 5"), "'Content-Length' is the generator's own"),
        (("--header", "Größe: 5"), "cannot be sent; expected NAME: VALUE in ASCII"),
        (("--header", "X: \x00"), "cannot be sent"),
        (("--metrics", "transformer"), "is not SERVICE=URL"),
        (("--metrics", "=http://h/metrics"), "is not SERVICE=URL"),
        (("--metrics", "transformer=http://["), "is not SERVICE=URL"),
        (("--protocol", "jpeg=nan"), "a mix of protocols needs weights of at least 0"),
        (("--protocol", "v2-grpc", "--grpc", "http://h"), "is no address of a gRPC port; expected host and port"),
        (("--size", "9999x9999"), "pictures.width is 9999: Input should be less than or equal to 4096"),
        (("--closed", "1000000"), "users is 1000000: Input should be less than or equal to 100000"),
        (("--during", "no-such-command --now"), "there is no command 'no-such-command' here"),
        (("--during", "echo 'open"), "cannot be read: No closing quotation"),
        (("--during", "true", "--at", "inf"), "--at is inf; expected seconds"),
        (("--during", "true", "--at", "nan"), "Invalid value for '--at'"),
        (("--cameras", "1", "--closed", "1", "--protocol", "all"), "1 camera cannot speak 4 protocols"),
    ],
)
def test_an_option_that_cannot_be_is_named_before_anything_is_sent(
    url: str, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    begun = time.monotonic()
    status, said = invoke("run", "smoke", "--url", url, "--out", tmp_path / "out", *SIZE, *arguments)
    assert (status, sentence in said) == (2, True), said
    assert "Error:" not in said
    assert time.monotonic() - begun < 20
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "bad", ["localhost:8080", "http://", "http://[", "http://h:99999", "ftp://h", "http://a b/", ""]
)
def test_an_address_that_is_none_is_named(bad: str) -> None:
    status, said = invoke("run", "smoke", "--url", bad)
    assert status == 2
    assert f"{bad!r} is no address of a service; expected one like http://127.0.0.1:8080" in said


@pytest.mark.parametrize("arguments", [("--start", "nan"), ("--trial", "nan"), ("--tolerance", "nan")])
def test_a_search_with_figures_that_are_none_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text("name: x\nerrors: {at_most: 0.1}\n")
    status, said = invoke("capacity", "--url", "http://h", "--slo", path, *arguments)
    assert status == 2
    assert f"Invalid value for '{arguments[0]}'" in said


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"rate_per_replica_per_s": NaN}', "[" * 100_000, "1e999"])
def test_a_capacity_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "capacity.json"
    path.write_text(content)
    status, said = invoke("run", "overload", "--url", "http://h", "--capacity", path)
    assert status == 2
    assert "is no capacity.json" in said or "there is nothing to load it with" in said


BOMB = "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]"] + [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in
                                                          zip("abcdefgh", "bcdefghi", strict=True)])  # fmt: skip


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (BOMB, "the alias *a in line 2 is not read in an SLO"),
        ("a: &a {b: *a}", "the alias *a in line 1 is not read"),
        ("[" * 50_000, "nested far deeper than any SLO"),
        ("name: 2026-99-99", "it is not YAML"),
        ("name: 2026-01-01\nerrors: {at_most: 0.1}", 'name is "2026-01-01", and a string is needed'),
        ("name: x\nlatency: {2026-01-01: 1}", "latency is {datetime.date(2026, 1, 1): 1}, and an array is needed"),
        ("name: x\nlatency: null", "latency is empty, and an array is needed"),
        ("name: x\nlatency: [null]", "latency[0] is empty, and an object is needed"),
        ("name: x\nlatency: [99, 100]", "latency[0] is 99, and an object is needed"),
        ("name: x\nerrors: [0.1]", "errors is [0.1], and an object is needed"),
        ("name: x\nerrors: {at_most: '0.1'}", 'errors.at_most is "0.1", and a number is needed'),
        ("name: x\nerrors: {at_most: -0.1}", "errors.at_most is -0.1"),
        ("name: x\nerrors: {at_most: true}", "errors.at_most is true, and a number is needed"),
        ("name: x\nerrors: {at_most: .nan}", "errors.at_most is no finite number"),
        ("name: x\ngoodput: {within_ms: .inf, at_least: 1}", "goodput.within_ms is no finite number"),
        (f"name: x\ngoodput: {{within_ms: {'9' * 400}, at_least: 1}}", "goodput.within_ms is 999"),
    ],
)
def test_an_slo_file_that_cannot_be_is_named(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(slo.BadSlo) as refused:
        slo.load(path)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "t.csv: it is no text in UTF-8"),
        (b"due_s,camera\n1,\x00\n", "camera '\\x00' is no whole number"),
        (b"", "t.csv, line 1: the header is ''"),
        (b"x" * (64 * 2**20 + 1), "t.csv: over 64 MiB; split it into several runs"),
    ],
    ids=["a picture", "a NUL", "empty", "too large"],
)
def test_a_trace_that_is_something_else_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(BadTrace) as refused:
        read_trace(path)
    assert sentence in str(refused.value)
    status, said = invoke("run", "smoke", "--url", "http://h", "--trace", path)
    assert status == 2
    assert "Error:" not in said


def test_a_trace_of_one_moment_lasts_a_second_and_one_of_excel_has_a_mark_in_front(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfdue_s,camera\r\n0,1\r\n0,2\r\n")
    plan = plan_for("http://h", constant(1, 2), load=TraceLoad(text=read_text(path)))
    assert plan.schedule().offered_per_s == 2.0


def test_more_cameras_or_frames_than_memory_holds_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    status, said = invoke("trace", out, "--cameras", "100", "--fps", "30", "--duration", "86400")
    assert status == 2
    assert "send 259,200,000 frames in 86400 s; a trace has 2,000,000 at most" in said
    status, said = invoke("trace", out, "--cameras", "10000000")
    assert status == 2
    assert "cameras is 1e+07; it must be from 1 to 100000" in said
    assert not out.exists()


def test_a_record_that_is_nested_without_end_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[" * 200_000)
    with pytest.raises(run_file.UnreadableRun, match="not JSON"):
        run_file.load(path)


@pytest.mark.parametrize("name", ["[red]", "[/]", "[/red] :smile:", "[link=http://h]x"])
def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path, name: str) -> None:
    run = virtual_run([10.0] * 2_000, protocol=name)
    run.scenario = name
    run.notes.append(name)
    limits = [{"percentile": 99, "limit_ms": 100, "protocol": "each"}]
    named = slo.parse({"name": name, "latency": limits})
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    console.print(tables.verdict_table(run, judge(run, named), name))
    console.print(comparison_report.to_table(compare(run, run)))
    assert f"{name} against SLO {name}" in shown.getvalue()
    assert f"p99 latency ({name})" in shown.getvalue()
    assert f"p99 ({name})" in shown.getvalue()

    trace = TraceLoad(name=name, text="due_s,camera\n1,1\n")
    dashboard = Dashboard(console, plan_for("http://h", constant(1, 2), load=trace), named)
    dashboard.beat(10.0, {})
    console.print(dashboard.table(0.5))
    assert f"0 of 1 s, {name}" in shown.getvalue()

    record, objective = tmp_path / "run.json", tmp_path / "slo.yaml"
    run_file.save(run, record)
    objective.write_text(json.dumps({"name": name, "latency": limits}))
    status, said = invoke("judge", record, "--slo", objective)
    assert status == 0
    assert name in said
