"""The seam between connections and schedulers: what is placed comes back, from the slot it was received into."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saccade_serving.errors import InvalidRequest
from saccade_serving.memory.arena import Arena, ArenaFull, Lease
from saccade_serving.oip import binary_codec
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import InferRequest, Tensor, TensorSlot
from saccade_serving.scheduling.submission import Submission, arrays, place

NUMBERS = sorted(NUMPY_DTYPES)


def arena_of(limit: int = 2**22) -> Arena:
    return Arena(limit, poison=True)


def back(lease: Lease, tensors: tuple[TensorSlot, ...]) -> dict[str, NDArray[Any]]:
    return arrays(Submission(1, lease.name, tensors, 1, 0.0), lease.view)


def values(datatype: str, count: int = 24) -> NDArray[Any]:
    """Every bit pattern is as good as any other, but for truth values."""
    dtype = NUMPY_DTYPES[datatype]
    if dtype == np.bool_:
        return np.array([number % 3 == 0 for number in range(count)], np.bool_)
    return np.frombuffer(np.random.default_rng(7).bytes(count * dtype.itemsize), dtype)


def received(arena: Arena, request: InferRequest) -> tuple[Lease, InferRequest]:
    """Send a request as binary and receive it as a connection does: straight into a slot."""
    encoded = binary_codec.encode_request(request)
    body = b"".join(encoded.parts)
    lease = arena.lease(len(body), align_at=encoded.json_length or 0)
    lease.view[:] = body
    return lease, binary_codec.decode_request(request.model_name, "", lease.view, encoded.json_length, 2**20)


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize("shape", [(24,), (2, 3, 4), (1, 24), (0, 5), ()])
def test_a_tensor_of_any_datatype_comes_back_as_it_was(datatype: str, shape: tuple[int, ...]) -> None:
    arena = arena_of()
    array = values(datatype)[: int(np.prod(shape))].reshape(shape)
    lease, tensors = place([Tensor("x", datatype, shape, array)], None, arena)
    found = back(lease, tensors)["x"]
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, shape, array.tobytes())


@pytest.mark.parametrize("datatype", NUMBERS)
def test_a_tensor_that_was_received_in_binary_is_found_where_it_lies(datatype: str) -> None:
    arena = arena_of()
    first = Tensor("a", datatype, (2, 12), values(datatype).reshape(2, 12))
    second = Tensor("b", "UINT8", (3,), np.arange(3, dtype=np.uint8))
    lease, request = received(arena, InferRequest("m", [first, second]))
    placed, tensors = place(request.inputs, lease, arena)
    if NUMPY_DTYPES[datatype] != np.bool_:  # truth values are looked at one by one
        assert placed is lease
        assert arena.leases == 1
    found = back(placed, tensors)
    assert found["a"].tobytes() == values(datatype).tobytes()
    assert found["b"].tolist() == [0, 1, 2]
    if placed is lease:
        begin = lease.address
        assert begin < found["a"].__array_interface__["data"][0] < begin + lease.size, "not a copy"
        assert found["a"].__array_interface__["data"][0] % 64 == 0, "the connection has seen to that"


def test_numbers_in_json_are_copied_into_a_slot_and_the_bodys_is_still_the_callers() -> None:
    arena = arena_of()
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2,2],"data":[[1,2],[3,4.5]]}]}'
    lease = arena.lease(len(body))
    lease.view[:] = body
    request = binary_codec.decode_request("m", "", lease.view, None, 2**20)
    placed, tensors = place(request.inputs, lease, arena)
    assert placed is not lease
    assert arena.leases == 2
    assert back(placed, tensors)["x"].tolist() == [[1, 2], [3, 4.5]]
    lease.release()
    assert back(placed, tensors)["x"].tolist() == [[1, 2], [3, 4.5]]
    placed.release()
    assert arena.leases == 0


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_byte_strings_come_back_as_they_were(elements: list[bytes]) -> None:
    arena = arena_of()
    lease, tensors = place([Tensor.of_bytes("x", (len(elements),), elements)], None, arena)
    found = back(lease, tensors)["x"]
    assert found.dtype == object
    assert found.tolist() == elements
    assert all(type(element) is bytes for element in found)
    lease.release()
    assert found.tolist() == elements, "they do not lie in the slot"


@pytest.mark.parametrize("shape", [(2, 3), (1, 1, 6), (6, 1), (0, 4)])
def test_byte_strings_keep_their_shape(shape: tuple[int, ...]) -> None:
    elements = [b"a", b"", b"ccc", b"\xff", b"e", b"f" * 500][: int(np.prod(shape))]
    lease, tensors = place([Tensor.of_bytes("x", shape, [memoryview(e) for e in elements])], None, arena_of())
    found = back(lease, tensors)["x"]
    assert found.shape == shape
    assert found.ravel().tolist() == elements


def test_a_single_byte_string_without_dimensions_comes_back() -> None:
    lease, tensors = place([Tensor.of_bytes("x", (), [b"abc"])], None, arena_of())
    found = back(lease, tensors)["x"]
    assert (found.shape, found.item()) == ((), b"abc")


def test_byte_strings_that_were_received_lie_behind_their_prefixes_and_are_copied_out() -> None:
    arena = arena_of()
    text = Tensor.of_bytes("t", (2,), [b"one", b"three"])
    lease, request = received(arena, InferRequest("m", [text, Tensor.of("x", np.arange(4.0))]))
    placed, tensors = place(request.inputs, lease, arena)
    found = back(placed, tensors)
    assert found["t"].tolist() == [b"one", b"three"]
    assert found["x"].tolist() == [0, 1, 2, 3]


@given(st.lists(st.tuples(st.sampled_from(NUMBERS), st.integers(0, 40)), min_size=1, max_size=6))
def test_copied_tensors_begin_at_cache_lines_and_never_overlap(wanted: list[tuple[str, int]]) -> None:
    arena = arena_of()
    given_ = [Tensor(f"x{i}", d, (n,), values(d, n)) for i, (d, n) in enumerate(wanted)]
    lease, tensors = place(given_, None, arena)
    assert all((lease.address + slot.offset) % 64 == 0 for slot in tensors)
    edges = [(slot.offset, slot.offset + slot.nbytes) for slot in tensors]
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(edges))
    assert edges[-1][1] <= lease.size
    for slot, tensor in zip(tensors, given_, strict=True):
        assert back(lease, tensors)[slot.name].tobytes() == tensor.array.tobytes()


def test_an_array_that_is_not_contiguous_is_copied_in_order() -> None:
    array = np.arange(24, dtype=np.int32).reshape(4, 6)[:, ::2]
    arena = arena_of()
    lease, tensors = place([Tensor.of("x", array)], None, arena)
    assert back(lease, tensors)["x"].tolist() == array.tolist()
    body = arena.lease(96)
    strided = np.frombuffer(body.view, np.int32).reshape(4, 6)[:, ::2]
    placed, _ = place([Tensor.of("x", strided)], body, arena)
    assert placed is not body, "an engine reads rows without gaps"


def test_an_array_that_only_begins_in_the_slot_is_copied() -> None:
    arena = arena_of()
    body = arena.lease(100)
    whole = np.frombuffer(body.view, np.uint8)
    body.narrow(50)
    placed, _ = place([Tensor.of("x", whole[20:60])], body, arena)
    assert placed is not body


def test_tensors_that_do_not_fit_now_are_an_overload_and_those_that_never_could_the_clients_error() -> None:
    arena = arena_of(2**16)
    tensor = Tensor.of("x", np.zeros(2**15, np.uint8))
    first, _ = place([tensor], None, arena)
    second, _ = place([tensor], None, arena)
    with pytest.raises(ArenaFull):
        place([tensor], None, arena)
    for lease in (first, second):
        lease.release()
    with pytest.raises(InvalidRequest, match=r"98304 bytes; the limit is 65536"):
        place([tensor] * 3, None, arena)
    assert arena.leases == 0


def test_a_submission_is_plain_values_that_could_cross_to_another_process() -> None:
    arena = arena_of()
    lease, tensors = place([Tensor.of("x", np.arange(3.0)), Tensor.of_bytes("t", (1,), [b"a"])], None, arena)
    sent = Submission(7, lease.name, tensors, 3, 12.5, 1)
    there = pickle.loads(pickle.dumps(sent))  # our own
    assert there == sent
    found = arrays(there, arena.view(there.slot))
    assert found["x"].tolist() == [0, 1, 2]


def test_an_array_over_a_slot_shows_when_the_slot_is_used_after_it_was_given_back() -> None:
    arena = arena_of()
    lease, tensors = place([Tensor.of("x", np.ones(4, np.uint8))], None, arena)
    found = back(lease, tensors)["x"]
    lease.release()
    assert found.tolist() == [0xDD] * 4
