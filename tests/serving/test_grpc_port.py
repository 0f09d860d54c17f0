"""Inference over gRPC: whatever becomes of a call, its memory and that of its answer are given back once."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from fakes import SOON_S, eventually, settle
from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.grpc_port import GrpcPort
from saccade_serving.errors import Overloaded
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.model import ServedModel
from saccade_serving.oip import grpc_codec, proto
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, RequestedOutput, Tensor
from saccade_serving.settings import ServiceSettings

INFER = f"/{proto.SERVICE}/ModelInfer"


class Driven(ServedModel):
    """Holds every request until the test answers it; its outputs are lent."""

    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True
        self.held: list[tuple[InferRequest, Exchange]] = []
        self.refuses: Exception | None = None
        self.released = 0

    async def prepare(self) -> None: ...

    async def close(self) -> None: ...

    def versions(self) -> list[str]:
        return ["1"]

    def metadata(self, version: str = "") -> ModelMetadata:
        return ModelMetadata("m", ["1"], "fake", [], [])

    def start_infer(self, request: InferRequest, exchange: Exchange) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.held.append((request, exchange))
        exchange.work(lambda: "while it was held")

    def answer(self) -> None:
        """Answer the oldest with its own inputs."""
        request, exchange = self.held.pop(0)
        outputs = [Tensor.of(tensor.name, tensor.array.copy()) for tensor in request.inputs]
        exchange.answer(InferResponse("m", outputs, "1", request.id, {}, self._release))

    def _release(self) -> None:
        self.released += 1


class Calling:
    """A port, its model and a channel to it."""

    def __init__(self, model: Driven, gate: Gate, call: Any) -> None:
        self.model, self.gate, self._call = model, gate, call

    def infer(self, *outputs: str, timeout_s: float = 20.0, array: Any = None) -> Any:
        data = np.arange(6, dtype=np.float32).reshape(2, 3) if array is None else array
        requested = [RequestedOutput(name) for name in outputs]
        message = grpc_codec.encode_request(InferRequest("m", [Tensor.of("x", data)], outputs=requested))
        return self._call(message.SerializeToString(), timeout=timeout_s)

    async def until_held(self) -> None:
        await eventually(lambda: self.model.held, "the model has it")


@pytest.fixture
async def calling() -> AsyncIterator[Calling]:
    """Whose books balance in the end."""
    unseen: list[dict[str, Any]] = []
    model = Driven()
    gate = Gate({"m": model}, ServiceSettings(), Metrics(), Arena(2**24, poison=True))
    port = GrpcPort(gate, 2**22, -1)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = probe.getsockname()[1]
    await port.start("127.0.0.1", number)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{number}") as channel:
        yield Calling(model, gate, channel.unary_unary(INFER))
    await port.stop(1)
    await settle()
    assert gate.arena.leases == 0
    assert gate.open == set()
    gc.collect()
    assert unseen == []


async def test_a_call_is_answered_from_the_arena_and_its_outputs_given_back_once(calling: Calling) -> None:
    call = calling.infer()
    await calling.until_held()
    [(request, exchange)] = calling.model.held
    array = request.input("x").array
    assert exchange.lease is not None
    begin = exchange.lease.address
    assert begin <= array.__array_interface__["data"][0] < begin + exchange.lease.size
    assert array.__array_interface__["data"][0] % 64 == 0
    calling.model.answer()
    answer = grpc_codec.decode_response(proto.ModelInferResponse.FromString(await call))
    assert answer.output("x").array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert calling.model.released == 1


async def test_an_answer_that_cannot_be_encoded_is_given_back_once(calling: Calling) -> None:
    call = calling.infer("nothing")
    await calling.until_held()
    calling.model.answer()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert calling.model.released == 1


async def test_an_answer_after_the_client_has_left_is_given_back_once(calling: Calling) -> None:
    call = calling.infer()
    await calling.until_held()
    [(_, exchange)] = calling.model.held
    call.cancel()
    await eventually(lambda: exchange.over, "the server knows")
    calling.model.answer()
    assert calling.model.released == 1


async def test_a_model_that_refuses_leaves_no_call_open(calling: Calling) -> None:
    calling.model.refuses = Overloaded("full", 3.0)
    for _ in range(5):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calling.infer()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ("retry-after", "3") in tuple(caught.value.trailing_metadata() or ())
    await eventually(lambda: not calling.gate.open, "all are finished")


async def test_a_call_whose_tensors_the_arena_has_no_room_for_is_refused(calling: Calling) -> None:
    held = calling.gate.arena.lease(2**24 - 2**21)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling.infer(array=np.zeros(2**21 + 2**20, np.uint8))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    held.release()


async def test_metadata_that_states_one_thing_is_refused_when_it_is_repeated(calling: Calling) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling._call(typed(1), timeout=10, metadata=(("x-camera-id", "hall"), ("x-camera-id", "yard")))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "header x-camera-id is sent twice, as 'hall' and 'yard'; expected it once"
    assert not calling.model.held


async def test_other_metadata_that_is_repeated_is_a_list(calling: Calling) -> None:
    call = calling._call(typed(1), timeout=10, metadata=(("x-a", "1"), ("x-a", "2"), ("x-camera-id", "hall, door 3")))
    await calling.until_held()
    [(_, exchange)] = calling.model.held
    assert (exchange.headers["x-a"], exchange.headers["x-camera-id"]) == ("1, 2", "hall, door 3")
    calling.model.answer()
    await call


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x3a\xff\x01", b"\x0a\x01\xff"])
async def test_what_is_no_message_is_the_clients_error(calling: Calling, data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling._call(data, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# Typed contents


def typed(*counts: int, datatype: str = "UINT8", contents: str = "uint_contents") -> bytes:
    """A message with an input of so many values for each count."""
    message = proto.ModelInferRequest(model_name="m")
    for index, count in enumerate(counts):
        tensor = message.inputs.add(name=f"x{index}", datatype=datatype, shape=[count])
        getattr(tensor.contents, contents).extend([1] * count)
    serialised: bytes = message.SerializeToString()
    return serialised


@pytest.mark.parametrize(("count", "in_a_thread"), [(8_000, False), (200_000, True)])
async def test_many_typed_values_are_read_in_a_thread(
    calling: Calling, monkeypatch: pytest.MonkeyPatch, count: int, in_a_thread: bool
) -> None:
    readers: list[threading.Thread] = []
    decode = grpc_codec.decode_request

    def watched(*arguments: Any) -> InferRequest:
        readers.append(threading.current_thread())
        return decode(*arguments)

    monkeypatch.setattr(grpc_codec, "decode_request", watched)
    call = calling._call(typed(count), timeout=20)
    await calling.until_held()
    calling.model.answer()
    answer = grpc_codec.decode_response(proto.ModelInferResponse.FromString(await call))
    assert answer.output("x0").array.tolist() == [1] * count
    assert [reader is not threading.main_thread() for reader in readers] == [in_a_thread]


async def test_over_a_million_typed_values_are_refused_with_what_to_send_instead(calling: Calling) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling._call(typed(2**19, 2**19 - 1, 2), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == (
        "the request has 1048577 typed values; the limit is 1048576 typed values; send raw_input_contents, which have "
        "no such limit"
    )
    assert not calling.model.held


async def test_an_error_in_what_a_thread_reads_is_the_clients(calling: Calling) -> None:
    for data, code in (
        (typed(20_000, datatype="INT8"), grpc.StatusCode.INVALID_ARGUMENT),
        (typed(20_000).replace(b"m", b"n", 1), grpc.StatusCode.NOT_FOUND),
        (typed(20_000) + b"\x2a\x02\x0a\x7f", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calling._call(data, timeout=20)
        assert caught.value.code() is code


@pytest.fixture
def slow_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Reading that has begun, and that goes on when the test says so."""
    begun, go_on = threading.Event(), threading.Event()
    decode = grpc_codec.decode_request

    def slow(*arguments: Any) -> InferRequest:
        begun.set()
        go_on.wait(SOON_S)
        return decode(*arguments)

    monkeypatch.setattr(grpc_codec, "decode_request", slow)
    yield begun, go_on
    go_on.set()


async def test_a_client_that_leaves_while_its_tensors_are_read_is_not_worked_for(
    calling: Calling, slow_reading: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow_reading
    call = calling._call(typed(20_000), timeout=20)
    waiting = calling._call(typed(20_000), timeout=20)  # its reading has not begun, and never does
    await eventually(begun.is_set, "it is being read")
    await eventually(lambda: len(calling.gate.open) == 2, "both are known")
    call.cancel()
    waiting.cancel()
    await eventually(lambda: not calling.gate.open, "the server knows")
    assert calling.gate.arena.leases == 2, "a thread reads one and may read the other"
    go_on.set()
    await eventually(lambda: not calling.gate.arena.leases, "both are given back")
    assert not calling.model.held


async def test_a_deadline_holds_while_tensors_are_read(
    calling: Calling, slow_reading: tuple[threading.Event, threading.Event]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling._call(typed(20_000), timeout=20, metadata=(("x-deadline-ms", "50"),))
    assert caught.value.details() == "the request's 50 ms were over while its tensors were read"
    slow_reading[1].set()
    await eventually(lambda: not calling.gate.arena.leases, "its memory is given back")


async def test_a_refused_request_leaves_nothing_of_its_values_behind(calling: Calling) -> None:
    seen: list[weakref.ref[Any]] = []

    def refuse(request: InferRequest, exchange: Exchange) -> None:
        seen.append(weakref.ref(request.inputs[0].data))
        raise Overloaded("full", 3.0)

    calling.model.start_infer = refuse  # type: ignore[method-assign]
    gc.disable()
    try:
        for count in (100, 20_000):
            with pytest.raises(grpc.aio.AioRpcError):
                await calling._call(typed(count), timeout=20)
        await eventually(lambda: len(seen) == 2 and all(values() is None for values in seen), "all are gone")
    finally:
        gc.enable()
