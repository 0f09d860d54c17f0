"""One run from beginning to end: starts the generators, gives them one moment to begin, merges what they recorded.

Generators are processes (``generator``), one core each. One that dies is in the record as a lost worker, and makes the
verdict invalid; the others go on. Servers are asked for their metrics meanwhile. Prints nothing and judges nothing.
"""

from __future__ import annotations

import json
import math
import os
import platform
import selectors
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from saccade_loadtest.load.arrivals import BadSchedule
from saccade_loadtest.load.plan import Plan
from saccade_loadtest.record import run_file
from saccade_loadtest.record.live import Beat, Fairness
from saccade_loadtest.record.results import Run, Worker
from saccade_loadtest.record.scraping import Scraper

#: From "ready" of the last generator to the first request.
_LEAD_S: Final = 0.3
#: Making pictures takes about a second of CPU.
_PREPARE_S: Final = 120.0
#: After the last request and the clients' patience, a generator writes its record.
_FINISH_S: Final = 60.0
_STOP_S: Final = 10.0


class RunFailed(Exception):
    """A run could not begin; the sentence says why."""


@dataclass(frozen=True)
class Disturbance:
    """A command that is run once in the middle of a run, as a rolling restart.

    Attributes:
        command: for the shell's rules of quoting, without a shell.
        at_s: seconds since the run's first moment.
    """

    command: str
    at_s: float

    def __post_init__(self) -> None:
        """Refuse, before the run, what could not be done in the middle of it.

        Raises:
            BadSchedule: there is no such command, or no such moment.
        """
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise BadSchedule(f"--during {self.command!r} cannot be read: {error}") from error
        if not words or shutil.which(words[0]) is None:
            raise BadSchedule(f"--during {self.command!r}: there is no command {words[0] if words else ''!r} here")
        if not math.isfinite(self.at_s):
            raise BadSchedule(f"--at is {self.at_s}; expected seconds from the beginning of the run")


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        run: merged.
        fairness: over the cameras.
    """

    run: Run
    fairness: Fairness = field(default_factory=Fairness)


class GeneratorProcess:
    """A generator and its lines. A context manager: the process ends with the block."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = [sys.executable, "-m", "saccade_loadtest.sending.generator"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[bytes] = self._process.stdin
        self.stdout: IO[bytes] = self._process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self._rest = b""
        self.is_over = False

    def __enter__(self) -> GeneratorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def say(self, line: Mapping[str, Any]) -> None:
        """Tell it something; one that has ended hears nothing."""
        try:
            self._in.write(json.dumps(line).encode() + b"\n")
            self._in.flush()
        except (BrokenPipeError, ValueError):
            self.is_over = True

    def hear(self) -> list[dict[str, Any]]:
        """The whole lines that have come; at the end of its output ``is_over`` turns true."""
        try:
            while True:
                data = os.read(self.stdout.fileno(), 1 << 20)
                if not data:
                    self.is_over = True
                    break
                self._rest += data
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines if line.strip()]

    def close(self) -> None:
        """End it: first by closing its input, then by force."""
        for stream in (self._in, self.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                continue
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Conductor:
    """Runs a plan.

    Args:
        plan: what is to be done.
        processes: generators on this machine.
        metrics: URLs of the servers' metrics, by service.
        disturbance: a command in the middle of it.
        on_beat: called with the seconds since the first moment and what is new, by protocol, of one generator.
        should_stop: asked about ten times a second; a reason ends the run early.
        generator: makes a generator; tests give one of their own.
    """

    def __init__(
        self,
        plan: Plan,
        processes: int = 1,
        metrics: Mapping[str, str] | None = None,
        disturbance: Disturbance | None = None,
        on_beat: Callable[[float, dict[str, Beat]], None] = lambda at_s, beats: None,
        should_stop: Callable[[], str] = lambda: "",
        generator: Callable[[str], GeneratorProcess] = GeneratorProcess,
    ) -> None:
        self._plan, self._count = plan, processes
        self._metrics, self._disturbance = dict(metrics or {}), disturbance
        self._on_beat, self._should_stop, self._make = on_beat, should_stop, generator
        self._generators: list[GeneratorProcess] = []
        self._records: dict[str, Run] = {}
        self._fairness = Fairness()
        self._disturbing: subprocess.Popen[bytes] | None = None
        self._notes: list[str] = []
        self._faults: list[str] = []

    def run(self) -> Outcome:
        """Do it.

        Raises:
            RunFailed: a generator could not begin.
        """
        self._generators = [self._make(f"generator-{number + 1}") for number in range(self._count)]
        selector = selectors.DefaultSelector()
        try:
            for generator in self._generators:
                selector.register(generator.stdout, selectors.EVENT_READ, generator)
            self._prepare(selector)
            warmup_s = self._plan.schedule().warmup_s
            scraper = Scraper(self._metrics, warmup_s=warmup_s + _LEAD_S if warmup_s else 0.0)
            scraper.begin()
            began_at = datetime.now(UTC)
            self._drive(selector)
            server = scraper.end()
        finally:
            selector.close()
            for generator in self._generators:
                generator.close()
            self._end_disturbance()
        run = self._merged(began_at)
        run.server = server
        return Outcome(run, self._fairness)

    def _prepare(self, selector: selectors.BaseSelector) -> None:
        plan = self._plan.model_dump(mode="json")
        for index, generator in enumerate(self._generators):
            generator.say({"plan": plan, "index": index, "count": self._count, "worker": generator.name})
        waiting = {generator.name for generator in self._generators}
        deadline = time.monotonic() + _PREPARE_S
        while waiting:
            if time.monotonic() > deadline:
                raise RunFailed(f"{', '.join(sorted(waiting))} was not ready within {_PREPARE_S:g} s")
            for key, _ in selector.select(0.5):
                for line in key.data.hear():
                    if "failed" in line:
                        raise RunFailed(str(line["failed"]))
                    waiting.discard(key.data.name)
                if key.data.is_over:
                    raise RunFailed(f"{key.data.name} ended before the run began; what it said stands above")

    def _drive(self, selector: selectors.BaseSelector) -> None:
        begin = time.time() + _LEAD_S
        begin_monotonic = time.monotonic() + _LEAD_S
        for generator in self._generators:
            generator.say({"begin": begin})
        longest_s = self._plan.load.duration_s + self._plan.patience_s + _FINISH_S
        running = set(self._generators)
        is_stopping = False
        while running:
            for key, _ in selector.select(0.1):
                self._hear(key.data)
                if key.data.is_over:
                    selector.unregister(key.fileobj)
                    running.discard(key.data)
            now_s = time.monotonic() - begin_monotonic
            self._disturb(now_s)
            if not is_stopping and (reason := self._should_stop()):
                is_stopping = True
                longest_s = now_s + self._plan.patience_s + _FINISH_S
                for generator in running:
                    generator.say({"stop": reason})
            if now_s > longest_s:
                for generator in running:
                    self._faults.append(f"{generator.name} did not end within {longest_s:.0f} s")
                return

    def _hear(self, generator: GeneratorProcess) -> None:
        for line in generator.hear():
            if "beats" in line:
                beats = {name: Beat.from_dict(beat) for name, beat in line["beats"].items()}
                self._on_beat(float(line["at_s"]), beats)
            elif "run" in line:
                self._records[generator.name] = run_file.from_dict(line["run"], where=generator.name)
                told = line["fairness"]
                one = Fairness()
                one.asked = Counter({int(camera): count for camera, count in told["asked"].items()})
                one.served = Counter({int(camera): count for camera, count in told["served"].items()})
                self._fairness.add(one)

    def _disturb(self, now_s: float) -> None:
        """Run the command when its moment has come, and see how it ended."""
        if self._disturbance is None:
            return
        if self._disturbing is None:
            if now_s >= self._disturbance.at_s:
                self._notes.append(f"at {now_s:.0f} s: {self._disturbance.command}")
                self._disturbing = subprocess.Popen(  # noqa: S603 - the user's own command
                    shlex.split(self._disturbance.command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                )
        elif (status := self._disturbing.poll()) is not None:
            if status:
                self._faults.append(f"the command {self._disturbance.command!r} ended with {status}")
            self._disturbance = None

    def _end_disturbance(self) -> None:
        if self._disturbance is None:
            return
        if self._disturbing is None:
            self._faults.append(f"the run ended before the command {self._disturbance.command!r} was due")
            return
        try:
            status = self._disturbing.wait(_FINISH_S)
        except subprocess.TimeoutExpired:
            self._disturbing.terminate()
            status = self._disturbing.wait()
        if status:
            self._faults.append(f"the command {self._disturbance.command!r} ended with {status}")

    def _merged(self, began_at: datetime) -> Run:
        run = self._plan.run()
        for generator in self._generators:
            record = self._records.get(generator.name)
            if record is not None:
                run.merge(record)
            else:
                lost = f"it ended with {generator.exit_status} and told no result"
                run.workers.append(Worker(generator.name, lost=lost))
        run.workers_expected = self._count
        run.began_at = began_at.isoformat(timespec="seconds")
        run.machine = machine()
        run.notes += self._notes
        run.faults += self._faults
        return run


def machine() -> dict[str, str]:
    """Where the generators run, without names or paths."""
    found = {
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            found["cpu"] = value.strip()
            break
    return found
