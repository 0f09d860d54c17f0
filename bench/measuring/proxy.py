"""Knative's queue-proxy in front of a server, as the tests start it (``tests/queue_proxy.py`` knows its settings)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring.processes import free_port
from measuring.targets import ROOT


class Unavailable(Exception):
    """There can be no queue-proxy here; the message says why."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A queue-proxy that listens."""

    port: int
    pid: int


def need() -> None:
    """Say at once if there can be none here.

    Raises:
        Unavailable: it is not installed.
    """
    queue_proxy, refusals = _from_tests()
    try:
        queue_proxy.need_program()
    except refusals as why:
        raise Unavailable(str(why)) from None


@contextmanager
def in_front_of(port: int, log: Path, container_concurrency: int = 0) -> Iterator[Proxy]:
    """Start a queue-proxy in front of a server's REST port; end it with the block.

    One runs at a time on a machine: this waits for those of others.

    Args:
        port: the server's.
        log: what the queue-proxy says is appended.
        container_concurrency: its hard limit; 0 is none.

    Raises:
        Unavailable: it is not installed, or something else has its ports.
    """
    need()
    queue_proxy, refusals = _from_tests()
    settings = {"CONTAINER_CONCURRENCY": str(container_concurrency)}
    with ExitStack() as stack:
        try:
            stack.enter_context(queue_proxy.alone())
        except refusals as why:
            raise Unavailable(str(why)) from None
        running = stack.enter_context(queue_proxy.QueueProxy(port, free_port(), log, environment=settings))
        yield Proxy(running.port, running.process.pid)


def _from_tests() -> tuple[Any, tuple[type[BaseException], ...]]:
    """The tests' module, and what it raises where there can be no queue-proxy."""
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    import pytest

    import queue_proxy

    return queue_proxy, (pytest.skip.Exception, pytest.fail.Exception, AssertionError)
