"""A run on a terminal while it lasts: what was sent, what came back, how fast, against the limits of the SLO.

Where the output is no terminal, a line every ten seconds. Its percentiles are of the last seconds, to 0.1 ms; the
verdict stands on the record.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from saccade_loadtest.judging.slo import Slo
from saccade_loadtest.load.plan import Plan
from saccade_loadtest.record.live import Beat

_WINDOW_S: Final = 10.0
_LINE_S: Final = 10.0


class Dashboard:
    """A context manager; ``beat`` is to be called with what is new.

    Args:
        console: where.
        plan: of the run.
        slo: what it will be judged by.
    """

    def __init__(self, console: Console, plan: Plan, slo: Slo) -> None:
        self._console, self._plan, self._slo = console, plan, slo
        self._schedule = plan.schedule()
        self._recent: deque[tuple[float, dict[str, Beat]]] = deque()
        self._total: dict[str, Beat] = {name: Beat() for name in plan.mix}
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._next_line_s = _LINE_S

    def __enter__(self) -> Dashboard:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def beat(self, at_s: float, beats: dict[str, Beat]) -> None:
        """Take in what is new and show it."""
        self._recent.append((at_s, beats))
        while self._recent and self._recent[0][0] < at_s - _WINDOW_S:
            self._recent.popleft()
        for name, beat in beats.items():
            self._total.setdefault(name, Beat()).add(Beat(beat.sent, beat.not_sent, beat.answered, beat.errors))
        if self._live is not None:
            self._live.update(self.table(at_s))
        elif at_s >= self._next_line_s:
            self._next_line_s += _LINE_S
            self._console.print(self.line(at_s), highlight=False, soft_wrap=True, markup=False)

    def table(self, at_s: float) -> Table:
        """All protocols."""
        limits = ", ".join(f"p{one.percentile:g} <= {one.limit_ms:g} ms" for one in self._slo.latency if not one.stage)
        title = f"{self._plan.scenario}: {at_s:.0f} of {self._schedule.duration_s:.0f} s, {self._phase(at_s)}"
        table = Table(
            title=Text(title), title_justify="left", caption=limits and f"limits: {limits}", caption_justify="left"
        )
        table.add_column("protocol", no_wrap=True)
        for name in ("sent", "right answers", "errors", "not sent", "answers/s", "p50 ms", "p99 ms"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, total in self._total.items():
            recent = self._window(name)
            p50, p99 = (recent.percentile_ms(percent) for percent in (50, 99))
            table.add_row(
                name,
                f"{total.sent:,}",
                f"{total.answered:,}",
                f"{total.errors.total():,}",
                f"{total.not_sent:,}",
                f"{recent.answered / min(_WINDOW_S, max(at_s, 1.0)):,.1f}",
                *("-" if value is None else f"{value:,.1f}" for value in (p50, p99)),
            )
        return table

    def line(self, at_s: float) -> str:
        """All protocols together, in one line."""
        recent, total = Beat(), Beat()
        for name in self._total:
            recent.add(self._window(name))
            total.add(self._total[name])
        p50, p99 = (recent.percentile_ms(percent) for percent in (50, 99))
        latency = "no answer" if p50 is None or p99 is None else f"p50 {p50:,.1f} ms, p99 {p99:,.1f} ms"
        per_s = recent.answered / min(_WINDOW_S, max(at_s, 1.0))
        return (
            f"{at_s:5.0f} s  {self._phase(at_s)}: sent {total.sent:,}, {per_s:,.1f} answers/s, {latency}, "
            f"errors {total.errors.total():,}, not sent {total.not_sent:,}"
        )

    def _phase(self, at_s: float) -> str:
        for phase in self._schedule.phases:
            if phase.begin_s <= at_s < phase.end_s:
                return phase.name
        return "waiting for the last answers"

    def _window(self, protocol: str) -> Beat:
        found = Beat()
        for _, beats in self._recent:
            if protocol in beats:
                found.add(beats[protocol])
        return found
