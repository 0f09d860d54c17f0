"""Between Locust and the generator: users switch cameras on and off, what happens is shown by Locust and recorded.

Every Locust process that runs users (a worker, or the only one) drives one generator process, so that Locust's own
work and gevent take no time from the schedule. Workers send their records to the master by a message of Locust's; the
master merges them, counts whoever did not send one as lost, judges, and sets Locust's exit code. For locustfiles only:
importing it patches the process for gevent.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import gevent
from locust.env import Environment
from locust.runners import STATE_MISSING, STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

from saccade_loadtest.commands import options
from saccade_loadtest.commands.run_command import FAILURES
from saccade_loadtest.judging import judgeable, slo
from saccade_loadtest.judging.judgeable import Intended
from saccade_loadtest.load.arrivals import BadSchedule
from saccade_loadtest.load.loads import FleetLoad, TraceLoad, UsersLoad
from saccade_loadtest.load.plan import Plan
from saccade_loadtest.load.scenarios import Script
from saccade_loadtest.load.sources import Mix
from saccade_loadtest.load.trace import read_text
from saccade_loadtest.record import run_file
from saccade_loadtest.record.live import Beat
from saccade_loadtest.record.results import Phase, Run, Schedule, Worker
from saccade_loadtest.reports import outputs
from saccade_loadtest.sending.conductor import GeneratorProcess, machine
from saccade_loadtest.sending.dialects import DIALECTS, TENSOR_DIALECTS
from saccade_loadtest.sending.preflight import Preflight

#: Name of the message that carries a worker's record to the master.
RECORD: Final = "saccade-record"
#: Name of the message by which the master asks for it: a headless Locust ends its own run before its workers'.
FINISH: Final = "saccade-finish"
#: Cameras of different workers have different numbers.
_PER_WORKER: Final = 1_000_000
_PREPARE_S: Final = 120.0
#: For the answers that are still to come after the last request, beside the clients' patience.
_FINISH_S: Final = 30.0
_LEAD_S: Final = 0.2
#: Locust's own timer and its run begin within moments of each other; an end that is earlier than this was no end of
#: the run time.
_EARLY_S: Final = 2.0
#: Without a run time: cameras' schedules are this long, and begin anew.
_ROUND_S: Final = 3600.0
log = logging.getLogger(__name__)


def options_of(environment: Environment) -> argparse.Namespace:
    """What was given on the command line, or on the web page."""
    given = environment.parsed_options
    assert isinstance(given, argparse.Namespace)
    return given


class Bridge:
    """One Locust process that runs users.

    Args:
        environment: Locust's.
        closed: whether users wait for their answers.
    """

    def __init__(self, environment: Environment, closed: bool) -> None:
        self._environment = environment
        self._closed = closed
        self._numbers = itertools.count()
        self._generator: GeneratorProcess | None = None
        self._plan: Plan | None = None
        self._record: dict[str, Any] | None = None
        self._on: dict[int, float] = {}
        self._begun = 0.0
        self._planned = 0.0
        self._warmup_s = 0.0
        self._hearing: gevent.Greenlet | None = None

    def start(self) -> None:
        """Make a plan of Locust's options, start the generator and let it begin.

        Raises:
            BadSchedule, NotReady, ...: see ``run_command.FAILURES``.
        """
        self._plan = plan = plan_of(self._environment, self._closed)
        self._warmup_s = plan.schedule().warmup_s
        self._record, self._planned, self._on = None, 0.0, {}
        generator = GeneratorProcess(self.name)
        self._generator = generator
        generator.say({"plan": plan.model_dump(mode="json"), "index": 0, "count": 1, "worker": self.name})
        deadline = time.monotonic() + _PREPARE_S
        while not any("ready" in line for line in self._heard(generator)):
            if generator.is_over or time.monotonic() > deadline:
                generator.close()
                raise OSError("the generator ended before it was ready; what it said stands above")
            gevent.sleep(0.05)
        self._begun = time.monotonic() + _LEAD_S
        generator.say({"begin": time.time() + _LEAD_S})
        self._hearing = gevent.spawn(self._hear)

    @property
    def name(self) -> str:
        """Of this process, in the record."""
        runner = self._environment.runner
        return str(runner.client_id) if isinstance(runner, WorkerRunner) else "local"

    def switch_on(self, protocol: str) -> int:
        """A user appears; returns its camera's number."""
        index = max(0, getattr(self._environment.runner, "worker_index", 0))
        camera = index * _PER_WORKER + next(self._numbers)
        if self._plan is not None and isinstance(self._plan.load, TraceLoad):
            # The workers take turns; who comes after the last camera of the trace has nothing to send.
            workers = max(1, int(getattr(options_of(self._environment), "expect_workers", 1) or 1))
            camera = camera % _PER_WORKER * workers + index
        if self._generator is not None:
            self._generator.say({"on": camera, "protocol": protocol})
            self._on[camera] = time.monotonic()
        return camera

    def switch_off(self, camera: int) -> None:
        """A user goes."""
        if self._generator is not None:
            self._generator.say({"off": camera})
        self._account(camera)

    def finish(self) -> dict[str, Any] | None:
        """End the run and wait for the record; None where there is none."""
        generator, plan = self._generator, self._plan
        if generator is None or plan is None:
            return None
        for camera in list(self._on):
            self._account(camera)
        ended_s = time.monotonic() - self._begun
        generator.say({"end": True})
        deadline = time.monotonic() + plan.patience_s + _FINISH_S
        while self._record is None and not generator.is_over and time.monotonic() < deadline:
            gevent.sleep(0.05)
        if self._hearing is not None:
            self._hearing.kill()
        generator.close()
        self._generator = None
        if self._record is None:
            return None
        return {"run": self._record, "planned": self._planned, "duration_s": ended_s}

    def _account(self, camera: int) -> None:
        """What a camera had to send while it was on, after the warm-up."""
        begun = self._on.pop(camera, None)
        if begun is None or self._plan is None:
            return
        from_s = max(begun - self._begun, self._warmup_s)
        to_s = time.monotonic() - self._begun
        load = self._plan.load
        if isinstance(load, TraceLoad):
            self._planned += sum(shot.camera == camera and from_s <= shot.due_s < to_s for shot in load.trace.shots)
        elif isinstance(load, FleetLoad):
            self._planned += load.fps * max(0.0, to_s - from_s)

    def _hear(self) -> None:
        generator = self._generator
        while generator is not None and not generator.is_over:
            for line in self._heard(generator):
                if "beats" in line:
                    for protocol, beat in line["beats"].items():
                        self._show(protocol, Beat.from_dict(beat))
                elif "run" in line:
                    self._record = line["run"]
            gevent.sleep(0.1)

    @staticmethod
    def _heard(generator: GeneratorProcess) -> list[dict[str, Any]]:
        lines = generator.hear()
        for line in lines:
            if "failed" in line:
                raise OSError(str(line["failed"]))
        return lines

    def _show(self, protocol: str, beat: Beat) -> None:
        """Put what is new into Locust's statistics, which it merges, draws and writes as it does its own."""
        stats = self._environment.stats
        for tenths, count in beat.latencies.items():
            for _ in range(count):
                stats.log_request(protocol, "frame", tenths / 10, 0)  # type: ignore[arg-type]  # it rounds
        for kind, count in [*beat.errors.items(), ("not sent", beat.not_sent)]:
            for _ in range(count):
                stats.log_request(protocol, "frame", None, 0)  # type: ignore[arg-type]  # no answer, no time
                stats.log_error(protocol, "frame", kind)


class Judge:
    """The Locust process that concludes: the master, or the only one.

    Args:
        environment: Locust's.

    Raises:
        BadSchedule: there are fewer users than protocols.
        BadSlo, NotJudgeable: there is none that could be judged by.
        OSError: nothing can be written where the results are to go.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        given = options_of(environment)
        self._slo = slo.load(Path(given.slo)) if given.slo else slo.parse(_DEFAULT_SLO)
        protocols = [str(getattr(user, "protocol", "")) for user in environment.user_classes]
        if given.num_users:  # else a person chooses them on the page
            Mix(dict.fromkeys(protocols, 1.0), range(int(given.num_users)))
        hint = "Locust asks for none; use `saccade-loadtest run`"
        judgeable.check(self._slo, Intended(protocols, given.cache, math.inf, False, metrics_hint=hint))
        outputs.prepare(Path(given.out))
        self._expected: set[str] = set()
        self._records: dict[str, Mapping[str, Any]] = {}
        self._began_at = ""
        self._begun = 0.0
        self._faults: list[str] = []

    def start(self) -> None:
        """Remember who takes part, and when it began."""
        runner = self._environment.runner
        self._records, self._faults, self._begun = {}, [], time.monotonic()
        self._began_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._expected = set(runner.clients) if isinstance(runner, MasterRunner) else set()

    def take(self, worker: str, record: Mapping[str, Any] | None) -> None:
        """A worker's record has come; from one of several before the run is over if it has left."""
        self._expected.add(worker)
        runner = self._environment.runner
        if isinstance(runner, MasterRunner) and runner.state in (STATE_RUNNING, STATE_SPAWNING):
            self._faults.append(
                f"worker {worker} left at {time.monotonic() - self._begun:.0f} s, before the run ended"
            )
        if record is not None:
            self._records[worker] = record

    def end(self) -> None:
        """The run is over: see whether that was when it was to be."""
        asked_s, ran_s = float(options_of(self._environment).run_time or 0), time.monotonic() - self._begun
        if ran_s < asked_s - _EARLY_S:
            self._faults.append(f"it was cut short: {asked_s:g} s were asked for, and it ended after {ran_s:.0f} s")

    def ask_and_wait(self, patience_s: float) -> None:
        """Ask the workers to finish, and wait until all records have come that can come."""
        runner = self._environment.runner
        if isinstance(runner, MasterRunner):  # who joined meanwhile takes part, too, also who was lost since
            self._expected |= set(runner.clients)
            for worker in list(runner.clients):
                runner.send_message(FINISH, client_id=worker)
        deadline = time.monotonic() + patience_s + _FINISH_S
        while (missing := self._expected - set(self._records)) and time.monotonic() < deadline:
            if not missing & _present(runner):
                return
            gevent.sleep(0.1)

    def conclude(self) -> int:
        """Merge, judge, write, tell; returns the exit code.

        Raises:
            OSError: the files cannot be written.
        """
        given = options_of(self._environment)
        run = merged(self._records, self._expected)
        if run is None:
            log.error("no worker told a result: there is nothing to judge")
            return 2
        run.began_at, run.machine = self._began_at, machine()
        run.faults += self._faults
        verdict = outputs.write(run, self._slo, Path(given.out))
        log.info("verdict: %s (%s)", verdict.outcome.upper(), Path(given.out) / outputs.REPORT)
        for reason in verdict.reasons:
            log.info("  %s", reason)
        return verdict.exit_code


def _present(runner: Any) -> set[str]:
    """The workers that the master hears."""
    if not isinstance(runner, MasterRunner):
        return set()
    return {worker.id for worker in runner.clients.all if worker.state != STATE_MISSING}


_DEFAULT_SLO: Final[dict[str, Any]] = {
    "name": "answers",
    "errors": {"at_most": 0.001},
    "generator": {"schedule_error_p99_ms": 100},
}


def merged(records: Mapping[str, Mapping[str, Any]], expected: set[str]) -> Run | None:
    """One run of the workers' records: histograms added up, lost workers named, the schedule as it really was.

    Args:
        records: by worker: "run", "planned" requests after the warm-up, "duration_s".
        expected: all that took part.
    """
    runs = {worker: run_file.from_dict(record["run"], where=worker) for worker, record in sorted(records.items())}
    if not runs:
        return None
    whole, *others = runs.values()
    for other in others:
        whole.merge(other)
    for worker in sorted(expected - set(runs)):
        whole.workers.append(Worker(worker, lost="it told no result"))
    whole.workers_expected = len(expected)
    planned = whole.schedule
    duration_s = max(max(float(record["duration_s"]) for record in records.values()), planned.warmup_s + planned.bin_s)
    measured_s = duration_s - planned.warmup_s
    # Closed loop plans no rate: what was due is what the answers let through.
    requests = sum(float(record["planned"]) for record in records.values())
    per_s = (requests if whole.loop == "open" else float(whole.measured().due)) / measured_s
    phases = [Phase("steady", planned.warmup_s, duration_s, per_s)]
    if planned.warmup_s:
        phases.insert(0, Phase("warm-up", 0.0, planned.warmup_s, per_s))
    whole.schedule = Schedule(
        arrivals=planned.arrivals,
        offered_per_s=per_s,
        duration_s=duration_s,
        warmup_s=planned.warmup_s,
        bin_s=planned.bin_s,
        seed=planned.seed,
        phases=tuple(phases),
    )
    return whole


def plan_of(environment: Environment, closed: bool) -> Plan:
    """Locust's options as a plan.

    Raises:
        BadSchedule, NotReady, ...: see ``run_command.FAILURES``.
    """
    given = options_of(environment)
    url = str(environment.host or given.host or "")
    headers = options.read_headers([one for one in str(given.header).split("\n") if one])
    found = Preflight(url, headers).look(given.model)
    known = DIALECTS if found.service == "transformer" else TENSOR_DIALECTS
    wanted = {getattr(user, "protocol", "") for user in environment.user_classes}
    mix = {name: 1.0 for name in known if name in wanted and (given.grpc or name != "v2-grpc")}
    if not mix:
        raise BadSchedule("V2GrpcUser needs --grpc-address with the host and port of gRPC")
    run_time_s = float(given.run_time or 0)
    load: FleetLoad | UsersLoad | TraceLoad
    if given.trace:
        load = TraceLoad(text=read_text(Path(given.trace)), name=Path(given.trace).name, switched=True)
    elif closed:
        load = UsersLoad(duration_s=_ROUND_S * 1000, switched=True)
    else:
        duration_s = max(_ROUND_S, run_time_s)
        load = FleetLoad(fps=given.fps, duration_s=duration_s, static=given.static, switched=True)
    script = Script(load, float(given.warmup), {}, given.cache, patience_s=float(given.patience))
    return options.make_plan(
        "locust", script, url, found, mix, Path(given.pictures), given.size, given.grpc, headers, note="by Locust"
    )


def failing(environment: Environment, action: Callable[[], None]) -> None:
    """Do something; for a reason that a person can act on, say it and end Locust with 2."""
    try:
        action()
    except FAILURES as error:
        log.error("%s", error)
        environment.process_exit_code = 2
        if environment.runner is not None:
            gevent.spawn_later(0.1, environment.runner.quit)
