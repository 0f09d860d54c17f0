"""Format, size and completeness of an encoded image, read from its bytes without decoding it.

The format is decided by magic bytes alone, never by a file name, a content type or the decoder's own guess, so
that only the four formats named here ever reach a decoder: JPEG, PNG, still WebP and BMP. The size stands in
the header, so that a decompression bomb is refused before any memory is asked for.

``check_complete`` looks for the end of the file's structure. It does not depend on the decoder's version (some
OpenCV versions fill the missing part of a truncated JPEG with grey), spares libpng a line on stderr, and bounds
the scans of a JPEG. It does not judge the compressed data: that is the decoder's work.

Everything works on views: nothing is copied but a few header bytes. The work is bounded: no file may have more
than ``MAX_PARTS`` segments or chunks.
Sources: ITU-T T.81 annex B (JPEG); PNG, third edition, sections 5 and 11; RFC 9649 (WebP).
"""

from __future__ import annotations

import codecs
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn, TypeAlias

from saccade_serving.errors import InvalidImage, UnsupportedMedia
from saccade_serving.oip.messages import Buffer
from saccade_transformers.image.png_data import HARMLESS_BYTES, goes_on, inflated_size

ImageFormat: TypeAlias = Literal["JPEG", "PNG", "WebP", "BMP"]

ACCEPTED: Final = "accepted are JPEG, PNG, still WebP and BMP"
#: Segments of a JPEG or chunks of a PNG. 20 MB of empty ones would keep this reader busy for seconds.
MAX_PARTS: Final = 65_536
#: Chunks of compressed text of a PNG, before its picture and again behind it. Each may be 8 MB inflated, which takes
#: the decoder 40 ms, for 8 kB in the file.
MAX_TEXTS: Final = 16
_COMPRESSED_TEXT: Final = (b"zTXt", b"iTXt")
#: Scans of a JPEG. Encoders write about 10; each one costs the decoder a pass over all pixels, however few
#: bytes it has.
MAX_SCANS: Final = 100
#: Pixels that all scans of a JPEG may pass over: 2**28 is 8 scans of the largest picture, 100 of 2.6 megapixels.
MAX_SCANNED_PIXELS: Final = 2**28
#: Scans that any JPEG may have, whatever its size: what encoders write.
_USUAL_SCANS: Final = 16

#: A JPEG marker: 0xFF and a code that is neither a stuffed zero, a fill byte nor a restart marker.
_JPEG_MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
#: Frame headers of pictures that stand alone (baseline, extended, progressive, lossless; Huffman, arithmetic).
_SOF: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB})
#: Frame headers of hierarchical JPEGs, and JPEG-LS.
_SOF_REFUSED: Final = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xF7})


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of an encoded image says.

    Attributes:
        format: "JPEG", "PNG", "WebP" or "BMP".
        width: pixels, at least 1, as stored: before the EXIF orientation is applied.
        height: pixels, at least 1, as stored.
        data_at: offset at which the compressed picture begins; where ``check_complete`` goes on.
    """

    format: ImageFormat
    width: int
    height: int
    data_at: int = field(default=0, compare=False, repr=False)


def read_header(data: Buffer) -> ImageHeader:
    """Read format and stored size of an encoded image.

    Args:
        data: the encoded image; contiguous.

    Raises:
        InvalidImage: empty, or the header is damaged, cut off, or gives a side of 0 pixels.
        UnsupportedMedia: not one of the four formats, animated, or a kind of JPEG that is not decoded.
    """
    view = memoryview(data).cast("B")
    if not view:
        raise InvalidImage("the image is empty: it has 0 bytes")
    image_format = _format_of(view)
    try:
        header = _READERS[image_format](view)
    except struct.error:
        damaged(image_format, "its header ends early")
    if header.width < 1 or header.height < 1:
        raise InvalidImage(f"the {header.format}'s header gives a size of {header.width}x{header.height} pixels")
    return header


def check_complete(data: Buffer, header: ImageHeader) -> None:
    """Check that an image's file is there to its end. Bytes after the end are allowed: cameras append them.

    Args:
        data: the encoded image.
        header: what ``read_header`` said of the same bytes.

    Raises:
        InvalidImage: the end is missing, or the structure on the way there is broken.
    """
    view = memoryview(data).cast("B")
    try:
        _END_CHECKS[header.format](view, header)
    except struct.error:
        damaged(header.format, "its end is missing")


def damaged(image_format: ImageFormat, why: str) -> NoReturn:
    """Raise the ``InvalidImage`` for a file of a known format; ``why`` is a clause about "it"."""
    raise InvalidImage(f"the {image_format} is damaged or truncated: {why}")


def _format_of(view: memoryview) -> ImageFormat:
    start = bytes(view[:512])
    for magic, image_format in _MAGIC:
        if re.match(magic, start, re.DOTALL):
            return image_format
    raise UnsupportedMedia(f"{_describe(start)}; {ACCEPTED}")


def _describe(start: bytes) -> str:
    """Say what the first bytes of something that is not served look like."""
    for pattern, name in _KNOWN:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return f"the data looks like {name}"
    try:  # incremental: the last character may be cut
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        text = "\0"
    if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text):
        return "the first bytes are of no known image format"
    return "the data looks like text"


def _read_jpeg(view: memoryview) -> ImageHeader:
    position, size = 2, None
    for _ in range(MAX_PARTS):
        marker, at = _next_marker(view, position)
        if marker == _TEM:
            position = at
            continue
        if marker == _SOS:
            if size is None:
                damaged("JPEG", "its picture data comes before its frame header")
            return ImageHeader("JPEG", *size, data_at=at)
        if marker in (_SOI, _EOI):
            damaged("JPEG", "it has no picture data")
        if marker in _SOF_REFUSED:
            raise UnsupportedMedia(f"the image is a hierarchical JPEG or a JPEG-LS; {ACCEPTED}")
        if marker in _SOF:
            if size is not None:
                damaged("JPEG", "it has two frame headers")
            _, bits, height, width = struct.unpack_from(">HBHH", view, at)
            if bits != 8:
                raise UnsupportedMedia(f"the image is a JPEG of {bits} bits per sample; expected 8")
            size = width, height
        position = _after_segment(view, at)
    damaged("JPEG", f"it has more than {MAX_PARTS} segments")


def _end_jpeg(view: memoryview, header: ImageHeader) -> None:
    position, scans = _after_segment(view, header.data_at), 1
    affordable = MAX_SCANNED_PIXELS // max(1, header.width * header.height)
    most = min(MAX_SCANS, max(_USUAL_SCANS, affordable))
    for _ in range(MAX_PARTS):
        marker, at = _next_marker(view, position)
        if marker == _EOI:
            return
        if marker == _SOI or marker in _SOF:
            damaged("JPEG", "a second picture begins before the first one ends")
        if marker == _SOS:
            scans += 1
            if scans > most:
                raise InvalidImage(
                    f"the JPEG has more than {most} scans, the limit for {header.width}x{header.height} pixels"
                )
        position = at if marker == _TEM else _after_segment(view, at)
    damaged("JPEG", f"it has more than {MAX_PARTS} segments")


def _next_marker(view: memoryview, position: int) -> tuple[int, int]:
    """Find the next marker at or after a position, as libjpeg does: anything before it is skipped.

    Returns:
        The marker's code, and the offset behind it.
    """
    found = _JPEG_MARKER.search(view, position)
    if found is None:
        damaged("JPEG", "its end is missing")
    return view[found.start(1)], found.end()


def _after_segment(view: memoryview, at: int) -> int:
    (length,) = struct.unpack_from(">H", view, at)
    if length < 2:
        damaged("JPEG", "a segment's length is wrong")
    return at + int(length)


def _read_png(view: memoryview) -> ImageHeader:
    signature, length, kind, width, height = struct.unpack_from(">8sI4sII", view)
    (checksum,) = struct.unpack_from(">I", view, 29)
    if signature != b"\x89PNG\r\n\x1a\n":
        damaged("PNG", "its signature is broken, as by a transfer in text mode")
    if (length, kind) != (13, b"IHDR"):
        damaged("PNG", "its first chunk is not IHDR")
    if zlib.crc32(view[12:29]) != checksum:
        damaged("PNG", "the checksum of its header is wrong")
    for kind, position, _ in _chunks(view, 33):
        if kind == b"IDAT":
            return ImageHeader("PNG", width, height, data_at=position)
        if kind == b"acTL":
            raise UnsupportedMedia(f"the image is an animated PNG; {ACCEPTED}")
        if kind == b"IEND":
            damaged("PNG", "it has no picture data")
    damaged("PNG", f"it has more than {MAX_PARTS} chunks")


def _end_png(view: memoryview, header: ImageHeader) -> None:
    data: list[memoryview] = []
    for kind, position, after in _chunks(view, header.data_at):
        if after > len(view):
            damaged("PNG", "its end is missing")
        if kind == b"IDAT":
            data.append(view[position + 8 : after - 4])
        if kind == b"IEND":
            if sum(map(len, data)) > HARMLESS_BYTES:
                _check_png_data(view, header, data)
            return
    damaged("PNG", f"it has more than {MAX_PARTS} chunks")


def _check_png_data(view: memoryview, header: ImageHeader, data: list[memoryview]) -> None:
    depth, colour, _, _, interlace = struct.unpack_from(">5B", view, 24)
    size = inflated_size(header.width, header.height, depth, colour, bool(interlace))
    if size is not None and goes_on(data, size):
        raise InvalidImage(
            f"the PNG has more picture data than {header.width}x{header.height} pixels need, which are {size} bytes"
        )


def _chunks(view: memoryview, position: int) -> Iterator[tuple[bytes, int, int]]:
    """Walk a PNG's chunks from a position: kind, offset, offset behind it; ``MAX_PARTS`` at most.

    Raises:
        InvalidImage: there are more than ``MAX_TEXTS`` of compressed text.
        struct.error: the file ends.
    """
    texts = 0
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", view, position)
        texts += kind in _COMPRESSED_TEXT
        if texts > MAX_TEXTS:
            raise InvalidImage(f"the PNG has more than {MAX_TEXTS} chunks of compressed text (zTXt, iTXt), the limit")
        after = position + 12 + int(length)
        yield kind, position, after
        position = after


def _read_webp(view: memoryview) -> ImageHeader:
    (kind,) = struct.unpack_from("<4s", view, 12)
    if kind == b"VP8 ":
        tag, start_code, width, height = struct.unpack_from("<3s3sHH", view, 20)
        if tag[0] & 1 or start_code != b"\x9d\x01\x2a":
            damaged("WebP", "its picture does not begin with a key frame")
        return ImageHeader("WebP", width & 0x3FFF, height & 0x3FFF)  # the upper 2 bits are a display scale
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", view, 20)
        if signature != 0x2F:
            damaged("WebP", "the signature of its lossless picture is wrong")
        return ImageHeader("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        flags, width, height = struct.unpack_from("<B3x3s3s", view, 20)
        if flags & 0x02:
            raise UnsupportedMedia(f"the image is an animated WebP; {ACCEPTED}")
        return ImageHeader("WebP", int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1)
    damaged("WebP", "its first chunk is none of VP8, VP8L and VP8X")


def _end_webp(view: memoryview, header: ImageHeader) -> None:
    (size,) = struct.unpack_from("<I", view, 4)
    if size + 8 > len(view):
        damaged("WebP", f"its header promises {size + 8} bytes and it has {len(view)}")


def _read_bmp(view: memoryview) -> ImageHeader:
    (header_size,) = struct.unpack_from("<I", view, 14)
    if header_size == 12:  # OS/2 1.x
        width, height = struct.unpack_from("<HH", view, 18)
    elif 40 <= header_size <= 124:
        width, height = struct.unpack_from("<ii", view, 18)
        height = abs(height)  # negative: rows from top to bottom
    else:
        damaged("BMP", f"a header of {header_size} bytes is not known")
    return ImageHeader("BMP", width, height)


def _end_bmp(view: memoryview, header: ImageHeader) -> None:
    data_at, header_size = struct.unpack_from("<II", view, 10)
    bits, compression = 0, 0
    if header_size == 12:
        (bits,) = struct.unpack_from("<H", view, 24)
    else:
        bits, compression = struct.unpack_from("<HI", view, 28)
    stored = (header.width * bits + 31) // 32 * 4 * header.height  # rows are padded to 4 bytes
    if compression in (0, 3) and data_at + stored > len(view):
        damaged("BMP", f"its header promises {data_at + stored} bytes and it has {len(view)}")


_READERS: Final[dict[ImageFormat, Callable[[memoryview], ImageHeader]]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "WebP": _read_webp,
    "BMP": _read_bmp,
}
_END_CHECKS: Final[dict[ImageFormat, Callable[[memoryview, ImageHeader], None]]] = {
    "JPEG": _end_jpeg,
    "PNG": _end_png,
    "WebP": _end_webp,
    "BMP": _end_bmp,
}
_MAGIC: Final[tuple[tuple[bytes, ImageFormat], ...]] = (
    # A file that ends within its magic bytes is a damaged one of that format, not an unknown one.
    (rb"\xff\xd8(\xff|\Z)|\xff\Z", "JPEG"),
    (rb"\x89(PNG|P?N?\Z)", "PNG"),
    (rb"RIFF.{4}WEBP|RIFF.{0,7}\Z", "WebP"),
    (rb"BM", "BMP"),
)
#: What else the first bytes may look like; the first match counts.
_KNOWN: Final[tuple[tuple[bytes, str], ...]] = (
    (rb"GIF8", "a GIF"),
    (rb"II[*+]\x00|MM\x00[*+]", "a TIFF"),
    (rb"%PDF", "a PDF"),
    (rb".{4}ftypavi[fs]", "an AVIF"),
    (rb".{4}ftyp(he[ivm]|m[is]f1)", "a HEIC"),
    (rb".{4}ftyp", "an MP4 or QuickTime video"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (rb"8BPS", "a Photoshop document"),
    (rb"\x00\x00\x01\x00", "an icon (ICO)"),
    (rb"RIFF.{4}AVI ", "an AVI video"),
    (rb"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (rb"\x1f\x8b", "gzip"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"P[1-7]\s", "a Netpbm picture"),
    (rb"data:image/", "base64 text with a data: prefix, not the decoded image"),
    (rb"/9j/|iVBORw0KGg|UklGR", "base64 text, not the decoded image"),
    (rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html)", "HTML"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml[^<]*)?<svg", "an SVG"),
    (rb"(\xef\xbb\xbf)?\s*<\?xml", "XML"),
    (rb"(\xef\xbb\xbf)?\s*[{\[]\s*[\"{\[\]}\d]", "JSON"),
)
