"""The requests that are sent, ready as bytes, and what a right answer looks like.

All servers are sent the same tensor: UINT8 [1, H, W, 3], every byte of it 7, and answer FP32 [1] with that byte.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from saccade_serving.oip import proto
from servers.noop import INPUT, MODEL, OUTPUT

Protocol = Literal["rest", "grpc"]

#: Name of a size -> shape of its tensor. "353B" is the whole REST body, "1.2MB" the tensor (1,228,800 bytes).
SHAPES: Final[dict[str, tuple[int, ...]]] = {"353B": (1, 8, 8, 3), "1.2MB": (1, 640, 640, 3)}
#: Bodies that are filled up with spaces between JSON and tensor.
REST_BYTES: Final = {"353B": 353}

GRPC_METHOD: Final = f"/{proto.SERVICE}/ModelInfer"
ELEMENT: Final = 7
#: The answer's one element as raw contents, and as JSON for a server that answers binary requests with it.
RIGHT_ANSWERS: Final = (struct.pack("<f", ELEMENT), b"[7.0]")


#: Stands where a request's own id belongs; as long as fits into the JSON of the body of 353 bytes.
ID_PLACE: Final = "@" * 8
#: From here on a numbered request's bytes are shared with the others of its template.
_SHARED_FROM: Final = 4096


def is_right(answer: bytes, least_bytes: int = 0) -> bool:
    """Whether an answer's body holds the number that was asked for, or, of another model, is as long as it must be."""
    return len(answer) >= least_bytes if least_bytes else any(right in answer for right in RIGHT_ANSWERS)


def rest_body(size: str, request_id: str = "1") -> tuple[bytes, int]:
    """A V2 request with a binary tensor.

    The id is there because KServe's stock REST server answers 500 to a binary request without one.

    Args:
        size: a key of ``SHAPES``.
        request_id: the id in the JSON.

    Returns:
        The body, and how much of it is JSON.
    """
    shape = SHAPES[size]
    count = math.prod(shape)
    tensor = {"name": INPUT, "datatype": "UINT8", "shape": shape, "parameters": {"binary_data_size": count}}
    content = {"id": request_id, "inputs": [tensor], "parameters": {"binary_data_output": True}}
    text = json.dumps(content, separators=(",", ":")).encode()
    text = text.ljust(REST_BYTES.get(size, 0) - count)
    return text + bytes([ELEMENT]) * count, len(text)


def rest_request(model: str, size: str, own_id: bool = False, headers: Mapping[str, str] | None = None) -> bytes:
    """Head and body of the HTTP/1.1 request.

    Args:
        model: its name.
        size: a key of ``SHAPES``.
        own_id: make a template for ``numbered``: its id stands in the JSON and in a header x-request-id.
        headers: further ones.
    """
    body, json_length = rest_body(size, ID_PLACE) if own_id else rest_body(size)
    further = {**({"X-Request-Id": ID_PLACE} if own_id else {}), **(headers or {})}
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        "Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {json_length}\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    head += "".join(f"{name}: {value}\r\n" for name, value in further.items()) + "\r\n"
    return head.encode() + body


def numbered(template: bytes, numbers: Iterable[int]) -> tuple[list[bytes], memoryview]:
    """Make requests that differ in their ids and in nothing else, all of one length.

    Args:
        template: from ``rest_request`` with ``own_id``.
        numbers: the ids, each of at most as many digits as ``ID_PLACE``.

    Returns:
        The beginning of each request, and the rest, which is the same memory for all.
    """
    before, between, after = template.split(ID_PLACE.encode())
    own, shared = after[:_SHARED_FROM], memoryview(after)[_SHARED_FROM:]
    ids = (b"%0*d" % (len(ID_PLACE), number) for number in numbers)
    return [b"".join((before, one, between, one, own)) for one in ids], shared


def grpc_request(model: str, size: str) -> bytes:
    """The serialised ``ModelInferRequest``."""
    shape = SHAPES[size]
    message = proto.ModelInferRequest(model_name=model, id="1")
    message.inputs.add(name=INPUT, datatype="UINT8", shape=shape)
    message.raw_input_contents.append(bytes([ELEMENT]) * math.prod(shape))
    serialised: bytes = message.SerializeToString()
    return serialised


def request(protocol: Protocol, model: str, size: str, own_id: bool = False) -> bytes:
    """The request in the protocol's form; ``own_id`` is for REST only."""
    return rest_request(model, size, own_id) if protocol == "rest" else grpc_request(model, size)


def request_bytes(size: str) -> dict[Protocol, int]:
    """Bytes of the HTTP body, and of the gRPC message."""
    return {"rest": len(rest_body(size)[0]), "grpc": len(grpc_request(MODEL, size))}


def grpc_answer() -> bytes:
    """A right ``ModelInferResponse``, for a server that does not compute it."""
    message = proto.ModelInferResponse(model_name=MODEL, id="1")
    message.outputs.add(name=OUTPUT, datatype="FP32", shape=[1])
    message.raw_output_contents.append(RIGHT_ANSWERS[0])
    serialised: bytes = message.SerializeToString()
    return serialised
