"""What a server tells over gRPC beside inference: a real server, our messages, and Triton's own in another process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import saccade_serving
from fakes import SOON_S, eventually
from informed_model import InformedModel, PlainModel, gate_of
from saccade_serving import __version__
from saccade_serving.connection import grpc_information
from saccade_serving.connection.answers import REASON_KEY
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.grpc_information import (
    MAX_PEER_WATCHES,
    MAX_WATCHES,
    HealthService,
    InformationCalls,
    add_health,
    health_servicer,
    peer_of_call,
)
from saccade_serving.model import ServedModel
from saccade_serving.oip import proto
from saccade_serving.statistics import Statistics

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


class Server:
    """A server on a free port with the calls and the health service of one gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.counted = Statistics()
        self.health: HealthService = health_servicer(gate)
        self.address = ""
        self.channel: Any = None

    async def call(self, method: str, **fields: Any) -> Any:
        request, response = {**proto.METHODS, **proto.TRITON_METHODS}[method]
        call = self.channel.unary_unary(f"/{proto.SERVICE}/{method}", request.SerializeToString, response.FromString)
        return await call(request(**fields), timeout=SOON_S)

    async def refusal(self, method: str, code: str, **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, **fields)
        assert caught.value.code().name == code
        assert dict(caught.value.trailing_metadata())[REASON_KEY]
        return caught.value

    async def check(self, service: str = "") -> int:
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=SOON_S
        )
        return int(answer.status)

    def watch(self, service: str = "") -> Any:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(self.channel).Watch(request, timeout=SOON_S)


@contextlib.asynccontextmanager
async def serving(*models: ServedModel) -> AsyncIterator[Server]:
    server = Server(gate_of(*models))
    handlers = InformationCalls(server.gate, server.counted).handlers()
    assert handlers.keys() == (proto.METHODS | proto.TRITON_METHODS).keys() - {"ModelInfer"}
    listening = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    listening.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(proto.SERVICE, handlers),))
    add_health(server.health, listening)
    server.address = f"127.0.0.1:{listening.add_insecure_port('127.0.0.1:0')}"
    await listening.start()
    try:
        async with grpc.aio.insecure_channel(server.address) as server.channel:
            yield server
    finally:
        await server.health.close()
        await listening.stop(None)


async def test_the_server_lives_and_tells_its_name_and_extensions() -> None:
    async with serving(InformedModel()) as server:
        assert (await server.call("ServerLive")).live
        told = await server.call("ServerMetadata")
        assert (told.name, told.version) == ("saccade", __version__)
        assert "classification" in told.extensions


async def test_the_server_is_ready_when_all_models_are_and_it_does_not_drain() -> None:
    slow = InformedModel("slow", ready=False)
    async with serving(InformedModel(), slow) as server:
        assert not (await server.call("ServerReady")).ready
        slow.ready = True
        assert (await server.call("ServerReady")).ready
        server.gate.draining = True
        assert not (await server.call("ServerReady")).ready


async def test_a_model_is_ready_or_not_and_unknown_only_if_nobody_knows_it() -> None:
    async with serving(InformedModel(), InformedModel("slow", ready=False)) as server:
        assert (await server.call("ModelReady", name="m")).ready
        assert (await server.call("ModelReady", name="m", version="3")).ready
        assert not (await server.call("ModelReady", name="m", version="7")).ready
        assert not (await server.call("ModelReady", name="slow")).ready
        await server.refusal("ModelReady", "NOT_FOUND", name="absent")


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_unknown_models_versions_and_models_not_ready_have_their_codes(method: str) -> None:
    async with serving(InformedModel(), InformedModel("slow", ready=False)) as server:
        await server.refusal(method, "NOT_FOUND", name="absent")
        await server.refusal(method, "NOT_FOUND", name="m", version="7")
        error = await server.refusal(method, "UNAVAILABLE", name="slow")
        assert dict(error.trailing_metadata())["retry-after"] == "1"


async def test_metadata_and_configuration_are_told() -> None:
    async with serving(InformedModel(), PlainModel("p")) as server:
        assert list((await server.call("ModelMetadata", name="m")).versions) == ["1", "3"]
        assert (await server.call("ModelConfig", name="m", version="1")).config == b"\x0a\x01m"
        error = await server.refusal("ModelConfig", "UNIMPLEMENTED", name="p")
        assert "no Triton configuration" in error.details()


async def test_statistics_are_told_of_one_version_or_of_all() -> None:
    async with serving(InformedModel(), InformedModel("n", versions=["2"])) as server:
        server.counted.of("m", "3").succeeded(2, 500)
        one = await server.call("ModelStatistics", name="m", version="3")
        assert [stats.inference_count for stats in one.model_stats] == [2]
        every = await server.call("ModelStatistics")
        assert [(stats.name, stats.version) for stats in every.model_stats] == [("m", "1"), ("m", "3"), ("n", "2")]


async def test_the_index_is_told_and_has_one_repository() -> None:
    async with serving(InformedModel(), InformedModel("slow", ready=False)) as server:
        told = await server.call("RepositoryIndex")
        assert [(model.name, model.state) for model in told.models][1:] == [("m", "READY"), ("slow", "LOADING")]
        assert "slow" in told.models[2].reason
        assert len((await server.call("RepositoryIndex", ready=True)).models) == 2
        assert "'r'" in (await server.refusal("RepositoryIndex", "UNIMPLEMENTED", repository_name="r")).details()


async def test_what_is_not_offered_says_what_to_do_instead() -> None:
    async with serving(InformedModel()) as server:
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            assert "server starts" in (await server.refusal(method, "UNIMPLEMENTED", model_name="m")).details()
        words = {"TraceSetting": "traceparent", "LogSettings": "log_level"}
        for method in proto.REFUSED_METHODS:
            assert words.get(method, "binary data") in (await server.refusal(method, "UNIMPLEMENTED")).details()


QUESTIONS = [
    *(f"/{proto.SERVICE}/{name}" for name in ("ServerLive", "ModelReady", "ModelMetadata", "RepositoryIndex")),
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
]


async def outcome_of(server: Server, path: str, message: bytes) -> tuple[str, str]:
    """Code and sentence of a call with these bytes; of a watch that is answered "OK" at its first answer."""
    if path.endswith("Watch"):
        watch = server.channel.unary_stream(path)(message, timeout=SOON_S)
        with contextlib.suppress(grpc.aio.AioRpcError):
            if await watch.read() is not grpc.aio.EOF:
                watch.cancel()
                return "OK", ""
        return (await watch.code()).name, await watch.details()
    call = server.channel.unary_unary(path)(message, timeout=SOON_S)
    return (await call.code()).name, await call.details()


@pytest.mark.parametrize("path", QUESTIONS)
async def test_a_question_of_over_64_kib_is_not_parsed(path: str) -> None:
    unknown_field = b"\xfa\x01\x02xy"
    async with serving(InformedModel()) as server:
        assert await outcome_of(server, path, unknown_field * 13_108) == (
            "RESOURCE_EXHAUSTED",
            "the message of a call that is no inference is 65540 bytes; the limit is 65536 bytes",
        )
        assert (await outcome_of(server, path, b"\xff\xff"))[0] == "INVALID_ARGUMENT"
        assert (await outcome_of(server, path, unknown_field * 13_107))[0] != "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload", *proto.REFUSED_METHODS])
async def test_the_message_of_a_call_that_is_always_refused_is_not_looked_at(method: str) -> None:
    no_message = b"\xff" * 2**20
    async with serving(InformedModel()) as server:
        code, _ = await outcome_of(server, f"/{proto.SERVICE}/{method}", no_message)
        assert code == "UNIMPLEMENTED"


async def test_a_refused_question_leaves_nothing_of_its_message_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Message:
        """Stands for protobuf's, which cannot be watched."""

        name, version = "absent", ""

        @classmethod
        def FromString(cls, _data: bytes) -> Message:  # noqa: N802  # protobuf's name
            message = cls()
            made.append(weakref.ref(message))
            return message

    made: list[weakref.ref[Message]] = []
    monkeypatch.setitem(proto.METHODS, "ModelReady", (Message, proto.ModelReadyResponse))
    async with serving(InformedModel()) as server:
        gc.disable()
        try:
            for _ in range(3):
                code, _ = await outcome_of(server, f"/{proto.SERVICE}/ModelReady", b"")
                assert code == "NOT_FOUND"
            assert [message() for message in made] == [None] * 3
        finally:
            gc.enable()


async def test_health_is_asked_of_the_server_and_of_the_service() -> None:
    slow = InformedModel("slow", ready=False)
    async with serving(InformedModel(), slow) as server:
        assert [await server.check(""), await server.check(proto.SERVICE)] == [NOT_SERVING] * 2
        slow.ready = True
        assert [await server.check(""), await server.check(proto.SERVICE)] == [SERVING] * 2
        server.gate.draining = True
        assert await server.check() == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.check("other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "'other'" in caught.value.details()


async def test_a_watcher_hears_at_once_and_of_every_change_and_the_end() -> None:
    model = InformedModel(ready=False)
    async with serving(model) as server:
        watch = server.watch()
        assert (await watch.read()).status == NOT_SERVING
        model.ready = True
        assert (await watch.read()).status == SERVING
        server.gate.draining = True
        assert (await watch.read()).status == NOT_SERVING
        await server.health.close()
        assert await watch.read() == grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK


async def test_an_open_watch_ends_when_the_service_is_closed() -> None:
    async with serving(InformedModel()) as server:
        watches = [server.watch(), server.watch(proto.SERVICE)]
        assert [(await watch.read()).status for watch in watches] == [SERVING] * 2
        await server.health.close()
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * 2
        assert [await watch.read() for watch in watches] == [grpc.aio.EOF] * 2


async def test_an_unknown_service_can_be_watched_as_the_protocol_says() -> None:
    async with serving(InformedModel()) as server:
        watch = server.watch("other")
        assert (await watch.read()).status == UNKNOWN
        await server.health.close()
        assert await watch.read() == grpc.aio.EOF


async def test_nothing_is_polled_once_the_last_watcher_has_left() -> None:
    async with serving(InformedModel()) as server:
        before = asyncio.all_tasks()
        first, second = server.watch(), server.watch()
        await first.read()
        await second.read()

        def following() -> list[asyncio.Task[Any]]:
            return [task for task in asyncio.all_tasks() - before if "_follow" in repr(task)]

        assert len(following()) == 1
        for watch in (first, second):
            watch.cancel()
        await eventually(lambda: not following(), "the polling ends")


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:40000", "10.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:40000", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:40000", "2001:db8::1"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:40000", "10.0.0.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:40000", "fe80::1"),
        ("ipv4:127.0.0.1:40000", ""),
        ("ipv6:%5B::1%5D:40000", ""),
        ("unix:/tmp/socket", ""),
        ("", ""),
    ],
)
def test_whose_watch_it_is_stands_in_grpcios_name_of_the_peer(peer: str, host: str) -> None:
    assert peer_of_call(peer) == host


async def test_one_address_does_not_take_all_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = "10.0.0.1"
    monkeypatch.setattr(grpc_information, "peer_of_call", lambda _: peer)  # tests are on this machine
    async with serving(InformedModel()) as server:
        watches = [server.watch() for _ in range(MAX_PEER_WATCHES)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="8 health watches are open from this address") as caught:
            await server.watch().read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        peer = "10.0.0.2"
        other = server.watch()
        assert (await other.read()).status == SERVING
        peer = "10.0.0.1"
        watches[0].cancel()
        await eventually(lambda: server.health._watches["10.0.0.1"] < MAX_PEER_WATCHES, "one has left")
        again = server.watch()
        assert (await again.read()).status == SERVING
        for watch in (*watches, other, again):
            watch.cancel()


async def test_watches_are_bounded() -> None:
    async with serving(InformedModel()) as server:
        watches = [server.watch() for _ in range(MAX_WATCHES)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.watch().read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await server.check() == SERVING
        for watch in watches:
            watch.cancel()


# --- Triton's own messages, which exclude kserve's and so live in another process ---

DURATION = {"count": "1", "ns": "18446744073709551615"}
COMPUTE = {"compute_input": DURATION, "compute_infer": DURATION, "compute_output": DURATION}
SAMPLES: dict[str, dict[str, Any]] = {
    "ModelConfigRequest": {"name": "m", "version": "1"},
    "ModelStatisticsRequest": {"name": "m", "version": "1"},
    "RepositoryIndexRequest": {"repository_name": "r", "ready": True},
    "RepositoryIndexResponse": {"models": [{"name": "m", "version": "1", "state": "READY", "reason": "x"}]},
    "ModelStatisticsResponse": {
        "model_stats": [
            {
                "name": "m",
                "version": "1",
                "last_inference": "1795334158608",
                "inference_count": "6",
                "execution_count": "4",
                "inference_stats": {
                    "success": DURATION,
                    "fail": DURATION,
                    "queue": DURATION,
                    **COMPUTE,
                    "cache_hit": DURATION,
                    "cache_miss": DURATION,
                },
                "batch_stats": [{"batch_size": "2", **COMPUTE}],
                "memory_usage": [{"type": "GPU", "id": "-1", "byte_size": "7"}],
                "response_stats": {
                    "0": {
                        "compute_infer": DURATION,
                        "compute_output": DURATION,
                        "success": DURATION,
                        "fail": DURATION,
                        "empty_response": DURATION,
                        "cancel": DURATION,
                    }
                },
            }
        ]
    },
}
# ParseDict of the samples on both sides, each other's bytes, all descriptors, and the configuration's wire form.
MEET = """
import json, sys
import tritonclient.grpc.service_pb2 as peer
from tritonclient.grpc import model_config_pb2
from saccade_serving.oip import proto as ours
from google.protobuf.json_format import MessageToDict, ParseDict

show = lambda message: MessageToDict(message, preserving_proto_field_name=True)

def fields_of(descriptor, found):
    found[descriptor.full_name] = {
        f.name: [f.number, f.type, f.is_repeated, f.message_type and f.message_type.full_name]
        for f in descriptor.fields
    }
    for field in descriptor.fields:
        if field.message_type and field.message_type.full_name not in found:
            fields_of(field.message_type, found)
    return found

read = {}
for name, fields in json.load(sys.stdin).items():
    theirs = ParseDict(fields, getattr(peer, name)())
    wire = theirs.SerializeToString(deterministic=True)
    mine = ours._class(name).FromString(wire)
    assert ParseDict(fields, ours._class(name)()).SerializeToString(deterministic=True) == wire, name
    read[name] = [show(mine), show(type(theirs).FromString(mine.SerializeToString()))]
config = model_config_pb2.ModelConfig(name="m", max_batch_size=8)
answered = ours.ModelConfigResponse(config=config.SerializeToString()).SerializeToString()
json.dump({
    "read": read,
    "descriptors": [
        {k: v for n in read for k, v in fields_of(module(n).DESCRIPTOR, {}).items()}
        for module in (ours._class, lambda n: getattr(peer, n))
    ],
    "config": show(peer.ModelConfigResponse.FromString(answered)),
    "methods": {
        m.name: [m.input_type.full_name, m.output_type.full_name]
        for m in peer.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    },
}, sys.stdout)
"""
# What perf_analyzer and the examples of tritonclient ask, by tritonclient.grpc.
ASK = """
import json, sys
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

def outcome(call, *args):
    try:
        return {"answered": repr(call(*args))}
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}

with triton.InferenceServerClient(sys.argv[1]) as client:
    json.dump({
        "server": client.get_server_metadata(as_json=True),
        "config": client.get_model_config("m", as_json=True),
        "statistics": client.get_inference_statistics("m", as_json=True),
        "all": len(client.get_inference_statistics().model_stats),
        "index": client.get_model_repository_index(as_json=True),
        "register": outcome(client.register_system_shared_memory, "r", "/r", 64),
        "unregister": outcome(client.unregister_system_shared_memory),
        "status": outcome(client.get_cuda_shared_memory_status),
        "trace": outcome(client.get_trace_settings),
        "log": outcome(client.update_log_settings, {"log_info": True}),
        "load": outcome(client.load_model, "m"),
    }, sys.stdout)
"""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(saccade_serving.__file__).parents[1]), *sys.path])}


def test_the_new_messages_are_tritons_byte_for_byte_and_field_for_field() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEET],
        input=json.dumps(SAMPLES),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    met = json.loads(done.stdout)
    for name, sample in SAMPLES.items():
        assert met["read"][name] == [sample, sample], name
    ours, theirs = met["descriptors"]
    assert ours == theirs
    assert met["config"] == {"config": {"name": "m", "max_batch_size": 8}}
    every = {**proto.METHODS, **proto.TRITON_METHODS}
    assert met["methods"].keys() - every.keys() == {"ModelStreamInfer"}
    for name, (request, response) in every.items():
        assert met["methods"][name] == [request.DESCRIPTOR.full_name, response.DESCRIPTOR.full_name]


async def test_tritonclient_reads_every_answer_and_every_refusal() -> None:
    async with serving(InformedModel()) as server:
        server.counted.of("m", "3").succeeded(2, 500, queue_ns=4)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASK, server.address, env=environment(), stdout=-1, stderr=-1
        )
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    told = json.loads(output)
    assert "statistics" in told["server"]["extensions"]
    assert told["config"] == {"config": {"name": "m"}}
    first, second = told["statistics"]["model_stats"]
    assert (first["version"], second["version"]) == ("1", "3")
    assert second["inference_count"] == "2"
    assert second["inference_stats"]["queue"] == {"count": "1", "ns": "4"}
    assert told["all"] == 2
    assert [model["state"] for model in told["index"]["models"]] == ["READY", "READY"]
    for name, word in {
        "register": "binary data",
        "unregister": "binary data",
        "status": "binary data",
        "trace": "traceparent",
        "log": "log_level",
        "load": "server starts",
    }.items():
        assert told[name]["status"] == "StatusCode.UNIMPLEMENTED", name
        assert word in told[name]["message"]
