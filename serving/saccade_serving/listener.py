"""Listening: a socket bound before anything else, and KServe's uvicorn on it without its signal handling."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from kserve.protocol.rest.server import _RefreshingServer
from starlette.types import ASGIApp

from saccade_serving.connection.front import Front
from saccade_serving.connection.http1 import Http1Connection


def bind(host: str, port: int, setting: str) -> socket.socket:
    """Bind a listening socket.

    Args:
        host: address, of either family.
        port: 0 for any.
        setting: what an operator changes to have another port, for the error.

    Raises:
        OSError: the sentence names the address and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        error = OSError(0, "expected a port from 0 to 65535") if isinstance(error, OverflowError) else error
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}; choose another {setting}") from error
    # Accepted connections inherit it; asyncio, other than uvloop, would leave it to the protocol.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Uvicorn(_RefreshingServer):
    """KServe's uvicorn (it reads renewed TLS certificates) without the signal handlers, which close at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpListener:
    """Runs an application on a bound socket.

    Args:
        app: the application.
        listener: from ``bind``; closed by its owner.
        front: what the data plane's connections share.
        options: further options of ``uvicorn.Config``.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, front: Front, **options: Any) -> None:
        self._listener = listener
        self._front = front
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            http=partial(Http1Connection, front),  # type: ignore[arg-type]  # only ever called
            ws="none",
            proxy_headers=False,
            **options,
        )
        self._server = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen and return when connections are accepted.

        Raises:
            OSError: the certificate cannot be used, or the server ended while it started.
        """
        _load(self._server.config)
        self._front.start()
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise OSError("the HTTP server ended while it started")
            await asyncio.sleep(0.01)

    async def stop(self, grace_s: float) -> None:
        """Close the listener; open requests have ``grace_s`` seconds, then they are cancelled."""
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        await self._front.stop()


def _load(config: uvicorn.Config) -> None:
    """Load a configuration, with it the certificate.

    Raises:
        OSError: the sentence names the flags.
    """
    try:
        if bool(config.ssl_certfile) != bool(config.ssl_keyfile):
            raise AssertionError
        config.load()
    except (OSError, AssertionError) as error:  # uvicorn asserts that there is a certificate to a key
        why = getattr(error, "strerror", None) or "both are needed"
        flags = f"--ssl_certfile={config.ssl_certfile} and --ssl_keyfile={config.ssl_keyfile}"
        raise OSError(f"TLS is not possible with {flags}: {why}") from error
