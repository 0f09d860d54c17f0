"""Decoding: whatever a client may send becomes upright 8-bit RGB, or a refusal that says why."""

import base64
import contextlib
import io
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from saccade_serving.errors import InvalidImage, PayloadTooLarge, UnsupportedMedia
from saccade_transformers.image.decode import ImageLimits, configure_opencv, decode, decode_base64, encode_jpeg
from saccade_transformers.image.header import read_header

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=50_000_000)


@pytest.fixture(autouse=True)
def quiet_opencv() -> Iterator[None]:
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 5, and before
    threads, level = cv2.getNumThreads(), logging.getLogLevel()
    configure_opencv()
    yield
    cv2.setNumThreads(threads)
    logging.setLogLevel(level)


def pixels(width: int = 96, height: int = 64) -> NDArray[np.uint8]:
    """A smooth picture without symmetry: JPEG keeps it, and every orientation of it is different."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    return np.stack([255 * x, 255 * y, 128 + 100 * np.sin(5 * x + 9 * y)], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def largest_difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png16(samples: NDArray[np.uint16], colour: int) -> bytes:
    """A 16-bit PNG; Pillow writes only grey ones."""
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in samples)
    return png(samples.shape[1], samples.shape[0], 16, colour, rows)


def interlaced_png(image: NDArray[np.uint8]) -> bytes:
    """An Adam7 PNG; Pillow cannot write one."""
    rows = b""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    for x, y, step_x, step_y in passes:
        rows += b"".join(b"\x00" + row.tobytes() for row in image[y::step_y, x::step_x])
    data = bytearray(png(image.shape[1], image.shape[0], 8, 2, rows))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def ycck_jpeg() -> bytes:
    """A YCCK JPEG, as Photoshop writes: a CMYK one whose first planes hold YCbCr, and which says so."""
    luma, blue, red = Image.fromarray(pixels()).convert("YCbCr").split()
    black = Image.new("L", luma.size, 40)  # Pillow inverts all planes, as Adobe does
    planes = Image.merge("CMYK", (*(ImageOps.invert(plane) for plane in (luma, blue, red)), black))
    data = bytearray(encoded(planes, "JPEG", quality=95))
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data[at + 11] = 2
    return bytes(data)


PICTURE = Image.fromarray(pixels())
WITH_ALPHA = Image.fromarray(np.dstack([pixels(), pixels()[..., 0]]))
EXACT = {
    "RGB PNG": encoded(PICTURE, "PNG"),
    "grey PNG": encoded(PICTURE.convert("L"), "PNG"),
    "1-bit PNG": encoded(PICTURE.convert("1"), "PNG"),
    "palette PNG": encoded(PICTURE.convert("P"), "PNG"),
    "palette PNG with a transparent colour": encoded(PICTURE.convert("P"), "PNG", transparency=3),
    "interlaced PNG": interlaced_png(pixels()),
    "lossless WebP": encoded(PICTURE, "WEBP", lossless=True),
    "lossy WebP": encoded(PICTURE, "WEBP"),
    "BMP": encoded(PICTURE, "BMP"),
    "grey BMP": encoded(PICTURE.convert("L"), "BMP"),
    "1-bit BMP": encoded(PICTURE.convert("1"), "BMP"),
}
CLOSE = {
    "baseline JPEG": encoded(PICTURE, "JPEG"),
    "progressive JPEG": encoded(PICTURE, "JPEG", progressive=True),
    "JPEG without subsampling": encoded(PICTURE, "JPEG", subsampling=0),
    "JPEG with restart markers": encoded(PICTURE, "JPEG", restart_marker_blocks=2),
    "RGB JPEG": encoded(PICTURE, "JPEG", keep_rgb=True),
    "grey JPEG": encoded(PICTURE.convert("L"), "JPEG"),
    "CMYK JPEG": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "YCCK JPEG": ycck_jpeg(),
}
SAMPLES = EXACT | CLOSE


@pytest.mark.parametrize("name", EXACT)
def test_lossless_formats_are_decoded_exactly(name: str) -> None:
    assert largest_difference(decode(EXACT[name], LIMITS), by_pillow(EXACT[name])) == 0


@pytest.mark.parametrize("name", CLOSE)
def test_jpegs_are_decoded_as_pillow_decodes_them(name: str) -> None:
    assert largest_difference(decode(CLOSE[name], LIMITS), by_pillow(CLOSE[name])) <= 3


def test_what_comes_out_is_the_callers_own_contiguous_uint8() -> None:
    for data in (SAMPLES["baseline JPEG"], bytearray(SAMPLES["BMP"]), memoryview(SAMPLES["RGB PNG"])):
        image = decode(data, LIMITS)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        image[0, 0] = 7


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "BMP"])
def test_alpha_is_dropped_and_colours_stay_as_stored(image_format: str) -> None:
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    assert largest_difference(decode(encoded(WITH_ALPHA, image_format, **options), LIMITS), pixels()) == 0


def test_a_lossy_webp_with_alpha_is_decoded() -> None:
    assert largest_difference(decode(encoded(WITH_ALPHA, "WEBP", quality=95), LIMITS), pixels()) < 40


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_become_the_upper_eight(colour: int, channels: int) -> None:
    samples = np.random.default_rng(colour).integers(0, 65536, (40, 50, channels), np.uint16)
    samples[0, 0], samples[0, 1] = 0, 65535
    expected = (samples[..., :3] if channels >= 3 else samples[..., :1].repeat(3, axis=-1)) >> 8
    assert largest_difference(decode(png16(samples, colour), LIMITS), expected.astype(np.uint8)) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("byte_order", ["II", "MM"])
def test_the_exif_orientation_is_applied(orientation: int, image_format: str, byte_order: str) -> None:
    little = byte_order == "II"
    tiff = struct.pack("<2sHI" if little else ">2sHI", byte_order.encode(), 42, 8)
    entry = struct.pack("<HHHIHHI" if little else ">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    data = encoded(PICTURE, image_format, exif=b"Exif\x00\x00" + tiff + entry)
    upright = by_pillow(data)
    assert upright.shape == ((96, 64, 3) if orientation > 4 else (64, 96, 3))
    assert largest_difference(decode(data, LIMITS), upright) <= 3


def test_a_broken_exif_does_not_break_the_image() -> None:
    data = encoded(PICTURE, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff junk")
    assert decode(data, LIMITS).shape == (64, 96, 3)


@pytest.mark.parametrize("name", SAMPLES)
def test_an_image_cut_anywhere_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = SAMPLES[name]
    for length in sorted({len(data) * part // 40 for part in range(1, 40)} | {len(data) - n for n in (1, 2, 10)}):
        with pytest.raises(InvalidImage):
            decode(data[:length], LIMITS)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_with_a_whole_thumbnail_is_refused(progressive: bool) -> None:
    thumbnail = encoded(PICTURE.resize((32, 24)), "JPEG")
    data = encoded(PICTURE, "JPEG", progressive=progressive, exif=b"Exif\x00\x00" + b"\x00" * 20 + thumbnail)
    assert data.count(b"\xff\xd9") == 2
    assert decode(data, LIMITS).shape == (64, 96, 3)
    for part in (50, 70, 80, 90, 99):
        with pytest.raises(InvalidImage):
            decode(data[: len(data) * part // 100], LIMITS)


@pytest.mark.parametrize("name", SAMPLES)
def test_bytes_after_the_end_are_ignored(name: str) -> None:
    data = SAMPLES[name]
    clean = decode(data, LIMITS)
    for tail in (b"\x00" * 5000, np.random.default_rng(1).bytes(5000), data):
        assert largest_difference(decode(data + tail, LIMITS), clean) == 0


@pytest.mark.parametrize("name", ["RGB PNG", "lossless WebP"])
def test_damage_inside_the_compressed_data_is_refused(name: str) -> None:
    data = bytearray(SAMPLES[name])
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(range(40))
    with pytest.raises(InvalidImage, match=r"^the (PNG|WebP) is damaged or truncated"):
        decode(data, LIMITS)


def test_a_png_whose_header_promises_other_sizes_is_refused() -> None:
    for width, height in ((192, 64), (96, 65), (48, 64)):
        data = bytearray(SAMPLES["RGB PNG"])
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        with pytest.raises(InvalidImage):
            decode(data, LIMITS)


def test_a_jpeg_whose_header_lies_gives_the_promised_size_or_a_refusal_and_keeps_to_the_limit() -> None:
    data = bytearray(SAMPLES["baseline JPEG"])
    at = data.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", data, at, 128, 96)
    with contextlib.suppress(InvalidImage):
        assert decode(data, LIMITS).shape == (128, 96, 3)
    struct.pack_into(">HH", data, at, 65_535, 65_535)
    with pytest.raises(PayloadTooLarge, match="65535x65535 JPEG has 4294836225 pixels; the limit is 50000000 pixels"):
        decode(data, LIMITS)


def test_a_webp_whose_canvas_lies_is_refused() -> None:
    data = bytearray(encoded(WITH_ALPHA, "WEBP"))
    assert data[12:16] == b"VP8X"
    data[24:27] = (15).to_bytes(3, "little")
    with pytest.raises(InvalidImage):
        decode(data, LIMITS)


def test_a_decompression_bomb_is_refused_from_its_header_with_memory_flat() -> None:
    side, strips = 30_000, 30
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    # After a full flush a piece of the stream stands alone and may be repeated. Adler-32 of n zeros is n << 16 | 1.
    strip = deflate.compress(bytes((1 + side) * side // strips)) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = ((1 + side) * side % 65_521) << 16 | 1
    idat = b"IDAT\x78\xda" + strip * strips + deflate.flush() + struct.pack(">I", checksum)
    bomb = bytearray(png(1, 1, 8, 0, b""))
    struct.pack_into(">II", bomb, 16, side, side)
    struct.pack_into(">I", bomb, 29, zlib.crc32(bomb[12:29]))
    bomb[33:-12] = struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    assert 800_000 < len(bomb) < 1_200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(PayloadTooLarge, match="30000x30000 PNG has 900000000 pixels"):
            decode(bomb, LIMITS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 1
    assert peak < 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8_000  # KiB


def test_the_limit_on_bytes_comes_first() -> None:
    with pytest.raises(PayloadTooLarge, match="the image is 1001 bytes; the limit is 1000 bytes"):
        decode(b"\x00" * 1001, ImageLimits(max_bytes=1000, max_pixels=1))


def test_the_limit_on_pixels_is_inclusive() -> None:
    data = SAMPLES["baseline JPEG"]
    assert decode(data, ImageLimits(10**6, 96 * 64)).shape == (64, 96, 3)
    with pytest.raises(PayloadTooLarge):
        decode(data, ImageLimits(10**6, 96 * 64 - 1))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_the_thinnest_pictures_are_decoded(image_format: str, size: tuple[int, int]) -> None:
    assert decode(encoded(Image.new("RGB", size, (9, 9, 9)), image_format), LIMITS).shape == (size[1], size[0], 3)


def test_what_opencv_could_decode_but_is_not_served_is_refused() -> None:
    for image_format in ("GIF", "TIFF", "PPM"):
        with pytest.raises(UnsupportedMedia):
            decode(encoded(PICTURE, image_format), LIMITS)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8))
def test_a_damaged_image_is_a_picture_of_its_header_or_a_refusal(name: str, damage: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLES[name])
    for at, value in damage:
        data[at % len(data)] = value
    with contextlib.suppress(InvalidImage, UnsupportedMedia, PayloadTooLarge):
        header = read_header(data)
        height, width, _ = decode(data, ImageLimits(10**6, 10**6)).shape
        assert sorted((width, height)) == sorted((header.width, header.height))


def test_importing_changes_nothing_in_opencv() -> None:
    script = (
        "import cv2; log = getattr(cv2.utils, 'logging', cv2); n, level = cv2.getNumThreads(), log.getLogLevel()\n"
        "from saccade_transformers.image import decode, header, letterbox\n"
        "assert (cv2.getNumThreads(), log.getLogLevel()) == (n, level)\n"
        "decode.configure_opencv()\n"
        "assert (cv2.getNumThreads(), log.getLogLevel()) == (1, 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_drawn_picture_becomes_a_jpeg_of_the_same_colours() -> None:
    data = encode_jpeg(pixels(), quality=95)
    assert data.startswith(b"\xff\xd8\xff")
    assert largest_difference(by_pillow(data), pixels()) < 30
    assert len(encode_jpeg(pixels(), quality=10)) < len(data)


def test_what_cannot_be_a_jpeg_is_a_value_error() -> None:
    for image, quality in ((pixels(), 0), (pixels(), 101), (pixels()[..., 0], 90), (pixels()[:0], 90)):
        with pytest.raises(ValueError, match=r"quality|shape"):
            encode_jpeg(image, quality)
    with pytest.raises(ValueError, match="cannot be a JPEG"):
        encode_jpeg(np.zeros((1, 70_000, 3), np.uint8))


RAW = np.random.default_rng(2).bytes(1000)  # its base64 has + and /


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(RAW),
        base64.b64encode(RAW).decode(),
        memoryview(base64.b64encode(RAW)),
        bytearray(base64.encodebytes(RAW)),
        base64.b64encode(RAW).rstrip(b"="),
        base64.b64encode(RAW) + b"====",
        base64.urlsafe_b64encode(RAW),
        base64.urlsafe_b64encode(RAW).decode().rstrip("="),
        b"data:image/jpeg;base64," + base64.b64encode(RAW),
        b"DATA:image/png;charset=utf-8;BASE64," + base64.encodebytes(RAW),
        b" \r\n\t" + base64.b64encode(RAW) + b"\n",
    ],
)
def test_base64_is_accepted_as_clients_write_it(text: bytes | bytearray | memoryview | str) -> None:
    assert decode_base64(text, LIMITS) == RAW


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("====", "empty"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png,abcd", "does not begin with"),
        ("data:" + "x" * 5000, "does not begin with"),
        ("abcde", "cut off: 5 digits"),
        ("ab==cdef", "before its end, at offset 2"),
        ("abcd$fgh", "a punctuation character at offset 4"),
        ("abcd\x00fgh", "a control character at offset 4"),
        (b"abcd\xe4fgh", "a character outside ASCII at offset 4"),
        ("abcdäfgh", "a character outside ASCII at offset 4"),
        ("data:;base64,ab!d", "a punctuation character at offset 15"),
        ("{'b64': 'abcd'}", "a punctuation character at offset 0"),
    ],
)
def test_junk_is_refused_by_offset_and_kind(text: str | bytes, why: str) -> None:
    with pytest.raises(InvalidImage, match=why):
        decode_base64(text, LIMITS)


def test_a_refusal_never_repeats_the_text() -> None:
    with pytest.raises(InvalidImage) as refused:
        decode_base64("secret" * 100 + "ä", LIMITS)
    assert "secret" not in repr(refused.value)
    assert refused.value.__context__ is None


def test_the_decoded_size_is_limited_before_decoding() -> None:
    for text in (base64.b64encode(RAW), base64.encodebytes(RAW), base64.urlsafe_b64encode(RAW)):
        assert decode_base64(text, ImageLimits(1000, 1)) == RAW
        with pytest.raises(PayloadTooLarge, match="1000 bytes; the limit is 999 bytes"):
            decode_base64(text, ImageLimits(999, 1))
    with pytest.raises(PayloadTooLarge, match="is 3000000 bytes; the limit is 999 bytes"):
        decode_base64(b"A" * 4_000_000, ImageLimits(999, 1))


@given(st.binary(min_size=1, max_size=300), st.booleans(), st.booleans())
def test_base64_round_trips(raw: bytes, urlsafe: bool, padded: bool) -> None:
    text = base64.urlsafe_b64encode(raw) if urlsafe else base64.b64encode(raw)
    assert decode_base64(text if padded else text.rstrip(b"="), LIMITS) == raw
