"""The scenarios: what each sends, what it is judged by unless an SLO file is given, and what it says of itself.

A scenario turns wishes (a rate, cameras, a duration, a measured capacity) into a load. Pure: starts nothing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from saccade_loadtest.load.arrivals import BadSchedule, Process, Profile, constant, diurnal, ramp, spike, step
from saccade_loadtest.load.loads import ClientsLoad, FleetLoad, TraceLoad, UsersLoad

#: A service is run at most at this share of what it can do, so that a short rise does not become a queue.
_SAFE_SHARE: Final = 0.7
#: What one generator process is given at most: 70 % of a core at the 200 us that a request takes where each wakes the
#: machine twice (docs/loadtest.md); at 80 % a run is invalid.
GENERATOR_PER_S: Final = 3500.0
_CAPSTONE_PER_S: Final = 10_000.0
#: Where no latency is judged, requests that are sent a little late change nothing.
_UNTIMED: Final = {"schedule_error_p99_ms": 100}
_SEEDS_CAMERAS: Final = 100
_SEEDS_FPS: Final = 10.0

AnyLoad = ClientsLoad | FleetLoad | TraceLoad | UsersLoad


class UnknownScenario(ValueError):
    """There is no such scenario; the sentence names the nearest, and all."""

    def __init__(self, name: str) -> None:
        near = difflib.get_close_matches(name, SCENARIOS, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"there is no scenario {name!r}{meant} (known: {', '.join(SCENARIOS)})")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person asked for; None where nothing was said.

    Attributes:
        rate_per_s: requests per second.
        cameras: how many.
        fps: of each.
        duration_s: of the schedule, warm-up included.
        warmup_s: what does not count.
        capacity_per_s: what the target was measured to do within its SLO.
        process: of arrivals that are no cameras'.
        trace: a trace to replay: its text and name.
        users: closed loop with so many.
        shape: of the rate over time: "constant", "step", "ramp", "spike", "diurnal".
        seed: of all that is by chance.
        generator_per_s: what one generator process is given at most, where a plan for several is computed.
    """

    rate_per_s: float | None = None
    cameras: int | None = None
    fps: float | None = None
    duration_s: float | None = None
    warmup_s: float | None = None
    capacity_per_s: float | None = None
    process: Process = "poisson"
    trace: tuple[str, str] | None = None
    users: int | None = None
    shape: str = ""
    seed: int = 1
    generator_per_s: float = GENERATOR_PER_S

    def __post_init__(self) -> None:
        for name, value in self._figures().items():
            if value is not None and not math.isfinite(value):
                raise BadSchedule(f"--{name} is {value}; expected a finite number")

    def _figures(self) -> dict[str, float | None]:
        return {
            "rate": self.rate_per_s,
            "fps": self.fps,
            "duration": self.duration_s,
            "warmup": self.warmup_s,
            "capacity": self.capacity_per_s,
            "generator-rate": self.generator_per_s,
        }

    def rate(self, share: float, scenario: str) -> float:
        """The rate that was asked for, else a share of the capacity.

        Raises:
            BadSchedule: neither is known.
        """
        if self.rate_per_s is not None:
            return self.rate_per_s
        if self.capacity_per_s is None:
            raise BadSchedule(
                f"scenario {scenario!r} needs --rate, or --capacity with the capacity.json that `saccade-loadtest "
                "capacity` writes"
            )
        return self.capacity_per_s * share

    def seconds(self, default_s: float) -> float:
        """How long it shall take."""
        return default_s if self.duration_s is None else self.duration_s


@dataclass(frozen=True, slots=True)
class Script:
    """What a scenario came to.

    Attributes:
        load: see ``plan``.
        warmup_s: likewise.
        slo: what it is judged by, unless an SLO file is given: as the file would have it.
        cache: of the transformer.
        patience_s: of the clients.
        needs_ready: whether the target must be ready before.
        nominal_per_s: see ``plan.Plan``, as ``nominal_limit_ms`` and ``notes``.
    """

    load: AnyLoad
    warmup_s: float
    slo: Mapping[str, Any]
    cache: str = "use"
    patience_s: float = 10.0
    needs_ready: bool = True
    nominal_per_s: float | None = None
    nominal_limit_ms: float | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario.

    Attributes:
        summary: one line.
        script: makes it of wishes.
    """

    summary: str
    script: Callable[[Wishes], Script]


def script_of(name: str, wishes: Wishes) -> Script:
    """What a scenario sends; a trace or users that were asked for take the place of its load.

    Raises:
        UnknownScenario: there is none of that name.
        BadSchedule: a wish cannot be fulfilled, or one is missing.
    """
    if name not in SCENARIOS:
        raise UnknownScenario(name)
    made = SCENARIOS[name].script(wishes)
    replaced: AnyLoad | None = None
    if wishes.trace is not None:
        replaced = TraceLoad(text=wishes.trace[0], name=wishes.trace[1])
    elif wishes.users is not None:
        replaced = UsersLoad(users=wishes.users, duration_s=made.load.duration_s)
    elif wishes.shape:
        per_s = wishes.rate(_SAFE_SHARE, name)
        replaced = ClientsLoad.of(
            shape(wishes.shape, per_s, made.load.duration_s), wishes.process, wishes.shape, wishes.seed
        )
    warmup_s = made.warmup_s if wishes.warmup_s is None else wishes.warmup_s
    changed = {**{name: getattr(made, name) for name in made.__slots__}, "warmup_s": warmup_s}
    if replaced is not None:
        changed["load"] = replaced
        if wishes.warmup_s is None:
            changed["warmup_s"] = min(warmup_s, math.floor(replaced.duration_s / 4))
    return Script(**changed)


def shape(name: str, per_s: float, duration_s: float) -> Profile:
    """A rate over time by name, with ``per_s`` as its highest.

    Raises:
        BadSchedule: there is no such shape.
    """
    if name == "constant":
        return constant(per_s, duration_s)
    if name == "step":
        return step([per_s * share for share in (0.25, 0.5, 0.75, 1.0)], duration_s / 4)
    if name == "ramp":
        return ramp(0.0, per_s, duration_s)
    if name == "spike":
        return spike(per_s / 3, per_s, duration_s * 0.4, duration_s * 0.2, duration_s * 0.4)
    if name == "diurnal":
        return diurnal(per_s / 5, per_s, duration_s, duration_s)
    raise BadSchedule(f"shape {name!r} is not known; choose constant, step, ramp, spike or diurnal")


def _fleet(wishes: Wishes, cameras: int, fps: float, duration_s: float, **habits: Any) -> FleetLoad:
    return FleetLoad(
        cameras=wishes.cameras or cameras,
        fps=wishes.fps or fps,
        duration_s=wishes.seconds(duration_s),
        seed=wishes.seed,
        **habits,
    )


def _clients(wishes: Wishes, profile: Profile, name: str) -> ClientsLoad:
    return ClientsLoad.of(profile, wishes.process, name, wishes.seed)


def _smoke(wishes: Wishes) -> Script:
    load = _clients(wishes, constant(wishes.rate_per_s or 4.0, wishes.seconds(30.0)), wishes.process)
    objective = {"name": "smoke", "errors": {"at_most": 0.0}, "generator": _UNTIMED}
    return Script(load, 2.0, objective, cache="bypass")


def _slo(wishes: Wishes) -> Script:
    load = _fleet(wishes, _SEEDS_CAMERAS, _SEEDS_FPS, 70.0)
    objective = {
        "name": "seeds",
        "latency": [{"percentile": 99, "limit_ms": 100}],
        "errors": {"at_most": 0.001},
    }
    return Script(load, 10.0, objective, nominal_per_s=_SEEDS_CAMERAS * _SEEDS_FPS, nominal_limit_ms=100.0)


def _spike(wishes: Wishes) -> Script:
    peak, duration_s = wishes.rate(1.0, "spike"), wishes.seconds(150.0)
    profile = spike(peak / 3, peak, duration_s * 0.4, duration_s * 0.2, duration_s * 0.4)
    objective = {
        "name": "spike",
        "latency": [{"percentile": 95, "limit_ms": 1000}],
        "errors": {"at_most": 0.01},
    }
    return Script(_clients(wishes, profile, "spike"), 10.0, objective, cache="bypass")


def _soak(wishes: Wishes) -> Script:
    per_s, duration_s = wishes.rate(0.5, "soak"), wishes.seconds(2 * 3600.0)
    profile = diurnal(per_s / 3, per_s, min(3600.0, duration_s), duration_s)
    objective = {
        "name": "soak",
        "errors": {"at_most": 0.0001},
        "availability": {"at_least": 0.999},
        "growth": {"memory_mib_per_hour": 50, "descriptors_per_hour": 5},
        "generator": _UNTIMED,
    }
    return Script(_clients(wishes, profile, "diurnal"), min(300.0, math.floor(duration_s / 10)), objective)


def _cold_start(wishes: Wishes) -> Script:
    load = _clients(wishes, constant(wishes.rate_per_s or 1.0, wishes.seconds(120.0)), "even")
    load = load.model_copy(update={"process": "even"})
    objective = {
        "name": "cold-start",
        "latency": [{"percentile": 50, "limit_ms": 60_000}],
        "errors": {"at_most": 0.0},
    }
    note = (
        "cold start: nothing is left out as warm-up; a request that waits for the first replica counts from its moment"
    )
    return Script(load, 0.0, objective, cache="bypass", patience_s=300.0, needs_ready=False, notes=(note,))


def _drain(wishes: Wishes) -> Script:
    load = _clients(wishes, constant(wishes.rate_per_s or 5.0, wishes.seconds(120.0)), wishes.process)
    objective = {"name": "drain", "errors": {"at_most": 0.0}, "generator": _UNTIMED}
    return Script(load, 5.0, objective, cache="bypass", patience_s=30.0)


def _cache(wishes: Wishes) -> Script:
    load = _fleet(wishes, 10, 5.0, 60.0, static=1.0, scene_s=30.0, duplicates=0.3)
    objective = {
        "name": "cache",
        "cache": {"hits_at_least": 0.8},
        "agreement": {"at_least": 0.95},
        "errors": {"at_most": 0.001},
        "generator": _UNTIMED,
    }
    return Script(load, 5.0, objective)


def _overload(wishes: Wishes) -> Script:
    per_s = wishes.rate(2.0, "overload")
    load = _clients(wishes, constant(per_s, wishes.seconds(60.0)), wishes.process)
    goodput = 0.8 * (wishes.capacity_per_s or per_s / 2)
    objective = {"name": "overload", "goodput": {"within_ms": 1000, "at_least_per_s": goodput}}
    note = f"twice the capacity is offered; refusals are right here, and at least {goodput:.1f}/s must still be served"
    return Script(load, 10.0, objective, cache="bypass", notes=(note,))


def _capstone(wishes: Wishes) -> Script:
    capacity = wishes.rate(1.0, "capstone")
    safe = capacity * _SAFE_SHARE
    replicas = math.ceil(_CAPSTONE_PER_S / safe)
    workers = math.ceil(_CAPSTONE_PER_S / wishes.generator_per_s)
    objective = {
        "name": "capstone",
        "latency": [{"percentile": 99, "limit_ms": 50}],
        "errors": {"at_most": 0.0001},
    }
    notes = (
        f"plan for {_CAPSTONE_PER_S:,.0f}/s: {replicas:,} replicas, each at {_SAFE_SHARE:.0%} of its measured "
        f"{capacity:,.1f}/s, and {workers} load generators of {wishes.generator_per_s:,.0f}/s each",
        f"this run offers what one replica of that plan would get, {safe:,.1f}/s; that {replicas:,} of them behave "
        "alike, and what is between them and the clients, is extrapolated and was not run",
    )
    load = _clients(wishes, constant(safe, wishes.seconds(120.0)), wishes.process)
    return Script(
        load, 10.0, objective, cache="bypass", nominal_per_s=_CAPSTONE_PER_S, nominal_limit_ms=50.0, notes=notes
    )


#: By name, in the order of a help page.
SCENARIOS: Final[dict[str, Scenario]] = {
    "smoke": Scenario("30 s at a few requests per second: is everything answered rightly?", _smoke),
    "slo": Scenario("100 cameras at 10 frames per second, p99 100 ms", _slo),
    "spike": Scenario("three times the base rate all at once, for a fifth of the run", _spike),
    "soak": Scenario("hours of days and nights: memory and descriptors of the servers must not grow", _soak),
    "cold-start": Scenario("requests from the first moment on, however long the first answer takes", _cold_start),
    "drain": Scenario("a rolling restart (--during) under load, without one failed request", _drain),
    "cache": Scenario("cameras that look at still scenes: what the frame cache answers, and whether rightly", _cache),
    "overload": Scenario(
        "twice the capacity: what is still served, and whether all cameras get their share", _overload
    ),
    "capstone": Scenario("10,000 requests/s, p99 50 ms: the plan for it, and one replica's part of it", _capstone),
}
