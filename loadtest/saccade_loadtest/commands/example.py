"""The example pair as a target: started with ``saccade up``, asked for its addresses, stopped in the end.

Uses the command as a person would; nothing of the services is imported.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_START_S: Final = 240.0
_STOP_S: Final = 60.0
_METRICS: Final = re.compile(r"^curl -sS (http://\S+/metrics)$", re.MULTILINE)
_CONFIG: Final = re.compile(r"^curl -sS (http://\S+)/v2/models/\S+/config$", re.MULTILINE)
#: The last line that ``saccade up`` prints once both are ready.
_READY: Final = "Ctrl-C stops both"


class ExampleFailed(Exception):
    """The pair did not start or stop as it should; the sentence has the end of its output."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the pair listens.

    Attributes:
        url: REST of the transformer.
        grpc: host and port of its gRPC.
        predictor: REST of the predictor.
        metrics: URLs by service.
    """

    url: str
    grpc: str
    predictor: str
    metrics: dict[str, str]


class ExamplePair:
    """Both services on this machine.

    Args:
        log: file for their output.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Addresses:
        """Start them and wait until both are ready.

        Raises:
            ExampleFailed: they are not; nothing of them runs any more.
        """
        rest, grpc = _free_ports(2)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "saccade_cli", "up", f"--port={rest}", f"--grpc-port={grpc}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            text = self._wait()
            transformer, predictor = _METRICS.findall(text)
            [config] = _CONFIG.findall(text)
        except ValueError as error:
            self._end()
            raise ExampleFailed(f"`saccade up` does not tell its addresses; see {self._log}") from error
        except BaseException:
            self._end()
            raise
        metrics = {"transformer": transformer, "predictor": predictor}
        return Addresses(f"http://127.0.0.1:{rest}", f"127.0.0.1:{grpc}", config, metrics)

    def stop(self) -> None:
        """Stop them.

        Raises:
            ExampleFailed: they ended otherwise than they should.
        """
        if status := self._end():
            raise ExampleFailed(f"the example pair ended with {status}; {self._last_words()}")

    def _wait(self) -> str:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while True:
            text = self._log.read_text(errors="replace")
            if _READY in text:
                return text
            if (status := self._process.poll()) is not None:
                raise ExampleFailed(f"the example pair ended with {status}; {self._last_words()}")
            if time.monotonic() > deadline:
                raise ExampleFailed(f"the example pair was not ready within {_START_S:g} s; {self._last_words()}")
            time.sleep(0.1)

    def _end(self) -> int:
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "its last lines: " + " | ".join(lines[-5:]) if lines else "it said nothing"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
