"""An image as it came with a request, not yet decoded or looked at."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from saccade_serving.oip.messages import Buffer

#: Bytes of a digest.
DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded image as it came; base64 text where it came in JSON."""

    data: Buffer | str
    is_base64: bool = False

    @property
    def size(self) -> int:
        """Bytes of it, or characters."""
        return len(self.data) if isinstance(self.data, str) else memoryview(self.data).nbytes


@dataclass(frozen=True, slots=True)
class Raw:
    """A picture that needs no decoding: [h, w, 3] uint8 RGB."""

    pixels: NDArray[np.uint8]

    @property
    def size(self) -> int:
        """Bytes of the pixels."""
        return self.pixels.nbytes


Source = Encoded | Raw


def digest(source: Source) -> bytes:
    """A digest of an image's bytes: SHA-256, since nobody may find a second image that has the first one's answer.

    Equal bytes that came in different forms have different digests.
    """
    data: Buffer
    if isinstance(source, Raw):
        height, width, _ = source.pixels.shape
        kind = b"raw" + height.to_bytes(6, "big") + width.to_bytes(6, "big")
        data = np.ascontiguousarray(source.pixels).data
    elif isinstance(source.data, str):
        kind, data = b"text", source.data.encode()
    else:
        kind, data = (b"base64" if source.is_base64 else b"image"), source.data
    found = hashlib.sha256(kind + b"\0")  # in hardware nearly everywhere
    found.update(data)
    return found.digest()[:DIGEST_BYTES]
