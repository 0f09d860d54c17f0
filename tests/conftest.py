"""How the tests are spread over processes (``pytest -n 2``): file by file, those that take long first."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

#: Begun first, so that no process is left with one of them at the end.
LONG: Final = ("tests/test_packaging.py", "tests/integration/", "tests/test_bench", "tests/terraform/test_examples")
#: Tests of these files stand alone, and the files take minutes: any process may have any of the tests.
DIVISIBLE: Final = "tests/test_bench"
#: Their tests start queue-proxies, of which only one runs at a time on a machine: they are one process's, in turn.
QUEUE_PROXY: Final = (
    "tests/integration/test_queue_proxy.py",
    "tests/test_bench.py::test_a_quick_run_of_the_path_",
    "tests/test_bench.py::test_a_quick_run_shows_what_a_small_hard_limit_",
)


def scope_of(nodeid: str) -> str:
    """Name what a test shares its process with."""
    if nodeid.startswith(QUEUE_PROXY):
        return "queue-proxy"
    return nodeid if nodeid.startswith(DIVISIBLE) else nodeid.partition("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background jobs ignore it, and what tests start would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        # readline writes them into the environment of what pytest starts, and rich then believes in such a terminal.
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False  # by the number of tests
    return ByScope(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(LONG))
