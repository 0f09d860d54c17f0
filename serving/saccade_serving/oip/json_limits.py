"""How much one JSON may hold: its bytes, and the Python objects that parsing it makes.

The parser makes all objects of a document in one call, in which no other thread runs: whoever sends JSON decides how
long everybody else waits. Sixteen megabytes may be one string, or eight million numbers; so what makes objects is
counted before anything is parsed.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from saccade_serving.errors import PayloadTooLarge
from saccade_serving.oip.messages import Buffer

#: Most values in one JSON, weighed by what they cost, about a tenth of a second in all: a picture of 832 x 832 as a
#: flat list, one of 416 x 416 in nested ones.
MAX_VALUES: Final = 2**21
#: What begins a value of its own, and how many numbers' time it takes: strings begin and end with a quote.
_WEIGHTS: Final = ((b",", 1), (b'"', 2), (b"[", 8), (b"{", 8))
_MOST_PER_BYTE: Final = max(weight for _, weight in _WEIGHTS)
_STEP_BYTES: Final = 256 * 2**10


def check_json(owner: str, text: Buffer, max_bytes: int | None, max_values: int = MAX_VALUES) -> None:
    """Refuse JSON that would hold up everybody else for long, before it is parsed.

    Args:
        owner: what it is, as the sentence calls it: ``the request``.
        text: the JSON.
        max_bytes: largest JSON that is parsed; None for JSON of who is trusted, which may be anything.
        max_values: most values, as ``weigh`` counts them.

    Raises:
        PayloadTooLarge: over ``max_bytes``, or over ``max_values``.
    """
    if max_bytes is None:
        return
    if len(text) > max_bytes:
        raise PayloadTooLarge(f"the JSON of {owner}", len(text), max_bytes)
    if len(text) > max_values // _MOST_PER_BYTE and (values := weigh(text)) > max_values:
        raise PayloadTooLarge(
            f"the JSON of {owner} (a string counted as 5, an array or object as 9)", values, max_values, "values"
        )


def weigh(text: Buffer) -> int:
    """Count the values of a JSON by their weights; what stands in strings is counted, too."""
    bytes_ = np.frombuffer(text, np.uint8)
    total = 0
    for at in range(0, len(bytes_), _STEP_BYTES):
        step = bytes_[at : at + _STEP_BYTES]
        for character, weight in _WEIGHTS:
            total += weight * int(np.count_nonzero(step == character[0]))
    return total
