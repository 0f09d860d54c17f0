"""Holds a request against what the model says of itself, before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence

from saccade_serving.errors import InvalidRequest, UnknownTensor, WrongShape
from saccade_serving.oip.messages import InferRequest, Tensor, TensorMetadata


def check_request(request: InferRequest, inputs: Sequence[TensorMetadata], outputs: Sequence[TensorMetadata]) -> None:
    """Check names, datatypes and shapes; -1 in the metadata matches any size.

    Raises:
        InvalidRequest: an input is missing.
        UnknownTensor: an input or a requested output is not the model's.
        WrongShape: datatype or shape disagree.
    """
    known = {tensor.name: tensor for tensor in inputs}
    for tensor in request.inputs:
        expected = known.get(tensor.name)
        if expected is None:
            raise UnknownTensor(tensor.name, list(known))
        check_tensor(tensor, expected)
    sent = {tensor.name for tensor in request.inputs}
    for name, expected in known.items():
        if name not in sent:
            raise InvalidRequest(f"input {name!r} is missing; expected {describe(expected)}")
    output_names = [tensor.name for tensor in outputs]
    for requested in request.outputs:
        if requested.name not in output_names:
            raise UnknownTensor(requested.name, output_names, "output")


def check_tensor(tensor: Tensor, expected: TensorMetadata) -> None:
    """Check one tensor's datatype and shape.

    Raises:
        WrongShape: they disagree.
    """
    if tensor.datatype != expected.datatype:
        raise WrongShape(f"input {tensor.name!r} is {tensor.datatype}; expected {describe(expected)}")
    fits = len(tensor.shape) == len(expected.shape) and all(
        want in (-1, size) for size, want in zip(tensor.shape, expected.shape, strict=True)
    )
    if not fits:
        raise WrongShape(f"input {tensor.name!r} has shape {list(tensor.shape)}; expected {describe(expected)}")


def count_rows(request: InferRequest, max_batch_size: int) -> int:
    """Number of rows of a batched request: the first dimension, the same for all inputs.

    Raises:
        WrongShape: no rows, more than ``max_batch_size``, or inputs that disagree.
    """
    first, *others = request.inputs
    rows = first.shape[0]
    for tensor in others:
        if tensor.shape[0] != rows:
            raise WrongShape(
                f"input {tensor.name!r} has {tensor.shape[0]} rows and input {first.name!r} {rows}; expected the same"
            )
    if not 1 <= rows <= max_batch_size:
        raise WrongShape(f"input {first.name!r} has a batch of {rows}; expected 1 to {max_batch_size}")
    return rows


def describe(tensor: TensorMetadata) -> str:
    """Datatype and shape in words, as error messages give them."""
    return f"{tensor.datatype} of shape {list(tensor.shape)}"
