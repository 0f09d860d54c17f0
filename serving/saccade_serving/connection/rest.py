"""Operations as routes of the ASGI application, for requests that the data plane's connections do not take themselves.

Those are chunked and compressed bodies, answers that shall be compressed, and HTTP/1.0. Bodies lie in the same arena
and pass the same operations; only more is copied on the way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Final

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from saccade_serving.connection.exchange import REQUEST_ID_HEADER, AwaitedEnd, Exchange
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.connection.front import peer_of
from saccade_serving.connection.gate import CLIENT_LEFT, Gate
from saccade_serving.connection.growth import next_slot
from saccade_serving.connection.http1 import RATE_GRACE_S
from saccade_serving.connection.operation import Operation, Reply, error_reply, match_path, path_pattern
from saccade_serving.connection.ordinary import REFUSAL
from saccade_serving.errors import (
    InvalidRequest,
    MalformedBody,
    PayloadTooLarge,
    SaccadeError,
    SlowBody,
    short,
)
from saccade_serving.memory.arena import Lease
from saccade_serving.oip.body import HEADER_LENGTH, stated_length
from saccade_serving.oip.compression import compress, fill, inflate, is_asked_for
from saccade_serving.settings import FIRST_SLOT_BYTES

#: Threads that compress and decompress. Few: it is a service for who insists, not the way to send tensors.
_ZIP_THREADS: Final = 2
#: What bodies are compressed to, more or less: how much memory is leased before it is known.
_USUAL_RATIO: Final = 4
_COPY_BYTES: Final = 2**20


class ClientLeft(Exception):
    """The client closed the connection before its answer; nobody is there to be told."""


class OperationRoutes:
    """The operations of a server, as ASGI routes."""

    def __init__(self, gate: Gate, operations: Sequence[Operation]) -> None:
        self._gate = gate
        self._operations = operations
        # Of its own: who sends nothing but compressed bodies keeps nobody else waiting.
        self._zipping = ThreadPoolExecutor(_ZIP_THREADS, "saccade-zip")

    def routes(self) -> list[BaseRoute]:
        """All routes, to be registered before KServe's."""
        return [
            _Route(path, _Endpoint(self._gate, operation, self._zipping), methods=["POST"])
            for operation in self._operations
            for path in operation.paths
        ]


class _Route(Route):
    """Matches the path as it was sent, as the connections do: an encoded slash stays within its segment."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Starlette's own, but for paths with an encoded slash."""
        raw: bytes = scope.get("raw_path") or b""
        if scope["type"] != "http" or b"%2f" not in raw.lower():
            return super().matches(scope)
        params = match_path(path_pattern(self.path), raw.partition(b"?")[0].decode("latin-1"))
        if params is None:
            return Match.NONE, {}
        found = Match.FULL if scope["method"] in (self.methods or ()) else Match.PARTIAL
        return found, {"endpoint": self.endpoint, "path_params": params}


class _Endpoint:
    """One operation as an ASGI application."""

    def __init__(self, gate: Gate, operation: Operation, zipping: Executor) -> None:
        self._gate = gate
        self._operation = operation
        self._zipping = zipping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gate, operation = self._gate, self._operation
        headers = _headers(scope)
        exchange: Exchange | None = None
        end: AwaitedEnd | None = None
        error: SaccadeError | None = None
        code, reply = CLIENT_LEFT, None
        try:
            try:
                exchange = gate.begin(operation.protocol, headers)
                exchange.params = scope["path_params"]
                exchange.query = scope["query_string"].decode("latin-1")
                end = AwaitedEnd(asyncio.get_running_loop().create_future())
                exchange.sink = end
                operation.admit(exchange)
                gate.check_room()
                peer = peer_of(scope.get("client"))
                await self._receive(exchange, end, receive, peer)
                gate.enter(exchange)
                await self._start(exchange, peer)
                answer = await _until_client_leaves(end, exchange, receive)
                reply = await self._encode(exchange, answer, headers)
            except ClientLeft:
                if (refusal := scope.get(REFUSAL)) is not None:  # the connection has answered
                    code, error = str(refusal.status), MalformedBody(str(refusal))
                return
            except Exception as raised:
                error = as_saccade_error(raised)
                reply = error_reply(error)
            code = str(reply.status)
            await _send(send, reply, exchange)
        finally:
            if exchange is not None:
                exchange.cancel()
            if end is not None:
                end.forget()
            received = exchange.received if exchange is not None else 0
            gate.finish(exchange, operation.protocol, code, received, reply.size if reply else 0, error)

    async def _receive(self, exchange: Exchange, sink: AwaitedEnd, receive: Receive, peer: str) -> None:
        """Receive the body into the exchange's lease, unless it ends before."""
        settings, arena = self._gate.settings, self._gate.arena
        limit, least_per_s = settings.largest_body_bytes, settings.min_receive_bytes_per_s
        declared = _declared(exchange.headers)
        if declared > limit:
            raise PayloadTooLarge("the request body", declared, limit)
        align_at = _json_length(exchange)
        lease = exchange.lease = arena.lease(min(declared or FIRST_SLOT_BYTES, FIRST_SLOT_BYTES), peer, align_at)
        at, more = 0, True
        loop = asyncio.get_running_loop()
        begun = loop.time() - (time.monotonic() - exchange.started)
        deadline = begun + exchange.deadline - exchange.started
        due = deadline
        try:
            async with asyncio.timeout_at(deadline) as timer:

                def stop(_: object) -> None:
                    if not timer.expired():
                        timer.reschedule(0.0)

                sink.future.add_done_callback(stop)
                while more:
                    if sink.future.done():
                        raise TimeoutError
                    if least_per_s:
                        due = min(deadline, begun + max(RATE_GRACE_S, at / least_per_s))
                        timer.reschedule(due)
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    chunk: bytes = message.get("body", b"")
                    more = message.get("more_body", False)
                    exchange.received = end = at + len(chunk)
                    if end > limit:
                        raise PayloadTooLarge("the request body", None, limit)
                    if end > lease.size:
                        size = next_slot(lease.size, declared, settings.peer_bytes) if declared else 2 * lease.size
                        size = min(max(size, end), max(limit, end))
                        larger = arena.lease(size, peer, align_at)
                        larger.view[:at] = lease.view[:at]
                        exchange.lease = larger
                        lease.release()
                        lease = larger
                    lease.view[at:end] = chunk
                    at = end
        except TimeoutError:
            if sink.future.done():
                sink.future.result()  # the server ended it, as it does when its grace is over
            if due < deadline:
                raise SlowBody(at, max(declared, at), loop.time() - begun, least_per_s) from None
            raise exchange.too_late("before its body was received") from None
        finally:
            sink.future.remove_done_callback(stop)
        lease.narrow(at)
        exchange.stages["receive"] = time.monotonic() - exchange.started

    async def _start(self, exchange: Exchange, peer: str) -> None:
        """Start the operation, on the decompressed body if it is compressed."""
        assert exchange.lease is not None
        coding = exchange.headers.get("content-encoding", "")
        if coding.lower() not in ("", "identity"):
            plain = await self._inflate(exchange, exchange.lease, coding, peer)
            exchange.close()
            exchange.lease = plain
        if not exchange.over:  # its time may have passed meanwhile
            self._operation.start(exchange, exchange.lease.view)

    async def _inflate(self, exchange: Exchange, packed: Lease, coding: str, peer: str) -> Lease:
        """Decompress a body in a thread, into memory of the arena that grows with what comes out."""
        arena, limit = self._gate.arena, self._gate.settings.largest_body_bytes
        align_at = _json_length(exchange)
        pieces, left, at = inflate(packed.view, coding), b"", 0
        plain = arena.lease(min(max(FIRST_SLOT_BYTES, _USUAL_RATIO * packed.size), limit), peer, align_at)
        before: Lease | None = None
        try:
            while True:
                written, left = await self._fill(plain, at, pieces, left, packed, before)
                at += written
                if before is not None:
                    before.release()
                    before = None
                if not left or exchange.over:
                    break
                if plain.size == limit:
                    raise PayloadTooLarge("the decompressed request body", None, limit)
                larger = arena.lease(min(max(2 * plain.size, at + len(left)), limit), peer, align_at)
                before, plain = plain, larger
            plain.narrow(at)
        except BaseException:
            plain.release()
            if before is not None:
                before.release()
            raise
        return plain

    def _fill(
        self, plain: Lease, at: int, pieces: Iterator[bytes], left: bytes, packed: Lease, before: Lease | None
    ) -> Awaitable[tuple[int, bytes]]:
        """Decompress as much as a lease has room for, behind what the lease before it holds.

        All leases are kept until the thread is done with them.
        """
        used = [lease for lease in (packed, plain, before) if lease is not None]
        for lease in used:
            lease.hold()

        def work() -> tuple[int, bytes]:
            if before is not None:
                for begin in range(0, at, _COPY_BYTES):  # in steps, since others wait while one is copied
                    end = min(at, begin + _COPY_BYTES)
                    plain.view[begin:end] = before.view[begin:end]
            return fill(plain.view[at:], pieces, left)

        def done(_: object) -> None:
            for lease in used:
                lease.release()

        filling = asyncio.get_running_loop().run_in_executor(self._zipping, work)
        filling.add_done_callback(done)
        return asyncio.shield(filling)  # who stops awaiting it does not stop the thread

    async def _encode(self, exchange: Exchange, answer: Any, headers: dict[str, str]) -> Reply:
        """Encode the answer into one buffer of its own, compressed if that is asked for."""
        release = getattr(answer, "release", None)
        try:
            reply = self._operation.encode(exchange, answer)
            body = b"".join(reply.parts)
        finally:
            if release is not None:
                release()
        coding = is_asked_for(headers.get("accept-encoding", ""), self._gate.settings.response_compression)
        plain = dict(reply.headers)
        if coding is not None and plain.get("content-type", "").startswith("application/"):
            body = await asyncio.get_running_loop().run_in_executor(self._zipping, compress, body, coding)
            plain |= {"content-encoding": coding, "vary": "accept-encoding"}
        return Reply(reply.status, plain, [body], len(body))


async def _until_client_leaves(end: AwaitedEnd, exchange: Exchange, receive: Receive) -> Any:
    """Await the end; raises ClientLeft when the client closes the connection before."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        exchange.cancel()
        if not end.future.done():
            end.future.set_exception(ClientLeft())

    if end.future.done():
        return end.future.result()
    watching = asyncio.ensure_future(watch())
    try:
        return await end.wait()
    finally:
        watching.cancel()


async def _send(send: Send, reply: Reply, exchange: Exchange | None) -> None:
    headers = {**reply.headers, "content-length": str(reply.size)}
    if exchange is not None:
        headers[REQUEST_ID_HEADER] = exchange.request_id
        headers.update(exchange.answer_headers)
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": b"".join(reply.parts)})


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _declared(headers: Any) -> int:
    """The body's length as the client states it, 0 if it does not."""
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdecimal()):
        raise InvalidRequest(f"header content-length is {short(text)}; expected a number of bytes")
    return int(text[:19])  # longer ones are over any limit, too


def _json_length(exchange: Exchange) -> int:
    return stated_length(exchange.headers.get(HEADER_LENGTH, "")) or 0
