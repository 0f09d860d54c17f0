"""What an answer is: everything the transformer, the cache, the shadow and the audit need to know of a model's task.

They see only ``Task``: an answer is an opaque value to them, handed from one method to the next, so that none of them
ever sees a box. An answer and its options are immutable; every method is pure and may run on any thread.

To add a task (segmentation, pose, classification), add one file beside ``detection.py``:

1. ``class SegmentationOptions(Options)``: a frozen dataclass of what a request may choose. Parse it with ``number``
   and ``whole`` below, so that every task refuses a bad parameter in the same words.
2. ``class Masks``: a frozen dataclass, the answer for one image. Masks belong in it in a compact form (run lengths,
   polygons): answers are cached. A classification's answer is two arrays; its ``to_image`` returns it unchanged.
3. ``class SegmentationTask``: the methods of ``Task[Masks, SegmentationOptions]``. ``reads`` names the graph's output
   tensors; ``read`` turns one image's rows of them into an answer in input pixels and raises ``ContractBroken`` where
   they are not what the graph's metadata promised; ``to_image`` moves it into the image with ``Letterbox``.
4. One line in the model's composition root that picks the task by the ready graph's metadata.

Nothing else changes: decoding, batching, caching, shadowing and routes stay as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import InvalidRequest, short
from saccade_serving.oip.messages import Parameters, ParameterValue, Tensor, TensorMetadata
from saccade_transformers.image.letterbox import Letterbox

_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class ContractBroken(ValueError):
    """The predictor's answer is not what the graph's metadata promised: no client's fault, answered with 502.

    The message names the tensor, what came and what was expected.
    """


@dataclass(frozen=True, slots=True)
class Options:
    """What a request may choose about its answer; validated. Each task extends it with its own fields.

    Hashable and equal by value; ``repr`` names every field, so that two requests with the same ``repr`` get the
    same answer for the same image (cache keys are made of it).
    """


AnswerT = TypeVar("AnswerT")
OptionsT = TypeVar("OptionsT", bound=Options)


class Task(Protocol[AnswerT, OptionsT]):
    """A model's task: the meaning of its outputs. ``AnswerT`` is the answer for one image."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the graph's output tensors that ``read`` needs."""
        ...

    def options(self, parameters: Parameters) -> OptionsT:
        """Validate a request's parameters; keys that are not this task's are ignored.

        Args:
            parameters: of the request. Numbers may come as text, as form fields and query strings do.

        Raises:
            InvalidRequest: a value is not of the right kind or out of range; the sentence names the parameter,
                what was sent and the range.
        """
        ...

    def read(self, outputs: Mapping[str, NDArray[Any]], options: OptionsT) -> AnswerT:
        """Read one image's answer out of the predictor's outputs.

        Args:
            outputs: tensor name -> this image's part of it, without the batch dimension.
            options: what the request chose.

        Returns:
            The answer in pixels of the model's input.

        Raises:
            ContractBroken: a tensor is missing, or its shape, dtype or values are not as promised.
        """
        ...

    def to_image(self, answer: AnswerT, letterbox: Letterbox) -> AnswerT:
        """Move an answer from input pixels into pixels of the upright image."""
        ...

    def count(self, answer: AnswerT) -> int:
        """How many things the answer holds: boxes, masks, poses."""
        ...

    def nbytes(self, answer: AnswerT) -> int:
        """About how many bytes of memory an answer takes."""
        ...

    def pack(self, answer: AnswerT) -> bytes:
        """Return an answer as bytes, the same on every machine: a cache that is shared keeps them."""
        ...

    def unpack(self, packed: bytes) -> AnswerT:
        """Make an answer of what ``pack`` has returned.

        Raises:
            ValueError: these are any other bytes; nothing is taken for granted.
        """
        ...

    def regions(self, answer: AnswerT) -> NDArray[np.float32]:
        """Where the answer places what it has found: float32 [m, 4] as x1, y1, x2, y2 in pixels, the surest first.

        A frame in which only these change is still answered, within limits, by the answer to the frame before. A task
        whose answers are about the whole image has none: float32 [0, 4].
        """
        ...

    def is_light(self, outputs: Mapping[str, NDArray[Any]], options: OptionsT) -> bool:
        """Whether ``read`` and ``to_image`` of these outputs take less than handing them to a thread costs.

        Must itself cost next to nothing, and answer for outputs that break the contract, too.
        """
        ...

    def is_full(self, answer: AnswerT) -> bool:
        """Whether the graph's table had no room left, so that the image may hold more than the answer says."""
        ...

    def merge(self, kept: AnswerT, fresh: AnswerT, options: OptionsT) -> AnswerT:
        """Unite what is kept of an earlier answer with a fresh one for the parts that changed; image pixels."""
        ...

    def agreement(self, a: AnswerT, b: AnswerT) -> float:
        """How far two answers for the same image agree: 0 (not at all) to 1 (the same); symmetric."""
        ...

    def differences(self, a: AnswerT, b: AnswerT) -> Mapping[str, float]:
        """Say in numbers how ``b`` differs from ``a``, two answers for the same image.

        Returns:
            Name -> number; the names are the same for all answers of a task. Four are known to metrics, and a task
            without the notion leaves them out: ``iou`` (mean overlap of what both have, 0..1; 1 of equal answers),
            ``class_changes`` (objects both have, with different classes), ``score_shift`` (mean of b's scores less
            a's) and ``count_difference`` (b's objects less a's); all but ``iou`` are 0 of equal answers.
        """
        ...

    def draw(self, image: NDArray[np.uint8], answer: AnswerT) -> NDArray[np.uint8]:
        """Draw an answer.

        Args:
            image: [h, w, 3] RGB, upright; not changed.
            answer: in pixels of that image.

        Returns:
            A new picture of the same shape.
        """
        ...

    def to_v1(self, answer: AnswerT) -> list[dict[str, Any]]:
        """Return the answer as plain JSON values, best first (KServe v1 and ``/detect``)."""
        ...

    def to_v2(self, answers: Sequence[AnswerT]) -> list[Tensor]:
        """Return the answers of one request's images as V2 tensors, in the order of ``schema``."""
        ...

    def schema(self) -> list[TensorMetadata]:
        """Name, datatype and shape of each tensor of ``to_v2``; -1 is a dimension of any size."""
        ...


def number(
    parameters: Parameters, name: str, default: float, *, low: float, high: float, open_low: bool = False
) -> float:
    """Read a parameter that is a number.

    Args:
        parameters: of the request.
        name: the parameter's name.
        default: returned where the request does not have it.
        low: the least allowed value; with ``open_low``, itself not allowed.
        high: the largest allowed value.
        open_low: whether ``low`` is outside the range.

    Raises:
        InvalidRequest: not a number (a boolean is none), or out of range.
    """
    if name not in parameters:
        return default
    value = _as_number(parameters[name])
    if value is None or not low <= value <= high or (open_low and value == low):
        span = f"above {low:g} and at most {high:g}" if open_low else f"from {low:g} to {high:g}"
        raise InvalidRequest(f"parameter {name!r} is {_sent(parameters[name])}; expected a number {span}")
    return value


def whole(parameters: Parameters, name: str, default: int, *, low: int, high: int) -> int:
    """Read a parameter that is a whole number; ``10.0`` and ``"10"`` are whole.

    Args:
        parameters: of the request.
        name: the parameter's name.
        default: returned where the request does not have it.
        low: the least allowed value.
        high: the largest allowed value.

    Raises:
        InvalidRequest: not a whole number (a boolean is none), or out of range.
    """
    if name not in parameters:
        return default
    value = _as_number(parameters[name])
    if value is None or not value.is_integer() or not low <= value <= high:
        sent = _sent(parameters[name])
        raise InvalidRequest(f"parameter {name!r} is {sent}; expected a whole number from {low} to {high}")
    return int(value)


def _as_number(value: ParameterValue) -> float | None:
    """The value as a finite float; None where it is none."""
    if isinstance(value, bool) or (isinstance(value, str) and not _DECIMAL.fullmatch(value.strip())):
        return None
    try:
        parsed = float(value)
    except OverflowError:  # an integer beyond the range of a float
        return None
    return parsed if math.isfinite(parsed) else None


def _sent(value: ParameterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return short(value)
    return f"{value:.9g}" if isinstance(value, float) else str(value)
