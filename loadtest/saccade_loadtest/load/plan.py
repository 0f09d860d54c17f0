"""What one run does, as data: target, load, protocols, pictures, limits. Travels to generators as JSON.

A plan is complete: two generators with equal plans and shares send the same bytes at the same moments. Checked when it
is made; a value that cannot be is refused with its name. Sends nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from saccade_loadtest.load.arrivals import BadSchedule
from saccade_loadtest.load.loads import ClientsLoad, FleetLoad, Load, Part, TraceLoad, UsersLoad
from saccade_loadtest.load.sources import (
    Mix,
    ScheduledSource,
    Source,
    WaitingSource,
    fleet_source,
    trace_source,
)
from saccade_loadtest.record import results
from saccade_loadtest.sending.dialects import DIALECTS, TENSOR_DIALECTS, Endpoint
from saccade_loadtest.sending.engine import Limits

#: Given twice they would make two requests of one.
_OWN_HEADERS: Final = frozenset(
    ("content-length", "content-type", "transfer-encoding", "connection", "inference-header-content-length")
)
#: A record has at most so many bins; longer runs have longer ones.
_MOST_BINS: Final = 3600
#: Fewer than the ports that a machine has for one address (28,232 by Linux' default), some left for others.
_MOST_OPEN: Final = 25_000
#: A queue may be this much longer than the mean rate makes it, and has so many places more.
_OPEN_SLACK: Final = 1.2
_OPEN_MORE: Final = 100


class Pictures(Part):
    """What the pictures are made from, and how; see ``frames.Album``."""

    folder: str
    width: int = Field(640, ge=16, le=4096)
    height: int = Field(480, ge=16, le=4096)
    scenes: int = Field(12, ge=1, le=1000)
    noises: int = Field(3, ge=1, le=100)
    quality: int = Field(85, ge=1, le=100)


class TensorInput(Part):
    """A predictor's input, one row of it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Plan(Part):
    """A run.

    Attributes:
        scenario: its name.
        url: of the service.
        model: name.
        service: "transformer" or "predictor".
        grpc: host and port for gRPC; empty: none.
        cache: of the transformer: "use", "bypass", "refresh".
        headers: added to each request.
        outputs: that a predictor's answers must have.
        tensor: a predictor's input.
        note: for the report.
        load: what is sent when.
        mix: protocol -> weight.
        warmup_s: what is due before counts nowhere.
        pictures: see there.
        most_open: of all generators together; see ``engine.Limits``, as ``patience_s``. None: more than the load's
            peak lets be open within the patience, so that only a service which does not answer reaches it.
        nominal_per_s: the rate that the scenario stands for; None: itself.
        nominal_limit_ms: the latency limit that belongs to it.
        notes: for the report.
        agreement: whether answers are compared with what the service says of the pictures past its cache.
    """

    scenario: str
    url: str
    model: str
    service: Literal["transformer", "predictor"] = "transformer"
    grpc: str = ""
    cache: Literal["use", "bypass", "refresh"] = "use"
    headers: dict[str, str] = Field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    tensor: TensorInput | None = None
    note: str = ""
    load: Load
    mix: dict[str, float] = Field(default_factory=lambda: {"jpeg": 1.0})
    warmup_s: float = Field(5.0, ge=0, allow_inf_nan=False)
    pictures: Pictures
    most_open: int | None = Field(None, ge=1, le=100_000)
    patience_s: float = Field(10.0, gt=0, le=3600)
    nominal_per_s: float | None = None
    nominal_limit_ms: float | None = None
    notes: tuple[str, ...] = ()
    agreement: bool = False

    def model_post_init(self, _context: Any) -> None:
        """Refuse what cannot be.

        Raises:
            BadSchedule: with what was given and what is expected.
        """
        known = DIALECTS if self.service == "transformer" else TENSOR_DIALECTS
        if unknown := sorted(set(self.mix) - set(known)):
            raise BadSchedule(f"{', '.join(unknown)} is not served by a {self.service}; known: {', '.join(known)}")
        if "v2-grpc" in self.new_mix().protocols and not self.grpc:
            raise BadSchedule("protocol v2-grpc needs the address of the gRPC port, as --grpc 127.0.0.1:8081")
        if self.agreement and self.service != "transformer":
            raise BadSchedule("agreement is of detections, which a predictor does not answer; ask its transformer")
        if self._whole_warmup_s >= self.load.duration_s:
            raise BadSchedule(
                f"a warm-up of {self.warmup_s:g} s, in whole seconds of the record {self._whole_warmup_s:g} s, leaves "
                f"nothing of {self.load.duration_s:g} s to measure"
            )

    @property
    def loop(self) -> results.Loop:
        """Whether arrivals wait for answers."""
        return "closed" if self.load.kind == "users" else "open"

    def new_mix(self) -> Mix:
        """Which camera speaks which protocol."""
        return Mix(self.mix, self.load.senders)

    @property
    def endpoint(self) -> Endpoint:
        """What the protocols need to know of the target."""
        return Endpoint(self.url, self.model, self.service, self.grpc, self.cache, self.headers, self.outputs)

    def schedule(self) -> results.Schedule:
        """The plan as the record has it."""
        duration_s = self.load.duration_s
        bin_s, warmup_s = self._bin_s, self._whole_warmup_s
        measured_s = duration_s - warmup_s
        phases = [results.Phase("warm-up", 0.0, warmup_s, self._rate(0.0, warmup_s))] if warmup_s else []
        for phase in self.load.phases:
            begins = max(phase.begins_s, warmup_s)
            if begins < phase.ends_s:
                phases.append(results.Phase(phase.name, begins, phase.ends_s, self._rate(begins, phase.ends_s)))
        return results.Schedule(
            arrivals=self.load.name,
            offered_per_s=self.load.expected(warmup_s, duration_s) / measured_s,
            duration_s=duration_s,
            warmup_s=warmup_s,
            bin_s=bin_s,
            seed=getattr(self.load, "seed", 0),
            nominal_per_s=self.nominal_per_s,
            nominal_limit_ms=self.nominal_limit_ms,
            phases=tuple(phases),
        )

    def run(self) -> results.Run:
        """An empty record."""
        target = results.Target(self.url, self.service, self.model, self.note)
        protocols = list(self.new_mix().protocols)
        return results.Run(
            self.scenario, target, self.loop, self.schedule(), notes=list(self.notes), protocols=protocols
        )

    def source(self, index: int, count: int) -> Source:
        """What one of ``count`` generators sends."""
        if isinstance(self.load, UsersLoad) and self.load.switched:
            return WaitingSource(0, self.load.duration_s, self.load.pause_s)
        if isinstance(self.load, UsersLoad):
            users = len(range(index, self.load.users, count))
            return WaitingSource(users, self.load.duration_s, self.load.pause_s)
        if isinstance(self.load, FleetLoad) and self.load.switched:
            return fleet_source(self.load.fleet)
        if isinstance(self.load, TraceLoad) and self.load.switched:
            return trace_source(self.load.trace)
        return ScheduledSource(self.load.shots(index, count))

    def limits(self, count: int) -> Limits:
        """Those of one of ``count`` generators."""
        return Limits(max(1, math.ceil(self.open_limit / count)), self.patience_s)

    @property
    def open_limit(self) -> int:
        """Requests under way at once, at most, of all generators together."""
        if self.most_open is not None:
            return self.most_open
        # By Little's law: no more are open than come within the longest time that one is waited for.
        could_be = self.load.peak_per_s * self.patience_s * _OPEN_SLACK + _OPEN_MORE
        return math.ceil(min(could_be, float(_MOST_OPEN)))

    def with_load(self, load: ClientsLoad | FleetLoad | TraceLoad | UsersLoad, **changes: Any) -> Plan:
        """The same plan with another load, checked anew."""
        return Plan.model_validate({**self.model_dump(), "load": load.model_dump(), **changes})

    @property
    def _bin_s(self) -> float:
        """How long switched cameras go on is not known yet; they have seconds."""
        is_switched = getattr(self.load, "switched", False)
        return 1.0 if is_switched else float(max(1, math.ceil(self.load.duration_s / _MOST_BINS)))

    @property
    def _whole_warmup_s(self) -> float:
        return math.ceil(self.warmup_s / self._bin_s) * self._bin_s

    def _rate(self, begin_s: float, end_s: float) -> float:
        return self.load.expected(begin_s, end_s) / (end_s - begin_s)


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers as a plan has them: names as given, values without line ends.

    Raises:
        BadSchedule: a header that would end the head, or that the generator sets itself.
    """
    for name, value in headers.items():
        is_name = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        if not is_name or not value.isascii() or not value.isprintable():
            raise BadSchedule(f"header {name!r} cannot be sent; expected NAME: VALUE in ASCII, without line ends")
        if name.lower() in _OWN_HEADERS:
            raise BadSchedule(f"header {name!r} is the generator's own: it says what is in the body that it sends")
    return dict(headers)
