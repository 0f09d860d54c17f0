"""Asks servers for their metrics before, during and after a run, in a thread of its own.

What is read is kept by ``server_metrics``; counts are those between the end of the warm-up and the end. A server that
cannot be asked, or whose counters went back, is named in the record with the reason; a run does not end for it.
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Final

from saccade_loadtest.record.server_metrics import WENT_BACK, Scrape, ServerRecord, parse

_TIMEOUT_S: Final = 5.0


def scrape(url: str) -> Scrape:
    """What one service says now.

    Raises:
        OSError: it cannot be asked.
        ValueError: it is no Prometheus text.
    """
    if not url.startswith(("http://", "https://")):
        raise OSError(f"{url!r} is no address of metrics; expected one like http://127.0.0.1:9095/metrics")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked above
            return parse(answer.read().decode())
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer ({type(error).__name__})") from error


class Scraper:
    """Watches the services of a run: asks when it begins, when its warm-up is over, when it ends, and between.

    Args:
        urls: of the metrics, by service ("transformer", "predictor").
        every_s: between two looks at the gauges.
        clock: seconds, monotonic.
        warmup_s: after the beginning; what is counted before is left out.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        warmup_s: float = 0.0,
    ) -> None:
        self._urls, self._every_s, self._clock, self._warmup_s = urls, every_s, clock, warmup_s
        self._is_warm = warmup_s <= 0
        self._record = ServerRecord()
        self._last: dict[str, Scrape] = {}
        self._unread: dict[str, str] = {}
        self._went_back: set[str] = set()
        self._before: dict[str, Scrape] = {}
        self._after: dict[str, Scrape] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._begun = 0.0

    def begin(self) -> None:
        """Ask for the first time; from now on in the background."""
        self._begun = self._clock()
        self._before = self._ask()
        if self._urls:
            self._thread.start()

    def end(self) -> ServerRecord | None:
        """Ask for the last time; returns the differences, None if nobody was asked."""
        if not self._urls:
            return None
        self._over.set()
        self._thread.join()
        for service, after in self._ask().items():
            before = self._before.get(service)
            self._record.add(service, before or Scrape(), after)
            if before is None:
                self._record.missing[service] = "it could not be asked at the end of the warm-up, or before the run"
        self._record.missing.update(dict.fromkeys(sorted(self._went_back), WENT_BACK))
        self._record.missing.update(self._unread)
        return self._record

    def look(self) -> None:
        """Ask now; the first time after the warm-up the counts begin anew."""
        found = self._ask()
        if not self._is_warm and self._clock() - self._begun >= self._warmup_s:
            self._is_warm = True
            self._before = found
            self._went_back.clear()

    def _watch(self) -> None:
        while not self._over.wait(self._pause_s()):
            self.look()

    def _pause_s(self) -> float:
        if self._is_warm:
            return self._every_s
        return min(self._every_s, max(0.0, self._warmup_s - (self._clock() - self._begun)))

    def _ask(self) -> dict[str, Scrape]:
        found = {}
        for service, url in self._urls.items():
            try:
                now = found[service] = scrape(url)
            except (OSError, ValueError) as error:
                self._unread[service] = f"{url} cannot be read: {error}"
                continue
            self._unread.pop(service, None)
            if (last := self._last.get(service)) is not None and now.went_back_from(last):
                self._went_back.add(service)
            self._last[service] = now
            self._record.watch(service, self._clock() - self._begun, now)
        return found
