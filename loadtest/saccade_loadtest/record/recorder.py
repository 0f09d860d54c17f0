"""What a generator calls for each request; fills a ``results.Run`` and keeps it small while the run lasts.

One call when a request is sent (or cannot be), one when its end is known. Costs about a microsecond each. Times are
seconds since the run's first moment on whatever clock the generator uses. One thread at a time.
"""

from __future__ import annotations

from typing import Final

from saccade_loadtest.record.results import HELD, Revision, Run, Series, Tally, Worker, bounded

#: Bins that are this much older than the newest are packed; late answers still find them.
_PACK_AFTER_BINS: Final = 30


class Recorder:
    """Counts into one worker's record of a run.

    Args:
        run: holds the schedule; what was counted is in it at any time.
        worker: this process, by name; added to the run.
    """

    def __init__(self, run: Run, worker: str) -> None:
        self.run = run
        self.worker = Worker(worker)
        run.workers.append(self.worker)
        self._bin_s = run.schedule.bin_s
        self._first = run.schedule.first_measured_bin
        self._packed_below: dict[str, int] = {}

    def sent(self, protocol: str, due_s: float, sent_s: float) -> None:
        """A request was handed to a connection.

        Args:
            protocol: as in ``Run.series``.
            due_s: when the schedule wanted it.
            sent_s: when it went out.
        """
        number = int(due_s / self._bin_s)
        self._tally(protocol, number).sent += 1
        if number >= self._first:
            self.worker.schedule_error.record_us((sent_s - due_s) * 1e6)

    def held(self, protocol: str, due_s: float) -> None:
        """A request was due while the server held as many open as may be: it counts as sent, and as a failure."""
        tally = self._tally(protocol, int(due_s / self._bin_s))
        tally.sent += 1
        tally.errors[HELD] += 1

    def not_sent(self, protocol: str, due_s: float) -> None:
        """A request was due, and the generator's machine cannot send it."""
        self._tally(protocol, int(due_s / self._bin_s)).not_sent += 1

    def answered(
        self,
        protocol: str,
        due_s: float,
        sent_s: float,
        ended_s: float,
        *,
        version: str = "",
        cache: str = "",
        agreed: bool | None = None,
    ) -> None:
        """A sent request got a right answer.

        Args:
            protocol: as when it was sent.
            due_s: as when it was sent.
            sent_s: as when it was sent.
            ended_s: when its last byte was there.
            version: of the model, as the answer names it; empty: it names none.
            cache: outcome that the answer names; empty: none.
            agreed: whether its content is what is known to be right; None: nothing is known.
        """
        number = int(due_s / self._bin_s)
        tally = self._tally(protocol, number)
        tally.answered += 1
        latency_us = (ended_s - due_s) * 1e6
        tally.latency.record_us(latency_us)
        tally.service.record_us((ended_s - sent_s) * 1e6)
        if number < self._first:
            return
        series = self.run.series[protocol]
        if version:
            revision = self._revision(series, version)
            revision.answered += 1
            revision.latency.record_us(latency_us)
        if cache:
            series.cache[cache if cache in series.cache else bounded(cache, series.cache)] += 1
        if agreed is not None:
            series.agreement_checked += 1
            series.agreed += agreed

    def failed(self, protocol: str, due_s: float, kind: str, *, version: str = "") -> None:
        """A sent request ended without a right answer.

        Args:
            protocol: as when it was sent.
            due_s: as when it was sent.
            kind: one of the names in ``results``, or a short one like "http_418".
            version: of the model, if the answer names one (a canary may fail where the other does not).
        """
        number = int(due_s / self._bin_s)
        errors = self._tally(protocol, number).errors
        errors[bounded(kind, errors)] += 1
        if version and number >= self._first:
            errors = self._revision(self.run.series[protocol], version).errors
            errors[bounded(kind, errors)] += 1

    def _tally(self, protocol: str, number: int) -> Tally:
        series = self.run.series.get(protocol)
        if series is None:
            series = self.run.series[protocol] = Series()
        tally = series.bins.get(number)
        if tally is None:
            tally = series.bins[number] = Tally()
            self._pack(protocol, series, number - _PACK_AFTER_BINS)
        return tally

    def _pack(self, protocol: str, series: Series, below: int) -> None:
        for number in range(self._packed_below.get(protocol, 0), below):
            if (tally := series.bins.get(number)) is not None:
                tally.latency.pack()
                tally.service.pack()
        self._packed_below[protocol] = max(below, self._packed_below.get(protocol, 0))

    @staticmethod
    def _revision(series: Series, version: str) -> Revision:
        revision = series.revisions.get(version)
        if revision is None:
            revision = series.revisions.setdefault(bounded(version, series.revisions), Revision())
        return revision
