"""Optimization profiles: which shapes a plan shall take, from what a person types and what the graph leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from saccade_predictor.build.onnxfile import OnnxFile
from saccade_predictor.engines.plan import PlanTensor, Shapes

MAX_ROWS: Final = 4096
_MAX_SIDE: Final = 2**20


class ProfileError(ValueError):
    """Shapes that were asked for are none, or the graph cannot take them."""


@dataclass(frozen=True, slots=True)
class Range:
    """One dimension: least, tuned for, largest."""

    low: int
    mid: int
    high: int


def parse_batch(text: str) -> Range | None:
    """Read ``MIN,OPT,MAX`` or one number for all three; 0 is None: the model has no batch dimension.

    Raises:
        ProfileError: it is neither, not in order, or beyond 1..4096.
    """
    numbers = [int(part) for part in text.split(",") if part.strip().isascii() and part.strip().isdigit()]
    if numbers == [0] and text.strip() == "0":
        return None
    if len(numbers) == 1:
        numbers *= 3
    wrong = len(numbers) != 3 or len(text.split(",")) not in (1, 3)
    if wrong or not 1 <= numbers[0] <= numbers[1] <= numbers[2] <= MAX_ROWS:
        raise ProfileError(
            f"--batch is {text[:40]!r}; expected MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX <= {MAX_ROWS}, for example "
            "1,8,32; or 0 for a model without a batch dimension"
        )
    return Range(*numbers)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[Range, ...]]:
    """Read ``NAME=DIMxDIM...``, the dimensions behind the batch; each is a number or ``MIN:OPT:MAX``.

    Raises:
        ProfileError: one is not, or an input is named twice.
    """
    found: dict[str, tuple[Range, ...]] = {}
    for text in texts:
        name, _, dims = text.rpartition("=")
        ranges = [_range(part) for part in dims.lower().split("x")]
        if not name or None in ranges:
            raise ProfileError(
                f"--shape is {text[:60]!r}; expected NAME=DIMxDIM, for example images=3x640x640 or "
                "images=3x320:640:1280x320:640:1280"
            )
        if name in found:
            raise ProfileError(f"--shape names input {name!r} twice")
        found[name] = tuple(part for part in ranges if part is not None)
    return found


def make_profile(source: OnnxFile, batch: Range | None, shapes: Mapping[str, tuple[Range, ...]]) -> dict[str, Shapes]:
    """Choose the shapes of every input that leaves any open.

    Args:
        source: the graph.
        batch: rows; None: requests are not batched, and the first dimension is one like the others.
        shapes: input name -> dimensions behind the batch (all of them without a batch), where the graph leaves
            some open.

    Returns:
        Input name -> shapes, of the inputs with open dimensions.

    Raises:
        ProfileError: the graph is fixed where a range is asked for, or open where nothing is said.
    """
    inputs = {tensor.name: tensor for tensor in source.inputs}
    for name in shapes:
        if name not in inputs:
            raise ProfileError(
                f"--shape names {name!r}; the graph has inputs {', '.join(map(repr, inputs)) or 'none'}"
            )
    if batch is not None:
        for tensor in source.inputs:
            _check_batched("input", tensor, batch)
        for tensor in source.outputs:
            _check_batched("output", tensor, batch)
    profile = {}
    for tensor in source.inputs:
        if -1 not in tensor.shape and tensor.name not in shapes:
            continue
        ranges = _dims(tensor, batch, shapes.get(tensor.name))
        profile[tensor.name] = Shapes(
            min=tuple(one.low for one in ranges),
            opt=tuple(one.mid for one in ranges),
            max=tuple(one.high for one in ranges),
        )
    return profile


def _check_batched(direction: str, tensor: PlanTensor, batch: Range) -> None:
    if tensor.shape[:1] == (-1,):
        return
    what = f"{direction} {tensor.name!r} is {tensor.datatype} {_written(tensor.shape)}"
    if not tensor.shape:
        raise ProfileError(f"{what}, a single value; a model with batches has rows: use --batch 0")
    raise ProfileError(
        f"the batch is fixed at {tensor.shape[0]} ({what}), and batches of {batch.low} to {batch.high} are asked for; "
        "export with a dynamic batch (Ultralytics: dynamic=True; torch.onnx.export: dynamic_axes), or use --batch 0"
    )


def _dims(tensor: PlanTensor, batch: Range | None, given: tuple[Range, ...] | None) -> list[Range]:
    rest = tensor.shape[1:] if batch is not None else tensor.shape
    if given is None:
        open_dims = [index for index, dim in enumerate(rest) if dim == -1]
        if open_dims:
            example = "x".join("640" if dim == -1 else str(dim) for dim in rest)
            raise ProfileError(
                f"input {tensor.name!r} is {tensor.datatype} {_written(tensor.shape)}, with open dimensions"
                f"{' behind the batch' if batch is not None else ''}; say which sizes: --shape {tensor.name}={example}"
            )
        given = tuple(Range(dim, dim, dim) for dim in rest)
    if len(given) != len(rest):
        raise ProfileError(
            f"--shape gives input {tensor.name!r} {len(given)} dimensions; expected {len(rest)}: it is "
            f"{_written(tensor.shape)}{', the batch left out' if batch is not None else ''}"
        )
    for dim, asked in zip(rest, given, strict=True):
        if dim != -1 and (asked.low, asked.high) != (dim, dim):
            raise ProfileError(
                f"--shape asks for {asked.low} to {asked.high} where input {tensor.name!r} is fixed at {dim}; leave "
                f"it at {dim}, or export with that dimension open"
            )
    return [*([batch] if batch is not None else []), *given]


def _range(text: str) -> Range | None:
    parts = text.split(":")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 9]
    if len(numbers) != len(parts) or len(numbers) not in (1, 3):
        return None
    low, mid, high = numbers if len(numbers) == 3 else numbers * 3
    return Range(low, mid, high) if 1 <= low <= mid <= high <= _MAX_SIDE else None


def _written(shape: Sequence[int]) -> str:
    return f"[{', '.join('?' if dim == -1 else str(dim) for dim in shape)}]"
