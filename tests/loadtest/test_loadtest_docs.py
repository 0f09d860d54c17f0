"""docs/loadtest.md says what the code does: the keys of an SLO file, the samples it asks for, the example."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from saccade_loadtest.judging import confidence, slo
from saccade_loadtest.judging.verdict import EXIT_CODES

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "loadtest.md").read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "loadtest/saccade_loadtest/judging/slo.schema.json").read_text(encoding="utf-8"))


def section(heading: str) -> str:
    """The text under a heading."""
    return TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("percent", [90.0, 95.0, 99.0, 99.9, 99.99])
def test_the_samples_in_the_table_are_those_that_the_code_asks_for(percent: float) -> None:
    allowed = round(1 - percent / 100, 10)
    half, twice = (confidence.sample_to_decide(allowed, share, 0.01) for share in (allowed / 2, allowed * 2))
    row = f"| p{percent:g} | {confidence.minimum_sample(percent, 0.01):,} | {half:,} | {twice:,} |"
    assert row in section("How long")


def test_every_key_of_an_slo_file_is_documented() -> None:
    text = section("Verdicts")
    for key, value in SCHEMA["properties"].items():
        [row] = [line for line in text.splitlines() if line.startswith("|") and f"`{key}`" in line.split("|")[1]]
        inner = value.get("items", value).get("properties", {})
        for name in inner:
            assert name == "prove" or f"`{name}`" in row, f"{name} in {key}"
    assert "`prove: true`" in text


def test_the_documented_slo_can_be_read_and_is_the_seeds_example() -> None:
    found = re.search(r"```yaml\n(.*?)```", section("Verdicts"), re.DOTALL)
    assert found is not None
    documented = slo.parse(yaml.safe_load(found[1]))
    example = slo.load(ROOT / "examples" / "slo-seeds.yaml")
    assert documented.latency == example.latency
    assert documented.errors == example.errors
    assert documented.availability == example.availability
    assert documented.goodput == example.goodput


def test_the_documented_exit_codes_and_limits_are_the_codes() -> None:
    text = section("Verdicts")
    for outcome, code in EXIT_CODES.items():
        assert f"| {outcome} | {code} |" in text
    limits = slo.GeneratorLimits()
    for name, value in (
        ("cpu_at_most", limits.cpu_at_most),
        ("not_sent_at_most", limits.not_sent_at_most),
        ("offered_at_least", limits.offered_at_least),
    ):
        assert f"`{name}` ({value:g})" in text


def test_what_so_few_requests_show_is_right() -> None:
    _, high = confidence.share_bounds(0, 600, 0.01)
    assert f'0 of 600 shows no more than "at most {high:.2%}"'.replace("%", " %") in section("How long")
    assert f"0.1 % takes {confidence.minimum_sample(99.9, 0.01):,} requests" in section("How long")
