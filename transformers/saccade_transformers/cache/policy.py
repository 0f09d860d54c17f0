"""When the answer to a camera's earlier frame is also the answer to this one. Pure: no clock, no store, no predictor.

The steps are those of DESIGN: limits of time first, since they cost nothing; then the hash; then the blocks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from saccade_transformers.cache.blocks import Change, Regions, differences, measure, noise
from saccade_transformers.cache.perceptual import Look, distance

#: How far a camera's noise may raise the limit of a change.
LOUDEST: Final = 2.0
#: Why a frame is inferred.
Refusal: TypeAlias = Literal[
    "first",
    "unknown",
    "off",
    "version",
    "size",
    "gap",
    "max_age",
    "heartbeat",
    "hash",
    "outside",
    "moved",
    "gone",
    "older",
]


@dataclass(frozen=True, slots=True)
class Rules:
    """What two frames of a camera may differ in, and for how long an answer holds.

    Attributes:
        hash_distance: bits of the hash.
        change_levels: grey levels above which a block has changed, at least.
        noise_multiple: likewise, as a multiple of the camera's own noise: the larger of both holds, but at most
            ``LOUDEST`` times the former: a camera that is noisier than that has few hits, rather than wrong ones.
        moved_share: of the area of all that the answer has found, 0..1.
        gone_share: of the area of one thing, 0..1.
        gap_s: time without a frame of the camera after which nothing is known of it (TTL).
        max_age_s: age of an answer.
        heartbeat: hits in a row, after which a frame is inferred all the same.
    """

    hash_distance: int = 10
    change_levels: float = 12.0
    noise_multiple: float = 6.0
    moved_share: float = 0.25
    gone_share: float = 0.85
    gap_s: float = 2.0
    max_age_s: float = 10.0
    heartbeat: int = 30


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A frame that was inferred, as later ones are compared with it.

    Attributes:
        look: of the frame.
        found: where its answer has found something.
        size: (width, height) of the image.
        version: of the model that answered.
        came: when the frame came, seconds on the caller's clock.
    """

    look: Look
    found: Regions
    size: tuple[int, int]
    version: str
    came: float


@dataclass(frozen=True, slots=True)
class Since:
    """What has been since a reference: it changes with every frame.

    Attributes:
        seen: when the camera's last frame came.
        hits: answered from the reference in a row.
        noise: of the camera, grey levels; its running mean.
        is_likely: whether most of its frames have been hits of late.
    """

    seen: float
    hits: int
    noise: float
    is_likely: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a frame.

    Attributes:
        refusal: why it is to be inferred; empty for a hit.
        distance: of the hashes in bits; -1 where they were not compared.
        change: of the blocks; None where they were not compared.
        noise: of this comparison, grey levels; None where there was none.
    """

    refusal: Refusal | Literal[""]
    distance: int = -1
    change: Change | None = None
    noise: float | None = None

    @property
    def is_hit(self) -> bool:
        """Whether the reference's answer is this frame's."""
        return not self.refusal


def level_of(noise: float, rules: Rules) -> float:
    """Grey levels above which a block of a camera with this noise has changed."""
    return min(max(rules.change_levels, rules.noise_multiple * noise), LOUDEST * rules.change_levels)


def in_time(reference: Reference, since: Since, now: float, live: Collection[str], rules: Rules) -> Refusal | None:
    """Hold a reference against the limits that need no look at the frame.

    Args:
        reference: the camera's.
        since: what has been since.
        now: the time, on the clock of both. An earlier time than theirs is a clock that was set back.
        live: versions of the model that are served now.
        rules: the limits.

    Returns:
        Why it does not hold; None if it may.
    """
    if reference.version not in live:
        return "version"
    if not 0 <= now - since.seen <= rules.gap_s:
        return "gap"
    if not 0 <= now - reference.came <= rules.max_age_s:
        return "max_age"
    if since.hits >= rules.heartbeat:
        return "heartbeat"
    return None


def compare(reference: Reference, since: Since, look: Look, size: tuple[int, int], rules: Rules) -> Verdict:
    """Compare a frame with its camera's reference.

    Args:
        reference: in time.
        since: what has been since.
        look: of the frame.
        size: (width, height) of its image.
        rules: the limits.
    """
    if size != reference.size or look.thumbnail.shape != reference.look.thumbnail.shape:
        return Verdict("size")
    bits = distance(look.phash, reference.look.phash)
    if bits > rules.hash_distance:
        return Verdict("hash", bits)
    changed = differences(reference.look.thumbnail, look.thumbnail)
    level = level_of(since.noise, rules)
    change = measure(changed, level, reference.found)
    own = noise(changed)
    if change.outside > level:
        return Verdict("outside", bits, change, own)
    if change.moved > rules.moved_share:
        return Verdict("moved", bits, change, own)
    if change.gone > rules.gone_share:
        return Verdict("gone", bits, change, own)
    return Verdict("", bits, change, own)
