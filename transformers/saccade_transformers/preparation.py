"""What is done to an image in a worker thread before the predictor is asked: decode, letterbox, compare."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade_serving.oip.messages import Buffer
from saccade_transformers.cache.frames import Known
from saccade_transformers.cache.perceptual import Look, look
from saccade_transformers.cache.policy import Rules, Since, Verdict, compare
from saccade_transformers.image.decode import (
    ImageLimits,
    decode,
    decode_base64,
    decode_for_input,
    decode_grey,
    encode_jpeg,
)
from saccade_transformers.image.grey import greys, greys_of_grey
from saccade_transformers.image.letterbox import Letterbox, letterbox
from saccade_transformers.image.picture import Picture
from saccade_transformers.image.request_pixels import RequestPixels
from saccade_transformers.shadow.sample import Sample
from saccade_transformers.sources import Encoded, Raw, Source
from saccade_transformers.tasks.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What is to be done to one image.

    Attributes:
        source: the image.
        input_size: (width, height) of the model's input.
        pixels: what all images of the request have together; None where it was counted.
        sample: takes what a candidate needs, where the image was drawn to be mirrored.
        takes_look: of a camera's frame, for the cache.
        before: the camera's earlier frame, to be compared with.
        grey_first: decode only the luminance of a JPEG at first, and the rest unless that is a hit.
    """

    source: Source
    input_size: tuple[int, int]
    pixels: RequestPixels | None = None
    sample: Sample | None = None
    takes_look: bool = False
    before: tuple[Known, Since] | None = None
    grey_first: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What comes out of the worker thread.

    Attributes:
        tensor: the model's input; None for a frame of which only the luminance was decoded, which was enough.
        look: of a camera's frame, where there is a cache.
        verdict: of comparing it with the camera's earlier one, if there was any.
        look_s: seconds that both took.
    """

    tensor: NDArray[np.uint8] | None
    mapping: Letterbox
    look: Look | None = None
    verdict: Verdict | None = None
    look_s: float = 0.0


class Preparation:
    """Prepares images; every method may run in any thread.

    Args:
        limits: the largest image.
        rules: by which frames are compared; None without a cache.
    """

    def __init__(self, limits: ImageLimits, rules: Rules | None) -> None:
        self.limits = limits
        self._rules = rules

    def prepare(self, work: Work) -> Prepared:
        """Decode and letterbox an image, and compare it with its camera's earlier frame.

        Raises:
            InvalidImage, UnsupportedMedia, PayloadTooLarge: the image is not served.
        """
        pixels = work.pixels
        seen: Look | None = None
        verdict: Verdict | None = None
        look_s = 0.0
        if work.grey_first and (grey := self._decode_grey(work)) is not None:
            begun = time.monotonic()
            mapping = Letterbox.fit(grey.size, work.input_size)
            seen = look(greys_of_grey(grey, mapping), of_grey=True)
            verdict = self._compare(work, seen, grey.size)
            look_s = time.monotonic() - begun
            if verdict is not None and verdict.is_hit:
                return Prepared(None, mapping, seen, verdict, look_s)
            pixels = None  # they were counted
        width, height = work.input_size
        tensor = np.empty((1, height, width, 3), np.uint8)
        picture = self._decode(work.source, work.input_size, pixels)
        if work.sample is not None:
            work.sample.take(picture, work.input_size, lambda: self._encoded(work.source))
        mapping = letterbox(picture, tensor[0])
        if work.takes_look and seen is None:
            begun = time.monotonic()
            seen = look(greys(tensor[0], mapping))
            verdict = self._compare(work, seen, mapping.image_size)
            look_s = time.monotonic() - begun
        return Prepared(tensor, mapping, seen, verdict, look_s)

    def draw(self, source: Source, task: Task[Any, Any], answer: Any) -> bytes:
        """Draw an answer into its image, decoded whole; returns a JPEG."""
        whole = source.pixels if isinstance(source, Raw) else decode(self._bytes_of(source), self.limits)
        return encode_jpeg(task.draw(whole, answer))

    def _compare(self, work: Work, seen: Look, size: tuple[int, int]) -> Verdict | None:
        if work.before is None or self._rules is None:
            return None
        known, since = work.before
        return compare(known.reference, since, seen, size, self._rules)

    def _decode(self, source: Source, input_size: tuple[int, int], pixels: RequestPixels | None) -> Picture:
        if isinstance(source, Encoded):
            return decode_for_input(self._bytes_of(source), self.limits, input_size, pixels)
        height, width, _ = source.pixels.shape
        self.limits.check_pixels(width, height)
        if pixels is not None:
            pixels.take(width, height)
        return Picture.whole(source.pixels)

    def _decode_grey(self, work: Work) -> Picture | None:
        if isinstance(work.source, Raw):
            return None
        return decode_grey(self._bytes_of(work.source), self.limits, work.input_size, work.pixels)

    def _encoded(self, source: Source) -> bytes:
        """A copy of the encoded image; empty where pixels were sent."""
        return b"" if isinstance(source, Raw) else bytes(self._bytes_of(source))

    def _bytes_of(self, source: Encoded) -> Buffer:
        if source.is_base64:
            return decode_base64(source.data, self.limits)
        assert not isinstance(source.data, str)
        return source.data
