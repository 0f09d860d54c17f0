"""Memory and open files of another process, and connections that stay open and idle."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from measuring.cpu import PROC
from measuring.payload import is_right
from measuring.samples import ClientError

_TIMEOUT_S: Final = 30.0
#: Files of our own, beside the connections.
_OTHER_FILES: Final = 200


def rss_bytes(pid: int, proc: Path = PROC) -> int:
    """Resident memory of a process: what it touched of its own, and of what it shares."""
    return int((proc / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int, proc: Path = PROC) -> int:
    """File descriptors of a process."""
    return len(list((proc / str(pid) / "fd").iterdir()))


def allow_files(connections: int) -> None:
    """Raise the limit of open files, for this process and those it starts from now on.

    Raises:
        OSError: the limit that only root may raise is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(f"{connections} connections need {needed} open files, but the limit is {hard} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextmanager
def idle_connections(port: int, count: int, request: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that have each made one request; they are closed at the end of the block.

    Raises:
        ClientError: a wrong answer.
        OSError: the server closed one, or does not answer.
    """
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), _TIMEOUT_S))
            ask(one, request)
            opened.append(one)
        yield opened


def ask(connection: socket.socket, request: bytes) -> None:
    """Make one request on an open connection, and read the whole answer, which must come in one piece or a few.

    Raises:
        ClientError: a wrong answer.
        OSError: the server closed the connection, or does not answer.
    """
    connection.sendall(request)
    answer = b""
    while not is_right(answer):  # the number that was asked for is the last of the answer
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"the server closed the connection after {answer[:300]!r}")
        answer += piece
        if not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
            raise ClientError(f"a wrong answer: {answer[:300]!r}")
