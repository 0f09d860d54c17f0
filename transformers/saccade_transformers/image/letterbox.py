"""Letterboxing: fits a picture into a model's input without distorting it, and maps boxes back.

The picture is scaled by one factor so that it just fits, centred, and framed with grey. Its scaled sides are whole
pixels, so the two axes' true scales differ a little from the common factor (a lot for a picture of 1 x 5000):
the mapping keeps the true ones. Coordinates are continuous: x = 0 is the left edge of the first pixel, x = width the
right edge of the last one.

Does not decode, and knows nothing of what the boxes mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import InvalidImage
from saccade_transformers.image.picture import Picture, reduced

#: Grey level of the frame; what YOLO-style detectors are trained with.
PADDING: Final = 114
#: Scales from which on each way of shrinking is used; below both INTER_AREA, which leaves out no pixel at any scale.
_LEAST_TWICE, _LEAST_LINEAR = 1 / 4, 3 / 4
#: A reduced picture is smooth already: down to here INTER_LINEAR comes nearer to the whole one than the other ways do.
_LEAST_LINEAR_REDUCED = 0.65


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lies in a model's input: ``x_input = x_image * scale_x + pad_x``, the same for y.

    Attributes:
        image_size: (width, height) of the picture in pixels, each at least 1.
        input_size: (width, height) of the model's input in pixels.
        scale_x: input pixels per image pixel, exactly: scaled width / image width.
        scale_y: the same for the height.
        pad_x: whole input pixels of frame on the left.
        pad_y: whole input pixels of frame above.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    scale_x: float
    scale_y: float
    pad_x: int
    pad_y: int

    @classmethod
    def fit(cls, image_size: tuple[int, int], input_size: tuple[int, int]) -> Letterbox:
        """Place a picture of ``image_size`` (width, height) in an input of ``input_size``, centred.

        Raises:
            InvalidImage: the picture has a side of 0 pixels.
            ValueError: the input has one.
        """
        if min(image_size) < 1:
            raise InvalidImage(f"the image is {image_size[0]}x{image_size[1]} pixels; each side must be at least 1")
        if min(input_size) < 1:
            raise ValueError(f"the model's input is {input_size[0]}x{input_size[1]} pixels")
        scale = min(input_size[0] / image_size[0], input_size[1] / image_size[1])
        width = min(max(round(image_size[0] * scale), 1), input_size[0])
        height = min(max(round(image_size[1] * scale), 1), input_size[1])
        return cls(
            image_size,
            input_size,
            scale_x=width / image_size[0],
            scale_y=height / image_size[1],
            pad_x=(input_size[0] - width) // 2,
            pad_y=(input_size[1] - height) // 2,
        )

    @property
    def scaled_size(self) -> tuple[int, int]:
        """(width, height) of the scaled picture inside the input, in pixels."""
        return round(self.image_size[0] * self.scale_x), round(self.image_size[1] * self.scale_y)

    def to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map boxes from the model's input to the picture.

        Args:
            boxes: [m, 4] as x1, y1, x2, y2 in input pixels.

        Returns:
            A new array [m, 4] in image pixels, clipped to the picture. A box that lies in the frame has no area.
        """
        offset = np.array([self.pad_x, self.pad_y] * 2, np.float64)
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float64)
        limit = np.array(self.image_size * 2, np.float64)
        return np.clip((boxes - offset) / scale, 0, limit).astype(np.float32)


def letterbox(picture: Picture, out: NDArray[np.uint8]) -> Letterbox:
    """Write a letterboxed picture into a model's input.

    Every pixel counts when a picture is shrunk, so that small objects do not flicker: what comes of it is that of
    INTER_AREA or very near, mostly for less time. It is enlarged with INTER_LINEAR.

    Args:
        picture: whole or reduced; a reduced one is larger than its place in the input.
        out: [H, W, 3] uint8, C-contiguous; overwritten completely, whatever it held.

    Returns:
        The mapping between the input and the whole picture, for ``to_image``.

    Raises:
        InvalidImage: the picture has a side of 0 pixels.
        ValueError: a shape or dtype is not as above.
    """
    for name, array in (("the picture", picture.pixels), ("out", out)):
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}; expected uint8 [height, width, 3]")
    if not out.flags.c_contiguous:
        raise ValueError("out is not C-contiguous")
    box = Letterbox.fit(picture.size, (out.shape[1], out.shape[0]))
    width, height = box.scaled_size
    inner = out[box.pad_y : box.pad_y + height, box.pad_x : box.pad_x + width]
    scale_into(picture, inner)
    out[: box.pad_y] = PADDING
    out[box.pad_y + height :] = PADDING
    out[box.pad_y : box.pad_y + height, : box.pad_x] = PADDING
    out[box.pad_y : box.pad_y + height, box.pad_x + width :] = PADDING
    return box


def scale_into(picture: Picture, inner: NDArray[np.uint8]) -> None:
    """Scale a picture into its place, as ``letterbox`` does.

    Args:
        picture: whole or reduced; a reduced one is larger than its place.
        inner: [h, w, 3], or [h, w] for luminance; overwritten.
    """
    height, width = inner.shape[:2]
    if picture.reduction == 1 and (width, height) == picture.size:
        inner[...] = picture.pixels
    elif picture.reduction > 1 or width * height < picture.size[0] * picture.size[1]:
        _shrink(picture, inner)
    else:
        cv2.resize(picture.pixels, (width, height), dst=inner, interpolation=cv2.INTER_LINEAR)  # size and type fit


def _shrink(picture: Picture, inner: NDArray[np.uint8]) -> None:
    """Shrink a picture into its place, as means of the pixels that fall on each of the input's.

    The true width of a reduced picture is a fraction, 612.25 for 2,449 pixels at 1/4. Were the 613 there are taken for
    it, the picture would be up to half an input pixel too narrow at its far side, which moves the boxes of small
    objects. So the scale comes from the fraction.

    Raises:
        ValueError: the picture does not have the size it says, or is smaller than its place.
    """
    if picture.pixels.shape[:2] != (
        reduced(picture.size[1], picture.reduction),
        reduced(picture.size[0], picture.reduction),
    ):
        raise ValueError(
            f"the picture is {list(picture.pixels.shape)}; expected {picture.size} reduced to 1/{picture.reduction}"
        )
    height, width = inner.shape[:2]
    true_width, true_height = picture.size[0] / picture.reduction, picture.size[1] / picture.reduction
    across, down = width / true_width, height / true_height
    if max(across, down) > 1:
        raise ValueError(f"a picture reduced to {true_width:g}x{true_height:g} is smaller than {width}x{height}")
    least = min(across, down)
    linear = least >= (_LEAST_LINEAR_REDUCED if picture.reduction > 1 else _LEAST_LINEAR)
    if least >= _LEAST_TWICE and not linear:
        # To twice the size, then means of 2 x 2: INTER_AREA within 46 dB for a third of its time.
        twice = cv2.resize(picture.pixels, None, fx=2 * across, fy=2 * down, interpolation=cv2.INTER_LINEAR)
        whole = twice[: 2 * height, : 2 * width]  # without what comes of a fraction
        resized = cv2.resize(whole, (width, height), dst=inner, interpolation=cv2.INTER_AREA)
    else:
        # Without a size OpenCV keeps to the scale, and rounds pixels times scale, which is off by less than 1/2 here.
        source = picture.pixels[: int(true_height + 0.5), : int(true_width + 0.5)]
        how = cv2.INTER_LINEAR if linear else cv2.INTER_AREA
        resized = cv2.resize(source, None, dst=inner, fx=across, fy=down, interpolation=how)
    if not np.shares_memory(resized, inner):
        raise AssertionError(f"OpenCV made {list(resized.shape)} of {list(inner.shape)}")
