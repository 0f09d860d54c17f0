"""One image that was drawn to be mirrored, on its way beside the request: what the candidate needs is set aside.

Nothing of the request's own memory is held: the tensor was made for the predictor, and of the encoded image a copy is
made, where images are kept or the candidate needs another tensor. That one is made of the copy later, beside the
request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saccade_serving.oip.messages import Parameters
from saccade_transformers.image.letterbox import Letterbox, letterbox
from saccade_transformers.image.picture import Picture
from saccade_transformers.target import Known

if TYPE_CHECKING:
    from saccade_transformers.pipeline import Answered

log = logging.getLogger("saccade.shadow")


class Sample:
    """An image to be mirrored.

    Args:
        end: told once, when nothing more comes of it.
        camera: digest of the camera that it is of, empty for none.
        request_id: of its request.
        parameters: of its request.
        input_size: (width, height) of the candidate's input; None while that is not known.
        keeps_image: whether a copy of the encoded image is wanted.

    Attributes:
        tensor: [1, height, width, 3] for the candidate, once ``take`` and ``give`` were called.
        mapping: where the picture lies in it.
        image: the encoded image; empty where it is not needed, or pixels were sent.
        served: what the client was answered.
        known: what is known of the predictor that answered.
    """

    tensor: NDArray[np.uint8] | None = None
    mapping: Letterbox | None = None
    image = b""
    served: Answered
    known: Known

    def __init__(
        self,
        end: Callable[[Sample], None],
        camera: str,
        request_id: str,
        parameters: Parameters,
        input_size: tuple[int, int] | None,
        keeps_image: bool,
    ) -> None:
        self.camera = camera
        self.request_id = request_id
        self.parameters = parameters
        self.complete = False
        self._keeps_image = keeps_image
        self._input_size = input_size
        self._end: Callable[[Sample], None] | None = end

    def take(self, picture: Picture, input_size: tuple[int, int], encoded: Callable[[], bytes] = bytes) -> None:
        """Set aside what is gone when the picture is; in the worker that decoded it. Raises nothing.

        Args:
            picture: letterboxed for a candidate with another input size where nothing is encoded.
            input_size: (width, height) of the input of the predictor that answers.
            encoded: copies the encoded image; empty where pixels were sent.
        """
        try:
            fits = self._input_size == input_size
            if self._keeps_image or not fits:
                self.image = encoded()
            if not fits and not self.image and self._input_size is not None:
                width, height = self._input_size
                tensor = np.empty((1, height, width, 3), np.uint8)
                self.mapping = letterbox(picture, tensor[0])
                self.tensor = tensor
        except Exception:  # no memory, for one: the request goes on, and the image will turn out to be incomparable
            log.warning("shadow_sample_failed", exc_info=True)

    def fits(self, input_size: tuple[int, int]) -> bool:
        """Whether the tensor is of a size (width, height)."""
        return self.tensor is not None and (self.tensor.shape[2], self.tensor.shape[1]) == input_size

    def give(self, tensor: NDArray[np.uint8], mapping: Letterbox, known: Known, served: Any) -> None:
        """Add what came of the request: its answer, and the tensor it was made of. The image is complete now."""
        if self.tensor is None:
            self.tensor, self.mapping = tensor, mapping
        self.known = known
        self.served = served
        self.complete = True

    def close(self) -> None:
        """The request is through with it: it is mirrored if it is complete, else forgotten."""
        end, self._end = self._end, None
        if end is not None:
            end(self)
