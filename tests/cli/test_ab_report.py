"""``saccade ab-report``: what it counts, what it leaves out, what it warns of, and what it says in words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from saccade_cli.__main__ import app
from saccade_cli.ab_report import Report, make_report
from saccade_cli.experiment import Request, UnreadableInput, experiment_of, join, read_log, read_outcomes


def line(**changes: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-27T10:15:02.123Z",
        "request_id": "r",
        "variant": "stable",
        "fallback": False,
        "chosen": False,
        "key": "0123456789abcdef",
        "share": 0.5,
        "latency_ms": 40.0,
        "code": "200",
        "items": 3,
        **changes,
    }


def at(minute: int) -> str:
    return f"2026-11-27T11:{minute:02}:00.000Z"


def text(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def traffic(
    cameras: int = 80,
    frames: int = 30,
    share: float = 0.5,
    slower_ms: float = 0.0,
    seed: int = 1,
    candidates: float | None = None,
    **changes: Any,
) -> list[dict[str, Any]]:
    """A record of some cameras, of which the candidate has its share, or another one."""
    generator = np.random.default_rng(seed)
    taken = round(cameras * (share if candidates is None else candidates))
    found = []
    for camera in range(cameras):
        variant = "candidate" if camera < taken else "stable"
        level = generator.normal(40, 2) + slower_ms * (variant == "candidate")
        found += [
            line(
                request_id=f"{camera}-{frame}",
                variant=variant,
                key=f"{camera:016x}",
                share=share,
                latency_ms=level + generator.gamma(2, 2),
                items=int(generator.poisson(3)),
                **changes,
            )
            for frame in range(frames)
        ]
    generator.shuffle(found)
    return found


def requests(lines: Iterable[dict[str, Any]]) -> list[Request]:
    return read_log(text(lines).splitlines(keepends=True))


def report(lines: Iterable[dict[str, Any]], outcomes: list[str] | None = None) -> Report:
    everything = requests(lines)
    experiment = experiment_of(everything, "candidate")
    joined = None if outcomes is None else join(read_outcomes(outcomes), experiment, everything)
    return make_report(experiment, joined)


def measure(found: Report, name: str) -> str:
    [one] = [measure.sentence for measure in found.measures if measure.name == name]
    return one


# Reading.


def test_a_line_is_read_and_the_codes_say_whose_fault_it_was() -> None:
    codes = {"200": "answered", "OK": "answered", "502": "error", "UNAVAILABLE": "error", "499": "left", "400": ""}
    for code, kind in codes.items():
        [one] = requests([line(code=code)])
        kinds = {"answered": one.is_answered, "error": one.is_error, "left": one.has_left}
        assert [name for name, holds in kinds.items() if holds] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{\n", "line 1 of the log is not JSON"),
        (b"[]\n", "line 1 of the log is no line of ab_log.*'time' is missing"),
        (text([line(), line(latency_ms="slow")]), "line 2 of the log .* 'latency_ms' is missing or of another kind"),
        (text([line(items=True)]), "'items' is missing or of another kind"),
        (text([line(time="noon")]), "line 1 of the log has the time 'noon'; expected one as 2026"),
        (text([line(salt=1)]), "'salt' is missing or of another kind"),
        (text([line(), line(latency_ms=-1)]), "line 2 of the log has latency_ms -1; expected a number of 0 to 1e.15"),
        (text([line(latency_ms=1e308)]), "line 1 of the log has latency_ms 1e.308"),
        (text([line(items=-1)]), "line 1 of the log has items -1"),
        (text([line(share=1.5)]), "line 1 of the log has share 1.5; expected a number of 0 to 1$"),
        (text([line(fallback=1)]), "'fallback' is missing or of another kind"),
    ],
)
def test_a_line_that_is_none_is_named_with_what_is_expected(content: bytes, sentence: str) -> None:
    with pytest.raises(UnreadableInput, match=sentence):
        read_log(content.splitlines(keepends=True))


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    assert len(read_log((text([line(), line()]) + b'{"time":').splitlines(keepends=True))) == 2


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "the outcomes has the columns none; expected request_id, value"),
        (["id,value\n", "1,2\n"], "has the columns id, value; expected request_id"),
    ],
)
def test_outcomes_that_are_none_are_named_with_what_is_expected(rows: list[str], sentence: str) -> None:
    with pytest.raises(UnreadableInput, match=sentence):
        read_outcomes(rows)


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ("b,good", "line 3 has request_id 'b' and value 'good'"),
        ("b,nan", "line 3 has request_id 'b' and value 'nan'"),
        ("b,-1e308", "line 3 has request_id 'b' and value '-1e308'"),
        ("b,inf", "line 3 has request_id 'b' and value 'inf'"),
        ("b", "line 3 has request_id 'b' and value ''"),
        (",1", "line 3 has request_id '' and value '1'"),
    ],
)
def test_a_line_without_id_or_number_is_counted_and_the_first_is_the_example(row: str, example: str) -> None:
    found = read_outcomes(["request_id,value\n", "a,1\n", f"{row}\n", "c,2\n", "d,bad\n"])
    assert [one.value for one in found.values] == [1, 2]
    assert (found.unreadable.count, found.unreadable.example) == (2, example)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "variants: none; expected two, one of them 'candidate'"),
        ([line()], "variants: stable; expected two"),
        ([line(), line(variant="blue")], "variants: blue, stable; expected two"),
        ([line(), line(variant="blue"), line(variant="candidate")], "blue, candidate, stable"),
    ],
)
def test_a_log_that_does_not_hold_two_variants_is_refused(lines: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(UnreadableInput, match=sentence):
        experiment_of(requests(lines), "candidate")


def test_a_candidate_that_never_answered_is_there_by_what_fell_back() -> None:
    found = report([*traffic(candidates=0), *[line(fallback=True, key=f"f{i}") for i in range(40)]])
    assert (found.candidate.requests, found.candidate.fallbacks) == (40, 40)
    assert [one.name for one in found.measures] == ["failed"]
    assert measure(found, "failed") == "failed: all of stable's are 0 %, all of the candidate's 100 %."
    assert any("Stable answered 40 of the candidate's 40 requests" in warning for warning in found.warnings)


# What counts.


def test_what_chose_its_variant_and_what_was_split_otherwise_is_left_out() -> None:
    lines = [*traffic(share=0.1, seed=2, time=at(1)), *traffic(time=at(2)), *[line(chosen=True)] * 7]
    found = report(lines)
    assert found.stable.requests + found.candidate.requests == 80 * 30
    assert "Left out: 7 requests that chose their variant themselves." in found.notes
    assert f"Left out: {80 * 30} requests from before the last change of the share or the salt." in found.notes


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_what_counts_is_since_the_last_change_whatever_the_order_of_the_files(order: tuple[int, ...]) -> None:
    phases = [traffic(frames=n, share=share, time=at(n)) for n, share in ((1, 0.1), (2, 0.5), (3, 0.1))]
    found = report(one for i in order for one in phases[i])
    assert found.share == 0.1
    assert found.stable.requests + found.candidate.requests == 80 * 3
    assert f"Left out: {80 * 3} requests from before the last change of the share or the salt." in found.notes


def test_another_salt_at_the_same_share_is_another_experiment() -> None:
    changes: list[tuple[dict[str, Any], dict[str, Any]]]
    changes = [({}, {"salt": "0a"}), ({"salt": "0a"}, {"salt": "0b"})]
    for first, second in changes:
        found = report([*traffic(time=at(1), **first), *traffic(frames=4, time=at(2), **second)])
        assert found.stable.requests + found.candidate.requests == 80 * 4


def test_requests_are_counted_by_whom_the_split_gave_them_to() -> None:
    lines = [
        *traffic(cameras=10, frames=2),
        line(variant="candidate", key="", code="503"),
        line(variant="candidate", key="", code="400"),
        line(variant="candidate", key="", code="499"),
        line(fallback=True, key=f"{0:016x}"),
    ]
    arm = report(lines).candidate
    assert (arm.requests, arm.keys, arm.without_key) == (14, 5, 3)
    assert (arm.errors, arm.fallbacks, arm.invalid, arm.left) == (1, 1, 1, 1)


def test_what_stable_answered_for_the_candidate_is_in_nobodys_latency() -> None:
    slow = [line(fallback=True, latency_ms=10_000.0, key=f"{i:016x}") for i in range(40)]
    found = report([*traffic(), *slow])
    p99 = next(one for one in found.measures if one.name == "latency p99")
    assert p99.stable_count == p99.candidate_count == 40 * 30
    assert max(p99.compared.stable.value, p99.compared.candidate.value) < 100


# What it says.


def test_two_variants_that_are_alike_are_called_so_with_what_would_have_been_seen() -> None:
    found = report(traffic())
    assert found.warnings == []
    assert measure(found, "latency p50").startswith("latency p50: no difference seen; would have seen one of about 1")
    assert measure(found, "failed") == "failed: nothing can be said, since all are 0 %."
    assert found.verdict == [one.sentence for one in found.measures]


def test_a_candidate_that_is_slower_is_called_slower_by_how_much() -> None:
    found = report(traffic(slower_ms=6))
    sentence = measure(found, "latency p50")
    assert sentence.startswith("latency p50: the candidate's is higher by ")
    assert sentence.endswith("which is worse.")
    [p50] = [one.compared.difference for one in found.measures if one.name == "latency p50"]
    assert p50.low is not None
    assert p50.high is not None
    assert p50.low < 6 < p50.high


def test_a_split_that_is_not_the_configured_one_is_warned_of_first() -> None:
    found = report(traffic(cameras=200, frames=5, candidates=0.3))
    assert found.split_p is not None
    assert found.split_p < 0.001
    assert found.warnings[0].startswith("The split is not the one that was configured: the candidate had 30.00%")


def test_few_cameras_are_warned_of_and_very_few_are_not_judged() -> None:
    assert "A variant has 8 cameras" in report(traffic(cameras=80, share=0.1)).warnings[0]
    found = report(traffic(cameras=20, frames=100, share=0.1))
    assert measure(found, "latency p50") == (
        "latency p50: nothing can be said, since a variant has 2 cameras or users, and 5 is the least."
    )


def test_without_keys_each_request_stands_for_itself_and_the_report_says_so() -> None:
    found = report({**one, "key": ""} for one in traffic())
    assert found.stable.keys == found.candidate.keys == 0
    assert found.notes[0].startswith("No request names a camera or user")
    assert measure(found, "latency p50")


# Outcomes.


def outcomes_of(lines: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], name: str = "") -> list[str]:
    head = "request_id,value,name\n" if name else "request_id,value\n"
    return [head, *(f"{one['request_id']},{value(one)}{',' + name if name else ''}\n" for one in lines)]


def test_outcomes_are_joined_by_request_and_compared() -> None:
    lines = traffic()
    generator = np.random.default_rng(5)
    rows = outcomes_of(lines, lambda one: generator.binomial(1, 0.7 if one["variant"] == "candidate" else 0.5))
    found = report(lines, rows)
    assert measure(found, "outcome").startswith("outcome: the candidate's is higher by 0.")
    assert "which is" not in measure(found, "outcome"), "whether more is better is not ours to know"


@pytest.mark.parametrize("size", [1e15, 1e-200])
def test_outcomes_of_any_size_are_compared_in_numbers(size: float) -> None:
    lines = traffic(cameras=20)
    values = (value for _ in lines for value in (size, -size))
    found = report(lines, outcomes_of(lines, lambda _: next(values)))
    [one] = [measure for measure in found.measures if measure.name == "outcome"]
    numbers = (one.compared.difference.value, one.compared.difference.low, one.compared.difference.high)
    assert all(math.isfinite(number) for number in numbers if number is not None)


def test_outcomes_that_cannot_be_joined_are_counted() -> None:
    lines = [
        *traffic(),
        line(request_id="twice"),
        line(request_id="twice"),
        line(request_id="fell", fallback=True),
        line(request_id="chose", chosen=True),
        line(request_id="failed", code="502"),
    ]
    rows = ["request_id,value,name\n", "0-0,1,confirmed\n", "nobody,1,confirmed\n"]
    rows += [f"{name},1,confirmed\n" for name in ("twice", "fell", "chose", "failed")]
    rows += ["0-1,yes,confirmed\n"]
    found = report(lines, rows)
    assert found.notes[-1] == (
        "Outcomes: 1 counted; 1 unreadable, 1 of unknown requests, 3 of requests that are left out, fell back or "
        "failed, 1 of ids that are not unique."
    )
    assert found.warnings == [
        "1 of 7 outcomes cannot be used: expected an id and a finite number of at most 1e+15, and line 8 has "
        "request_id '0-1' and value 'yes'.",
        "1 of 7 outcomes cannot be used: the log has no request of their id, such as 'nobody'.",
        "1 of 7 outcomes cannot be used: several requests have their id, such as 'twice'.",
        "Outcome 'confirmed' is not compared: all of its 1 values are candidate's.",
        "No outcome could be compared: of 7 given, 1 belong to an answer.",
    ]
    assert not found.has_compared
    assert "confirmed" not in [one.name for one in found.measures], "only one variant has any"


def test_outcomes_of_requests_that_are_left_out_are_warned_of_where_no_other_is_there() -> None:
    found = report([*traffic(), line(request_id="fell", fallback=True)], ["request_id,value\n", "fell,1\n"])
    assert "1 of 1 outcomes cannot be used: their requests are left out, fell back or failed, such as 'fell'." in (
        found.warnings
    )
    lines = [*traffic(), line(request_id="fell", fallback=True)]
    rows = [*outcomes_of(traffic(), lambda one: one["items"]), "fell,1\n"]
    assert report(lines, rows).warnings == [], "that some requests fall back is no fault of the outcomes"


def test_each_outcome_is_a_measure_of_its_own() -> None:
    lines = traffic()
    rows = (
        outcomes_of(lines, lambda one: 1.0 + one["items"], "b") + outcomes_of(lines, lambda one: one["items"], "a")[1:]
    )
    assert [one.name for one in report(lines, rows).measures][-2:] == ["a", "b"]


# The command.


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["ab-report", *(str(argument) for argument in arguments)])


def test_the_command_shows_tables_and_sentences_and_writes_json(tmp_path: Path) -> None:
    lines = traffic()
    first, second = tmp_path / "ab.jsonl.1", tmp_path / "ab.jsonl"
    first.write_bytes(text(lines[:1000]))
    second.write_bytes(text(lines[1000:]))
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text("\ufeff" + "".join(outcomes_of(lines, lambda one: one["items"], "confirmed")))
    written = tmp_path / "report.json"
    result = run("--log", first, "--log", second, "--outcomes", outcomes, "--json", written)
    assert result.exit_code == 0, result.output
    shown = result.output
    for expected in ("Requests", "latency p99 (ms)", "confirmed", "Verdict", "no difference seen", "Notes", "50.00%"):
        assert expected in shown
    content = json.loads(written.read_text())
    assert content["stable"]["requests"] + content["candidate"]["requests"] == len(lines)
    assert content["share"] == 0.5
    assert {one["name"] for one in content["measures"]} == {
        "failed",
        "latency p50",
        "latency p90",
        "latency p99",
        "items in an answer",
        "confirmed",
    }
    assert set(content["measures"][1]["compared"]["difference"]) == {"value", "low", "high", "detectable"}


@pytest.mark.parametrize(
    ("value", "request_id", "code", "sentence"),
    [
        ("{}", "{}", 0, None),
        ("yes", "{}", 1, "2400 of 2400 outcomes cannot be used: expected an id and a finite number"),
        ("{}", "x{}", 1, "2400 of 2400 outcomes cannot be used: the log has no request of their id, such as 'x"),
        ("", "", 1, "No outcome could be compared: of 0 given, 0 belong to an answer."),
    ],
)
def test_outcomes_of_which_none_can_be_used_end_the_command_with_1_and_the_rest_is_shown(
    tmp_path: Path, value: str, request_id: str, code: int, sentence: str | None
) -> None:
    log, outcomes, written = tmp_path / "ab", tmp_path / "outcomes.csv", tmp_path / "report.json"
    lines = traffic()
    log.write_bytes(text(lines))
    rows = [f"{request_id.format(one['request_id'])},{value.format(one['items'])}\n" for one in lines if value]
    outcomes.write_text("request_id,value\n" + "".join(rows))
    result = run("--log", log, "--outcomes", outcomes, "--json", written)
    assert result.exit_code == code, result.output
    assert "latency p99 (ms)" in result.output
    assert ("warning:" in result.output) is (sentence is not None)
    assert (sentence or "") in result.output
    counts = json.loads(written.read_text())["outcomes"]
    assert counts["given"] == len(rows)
    assert counts["counted"] == (len(rows) if code == 0 else 0)
    assert counts["compared"] == ([] if code else ["outcome"])


def test_a_log_without_any_answer_ends_the_command_with_1(tmp_path: Path) -> None:
    log = tmp_path / "ab"
    log.write_bytes(text({**one, "code": "400"} for one in traffic(cameras=20)))
    assert run("--log", log).exit_code == 1


def test_names_with_brackets_do_not_confuse_the_terminal(tmp_path: Path) -> None:
    log, outcomes = tmp_path / "ab", tmp_path / "outcomes.csv"
    lines = traffic(cameras=20)
    log.write_bytes(text(lines))
    outcomes.write_text("".join(outcomes_of(lines, lambda one: one["items"], "[/red]x")))
    result = run("--log", log, "--outcomes", outcomes)
    assert result.exit_code == 0, result.output
    assert "[/red]x" in result.output


def test_names_do_not_reach_the_terminal_as_commands(tmp_path: Path) -> None:
    log, outcomes = tmp_path / "ab", tmp_path / "outcomes.csv"
    lines = traffic(cameras=20)
    log.write_bytes(text({**one, "variant": one["variant"].replace("stable", "s\x1b[2J")} for one in lines))
    outcomes.write_text("".join(outcomes_of(lines, lambda one: one["items"], "\x1b]0;owned\x07")))
    result = run("--log", log, "--outcomes", outcomes)
    assert result.exit_code == 0, result.output
    assert "\N{REPLACEMENT CHARACTER}]0;owned" in result.output
    assert not set(result.output) & set("\x1b\x07")
    refused = run("--log", log, "--candidate", "other")
    assert refused.exit_code == 1
    assert "\x1b" not in refused.output


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"what\n", "line 1 of .* is not JSON"),
        (text([line()]), "these variants: stable; expected two"),
        (None, "No such"),
    ],
)
def test_the_command_fails_in_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    log = tmp_path / "ab"
    if content is not None:
        log.write_bytes(content)
    result = run("--log", log)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert re.search(sentence, " ".join(result.stderr.split()))
