"""Connections to Redis that never hold a request up: what is not answered within a few milliseconds is left.

A fixed number of connections is opened beside the requests, by a task of its own; requests take one or go without. A
connection on which anything went wrong, a cancelled call included, is closed, never used again: its next answer could
be another call's. After a few failures in a row Redis counts as down, and is asked again by that task alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from saccade_transformers.breaker import Breaker
from saccade_transformers.cache.shared.limit import Limit
from saccade_transformers.cache.shared.metrics import RedisMetrics
from saccade_transformers.cache.shared.scripts import PROBE, Script

Argument: TypeAlias = bytes | str | int

log = logging.getLogger("saccade.cache")

#: Failures in a row after which it counts as down, the first and the longest pause before it is tried again (seconds).
_FAILURES: Final = 5
_PAUSE_S: Final = (0.25, 15.0)
#: Time for opening a connection: name, TLS and password included.
_CONNECT_S: Final = 2.0
_CLOSE_S: Final = 1.0
#: How often it is seen to whether it may be tried, seconds.
_LOOK_S: Final = 0.05


class RedisAway(Exception):
    """Redis has not answered, or with an error."""


class Connections:
    """Calls scripts over a fixed number of connections.

    Args:
        url: ``redis://`` or ``rediss://``, with user, password and options as redis-py takes them.
        count: connections.
        timeout_s: time of a call, waiting for a connection included.
        metrics: counts.
        probe_key: written when it is tried out.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        url: str,
        count: int,
        timeout_s: float,
        metrics: RedisMetrics,
        probe_key: bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._count = count
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._probe_key = probe_key
        self._clock = clock
        self._breaker = Breaker(_FAILURES, *_PAUSE_S)
        self._idle: asyncio.LifoQueue[Redis] = asyncio.LifoQueue()
        self._open: set[Redis] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._lost = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        metrics.watch(lambda: len(self._open), lambda: self.is_up)

    @property
    def is_up(self) -> bool:
        """Whether it is asked: it has answered, and not failed several times in a row since."""
        return bool(self._open) and not self._breaker.is_open

    def start(self) -> None:
        """Begin to connect."""
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def call(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Any:
        """Run a script.

        Args:
            script: of ``scripts``.
            keys: of Redis.
            arguments: of the script.

        Returns:
            Its answer; texts are bytes.

        Raises:
            RedisAway: there is none, for whatever reason.
        """
        permit = None if not self._open or self._breaker.is_open else self._breaker.begin(self._clock())
        if permit is None:
            self._metrics.calls.add(("left_out",))
            raise RedisAway
        begun = self._clock()
        try:
            async with Limit(self._timeout_s):
                answer = await self._run(script, keys, arguments)
        except asyncio.CancelledError:
            self._breaker.withdrawn(permit)
            raise
        except Exception as error:
            self._failed(permit, error)
            raise RedisAway from error
        self._breaker.succeeded(permit)
        self._metrics.calls.add(("ok",))
        self._metrics.seconds.observe(self._clock() - begun)
        return answer

    async def close(self) -> None:
        """Close all connections."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        self._discard_all()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Any:
        connection = await self._idle.get()
        try:
            answer = await _run(connection, script, keys, arguments)
        except ResponseError:  # an answer, too
            self._free(connection)
            raise
        except BaseException:
            self._discard(connection)
            raise
        self._free(connection)
        return answer

    def _free(self, connection: Redis) -> None:
        if connection in self._open:
            self._idle.put_nowait(connection)

    def _failed(self, permit: int, error: Exception) -> None:
        if isinstance(error, TimeoutError | RedisTimeoutError):
            outcome, why = "timeout", f"no answer within {self._timeout_s * 1e3:g} ms"
        elif isinstance(error, ResponseError):
            outcome, why = "refused", str(error)
        else:
            outcome, why = "failed", str(error) or type(error).__name__
        self._metrics.calls.add((outcome,))
        if self._breaker.failed(permit, self._clock()):
            log.warning("redis_away", extra={"why": why[:300]})
            self._discard_all()

    def _discard_all(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait()
        for connection in list(self._open):
            self._discard(connection)

    def _discard(self, connection: Redis) -> None:
        """Close a connection that is open, without waiting for it."""
        if connection in self._open:
            self._open.remove(connection)
            task = asyncio.get_running_loop().create_task(_close(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._lost.set()

    async def _keep(self) -> None:
        """Keep the connections open, and try Redis out while it is down."""
        while True:
            self._lost.clear()
            if len(self._open) >= self._count:
                await self._lost.wait()
                continue
            permit = self._breaker.begin(self._clock())
            if permit is None:
                await asyncio.sleep(_LOOK_S)
                continue
            was_up = self.is_up
            try:
                connection = await self._connect()
            except Exception as error:  # of redis-py, of the system, of Redis
                self._failed(permit, error)
                await asyncio.sleep(_LOOK_S)
                continue
            except BaseException:
                self._breaker.withdrawn(permit)
                raise
            self._breaker.succeeded(permit)
            self._open.add(connection)
            self._idle.put_nowait(connection)
            if not was_up:
                log.info("redis_in_use")

    async def _connect(self) -> Redis:
        """Open a connection on which Redis does what is asked of it, in the time that requests give it."""
        connection = Redis.from_url(
            self._url,
            single_connection_client=True,
            socket_timeout=None,
            socket_connect_timeout=_CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        try:
            async with asyncio.timeout(_CONNECT_S):
                await connection.initialize()
            async with Limit(self._timeout_s):
                await _run(connection, PROBE, [self._probe_key], ())
        except BaseException:
            await _close(connection)
            raise
        return connection


async def _run(connection: Redis, script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Any:
    try:
        return await connection.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:  # it has restarted, or another one has taken its place
        return await connection.eval(script.text, len(keys), *keys, *arguments)


async def _close(connection: Redis) -> None:
    with contextlib.suppress(Exception):  # there is nothing left that could be done with it
        async with asyncio.timeout(_CLOSE_S):
            if connection.connection is not None:
                await connection.connection.disconnect(nowait=True)  # an answer may still be on its way
            await connection.aclose()
