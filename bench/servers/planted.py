"""A transformer with known, planted latency, which remembers when each request came and when it was answered.

A share of the requests is answered later by a fixed time, and once the whole server stands still. Which requests are
late follows from their numbers, so that whoever knows the schedule knows every latency. ``GET /truth`` tells what was
seen. Usage: ``python -m servers.planted PORT WIDTH HEIGHT [--share S --delay S] [--stall-at S --stall S]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

import uvloop

from servers.null_detector import Connection, answers

#: The frames' stamp (saccade_loadtest.load.frames): start of image, comment, its length, camera, scene, shot.
_STAMP: Final = struct.Struct(">2sHHIII")
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


def is_late(number: int, share: float) -> bool:
    """Whether a request is one of the late ones: spread evenly, exactly the share of many."""
    return (number + 0.5) * _GOLDEN % 1.0 < share


def latencies_s(due_s: Sequence[float], seen: Mapping[int, tuple[float, float]]) -> list[float]:
    """What each answered request took, as the server saw it, from the moment the schedule wanted it.

    Args:
        due_s: by number of the request, since the schedule's beginning.
        seen: number -> when it came and when it was answered, on the server's clock.

    The schedule's beginning on the server's clock is where the quickest request puts it: that one came at once.
    """
    begun = min(came - due_s[number] for number, (came, _) in seen.items())
    return [answered - begun - due_s[number] for number, (_, answered) in sorted(seen.items())]


class Planted:
    """What all connections share.

    Args:
        share: of the requests that are late.
        delay_s: by so much.
        stall_at_s: after the first request, all stands still; infinite: never.
        stall_s: for so long.
        clients: of the schedule: a request's number is its scene times these, and its camera.
        work_s: what each answer takes of the only thread that answers.
    """

    def __init__(
        self, share: float, delay_s: float, stall_at_s: float, stall_s: float, clients: int, work_s: float
    ) -> None:
        self.work_s = work_s
        self.share, self.delay_s = share, delay_s
        self._stall_at_s, self._stall_s, self._clients = stall_at_s, stall_s, clients
        self._first: float | None = None
        self._has_stalled = False
        self.seen: dict[int, tuple[float, float]] = {}

    def number(self, body: bytes) -> int | None:
        """Of the request that a body's beginning belongs to."""
        if len(body) < _STAMP.size:
            return None
        _, _, _, camera, scene, _ = _STAMP.unpack_from(body)
        return int(scene * self._clients + camera)

    def stand_still(self) -> None:
        """If it is time, for the time."""
        now = time.monotonic()
        self._first = self._first or now
        if not self._has_stalled and now - self._first >= self._stall_at_s:
            self._has_stalled = True
            time.sleep(self._stall_s)  # the whole process, as a collector or a lock would stop it


class PlantedConnection(Connection):
    """Answers when it shall."""

    def __init__(self, known: dict[bytes, bytes], planted: Planted) -> None:
        super().__init__(known)
        self._planted = planted
        self._number: int | None = None
        self._came = 0.0
        self._asks_truth = False

    def begun(self, head: bytes, body: bytes) -> None:
        """Remember which request it is."""
        self._asks_truth = head.startswith(b"GET /truth")
        if head.startswith(b"POST"):
            self._planted.stand_still()
            self._came = time.monotonic()
            self._number = self._planted.number(body)

    def answer(self, whole: bytes) -> None:
        """Now, or later."""
        if self._number is not None and self._planted.work_s:
            time.sleep(self._planted.work_s)
        if self._asks_truth:
            body = json.dumps([[number, *times] for number, times in self._planted.seen.items()]).encode()
            super().answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        elif self._number is not None and is_late(self._number, self._planted.share):
            delay_s = self._planted.delay_s - (time.monotonic() - self._came)
            asyncio.get_running_loop().call_later(delay_s, self._write, whole)
        else:
            self._write(whole)

    def _write(self, whole: bytes) -> None:
        super().answer(whole)
        if self._number is not None:
            self._planted.seen[self._number] = (self._came, time.monotonic())
            self._number = None


async def serve(port: int, width: int, height: int, planted: Planted) -> None:
    """Serve until the process ends."""
    known = answers(width, height)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: PlantedConnection(known, planted), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    """Serve what the command line says."""
    parser = argparse.ArgumentParser()
    for name in ("port", "width", "height"):
        parser.add_argument(name, type=int)
    parser.add_argument("--share", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.5)
    parser.add_argument("--stall-at", type=float, default=math.inf)
    parser.add_argument("--stall", type=float, default=2.0)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--work", type=float, default=0.0)
    given = parser.parse_args(arguments)
    planted = Planted(given.share, given.delay, given.stall_at, given.stall, given.clients, given.work)
    uvloop.run(serve(given.port, given.width, given.height, planted))


if __name__ == "__main__":
    main(sys.argv[1:])
