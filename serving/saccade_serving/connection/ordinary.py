"""Requests that are no operation of ours: uvicorn's own HTTP protocol behind our connection, one request at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from saccade_serving.connection.head import END_OF_HEAD, BadHead, Head

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

    from saccade_serving.connection.http1 import Http1Connection

#: Where an application finds why its client's request was refused in the middle of the body.
REFUSAL: Final = "saccade.refusal"


class OrdinaryRequests(HttpToolsProtocol):
    """Uvicorn's protocol, told of heads and bodies by a connection, which it tells when it has answered.

    Keep-alive, pipelining and closing are the connection's.
    """

    def __init__(
        self,
        connection: Http1Connection,
        transport: asyncio.Transport,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._connection = connection
        self.connection_made(_Transport(transport, connection))  # type: ignore[arg-type]  # what it needs of one
        self.connections.discard(self)  # uvicorn's list holds our connection

    def begin(self, head: Head, data: bytes) -> None:
        """Begin a request.

        Args:
            head: as our parser understood it.
            data: its bytes, with the last line's CRLF and without the empty line.
        """
        # In absolute form the application's parser wants a path; ours has found one.
        absolute = data[len(head.method) + 1] not in b"/*"
        if "upgrade" in head.headers or absolute:
            # No other protocol is served, and the parser would take what follows for one.
            kept = {k: v for k, v in head.headers.items() if k not in ("upgrade", "connection", "http2-settings")}
            if not head.keep_alive:
                kept["connection"] = "close"
            target = f"{head.path}?{head.query}" if head.query else head.path
            lines = [f"{head.method} {target} HTTP/1.{int(head.http_1_1)}\r\n"]
            data = "".join([*lines, *(f"{name}: {value}\r\n" for name, value in kept.items())]).encode("latin-1")
        self.data_received(data[:-2] + END_OF_HEAD)

    def give_up(self, refusal: BadHead) -> bool:
        """Have the application end without an answer, as if the client had left.

        Args:
            refusal: what the client is answered, for who accounts for the request (``REFUSAL`` in its scope).

        Returns:
            Whether some of an answer has been written.
        """
        cycle = self.cycle  # perhaps still the last request's, if this one's head is what is refused
        started = cycle is not None and cycle.response_started and not cycle.response_complete
        if cycle is not None:
            cycle.waiting_for_100_continue = False
            if not started:
                cycle.scope[REFUSAL] = refusal  # type: ignore[typeddict-unknown-key]  # a key of our own
        self.flow.resume_reading()
        self.connection_lost(None)
        return started

    def forget_body(self) -> None:
        """Let go of a body that is still coming and that nobody reads: it is not passed on any more.

        The parser waits for it, and holds this protocol, which holds it.
        """
        self.parser = None  # type: ignore[assignment]  # as uvicorn does itself

    def send_400_response(self, msg: str) -> None:
        """Refuse what our own parser accepted; the connection answers.

        Raises:
            BadHead: always.
        """
        raise BadHead("the request is malformed")

    def on_response_complete(self) -> None:
        """Let the connection go on."""
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._connection.ordinary_done()


class _Transport:
    """A connection's transport without the right to close it while a client is still sending."""

    def __init__(self, transport: asyncio.Transport, connection: Http1Connection) -> None:
        self._connection = connection
        self.write = transport.write
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def close(self) -> None:
        self._connection.ordinary_closed()
