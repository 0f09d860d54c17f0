"""What the tests of the HTTP/1.1 connection share: the listener in the test's own loop, and a client of raw bytes.

The listener serves a fake operation that does what the request's query says, its ASGI twin, and some ordinary routes.
Nothing here sleeps: time passes by ``Stage.look``, which tells all connections how late it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import inspect
import ipaddress
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from fakes import eventually, settle
from saccade_serving.application import _ConnectionCloser
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.front import Front
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.operation import Operation, Reply, Router
from saccade_serving.connection.rest import OperationRoutes
from saccade_serving.errors import ModelNotFound, Overloaded
from saccade_serving.listener import HttpListener, bind
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.settings import ServiceSettings

HOST = "127.0.0.1"
SOON_S = 30.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}
INFER = "/v2/models/m/infer"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"


def post(body: bytes = b"", query: str = "", path: str = INFER, headers: str = "", length: int | None = None) -> bytes:
    """A request of the fast route; ``headers`` are whole lines."""
    target = f"{path}?{query}" if query else path
    size = len(body) if length is None else length
    return f"POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n{headers}\r\n".encode() + body


def chunked(*pieces: bytes, path: str = INFER, trailers: bytes = b"", headers: str = "") -> bytes:
    """A request whose body comes in chunks."""
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode()
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + b"0\r\n" + trailers + b"\r\n"


@dataclass
class Held:
    """A request the model holds."""

    exchange: Exchange
    body: memoryview
    cancelled: bool = False


class Obedient(Operation):
    """Does what the query says.

    echo        (or nothing) answer with a copy of the body
    view        answer with the body's own memory
    address     answer the body's address in memory, modulo 64, where the first tensor begins
    hold        keep the request until the test ends it
    size=N      answer with N bytes
    shared=N    answer from the one output buffer, filled with the number N
    """

    protocol: ClassVar[str] = "rest"
    paths: ClassVar[Sequence[str]] = (
        "/v2/models/{model_name}/infer",
        "/v2/models/{model_name}/versions/{version}/infer",
    )

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.started = 0
        self.names: list[str] = []
        self.released = 0
        self.output = bytearray(256 * 2**10)
        self._output_free = True
        self._waiting: list[tuple[Exchange, int]] = []

    def admit(self, exchange: Exchange) -> None:
        name = exchange.params["model_name"]
        self.names.append(name)
        if name == "missing":
            raise ModelNotFound(name)
        if name == "busy":
            raise Overloaded("the queue is full", 3.0)

    def start(self, exchange: Exchange, body: memoryview) -> None:
        self.started += 1
        what, _, value = exchange.query.partition("=")
        match what:
            case "" | "echo":
                exchange.answer(self._reply(bytes(body)))
            case "view":
                exchange.answer(self._reply(body))
            case "address":
                assert exchange.lease is not None
                at = int(exchange.headers.get("inference-header-content-length", "0"))
                exchange.answer(self._reply(str((exchange.lease.address + at) % 64).encode()))
            case "size":
                exchange.answer(self._reply(memoryview(bytearray(int(value)))))
            case "hold":
                held = Held(exchange, body)

                def stop() -> str:
                    held.cancelled = True
                    return "while it was held"

                exchange.work(stop)
                self.held.append(held)
            case "shared":
                self._waiting.append((exchange, int(value)))
                self._next()
            case _:
                raise RuntimeError(f"a bug with a path in it: /secret/{what}")

    def _reply(self, body: bytes | memoryview) -> Reply:
        def release() -> None:
            self.released += 1

        return Reply(200, {"content-type": "application/octet-stream"}, [body], len(body), release)

    def _next(self) -> None:
        while self._output_free and self._waiting:
            exchange, number = self._waiting.pop(0)
            if exchange.over:
                continue
            self._output_free = False
            self.output[:] = struct.pack("<Q", number) * (len(self.output) // 8)
            view = memoryview(self.output)
            exchange.answer(Reply(200, {}, [view[:1000], view[1000:]], len(view), self._give_back))

    def _give_back(self) -> None:
        assert not self._output_free, "released twice"
        self.output[:] = b"\xee" * len(self.output)
        self._output_free = True
        asyncio.get_running_loop().call_soon(self._next)


@dataclass(repr=False)
class Stage:
    """A server in the test's own loop."""

    operation: Obedient
    gate: Gate
    front: Front
    listener: HttpListener
    port: int
    client_tls: ssl.SSLContext | None = None
    bodies: list[bytes] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def look(self, after_s: float) -> None:
        """Have all connections look at a clock that is ``after_s`` seconds ahead."""
        for connection in list(self.front.connections):
            connection.overdue(time.monotonic() + after_s)

    @property
    def only(self) -> Any:
        """The one connection, from inside."""
        (connection,) = self.front.connections
        return connection

    async def connect(self, receive_buffer: int = 0) -> Client:
        client = await Client.connect(self.port, receive_buffer)
        self.clients.append(client)
        return client

    async def state(self, name: str) -> None:
        """Wait until the one connection is in a state."""
        await eventually(lambda: [c._state.name for c in self.front.connections] == [name], f"the state is {name}")

    async def holds(self, count: int = 1) -> list[Held]:
        """Wait until the model holds that many requests."""
        await eventually(lambda: len(self.operation.held) == count, f"the model holds {count}")
        return self.operation.held

    async def idle(self) -> None:
        """Wait until nothing is left of any request; whoever keeps a connection keeps only that."""
        await eventually(lambda: not self.gate.open, "no request is in flight")
        await eventually(lambda: not self.gate.arena.leases, "no lease is held")

    async def empty(self) -> None:
        """Wait until nothing is left of any connection."""
        await self.idle()
        await eventually(lambda: not self.front.connections, "all connections are closed")

    async def reset(self) -> None:
        """After a test: its clients leave, and nothing may stay behind."""
        for client in self.clients:
            client.leave()
        await self.empty()
        self.clients.clear()
        self.operation.held.clear()
        self.bodies.clear()
        self.gate.draining = False

    def count(self, **labels: str) -> float:
        """``saccade_requests_total`` with these labels."""
        family = next(f for f in self.gate.metrics.collect() if f.name == "saccade_requests")
        found = [s for s in family.samples if s.name == "saccade_requests_total"]
        return sum(s.value for s in found if labels.items() <= s.labels.items())


@contextlib.asynccontextmanager
async def serving(
    arena: Arena | None = None,
    keep_alive_s: float = 120,
    certificate: tuple[Path, Path] | None = None,
    operations: Callable[[Gate], Sequence[Operation]] = lambda gate: (),
    **settings: Any,
) -> AsyncIterator[Stage]:
    """Serve until the block ends; then nothing may be left of any request.

    Args:
        operations: further ones, without an ASGI twin: what the connections do not serve themselves is not found.
    """
    chosen = ServiceSettings(**settings)
    gate = Gate({}, chosen, Metrics(), arena or Arena(chosen.max_inflight_bytes, poison=True))
    operation = Obedient()
    front = Front(gate, Router([operation, *operations(gate)]), keep_alive_s)
    stage: Stage

    async def live(_request: Request) -> Response:
        return PlainTextResponse("live")

    async def echo(request: Request) -> Response:
        stage.bodies.append(await request.body())
        return Response(stage.bodies[-1])

    async def unread(_request: Request) -> Response:
        return PlainTextResponse("no", 403)

    async def large(_request: Request) -> Response:
        return Response(bytes(8 * 2**20))

    routes = [
        *OperationRoutes(gate, [operation]).routes(),
        Route("/v2/health/live", live),
        Route("/echo", echo, methods=["POST", "PUT"]),
        Route("/unread", unread, methods=["POST"]),
        Route("/large", large),
    ]
    listening = bind(HOST, 0, "--http_port")
    port = listening.getsockname()[1]
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as uvloop does by itself
    options: dict[str, Any] = {"timeout_keep_alive": keep_alive_s}
    if certificate is not None:
        options |= {"ssl_certfile": str(certificate[0]), "ssl_keyfile": str(certificate[1])}
    listener = HttpListener(_ConnectionCloser(Starlette(routes=routes), gate), listening, front, **options)
    await listener.start()
    stage = Stage(operation, gate, front, listener, port)
    try:
        yield stage
        await stage.idle()
    finally:
        await listener.stop(1.0)
        listening.close()
        gate.deadlines.close()


def scenario(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on both loops, each with a server of its own that all tests of a module share.

    A test whose first parameter is not ``stage`` starts what it needs itself.
    """
    parameters = list(inspect.signature(test).parameters.values())
    shared = bool(parameters) and parameters[0].name == "stage"

    def run(runner: asyncio.Runner, **arguments: Any) -> None:
        async def whole() -> None:
            async with asyncio.timeout(120):
                try:
                    await test(**arguments)
                finally:
                    if shared:
                        await arguments["stage"].reset()

        runner.run(whole())

    own = inspect.Parameter("runner", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]  # pytest reads it
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A connection on which the test sends and reads bytes."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.loop = asyncio.get_running_loop()
        self.read = b""

    @classmethod
    async def connect(cls, port: int, receive_buffer: int = 0) -> Client:
        raw = socket.socket()
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client = cls(raw)
        await client.loop.sock_connect(raw, (HOST, port))
        return client

    async def send(self, *pieces: bytes) -> None:
        """Send each piece so that the server reads it by itself, if it has the time."""
        async with asyncio.timeout(SOON_S):
            for piece in pieces:
                await self.loop.sock_sendall(self.raw, piece)
                if len(pieces) > 1:
                    await settle(3)

    async def receive(self, most: int = 2**16) -> bytes:
        async with asyncio.timeout(SOON_S):
            return await self.loop.sock_recv(self.raw, most)

    async def more(self, why: str, most: int = 2**16) -> None:
        data = await self.receive(most)
        assert data, f"the connection was closed {why}; read {self.read[:300]!r}"
        self.read += data

    async def until(self, mark: bytes) -> bytes:
        """Read up to and with a mark."""
        while mark not in self.read:
            await self.more(f"before {mark!r}")
        found, _, self.read = self.read.partition(mark)
        return found + mark

    async def exactly(self, size: int) -> bytes:
        pieces, have = [self.read], len(self.read)
        while have < size:
            pieces.append(await self.receive(2**18))
            assert pieces[-1], f"the connection was closed in a body, after {have} of {size} bytes"
            have += len(pieces[-1])
        whole = b"".join(pieces)
        self.read = whole[size:]
        return whole[:size]

    async def answer(self, to_head: bool = False) -> Answer:
        """Read the next answer, whole."""
        first, *lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1", first
        headers = {}
        for line in lines:
            name, value = line.split(": ", 1)
            assert name.lower() not in headers, f"{name} stands twice in {lines}"
            headers[name.lower()] = value
        if to_head or status == "100":
            return Answer(int(status), headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.until(b"\r\n"), 16):
                body += (await self.exactly(size + 2))[:-2]
            await self.until(b"\r\n")
            return Answer(int(status), headers, body)
        return Answer(int(status), headers, await self.exactly(int(headers["content-length"])))

    async def ask(self, *pieces: bytes) -> Answer:
        await self.send(*pieces)
        return await self.answer()

    async def end(self) -> bytes:
        """Read until the server closes, which it does without a reset."""
        while data := await self.receive():
            self.read += data
        self.raw.close()
        rest, self.read = self.read, b""
        return rest

    def leave(self) -> None:
        self.raw.close()

    def reset(self) -> None:
        """Leave as a process that dies: with a reset, not an end."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.close()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
