"""What is counted of shadow traffic. Written by the event loop alone, as all metrics are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from saccade_serving.metrics import Counter, Histogram

#: What may become of an image that was drawn.
OUTCOMES: Final = ("compared", "dropped", "paused", "late", "refused", "failed", "incomparable")
#: Upper bounds of shares, close together near 1, where two good models are.
SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
_SCORE_SHIFTS: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_COUNTS: Final = (0, 1, 2, 3, 5, 10, 20, 50, 100)


class ShadowMetrics:
    """Outcomes, and how the candidate's answers differ from those that were given."""

    def __init__(self) -> None:
        self.requests = Counter(
            "saccade_shadow_requests", "Images drawn to be mirrored, by what became of them.", ("outcome",)
        )
        self.seconds = Histogram("saccade_shadow_seconds", "Time of a call to the candidate.", labels=("model",))
        self.agreement = Histogram(
            "saccade_shadow_agreement", "Agreement of the two answers for an image, 0 to 1.", SHARES
        )
        self.iou = Histogram("saccade_shadow_iou", "Mean IoU of the objects that both answers have.", SHARES)
        self.class_changes = Counter(
            "saccade_shadow_class_changes", "Objects that both answers have, with different classes."
        )
        self.score_shift = Histogram(
            "saccade_shadow_score_shift",
            "How far the candidate's scores are from those given, mean of an image; direction less, equal, more.",
            _SCORE_SHIFTS,
            ("direction",),
        )
        self.count_difference = Histogram(
            "saccade_shadow_count_difference",
            "How many objects the candidate finds less or more than were given; direction less, equal, more.",
            _COUNTS,
            ("direction",),
        )

    @property
    def families(self) -> tuple[Counter | Histogram, ...]:
        """All of them, to be exposed."""
        return (
            self.requests,
            self.seconds,
            self.agreement,
            self.iou,
            self.class_changes,
            self.score_shift,
            self.count_difference,
        )

    def count(self, outcome: str) -> None:
        """Count an image; ``outcome`` is one of ``OUTCOMES``."""
        self.requests.add((outcome,))

    def compared(self, agreement: float, differences: Mapping[str, float]) -> None:
        """Count a comparison. Of the differences, those of ``Task.differences`` that are metrics; others are not."""
        self.agreement.observe(agreement)
        if "iou" in differences:
            self.iou.observe(differences["iou"])
        if "class_changes" in differences:
            self.class_changes.add((), differences["class_changes"])
        if "score_shift" in differences:
            _observe_signed(self.score_shift, differences["score_shift"])
        if "count_difference" in differences:
            _observe_signed(self.count_difference, differences["count_difference"])


def _observe_signed(histogram: Histogram, value: float) -> None:
    """Observe the amount under its direction: Prometheus takes a sum that falls for one that began anew."""
    direction = "equal" if value == 0 else "more" if value > 0 else "less"
    histogram.observe(abs(value), (direction,))
