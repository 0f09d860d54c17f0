"""What is counted of a shared cache."""

from __future__ import annotations

from collections.abc import Callable

from saccade_serving.metrics import Counter, Gauge, Histogram

_SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.025, 0.1)


class RedisMetrics:
    """Calls by outcome and time, connections, values that were none."""

    def __init__(self) -> None:
        self.calls = Counter(
            "saccade_cache_redis_calls",
            "Calls to Redis by outcome: ok, timeout, failed (connection), refused (its error), left_out (it is down).",
            ("outcome",),
        )
        self.seconds = Histogram("saccade_cache_redis_seconds", "Time of a call to Redis that it answered.", _SECONDS)
        self.rejected = Counter(
            "saccade_cache_rejected_values", "Values from Redis that are no answers, by why.", ("reason",)
        )
        self._connections: Callable[[], int] = int
        self._is_up: Callable[[], bool] = bool
        self.families: tuple[Counter | Gauge | Histogram, ...] = (
            self.calls,
            self.seconds,
            self.rejected,
            Gauge(
                "saccade_cache_redis_connections", "Open connections to Redis.", lambda: [((), self._connections())]
            ),
            Gauge(
                "saccade_cache_redis_up", "1 while Redis is asked, 0 while it is down.", lambda: [((), self._is_up())]
            ),
        )

    def watch(self, connections: Callable[[], int], is_up: Callable[[], bool]) -> None:
        """Read the gauges when scraped."""
        self._connections, self._is_up = connections, is_up
