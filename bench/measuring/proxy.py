"""Knative's queue-proxy in front of a server, as the tests start it (``tests/queue_proxy.py`` knows its settings)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from measuring.processes import free_port
from measuring.targets import ROOT


class Unavailable(Exception):
    """There can be no queue-proxy here; the message says why."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A queue-proxy that listens."""

    port: int
    pid: int


@contextmanager
def in_front_of(port: int, log: Path) -> Iterator[Proxy]:
    """Start a queue-proxy in front of a server's REST port; end it with the block.

    One runs at a time on a machine: this waits for those of others.

    Raises:
        Unavailable: it is not installed, or something else has its ports.
    """
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    import pytest

    import queue_proxy

    with ExitStack() as stack:
        try:
            queue_proxy.need_program()
            stack.enter_context(queue_proxy.alone())
        except (pytest.skip.Exception, pytest.fail.Exception, AssertionError) as why:
            raise Unavailable(str(why)) from None
        running = stack.enter_context(queue_proxy.QueueProxy(port, free_port(), log))
        yield Proxy(running.port, running.process.pid)
