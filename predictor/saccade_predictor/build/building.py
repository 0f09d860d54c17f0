"""Runs the worker that builds a plan, shows how far it is, and words every way it can end.

Knows no TensorRT: that is the worker's, in a process of its own (see there why).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from saccade_predictor.build.worker import Request
from saccade_predictor.engines.plan import PlanTensor

_WORKER: Final = "saccade_predictor.build.worker"

#: Told every event of the worker: phases, steps, the version of TensorRT.
Told = Callable[[dict[str, Any]], None]


class BuildFailed(ValueError):
    """TensorRT did not build the plan."""


@dataclass(frozen=True, slots=True)
class Built:
    """What the worker made.

    Attributes:
        tensorrt: its version.
        bytes: size of the plan.
        seconds: that TensorRT took.
        compute_capabilities: the plan is for.
        gpu: it was built on; empty where none was needed.
        inputs: of the plan; ``outputs`` likewise.
    """

    tensorrt: str
    bytes: int
    seconds: float
    compute_capabilities: tuple[str, ...]
    gpu: str
    inputs: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]


def run_worker(request: Request, log: Path, told: Told = lambda event: None) -> Built:
    """Build a plan in a process of its own.

    Args:
        request: what to build; the plan's file is written whole or not at all.
        log: where everything TensorRT says goes, as it says it.
        told: called with every event.

    Raises:
        BuildFailed: it could not be built, or the process died.
        OSError: the log cannot be written, or no process started.
        KeyboardInterrupt, SystemExit: whatever ends this process meanwhile; the worker has been ended then.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as events, log.open("wb") as output:
        try:
            process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-P", "-m", _WORKER, str(writing)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        finally:
            os.close(writing)
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # it died at once; how is seen below
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            version, end = "", dict[str, Any]()
            for event in _read(events):
                version = str(event.get("version", version))
                if "done" in event or "failed" in event:
                    end = event
                told(event)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
    if "failed" in end:
        raise BuildFailed(str(end["failed"]))
    if "done" not in end:
        raise BuildFailed(_died(code) + _last_line(log))
    return Built(
        version,
        int(end["bytes"]),
        float(end["seconds"]),
        tuple(end["compute_capabilities"]),
        str(end["gpu"]),
        tuple(PlanTensor.model_validate(tensor) for tensor in end["inputs"]),
        tuple(PlanTensor.model_validate(tensor) for tensor in end["outputs"]),
    )


def _read(events: Any) -> Iterator[dict[str, Any]]:
    for line in events:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut short by the worker's death
        if isinstance(event, dict):
            yield event


def _last_line(log: Path) -> str:
    """What a process that died said last, as the end of a sentence."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f" (its last line: {last[:300]})" if last else ""


def _died(code: int) -> str:
    if code >= 0:
        return f"the process that builds ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = "; was there enough memory?" if -code == signal.SIGKILL else ", inside TensorRT"
    return f"the process that builds was ended by {name}{hint}"
