"""A client in a process of its own, so that its work and the bench's are told apart."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from types import TracebackType

from measuring.cpu import cpu_s, total_cpu_s, with_descendants
from measuring.payload import Protocol
from measuring.samples import ClientError, Load, Sample

#: A server may still be logging and counting when its last answer has arrived.
_SETTLE_S = 0.02


class Client:
    """Measures servers of one protocol. A context manager; the process ends with it."""

    def __init__(self, protocol: Protocol) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(protocol, far_end), daemon=True)
        self._process.start()
        far_end.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def measure(self, load: Load) -> Sample:
        """Put a load on a server.

        Raises:
            ClientError: a request failed, or the client did.
        """
        self._pipe.send(load)
        if not self._pipe.poll(load.limit_s + 2 * load.timeout_s):
            raise ClientError("the client does not answer")
        try:
            result: Sample | str = self._pipe.recv()
        except EOFError:
            raise ClientError("the client's process has ended") from None
        if isinstance(result, str):
            raise ClientError(result)
        return result


def measure(load: Load) -> Sample:
    """Connect, warm up, measure; in the client's process."""
    client_module = importlib.import_module(f"measuring.{load.protocol}_client")
    with client_module.connect(load) as client:
        if load.warmup:
            client.send(load.warmup, load.limit_s)
        server = with_descendants(load.server_pid)
        gc.collect()
        server_before, proxy_before = total_cpu_s(server), cpu_s(load.proxy_pid) if load.proxy_pid else 0.0
        batch = client.send_at(load.per_s, load.limit_s) if load.per_s else client.send(load.requests, load.limit_s)
        time.sleep(_SETTLE_S)
        server_cpu_s = total_cpu_s(server) - server_before
        proxy_cpu_s = cpu_s(load.proxy_pid) - proxy_before if load.proxy_pid else 0.0
        if server_cpu_s <= 0 or proxy_cpu_s < 0:
            raise ClientError("a process of the server ended during the measurement")
        return Sample(
            latencies_s=batch.latencies_s,
            wall_s=batch.wall_s,
            server_cpu_s=server_cpu_s,
            client_cpu_s=batch.client_cpu_s,
            proxy_cpu_s=proxy_cpu_s,
            sent_bytes=batch.sent_bytes,
            received_bytes=batch.received_bytes,
        )


def _serve(protocol: Protocol, pipe: Connection) -> None:
    """Answer loads until the bench closes the pipe or ends; Ctrl-C is the bench's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    importlib.import_module(f"measuring.{protocol}_client")
    gc.disable()
    while True:
        try:
            load = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            result: Sample | str = measure(load)
        except (ClientError, OSError) as error:
            result = str(error) or repr(error)
        pipe.send(result)
