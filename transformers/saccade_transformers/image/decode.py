"""From the bytes of an encoded image to an upright RGB picture, and back to a JPEG for drawn ones.

Size and pixels are checked before the decoder sees anything: a decompression bomb is refused from its header.
What reaches OpenCV is one of the four formats of ``header.py`` and complete. OpenCV applies the EXIF
orientation, turns grey, palette and CMYK/YCCK into RGB, drops alpha (colours as stored, not blended over a
background) and keeps the upper 8 of 16 bits.

For a model's input a JPEG is decoded no larger than that needs (``reduction.py`` says how much), for drawing whole.

Does not letterbox, cache or retry. Does not notice damage inside the compressed data of a JPEG that libjpeg conceals
(it fills with grey): no decoder tells. Importing this module changes nothing in OpenCV: a service calls
``configure_opencv`` once. OpenCV's own cap of 2^30 pixels (OPENCV_IO_MAX_IMAGE_PIXELS) is left alone: ours is
smaller, comes first, and is a setting.
"""

from __future__ import annotations

import binascii
import contextlib
import re
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import InvalidImage, PayloadTooLarge
from saccade_serving.oip.messages import Buffer
from saccade_transformers.image.header import ImageFormat, ImageHeader, check_complete, damaged, read_header
from saccade_transformers.image.picture import Picture, Reduction
from saccade_transformers.image.reduction import reduction_for, size_of
from saccade_transformers.image.request_pixels import RequestPixels

#: Everything that is no base64 digit of either alphabet (RFC 4648, sections 4 and 5), no white space, no padding.
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/\-_= \t\r\n]")
_WHITESPACE: Final = b" \t\r\n"
_URLSAFE_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_LOG_LEVEL_SILENT: Final = 0
#: The grey flag of a reduction and the RGB flag together are RGB; the colour flag of a reduction alone would be BGR.
_DECODE: Final[dict[Reduction, int]] = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}
_DECODE_GREY: Final[dict[Reduction, int]] = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
#: The longest header of a data: URL that is looked at.
_DATA_URL_HEADER: Final = 256


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest image that is decoded.

    Attributes:
        max_bytes: of the encoded image.
        max_pixels: width times height of the picture; it takes 3 bytes per pixel once decoded.
    """

    max_bytes: int
    max_pixels: int

    def check_bytes(self, size: int) -> None:
        """Raise ``PayloadTooLarge`` if an encoded image of ``size`` bytes is over the limit."""
        if size > self.max_bytes:
            raise PayloadTooLarge("the image", size, self.max_bytes)

    def check_pixels(self, width: int, height: int, what: str = "image") -> None:
        """Raise ``PayloadTooLarge`` if a picture of ``width`` x ``height`` pixels is over the limit."""
        if width * height > self.max_pixels:
            raise PayloadTooLarge(f"the {width}x{height} {what}", width * height, self.max_pixels, "pixels")


def configure_opencv() -> None:
    """Set OpenCV up for a service; once per process, before the first decode.

    One thread: the workers that decode are the parallelism, and OpenCV's own pool would fight with them. No
    log: a client's broken image is the client's error, not a line on stderr. libpng and libjpeg write a
    line of their own on damaged data, which no setting of OpenCV stops.
    """
    cv2.setNumThreads(1)
    logging = getattr(cv2.utils, "logging", cv2)  # before OpenCV 5 the function stands in cv2 itself
    logging.setLogLevel(_LOG_LEVEL_SILENT)


def decode(data: Buffer, limits: ImageLimits, request: RequestPixels | None = None) -> NDArray[np.uint8]:
    """Decode an encoded image.

    Args:
        data: JPEG, PNG, still WebP or BMP; contiguous, not copied. Bytes after the image's end are ignored.
        limits: what is refused unread.
        request: the pixels of the request it belongs to, which it is added to.

    Returns:
        [h, w, 3] RGB, 0..255, upright (EXIF orientation applied), C-contiguous and the caller's own.

    Raises:
        InvalidImage: empty, damaged or truncated.
        UnsupportedMedia: another format, an animation, or a kind of JPEG that is not decoded.
        PayloadTooLarge: more bytes or pixels than ``limits`` or the request's own limit allows.
    """
    view, header = _admit(data, limits, request)
    return _decode_with_opencv(view, header, 1, limits).pixels


def decode_for_input(
    data: Buffer, limits: ImageLimits, input_size: tuple[int, int], request: RequestPixels | None = None
) -> Picture:
    """Decode an encoded image no larger than letterboxing it into a model's input needs.

    Only a JPEG is decoded smaller than it is; the limits hold for what it is.

    Args:
        data: as for ``decode``.
        limits: as for ``decode``.
        input_size: (width, height) of the model's input in pixels.
        request: as for ``decode``.

    Returns:
        The picture, reduced or whole, for ``letterbox``.

    Raises:
        InvalidImage, UnsupportedMedia, PayloadTooLarge: as ``decode`` does.
    """
    view, header = _admit(data, limits, request)
    stored = header.width, header.height
    reduction = reduction_for(stored, input_size) if header.format == "JPEG" else 1
    return _decode_with_opencv(view, header, reduction, limits)


def decode_grey(
    data: Buffer, limits: ImageLimits, input_size: tuple[int, int], request: RequestPixels | None = None
) -> Picture | None:
    """Decode the luminance of a JPEG, as large as ``decode_for_input`` would: for half of the time or less.

    Args:
        data: as for ``decode``.
        limits: as for ``decode``.
        input_size: (width, height) of the model's input in pixels.
        request: as for ``decode``; not added to where the answer is None.

    Returns:
        A picture of [h, w]; None if it is no JPEG, since others are not decoded faster.

    Raises:
        InvalidImage, UnsupportedMedia, PayloadTooLarge: as ``decode`` does.
    """
    view, header = _admit(data, limits, None)
    if header.format != "JPEG":
        return None
    if request is not None:
        request.take(header.width, header.height)
    return _decode_with_opencv(view, header, reduction_for((header.width, header.height), input_size), limits, True)


def _admit(data: Buffer, limits: ImageLimits, request: RequestPixels | None) -> tuple[memoryview, ImageHeader]:
    """Check all that can be known without decoding."""
    view = memoryview(data).cast("B")
    limits.check_bytes(len(view))
    header = read_header(view)
    limits.check_pixels(header.width, header.height, header.format)
    check_complete(view, header)
    if request is not None:
        request.take(header.width, header.height)
    return view, header


def _decode_with_opencv(
    view: memoryview, header: ImageHeader, reduction: Reduction, limits: ImageLimits, grey: bool = False
) -> Picture:
    image_format: ImageFormat = header.format
    try:
        pixels = cv2.imdecode(np.frombuffer(view, np.uint8), (_DECODE_GREY if grey else _DECODE)[reduction])
    except cv2.error as err:
        raise InvalidImage(f"the {image_format} is damaged or truncated: it cannot be decoded") from err
    if pixels is None:
        damaged(image_format, "it cannot be decoded")
    picture: NDArray[np.uint8] = pixels.astype(np.uint8, copy=False)
    size = size_of((header.width, header.height), picture, reduction)
    if size is None:
        damaged(image_format, "its picture has not the size that its header gives")
    limits.check_pixels(*size, header.format)  # whatever the header said
    return Picture(picture, size, reduction)


def encode_jpeg(image: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode a picture as a baseline JPEG.

    Args:
        image: [h, w, 3] RGB, 0..255; h and w from 1 to 65,500.
        quality: 1 (small) to 100 (good).

    Raises:
        ValueError: ``quality`` is out of range, or the picture cannot be a JPEG.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; expected 1 to 100")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the picture has shape {list(image.shape)}; expected [h, w, 3]")
    done, encoded = False, np.empty(0, np.uint8)
    with contextlib.suppress(cv2.error):  # some versions raise, some say no
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of shape {list(image.shape)} cannot be a JPEG")
    return encoded.tobytes()


def decode_base64(text: Buffer | str, limits: ImageLimits) -> bytes:
    """Decode the base64 text of an encoded image, as JSON carries it.

    Accepted: the standard and the URL-safe alphabet (RFC 4648, sections 4 and 5), padding at the end
    or none, a ``data:...;base64,`` prefix, and spaces or line breaks anywhere. Refused: any other character, padding
    before the end, and a length that no byte string has. The media type of a prefix is not believed: the image's
    magic bytes decide.

    Args:
        text: the base64 text.
        limits: ``max_bytes`` holds for the decoded image and is checked before decoding.

    Raises:
        InvalidImage: not base64. The message gives the offset and the kind of the offending character; it never
            repeats the text.
        PayloadTooLarge: the decoded image would be over the limit.
    """
    encoded = _ascii(text)
    start = _after_data_url_header(encoded)
    body = encoded[start:] if start else encoded
    if len(body) // 4 * 3 <= limits.max_bytes + 2:  # + 2: the last group may be padding
        try:  # the usual text in one pass; whatever is unusual about another is looked at below
            image = binascii.a2b_base64(body, strict_mode=True)
        except binascii.Error:
            image = b""
        if image:
            limits.check_bytes(len(image))
            return image
    junk = _NOT_BASE64.search(body)
    if junk:
        raise InvalidImage(f"the base64 text has {_kind(junk[0])} at offset {start + junk.start()}")
    digits = body.translate(_URLSAFE_TO_STANDARD, _WHITESPACE).rstrip(b"=")
    if not digits:
        raise InvalidImage("the base64 text is empty")
    if b"=" in digits:
        raise InvalidImage(f"the base64 text has padding ('=') before its end, at offset {start + body.index(b'=')}")
    if len(digits) % 4 == 1:
        raise InvalidImage(f"the base64 text is cut off: {len(digits)} digits encode no whole number of bytes")
    limits.check_bytes(len(digits) * 3 // 4)
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def _ascii(text: Buffer | str) -> bytes:
    if not isinstance(text, str):
        return bytes(text)
    try:
        return text.encode("ascii")
    except UnicodeEncodeError as err:
        offset = err.start  # raised outside of the handler: err holds the payload
    raise InvalidImage(f"the base64 text has a character outside ASCII at offset {offset}")


def _after_data_url_header(encoded: bytes) -> int:
    """Offset of the base64 digits behind a ``data:`` URL's header; 0 where there is none (RFC 2397)."""
    if encoded[:5].lower() != b"data:":
        return 0
    header, comma, _ = encoded[:_DATA_URL_HEADER].partition(b",")
    if not comma or not header.lower().endswith(b";base64"):
        raise InvalidImage("the data: URL of the image does not begin with 'data:<type>;base64,'")
    return len(header) + 1


def _kind(character: bytes) -> str:
    code = character[0]
    if code >= 0x80:
        return "a character outside ASCII"
    return "a control character" if code < 0x20 or code == 0x7F else "a punctuation character"
