"""Triton's classification extension: an output as its best classes, "score:index" or "score:index:label".

Pure. An output that was not asked for by ``classification`` is never touched.

As tritonserver 2.51 answers it: scores of floating-point outputs as C's ``%f``, those of integers as they are; best
first; at most as many as there are classes; shape [batch, k], or [k] for a model without batches, whatever the
output's other dimensions, whose index runs in row-major order; no label where the file has an empty line or none.
Of equal scores the lower index is first (Triton leaves that open), NaN is last. FP16, which Triton refuses, is served.

Source: Triton, docs/protocol/extension_classification.md and server/src/classification.cc.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import InvalidRequest, short
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor, TensorMetadata
from saccade_serving.oip.rules import MAX_BYTES_ELEMENTS, label_of

PARAMETER: Final = "classification"
#: Classes of one row beyond which an output is not sorted; Triton's own limit.
MAX_CLASSES: Final = 1_000_000

_CLASSIFIED: Final = tuple(name for name, dtype in NUMPY_DTYPES.items() if dtype.kind in "iuf")


def requested_classes(request: InferRequest, outputs: Sequence[TensorMetadata]) -> dict[str, int]:
    """Read which outputs shall be classified; to be called before the request is queued.

    Args:
        request: the request.
        outputs: the model's outputs, whose datatypes decide.

    Returns:
        Output name -> classes asked for; empty when the request does not use the extension.

    Raises:
        InvalidRequest: the number is not a whole one of 1 or more, or the output holds no numbers.
    """
    wanted = {output.name: _read(output) for output in request.outputs if PARAMETER in output.parameters}
    if wanted:
        for tensor in outputs:
            if tensor.name in wanted and tensor.datatype not in _CLASSIFIED:
                raise InvalidRequest(
                    f"{label_of('output', tensor.name)} is {tensor.datatype}, which has no classes; "
                    f"expected {PARAMETER!r} for an output of {', '.join(_CLASSIFIED)} only"
                )
    return wanted


def classify_outputs(
    response: InferResponse,
    wanted: Mapping[str, int],
    batched: bool,
    labels_of: Callable[[str], Sequence[str]],
) -> InferResponse:
    """Replace the wanted outputs of a response by their best classes.

    Args:
        response: the model's own response.
        wanted: from ``requested_classes``.
        batched: whether the first dimension of the outputs counts rows.
        labels_of: output name -> class names, possibly fewer than classes, or none.

    Raises:
        InvalidRequest: the answer would be larger than is served.
    """
    if not wanted:
        return response
    outputs = [
        classify(tensor, wanted[tensor.name], batched, labels_of(tensor.name)) if tensor.name in wanted else tensor
        for tensor in response.outputs
    ]
    return replace(response, outputs=outputs)


def classify(tensor: Tensor, count: int, batched: bool, labels: Sequence[str] = ()) -> Tensor:
    """Turn one output into its ``count`` best classes, fewer where there are fewer.

    Returns:
        BYTES [rows, count], or [count] when not batched (or of a scalar).

    Raises:
        InvalidRequest: over ``MAX_CLASSES`` classes, or more answers than a BYTES tensor may have elements.
    """
    array = tensor.array
    rows = array.shape[:1] if batched else ()
    table = array.reshape(math.prod(rows), math.prod(array.shape[len(rows) :]))
    classes = table.shape[1]
    label = label_of("output", tensor.name)
    if classes > MAX_CLASSES:
        raise InvalidRequest(f"{label} has {classes} classes in a row; the limit for {PARAMETER!r} is {MAX_CLASSES}")
    count = min(count, classes)
    if table.shape[0] * count > MAX_BYTES_ELEMENTS:
        raise InvalidRequest(
            f"{PARAMETER!r} of {label} asks for {table.shape[0]} x {count} answers; the limit is {MAX_BYTES_ELEMENTS}"
        )
    elements = [text.encode() for row in table for text in _describe(row, count, labels)]
    return Tensor.of_bytes(tensor.name, (*rows, count), elements)


def _read(output: RequestedOutput) -> int:
    count = output.parameters[PARAMETER]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidRequest(
            f"parameter {PARAMETER!r} of {label_of('output', output.name)} is {short(repr(count))}; "
            "expected a whole number of classes of 1 or more"
        )
    return count


def _describe(row: NDArray[Any], count: int, labels: Sequence[str]) -> list[str]:
    """The best classes of one row, as text."""
    best = _best(row, count)
    if row.dtype.kind == "f":
        scores = [f"{score:f}" for score in row[best].astype(np.float64).tolist()]
    else:
        scores = [str(score) for score in row[best].tolist()]
    texts = []
    for score, index in zip(scores, best.tolist(), strict=True):
        name = labels[index] if index < len(labels) else ""
        texts.append(f"{score}:{index}:{name}" if name else f"{score}:{index}")
    return texts


def _best(row: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest values, largest first, lower index first among equals."""
    if count == 0:
        return np.empty(0, np.intp)
    key = np.where(np.isnan(row), -np.inf, row) if row.dtype.kind == "f" else row
    # Only what reaches the count-th largest value is sorted: a whole sort of many classes would hold up the loop.
    threshold = np.partition(key, row.size - count)[row.size - count]
    candidates = np.flatnonzero(key >= threshold)
    # Ascending and stable from behind is descending with the lower index first; negating would overflow integers.
    ascending = candidates[::-1][np.argsort(key[candidates[::-1]], kind="stable")]
    return ascending[::-1][:count]
