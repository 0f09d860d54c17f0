"""The five ways in which a picture is asked about: V2 REST binary and JSON, V2 gRPC, a raw JPEG, v1.

Builds each request's bytes once per picture; a frame adds its stamp and its camera. Checks the answers (``checks``).
Sends nothing: ``http1`` and ``grpc_calls`` do.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np

from saccade_loadtest.load.frames import STAMP_BYTES, Picture, stamp_of
from saccade_loadtest.load.trace import Shot
from saccade_loadtest.sending.checks import Asked, Seen, check_detect, check_pictures, check_tensors, check_v1, read_v2
from saccade_loadtest.sending.oip_wire import DTYPES, decode_infer, encode_infer

#: In the order in which they are told.
DIALECTS: Final = ("v2-binary", "v2-json", "v2-grpc", "jpeg", "v1")
#: What a predictor understands: it has no route for pictures.
TENSOR_DIALECTS: Final = ("v2-binary", "v2-json", "v2-grpc")
GRPC_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"


class UnknownDialect(ValueError):
    """A protocol that is not known, or not served by the target."""


@dataclass(frozen=True)
class Endpoint:
    """What is asked, and how.

    Attributes:
        url: of the REST port; a path in it goes in front of every route.
        model: its name.
        service: "transformer", which takes pictures, or "predictor", which takes tensors.
        grpc: host and port for gRPC; empty: the URL's host and port.
        cache: "use", "bypass" or "refresh"; the transformer's parameter.
        headers: added to every request, as ``Host`` for an ingress or ``Authorization``.
        outputs: names that a predictor's answers must have.
    """

    url: str
    model: str
    service: str = "transformer"
    grpc: str = ""
    cache: str = "use"
    headers: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """Path in front of every route."""
        return urlsplit(self.url).path.rstrip("/")

    @property
    def asked(self) -> Asked:
        """What an answer must be to."""
        return Asked(self.model, self.cache, self.service)

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        chosen = {name.lower(): value for name, value in self.headers.items()}.get("host")
        return chosen or urlsplit(self.url).netloc.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A predictor's input, as its metadata describes it; the bytes are one row's."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes


class Request(NamedTuple):
    """One request, ready to be written.

    Attributes:
        first: over HTTP the head and the body's beginning; over gRPC the message's.
        rest: the rest of the body, shared by all frames of a picture.
        check: of an answer (status 200 or OK): its head and its body.
        camera: as gRPC's metadata; empty: none.
    """

    first: bytes
    rest: bytes
    check: Callable[[bytes, bytes], Seen]
    camera: str = ""


class Dialect:
    """Requests of one protocol about the pictures (or tensors) of a run.

    Args:
        name: one of ``DIALECTS``.
        target: what is asked.
        content: pictures for a transformer, tensors for a predictor, by a key of the caller's.

    Raises:
        UnknownDialect: there is no such protocol, or the target does not serve it.
    """

    def __init__(self, name: str, target: Endpoint, content: Mapping[Any, Picture] | Mapping[Any, Tensor]) -> None:
        known = DIALECTS if target.service == "transformer" else TENSOR_DIALECTS
        if name not in known:
            raise UnknownDialect(f"protocol {name!r} is not served by a {target.service}; known: {', '.join(known)}")
        self.name = name
        self.target = target
        self._made = {key: self._prepare(one) for key, one in content.items()}

    def request(self, key: Any, shot: Shot) -> Request:
        """The request about a frame.

        Args:
            key: of the picture or tensor.
            shot: whose camera and stamp it gets.
        """
        return self._made[key](shot)

    def _prepare(self, one: Picture | Tensor) -> Callable[[Shot], Request]:
        if isinstance(one, Tensor):
            return self._tensor(one)
        if self.name == "v2-grpc":
            return self._grpc(one)
        return self._http(one)

    def _http(self, picture: Picture) -> Callable[[Shot], Request]:
        before, after, is_base64 = _bodies(self.name, self.target.cache, picture)
        size = len(before) + STAMP_BYTES * (4 if is_base64 else 3) // 3 + len(after)
        json_bytes = len(before) - 4 if self.name == "v2-binary" else None
        head = self._head(self._path(), size, json_bytes)
        check = _picture_check(self.name, picture, self.target.asked)

        def request(shot: Shot) -> Request:
            stamp = stamp_of(shot)
            if is_base64:
                stamp = base64.b64encode(stamp)
            return Request(b"%bx-camera-id: camera-%d\r\n\r\n%b%b" % (head, shot.camera, before, stamp), after, check)

        return request

    def _grpc(self, picture: Picture) -> Callable[[Shot], Request]:
        size = STAMP_BYTES + len(picture.rest)
        text = {} if self.target.cache == "use" else {"cache": self.target.cache}
        before = encode_infer(self.target.model, "image", "BYTES", [1], size + 4, text) + struct.pack("<I", size)

        asked = self.target.asked

        def check(_head: bytes, body: bytes) -> Seen:
            return check_pictures(decode_infer(body), picture.width, picture.height, asked)

        def request(shot: Shot) -> Request:
            return Request(before + stamp_of(shot), picture.rest, check, f"camera-{shot.camera}")

        return request

    def _tensor(self, tensor: Tensor) -> Callable[[Shot], Request]:
        outputs, shape, asked = self.target.outputs, list(tensor.shape), self.target.asked
        if self.name == "v2-grpc":
            size = len(tensor.content)
            before = encode_infer(self.target.model, tensor.name, tensor.datatype, shape, size, {})
            made = Request(before, tensor.content, lambda _, body: check_tensors(decode_infer(body), outputs, asked))
            return lambda _: made
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
        rest, json_bytes = b"", None
        if self.name == "v2-binary":
            described["parameters"] = {"binary_data_size": len(tensor.content)}
            content: dict[str, Any] = {"parameters": {"binary_data_output": True}, "inputs": [described]}
            first = json.dumps(content).encode()
            rest, json_bytes = tensor.content, len(first)
        else:
            described["data"] = _numbers(tensor)
            first = json.dumps({"inputs": [described]}, separators=(",", ":")).encode()
        head = self._head(self._path(), len(first) + len(rest), json_bytes)

        def check(head: bytes, body: bytes) -> Seen:
            return check_tensors(read_v2(head, body), outputs, asked)

        whole = Request(head + b"\r\n" + first, rest, check)
        return lambda _: whole

    def _path(self) -> str:
        model = quote(self.target.model, safe="")
        if self.name == "jpeg":
            return "/detect" if self.target.cache == "use" else f"/detect?cache={self.target.cache}"
        return f"/v1/models/{model}:predict" if self.name == "v1" else f"/v2/models/{model}/infer"

    def _head(self, path: str, size: int, json_bytes: int | None) -> bytes:
        """The head without its last, empty line."""
        kind = {"jpeg": "image/jpeg", "v2-binary": "application/octet-stream"}.get(self.name, "application/json")
        lines = [f"POST {self.target.prefix}{path} HTTP/1.1", f"Host: {self.target.authority}"]
        lines += [f"Content-Type: {kind}", f"Content-Length: {size}", "Accept: */*"]
        if json_bytes is not None:
            lines.append(f"Inference-Header-Content-Length: {json_bytes}")
        lines += [f"{name}: {value}" for name, value in self.target.headers.items() if name.lower() != "host"]
        return "".join(f"{line}\r\n" for line in lines).encode()


def _bodies(name: str, cache: str, picture: Picture) -> tuple[bytes, bytes, bool]:
    """What stands before and after the stamp, and whether it is base64."""
    parameters: dict[str, Any] = {} if cache == "use" else {"cache": cache}
    if name == "jpeg":
        return b"", picture.rest, False
    size = STAMP_BYTES + len(picture.rest)
    described: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1]}
    if name == "v2-binary":
        described["parameters"] = {"binary_data_size": size + 4}
        content = {"parameters": {"binary_data_output": True, **parameters}, "inputs": [described]}
        return json.dumps(content).encode() + struct.pack("<I", size), picture.rest, False
    mark = "\N{BLACK SQUARE}"
    if name == "v2-json":
        content = {"parameters": parameters, "inputs": [{**described, "data": [mark]}]}
    else:
        content = {"parameters": parameters, "instances": [{"image": {"b64": mark}}]}
    before, _, after = json.dumps(content, ensure_ascii=False).partition(mark)
    return before.encode(), base64.b64encode(picture.rest) + after.encode(), True


def _picture_check(name: str, picture: Picture, asked: Asked) -> Callable[[bytes, bytes], Seen]:
    width, height = picture.width, picture.height
    if name == "jpeg":
        return lambda _, body: check_detect(body, width, height, asked)
    if name == "v1":
        return lambda _, body: check_v1(body, width, height, asked)
    return lambda head, body: check_pictures(read_v2(head, body), width, height, asked)


def _numbers(tensor: Tensor) -> Sequence[Any]:
    values: list[Any] = np.frombuffer(tensor.content, DTYPES[tensor.datatype]).tolist()
    return values
