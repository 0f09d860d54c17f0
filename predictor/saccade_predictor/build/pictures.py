"""What two models are compared on: photos, letterboxed, or random numbers.

The transformer's letterbox is not used: the services share nothing but the wire. Nor need it be the same: both models
see the same pixels. Pillow reads the files, since kserve brings it into every predictor; OpenCV would be a second
decoder, of 60 MB, for a command.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from saccade_predictor.engines.engine import Inputs
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import TensorMetadata

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
#: Grey of the bars beside a letterboxed picture.
BARS: Final = 114
#: Where a graph leaves a dimension behind the batch open, random numbers have this many.
_OPEN: Final = 64
SEED: Final = 0

Pixels = NDArray[np.uint8]


class PictureError(ValueError):
    """There is no picture."""


class NoPictures(PictureError):
    """The model takes something else than pictures."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row.

    Attributes:
        name: the file's, or the number of a random one.
        inputs: input name -> array, with a first dimension of 1 for a model with batches.
    """

    name: str
    inputs: Inputs


def find_images(folder: Path, limit: int) -> list[Path]:
    """Image files in a folder and those under it, in the order of their names, at most ``limit``; 0 is all.

    Raises:
        PictureError: there is none.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder} is not a folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise PictureError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    return found[:limit] if limit else found


def hold_out(paths: Sequence[Path], every: int, limit: int) -> tuple[list[Path], list[Path]]:
    """Part files into those to learn from and those to check on, which are every ``every``-th.

    Args:
        paths: in an order that neighbours are alike in, such as a video's.
        every: at least 2.
        limit: files of each part at most, spread over it; 0: all.
    """
    ours = [path for index, path in enumerate(paths) if (index + 1) % every]
    return spread(ours, limit), spread(paths[every - 1 :: every], limit)


def spread(paths: Sequence[Path], limit: int) -> list[Path]:
    """At most ``limit`` files, evenly from all; 0: all."""
    if not limit or len(paths) <= limit:
        return list(paths)
    return [paths[index * len(paths) // limit] for index in range(limit)]


def sort_out(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Decode files; of each, what is wrong with it, or nothing if it is an image."""
    for path in paths:
        try:
            _open(path)
        except PictureError as error:
            yield path, str(error)
        else:
            yield path, ""


def from_images(paths: Sequence[Path], inputs: Sequence[TensorMetadata]) -> Iterator[Sample]:
    """Letterbox files into what a model takes.

    Args:
        paths: the files; one that is no image is an error, for a comparison must not be on fewer than it says.
        inputs: one: UINT8 [batch, H, W, 3] in 0..255, or FP32 or FP16 [batch, 3, H, W] in 0..1; both RGB.

    Raises:
        NoPictures: the model takes something else.
        PictureError: a file is no image.
    """
    tensor = picture_input(inputs)
    height, width = tensor.shape[1:3] if _is_nhwc(tensor) else tensor.shape[2:]
    for path in paths:
        pixels = letterbox(path, height, width)[None]
        yield Sample(path.name, {tensor.name: pixels if _is_nhwc(tensor) else _as_floats(pixels, tensor.datatype)})


def picture_input(inputs: Sequence[TensorMetadata]) -> TensorMetadata:
    """The input that pictures fit.

    Raises:
        NoPictures: they fit none, or it is not the only one.
    """
    (tensor,) = inputs if len(inputs) == 1 else (None,)
    if tensor is None or not (_is_nhwc(tensor) or _is_nchw(tensor)):
        told = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in inputs)
        raise NoPictures(
            f"the model takes {told}; pictures fit one input UINT8 [batch, H, W, 3] or FP32 [batch, 3, H, W]"
        )
    return tensor


def in_batches(samples: Iterator[Sample], rows: int) -> Iterator[tuple[list[Sample], Inputs]]:
    """Put samples together, at most ``rows``; a sample alone stays as it is."""
    while batch := list(islice(samples, rows)):
        if len(batch) == 1:
            yield batch, batch[0].inputs
        else:
            yield batch, {name: np.concatenate([one.inputs[name] for one in batch]) for name in batch[0].inputs}


def from_random(count: int, inputs: Sequence[TensorMetadata], *, batched: bool) -> Iterator[Sample]:
    """Random numbers of the inputs' shapes, the same at every run: floats in 0..1, whole numbers over their range.

    Raises:
        PictureError: the model takes text.
    """
    rng = np.random.default_rng(SEED)
    for number in range(count):
        yield Sample(f"random {number}", {one.name: _random(rng, one, batched) for one in inputs})


def letterbox(path: Path, height: int, width: int) -> Pixels:
    """Read an image upright and RGB, fit it into [height, width, 3] UINT8, centred on grey.

    Raises:
        PictureError: it is no image.
    """
    picture = _open(path)
    ratio = min(height / picture.height, width / picture.width)
    size = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
    resized = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    canvas = np.full((height, width, 3), BARS, np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = resized
    return canvas


def _open(path: Path) -> Image.Image:
    """Read an image upright and RGB."""
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path} cannot be read as an image: {error}") from None


def _is_nhwc(tensor: TensorMetadata) -> bool:
    shape = tensor.shape
    return tensor.datatype == "UINT8" and len(shape) == 4 and shape[3] == 3 and min(shape[1:3]) > 0


def _is_nchw(tensor: TensorMetadata) -> bool:
    shape = tensor.shape
    return tensor.datatype in ("FP32", "FP16") and len(shape) == 4 and shape[1] == 3 and min(shape[2:]) > 0


def _as_floats(pixels: NDArray[Any], datatype: str) -> NDArray[Any]:
    scaled = pixels.astype(np.float32).transpose(0, 3, 1, 2) * np.float32(1 / 255)
    return np.ascontiguousarray(scaled.astype(NUMPY_DTYPES[datatype]))


def _random(rng: np.random.Generator, tensor: TensorMetadata, batched: bool) -> NDArray[Any]:
    dtype = NUMPY_DTYPES.get(tensor.datatype)
    if dtype is None:
        raise PictureError(f"input {tensor.name!r} is {tensor.datatype}, of which there are no random ones")
    shape = tuple(_OPEN if dim == -1 else dim for dim in tensor.shape)
    if batched:
        shape = (1, *shape[1:])
    if dtype.kind == "f":
        return rng.random(shape, np.float32).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    # Whole numbers are often indices; only bytes are pixels.
    return rng.integers(0, 256 if dtype.itemsize == 1 and dtype.kind == "u" else 2, shape).astype(dtype)
