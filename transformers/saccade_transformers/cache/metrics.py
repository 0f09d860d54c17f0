"""What the frame cache counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from saccade_serving.metrics import Counter, Gauge, Histogram

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class CacheMetrics:
    """Frames by outcome, refusals by reason, audits; sizes and cameras when scraped."""

    def __init__(self) -> None:
        self.requests = Counter("saccade_cache_requests", "Frames by what the cache did for them.", ("outcome",))
        self.refused = Counter(
            "saccade_cache_refusals",
            "Frames that were not answered from the cache, by why.",
            ("reason",),
        )
        self.audits = Counter(
            "saccade_cache_audits", "Near hits that were inferred all the same, by whether both agreed.", ("agreed",)
        )
        self.agreement = Histogram(
            "saccade_cache_agreement", "Agreement of cached answers with fresh ones in audits, 0 to 1.", _SHARES
        )
        self.audit_failures = Counter("saccade_cache_audit_failures", "Audits that the predictor did not answer.")
        self.switched_off = Counter(
            "saccade_cache_cameras_switched_off", "Times that a camera lost its near hits because audits disagreed."
        )
        self._entries: Callable[[], Mapping[str, int]] = dict
        self._bytes: Callable[[], Mapping[str, int]] = dict
        self._conditions: Callable[[], Mapping[str, int]] = dict
        self.families: tuple[Counter | Gauge | Histogram, ...] = (
            self.requests,
            self.refused,
            self.audits,
            self.agreement,
            self.audit_failures,
            self.switched_off,
            Gauge("saccade_cache_entries", "What the cache keeps.", lambda: _rows(self._entries()), ("kind",)),
            Gauge("saccade_cache_bytes", "Memory of what the cache keeps.", lambda: _rows(self._bytes()), ("kind",)),
            Gauge(
                "saccade_cameras",
                "Cameras that something is wrong with: frozen or black pictures, near hits switched off.",
                lambda: _rows(self._conditions()),
                ("condition",),
            ),
        )

    def watch(
        self,
        entries: Callable[[], Mapping[str, int]],
        sizes: Callable[[], Mapping[str, int]],
        conditions: Callable[[], Mapping[str, int]],
    ) -> None:
        """Read sizes and conditions from a cache when scraped."""
        self._entries, self._bytes, self._conditions = entries, sizes, conditions

    def audited(self, agreement: float, agreed: bool) -> None:
        """Count an audit."""
        self.audits.add(("true" if agreed else "false",))
        self.agreement.observe(agreement)


def _rows(values: Mapping[str, int]) -> list[tuple[tuple[str], float]]:
    return [((name,), value) for name, value in values.items()]
