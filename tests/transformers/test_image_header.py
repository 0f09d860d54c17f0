"""Format and size from the first bytes: right for what is served, a clear refusal for everything else."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from saccade_serving.errors import InvalidImage, UnsupportedMedia
from saccade_transformers.image.header import MAX_SCANS, MAX_TEXTS, ImageHeader, check_complete, read_header


def picture(width: int = 64, height: int = 48) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    rgb: NDArray[np.uint8] = np.stack([x * 4 % 256, y * 5 % 256, (x + y) * 3 % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(rgb)


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def ihdr(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


RGBA = Image.merge("RGBA", (*picture().split(), picture().getchannel(0)))
SAMPLES = {
    "baseline JPEG": encoded(picture(), "JPEG"),
    "progressive JPEG": encoded(picture(), "JPEG", progressive=True),
    "grey JPEG": encoded(picture().convert("L"), "JPEG"),
    "CMYK JPEG": encoded(picture().convert("CMYK"), "JPEG"),
    "RGB PNG": encoded(picture(), "PNG"),
    "palette PNG": encoded(picture().convert("P"), "PNG"),
    "lossy WebP": encoded(picture(), "WEBP"),
    "lossless WebP": encoded(picture(), "WEBP", lossless=True),
    "WebP with alpha": encoded(RGBA, "WEBP"),
    "WebP with EXIF": encoded(picture(), "WEBP", exif=Image.Exif().tobytes() + b"\x00" * 8),
    "BMP": encoded(picture(), "BMP"),
    "palette BMP": encoded(picture().convert("P"), "BMP"),
    "1-bit BMP": encoded(picture().convert("1"), "BMP"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_format_and_size_are_read_without_decoding(name: str) -> None:
    expected = next(f for f in ("JPEG", "PNG", "WebP", "BMP") if f in name)
    header = read_header(SAMPLES[name])
    assert header == ImageHeader(expected, 64, 48)  # type: ignore[arg-type]
    check_complete(SAMPLES[name], header)


@pytest.mark.parametrize("name", SAMPLES)
def test_any_kind_of_buffer_is_read(name: str) -> None:
    data = SAMPLES[name]
    body = b"head" + data + b"tail"
    for buffer in (bytearray(data), memoryview(data), memoryview(body)[4:-4]):
        check_complete(buffer, read_header(buffer))


def test_the_size_is_the_stored_one_before_exif() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_header(encoded(picture(), "JPEG", exif=exif)) == ImageHeader("JPEG", 64, 48)


def test_a_bmp_may_be_stored_from_top_to_bottom() -> None:
    data = bytearray(SAMPLES["BMP"])
    struct.pack_into("<i", data, 22, -48)
    assert read_header(data) == ImageHeader("BMP", 64, 48)


def test_an_os2_bmp_is_read() -> None:
    rows = bytes(64 * 3 * 48)
    data = b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + struct.pack("<IHHHH", 12, 64, 48, 1, 24) + rows
    header = read_header(data)
    assert header == ImageHeader("BMP", 64, 48)
    check_complete(data, header)
    with pytest.raises(InvalidImage, match="promises"):
        check_complete(data[:-1], header)


UNSERVED = {
    "a GIF": encoded(picture(), "GIF"),
    "a TIFF": encoded(picture(), "TIFF"),
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "a HEIC": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00",
    "an AVIF": b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00",
    "an MP4 or QuickTime video": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00",
    "an AVI video": b"RIFF\x10\x00\x00\x00AVI LIST",
    "a JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "HTML": b"\n<!DOCTYPE html><html></html>",
    "JSON": b'{"instances": []}',
    "an SVG": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "base64 text, not the decoded image": b"/9j/4AAQSkZJRgABAQ",
    "text": "ein Bild, später".encode(),
    "of no known image format": b"\x00\x01\x02\x03\xff\xfe",
}


@pytest.mark.parametrize("looks_like", UNSERVED)
def test_anything_else_is_refused_by_the_name_of_what_it_looks_like(looks_like: str) -> None:
    with pytest.raises(UnsupportedMedia) as refused:
        read_header(UNSERVED[looks_like])
    assert looks_like in str(refused.value)
    assert str(refused.value).endswith("accepted are JPEG, PNG, still WebP and BMP")


def test_text_whose_last_character_is_cut_still_looks_like_text() -> None:
    with pytest.raises(UnsupportedMedia, match="looks like text"):
        read_header(("x" * 511 + "ä").encode())


def test_animations_are_refused() -> None:
    frames = {"save_all": True, "append_images": [picture().rotate(90)]}
    with pytest.raises(UnsupportedMedia, match="animated WebP"):
        read_header(encoded(picture(), "WEBP", **frames))
    with pytest.raises(UnsupportedMedia, match="animated PNG"):
        read_header(encoded(picture(), "PNG", **frames))


def test_an_empty_body_is_no_image() -> None:
    with pytest.raises(InvalidImage, match="0 bytes"):
        read_header(b"")


@pytest.mark.parametrize("name", SAMPLES)
def test_every_truncated_header_is_an_invalid_image_of_its_format(name: str) -> None:
    data = SAMPLES[name]
    for length in range(4, 33):
        with pytest.raises(InvalidImage, match=r"JPEG|PNG|WebP|BMP"):
            check_complete(data[:length], read_header(data[:length]))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_without_its_end_is_not_complete(name: str) -> None:
    data = SAMPLES[name]
    header = read_header(data)
    for length in {len(data) * part // 100 for part in range(30, 100, 3)} | {len(data) - 1, len(data) - 2}:
        try:
            read_header(data[:length])
        except InvalidImage:
            continue  # cut before the picture begins
        with pytest.raises(InvalidImage, match="damaged or truncated"):
            check_complete(data[:length], header)


@pytest.mark.parametrize("name", SAMPLES)
def test_bytes_after_the_end_do_not_matter(name: str) -> None:
    data = SAMPLES[name] + b"\x00" * 100 + bytes(range(256)) * 40
    check_complete(data, read_header(data))


def test_the_end_of_an_exif_thumbnail_is_not_the_end_of_the_jpeg() -> None:
    thumbnail = encoded(picture(16, 12), "JPEG")
    segment = b"Exif\x00\x00" + thumbnail
    whole = SAMPLES["baseline JPEG"]
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]
    header = read_header(data)
    assert header == ImageHeader("JPEG", 64, 48)
    check_complete(data, header)
    with pytest.raises(InvalidImage, match="end is missing"):
        check_complete(data[:-2], header)


def test_a_jpeg_of_countless_scans_is_refused() -> None:
    whole = SAMPLES["progressive JPEG"]
    last_scan = whole.rfind(b"\xff\xda")
    bomb = whole[:-2] + whole[last_scan:-2] * MAX_SCANS + whole[-2:]
    with pytest.raises(InvalidImage, match="scans"):
        check_complete(bomb, read_header(bomb))


def test_countless_empty_segments_and_chunks_are_refused() -> None:
    jpeg = b"\xff\xd8" + b"\xff\xe0\x00\x02" * 100_000 + SAMPLES["baseline JPEG"][2:]
    with pytest.raises(InvalidImage, match="segments"):
        read_header(jpeg)
    with pytest.raises(InvalidImage, match="chunks"):
        read_header(png(ihdr(8, 8), *[chunk(b"tEXt")] * 100_000, chunk(b"IDAT"), chunk(b"IEND")))
    many = png(ihdr(8, 8), *[chunk(b"IDAT")] * 100_000, chunk(b"IEND"))
    with pytest.raises(InvalidImage, match="chunks"):
        check_complete(many, read_header(many))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_png_of_countless_compressed_texts_is_refused(kind: bytes) -> None:
    """Each may cost the decoder as much as a picture of 8 MB, whatever size the header gives."""
    texts = [chunk(kind, b"Comment\0\0" + zlib.compress(bytes(2**20)))] * MAX_TEXTS
    picture_data, end = chunk(b"IDAT", zlib.compress(bytes(9 * 8))), chunk(b"IEND")
    few = png(ihdr(8, 8), *texts, picture_data, *texts, end)
    check_complete(few, read_header(few))
    with pytest.raises(InvalidImage, match="more than 16 chunks of compressed text"):
        read_header(png(ihdr(8, 8), *texts, texts[0], picture_data, end))
    behind = png(ihdr(8, 8), picture_data, *texts, texts[0], end)
    with pytest.raises(InvalidImage, match="more than 16 chunks of compressed text"):
        check_complete(behind, read_header(behind))


def jpeg_with(marker: int, bits: int = 8, width: int = 64, height: int = 48) -> bytes:
    data = bytearray(SAMPLES["baseline JPEG"])
    at = data.index(b"\xff\xc0")
    data[at + 1] = marker
    struct.pack_into(">BHH", data, at + 4, bits, height, width)
    return bytes(data)


def test_kinds_of_jpeg_that_are_not_decoded_are_named() -> None:
    with pytest.raises(UnsupportedMedia, match="12 bits per sample"):
        read_header(jpeg_with(0xC1, bits=12))
    with pytest.raises(UnsupportedMedia, match="hierarchical"):
        read_header(jpeg_with(0xC5))


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(0xC0, width=0),
        jpeg_with(0xC0, height=0),
        png(ihdr(0, 5), chunk(b"IDAT"), chunk(b"IEND")),
        png(ihdr(5, 0), chunk(b"IDAT"), chunk(b"IEND")),
        SAMPLES["BMP"][:18] + struct.pack("<ii", 0, 48) + SAMPLES["BMP"][26:],
        SAMPLES["BMP"][:18] + struct.pack("<ii", -64, 48) + SAMPLES["BMP"][26:],
        SAMPLES["lossy WebP"][:26] + b"\x00\x00" + SAMPLES["lossy WebP"][28:],
    ],
)
def test_a_side_of_no_pixels_is_an_invalid_image(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="size of"):
        read_header(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (png(chunk(b"CgBI", b"\x00" * 4), ihdr(8, 8)), "not IHDR"),
        (png(ihdr(8, 8), chunk(b"IEND")), "no picture data"),
        (png(ihdr(8, 8)[:-1] + b"\x00", chunk(b"IDAT")), "checksum"),
        (SAMPLES["RGB PNG"].replace(b"\r\n\x1a\n", b"\n\x1a\n\n", 1), "its signature"),
        (b"\xff\xd8\xff\xd9", "no picture data"),
        (b"\xff\xd8\xff\xda\x00\x08" + b"\x00" * 20, "before its frame header"),
        (b"\xff\xd8\xff\xe0\x00\x01" + b"\x00" * 20, "length"),
        (SAMPLES["lossless WebP"].replace(b"VP8L", b"VP9 ", 1), "first chunk"),
        (SAMPLES["lossy WebP"].replace(b"\x9d\x01\x2a", b"\x9d\x01\x2b", 1), "key frame"),
        (b"BMW is a car maker in Munich", "not known"),
    ],
)
def test_a_damaged_header_says_what_is_wrong(data: bytes, why: str) -> None:
    with pytest.raises(InvalidImage, match=why):
        read_header(data)


def test_markers_without_a_length_are_stepped_over() -> None:
    whole = SAMPLES["progressive JPEG"]
    last_scan = whole.rfind(b"\xff\xda")
    data = whole[:2] + b"\xff\x01" + whole[2:last_scan] + b"\xff\xff\xff\x01" + whole[last_scan:]
    header = read_header(data)
    assert header == ImageHeader("JPEG", 64, 48)
    check_complete(data, header)


def test_a_second_frame_header_is_damage() -> None:
    whole = SAMPLES["baseline JPEG"]
    at = whole.index(b"\xff\xc0")
    with pytest.raises(InvalidImage, match="two frame headers"):
        read_header(whole[:at] + whole[at : at + 19] + whole[at:])


def test_countless_segments_between_scans_are_refused() -> None:
    whole = SAMPLES["progressive JPEG"]
    last_scan = whole.rfind(b"\xff\xda")
    data = whole[:last_scan] + b"\xff\xe0\x00\x02" * 100_000 + whole[last_scan:]
    with pytest.raises(InvalidImage, match="segments"):
        check_complete(data, read_header(data))


def test_a_bmp_header_of_another_kind_is_damage() -> None:
    with pytest.raises(InvalidImage, match="a header of 20 bytes is not known"):
        read_header(SAMPLES["BMP"][:14] + struct.pack("<I", 20) + SAMPLES["BMP"][18:])


def test_a_second_picture_inside_the_first_one_is_damage() -> None:
    whole = SAMPLES["baseline JPEG"]
    data = whole[:-2] + whole
    with pytest.raises(InvalidImage, match="second picture"):
        check_complete(data, read_header(data))


def test_the_buffer_is_not_copied() -> None:
    data = SAMPLES["baseline JPEG"][:-2] + b"\xff\x00" * 4_000_000 + b"\xff\xd9"
    tracemalloc.start()
    try:
        check_complete(data, read_header(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def read_or_refuse(data: bytes) -> None:
    try:
        header = read_header(data)
        assert header.width >= 1
        assert header.height >= 1
        check_complete(data, header)
    except (InvalidImage, UnsupportedMedia) as error:
        assert len(str(error)) < 200  # noqa: PT017  # both outcomes are right


STARTS = (
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x20\x00\x00\x00WEBPVP8 ",
    b"RIFF\x20\x00\x00\x00WEBPVP8X",
    b"BM",
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=200))
def test_arbitrary_bytes_give_a_header_or_a_refusal(start: bytes, rest: bytes) -> None:
    read_or_refuse(start + rest)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=6),
    st.integers(0, 2000),
)
def test_damaged_images_give_a_header_or_a_refusal(name: str, damage: list[tuple[int, int]], length: int) -> None:
    data = bytearray(SAMPLES[name])
    for at, value in damage:
        data[at % len(data)] = value
    read_or_refuse(bytes(data[:length] if length % 2 else data))
