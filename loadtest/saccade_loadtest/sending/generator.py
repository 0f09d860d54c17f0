"""One generator as a process: ``python -m saccade_loadtest.sending.generator``, driven over its standard streams.

Reads JSON lines and writes JSON lines. In: ``{"plan": ..., "index": 0, "count": 1, "worker": "name"}``, then
``{"begin": moment}`` (Unix seconds) once it has answered ``{"ready": true}``; while it runs ``{"on": camera}`` (with
its ``"protocol"``, if it is to have another than the mix gives it), ``{"off": camera}``, ``{"end": true}`` (nothing
more is sent) and ``{"stop": reason}`` (likewise, and the record tells that it was cut short). Out: ``{"beats": ...}``
every second, ``{"run": ...}`` at the end, ``{"failed": sentence}``. When its input closes, whoever started it is gone,
and it ends. Has an interpreter of its own, so that neither a web page nor gevent takes time from the schedule.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from saccade_loadtest.load.arrivals import BadSchedule
from saccade_loadtest.load.frames import Album, NoPictures, read_photos
from saccade_loadtest.load.plan import Plan
from saccade_loadtest.load.sources import FleetSource, WaitingSource
from saccade_loadtest.load.trace import Shot
from saccade_loadtest.record import run_file
from saccade_loadtest.record.live import Fairness, LiveRecorder
from saccade_loadtest.sending.agreement import Comparison, NoReference, ask_about
from saccade_loadtest.sending.dialects import Dialect, Tensor, UnknownDialect
from saccade_loadtest.sending.engine import Engine, Unreachable
from saccade_loadtest.sending.oip_wire import DTYPES

#: Descriptors that are no connections: streams, epoll, gRPC's.
_OTHER_FILES: Final = 64
#: Different tensors that a predictor is asked about.
_TENSORS: Final = 8
_TICK_S: Final = 1.0
#: linux/prctl.h
_PR_SET_TIMERSLACK: Final = 29
#: The CPU time is judged of the busiest stretch of so many seconds, too: in a mean a spike disappears.
_BUSY_S: Final = 5.0
#: What it ends with for a reason that a person can act on.
FAILURES: Final = (BadSchedule, UnknownDialect, Unreachable, NoPictures, NoReference, OSError)


class CpuUse(NamedTuple):
    """CPU time up to a moment: of the whole process, and of the thread that keeps the schedule."""

    at_s: float
    process_s: float
    thread_s: float


class Generator:
    """One share of a plan.

    Args:
        plan: the whole run.
        index: which share this is, of ``count``.
        count: how many generators share it.
        worker: name in the record.
    """

    def __init__(self, plan: Plan, index: int, count: int, worker: str) -> None:
        self.recorder = LiveRecorder(plan.run(), worker)
        self.fairness = Fairness()
        self.source = plan.source(index, count)
        content, key = contents(plan)
        self.mix = mix = plan.new_mix()
        dialects = {name: Dialect(name, plan.endpoint, content) for name in mix.protocols}
        limits = plan.limits(count)
        wanted = limits.most_open
        limits = replace(limits, most_open=allow_open(wanted))
        if limits.most_open < wanted:
            self.recorder.run.notes.append(
                f"only {limits.most_open:,} requests may be under way, where the load may make {wanted:,}: this "
                "machine gives a process no more descriptors (ulimit -n)"
            )
        compare = Comparison(ask_about(content, plan.endpoint)) if plan.agreement else None
        self.engine = Engine(dialects, key, mix, self.source, self.recorder, limits, self._ended, compare)
        self._warmup_s = self.recorder.run.schedule.warmup_s
        self._used: deque[CpuUse] = deque()
        self._first: CpuUse | None = None
        # gRPC is done by threads of its own, which may run while this one does.
        cores = 2.0 if "v2-grpc" in mix.protocols else 1.0
        self.recorder.worker.cores = min(cores, float(len(os.sched_getaffinity(0))))

    def run(self, beat: Callable[[float, Mapping[str, Any]], None]) -> None:
        """Send everything, and wait for the answers; to be called after the engine's ``begin``.

        Args:
            beat: called every second with the time and what is new.
        """
        sleep_exactly()
        gc.collect()
        gc.freeze()  # what is here stays; the collector need not look at it again in the middle of the schedule

        def tick(now_s: float) -> None:
            self._measure_cpu(now_s)
            beat(now_s, self.recorder.take_beats())

        with contextlib.closing(self.engine):
            self.engine.run(tick, _TICK_S)
        self._measure_cpu(self.engine.now_s())
        beat(self.engine.now_s(), self.recorder.take_beats())
        self.recorder.run.notes += [f"first {kind}: {text}" for kind, text in self.engine.samples.items()]

    def _ended(self, shot: Shot, is_answered: bool) -> None:
        self.fairness.count(shot.camera, is_answered)

    def _measure_cpu(self, now_s: float) -> None:
        """CPU time from the end of the warm-up to the last request: waiting for late answers tells nothing."""
        if now_s < self._warmup_s:
            return
        use = CpuUse(now_s, time.process_time(), time.thread_time())
        worker = self.recorder.worker
        if self._first is None:
            self._first = use
            self._used.append(use)
        elif not (self.source.is_over or self.engine.stopped) or worker.wall_s == 0:
            worker.wall_s = use.at_s - self._first.at_s
            worker.cpu_s, worker.thread_s = use.process_s - self._first.process_s, use.thread_s - self._first.thread_s
            worker.busiest_share = max(worker.busiest_share, self._recent_share(use, worker.cores))

    def _recent_share(self, use: CpuUse, cores: float) -> float:
        """Of the last few seconds; 0 until there are so many."""
        self._used.append(use)
        while use.at_s - self._used[0].at_s >= _BUSY_S + _TICK_S:
            self._used.popleft()
        first = self._used[0]
        wall_s = use.at_s - first.at_s
        if wall_s < _BUSY_S - _TICK_S / 2:
            return 0.0
        return max((use.process_s - first.process_s) / cores, use.thread_s - first.thread_s) / wall_s


def sleep_exactly() -> None:
    """Ask Linux not to let this thread sleep up to 50 us longer than it asks for, which it does to save wake-ups.

    Where that cannot be asked for, requests go out so much later, which the record tells.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)


def allow_open(wanted: int) -> int:
    """Let this process have so many connections; returns how many it may have.

    One that the system refused would look like a failure of the server.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - _OTHER_FILES)


def contents(plan: Plan) -> tuple[Mapping[Any, Any], Callable[[Shot], Any]]:
    """What a plan sends, and which of it a shot is."""
    if plan.service == "predictor":
        if plan.tensor is None:
            raise BadSchedule("a predictor's plan needs the tensor that it takes")
        tensors = {number: _random(plan, number) for number in range(_TENSORS)}
        return tensors, lambda shot: (shot.camera + shot.scene) % _TENSORS
    pictures = plan.pictures
    album = Album(
        read_photos(Path(pictures.folder)),
        pictures.width,
        pictures.height,
        pictures.scenes,
        pictures.noises,
        plan.load.lights,
        pictures.quality,
    )
    return album.pictures, album.key


def _random(plan: Plan, number: int) -> Tensor:
    """One row of noise in the range that the datatype has for pictures: whole numbers to 255, others to 1."""
    assert plan.tensor is not None
    name, datatype, shape = plan.tensor.name, plan.tensor.datatype, plan.tensor.shape
    if datatype not in DTYPES:
        raise BadSchedule(f"input {name!r} is {datatype}; a predictor is asked about {', '.join(DTYPES)}")
    chance = np.random.default_rng(number)
    values = chance.random(shape)
    if not datatype.startswith("FP"):
        values = values * (127 if datatype == "INT8" else 255)
    return Tensor(name, datatype, shape, values.astype(DTYPES[datatype]).tobytes())


class _Streams:
    """The two streams of the process, and what comes in while the generator runs."""

    def __init__(self, generator: Generator | None = None) -> None:
        self.generator = generator
        self._rest = b""
        self._lines: list[bytes] = []

    def say(self, line: Mapping[str, Any]) -> None:
        """Write a line; nobody may be there any more to read it, which ``obey`` notices."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            while data:
                data = data[os.write(1, data) :]
        except BrokenPipeError:
            return

    def wait(self) -> dict[str, Any]:
        """The next line, before the run.

        Raises:
            EOFError: there is none any more.
        """
        while not self._lines:
            self._fill()
        line: dict[str, Any] = json.loads(self._lines.pop(0))
        return line

    def obey(self) -> None:
        """Read what has come in while the run goes on, and do it."""
        assert self.generator is not None
        try:
            self._fill()
        except EOFError:
            self.generator.engine.unwatch(0)
            self._cut_short("whoever drove it is gone")
            return
        self.act()

    def act(self) -> None:
        """Do what has been read."""
        assert self.generator is not None
        engine, source = self.generator.engine, self.generator.source
        lines, self._lines = self._lines, []
        for line in map(json.loads, lines):
            if "stop" in line:
                self._cut_short(str(line["stop"]))
            elif isinstance(source, FleetSource | WaitingSource):
                if "on" in line:
                    if "protocol" in line:
                        self.generator.mix.assign(int(line["on"]), str(line["protocol"]))
                    source.switch_on(int(line["on"]), max(0.0, engine.now_s()))
                elif "off" in line:
                    source.switch_off(int(line["off"]))
                    self.generator.mix.release(int(line["off"]))
                elif "end" in line:
                    source.end()

    def _cut_short(self, why: str) -> None:
        assert self.generator is not None
        self.generator.engine.stop()
        fault = f"it was cut short at {self.generator.engine.now_s():.0f} s: {why}"
        self.generator.recorder.run.faults.append(fault)

    def _fill(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines += [line for line in lines if line.strip()]


def main() -> int:
    """Run one generator."""
    streams = _Streams()
    try:
        asked = streams.wait()
        try:
            generator = Generator(
                Plan.model_validate(asked["plan"]), int(asked["index"]), int(asked["count"]), str(asked["worker"])
            )
        except FAILURES as error:
            streams.say({"failed": str(error)})
            return 1
        streams.generator = generator
        streams.say({"ready": True})
        begin = float(streams.wait()["begin"])
    except EOFError:
        return 1
    generator.engine.begin(time.monotonic() + begin - time.time())
    streams.act()  # what came in together with the moment
    generator.engine.watch(0, streams.obey)

    def beat(now_s: float, beats: Mapping[str, Any]) -> None:
        streams.say({"at_s": now_s, "beats": beats, "open": generator.engine.open})

    generator.run(beat)
    fairness = {"asked": generator.fairness.asked, "served": generator.fairness.served}
    streams.say({"run": run_file.to_dict(generator.recorder.run), "fairness": fairness})
    return 0


if __name__ == "__main__":
    sys.exit(main())
