"""Knative's queue-proxy as a process in front of a service: started, probed and drained as Kubernetes does it.

The program is the real one (``make tools`` installs it). Two of its ports are constants, so that one of them runs at
a time on a machine; whoever comes second waits. Also here: ``fake_service.py`` as a process.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from integration_support import HOST, ROOT, SOON_S, Address, Answer, Service, eventually
from tools import missing

TOOLS = ROOT / ".tools" / "bin"
PROGRAM = TOOLS / "queue"
#: What the queue-proxy listens on besides the port it is told: /wait-for-drain, and the autoscaler's metrics.
ADMIN_PORT, METRICS_PORT = 8022, 9090
#: Time without a request after which a queue-proxy that was told to end does so.
QUIET_S = 30.0
#: An abstract socket: like the ports it belongs to the network namespace, and it goes with its process.
_LOCK = "\0saccade-queue-proxy"


def need_program() -> None:
    """Skip where the queue-proxy is not installed; with ``CI=true`` fail."""
    script = (ROOT / "requirements" / "tools.sh").read_text()
    [module] = re.findall(r"^install queue (\S+)$", script, re.MULTILINE)
    stamp = TOOLS / "queue.version"
    if PROGRAM.exists() and stamp.exists() and stamp.read_text().strip() == module:
        return
    missing(f"needs Knative's queue-proxy: make tools (with Go: GOBIN=$PWD/.tools/bin go install {module})")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Be the only one on this machine who starts queue-proxies; skip if others have their ports."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:

        def taken() -> bool:
            with contextlib.suppress(OSError):
                lock.bind(_LOCK)
                return True
            return False

        eventually("nobody else on this machine tests with queue-proxies", taken, 300)
        for port in (ADMIN_PORT, METRICS_PORT):
            try:
                # On all addresses, as the queue-proxy listens.
                socket.create_server(("", port)).close()
            except OSError:
                pytest.skip(f"port {port}, which the queue-proxy cannot do without, is in use")
        yield


@dataclass
class QueueProxy:
    """A queue-proxy in front of one port of a service.

    Args:
        user_port: the service's port that requests go to.
        port: where it listens, HTTP/1.1 and HTTP/2 without TLS.
        log: file for its output.
        probe: a Kubernetes probe of the service, or nothing.
        environment: its further settings, for example ``REVISION_TIMEOUT_SECONDS``.
    """

    user_port: int
    port: int
    log: Path
    probe: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> QueueProxy:
        logging = {"level": "warn", "encoding": "json", "outputPaths": ["stderr"], "errorOutputPaths": ["stderr"]}
        settings = {
            "CONTAINER_CONCURRENCY": "0",
            "QUEUE_SERVING_PORT": str(self.port),
            "QUEUE_SERVING_TLS_PORT": "0",  # opened only where there is a certificate
            "USER_PORT": str(self.user_port),
            "REVISION_TIMEOUT_SECONDS": "300",
            "SERVING_LOGGING_CONFIG": json.dumps(logging),
            "SERVING_LOGGING_LEVEL": "warn",
            "SERVING_NAMESPACE": "default",
            "SERVING_CONFIGURATION": "detector",
            "SERVING_REVISION": "detector-1",
            "SERVING_POD": "detector-1-pod",
            "SERVING_POD_IP": HOST,
            **({} if self.probe is None else {"SERVING_READINESS_PROBE": json.dumps(self.probe)}),
            **self.environment,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([str(PROGRAM)], env=settings, stdout=log, stderr=log)
        try:
            for port in (self.port, ADMIN_PORT, METRICS_PORT):
                eventually(f"the queue-proxy listens on {port}", partial(self._accepts, port))
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _accepts(self, port: int) -> bool:
        assert self.process.poll() is None, f"the queue-proxy ended:\n{self.log.read_text()}"
        with contextlib.suppress(OSError):
            socket.create_connection((HOST, port), 1).close()
            return True
        return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def address(self) -> Address:
        """Where clients of the service ask instead; REST and gRPC have the one port."""
        return Address(self.port, self.port, METRICS_PORT)

    def ready(self, agent: str = "kube-probe/1.33", timeout_s: float = SOON_S) -> Answer:
        """The pod's readiness, as the kubelet or the activator asks for it."""
        headers = {"user-agent": agent, "k-network-probe": "queue"}
        return self.address.http("/", headers=headers, timeout_s=timeout_s)

    def is_ready(self) -> bool:
        answered = self.ready()
        assert (answered.status, answered.body) in ((200, b"queue"), (503, b""), (503, b"shutting down\n")), answered
        return answered.status == 200

    def wait_for_drain(self) -> int:
        """The service's preStop hook; returns the status when the service may be told to end."""
        connection = http.client.HTTPConnection(HOST, ADMIN_PORT, timeout=4 * QUIET_S)
        with contextlib.closing(connection):
            connection.request("GET", "/wait-for-drain")
            return connection.getresponse().status

    def terminate(self) -> None:
        """What the kubelet does to it at the same time as it runs the service's preStop hook."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class FakeService(Service):
    """``fake_service.py`` as a process; its models are named by ``--model_name``."""

    def start(self) -> None:
        settings = {
            "HOST": HOST,
            "METRICS_PORT": str(self.address.metrics),
            "DRAIN_QUIET_S": "0",
            **self.environment,
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SACCADE_")}
        ports = [f"--http_port={self.address.rest}", f"--grpc_port={self.address.grpc}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "fake_service.py"), *ports, *self.flags],
                env={
                    **inherited,
                    "PYTHONSAFEPATH": "1",
                    **{f"SACCADE_FAKE_{key}": value for key, value in settings.items()},
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
