"""The pair as two local processes: a predictor and the transformer in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

from saccade_serving.client import ConnectionFailed, RestClient

#: Reading the code of both services from a cold disk takes most of this.
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0
#: Reasons that waiting does not mend: the model is no ready graph, or the settings contradict it.
_PERMANENT = ("as saccade-build writes them", "does not fit this transformer")


class PairFailed(Exception):
    """The pair could not be started; the message tells a person why."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the pair listens on this machine."""

    rest: int
    grpc: int
    metrics: int
    predictor_rest: int
    predictor_grpc: int
    predictor_metrics: int

    @classmethod
    def choose(cls, host: str, **fixed: int) -> Ports:
        """Use the given ports, check that they are free, and choose free ones for the rest.

        Raises:
            PairFailed: a given port is in use, or given twice.
        """
        given: set[int] = set()
        for name, port in fixed.items():
            option = {"rest": "--port", "grpc": "--grpc-port"}.get(name, f"--{name}-port")
            if port in given or not _is_free(host, port):
                why = "given twice" if port in given else "in use"
                raise PairFailed(f"port {port} is {why}; choose another with {option}")
            given.add(port)
        names = [name for name in cls.__dataclass_fields__ if name not in fixed]
        # As many more as are given, since the system may name those too.
        free = [port for port in _free_ports(host, len(names) + len(given)) if port not in given]
        return cls(**fixed, **dict(zip(names, free, strict=False)))


@dataclass(slots=True)
class Pair:
    """Starts, watches and stops both processes.

    Args:
        repository: the model repository.
        model: name of the model in it.
        host: address to listen on.
        ports: where.
        predictor_protocol: how the transformer calls the predictor: "v2" or "grpc-v2".
        log_dir: directory for one log file per process; None lets them write to this process's stderr.
        environment: further environment variables for both.
    """

    repository: Path
    model: str
    host: str
    ports: Ports
    predictor_protocol: str = "v2"
    log_dir: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Base URL of the transformer."""
        return f"http://{self.host}:{self.ports.rest}"

    @property
    def metrics_urls(self) -> dict[str, str]:
        """Where each process serves its metrics, by the process's name."""
        ports = {"transformer": self.ports.metrics, "predictor": self.ports.predictor_metrics}
        return {name: f"http://{self.host}:{port}/metrics" for name, port in ports.items()}

    def start(self) -> None:
        """Start both processes without waiting for them."""
        ports = self.ports
        self._spawn(
            "predictor",
            "saccade_predictor",
            [f"--http_port={ports.predictor_rest}", f"--grpc_port={ports.predictor_grpc}"],
            {
                "SACCADE_PREDICTOR_MODEL_REPOSITORY": str(self.repository),
                "SACCADE_PREDICTOR_METRICS_PORT": str(ports.predictor_metrics),
            },
        )
        port = ports.predictor_rest if self.predictor_protocol == "v2" else ports.predictor_grpc
        self._spawn(
            "transformer",
            "saccade_transformers",
            [
                f"--http_port={ports.rest}",
                f"--grpc_port={ports.grpc}",
                f"--predictor_host={self.host}:{port}",
                f"--predictor_protocol={self.predictor_protocol}",
            ],
            {"SACCADE_TRANSFORMER_METRICS_PORT": str(ports.metrics)},
        )

    async def wait_ready(self, on_step: Callable[[str], None] = lambda step: None) -> None:
        """Wait for the V2 ready routes of both.

        Args:
            on_step: told what is being waited for.

        Raises:
            PairFailed: a process ended, or the time is over; with the end of its log.
        """
        for name, port in (("predictor", self.ports.predictor_rest), ("transformer", self.ports.rest)):
            on_step(f"waiting for the {name}")
            await self._wait_ready(name, f"http://{self.host}:{port}")

    def check(self) -> None:
        """Notice a process that has ended.

        Raises:
            PairFailed: one has.
        """
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                raise PairFailed(f"the {name} ended with exit code {code}{self._log_tail(name)}")

    def stop(self) -> dict[str, int]:
        """Stop the transformer, then the predictor; returns their exit codes."""
        codes = {}
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            process.send_signal(signal.SIGTERM)
            try:
                codes[name] = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        return codes

    async def _wait_ready(self, name: str, url: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        client = RestClient(url)
        try:
            while (reason := await self._not_ready_because(client)) is not None:
                self.check()
                if any(words in reason for words in _PERMANENT):
                    raise PairFailed(f"the {name} cannot serve: {reason}")
                if time.monotonic() > deadline:
                    raise PairFailed(
                        f"the {name} was not ready after {START_TIMEOUT_S:g} s ({reason}){self._log_tail(name)}"
                    )
                await asyncio.sleep(0.05)
        finally:
            await client.close()

    async def _not_ready_because(self, client: RestClient) -> str | None:
        """What the ready route says, None when the model is ready."""
        try:
            status, _, body = await client.call("GET", f"/v2/models/{quote(self.model, safe='')}/ready", 2)
        except (ConnectionFailed, TimeoutError):
            return "it does not answer"
        return None if status == 200 else body[:1000].decode(errors="replace")

    def _spawn(self, name: str, module: str, flags: list[str], variables: dict[str, str]) -> None:
        prefix = f"SACCADE_{name.upper()}_"
        defaults = {
            prefix + "DRAIN_QUIET_S": "0",  # nobody routes traffic here but this machine
            prefix + "LOG_LEVEL": "info" if self.log_dir else "warning",
            prefix + "LOG_FORMAT": "text",
        }
        with self._log(name) as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own module and flags
                [sys.executable, "-m", module, f"--model_name={self.model}", *flags],
                env={**defaults, **os.environ, prefix + "HOST": self.host, **variables, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops both in order
            )

    @contextlib.contextmanager
    def _log(self, name: str) -> Iterator[IO[bytes] | None]:
        if self.log_dir is None:
            yield None
            return
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with (self.log_dir / f"{name}.log").open("wb") as file:
            yield file

    def _log_tail(self, name: str, lines: int = 15) -> str:
        if self.log_dir is None:
            return "; its log is above"
        text = (self.log_dir / f"{name}.log").read_text(errors="replace").splitlines()
        return f"; the end of {self.log_dir / name}.log:\n" + "\n".join(text[-lines:])


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise PairFailed(f"cannot listen on {host}: {error.strerror}; choose another with --host") from error
            return False
    return True


def _free_ports(host: str, count: int) -> list[int]:
    """Ask the system for ports, all held open until the last is known, so that they differ."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]
