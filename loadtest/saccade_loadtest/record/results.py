"""The record of a run: what a generator fills and the verdict judges; merged exactly across workers, kept as JSON.

A ``Run`` holds the plan (``Schedule``), what became of every request by protocol and second (``Tally`` in ``Series``),
how well each generator process kept to the plan (``Worker``), and what the servers said of themselves
(``server_metrics.ServerRecord``). ``recorder.Recorder`` fills it. Times are seconds since the run's first moment; a
request belongs to the second in which it was *due*, and its latency counts from that moment, whenever it was sent.
Judges nothing, sends nothing, and reads no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from saccade_loadtest.record.histogram import Histogram
from saccade_loadtest.record.server_metrics import ServerRecord

Loop: TypeAlias = Literal["open", "closed"]

#: Kinds of failure that reports know by name; others may be used ("http_418"), as long as they are few.
TIMEOUT: Final = "timeout"  # no answer within the client's patience
CONNECTION: Final = "connection"  # refused, reset, closed in mid-answer
OVERLOADED: Final = "overloaded"  # 503 / UNAVAILABLE: the server said no
DEADLINE: Final = "deadline"  # 504 / DEADLINE_EXCEEDED
WRONG_ANSWER: Final = "wrong_answer"  # a good status whose content fails the check
HELD: Final = "held_open"  # due while as many as may be under way were, all without an answer: it was not sent
#: What is counted under this name came after ``MOST_NAMES`` others.
OTHER: Final = "other"
MOST_NAMES: Final = 64


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked.

    Attributes:
        url: of the service, without a path.
        service: "transformer" or "predictor".
        model: name in the URL.
        note: one line for the report, as "example pair, cache bypassed"; may be empty.
    """

    url: str
    service: str
    model: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the schedule with a name: "warm-up", "steady", "spike".

    Attributes:
        offered_per_s: mean rate of the arrivals in it.
    """

    name: str
    begin_s: float
    end_s: float
    offered_per_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """What was planned, for all workers together.

    Attributes:
        arrivals: how they come: "constant", "poisson", "cameras", ...
        offered_per_s: mean rate after the warm-up.
        duration_s: from the first moment to the last arrival, warm-up included.
        warmup_s: requests due before this count nowhere in the verdict; a multiple of ``bin_s``.
        bin_s: length of the "second" of the tallies; over 1 in long runs only, so that there are at most 3,600.
        seed: of the arrivals.
        nominal_per_s: the rate that the scenario stands for, as the seeds' 1,000/s; None: it stands for itself.
        nominal_limit_ms: the latency limit that belongs to it.
        phases: in order of time.
    """

    arrivals: str
    offered_per_s: float
    duration_s: float
    warmup_s: float = 0.0
    bin_s: float = 1.0
    seed: int = 0
    nominal_per_s: float | None = None
    nominal_limit_ms: float | None = None
    phases: tuple[Phase, ...] = ()

    def __post_init__(self) -> None:
        if self.bin_s <= 0 or self.duration_s <= 0 or self.warmup_s < 0:
            raise ValueError("a schedule needs a duration and a bin over 0 s, and a warm-up of 0 s or more")
        if self.warmup_s >= self.duration_s:
            raise ValueError(f"a warm-up of {self.warmup_s} s leaves nothing of {self.duration_s} s to measure")
        if abs(self.warmup_s / self.bin_s - round(self.warmup_s / self.bin_s)) > 1e-9:
            raise ValueError(f"the warm-up ({self.warmup_s} s) must be whole bins of {self.bin_s} s")

    @property
    def measured_s(self) -> float:
        """Seconds that count."""
        return self.duration_s - self.warmup_s

    @property
    def first_measured_bin(self) -> int:
        """Number of the first bin after the warm-up."""
        return round(self.warmup_s / self.bin_s)


@dataclass(slots=True)
class Tally:
    """What became of the requests of one series that were due in one bin.

    ``due = sent + not_sent``, and at the end of a run ``sent = answered + errors``.

    Attributes:
        sent: handed to a connection; or kept back since the server held as many open as may be (``HELD``).
        not_sent: due, and never sent for a reason of the generator's own: its machine gave no socket.
        answered: rightly, with the content checked.
        errors: by kind.
        latency: of the right answers, from the moment they were due.
        service: of the right answers, from the moment they were sent: what a closed-loop tool would have seen.
    """

    sent: int = 0
    not_sent: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)

    @property
    def due(self) -> int:
        """Requests that the schedule had."""
        return self.sent + self.not_sent

    @property
    def failed(self) -> int:
        """Sent requests without a right answer, of all kinds."""
        return self.errors.total()

    @property
    def unresolved(self) -> int:
        """Sent requests of which nobody knows what became of them: their worker died."""
        return self.sent - self.answered - self.failed

    def merge(self, other: Tally) -> None:
        """Add another's counts."""
        self.sent += other.sent
        self.not_sent += other.not_sent
        self.answered += other.answered
        add_names(self.errors, other.errors)
        self.latency.merge(other.latency)
        self.service.merge(other.service)


@dataclass(slots=True)
class Revision:
    """Right answers after the warm-up that came from one version of the model (or revision of the service)."""

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)

    def merge(self, other: Revision) -> None:
        """Add another's counts."""
        self.answered += other.answered
        add_names(self.errors, other.errors)
        self.latency.merge(other.latency)


@dataclass(slots=True)
class Series:
    """One protocol.

    Attributes:
        bins: by number of the bin (0 holds what was due from 0 s on).
        revisions: by model version, as the answers named it; after the warm-up only.
        cache: answers after the warm-up by outcome: "miss", "exact", "near", "coalesced", "bypass".
        agreement_checked: answers after the warm-up that were compared with a known one.
        agreed: those of them that agreed.
    """

    bins: dict[int, Tally] = field(default_factory=dict)
    revisions: dict[str, Revision] = field(default_factory=dict)
    cache: Counter[str] = field(default_factory=Counter)
    agreement_checked: int = 0
    agreed: int = 0

    def merge(self, other: Series) -> None:
        """Add another's counts."""
        for number, tally in other.bins.items():
            self.bins.setdefault(number, Tally()).merge(tally)
        for version, revision in other.revisions.items():
            self.revisions.setdefault(bounded(version, self.revisions), Revision()).merge(revision)
        add_names(self.cache, other.cache)
        self.agreement_checked += other.agreement_checked
        self.agreed += other.agreed


@dataclass(slots=True)
class Worker:
    """One process that sent requests, and how well it kept to the plan.

    Attributes:
        name: unique within the run.
        cpu_s: user and system time while it generated (of the measured part, where it can tell).
        wall_s: over which ``cpu_s`` was taken.
        cores: CPUs it can use at once; 1 for a process that is one thread.
        thread_s: CPU time of the one thread that keeps the schedule, over ``wall_s``; 0 where it is not told.
        busiest_share: as ``cpu_share``, of the busiest few seconds; 0 where it is not told.
        schedule_error: how long after its moment each request was sent, microseconds; warm-up excluded.
        lost: why it left before its work was done; empty: it did not.
    """

    name: str
    cpu_s: float = 0.0
    wall_s: float = 0.0
    cores: float = 1.0
    thread_s: float = 0.0
    busiest_share: float = 0.0
    schedule_error: Histogram = field(default_factory=Histogram)
    lost: str = ""

    @property
    def cpu_share(self) -> float:
        """Share of its CPUs that it used, or of one CPU its busiest thread, 0 to 1; 0 of one that never ran."""
        return max(self.cpu_s / self.cores, self.thread_s) / self.wall_s if self.wall_s > 0 else 0.0


@dataclass(slots=True)
class Run:
    """A whole run.

    Attributes:
        scenario: its name.
        loop: "open": arrivals do not wait for answers; "closed": they do, and latencies lack what they held back.
        series: by protocol: "v2-binary", "v2-json", "v2-grpc", "jpeg", "v1".
        workers: all that were to send, also those that were lost.
        workers_expected: how many the plan had.
        server: what the servers' metrics said; None: none were asked.
        began_at: ISO 8601, UTC.
        machine: lines on where the generator ran ("cpu": ..., "cores": ...).
        notes: what a reader must know, as "5 fps: not even one camera at 10 fps fits".
        protocols: that the plan has: by each of them something is to be sent.
        faults: sentences; each makes the verdict "invalid" ("the server stopped answering its readiness at 31 s").
    """

    scenario: str
    target: Target
    loop: Loop
    schedule: Schedule
    series: dict[str, Series] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    workers_expected: int = 1
    server: ServerRecord | None = None
    began_at: str = ""
    machine: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)

    def merge(self, other: Run) -> None:
        """Add what another worker recorded of the same run: counts are added, workers listed, percentiles untouched.

        Raises:
            ValueError: the other is of another plan, or of a worker that is in here already.
        """
        mine = (self.scenario, self.target, self.loop, self.schedule)
        theirs = (other.scenario, other.target, other.loop, other.schedule)
        if mine != theirs:
            raise ValueError(f"two records are of different runs: {mine} and {theirs}")
        twice = {worker.name for worker in self.workers} & {worker.name for worker in other.workers}
        if twice:
            raise ValueError(f"the record of worker {', '.join(sorted(twice))} is in the run already")
        for protocol, series in other.series.items():
            self.series.setdefault(protocol, Series()).merge(series)
        self.workers.extend(other.workers)
        self.server = self.server or other.server
        self.notes.extend(note for note in other.notes if note not in self.notes)
        self.faults.extend(fault for fault in other.faults if fault not in self.faults)

    def measured(self, protocol: str | None = None) -> Tally:
        """All that was due after the warm-up, of one protocol or of all, as one tally.

        Args:
            protocol: one of ``series``; None: all together.
        """
        total = Tally()
        for _, tally in self.measured_bins(protocol):
            total.merge(tally)
        return total

    def measured_bins(self, protocol: str | None = None) -> Iterator[tuple[int, Tally]]:
        """Number and tally of each bin after the warm-up, in order of time; protocols apart unless one is named."""
        chosen = self.series.values() if protocol is None else [self.series[protocol]]
        first = self.schedule.first_measured_bin
        numbered = ((number, tally) for series in chosen for number, tally in series.bins.items() if number >= first)
        yield from sorted(numbered, key=lambda pair: pair[0])

    def timeline(self, protocol: str | None = None) -> dict[int, Tally]:
        """One tally for each bin in order of time, warm-up included, protocols merged unless one is named; to read."""
        chosen = list(self.series.values()) if protocol is None else [self.series[protocol]]
        if len(chosen) == 1:
            return dict(sorted(chosen[0].bins.items()))
        merged: dict[int, Tally] = {}
        for series in chosen:
            for number, tally in series.bins.items():
                merged.setdefault(number, Tally()).merge(tally)
        return dict(sorted(merged.items()))

    def pack(self) -> None:
        """Let go of the counters of all histograms, for their encoded form."""
        for series in self.series.values():
            for tally in series.bins.values():
                tally.latency.pack()
                tally.service.pack()
            for revision in series.revisions.values():
                revision.latency.pack()


def bounded(name: str, known: Iterable[str]) -> str:
    """The name to count under, of which there are never more than ``MOST_NAMES`` and ``OTHER``."""
    names = set(known)
    return name if name in names or len(names) < MOST_NAMES else OTHER


def add_names(mine: Counter[str], theirs: Counter[str]) -> None:
    """Add counts by name, as many names as are allowed."""
    for name, count in theirs.items():
        mine[bounded(name, mine)] += count
