"""What goes into the cache and what comes out: a frame with its keys, an answer with its time, a hit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from saccade_transformers.cache.blocks import regions
from saccade_transformers.cache.perceptual import Look
from saccade_transformers.cache.policy import Reference, Refusal
from saccade_transformers.tasks.task import Options, Task

if TYPE_CHECKING:
    from saccade_transformers.cache.owner import Camera

Mode: TypeAlias = Literal["use", "bypass", "refresh"]
Outcome: TypeAlias = Literal["miss", "exact", "near", "coalesced", "bypass"]


@dataclass(frozen=True, slots=True)
class Scope:
    """What an answer depends on beside the frame: answers of different scopes never meet. Hashable.

    Attributes:
        target: name of the variant that is asked.
        model: the model's name there.
        version: the model version that was asked for; empty for the predictor's choice.
        input_size: (width, height) of the model's input.
        options: what the request chose.
    """

    target: str
    model: str
    version: str
    input_size: tuple[int, int]
    options: Options


@dataclass(slots=True)
class Frame:
    """A frame on its way through the cache.

    Attributes:
        scope: what its answer depends on.
        camera_id: whose it is; empty for nobody's.
        mode: whether the cache may answer, and learn the answer.
        task: reads answers that other processes have kept.
        came: when it came, seconds on the clock of the cache.
        digest: of its bytes.
        is_new: its bytes are not those of its camera's frame before.
        is_owned: the owner of its camera has been asked about it; else nothing is known of that camera.
        answer: to the same bytes, if there is one; whether it holds is another question.
        camera: its camera's, once the cache has looked it up.
        refusals: why it was not given earlier answers, so far.
    """

    scope: Scope
    camera_id: str
    mode: Mode
    task: Task[Any, Any]
    came: float
    digest: bytes = b""
    is_new: bool = True
    is_owned: bool = True
    answer: Kept | None = None
    camera: Camera | None = None
    refusals: set[Refusal] = field(default_factory=set)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """An answer that was inferred.

    Attributes:
        answer: the task's own type.
        task: what made it.
        size: (width, height) of its image.
        version: of the model that answered.
        came: when the frame came that it is the answer to.
        told: the answer as plain JSON values, once somebody has asked for it; see ``to_v1``.
    """

    answer: Any
    task: Task[Any, Any]
    size: tuple[int, int]
    version: str
    came: float
    told: list[list[dict[str, Any]]] = field(default_factory=list, repr=False)

    def to_v1(self) -> list[dict[str, Any]]:
        """The answer as plain JSON values, made once. Not to be changed."""
        if not self.told:
            self.told.append(self.task.to_v1(self.answer))
        return self.told[0]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is kept of a camera: its newest inferred frame and the answer."""

    reference: Reference
    kept: Kept

    @classmethod
    def of(cls, look: Look, kept: Kept) -> Known:
        """Make it of a frame's look and its answer."""
        found = regions(kept.task.regions(kept.answer), kept.size, look.thumbnail.shape)
        return cls(Reference(look, found, kept.size, kept.version, kept.came), kept)


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """An answer from the cache.

    Attributes:
        outcome: "exact", "near" or "coalesced".
        kept: the answer.
        age_s: of the frame that it is the answer to.
        distance: of the two frames' hashes in bits; None unless near.
        change: largest change of a block outside of what was found, grey levels; None unless near.
    """

    outcome: Outcome
    kept: Kept
    age_s: float
    distance: int | None = None
    change: float | None = None
