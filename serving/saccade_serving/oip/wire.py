"""Cuts the raw tensors out of a serialised ``ModelInferRequest`` or ``ModelInferResponse`` without copying them.

Protobuf's Python objects hold ``bytes``, so that a megabyte of tensor would be copied once by the parser and again
when it is read. The message's outermost level is simple enough to walk: what is no raw tensor is left to protobuf.
Source: "Protocol Buffers Encoding", wire format.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from saccade_serving.errors import InvalidRequest, PayloadTooLarge
from saccade_serving.oip.rules import MAX_TYPED_ELEMENTS, SEND_RAW

#: ``raw_input_contents`` of the request; the response's ``raw_output_contents`` has number 6.
RAW_INPUTS: Final = 7
RAW_OUTPUTS: Final = 6
#: Most entries of one kind on the outermost level; models have a few inputs and outputs.
MAX_ENTRIES: Final = 4096

#: Most fields on all levels together.
MAX_FIELDS: Final = 2**17

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_UNREADABLE: Final = "the request is not a message of this method; expected its protobuf"


def split(data: bytes, raw_field: int) -> tuple[bytes, list[memoryview]]:
    """Separate the raw tensors from the rest.

    Args:
        data: the serialised message.
        raw_field: number of its raw contents.

    Returns:
        The message without raw contents, serialised, and views of these in order.

    Raises:
        InvalidRequest: it is no message, or has more than ``MAX_ENTRIES`` fields.
    """
    view = memoryview(data)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    at = kept_from = entries = 0
    end = len(data)
    try:
        while at < end:
            entries += 1
            if entries > MAX_ENTRIES:
                raise InvalidRequest(f"the request has over {MAX_ENTRIES} fields, the limit")
            begin = at
            tag, at = _varint(data, at)
            kind = tag & 7
            if kind == _BYTES:
                size, at = _varint(data, at)
                stop = at + size
                if tag >> 3 == raw_field:
                    if stop > end:
                        raise InvalidRequest(_UNREADABLE)
                    rest.append(view[kept_from:begin])
                    raw.append(view[at:stop])
                    kept_from = stop
                at = stop
            elif kind == _VARINT:
                _, at = _varint(data, at)
            elif kind == _FIXED64:
                at += 8
            elif kind == _FIXED32:
                at += 4
            else:
                raise InvalidRequest(_UNREADABLE)
    except IndexError:
        raise InvalidRequest(_UNREADABLE) from None
    if at != end:
        raise InvalidRequest(_UNREADABLE)
    rest.append(view[kept_from:])
    return b"".join(rest), raw


#: Stands for the fields of ``InferTensorContents``: their values are counted.
_CONTENTS: Final[dict[int, tuple[int, Any]]] = {}
#: Fields of ModelInferRequest that are messages, the most fields such a message may have, and likewise inside it.
#: BYTES elements are fields of their own in ``contents``.
_INPUT_CONTENTS: Final[dict[int, tuple[int, Any]]] = {5: (2**16 + 16, _CONTENTS)}
_NESTED: Final[dict[int, tuple[int, Any]]] = {5: (MAX_ENTRIES, _INPUT_CONTENTS), 6: (MAX_ENTRIES, {})}
#: Fields of ``InferTensorContents`` whose packed values all have one width; the others' but the last are varints.
_WIDTHS: Final = {6: 4, 7: 8}
_BYTES_CONTENTS: Final = 8


class _Seen:
    """What has been seen of a request on all levels."""

    __slots__ = ("elements", "fields")

    def __init__(self) -> None:
        self.fields = self.elements = 0


def check_request(data: bytes) -> None:
    """Refuse a request of very many nested fields or typed values, before protobuf makes objects of them.

    Args:
        data: the ``ModelInferRequest`` without raw contents.

    Raises:
        InvalidRequest: a nested message has too many fields, or it is no message.
        PayloadTooLarge: all typed contents together have over ``MAX_TYPED_ELEMENTS`` values.
    """
    seen = _Seen()
    try:
        _check(data, 0, len(data), MAX_ENTRIES, _NESTED, seen)
    except IndexError:
        raise InvalidRequest(_UNREADABLE) from None
    if seen.elements > MAX_TYPED_ELEMENTS:
        raise PayloadTooLarge("the request", seen.elements, MAX_TYPED_ELEMENTS, "typed values", SEND_RAW)


def _check(data: bytes, at: int, end: int, most: int, nested: dict[int, tuple[int, Any]], seen: _Seen) -> None:
    """Check one message."""
    fields = 0
    while at < end:
        fields += 1
        seen.fields += 1
        if fields > most:
            raise InvalidRequest(f"a message in the request has over {most} fields, the limit")
        if seen.fields > MAX_FIELDS:
            raise InvalidRequest(f"the request has over {MAX_FIELDS} fields, the limit")
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(data, at)
            if at + size > end:
                raise InvalidRequest(_UNREADABLE)
            if nested is _CONTENTS:
                seen.elements += _packed(data, at, size, tag >> 3)
            elif (inner := nested.get(tag >> 3)) is not None:
                _check(data, at, at + size, *inner, seen)
            at += size
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise InvalidRequest(_UNREADABLE)


def _packed(data: bytes, at: int, size: int, number: int) -> int:
    """How many values a field of ``InferTensorContents`` holds. One by one they are fields, which are few."""
    if number >= _BYTES_CONTENTS:
        return 0
    if (width := _WIDTHS.get(number)) is not None:
        return size // width
    # The last byte of a varint is below 0x80.
    return int(np.count_nonzero(np.frombuffer(data, np.int8, size, at) >= 0))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise InvalidRequest(_UNREADABLE)
