"""An HTTP/1.1 client connection that never waits: writes what the socket takes, reads what has come, tells its end.

Built for load: requests are finished bytes, an answer is found by its Content-Length; chunked answers and those that
end with the connection (a proxy's error pages) work too. TLS runs over memory buffers. Retries nothing and knows no
time: whoever drives it (``engine``) has the clock.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_HEXADECIMAL: Final = re.compile(rb"[0-9A-Fa-f]+")
_END: Final = b"\r\n\r\n"
#: The machine's lack of ports or memory, not the server's refusal.
_OWN_LACK: Final = frozenset((errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.ENOBUFS, errno.ENOMEM))
_AT_ONCE: Final = struct.pack("ii", 1, 0)
_READ_BYTES: Final = 256 * 1024
_MOST_HEAD: Final = 64 * 1024
#: An answer over this is none of ours; the connection is given up before it fills the memory.
_MOST_BODY: Final = 64 * 2**20


class ConnectionLost(Exception):
    """The connection cannot be used any more; the text says why."""


class NoSocket(ConnectionLost):
    """This machine gives no socket, or no port for one: no fault of the other side."""


class HttpAnswer(NamedTuple):
    """An answer.

    Attributes:
        status: HTTP's.
        head: all of it, up to the empty line.
        body: without the transfer coding.
    """

    status: int
    head: bytes
    body: bytes


class Connection:
    """One connection, with at most one request on it.

    Args:
        family: of the socket.
        address: where to.
        tls: context and server name, or None.
    """

    __slots__ = (
        "_in", "_is_connected", "_out", "_tls", "_tls_in", "_tls_out", "fd", "is_reusable", "is_up", "order", "socket",
    )  # fmt: skip

    def __init__(self, family: int, address: Any, tls: tuple[ssl.SSLContext, str] | None = None) -> None:
        try:
            self.socket = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise NoSocket(f"this machine gives no socket: {error.strerror}") from error
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self.socket.fileno()
        self._is_connected = False
        self.is_up = False  # requests may go out: it is connected, and the TLS handshake is done
        self.is_reusable = True
        self.order: Any = None  # what its driver put on it
        self._in: bytes | bytearray = b""
        self._out: list[memoryview] = []
        self._tls: ssl.SSLObject | None = None
        if tls is not None:
            self._tls_in, self._tls_out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = tls[0].wrap_bio(self._tls_in, self._tls_out, server_hostname=tls[1])
        try:
            self.socket.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:
            self.socket.close()
            if error.errno in _OWN_LACK:
                raise NoSocket(f"this machine has nothing left to connect with: {error.strerror}") from error
            raise ConnectionLost(f"cannot connect: {error.strerror}") from error

    @property
    def wants_write(self) -> bool:
        """Whether ``flush`` has something to do once the socket takes data."""
        return not self._is_connected or (self.is_up and bool(self._out))

    def write(self, pieces: Sequence[bytes]) -> bool:
        """Write a request, or keep what the socket does not take now; returns whether all of it has gone.

        Raises:
            ConnectionLost: the other side is gone.
        """
        self._in = b""
        if self._tls is not None and self.is_up:
            for piece in pieces:
                self._tls.write(piece)
            self._out.append(memoryview(self._tls_out.read()))
        else:
            self._out += map(memoryview, pieces)
        return self.flush() if self.is_up else False

    def flush(self) -> bool:
        """Go on writing; returns whether everything has gone.

        Raises:
            ConnectionLost: the other side is gone, or was never there.
        """
        try:
            if not self.is_up and not self._begin():
                return not self._out
            while self._out:
                sent = self.socket.sendmsg(self._out[:16])
                while self._out and sent >= len(self._out[0]):
                    sent -= len(self._out.pop(0))
                if sent:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionLost(error.strerror or str(error)) from error
        return True

    def read(self) -> HttpAnswer | None:
        """Read what has come; returns the answer once all of it is there.

        Raises:
            ConnectionLost: it was closed, or what comes is no HTTP.
        """
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ConnectionLost(error.strerror or str(error)) from error
        is_over = not data
        if self._tls is not None:
            data = self._decrypted(data)
        if self._in:
            if isinstance(self._in, bytes):
                self._in = bytearray(self._in)
            self._in += data
        else:
            self._in = data
        if not self._in and not is_over:
            return None
        return self._answer(is_over)

    def close(self) -> None:
        """Give it up."""
        self.socket.close()

    def abort(self) -> None:
        """Give it up at once, with a reset: its port is free again, and does not wait a minute for late packets."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.socket.close()

    def _begin(self) -> bool:
        """Finish connecting, and the TLS handshake; returns whether requests may be written."""
        if error := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, f"cannot connect: {os.strerror(error)}")
        self._is_connected = True
        if self._tls is None:
            self.is_up = True
            return True
        return self._shake_hands()

    def _shake_hands(self) -> bool:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
            self.is_up = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise ConnectionLost(f"TLS: {error.reason or error}") from error
        plain, self._out = self._out, []
        if self._tls_out.pending:
            self._out.append(memoryview(self._tls_out.read()))
        if not self.is_up:
            # What the application wants to send waits behind the handshake, which has the wire to itself.
            hello, self._out = self._out, plain
            for piece in hello:
                self._send_all(piece)
            return False
        for piece in plain:
            self._tls.write(piece)
        self._out.append(memoryview(self._tls_out.read()))
        return True

    def _send_all(self, piece: memoryview) -> None:
        """A few hundred bytes of a handshake, which an empty socket buffer always takes."""
        if self.socket.send(piece) != len(piece):
            raise ConnectionLost("the socket takes no TLS handshake")

    def _decrypted(self, data: bytes) -> bytes:
        assert self._tls is not None
        if data:
            self._tls_in.write(data)
        else:
            self._tls_in.write_eof()
        if not self.is_up:
            if not data:
                raise ConnectionLost("closed during the TLS handshake")
            if self._shake_hands():
                self.flush()
        found = []
        try:
            while piece := self._tls.read(_READ_BYTES):
                found.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            if not isinstance(error, ssl.SSLEOFError):
                raise ConnectionLost(f"TLS: {error.reason or error}") from error
        return b"".join(found)

    def _answer(self, is_over: bool) -> HttpAnswer | None:
        end = self._in.find(_END)
        if end < 0:
            if is_over:
                raise ConnectionLost("closed without an answer" if self.order is not None else "closed while idle")
            if len(self._in) > _MOST_HEAD:
                raise ConnectionLost(f"an answer's head of over {_MOST_HEAD // 1024} KiB")
            return None
        head = bytes(self._in[: end + 2])
        if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
            raise ConnectionLost(f"no HTTP answer: {head[:40]!r}")
        status = int(head[9:12])
        begins = end + 4
        if (length := _LENGTH.search(head)) is not None:
            body = self._sized(begins, int(length[1]))
        elif _CHUNKED.search(head):
            body = dechunk(memoryview(self._in)[begins:])
        elif status in (204, 304):
            body = b""
        else:
            self.is_reusable = False
            body = bytes(self._in[begins:]) if is_over else None
        if len(self._in) > _MOST_BODY + _MOST_HEAD:
            raise ConnectionLost(f"an answer of over {_MOST_BODY // 2**20} MiB")
        if body is None:
            if is_over:
                raise ConnectionLost("closed in the middle of an answer")
            return None
        if is_over or _CLOSE.search(head) or head.startswith(b"HTTP/1.0"):
            self.is_reusable = False
        self._in = b""
        return HttpAnswer(status, head, body)

    def _sized(self, begins: int, size: int) -> bytes | None:
        if size > _MOST_BODY:
            raise ConnectionLost(f"an answer of {size} bytes")
        have = len(self._in) - begins
        if have < size:
            return None
        if have > size:
            self.is_reusable = False  # something nobody asked for came behind it
        return bytes(self._in[begins : begins + size])


def dechunk(coded: memoryview | bytes) -> bytes | None:
    """The body in chunked transfer coding (RFC 9112, section 7.1); None while some of it is missing.

    Raises:
        ConnectionLost: it is no such coding.
    """
    data = bytes(coded)
    found: list[bytes] = []
    at = 0
    while True:
        line_ends = data.find(b"\r\n", at)
        if line_ends < 0:
            return None
        digits = data[at:line_ends].partition(b";")[0].strip()
        if not _HEXADECIMAL.fullmatch(digits):
            raise ConnectionLost(f"a chunk of size {digits[:20]!r}")
        size = int(digits, 16)
        at = line_ends + 2
        if size == 0:
            # Trailers, then an empty line.
            return b"".join(found) if data.startswith(b"\r\n", at) or data.find(_END, at) >= 0 else None
        if len(data) < at + size + 2:
            return None
        found.append(data[at : at + size])
        at += size + 2
