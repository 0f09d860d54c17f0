"""How a client is told what the frame cache did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade_transformers.cache.frames import Hit
from saccade_transformers.pipeline import Answered


def cache_line(answered: Sequence[Answered]) -> str:
    """What the cache did for each image, as the header ``x-saccade-cache`` and the V2 parameter of that name tell it.

    A list of RFC 8941: ``near;distance=2;change=3.1;age=0.412, miss``. Bits, grey levels, seconds.
    """
    return ", ".join(_cache_item(one) for one in answered)


def _cache_item(answered: Answered) -> str:
    hit = answered.hit
    if hit is None:
        return answered.cache
    near = "" if hit.distance is None else f";distance={hit.distance}"
    if hit.change is not None:
        near += f";change={hit.change:.1f}"
    return f"{answered.cache}{near};age={hit.age_s:.3f}"


def hit_fields(hit: Hit | None) -> dict[str, Any]:
    """What is told of a cached answer in JSON."""
    if hit is None:
        return {}
    told: dict[str, Any] = {"cache_age_ms": round(hit.age_s * 1e3, 1)}
    if hit.distance is not None:
        told["cache_distance"] = hit.distance
    if hit.change is not None:
        told["cache_change"] = round(hit.change, 1)
    return told
