"""The gRPC client against a tiny real server: codes and what they become, deadlines, restarts, unreadable answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from fakes import eventually
from saccade_serving.client import BadAnswer, ConnectionFailed, GrpcClient, Refused
from saccade_serving.errors import SaccadeError
from saccade_serving.oip import grpc_codec, proto
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata

HOST = "127.0.0.1"

#: A handler of any method: message and context to message.
Handler = Callable[[Any, Any], Awaitable[Any]]


@dataclass
class Stub:
    """A server of the V2 service whose methods are functions; those that are missing are not implemented."""

    handlers: dict[str, Handler]
    port: int = 0
    metadata: list[dict[str, str]] = field(default_factory=list)
    _server: Any = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._recorded(handler),
                request_deserializer=proto.METHODS[name][0].FromString,
                response_serializer=lambda answer: answer if isinstance(answer, bytes) else answer.SerializeToString(),
            )
            for name, handler in self.handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(proto.SERVICE, methods),))
        self.port = self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def _recorded(self, handler: Handler) -> Handler:
        async def call(message: Any, context: Any) -> Any:
            self.metadata.append({str(k): str(v) for k, v in context.invocation_metadata()})
            return await handler(message, context)

        return call


@asynccontextmanager
async def client_of(infer: Handler | None = None, **handlers: Handler) -> AsyncIterator[tuple[GrpcClient, Stub]]:
    stub = Stub({**({"ModelInfer": infer} if infer else {}), **handlers})
    await stub.start()
    client = GrpcClient(stub.address)
    try:
        yield client, stub
    finally:
        await client.close()
        await stub.stop()


async def echo(message: Any, _context: Any) -> Any:
    request = grpc_codec.decode_request(message)
    return grpc_codec.encode_response(InferResponse("m", request.inputs, "7", request.id), request)


async def never(_message: Any, _context: Any) -> Any:
    await asyncio.get_running_loop().create_future()


def refusing(code: str, details: str = "because", **trailing: str) -> Handler:
    async def refuse(_message: Any, context: Any) -> Any:
        metadata = tuple((name.replace("_", "-"), value) for name, value in trailing.items())
        await context.abort(getattr(grpc.StatusCode, code), details, metadata)

    return refuse


def request(**changes: str) -> InferRequest:
    return InferRequest("m", [Tensor.of("x", np.arange(6, dtype=np.int32))], **changes)  # type: ignore[arg-type]


def free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


async def test_an_inference_goes_out_and_comes_back() -> None:
    async with client_of(echo) as (client, stub):
        answer = await client.infer(request(id="r1"), 5, {"x-request-id": "abc", "x-deadline-ms": "12.5"})
    assert answer.output("x").array.tolist() == [0, 1, 2, 3, 4, 5]
    assert (answer.model_version, answer.id) == ("7", "r1")
    assert stub.metadata[0]["x-request-id"] == "abc"
    assert stub.metadata[0]["x-deadline-ms"] == "12.5"


async def test_a_message_of_more_than_grpcs_default_limit_comes_back() -> None:
    big = np.zeros(3 * 2**20, np.uint8)

    async def answer(_message: Any, _context: Any) -> Any:
        plain = InferRequest("m", [])
        return grpc_codec.encode_response(InferResponse("m", [Tensor.of("y", np.zeros(5 * 2**20, np.uint8))]), plain)

    async with client_of(answer) as (client, _):
        got = await client.infer(InferRequest("m", [Tensor.of("x", big)]), 20)
    assert got.output("y").array.nbytes == 5 * 2**20


async def test_the_timeout_reaches_the_server_as_the_calls_deadline() -> None:
    remaining: list[float] = []

    async def look(message: Any, context: Any) -> Any:
        remaining.append(context.time_remaining())
        return await echo(message, context)

    async with client_of(look) as (client, _):
        await client.infer(request(), 20)
    assert 10 < remaining[0] < 21


async def test_nobody_listening_is_a_failed_connection() -> None:
    client = GrpcClient(f"{HOST}:{free_port()}")
    try:
        with pytest.raises(ConnectionFailed, match="cannot be reached"):
            await client.infer(request(), 5)
        assert await client.is_ready("m", 1) is False
    finally:
        await client.close()


async def test_a_server_that_does_not_speak_grpc_is_a_failed_connection() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    client = GrpcClient(f"{HOST}:{server.sockets[0].getsockname()[1]}")
    try:
        with pytest.raises(ConnectionFailed):
            await client.infer(request(), 5)
    finally:
        await client.close()
        server.close()


@pytest.mark.parametrize(
    ("code", "trailing", "status", "retry_after_s"),
    [
        ("INVALID_ARGUMENT", {}, 400, None),
        ("INVALID_ARGUMENT", {"saccade_reason": "wrong_shape"}, 400, None),
        ("NOT_FOUND", {}, 404, None),
        ("RESOURCE_EXHAUSTED", {}, 413, None),
        ("INTERNAL", {}, 500, None),
        ("UNKNOWN", {}, 500, None),
        ("PERMISSION_DENIED", {}, 403, None),
        ("UNIMPLEMENTED", {}, 501, None),
        ("UNAVAILABLE", {"saccade_reason": "overloaded", "retry_after": "2.5"}, 503, 2.5),
        ("UNAVAILABLE", {"saccade_reason": "overloaded", "retry_after": "soon"}, 503, None),
        ("UNAVAILABLE", {"saccade_reason": "predictor_unavailable"}, 502, None),
        ("DEADLINE_EXCEEDED", {"saccade_reason": "deadline_exceeded"}, 504, None),
    ],
)
async def test_a_code_becomes_the_status_of_the_table(
    code: str, trailing: dict[str, str], status: int, retry_after_s: float | None
) -> None:
    async with client_of(refusing(code, "because", **trailing)) as (client, _):
        with pytest.raises(Refused) as caught:
            await client.infer(request(), 5)
    assert (caught.value.status, str(caught.value)) == (status, "because")
    assert caught.value.retry_after_s == retry_after_s


@pytest.mark.parametrize("kind", SaccadeError.__subclasses__(), ids=lambda kind: kind.__name__)
async def test_every_error_of_ours_comes_back_as_its_own_status(kind: type[SaccadeError]) -> None:
    async with client_of(refusing(kind.grpc_code, "because", saccade_reason=kind.reason)) as (client, _):
        with pytest.raises(Refused) as caught:
            await client.infer(request(), 5)
    # gRPC has one code for 400 and 415, and one for 408 and 504.
    assert caught.value.status == {415: 400, 408: 504}.get(kind.status, kind.status)


async def test_unavailable_without_a_reason_is_the_channels_own_word() -> None:
    async with client_of(refusing("UNAVAILABLE")) as (client, _):
        with pytest.raises(ConnectionFailed, match="because"):
            await client.infer(request(), 5)


async def test_a_deadline_without_a_reason_is_a_timeout() -> None:
    async with client_of(refusing("DEADLINE_EXCEEDED")) as (client, _):
        with pytest.raises(TimeoutError):
            await client.infer(request(), 5)


@pytest.mark.parametrize("timeout_s", [0.05, 0.0, -1.0])
async def test_a_call_that_is_not_answered_in_time_is_a_timeout(timeout_s: float) -> None:
    async with client_of(never) as (client, _):
        with pytest.raises(TimeoutError):
            await client.infer(request(), timeout_s)


async def test_a_caller_who_gives_up_cancels_the_call_at_the_server() -> None:
    seen: list[str] = []

    async def watch(_message: Any, _context: Any) -> Any:
        seen.append("started")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async with client_of(watch) as (client, _):
        call = asyncio.create_task(client.infer(request(), 60))
        await eventually(lambda: seen, "the request arrived")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: seen == ["started", "cancelled"], "the server sees the client leave")


async def test_the_client_finds_a_server_again_that_was_restarted_on_the_same_port() -> None:
    first = Stub({"ModelInfer": echo})
    await first.start()
    client = GrpcClient(first.address)
    try:
        await client.infer(request(), 5)
        await first.stop()
        with pytest.raises(ConnectionFailed):
            await client.infer(request(), 5)
        second = Stub({"ModelInfer": echo}, first.port)
        await second.start()
        answers: list[InferResponse] = []

        async def until_answered() -> None:
            while not answers:
                try:
                    answers.append(await client.infer(request(), 5))
                except ConnectionFailed:
                    await asyncio.sleep(0.01)

        await asyncio.wait_for(until_answered(), 10)
        await second.stop()
    finally:
        await client.close()


def _contradictory() -> Any:
    message = proto.ModelInferResponse(model_name="m")
    message.outputs.add(name="y", datatype="FP32", shape=[4])
    message.raw_output_contents.append(b"\x00" * 3)
    return message


@pytest.mark.parametrize("answer", [_contradictory(), b"\xff\xff\xff"], ids=["contradictory", "not protobuf"])
async def test_an_answer_that_cannot_be_read_is_a_failed_connection(answer: Any) -> None:
    async def reply(_message: Any, _context: Any) -> Any:
        return answer

    async with client_of(reply, ModelReady=reply) as (client, _):
        with pytest.raises(ConnectionFailed, match="cannot be read"):
            await client.infer(request(), 5)
        assert await client.is_ready("m", 5) is False


async def test_an_answer_that_cannot_be_read_does_not_name_the_servers_address() -> None:
    async def reply(_message: Any, _context: Any) -> Any:
        return b"\xff\xff\xff"

    async with client_of(reply) as (client, _):
        with pytest.raises(BadAnswer) as caught:
            await client.infer(request(), 5)
    assert HOST not in str(caught.value), "its sentence reaches the transformer's clients"


@pytest.mark.parametrize(("model", "identifier"), [("other", "r1"), ("m", "r2")])
async def test_an_answer_to_another_request_is_none(model: str, identifier: str) -> None:
    async def reply(message: Any, _context: Any) -> Any:
        asked = grpc_codec.decode_request(message)
        return grpc_codec.encode_response(InferResponse(model, asked.inputs, "7", identifier), asked)

    async with client_of(reply) as (client, _):
        with pytest.raises(BadAnswer, match="belongs to another request"):
            await client.infer(request(id="r1"), 5)


@pytest.mark.parametrize("said", ["-5", "nan", "inf", "soon"])
async def test_a_time_to_retry_that_is_none_is_not_believed(said: str) -> None:
    async with client_of(refusing("UNAVAILABLE", saccade_reason="overloaded", retry_after=said)) as (client, _):
        with pytest.raises(Refused) as caught:
            await client.infer(request(), 5)
    assert caught.value.retry_after_s is None


async def test_metadata_comes_back_as_it_was_said() -> None:
    said = ModelMetadata(
        "m", ["1", "2"], "fake", [TensorMetadata("x", "FP32", (-1, 2))], [], {"saccade.input": "rgb_nhwc"}
    )

    async def describe(message: Any, _context: Any) -> Any:
        assert message.name == "m"
        return grpc_codec.encode_metadata(said)

    async with client_of(ModelMetadata=describe) as (client, _):
        assert await client.metadata("m", 5) == said


@pytest.mark.parametrize("ready", [True, False])
async def test_ready_is_what_the_server_says(ready: bool) -> None:
    async def answer(_message: Any, _context: Any) -> Any:
        return proto.ModelReadyResponse(ready=ready)

    async with client_of(ModelReady=answer) as (client, _):
        assert await client.is_ready("m", 5) is ready


@pytest.mark.parametrize("handler", [refusing("NOT_FOUND"), refusing("UNAVAILABLE"), never])
async def test_whatever_goes_wrong_is_not_ready(handler: Handler) -> None:
    async with client_of(ModelReady=handler) as (client, _):
        assert await client.is_ready("m", 0.1) is False


@pytest.mark.parametrize("value", ["caf\xe9", "\u2603", "a\nb"])
async def test_a_header_that_grpc_cannot_carry_does_not_stop_the_call(value: str) -> None:
    # REST headers may hold Latin-1; gRPC metadata may not.
    async with client_of(echo) as (client, stub):
        await client.infer(request(), 5, {"x-request-id": value, "traceparent": "00-1"})
    assert stub.metadata[0]["traceparent"] == "00-1"


async def test_a_closed_client_opens_again_when_it_is_used() -> None:
    async with client_of(echo) as (client, stub):
        await client.infer(request(), 5)
        await client.close()
        await client.close()
        await client.infer(request(), 5)
    assert len(stub.metadata) == 2


async def test_a_servers_sentence_is_passed_on_in_bounds() -> None:
    async with client_of(refusing("INVALID_ARGUMENT", "a\nb" + "x" * 400)) as (client, _):
        with pytest.raises(Refused) as caught:
            await client.infer(request(), 5)
    assert str(caught.value) == r"a\nb" + "x" * 296 + "..."
