"""Whether an answer shows what is known to be in a picture: the answer that the same service gave past its cache.

Before a run every picture is asked about once, cache bypassed; during it answers are compared with that one, matched
by class and overlap. So cached answers, and those of another version, are held against the model's own. Detections
near the score threshold may come and go with a frame's noise, and do not count.
"""

from __future__ import annotations

import itertools
import urllib.request
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_loadtest.load.frames import Picture, stamp_of
from saccade_loadtest.load.trace import Shot
from saccade_loadtest.sending.checks import Asked, Seen, check_detect
from saccade_loadtest.sending.dialects import Endpoint
from saccade_loadtest.sending.oip_wire import WrongAnswer

#: Boxes that overlap by so much (intersection over union) are of the same object.
_IOU: Final = 0.5
#: From this score on a detection may not be missing: the services' default threshold is 0.4.
_SURE: Final = 0.5
_TIMEOUT_S: Final = 60.0
#: One answer of so many is compared: it takes as long as half of a request's other work.
_EVERY: Final = 5


class NoReference(Exception):
    """The service did not tell what is in a picture; the sentence says what it did instead."""


def agrees(known: Seen, seen: Seen) -> bool:
    """Whether all sure detections of each are in the other.

    Args:
        known: what is in the picture.
        seen: the answer.
    """
    return _holds(known, seen) and _holds(seen, known)


def _holds(one: Seen, other: Seen) -> bool:
    """Whether every sure detection of ``one`` has one of the same class and place in ``other``, sure or not."""
    assert one.scores is not None
    assert one.boxes is not None
    assert one.classes is not None
    assert other.boxes is not None
    sure = one.scores >= _SURE
    if not sure.any():
        return True
    if not len(other.boxes):
        return False
    same = one.classes[sure][:, None] == other.classes
    return bool(((overlaps(one.boxes[sure], other.boxes) >= _IOU) & same).any(axis=1).all())


def overlaps(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of each box with each; [n, 4] and [m, 4] as x1, y1, x2, y2 give [n, m]."""
    least = np.maximum(one[:, None, :2], other[None, :, :2])
    most = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(most - least, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: NDArray[np.float32] = shared / np.where(union > 0, union, 1)
    return found


def ask_about(pictures: Mapping[Hashable, Picture], endpoint: Endpoint) -> dict[Hashable, Seen]:
    """What the service sees in each picture, one after the other, past its cache.

    Raises:
        NoReference: it does not answer, or not rightly.
    """
    url = f"{endpoint.url}/detect?cache=bypass"
    asked = Asked(endpoint.model, "bypass")
    known: dict[Hashable, Seen] = {}
    for key, picture in pictures.items():
        body = picture.jpeg(stamp_of(Shot(0.0)))
        headers = {**endpoint.headers, "Content-Type": "image/jpeg"}
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - the preflight has checked the scheme
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                known[key] = check_detect(answer.read(), picture.width, picture.height, asked)
        except (OSError, WrongAnswer) as error:
            raise NoReference(f"{url} does not tell what is in a picture, to compare answers with: {error}") from error
    return known


class Comparison:
    """Compares every few answers with what is known; see ``engine.Engine``'s ``compare``."""

    def __init__(self, known: Mapping[Hashable, Seen]) -> None:
        self._known = known
        self._turns: Iterator[int] = itertools.count()

    def __call__(self, key: Any, seen: Seen) -> bool | None:
        """None where it is not this answer's turn, or nothing is known."""
        if next(self._turns) % _EVERY or seen.boxes is None or key not in self._known:
            return None
        return agrees(self._known[key], seen)
