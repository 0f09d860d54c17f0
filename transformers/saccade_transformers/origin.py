"""Who a request comes from, as it says itself: a camera, else a user. Read from parameters and headers, and validated.

Pure. Names are the client's own text: they are never a metric label, and a log holds only a digest of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from saccade_serving.errors import InvalidRequest, short
from saccade_serving.oip.messages import Parameters

CAMERA_ID: Final = "camera_id"
USER_KEY: Final = "user_key"
CAMERA_HEADER: Final = "x-camera-id"
USER_HEADER: Final = "x-user-key"
MAX_CHARS: Final = 128

#: C0, DEL, C1, the two separators that end a line, and halves of surrogate pairs, which no encoding can carry.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from.

    Attributes:
        camera_id: 1 to 128 characters without control characters; empty where none is stated.
        user_key: likewise.
    """

    camera_id: str = ""
    user_key: str = ""

    @property
    def key(self) -> str:
        """What all requests of one camera, else of one user, have in common; empty if they state neither."""
        if self.camera_id:
            return f"camera:{self.camera_id}"
        return f"user:{self.user_key}" if self.user_key else ""


#: Of who states nothing.
NOBODY: Final = Origin()


def read_origin(parameters: Parameters, headers: Mapping[str, str]) -> Origin:
    """Read the camera and the user of a request; a parameter wins over a header.

    Args:
        parameters: ``camera_id`` and ``user_key``, as V2 and v1 parameters, form fields or a query have them.
        headers: ``x-camera-id`` and ``x-user-key``, HTTP headers or gRPC metadata, names in lower case.

    Raises:
        InvalidRequest: one of them is no string of 1 to 128 characters, or has control characters.
    """
    camera_id = _read(parameters, headers, CAMERA_ID, CAMERA_HEADER)
    user_key = _read(parameters, headers, USER_KEY, USER_HEADER)
    return Origin(camera_id, user_key) if camera_id or user_key else NOBODY


def _read(parameters: Parameters, headers: Mapping[str, str], parameter: str, header: str) -> str:
    if parameter in parameters:
        value = parameters[parameter]
        where = f"parameter {parameter!r}"
        if not isinstance(value, str):
            kind = "a boolean" if isinstance(value, bool) else "a number"
            raise InvalidRequest(f"{where} is {kind}; {_expected()}")
    elif header in headers:
        value = _text(headers[header])
        where = f"header {header}"
    else:
        return ""
    if not 0 < len(value) <= MAX_CHARS:
        raise InvalidRequest(f"{where} is {short(value)}, {len(value)} characters; {_expected()}")
    if _CONTROL.search(value):
        raise InvalidRequest(f"{where} is {short(value)}, which has control characters; {_expected()}")
    return value


def _text(header: str) -> str:
    """A header's text. HTTP's are read as Latin-1, but beyond ASCII clients mostly send UTF-8, as in parameters."""
    if header.isascii():
        return header
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return header


def _expected() -> str:
    return f"expected a string of 1 to {MAX_CHARS} characters without control characters"
