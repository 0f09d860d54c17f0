"""Connections to Redis that never hold a request up: what is not answered within a few milliseconds is left.

A fixed number of connections is opened beside the requests, by a task of its own. Each sends whatever calls wait, all
together in one write, and reads their answers: many frames at once cost hardly more than one. A call whose time is
over is left by its caller, and a connection that does not answer in time is closed, never used again: its next answer
could be another call's. Redis that fails often counts as down, and is tried out by that task alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from saccade_serving.telemetry import Seldom
from saccade_transformers.breaker import Breaker
from saccade_transformers.cache.shared.limit import Limit, answer_within
from saccade_transformers.cache.shared.metrics import RedisMetrics
from saccade_transformers.cache.shared.scripts import PROBE, SCRIPTS, Script

Argument: TypeAlias = bytes | str | int

log = logging.getLogger("saccade.cache")

#: Failures after which it counts as down; each success takes back a part of one, so that one call in five may fail.
_FAILURES: Final = 5.0
_TAKEN_BACK: Final = 0.25
#: First and longest pause before it is tried again (seconds).
_PAUSE_S: Final = (0.25, 15.0)
#: Time for opening a connection: name, TLS and password included; for closing one.
_CONNECT_S: Final = 2.0
_CLOSE_S: Final = 1.0
#: How often it is seen to whether it may be tried, and how long after a connection could not be opened beside others.
_LOOK_S: Final = 0.05
_MORE_S: Final = 1.0
#: That it is away is told at most once in so long (seconds): where one call in four is late, it comes and goes.
_TELL_S: Final = 60.0
#: A connection that was idle for so long may have been closed by the other side.
_STALE_S: Final = 1.0
#: Calls that are sent together.
_MOST_TOGETHER: Final = 64
#: Errors that say that the server can do nothing for us, whatever it is asked.
_USELESS: Final = (ReadOnlyError, OutOfMemoryError, AuthenticationError, NoPermissionError, BusyLoadingError)
_DOWN: Final = ("MASTERDOWN", "OOM", "READONLY", "NOPERM", "NOAUTH", "LOADING", "MISCONF", "NOREPLICAS", "BUSY ")


class RedisAway(Exception):
    """Redis has not answered in time."""


class RedisRefused(RedisAway):
    """Redis has answered this one call with an error; others may do better."""


class _Call(NamedTuple):
    """A call and what waits for its answer."""

    script: Script
    keys: Sequence[bytes]
    arguments: Sequence[Argument]
    answer: asyncio.Future[Any]


class Connections:
    """Calls scripts over a fixed number of connections.

    Args:
        url: ``redis://`` or ``rediss://``, with user, password and options as redis-py takes them.
        count: connections.
        timeout_s: time of a call, waiting for a connection included.
        metrics: counts.
        probe_key: written when it is tried out; others that begin so are named.
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
        self._late = f"no answer within {timeout_s * 1e3:g} ms"
        self._metrics = metrics
        self._probe_key = probe_key
        self._clock = clock
        self._breaker = Breaker(1, *_PAUSE_S)
        self._failures = 0.0
        self._why = "all connections were closed"  # of the last failure
        self._said = ""  # why it is away, if that was told
        self._seldom = Seldom(_TELL_S, clock)
        self._has_come = False
        self._waiting: deque[_Call] = deque()
        self._idle: list[asyncio.Future[None]] = []  # of connections that have nothing to do; the last one is woken
        self._open: dict[Redis, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._lost = asyncio.Event()
        self._is_closed = False
        self._keeping: asyncio.Task[None] | None = None
        metrics.watch(lambda: len(self._open), lambda: self.is_up)

    @property
    def is_up(self) -> bool:
        """Whether it is asked: it has answered, and not failed often since."""
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
            RedisRefused: it has failed.
            RedisAway: there is no answer, for whatever reason.
        """
        if not self.is_up:
            self._metrics.calls.add(("left_out",))
            raise RedisAway
        begun = self._clock()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(script, keys, arguments, answer))
        self._wake()
        try:
            result = await answer_within(answer, self._timeout_s)
        except TimeoutError:
            self._metrics.calls.add(("timeout",))
            raise RedisAway from None
        self._metrics.calls.add(("ok",))
        self._metrics.seconds.observe(self._clock() - begun)
        return result

    async def close(self) -> None:
        """Close all connections."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        self._is_closed = True
        self._leave("it is closed")
        await asyncio.gather(*self._open.values(), return_exceptions=True)
        await asyncio.sleep(0)  # for what follows from their end
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _wake(self) -> None:
        """Have a connection that has nothing to do see to the calls that wait."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return

    async def _serve(self, redis: Redis) -> None:
        """Send what waits over one connection, until that fails."""
        is_good = True
        while is_good:
            idle_since = self._clock()
            while not self._waiting:
                idle = asyncio.get_running_loop().create_future()
                self._idle.append(idle)
                await idle
            is_good = await self._send(redis, self._take(), self._clock() - idle_since)

    def _ended(self, redis: Redis, _task: asyncio.Task[None]) -> None:
        """A connection is not served any more: close it, and have another one opened."""
        del self._open[redis]
        if not self._open and not self._said and not self._is_closed:
            self._tell(self._why)
        self._lost.set()
        self._wake()  # perhaps this one was woken
        closing = asyncio.get_running_loop().create_task(_close(redis))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _take(self) -> list[_Call]:
        taken: list[_Call] = []
        while self._waiting and len(taken) < _MOST_TOGETHER:
            call = self._waiting.popleft()
            if not call.answer.done():
                taken.append(call)
        return taken

    async def _send(self, redis: Redis, calls: Sequence[_Call], idle_s: float) -> bool:
        """Send calls and hand out their answers; returns whether the connection may be used again."""
        if not calls:
            return True
        permit = self._breaker.begin(self._clock())
        if permit is None:
            _fail(calls, RedisAway())
            return False
        try:
            async with Limit(self._timeout_s):
                answers = await _run(redis, calls)
        except asyncio.CancelledError:
            _fail(calls, RedisAway())
            raise
        except Exception as error:
            if idle_s >= _STALE_S and isinstance(error, RedisConnectionError | OSError):
                self._waiting.extendleft(reversed(calls))  # it was closed while nobody looked: another one will do
                return False
            late = isinstance(error, TimeoutError | RedisTimeoutError)
            if not late:
                self._metrics.calls.add(("failed",), sum(not call.answer.done() for call in calls))
                _fail(calls, RedisAway())  # else their time is over, too
            self._failed(permit, self._late if late else str(error) or type(error).__name__)
            return False
        useless = ""
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                if _is_useless(answer):
                    useless = str(answer)
                self._metrics.calls.add(("refused",))
                _fail([call], RedisRefused(str(answer)))
            elif not call.answer.done():
                call.answer.set_result(answer)
        if useless:
            self._failed(permit, useless)
            return False  # another connection may find another server: a failover
        self._failures = max(0.0, self._failures - _TAKEN_BACK)
        self._breaker.succeeded(permit)
        return True

    def _failed(self, permit: int, why: str) -> None:
        self._why = why
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0.0
            self._down(permit, why)

    def _down(self, permit: int, why: str) -> None:
        """Redis does not do what is asked of it."""
        if not self._breaker.failed(permit, self._clock()):
            return
        self._tell(why)
        self._leave(why)

    def _tell(self, why: str) -> None:
        if why != self._said and self._seldom.due("redis_away"):
            self._said = why
            log.warning("redis_away", extra={"why": why[:300]})

    def _leave(self, why: str) -> None:
        """End all connections."""
        for task in self._open.values():
            if task is not asyncio.current_task():
                task.cancel()
        self._idle.clear()
        waiting, self._waiting = self._waiting, deque()
        _fail(waiting, RedisAway(why))

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
            try:
                redis = await self._connect()
            except Exception as error:  # of redis-py, of the system, of Redis
                if self._open:  # there is no room for more of them, perhaps
                    self._breaker.withdrawn(permit)
                    await asyncio.sleep(_MORE_S)
                else:
                    self._down(permit, str(error) or type(error).__name__)
                continue
            except BaseException:
                self._breaker.withdrawn(permit)
                raise
            self._breaker.succeeded(permit)
            if self._breaker.is_open:  # calls on other connections have failed meanwhile
                await _close(redis)
                continue
            if self._said or not self._has_come:
                self._said, self._has_come = "", True
                log.info("redis_in_use")
            task = asyncio.get_running_loop().create_task(self._serve(redis))
            self._open[redis] = task
            task.add_done_callback(partial(self._ended, redis))

    async def _connect(self) -> Redis:
        """Open a connection on which Redis does what is asked of it, in the time that requests give it."""
        probe = [self._probe_key + end for end in (b"", b":answer", b":record")]  # as many as other scripts take
        redis = Redis.from_url(
            self._url,
            max_connections=1,
            socket_timeout=None,
            socket_connect_timeout=_CONNECT_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        try:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    for script in SCRIPTS:
                        await redis.script_load(script.text)
            except TimeoutError:
                raise RedisAway(f"no connection within {_CONNECT_S:g} s") from None
            try:
                async with Limit(self._timeout_s):
                    await redis.evalsha(PROBE.sha, len(probe), *probe)
            except TimeoutError:
                raise RedisAway(self._late) from None
        except BaseException:
            await _close(redis)
            raise
        return redis


def _fail(calls: Sequence[_Call] | deque[_Call], error: Exception) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(error)


def _is_useless(error: Exception) -> bool:
    return isinstance(error, _USELESS) or any(word in str(error)[:250] for word in _DOWN)


async def _run(redis: Redis, calls: Sequence[_Call]) -> list[Any]:
    """Send all calls in one write; returns answers, errors of single calls among them."""
    answers = await _evaluate(redis, calls, by_name=True)
    unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
    if unknown:  # somebody has made Redis forget its scripts
        for index, answer in zip(
            unknown, await _evaluate(redis, [calls[i] for i in unknown], by_name=False), strict=True
        ):
            answers[index] = answer
    return answers


async def _evaluate(redis: Redis, calls: Sequence[_Call], by_name: bool) -> list[Any]:
    async with redis.pipeline(transaction=False) as together:
        for script, keys, arguments, _ in calls:
            if by_name:
                together.evalsha(script.sha, len(keys), *keys, *arguments)
            else:
                together.eval(script.text, len(keys), *keys, *arguments)
        answers: list[Any] = await together.execute(raise_on_error=False)
    return answers


async def _close(redis: Redis) -> None:
    with contextlib.suppress(Exception):  # there is nothing left that could be done with it
        async with asyncio.timeout(_CLOSE_S):
            await redis.connection_pool.disconnect(inuse_connections=True)
            await redis.aclose()
