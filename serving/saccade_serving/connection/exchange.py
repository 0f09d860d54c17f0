"""One request on its way between a connection and a model: its deadline, its body, its end.

Knows no socket and no codec, so that REST, gRPC and what comes later share it. The connection opens it and is told
its end through ``Sink``; the model ends it once, with an answer or an error; whoever is later than the other is not
heard. A client that leaves and a deadline that passes end it too, and stop the work.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.errors import DeadlineExceeded, InvalidRequest, Overloaded, SaccadeError, short
from saccade_serving.oip.messages import Parameters
from saccade_serving.oip.rules import whole_parameter

if TYPE_CHECKING:
    from saccade_serving.connection.deadlines import Deadlines
    from saccade_serving.memory.arena import Lease

#: Milliseconds the request still has, counted from its first byte.
DEADLINE_HEADER: Final = "x-deadline-ms"
REQUEST_ID_HEADER: Final = "x-request-id"
#: Headers a transformer passes to its predictor: W3C trace context, and the three that KServe passes.
FORWARDED_HEADERS: Final = ("traceparent", "tracestate", "x-b3-traceid", "authorization")

_MAX_ID_CHARS: Final = 128
#: Time that a task has past the deadline to end its exchange itself.
_LAST_WORD_S: Final = 0.05
_BEFORE_ITS_ANSWER: Final = "before it was answered"

#: Ids of our own: unguessable per process, cheap per request.
_id_prefix: Final = secrets.token_hex(6)
_id_numbers: Final = itertools.count(1)


class Sink(Protocol):
    """Who opened an exchange and is told its end: one of the two, once, unless the client left."""

    def answered(self, exchange: Exchange, answer: Any) -> None:
        """The model's answer, in the form the operation's ``encode`` takes."""

    def failed(self, exchange: Exchange, error: SaccadeError) -> None:
        """The error to answer with."""


class AwaitedEnd:
    """A sink for callers who can wait: the end becomes a future's result or exception."""

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future

    def answered(self, exchange: Exchange, answer: Any) -> None:
        """Pass the answer on; nobody left to take it, its memory is given back."""
        if not self.future.done():
            self.future.set_result(answer)
        elif (release := getattr(answer, "release", None)) is not None:
            release()

    def failed(self, exchange: Exchange, error: SaccadeError) -> None:
        """Pass the error on."""
        if not self.future.done():
            self.future.set_exception(error)

    def forget(self) -> None:
        """Nobody will look at the end any more."""
        if self.future.done() and not self.future.cancelled():
            self.future.exception()

    async def wait(self) -> Any:
        """Return the answer or raise the error. An answer that comes with the caller's cancelling is given back."""
        future = self.future
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                release = getattr(future.result(), "release", None)
                if release is not None:
                    release()
            raise


class Exchange:
    """What accompanies a request from its first byte to its answer.

    Attributes:
        protocol: "rest", "grpc", "v1" or "detect"; a metric label.
        deadline: absolute time on ``time.monotonic()``'s clock after which nobody waits for the answer.
        headers: the request's headers or gRPC metadata, names in lower case.
        params: the placeholders of the route's path, decoded.
        query: the query string.
        started: when the first byte arrived, same clock.
        stages: seconds spent by stage, for ``saccade_request_seconds``.
        model: known model's name once found (a metric label, so never the client's text).
        version: of the model that answers, likewise.
        rows: how many inferences it asks for.
        priority: Triton's, as the client sent it; 0 is none.
        queue_timeout_s: its own limit of the time in the queue; 0 is none.
        own_timeout_s: the time that it would have without the model's SLO; None where there is no SLO.
        working: its body is complete and it has a place among those that are worked on.
        received: bytes of its body that have come, where the connection does not count them itself.
        over: it has ended; what the model still says is not heard.
        answer_headers: over HTTP, headers of its answer beside those that the operation writes, errors included.
        notes: what the model wants to know of it until it has been counted; the model's own type.
        lease: the memory its body lies in, until the scheduler takes it or the exchange is closed.
    """

    # What most requests never change stands in the class: making one exchange is on every request's way.
    model = version = query = _request_id = ""
    params: Mapping[str, str] = MappingProxyType({})
    rows = 1
    priority = 0
    queue_timeout_s = 0.0
    own_timeout_s: float | None = None
    received = 0
    over = working = _has_task = False
    lease: Lease | None = None
    sink: Sink | None = None
    span: Any = None  # OpenTelemetry's, where traces are on
    span_headers: Mapping[str, str] = MappingProxyType({})  # that make it the parent of what is called upstream
    answer_headers: Mapping[str, str] = MappingProxyType({})
    notes: Any = None
    state: Any = None  # what the operation wants to remember until the answer is encoded
    _stop: Callable[[], str] | None = None
    _slot: set[Exchange] | None = None
    _deadlines: Deadlines | None = None
    _forwarded: dict[str, str] | None = None

    def __init__(self, protocol: str, headers: Mapping[str, str], timeout_s: float, started: float) -> None:
        self.protocol = protocol
        self.headers = headers
        self.started = started
        self.deadline = started + timeout_s
        self.stages: dict[str, float] = {}

    @classmethod
    def begin(
        cls, protocol: str, headers: Mapping[str, str], timeout_s: float, started: float | None = None
    ) -> Exchange:
        """Open an exchange from a request's headers (names in lower case).

        Args:
            protocol: label of the protocol the request came by.
            headers: the request's headers or gRPC metadata.
            timeout_s: the time the request has unless it states less.
            started: when its first byte arrived; now if omitted.

        Raises:
            InvalidRequest: ``x-deadline-ms`` is not a positive number.
        """
        exchange = cls(protocol, headers, timeout_s, time.monotonic() if started is None else started)
        if stated := headers.get(DEADLINE_HEADER):
            exchange.tighten(_positive_number(stated) / 1e3)
        return exchange

    @property
    def request_id(self) -> str:
        """The client's ``x-request-id``, else one of our own."""
        if not self._request_id:
            sent = self.headers.get(REQUEST_ID_HEADER, "")[:_MAX_ID_CHARS]
            self._request_id = sent if _can_travel(sent) else f"{_id_prefix}{next(_id_numbers):x}"
        return self._request_id

    @property
    def forwarded(self) -> dict[str, str]:
        """Headers for upstream calls, ``x-request-id`` among them."""
        if self._forwarded is None:
            headers = self.headers
            self._forwarded = {name: headers[name] for name in FORWARDED_HEADERS if _can_travel(headers.get(name, ""))}
            self._forwarded[REQUEST_ID_HEADER] = self.request_id
            self._forwarded.update(self.span_headers)
        return self._forwarded

    def watch(self, deadlines: Deadlines) -> None:
        """Have it ended when its deadline has passed."""
        self._deadlines = deadlines
        self._slot = deadlines.watch(self)

    def work(self, stop: Callable[[], str]) -> None:
        """Say how the work is stopped if nobody waits for it any more.

        Args:
            stop: withdraws the work; returns where it stood, to complete "the request's 50 ms were over ...".
        """
        self._stop = stop

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do the work in a task; its result is the answer, and its body's memory is kept until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        lease = self.lease
        if lease is not None:
            lease.hold()

        def stop() -> str:
            task.cancel()
            return _BEFORE_ITS_ANSWER

        def ended(task: asyncio.Task[Any]) -> None:
            if lease is not None:
                lease.release()
            if task.cancelled():
                self.fail(Overloaded("the server is shutting down, and this request took too long"))
            elif (error := task.exception()) is not None:
                self.fail(error)
            else:
                self.answer(task.result())

        self._stop = stop
        self._has_task = True
        task.add_done_callback(ended)

    def answer(self, answer: Any) -> None:
        """End it with the model's answer. Too late, the answer's own memory is given back."""
        if self.over:
            release = getattr(answer, "release", None)
            if release is not None:
                release()
            return
        self._end()
        assert self.sink is not None
        self.sink.answered(self, answer)

    def fail(self, error: BaseException) -> None:
        """End it with an error."""
        if self.over:
            return
        self._end()
        assert self.sink is not None
        self.sink.failed(self, as_saccade_error(error))

    def cancel(self) -> None:
        """End it without an answer: the client has left."""
        if self.over:
            return
        stop = self._stop
        self._end()
        if stop is not None:
            stop()

    def abandon(self, error: SaccadeError) -> None:
        """End it with an error and stop the work."""
        stop = self._stop
        if stop is not None and not self.over:
            stop()
        self.fail(error)

    def expire(self) -> None:
        """End it because its deadline has passed, unless that has been moved."""
        self._slot = None
        if self.over:
            return
        if self._has_task:
            # It watches the deadline itself, and knows better who was late: it has a moment to say so.
            self._has_task = False
            asyncio.get_running_loop().call_later(_LAST_WORD_S, self.expire)
            return
        stop = self._stop
        where = stop() if stop is not None else "before its body was received"
        self.fail(self.too_late(where))

    def take_lease(self) -> Lease | None:
        """Hand the body's memory to a new owner, who releases it."""
        lease, self.lease = self.lease, None
        return lease

    def close(self) -> None:
        """Give back the body's memory, unless somebody took it."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None

    def _end(self) -> None:
        self.over = True
        self._stop = None
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None

    def tighten(self, timeout_s: float) -> None:
        """Bring the deadline forward to ``timeout_s`` after the first byte; never moves it back."""
        deadline = self.started + timeout_s
        if deadline >= self.deadline:
            return
        self.deadline = deadline
        if self._slot is not None and self._deadlines is not None:
            self._slot.discard(self)
            self._slot = self._deadlines.watch(self)

    def keep_slo(self, slo_s: float) -> None:
        """Bring the deadline forward to the model's SLO, and remember the client's own."""
        if self.own_timeout_s is None:
            self.own_timeout_s = self.deadline - self.started
        self.tighten(slo_s)

    def tighten_by_parameter(self, parameters: Parameters) -> None:
        """Apply Triton's request parameter ``timeout`` (microseconds; 0 means none).

        Raises:
            InvalidRequest: it is not a whole number >= 0.
        """
        timeout_us = whole_parameter(parameters, "timeout", " of microseconds")
        if timeout_us:
            timeout_s = timeout_us / 1e6
            if self.own_timeout_s is not None:
                self.own_timeout_s = min(self.own_timeout_s, timeout_s)
            self.tighten(timeout_s)

    def remaining_s(self) -> float:
        """Seconds left; negative when the deadline has passed."""
        return self.deadline - time.monotonic()

    def check_deadline(self, where: str) -> None:
        """Stop work nobody waits for.

        Raises:
            DeadlineExceeded: the deadline has passed; ``where`` completes the sentence.
        """
        if self.remaining_s() <= 0:
            raise self.too_late(where)

    def too_late(self, where: str) -> DeadlineExceeded:
        """Build the error for a deadline that passed ``where``."""
        given_ms = (self.deadline - self.started) * 1e3
        return DeadlineExceeded(f"the request's {given_ms:.6g} ms were over {where}")

    def spent(self, stage: str, seconds: float) -> None:
        """Add time to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block as a stage."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.spent(name, time.monotonic() - begun)


def _can_travel(value: str) -> bool:
    """Whether a value may be a header in HTTP and metadata in gRPC alike: printable ASCII."""
    return bool(value) and value.isascii() and value.isprintable()


def _positive_number(text: str) -> float:
    try:
        number = math.nan if "_" in text else float(text)  # Python's own way to write numbers
    except ValueError:
        number = math.nan
    if not (0 < number < math.inf):
        raise InvalidRequest(f"header {DEADLINE_HEADER} is {short(text)}; expected milliseconds > 0")
    return number
