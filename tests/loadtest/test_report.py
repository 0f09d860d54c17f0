"""What a verdict leaves behind: the HTML report, looked at in a real browser; JSON; JUnit XML; and the commands."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest
from PIL import Image

from saccade_loadtest.judging import slo
from saccade_loadtest.judging.verdict import judge
from saccade_loadtest.record import run_file
from saccade_loadtest.record.results import Run
from saccade_loadtest.reports import outputs, svg, verdict_files
from saccade_loadtest.reports.report import to_html
from tools import missing
from virtual_run import eventful_run, virtual_run

ROOT = Path(__file__).resolve().parents[2]
LAPTOP = ROOT / "examples" / "slo-laptop.yaml"
SLO = slo.load(LAPTOP)
VOID: Final = {"meta"}


class Page(HTMLParser):
    """Checks that every element is closed where it belongs; keeps texts and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(run: Run) -> str:
    return to_html(run, SLO, judge(run, SLO))


def test_the_report_is_one_sound_page_that_loads_nothing() -> None:
    html = report(eventful_run())
    page = Page(html)
    loading = {"src", "href", "srcset", "data", "action", "xlink:href"}
    assert [item for item in page.attributes if item[1] in loading] == []
    assert not re.search(r"url\(|@import|<script|https?://(?!127\.0\.0\.1:8080)", html)
    assert "default-src 'none'" in html
    numbers = [value for _, name, value in page.attributes if name == "id"]
    assert len(numbers) == len(set(numbers))


def test_the_report_shows_what_the_run_was_and_came_to() -> None:
    text = Page(report(eventful_run())).text
    for words in (
        "FAIL: an objective is not met",
        "the p99 is over 400 ms",
        "Not the nominal load.",
        "1,000 requests/s within 100 ms",
        "cameras, open loop",
        "example pair, cache bypassed",
        "5 fps: not even one camera",
        "predictor/queue",
        "Versions that answered",
        "Frame cache",
        "overloaded",
        "a <fast> one",
        "spike",
        "How to read this",
    ):
        assert words in text, words


def test_what_others_name_stays_text() -> None:
    html = report(eventful_run())
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<b>odd</b>" not in html


def test_every_figure_has_a_title_a_description_and_finite_coordinates() -> None:
    html = report(eventful_run())
    figures = re.findall(r"<svg viewBox.*?</svg>", html, re.DOTALL)
    assert len(figures) >= 8
    for figure in figures:
        assert re.search(
            r'role="img" aria-labelledby="(\S+) (\S+)"><title id="\1">[^<]+</title><desc id="\2">[^<]+<', figure
        )
        assert not re.search(r"nan|inf", figure.lower().partition("</desc>")[2])
        # Nothing is drawn out of the view.
        for x, y in re.findall(r"([\d.]+),([\d.]+)[ \"]", figure):
            assert 0 <= float(x) <= svg.WIDTH
            assert 0 <= float(y) <= 1_000


@pytest.mark.parametrize(
    "run",
    [
        virtual_run([10.0]),
        virtual_run([10.0], failures={0: "timeout"}),
        virtual_run([10.0] * 101, warmup_s=1),
        virtual_run([0.0001] * 100),
        virtual_run([599_999.0] * 100),
        virtual_run([10.0] * 5_000, per_s=1),
    ],
    ids=["one request", "one failure", "nearly all warm-up", "very fast", "very slow", "long"],
)
def test_a_run_with_little_in_it_has_a_report_too(run: Run) -> None:
    assert "measured" in Page(report(run)).text


def test_a_run_without_any_request_has_a_report_that_says_so() -> None:
    run = virtual_run([10.0])
    run.series.clear()
    assert "INVALID: this run cannot tell" in Page(report(run)).text


def test_percentiles_that_so_few_requests_do_not_have_are_left_out_and_no_failures_are_not_drawn() -> None:
    text = Page(report(virtual_run([10.0] * 485, per_s=5))).text
    assert "jpeg from due 485 485 10.0 ms 10.0 ms 10.0 ms - - 10.0 ms" in text
    assert "Nothing failed." in text
    assert "failures per second" not in text
    assert "failures per second" in Page(report(eventful_run())).text


def test_a_closed_loop_is_labelled() -> None:
    run = virtual_run([10.0] * 5_000)
    run.loop = "closed"
    assert "Closed loop." in Page(report(run)).text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def photograph(page: Path, image: Path, scheme: int) -> Image.Image:
    """A picture of a page in a real browser without a screen; ``scheme`` 0 is dark, 1 light."""
    if CHROMIUM is None:
        missing("no Chromium: apt-get install chromium")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1080,2600"]
    command += [f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={image.parent / 'profile'}"]
    command += [f"--screenshot={image}", page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert image.exists(), ended.stderr
    return Image.open(image).convert("RGB")


def test_a_browser_draws_the_report_in_light_and_in_dark(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report(eventful_run()), encoding="utf-8")
    style = (ROOT / "loadtest/saccade_loadtest/reports/report.css").read_text(encoding="utf-8")
    light_style, _, dark_style = style.partition("prefers-color-scheme: dark")
    for scheme, wanted in ((1, light_style), (0, dark_style)):
        picture = photograph(page, tmp_path / f"{scheme}.png", scheme)
        assert picture.size == (1080, 2600)
        seen = {color for _, color in picture.getcolors(maxcolors=2**24) or []}
        for name in ("--page", "--card", "--ink", "--s0", "--s1", "--fail-back"):
            found = re.search(rf"{name}: #(......)", wanted)
            assert found is not None
            assert tuple(bytes.fromhex(found[1])) in seen, f"{name} is not in the picture"


def luminance(color: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [part / 255 for part in bytes.fromhex(color)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_what_is_behind_them(scheme: str) -> None:
    style = (ROOT / "loadtest/saccade_loadtest/reports/report.css").read_text(encoding="utf-8")
    light, _, dark = style.partition("prefers-color-scheme: dark")
    colors = dict(re.findall(r"--(\S+): #([0-9a-f]{6});", light if scheme == "light" else dark))
    texts = [(name, back) for name in ("ink", "soft", "limit") for back in ("page", "card")]
    texts += [(name, back) for name in ("pass", "fail", "invalid") for back in (f"{name}-back", "card")]
    lines = [(f"s{number}", "card") for number in range(5)]
    for (front, back), least in [*((pair, 4.5) for pair in texts), *((pair, 3.0) for pair in lines)]:
        bright, dim = sorted((luminance(colors[front]), luminance(colors[back])), reverse=True)
        contrast = (bright + 0.05) / (dim + 0.05)
        assert contrast >= least, f"{front} on {back}: {contrast:.1f}, WCAG asks for {least}"


#: The shape of JUnit XML as CI servers read it (Jenkins' xunit schema): attributes and children of each element.
JUNIT: Final[dict[str, tuple[set[str], set[str]]]] = {
    "testsuites": ({"name", "tests", "failures", "errors", "time", "disabled"}, {"testsuite"}),
    "testsuite": (
        {
            "name",
            "tests",
            "failures",
            "errors",
            "time",
            "disabled",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
        },
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname", "time", "assertions", "status"}, {"skipped", "error", "failure", "system-out"}),
    "failure": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "system-out": (set(), set()),
}


def check_shape(element: ElementTree.Element) -> None:
    attributes, children = JUNIT[element.tag]
    assert set(element.attrib) <= attributes, element.tag
    for child in element:
        assert child.tag in children, f"{child.tag} in {element.tag}"
        check_shape(child)


def junit(run: Run, objectives: slo.Slo = SLO) -> ElementTree.Element:
    text = verdict_files.to_junit(run, objectives, judge(run, objectives))
    found = ElementTree.fromstring(text)
    check_shape(found)
    return found


def test_junit_has_a_case_for_each_objective_and_each_check() -> None:
    passed = junit(virtual_run([10.0] * 5_000))
    assert (passed.get("failures"), passed.get("errors")) == ("0", "0")
    names = [case.get("name") for case in passed.iter("testcase")]
    assert passed.get("tests") == str(len(names))
    assert {"p99 latency", "errors", "schedule error", "generator CPU"} <= set(names)


def test_in_junit_a_fail_is_a_failure_and_what_cannot_be_told_an_error() -> None:
    failed = junit(virtual_run([900.0] * 5_000))
    assert (failed.get("failures"), failed.get("errors")) == ("1", "0")
    [failure] = failed.iter("failure")
    assert "the p99 is over 400 ms" in failure.attrib["message"]
    short = junit(virtual_run([10.0] * 100))
    assert (short.get("failures"), short.get("errors")) == ("0", "1")
    late = virtual_run([10.0] * 5_000)
    late.workers[0].cpu_s = late.workers[0].wall_s
    broken = junit(late)
    [error] = broken.iter("error")
    assert "used 100% of its CPU" in error.attrib["message"]


def test_junit_can_be_read_whatever_was_named() -> None:
    run = virtual_run([10.0] * 5_000)
    run.scenario = 'odd \x00 \x1b[31m <&"> \ud800 name'
    run.faults.append("fault \x08 & more")
    assert "odd" in junit(run)[0].attrib["name"]


def test_the_verdict_as_json_holds_the_figures(tmp_path: Path) -> None:
    run = eventful_run()
    verdict = outputs.write(run, SLO, tmp_path / "out")
    found = json.loads((tmp_path / "out" / outputs.VERDICT).read_text(encoding="utf-8"))
    assert (found["verdict"], found["exit_code"]) == ("fail", 1) == (verdict.outcome, verdict.exit_code)
    assert found["load"]["nominal_per_s"] == 1000
    assert found["load"]["offered_per_s"] == pytest.approx(run.measured().due / 26)
    assert found["objectives"][0]["objective"] == "p99 latency"
    assert found["protocols"]["jpeg"]["answered"] == run.measured("jpeg").answered
    assert set(found["protocols"]["jpeg"]["revisions"]) == {"1", "2"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        outputs.RUN,
        outputs.VERDICT,
        outputs.JUNIT,
        outputs.REPORT,
    }


def test_a_percentile_that_failures_take_up_is_null_in_json() -> None:
    run = virtual_run([10.0] * 1_000, failures=dict.fromkeys(range(100), "timeout"))
    [latency, _errors] = json.loads(verdict_files.to_json(run, SLO, judge(run, SLO)))["objectives"]
    assert (latency["measured"], latency["outcome"]) == (None, "fail")


def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """``saccade-loadtest`` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "saccade_loadtest", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PYTHONPATH": str(ROOT / "loadtest"), "PYTHONSAFEPATH": "1", "COLUMNS": "80"},
    )


@pytest.mark.parametrize(
    ("latencies", "code", "word"),
    [([10.0] * 5_000, 0, "PASS"), ([900.0] * 5_000, 1, "FAIL"), ([10.0] * 100, 2, "INVALID")],
    ids=["pass", "fail", "invalid"],
)
def test_the_command_judge_ends_with_the_verdicts_code(
    tmp_path: Path, latencies: list[float], code: int, word: str
) -> None:
    run_file.save(virtual_run(latencies), tmp_path / "run.json")
    ended = command("judge", tmp_path / "run.json", "--slo", LAPTOP, "--out", tmp_path / "out")
    assert ended.returncode == code, ended.stderr
    assert f"verdict: {word}" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert json.loads((tmp_path / "out/verdict.json").read_text(encoding="utf-8"))["exit_code"] == code


def test_a_record_judged_again_from_its_file_gives_the_same_verdict(tmp_path: Path) -> None:
    run = eventful_run()
    first = outputs.write(run, SLO, tmp_path)
    again = judge(run_file.load(tmp_path / outputs.RUN), SLO)
    assert again.reasons == first.reasons
    assert [found.measured for found in again.findings] == [found.measured for found in first.findings]


def test_the_commands_refuse_bad_files_with_a_sentence_and_2(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    run_file.save(virtual_run([10.0] * 500), record)
    typo = tmp_path / "slo.yaml"
    typo.write_text("name: x\nlatncy: []\n", encoding="utf-8")
    for arguments, words in (
        (("judge", record, "--slo", typo), "did you mean latency?"),
        (("judge", tmp_path / "none.json", "--slo", LAPTOP), "No such file"),
        (("report", LAPTOP, "--slo", LAPTOP), "not JSON"),
        (("compare", record, tmp_path / "none.json"), "No such file"),
        (("report", record, "--slo", LAPTOP, "--out", tmp_path / "no/such/folder.html"), "No such file"),
    ):
        ended = command(*arguments)
        assert ended.returncode == 2, arguments
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr


def test_the_commands_report_and_compare_write_their_pages(tmp_path: Path) -> None:
    run_file.save(virtual_run([10.0] * 3_000), tmp_path / "a.json")
    run_file.save(virtual_run([15.0] * 3_000), tmp_path / "b.json")
    assert command("report", tmp_path / "a.json", "--slo", LAPTOP, "--out", tmp_path / "a.html").returncode == 0
    Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    pages = ("--html", tmp_path / "c.html", "--json", tmp_path / "c.json")
    ended = command("compare", tmp_path / "a.json", tmp_path / "b.json", *pages)
    assert ended.returncode == 1, ended.stderr
    assert "B is worse than A" in ended.stdout
    assert "B is worse than A" in Page((tmp_path / "c.html").read_text(encoding="utf-8")).text
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["change"] == "worse"
    assert command("compare", tmp_path / "b.json", tmp_path / "a.json").returncode == 0


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.0011), (1, 1), (3, 700), (0.02, 600_000), (99.9, 100)])
def test_a_logarithmic_axis_holds_what_it_shows_and_has_labels(low: float, high: float) -> None:
    scale = svg.logarithmic(low, high, str)
    assert scale.low <= low * (1 + 1e-9)
    assert scale.high >= high * (1 - 1e-9)
    assert 2 <= len(scale.ticks) <= 12
    places = [scale.place(value) for value, _ in scale.ticks]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)


@pytest.mark.parametrize("high", [0.0, 0.003, 1.0, 7.3, 99.0, 12_345.0])
def test_an_even_axis_from_zero_ends_at_a_round_value(high: float) -> None:
    scale = svg.up_to(high, lambda value: f"{value:g}")
    assert scale.high >= high
    assert scale.ticks[0][0] == 0
    assert math.isclose(scale.ticks[-1][0], scale.high)
    assert 2 <= len(scale.ticks) <= 8


def test_on_the_tails_axis_every_nine_takes_the_same_room() -> None:
    scale = svg.tail(1 - 1e-5)
    steps = [scale.place(1 - 10.0**-count) for count in range(1, 6)]
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))
    assert [label for _, label in scale.ticks][-3:] == ["p99.9", "p99.99", "p99.999"]
