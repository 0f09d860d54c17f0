"""A PNG's picture data is what its size needs: more of it would keep a thread busy for a minute."""

from __future__ import annotations

import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from saccade_serving.errors import InvalidImage
from saccade_transformers.image.decode import ImageLimits, decode
from saccade_transformers.image.png_data import HARMLESS_BYTES, goes_on, inflated_size

LIMITS = ImageLimits(2**25, 2**25)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, data: bytes, depth: int = 8, colour: int = 2, interlace: int = 0, parts: int = 1
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    size = -(-len(data) // parts)
    cut = b"".join(chunk(b"IDAT", data[at : at + size]) for at in range(0, len(data), size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + cut + chunk(b"IEND", b"")


def bomb(megabytes: int) -> bytes:
    """Deflated zeros."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(megabytes)), packer.flush()])


@pytest.fixture(scope="module")
def two_gigabytes() -> bytes:
    packed = bomb(2048)
    assert len(packed) > HARMLESS_BYTES
    return packed


@pytest.mark.parametrize("parts", [1, 500])
def test_data_that_goes_on_behind_the_picture_is_refused_at_once(two_gigabytes: bytes, parts: int) -> None:
    began = time.process_time()
    with pytest.raises(InvalidImage, match="more picture data than 200x100 pixels need, which are 60100 bytes"):
        decode(png(200, 100, two_gigabytes, parts=parts), LIMITS)
    assert time.process_time() - began < 1, "it was inflated"


def test_a_large_picture_as_it_should_be_is_served() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (800, 700, 3), np.uint8)
    _, encoded = cv2.imencode(".png", noise[:, :, ::-1])
    assert encoded.size > HARMLESS_BYTES
    assert np.array_equal(decode(encoded.tobytes(), LIMITS), noise)


def test_the_last_byte_counts() -> None:
    data = bytes(1000)
    assert not goes_on([memoryview(zlib.compress(data))], 1000)
    assert goes_on([memoryview(zlib.compress(data))], 999)


def test_what_is_damaged_or_cut_does_not_go_on() -> None:
    packed = zlib.compress(bytes(1000))
    assert not goes_on([memoryview(packed[:-8])], 1000)
    assert not goes_on([memoryview(b"no deflate")], 1000)
    assert not goes_on([memoryview(packed + b"behind it" * 100)], 1000)


@pytest.mark.parametrize(
    ("colour", "depths"), [(0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))]
)
@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (5, 9), (17, 33)])
def test_the_size_is_what_the_decoder_wants(
    colour: int, depths: tuple[int, ...], interlace: int, width: int, height: int
) -> None:
    """A picture of so many zeros decodes, and one of a byte less is cut off."""
    for depth in depths:
        size = inflated_size(width, height, depth, colour, bool(interlace))
        assert size is not None
        whole = png(width, height, zlib.compress(bytes(size)), depth, colour, interlace)
        if colour == 3:
            whole = whole.replace(chunk(b"IEND", b""), b"")
            at = whole.index(b"IDAT") - 4
            whole = whole[:at] + chunk(b"PLTE", bytes(6)) + whole[at:] + chunk(b"IEND", b"")
        assert decode(whole, LIMITS).shape[:2] == (height, width)
    assert inflated_size(width, height, 8, 5, False) is None
