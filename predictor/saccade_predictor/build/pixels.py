"""The nodes in front of a source graph: pixels as they are become what the source was trained on.

image UINT8 [b,H,W,3] -> cast, scale, shift, order of dimensions -> the source's input
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper

from saccade_predictor.build.nodes import Nodes
from saccade_predictor.build.source import GraphError, InputLayout

IMAGE: Final = "image"
_COLOURS: Final = 3

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a source was trained on: (pixel in 0..1 - mean) / std, for red, green and blue."""

    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    @property
    def is_plain(self) -> bool:
        """The source takes 0..1 as it is."""
        return self == Normalisation()


def parse_normalisation(mean: str, std: str) -> Normalisation:
    """Read ``0.485,0.456,0.406`` or one number for all three colours.

    Raises:
        GraphError: it is neither, or a std is not above 0.
    """
    found = Normalisation(_triple("--mean", mean), _triple("--std", std))
    if min(found.std) <= 0:
        raise GraphError("--std", repr(std[:60]), "numbers above 0")
    return found


def _triple(option: str, text: str) -> Triple:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= _COLOURS
    if len(numbers) != _COLOURS or not all(math.isfinite(number) for number in numbers):
        expected = "one number, or three for red, green and blue such as 0.485,0.456,0.406"
        raise GraphError(option, repr(text[:60]), expected)
    return numbers[0], numbers[1], numbers[2]


def write_image(to: Nodes, source_input: str, layout: InputLayout, normalisation: Normalisation) -> None:
    """UINT8 NHWC in 0..255 to what the source takes. The cast is first: TensorRT wants it right at a UINT8 input.

    A source that takes UINT8 NHWC itself needs no node: its input is to be named ``image``.

    Raises:
        GraphError: a source that takes bytes shall have them normalised.
    """
    if layout.takes_bytes:
        if not normalisation.is_plain:
            raise GraphError("--mean or --std", "given", "neither for a model that takes UINT8 pixels")
        return
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [("Cast", [], "pixels", {"to": TensorProto.FLOAT})]
    if len({*normalisation.std}) == 1:
        scale = to.constant("scale", 1 / 255 / normalisation.std[0], np.float32)
    else:
        scale = to.constant("scale", [1 / 255 / std for std in normalisation.std], np.float32)
    steps.append(("Mul", [scale], "scaled", {}))
    if any(normalisation.mean):
        shift = [-mean / std for mean, std in zip(normalisation.mean, normalisation.std, strict=True)]
        steps.append(("Add", [to.constant("shift", shift, np.float32)], "shifted", {}))
    if not layout.channels_last:
        steps.append(("Transpose", [], "ordered", {"perm": [0, 3, 1, 2]}))
    tensor = IMAGE
    for i, (op, more, name, attributes) in enumerate(steps, 1):
        output = source_input if i == len(steps) else f"saccade/{name}"
        tensor = to.add(op, [tensor, *more], output, **attributes)


def write_sizes(to: Nodes, source_sizes: str, layout: InputLayout) -> None:
    """Every picture is as large as the input: width, height for each row of the batch."""
    kind = helper.tensor_dtype_to_np_dtype(layout.sizes_type)
    shape = to.add("Shape", [IMAGE], "saccade/image_shape")
    first = to.constant("first", [0], np.int64)
    rows = to.add("Gather", [shape, first], "saccade/image_rows")
    target = to.add("Concat", [rows, to.constant("two", [2], np.int64)], "saccade/sizes_shape", axis=0)
    to.add("Expand", [to.constant("size", [[layout.width, layout.height]], kind), target], source_sizes)
