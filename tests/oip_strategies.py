"""Hypothesis strategies for tensors, requests and responses, and how to compare them. Shared by the codec tests."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from saccade_serving.oip.binary_codec import EncodedBody
from saccade_serving.oip.datatypes import BYTES, DATATYPES, NUMPY_DTYPES
from saccade_serving.oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor

#: For every property test: enough to meet each datatype in each position, and still quick on two cores.
MODEST = settings(deadline=None, max_examples=120)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
parameter_values = (
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
parameters = st.dictionaries(names, parameter_values, max_size=3).filter(
    lambda found: not any(name.startswith("binary_data") for name in found)
)


@st.composite
def tensors(draw: st.DrawFn, name: str = "x", for_json: bool = False) -> Tensor:
    """Draw a tensor of any datatype and small shape; with ``for_json`` one that JSON can carry (UTF-8, finite)."""
    datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(shapes)
    extra = draw(parameters)
    if datatype != BYTES:
        dtype = NUMPY_DTYPES[datatype]
        elements = {"allow_nan": not for_json, "allow_infinity": not for_json} if dtype.kind == "f" else None
        return Tensor(name, datatype, shape, draw(hnp.arrays(dtype, shape, elements=elements)), extra)
    count = math.prod(shape)
    element = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(str.encode)
    values = draw(st.lists(element if for_json else st.binary(max_size=9), min_size=count, max_size=count))
    return Tensor(name, datatype, shape, values, extra, is_text=for_json)


@st.composite
def many_tensors(draw: st.DrawFn, for_json: bool = False, least: int = 1) -> list[Tensor]:
    """Draw up to three tensors with different names."""
    chosen = draw(st.lists(names, min_size=least, max_size=3, unique=True))
    return [draw(tensors(name, for_json)) for name in chosen]


@st.composite
def requests(draw: st.DrawFn, for_json: bool = False, rest: bool = True) -> InferRequest:
    """Draw a request; only REST ones say how outputs are encoded."""
    binary = st.none() | st.booleans() if rest else st.none()
    return InferRequest(
        model_name=draw(names),
        model_version=draw(st.sampled_from(["", "7"])),
        id=draw(st.sampled_from(["", "r-1"])),
        parameters=draw(parameters),
        inputs=draw(many_tensors(for_json)),
        outputs=[
            RequestedOutput(name, draw(binary), draw(parameters))
            for name in draw(st.lists(names, max_size=3, unique=True))
        ],
        binary_output=draw(st.booleans()) if rest else False,
    )


@st.composite
def responses(draw: st.DrawFn, for_json: bool = False) -> InferResponse:
    """Draw a response."""
    return InferResponse(
        model_name=draw(names),
        model_version=draw(st.sampled_from(["", "7"])),
        id=draw(st.sampled_from(["", "r-1"])),
        parameters=draw(parameters),
        outputs=draw(many_tensors(for_json, least=0)),
    )


def joined(body: EncodedBody) -> bytes:
    """Return a body as it arrives on the other side."""
    whole = b"".join(body.parts)
    assert len(whole) == body.size
    return whole


def plain(message: Any) -> Any:
    """Turn a request, response or tensor into something that ``==`` compares value by value, NaN included."""
    if isinstance(message, Tensor):
        if message.datatype == BYTES:
            data: Any = [bytes(element) for element in message.elements]
        else:
            array = message.array
            assert array.shape == message.shape
            assert array.dtype == NUMPY_DTYPES[message.datatype]
            # NaN equals NaN here; -0.0 equals 0.0 nowhere.
            data = [repr(value) for value in array.ravel().tolist()]
        return (message.name, message.datatype, message.shape, data, dict(message.parameters), message.is_text)
    if isinstance(message, InferRequest):
        outputs = [(output.name, output.binary, dict(output.parameters)) for output in message.outputs]
        tensors = [plain(tensor) for tensor in message.inputs]
        more = (message.binary_output, outputs, tensors)
    else:
        assert isinstance(message, InferResponse)
        more = (False, [], [plain(tensor) for tensor in message.outputs])
    return (message.model_name, message.model_version, message.id, dict(message.parameters), *more)


def image_tensor(name: str = "image") -> Tensor:
    """Return a small UINT8 tensor [2, 3]."""
    return Tensor.of(name, np.arange(6, dtype=np.uint8).reshape(2, 3))
