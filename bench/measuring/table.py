"""The tables a person reads, and the progress they see meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from measuring.goals import Goal
from measuring.stopping import stop_if_asked
from measuring.summary import Row
from measuring.targets import Target

#: Width where the output is a file or a pipe.
FILE_WIDTH = 140
_OWN_IDS: Final = (
    "own ids: every request has an id of its own in the JSON and in its x-request-id, all of one length. Saccade "
    "remembers heads and JSON that it has seen; in the other rows all requests of a client are equal, as are those of "
    "a client that gives no ids, and so cost less."
)
_GRPC: Final = "Saccade gRPC is grpcio until HTTP/2 comes on the same port; the goals are judged for REST."


def console(stderr: bool = False) -> Console:
    """A console that is wide enough for the tables when nobody looks."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = FILE_WIDTH
    return made


def results(rows: Sequence[Row], size: str) -> Table:
    """All rows of one size, a section for each number of connections."""
    table = Table(title=f"{size}: CPU and latency per request", title_justify="left")
    table.add_column("conn.", justify="right")
    table.add_column("server", no_wrap=True)
    for name in ("CPU ms", "x KServe\ngRPC", "x Triton\nHTTP", "x Triton\ngRPC"):
        table.add_column(name, justify="right")
    for name in ("p50 ms", "p99 ms", "added\np50 ms", "per s", "client\nCPU ms", "req."):
        table.add_column(name, justify="right")
    before = 0
    for row in rows:
        if row.size != size:
            continue
        if before and row.connections != before:
            table.add_section()
        table.add_row(
            str(row.connections) if row.connections != before else "",
            row.label,
            number(row.cpu_ms),
            *(number(times) for times in (row.times_kserve_grpc, row.times_triton_http, row.times_triton_grpc)),
            number(row.p50_ms),
            number(row.p99_ms),
            number(row.added_p50_ms),
            f"{row.per_second:.0f}" if row.per_second >= 10 else number(row.per_second),
            number(row.client_cpu_ms),
            str(row.requests),
        )
        before = row.connections
    return table


def goals(
    judged: Sequence[Goal],
    enough: bool = True,
    *,
    title: str = "Goals of the data plane",
    counted: str = "requests",
    shown: Callable[[float], str] = "{:g}".format,
) -> Table:
    """What is to be reached, a line for each goal that was measured.

    Args:
        judged: the goals with what was measured.
        enough: enough was measured to say whether a goal is reached.
        title: of the table.
        counted: what is measured.
        shown: writes a bound.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("goal", no_wrap=True)
    table.add_column("of")
    for name in ("bound", "measured"):
        table.add_column(name, justify="right")
    table.add_column("reached")
    for goal in judged:
        if goal.measured is not None:
            bound = f"{'>=' if goal.at_least else '<='} {shown(goal.bound)}"
            verdict = ("yes" if goal.reached else "no") if enough else f"too few {counted} to judge"
            table.add_row(goal.what, goal.row, bound, number(goal.measured), verdict)
    return table


def number(value: float | None) -> str:
    """Three digits, more before the point where needed; a dash for None."""
    if value is None:
        return "-"
    size = abs(value)
    return (
        f"{value:.3f}"
        if size < 1
        else f"{value:.2f}"
        if size < 10
        else f"{value:.1f}"
        if size < 100
        else f"{value:.0f}"
    )


def notes(targets: Sequence[Target]) -> list[str]:
    """What must be known to read the rows of these targets."""
    found = []
    if any(target.own_ids for target in targets):
        found.append(_OWN_IDS)
    if any(target.product == "saccade" and target.protocol == "grpc" for target in targets):
        found.append(_GRPC)
    return found


class Progress:
    """One line on stderr: rewritten on a terminal, and one for each new step elsewhere.

    Draws only when told to, so that it takes no CPU while something is measured.

    Args:
        steps: how many there will be; 0 where that is not known.
    """

    def __init__(self, steps: int) -> None:
        self._console = console(stderr=True)
        self._steps = steps
        self._done = 0
        self._begun = time.monotonic()
        self._group = ""

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self._console.print(f"[{time.monotonic() - self._begun:4.0f} s] {text}", markup=False)

    def step(self, group: str, detail: str) -> None:
        """One of the steps begins.

        Raises:
            KeyboardInterrupt: the bench was asked to end.
        """
        stop_if_asked()
        self._done += 1
        place = f"{self._done}/{self._steps} " if self._steps else ""
        if self._console.is_terminal:
            text = f"{place}{group}: {detail}"
            self._console.print(f"\r\x1b[K{text[: self._console.width - 1]}", end="", markup=False)
        elif group != self._group:
            self.say(f"{place}{group}")
        self._group = group

    def end(self) -> None:
        """Leave the rewritten line."""
        if self._console.is_terminal and self._group:
            self._console.print("\r\x1b[K", end="")
