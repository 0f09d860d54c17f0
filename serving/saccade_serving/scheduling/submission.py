"""The seam between connections and schedulers: what one request asks of a model, as plain values.

A submission holds no callback, socket or array, only names of memory: it could cross to another process over the same
arena as it is. ``place`` puts a decoded request into this form, ``arrays`` brings its tensors back on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import InvalidRequest
from saccade_serving.memory.arena import Arena, Lease, SlotName
from saccade_serving.oip.datatypes import BYTES, NUMPY_DTYPES
from saccade_serving.oip.messages import Tensor, TensorSlot
from saccade_serving.oip.raw import byte_view, decode_raw, encode_raw

#: Where tensors that are copied into a slot begin: a cache line, and what vector loads want.
_ALIGNMENT: Final = 64


class Submission(NamedTuple):
    """One request in a scheduler's queue.

    Attributes:
        id: what the request is withdrawn and answered by; unique in the process.
        slot: the memory its tensors lie in. The scheduler owns its lease from ``submit`` on.
        rows: inferences it asks for, at least 1.
        deadline: absolute time on ``time.monotonic()``'s clock.
        priority: Triton's: 1 is the highest, 0 the model's default.
        queue_timeout_s: its own limit of the time in the queue (Triton's parameter ``timeout``); 0 is none.
    """

    id: int
    slot: SlotName
    tensors: tuple[TensorSlot, ...]
    rows: int
    deadline: float
    priority: int = 0
    queue_timeout_s: float = 0.0


class Part(NamedTuple):
    """A tensor, where in a slot it shall lie, and its raw bytes."""

    tensor: Tensor
    offset: int
    data: memoryview


def place(tensors: Sequence[Tensor], lease: Lease | None, arena: Arena) -> tuple[Lease, tuple[TensorSlot, ...]]:
    """Find the tensors in the slot their body was received into; those that lie elsewhere are copied into one.

    Args:
        tensors: of a decoded request.
        lease: of the body; None if it does not lie in the arena.
        arena: where a slot is leased if one is needed.

    Returns:
        The lease of the slot that holds all tensors, and where in it they are. It is the one given, or a new one; then
        the given one is still the caller's.

    Raises:
        ArenaFull: there is no room for a copy.
        InvalidRequest: a tensor is larger than the arena could ever hold.
    """
    if lease is not None:
        found = _find(tensors, lease)
        if found is not None:
            return lease, found
    parts, size = lay_out(tensors)
    if size > arena.limit_bytes:
        raise InvalidRequest(f"the request's tensors have {size} bytes; the limit is {arena.limit_bytes}")
    copied = arena.lease(size)
    return copied, fill(copied.view, parts)


def lay_out(tensors: Sequence[Tensor]) -> tuple[list[Part], int]:
    """Say where in a slot tensors would lie, and how large it has to be (bytes)."""
    parts: list[Part] = []
    at = 0
    for tensor in tensors:
        data = encode_raw("input", tensor)
        parts.append(Part(tensor, at, data))
        at += -(-data.nbytes // _ALIGNMENT) * _ALIGNMENT
    return parts, at


def fill(view: memoryview, parts: Sequence[Part]) -> tuple[TensorSlot, ...]:
    """Copy tensors into a slot's memory."""
    slots = []
    for tensor, offset, data in parts:
        view[offset : offset + data.nbytes] = data
        slots.append(TensorSlot(tensor.name, tensor.datatype, tensor.shape, offset, data.nbytes))
    return tuple(slots)


def _find(tensors: Sequence[Tensor], lease: Lease) -> tuple[TensorSlot, ...] | None:
    """Where the tensors lie in a slot; None if one of them does not, or is BYTES."""
    begin = lease.address
    end = begin + lease.size
    slots = []
    for tensor in tensors:
        data = tensor.data
        if not isinstance(data, np.ndarray):
            return None
        address: int = data.__array_interface__["data"][0]
        if not (begin <= address and address + data.nbytes <= end and data.flags.c_contiguous):
            return None
        slots.append(TensorSlot(tensor.name, tensor.datatype, tensor.shape, address - begin, data.nbytes))
    return tuple(slots)


def arrays(submission: Submission, view: memoryview) -> dict[str, NDArray[Any]]:
    """The tensors of a submission as arrays over its slot.

    Args:
        submission: what was placed.
        view: the slot's memory.

    Returns:
        Read-only views for numbers; for BYTES, object arrays of ``bytes``, copied.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, datatype, shape, offset, nbytes in submission.tensors:
        if datatype == BYTES:
            elements = decode_raw("input", name, BYTES, shape, byte_view(view[offset : offset + nbytes]), {}).elements
            objects = np.empty(len(elements), dtype=object)
            objects[:] = [bytes(element) for element in elements]
            found[name] = objects.reshape(shape)
        else:
            array = np.frombuffer(view, NUMPY_DTYPES[datatype], math.prod(shape), offset)
            found[name] = array.reshape(shape)
    return found
