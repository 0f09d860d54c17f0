"""Asks servers for their metrics before, during and after a run, in a thread of its own.

What is read is kept by ``server_metrics``. A server that cannot be asked is named in the record with the reason; a run
does not end for it.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Final

from saccade_loadtest.record.server_metrics import Scrape, ServerRecord, parse

_TIMEOUT_S: Final = 5.0


def scrape(url: str) -> Scrape:
    """What one service says now.

    Raises:
        OSError: it cannot be asked.
        ValueError: it is no Prometheus text.
    """
    if not url.startswith(("http://", "https://")):
        raise OSError(f"{url!r} is no address of metrics; expected one like http://127.0.0.1:9095/metrics")
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked above
        return parse(answer.read().decode())


class Scraper:
    """Watches the services of a run. A context manager: asks when it begins and when it ends, and between.

    Args:
        urls: of the metrics, by service ("transformer", "predictor").
        every_s: between two looks at the gauges.
        clock: seconds, monotonic.
    """

    def __init__(
        self, urls: Mapping[str, str], every_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._urls, self._every_s, self._clock = urls, every_s, clock
        self._record = ServerRecord()
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
                self._record.missing.setdefault(service, "it could not be asked before the run")
        return self._record

    def _watch(self) -> None:
        while not self._over.wait(self._every_s):
            self._ask()

    def _ask(self) -> dict[str, Scrape]:
        found = {}
        for service, url in self._urls.items():
            try:
                found[service] = scrape(url)
            except (OSError, ValueError) as error:
                self._record.missing[service] = f"{url} cannot be read: {error}"
            else:
                self._record.watch(service, self._clock() - self._begun, found[service])
        return found
