"""What the connections of one listener share: the gate, the routes, one scratch buffer, and a look at the clock."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from saccade_serving.connection.gate import Gate
from saccade_serving.connection.head import Head
from saccade_serving.connection.operation import Operation, Router
from saccade_serving.oip.compression import is_asked_for

if TYPE_CHECKING:
    from saccade_serving.connection.http1 import Http1Connection

log = logging.getLogger("saccade.rest")

#: Where heads are read to. Small, so that of a large body little is copied from here to its slot.
SCRATCH_BYTES: Final = 16 * 2**10
_LOOK_S: Final = 1.0
#: Segments of the arena that have been unused for so long are given back.
_TRIM_S: Final = 60.0
#: What is given back in one look: unmapping a gigabyte at once holds the event loop for a tenth of a second.
_TRIM_BYTES: Final = 64 * 2**20
_MAX_HEADS: Final = 256
_MAX_HEAD_BYTES: Final = 2048
_MAX_SEEN: Final = 4096
#: Headers that clients give a new value for every request, and that mean nothing for how the request is received.
VOLATILE: Final = re.compile(
    rb"\r\n(x-request-id|traceparent|tracestate|x-deadline-ms):[ ]*([\x21-\x7e][\x20-\x7e]*)(?=\r\n)", re.IGNORECASE
)
_ANY_VOLATILE: Final = re.compile(rb"\r\n(?:x-request-id|traceparent|tracestate|x-deadline-ms):", re.IGNORECASE)
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class Front:
    """Shared by all connections of one event loop.

    Attributes:
        scratch: a read ends before the next begins, so that one buffer serves all connections; nothing stays in it.
        connections: all that are open.
        head_s: time a new connection has until its first byte, if it is from this machine; at most.
        known: heads that came before, in pieces around the values of ``VOLATILE`` headers, and what they are for.
    """

    def __init__(self, gate: Gate, router: Router, head_s: float) -> None:
        self.gate = gate
        self.router = router
        self.head_s = head_s
        self.write_timeout_s = gate.settings.write_timeout_s
        self.largest_body_bytes = gate.settings.largest_body_bytes
        self.peer_bytes = gate.settings.peer_bytes
        # Operations keep the request's own deadline; this is for routes that read a body without one.
        self.body_s = gate.settings.default_timeout_s + 5.0
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.connections: set[Http1Connection] = set()
        self.known: dict[tuple[bytes, ...], tuple[Head, Operation, dict[str, str]]] = {}
        self._seen: set[int] = set()
        self._watching: asyncio.Task[None] | None = None
        self._default_headers: Sequence[tuple[bytes, bytes]] = ()
        self._begun: dict[int, str] = {}

    @property
    def ordinary_inflight(self) -> int:
        """Requests in flight that are no operations, and so not known to the gate."""
        return sum(connection.is_ordinary for connection in self.connections)

    def recall(self, data: bytes) -> tuple[Head, Mapping[str, str], Operation, dict[str, str]] | None:
        """What was learned from a head that differs from this one in the values of ``VOLATILE`` headers at most.

        Returns:
            The head, this one's headers, the operation and its placeholders; None if there is no such head.
        """
        parts = VOLATILE.split(data)
        if len(parts) == 1:
            known = self.known.get((data,))
            return None if known is None else (known[0], known[0].headers, known[1], known[2])
        values = parts[2::3]
        del parts[2::3]
        known = self.known.get(tuple(parts))
        if known is None:
            return None
        headers = known[0].headers.copy()
        for name, value in zip(parts[1::2], values, strict=True):
            headers[name.lower().decode()] = value.decode().rstrip(" ")
        return known[0], headers, known[1], known[2]

    def learn(self, data: bytes, head: Head, found: tuple[Operation, dict[str, str]]) -> None:
        """Remember what a head says when it comes a second time: clients repeat theirs, but for a few values.

        Heads with secrets are not kept.
        """
        if len(data) > _MAX_HEAD_BYTES or head.expects_continue or not _SECRET.isdisjoint(head.headers):
            return
        parts = VOLATILE.split(data)
        names = [name.lower() for name in parts[1::3]]
        # Joined values are not worth the trouble, whatever form the second one has.
        if len(set(names)) < len(names) or len(_ANY_VOLATILE.findall(data)) > len(names):
            return
        del parts[2::3]
        key = tuple(parts)
        number = hash(key)
        if number not in self._seen:
            if len(self._seen) >= _MAX_SEEN:
                self._seen.clear()
            self._seen.add(number)
            return
        if len(self.known) >= _MAX_HEADS:
            self.known.clear()
        self.known[key] = (head, *found)

    def start(self) -> None:
        """Begin to look for what takes too long."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Stop looking."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def ordinary_coding(self, headers: Mapping[str, str]) -> bool:
        """Whether a body comes compressed, or the answer shall be: the ASGI route does that, in a thread."""
        encoding = headers.get("content-encoding")
        if encoding is not None and encoding.lower() != "identity":
            return True
        accepted = headers.get("accept-encoding")
        return accepted is not None and is_asked_for(accepted, self.gate.settings.response_compression) is not None

    def begin_answer(self, status: int, default_headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Status line and uvicorn's default headers, which change every second."""
        if default_headers is not self._default_headers:
            self._default_headers = default_headers
            self._begun.clear()
        text = self._begun.get(status)
        if text is None:
            fields = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in default_headers)
            text = self._begun[status] = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{fields}"
        return text

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            for connection in list(self.connections):
                try:
                    connection.overdue(now)
                except Exception:  # one connection's must not end the watch over all others
                    log.exception("overdue_failed")
            try:
                self.gate.arena.trim(_TRIM_S, _TRIM_BYTES)
            except Exception:  # nor may a device that does not let go of a segment
                log.exception("trim_failed")


def peer_of(address: Any) -> str:
    """Whose share of the arena a connection uses; empty, and so unlimited, for this machine itself.

    In a pod everything comes from the queue-proxy beside us: there the proxy's clients share the whole.

    Args:
        address: what the transport or ASGI tells of the peer: (host, port, ...), or None.
    """
    host = address[0] if isinstance(address, tuple | list) and address else ""
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped  # how a socket of both families calls it
    return "" if parsed.is_loopback else str(parsed)
