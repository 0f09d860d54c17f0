"""Servers as processes of their own session, which end with the bench whatever ends it."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import itertools
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

HOST: Final = "127.0.0.1"
#: Below the usual ``net.ipv4.ip_local_port_range``.
PORTS: Final = range(20000, 32000)
_STOP_S: Final = 8.0
_LOG_BYTES: Final = 4000
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)
_given = itertools.count(secrets.randbelow(len(PORTS)))


class ServerFailed(Exception):
    """A server did not start; the message has the end of its log."""


def free_port() -> int:
    """A port that nobody uses at present, from a range that Linux gives to nobody who does not ask for it.

    A process is not given one twice until it has been given all; each begins somewhere else. So servers that are still
    starting, of this process or of another, meet neither each other nor a client's end of a connection.
    """
    while True:
        port = PORTS[next(_given) % len(PORTS)]
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port


class Server:
    """One server process. A context manager: it, and what it started, ends with the block.

    Args:
        name: for messages.
        command: program and arguments.
        environment: added to the bench's own.
        folder: where it runs.
        log: file for its output.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        self._process.terminate()

    def ended(self, within_s: float) -> int:
        """Wait for it to end by itself; returns its exit status.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        return self._process.wait(within_s)

    def stop(self) -> None:
        """End it politely, then, with everything of its session, by force."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait_ready(self, ports: Iterable[int], ready_paths: Mapping[int, Sequence[str]], within_s: float) -> None:
        """Wait until it accepts connections, and its ready routes say yes.

        Args:
            ports: where it shall listen.
            ready_paths: port -> paths that must answer 200.
            within_s: how long it may take.

        Raises:
            ServerFailed: it ended, or took longer.
        """
        deadline = time.monotonic() + within_s
        waiting = [(port, path) for port in ports for path in ready_paths.get(port, [""])]
        while waiting:
            if self._process.poll() is not None:
                raise ServerFailed(f"{self.name} ended with {self._process.returncode}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} is not ready after {within_s:g} s: {self.last_words()}")
            waiting = [(port, path) for port, path in waiting if get(port, path) is None]
            if waiting:
                time.sleep(0.1)

    def last_words(self) -> str:
        """The last line of its log that is not a table's or a traceback's frame."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _LOG_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        telling = [line.strip() for line in lines if line.strip() and not line.startswith(("|", "+", " "))]
        return telling[-1][:300] if telling else "its log is empty"


def get(port: int, path: str) -> bytes | None:
    """Body of an answer of 200; None if there is no such answer. An empty path only connects."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.connect()
        if not path:
            return b""
        connection.request("GET", path)
        with connection.getresponse() as answer:
            return answer.read() if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _end_with_parent() -> None:
    """In the child: ask Linux for SIGTERM should the bench be killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
