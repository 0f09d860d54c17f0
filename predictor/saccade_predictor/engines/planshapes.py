"""Shapes of a plan's batches: its tensors, its optimization profiles, and what one batch needs. Pure, no CUDA."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from saccade_predictor.engines.engine import Inputs
from saccade_predictor.engines.plan import PlanTensor

Shape: TypeAlias = tuple[int, ...]

#: TensorRT's name of a type -> the protocol's.
DATATYPES: Final[Mapping[str, str]] = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
#: Where each output begins in the memory that holds all of a batch's, bytes.
ALIGNMENT: Final = 256


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes that one optimization profile allows.

    Attributes:
        index: TensorRT's.
        least: input name -> its smallest shape; ``most`` likewise.
    """

    index: int
    least: Mapping[str, Shape]
    most: Mapping[str, Shape]

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether it allows them."""
        for name, shape in shapes.items():
            least, most = self.least[name], self.most[name]
            if len(shape) != len(most):
                return False
            if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
                return False
        return True

    @property
    def room(self) -> int:
        """Elements of its largest inputs, by which profiles are compared."""
        return sum(math.prod(shape) for shape in self.most.values())


def choose(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> Profile:
    """The profile to run a batch with: of those that allow it the one with the least room, tuned closest to it.

    Raises:
        ValueError: none allows it.
    """
    fitting = [profile for profile in profiles if profile.fits(shapes)]
    if not fitting:
        sent = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        known = "; ".join(
            ", ".join(f"{name} {list(p.least[name])} to {list(p.most[name])}" for name in p.most) for p in profiles
        )
        raise ValueError(f"no optimization profile of the plan allows {sent}; expected {known}")
    return min(fitting, key=lambda profile: (profile.room, profile.index))


def batch_shapes(inputs: Sequence[PlanTensor], requests: Sequence[Inputs], rows: int) -> tuple[Shape, ...]:
    """The shapes of a batch's inputs, in the plan's order. One request alone keeps its own; several are stacked."""
    first = requests[0]
    if len(requests) == 1:
        return tuple([first[tensor.name].shape for tensor in inputs])
    return tuple([(rows, *first[tensor.name].shape[1:]) for tensor in inputs])


class Batch:
    """What batches of one set of input shapes need; made once, used for all of them.

    Attributes:
        profile: to run them with.
        inputs: shapes in the plan's order.
        outputs: likewise; None until the context has told them, or always where they depend on the data.
        offsets: where each output begins in the memory of all.
        size: bytes of that memory.
    """

    __slots__ = ("inputs", "offsets", "outputs", "profile", "size")

    def __init__(self, profile: Profile, inputs: tuple[Shape, ...]) -> None:
        self.profile = profile
        self.inputs = inputs
        self.outputs: tuple[Shape, ...] | None = None
        self.offsets: tuple[int, ...] = ()
        self.size = 0

    def lay_out(self, tensors: Sequence[PlanTensor], shapes: tuple[Shape, ...]) -> None:
        """Take over the outputs' shapes."""
        self.outputs = shapes
        self.offsets, self.size = lay_out(tensors, shapes)


def lay_out(tensors: Sequence[PlanTensor], shapes: Sequence[Shape]) -> tuple[tuple[int, ...], int]:
    """Where each output begins in one piece of memory, and the bytes of it all."""
    sizes = [tensor.nbytes(shape) for tensor, shape in zip(tensors, shapes, strict=True)]
    return tuple([total(sizes[:at]) for at in range(len(sizes))]), total(sizes)


def total(sizes: Iterable[int]) -> int:
    """Bytes that pieces of these sizes have in one piece of memory, each aligned."""
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)


def views(
    tensors: Sequence[PlanTensor], shapes: Sequence[Shape], offsets: Sequence[int], memory: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """The outputs as arrays over the memory that holds them (UINT8)."""
    found: dict[str, NDArray[Any]] = {}
    for tensor, shape, offset in zip(tensors, shapes, offsets, strict=True):
        piece = memory[offset : offset + tensor.nbytes(shape)]
        found[tensor.name] = piece.view(tensor.dtype).reshape(shape)
    return found


def largest(profiles: Sequence[Profile], tensor: PlanTensor) -> int:
    """Bytes of an input's largest shape over all profiles."""
    return max(tensor.nbytes(profile.most[tensor.name]) for profile in profiles)
