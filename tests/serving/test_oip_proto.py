"""The private protobuf messages beside kserve's and Triton's: same numbers, same bytes, in one process.

Either peer claims the package ``inference`` in protobuf's global pool, so each is met in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import saccade_serving
from saccade_serving.oip import proto

PEERS = {"kserve": "kserve.protocol.grpc.grpc_predict_v2_pb2", "triton": "tritonclient.grpc.service_pb2"}

# Messages of every kind the service exchanges, by fields that both peers know.
TENSOR = {"name": "x", "datatype": "INT32", "shape": [2, 1], "parameters": {"p": {"bool_param": True}}}
SAMPLES: dict[str, dict[str, Any]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": True},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": True},
    "ModelReadyRequest": {"name": "m", "version": "1"},
    "ModelReadyResponse": {"ready": True},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": "s", "version": "1", "extensions": ["a", "b"]},
    "ModelMetadataRequest": {"name": "m", "version": "1"},
    "ModelMetadataResponse": {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "p",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": []}],
    },
    "ModelInferRequest": {
        "model_name": "m",
        "model_version": "1",
        "id": "r",
        "parameters": {"a": {"int64_param": "-5"}, "b": {"string_param": "s"}},
        "inputs": [TENSOR, {**TENSOR, "contents": {"int_contents": [1, -2]}}],
        "outputs": [{"name": "y", "parameters": {"q": {"int64_param": "3"}}}],
        "raw_input_contents": ["AAEC", ""],
    },
    "ModelInferResponse": {
        "model_name": "m",
        "model_version": "1",
        "id": "r",
        "parameters": {"a": {"bool_param": False}},
        "outputs": [TENSOR],
        "raw_output_contents": ["AAEC"],
    },
    "InferTensorContents": {
        "bool_contents": [True, False],
        "int_contents": [-1],
        "int64_contents": ["-2"],
        "uint_contents": [3],
        "uint64_contents": ["4"],
        "fp32_contents": [0.5],
        "fp64_contents": [0.25],
        "bytes_contents": ["AAEC"],
    },
}
# Messages that only one peer has in this form.
OWN_SAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "kserve": {
        "RepositoryModelLoadResponse": {"model_name": "m", "isLoaded": True},
        "RepositoryModelUnloadResponse": {"model_name": "m", "isUnloaded": True},
    },
    "triton": {
        "RepositoryModelLoadRequest": {
            "repository_name": "r",
            "model_name": "m",
            "parameters": {"config": {"string_param": "{}"}, "file": {"bytes_param": "AAEC"}},
        },
        "RepositoryModelUnloadRequest": {"model_name": "m", "parameters": {"all": {"bool_param": True}}},
        "RepositoryModelLoadResponse": {},
        "InferParameter": {"double_param": 0.5},
    },
}

# Runs in the peer's process. Reads the samples from stdin; answers with what both sides made of each other's
# bytes, with the peer's descriptors, and with both wire forms of a load request. An unknown field would be
# missing from the dictionaries.
SCRIPT = """
import importlib, json, sys
order, peer_module = sys.argv[1:]
modules = [peer_module, "saccade_serving.oip.proto"]
first, second = [importlib.import_module(m) for m in (modules if order == "peer first" else modules[::-1])]
peer, ours = (first, second) if order == "peer first" else (second, first)
from google.protobuf.json_format import MessageToDict, ParseDict

def exchange(name, fields):
    theirs = ParseDict(fields, getattr(peer, name)())
    wire = theirs.SerializeToString(deterministic=True)
    read = ours._class(name).FromString(wire)
    back = type(theirs).FromString(read.SerializeToString(deterministic=True))
    show = lambda message: MessageToDict(message, preserving_proto_field_name=True)
    assert ParseDict(fields, type(read)()).SerializeToString(deterministic=True) == wire, name
    return [show(theirs), show(read), show(back)]

def fields_of(descriptor, found):
    if descriptor.full_name not in found:
        found[descriptor.full_name] = {
            f.name: [f.number, f.type, f.is_repeated, f.message_type and f.message_type.full_name,
                     f.containing_oneof and f.containing_oneof.name]
            for f in descriptor.fields
        }
        for f in descriptor.fields:
            if f.message_type:
                fields_of(f.message_type, found)
    return found

def descriptors(module, names):
    found = {}
    for name in names:
        fields_of(module._class(name).DESCRIPTOR if module is ours else getattr(module, name).DESCRIPTOR, found)
    return found

samples = json.load(sys.stdin)
names = [n for method in ours.METHODS for n in (method + "Request", method + "Response")]
load = peer.RepositoryModelLoadRequest(model_name="m")
json.dump({
    "exchanged": {name: exchange(name, fields) for name, fields in samples.items()},
    "descriptors": [descriptors(ours, names), descriptors(peer, names)],
    "methods": {
        m.name: [m.input_type.full_name, m.output_type.full_name]
        for m in peer.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    },
    "load": ours.repository_model_name(ours.RepositoryModelLoadRequest.FromString(load.SerializeToString())),
}, sys.stdout)
"""


def meet(peer: str, order: str = "peer first") -> Any:
    """Exchange the samples with a peer's own classes, in a process of its own."""
    path = os.pathsep.join([str(Path(saccade_serving.__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, order, PEERS[peer]],
        input=json.dumps(SAMPLES | OWN_SAMPLES[peer]),
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=sorted(PEERS))
def met(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, meet(request.param)


def test_each_message_reads_the_same_on_both_sides(met: tuple[str, Any]) -> None:
    peer, result = met
    assert set(result["exchanged"]) == set(SAMPLES) | set(OWN_SAMPLES[peer])
    for name, (theirs, ours, back) in result["exchanged"].items():
        assert ours == theirs, name
        assert back == theirs, name


def test_every_field_has_the_peers_number_and_type(met: tuple[str, Any]) -> None:
    peer, result = met
    ours, theirs = result["descriptors"]
    for message, fields in theirs.items():
        if peer == "kserve" and message.startswith("inference.RepositoryModel") and message.endswith("Request"):
            continue  # Triton's form; repository_model_name reads both.
        for name, field in fields.items():
            assert ours[message][name] == field, f"{message}.{name}"
    if peer == "triton":
        surplus = {f"{message}.{name}" for message in theirs for name in ours[message] if name not in theirs[message]}
        assert surplus == {
            "inference.ModelMetadataResponse.properties",
            "inference.RepositoryModelLoadResponse.model_name",
            "inference.RepositoryModelLoadResponse.isLoaded",
            "inference.RepositoryModelUnloadResponse.model_name",
            "inference.RepositoryModelUnloadResponse.isUnloaded",
        }


def test_every_method_is_the_peers(met: tuple[str, Any]) -> None:
    _, result = met
    for name, (request, response) in proto.METHODS.items():
        assert result["methods"][name] == [request.DESCRIPTOR.full_name, response.DESCRIPTOR.full_name]


def test_a_load_request_names_its_model_in_either_wire_form(met: tuple[str, Any]) -> None:
    _, result = met
    assert result["load"] == "m"


@pytest.mark.parametrize("peer", sorted(PEERS))
def test_the_peer_can_also_be_imported_later(peer: str) -> None:
    assert meet(peer, "ours first")["load"] == "m"


def test_the_model_name_wins_over_the_repository_name() -> None:
    message = proto.RepositoryModelUnloadRequest(repository_name="r", model_name="m")
    assert proto.repository_model_name(message) == "m"
    assert proto.repository_model_name(proto.RepositoryModelUnloadRequest(repository_name="m")) == "m"
    assert proto.repository_model_name(proto.RepositoryModelLoadRequest()) == ""


def test_model_metadata_has_the_protocols_properties() -> None:
    message = proto.ModelMetadataResponse(name="m", properties={"saccade.input": "rgb_nhwc"})
    read = proto.ModelMetadataResponse.FromString(message.SerializeToString())
    assert dict(read.properties) == {"saccade.input": "rgb_nhwc"}
    assert message.DESCRIPTOR.fields_by_name["properties"].number == 6


def test_the_methods_table_holds_the_exposed_classes() -> None:
    assert proto.SERVICE == "inference.GRPCInferenceService"
    assert proto.METHODS["ModelInfer"] == (proto.ModelInferRequest, proto.ModelInferResponse)
    for name, (request, response) in proto.METHODS.items():
        assert request is getattr(proto, f"{name}Request")
        assert response is getattr(proto, f"{name}Response")
