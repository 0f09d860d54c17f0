"""A server on a real socket that does what a test says: for the load generator's tests."""

from __future__ import annotations

import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

#: What a server sends for the n-th request of all (from 0): pieces, and then whether it closes.
Script = Callable[[int], tuple[Sequence[bytes], bool]]


class Handler(socketserver.StreamRequestHandler):
    """Reads requests with a Content-Length and answers as the server's script says."""

    server: Scripted

    def handle(self) -> None:
        self.server.connections += 1
        while True:
            length = None
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            if length is None:
                return
            self.rfile.read(length)
            pieces, closes = self.server.script(self.server.count())
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
            if closes:
                return


class Scripted(socketserver.ThreadingTCPServer):
    """A server that does what a test says."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self._tls = script, tls
        self.connections = 0
        self._served = 0
        self._lock = threading.Lock()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        return (self._tls.wrap_socket(connection, server_side=True) if self._tls else connection), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave; that is what is tested."""

    def count(self) -> int:
        with self._lock:
            self._served += 1
            return self._served - 1


@contextmanager
def serving(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    server = Scripted(script, tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
