"""A service level objective, read from YAML and checked; an unknown key is answered with the nearest known one.

The rules are in ``slo.schema.json`` (for editors, too); here they become dataclasses with the defaults. Judges
nothing.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import jsonschema
import yaml

_SCHEMA: Final = Path(__file__).with_name("slo.schema.json")
_LARGEST_FILE: Final = 256 * 1024
#: The nominal schedule error limit is this share of the tightest latency limit, and never under ``_LEAST_ERROR_MS``.
_ERROR_SHARE: Final = 0.1
_LEAST_ERROR_MS: Final = 2.0


class BadSlo(ValueError):
    """An SLO file that cannot be used; one sentence for each thing that is wrong."""

    def __init__(self, where: str, faults: list[str]) -> None:
        self.faults = faults
        super().__init__(f"{where}: " + "; ".join(faults))


@dataclass(frozen=True, slots=True)
class LatencyLimit:
    """A percentile and what it may be at most.

    Attributes:
        percentile: 1 to 99.999.
        limit_ms: milliseconds, from the moment a request was due (or of a stage, as the server counts it).
        protocol: one of a run, "all" together, or "each" by itself.
        stage: "service/stage" of the servers' metrics; empty: what clients see.
        failures: "worst": requests without a right answer are slower than any; "excluded": they are left out.
    """

    percentile: float
    limit_ms: float
    protocol: str = "all"
    stage: str = ""
    failures: Literal["worst", "excluded"] = "worst"


@dataclass(frozen=True, slots=True)
class ShareLimit:
    """A share that must not be passed.

    Attributes:
        limit: 0 to 1.
        prove: whether the sample must show it with the SLO's confidence; otherwise what was counted decides.
    """

    limit: float
    prove: bool = False


@dataclass(frozen=True, slots=True)
class Availability:
    """A second is down when more than ``second_fails_over`` of its requests have no right answer."""

    at_least: ShareLimit
    second_fails_over: float = 0.05


@dataclass(frozen=True, slots=True)
class Goodput:
    """Right answers within ``within_ms``."""

    within_ms: float
    at_least: ShareLimit | None = None
    at_least_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """What a server may take on per hour; None: not judged."""

    memory_mib_per_hour: float | None = None
    descriptors_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class GeneratorLimits:
    """What the generator must keep; beyond it a run is invalid.

    Attributes:
        cpu_at_most: share of its CPUs that a worker may use.
        schedule_error_p99_ms: how late one request of a hundred may be sent.
        schedule_errors_ms: percentiles beyond p99 that the SLO claims, each with how late that percentile of the
            requests may be sent.
        not_sent_at_most: share of the requests that were due and could not be sent.
        offered_at_least: share of the planned requests that must have been due at all.
        closed_loop: whether a closed-loop run is judged.
    """

    cpu_at_most: float = 0.8
    schedule_error_p99_ms: float = _LEAST_ERROR_MS
    not_sent_at_most: float = 0.001
    offered_at_least: float = 0.95
    closed_loop: bool = False
    schedule_errors_ms: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Slo:
    """All that a run is judged by."""

    name: str
    description: str = ""
    confidence: float = 0.99
    latency: tuple[LatencyLimit, ...] = ()
    errors: ShareLimit | None = None
    availability: Availability | None = None
    goodput: Goodput | None = None
    cache_hits: ShareLimit | None = None
    agreement: ShareLimit | None = None
    growth: Growth | None = None
    generator: GeneratorLimits = field(default_factory=GeneratorLimits)

    @property
    def alpha(self) -> float:
        """The chance that a pass, or a fail, is wrong for one percentile."""
        return 1 - self.confidence


def load(path: Path) -> Slo:
    """Read an SLO file.

    Raises:
        BadSlo: it is not there, not YAML, or not what the schema asks for.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadSlo(str(path), [error.strerror or str(error)]) from error
    if len(text) > _LARGEST_FILE:
        raise BadSlo(str(path), [f"it has {len(text)} bytes, and an SLO file at most {_LARGEST_FILE}"])
    try:
        found = yaml.load(text, _OnceLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date or a number that cannot be is a ValueError
        raise BadSlo(str(path), [f"it is not YAML: {' '.join(str(error).split())}"]) from error
    except RecursionError as error:
        raise BadSlo(str(path), ["it is nested far deeper than any SLO"]) from error
    return parse(found, where=str(path))


class _OnceLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Refuses a key that stands twice in a mapping, of which YAML's readers silently take the last, and aliases.

    A few aliases of aliases stand for more values than any memory holds, and an SLO has no use for one.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(
                f"the alias *{event.anchor} in line {event.start_mark.line + 1} is not read in an SLO"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.YAMLError(f"the key {twice} stands twice in one mapping, line {node.start_mark.line + 1} on")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def parse(found: object, *, where: str = "the SLO") -> Slo:
    """The SLO of what YAML (or JSON) gave.

    Raises:
        BadSlo: with a sentence for each thing that is wrong.
    """
    if not isinstance(found, dict):
        raise BadSlo(
            where, [f"it holds {_named(found)}, and a mapping with at least a name and an objective is needed"]
        )
    strange = [place for place, value in _numbers(found) if not math.isfinite(value)]
    if strange:
        raise BadSlo(where, [f"{place} is no finite number" for place in strange])
    validator = jsonschema.Draft202012Validator(_schema())
    faults = [sentence for error in _ordered(validator.iter_errors(found)) for sentence in _sentences(error)]
    if faults:
        raise BadSlo(where, faults)
    return _slo(found)


def _numbers(found: object, place: str = "") -> Iterator[tuple[str, float]]:
    """All floating-point numbers, with where they stand; JSON Schema's limits let NaN pass."""
    if isinstance(found, float):
        yield place, found
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from _numbers(value, f"{place}.{key}".lstrip("."))
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from _numbers(value, f"{place}[{number}]")


@functools.cache
def _schema() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return read


def _ordered(errors: Any) -> list[Any]:
    return sorted(errors, key=lambda error: [str(part) for part in error.absolute_path])


def _sentences(error: Any) -> list[str]:
    """What is wrong, as one who wrote the file would say it."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = [key for key in error.instance if key not in known]
        return [_unknown_key(f"{place}.{key}".lstrip("."), str(key), known) for key in unknown]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"{place or 'the file'} lacks {', '.join(missing)}"]
    if error.validator == "anyOf":
        choices = ", ".join(sorted({key for choice in error.validator_value for key in choice["required"]}))
        return [f"{place or 'the file'} needs at least one of {choices}"]
    if error.validator == "enum":
        return [_unknown_value(place, error.instance, error.validator_value)]
    if error.validator == "type":
        return [f"{place} is {_named(error.instance)}, and {_article(error.validator_value)} is needed"]
    return [f"{place} is {_named(error.instance)}: {error.message}"]


def _unknown_key(place: str, key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
    return f"unknown key {place}; {hint}"


def _unknown_value(place: str, value: object, known: list[str]) -> str:
    nearest = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"{place} is {_named(value)}; {hint}allowed: {', '.join(known)}"


def _named(value: object) -> str:
    if value is None:
        return "empty"
    try:
        return json.dumps(value, default=str)[:80]
    except TypeError:  # a key that JSON has none of, as a date
        return str(value)[:80]


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _slo(found: Mapping[str, Any]) -> Slo:
    latency = tuple(LatencyLimit(**limit) for limit in found.get("latency", []))
    goodput = found.get("goodput")
    availability = found.get("availability")
    claims = [(limit.percentile, limit.limit_ms) for limit in latency if not limit.stage]
    if goodput:
        claims.append((100 * goodput.get("at_least", 0.0), goodput["within_ms"]))
    return Slo(
        name=found["name"],
        description=found.get("description", ""),
        confidence=found.get("confidence", 0.99),
        latency=latency,
        errors=_share(found.get("errors"), "at_most"),
        availability=None
        if availability is None
        else Availability(
            ShareLimit(availability["at_least"], availability.get("prove", False)),
            availability.get("second_fails_over", 0.05),
        ),
        goodput=None
        if goodput is None
        else Goodput(goodput["within_ms"], _share(goodput, "at_least"), goodput.get("at_least_per_s")),
        cache_hits=_share(found.get("cache"), "hits_at_least"),
        agreement=_share(found.get("agreement"), "at_least"),
        growth=Growth(**found["growth"]) if "growth" in found else None,
        generator=_generator(found.get("generator", {}), claims),
    )


def allowed_lateness_ms(latency_ms: float) -> float:
    """How late a request may be sent, milliseconds, where such a latency is claimed or compared."""
    return max(_LEAST_ERROR_MS, _ERROR_SHARE * latency_ms)


def _generator(given: Mapping[str, Any], claims: Sequence[tuple[float, float]]) -> GeneratorLimits:
    """What the generator must keep for latencies that are claimed, as percentile and limit in milliseconds.

    A request that is sent late looks slow by as much. So lateness is looked at where the claim is made: at the claimed
    percentile it may be a tenth of the limit, as p99.9 of 0.1 % of the requests, which all may be the late ones.
    """
    limits = dict(given)
    stated_ms = limits.get("schedule_error_p99_ms")
    if stated_ms is None:
        tightest_ms = min((limit_ms for _, limit_ms in claims), default=0.0)
        limits["schedule_error_p99_ms"] = allowed_lateness_ms(tightest_ms)
    beyond: dict[float, float] = {}
    for percent, limit_ms in claims:
        if 99 < percent < 100:
            allowed_ms = stated_ms or allowed_lateness_ms(limit_ms)
            beyond[percent] = min(allowed_ms, beyond.get(percent, math.inf))
    return GeneratorLimits(**limits, schedule_errors_ms=tuple(sorted(beyond.items())))


def _share(found: Mapping[str, Any] | None, key: str) -> ShareLimit | None:
    if found is None or key not in found:
        return None
    return ShareLimit(found[key], found.get("prove", False))
