"""SLO files: the examples, every key, and what is said of a file with a mistake in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from saccade_loadtest.judging import slo
from saccade_loadtest.sending.dialects import DIALECTS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

LIMIT: dict[str, Any] = {"percentile": 99, "limit_ms": 5}
FULL: dict[str, Any] = {
    "name": "full",
    "description": "all keys",
    "confidence": 0.95,
    "latency": [
        {"percentile": 99.9, "limit_ms": 50, "protocol": "each", "failures": "excluded"},
        {"percentile": 99, "limit_ms": 20, "stage": "predictor/queue"},
    ],
    "errors": {"at_most": 0.001, "prove": True},
    "availability": {"at_least": 0.999, "second_fails_over": 0.1, "prove": True},
    "goodput": {"within_ms": 80, "at_least": 0.9, "at_least_per_s": 100, "prove": True},
    "cache": {"hits_at_least": 0.8, "prove": True},
    "agreement": {"at_least": 0.98, "prove": True},
    "growth": {"memory_mib_per_hour": 20, "descriptors_per_hour": 5},
    "generator": {
        "cpu_at_most": 0.7,
        "schedule_error_p99_ms": 3,
        "not_sent_at_most": 0.01,
        "offered_at_least": 0.9,
        "closed_loop": True,
    },
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("slo-*.yaml")), ids=lambda path: path.name)
def test_the_examples_can_be_read(path: Path) -> None:
    assert slo.load(path).latency


def test_the_laptops_objective_is_the_documented_one() -> None:
    found = slo.load(EXAMPLES / "slo-laptop.yaml")
    assert [(limit.percentile, limit.limit_ms) for limit in found.latency] == [(99, 400)]
    assert found.errors == slo.ShareLimit(0.001)


def test_every_key_arrives_where_it_is_judged() -> None:
    found = slo.parse(FULL)
    assert found.latency == (
        slo.LatencyLimit(99.9, 50, protocol="each", failures="excluded"),
        slo.LatencyLimit(99, 20, stage="predictor/queue"),
    )
    assert found.alpha == pytest.approx(0.05)
    assert found.errors == slo.ShareLimit(0.001, prove=True)
    assert found.availability == slo.Availability(slo.ShareLimit(0.999, prove=True), 0.1)
    assert found.goodput == slo.Goodput(80, slo.ShareLimit(0.9, prove=True), 100)
    assert found.cache_hits == slo.ShareLimit(0.8, prove=True)
    assert found.agreement == slo.ShareLimit(0.98, prove=True)
    assert found.growth == slo.Growth(20, 5)
    assert found.generator == slo.GeneratorLimits(0.7, 3, 0.01, 0.9, closed_loop=True, schedule_errors_ms=((99.9, 3),))


def test_the_generator_may_be_late_by_a_tenth_of_the_tightest_limit_that_clients_see() -> None:
    def allowed_ms(**objectives: Any) -> float:
        return slo.parse({"name": "x", **objectives}).generator.schedule_error_p99_ms

    assert allowed_ms(latency=[{"percentile": 99, "limit_ms": 400}, {"percentile": 50, "limit_ms": 100}]) == 10
    assert allowed_ms(latency=[{"percentile": 99, "limit_ms": 400}], goodput={"within_ms": 50, "at_least": 1}) == 5
    assert allowed_ms(latency=[{"percentile": 99, "limit_ms": 5, "stage": "predictor/queue"}]) == 2
    assert allowed_ms(errors={"at_most": 0.1}) == 2


def test_beyond_the_p99_it_may_be_late_by_a_tenth_of_the_limit_at_the_claimed_percentile() -> None:
    def allowed_ms(generator: dict[str, Any], **objectives: Any) -> tuple[tuple[float, float], ...]:
        return slo.parse({"name": "x", "generator": generator, **objectives}).generator.schedule_errors_ms

    latency = [{"percentile": 99, "limit_ms": 100}, {"percentile": 99.9, "limit_ms": 400}]
    assert allowed_ms({}, latency=latency) == ((99.9, 40),)
    assert allowed_ms({"schedule_error_p99_ms": 7}, latency=latency) == ((99.9, 7),)
    assert allowed_ms({}, latency=latency, goodput={"within_ms": 50, "at_least": 0.999}) == ((99.9, 5),)
    assert allowed_ms({}, latency=[{"percentile": 99, "limit_ms": 100}]) == ()
    assert allowed_ms({}, latency=[{"percentile": 99.9, "limit_ms": 5, "stage": "predictor/queue"}]) == ()


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ({"latncy": []}, ["unknown key latncy; did you mean latency?"]),
        ({"errors": {"at_mots": 0.1}}, ["unknown key errors.at_mots; did you mean at_most?", "errors lacks at_most"]),
        ({"errors": {"xyz": 1, "at_most": 0.1}}, ["unknown key errors.xyz; known here: at_most, prove"]),
        (
            {
                "latency": [
                    {"percentile": 99, "limit_ms": 5},
                    {"percentile": 99, "limit_ms": 5, "protocol": "v2binary"},
                ]
            },
            ['latency[1].protocol is "v2binary"; did you mean v2-binary? allowed: all, each, v2-binary'],
        ),
        ({"latency": [{"percentile": 99, "limit": 5}]}, ["did you mean limit_ms?", "latency[0] lacks limit_ms"]),
        ({"latency": [{"percentile": 0.99, "limit_ms": 5}]}, ["latency[0].percentile is 0.99"]),
        ({"latency": [{"percentile": 100, "limit_ms": 5}]}, ["latency[0].percentile is 100"]),
        (
            {"latency": [{"percentile": 99, "limit_ms": "5 ms"}]},
            ['latency[0].limit_ms is "5 ms", and a number is needed'],
        ),
        ({"latency": []}, ["latency is []"]),
        ({"errors": None}, ["errors is empty, and an object is needed"]),
        ({"errors": {"at_most": 1}}, ["errors.at_most is 1"]),
        ({"goodput": {"within_ms": 5}}, ["goodput needs at least one of at_least, at_least_per_s"]),
        ({"confidence": 0.5}, ["confidence is 0.5"]),
        ({"name": ""}, ['name is ""']),
        ({1: 2}, ["unknown key 1; known here: name"]),
        ({"latency": [{**LIMIT, "limit_ms": float("nan")}]}, ["latency[0].limit_ms is no finite number"]),
        ({"latency": [{**LIMIT, "limit_ms": float("inf")}]}, ["latency[0].limit_ms is no finite number"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_would_be_right(
    change: dict[Any, Any], sentences: list[str]
) -> None:
    with pytest.raises(slo.BadSlo) as refused:
        slo.parse({"name": "x", "errors": {"at_most": 0.1}, **change}, where="my.yaml")
    assert str(refused.value).startswith("my.yaml: ")
    for sentence in sentences:
        assert sentence in str(refused.value)


def test_a_file_without_an_objective_is_refused() -> None:
    with pytest.raises(slo.BadSlo, match="needs at least one of agreement, availability, cache, errors"):
        slo.parse({"name": "x"})


@pytest.mark.parametrize("content", ["", "- 1", "just words", "3"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(slo.BadSlo, match="and a mapping"):
        slo.load(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [", "not YAML"),
        (b"\xff\xfe\xfa", "not YAML"),
        (b"#" * 300_000, "300000 bytes"),
        (b"!!python/name:os.system", "not YAML"),
        (b"name: x\nerrors: {at_most: 0.1}\nerrors: {at_most: 0.2}\n", "the key errors stands twice"),
        (b"name: x\nerrors:\n  at_most: 0.1\n  at_most: 0.2\n", "the key at_most stands twice in one mapping, line 3"),
        (b"? [a, b]\n: 1\n", "not YAML|unknown key"),
    ],
    ids=["open bracket", "no UTF-8", "too large", "python object", "key twice", "inner key twice", "key is a list"],
)
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "slo.yaml"
    path.write_bytes(content)
    with pytest.raises(slo.BadSlo, match=expected):
        slo.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(slo.BadSlo, match=r"none\.yaml: No such file"):
        slo.load(tmp_path / "none.yaml")


def test_yaml_and_the_schema_agree_on_the_full_file(tmp_path: Path) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(yaml.safe_dump(FULL), encoding="utf-8")
    assert slo.load(path) == slo.parse(FULL)


def test_the_protocols_that_can_be_named_are_those_that_can_be_sent() -> None:
    schema = json.loads((ROOT / "loadtest/saccade_loadtest/judging/slo.schema.json").read_text(encoding="utf-8"))
    named = schema["properties"]["latency"]["items"]["properties"]["protocol"]["enum"]
    assert set(named) - {"all", "each"} == set(DIALECTS)
