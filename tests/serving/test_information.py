"""What a server tells over REST beside inference, asked through an ASGI application."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from starlette.applications import Starlette

from informed_model import InformedModel, PlainModel, gate_of
from saccade_serving import __version__
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.information import InformationRoutes
from saccade_serving.connection.openapi import describe_api, errors_of
from saccade_serving.errors import InvalidRequest
from saccade_serving.model import ServedModel
from saccade_serving.statistics import Statistics


class Server:
    """The routes of a gate, and how to ask them."""

    def __init__(self, *models: ServedModel) -> None:
        self.gate: Gate = gate_of(*models)
        self.counted = Statistics()
        app = Starlette(routes=InformationRoutes(self.gate, self.counted).routes())
        self._transport = httpx.ASGITransport(app)

    async def ask(self, path: str, method: str = "GET", content: bytes = b"") -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://server") as client:
            return await client.request(method, path, content=content)

    async def told(self, path: str, method: str = "GET", content: bytes = b"") -> Any:
        response = await self.ask(path, method, content)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        return response.json()

    async def refusal(self, path: str, status: int, method: str = "GET", content: bytes = b"") -> str:
        response = await self.ask(path, method, content)
        assert response.status_code == status, response.text
        assert list(response.json()) == ["error"]
        return str(response.json()["error"])


async def test_the_server_names_itself_and_each_extension_once() -> None:
    told = await Server(InformedModel(), PlainModel("p")).told("/v2")
    assert told == {
        "name": "saccade",
        "version": __version__,
        "extensions": ["binary_tensor_data", "parameters", "statistics", "classification", "model_configuration"],
    }


async def test_extensions_that_no_model_has_are_not_claimed() -> None:
    told = await Server(PlainModel()).told("/v2")
    assert told["extensions"] == ["binary_tensor_data", "parameters", "statistics"]


async def test_the_process_lives_whatever_its_models_do() -> None:
    assert await Server(InformedModel(ready=False)).told("/v2/health/live") == {"live": True}


async def test_the_server_is_ready_when_all_models_are() -> None:
    slow = InformedModel("slow", ready=False)
    server = Server(InformedModel(), slow)
    assert "slow" in await server.refusal("/v2/health/ready", 503)
    assert (await server.ask("/v2/health/ready")).headers["retry-after"] == "1"
    slow.ready = True
    assert await server.told("/v2/health/ready") == {"ready": True}
    server.gate.draining = True
    assert "shutting down" in await server.refusal("/v2/health/ready", 503)


@pytest.mark.parametrize("version", ["", "/versions/3"])
async def test_a_model_tells_whether_it_is_ready(version: str) -> None:
    server = Server(InformedModel())
    assert await server.told(f"/v2/models/m{version}/ready") == {"name": "m", "ready": True}
    server.gate.draining = True
    await server.refusal(f"/v2/models/m{version}/ready", 503)


@pytest.mark.parametrize("question", ["", "/ready", "/config", "/stats"])
async def test_unknown_models_and_versions_are_404_with_what_there_is(question: str) -> None:
    server = Server(InformedModel())
    assert "available: m" in await server.refusal(f"/v2/models/absent{question}", 404)
    assert "available: 1, 3" in await server.refusal(f"/v2/models/m/versions/7{question}", 404)


@pytest.mark.parametrize("question", ["", "/ready", "/config", "/stats"])
async def test_a_model_that_is_not_ready_says_why(question: str) -> None:
    model = InformedModel(ready=False)
    model.not_ready_because = "its file is made of cheese"
    assert "cheese" in await Server(model).refusal(f"/v2/models/m{question}", 503)


async def test_metadata_is_of_all_versions_or_of_one() -> None:
    server = Server(InformedModel())
    told = await server.told("/v2/models/m")
    assert (told["name"], told["versions"], told["platform"]) == ("m", ["1", "3"], "fake")
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert (await server.told("/v2/models/m/versions/3"))["versions"] == ["3"]


async def test_the_configuration_is_the_models_own() -> None:
    server = Server(InformedModel(), PlainModel("p"))
    assert await server.told("/v2/models/m/config") == {"name": "m", "max_batch_size": 8}
    assert await server.told("/v2/models/m/versions/1/config") == {"name": "m", "max_batch_size": 8}
    assert "'p' has no Triton configuration" in await server.refusal("/v2/models/p/config", 501)


async def test_statistics_are_of_a_version_of_a_model_or_of_all_that_are_ready() -> None:
    server = Server(InformedModel(), InformedModel("n", versions=["2"]), InformedModel("slow", ready=False))
    server.counted.of("m", "3").succeeded(2, 500)

    async def counts(path: str) -> list[tuple[str, str, int]]:
        told = (await server.told(path))["model_stats"]
        return [(stats["name"], stats["version"], stats["inference_count"]) for stats in told]

    assert await counts("/v2/models/m/versions/3/stats") == [("m", "3", 2)]
    assert await counts("/v2/models/m/stats") == [("m", "1", 0), ("m", "3", 2)]
    assert await counts("/v2/models/stats") == [("m", "1", 0), ("m", "3", 2), ("n", "2", 0)]


async def test_the_index_lists_versions_and_why_a_model_is_not_ready() -> None:
    failed, loading = InformedModel("failed", ready=False), InformedModel("loading", ready=False)
    failed.not_ready_because = "it could not be loaded"
    server = Server(InformedModel(), failed, loading)
    told = await server.told("/v2/repository/index", "POST")
    assert [(entry["name"], entry["version"], entry["state"]) for entry in told] == [
        ("m", "1", "READY"),
        ("m", "3", "READY"),
        ("failed", "", "UNAVAILABLE"),
        ("loading", "", "LOADING"),
    ]
    assert told[0]["reason"] == ""
    assert "could not be loaded" in told[2]["reason"]
    assert await server.told("/v2/repository/index", "POST", b'{"ready": true}') == told[:2]
    assert await server.told("/v2/repository/index", "POST", b'{"ready": false}') == told
    server.gate.draining = True
    told = await server.told("/v2/repository/index", "POST")
    assert {entry["state"] for entry in told[:2]} == {"UNAVAILABLE"}


async def test_a_bad_index_request_is_refused_and_a_large_one_not_read() -> None:
    server = Server(InformedModel())
    assert "'yes'" in await server.refusal("/v2/repository/index", 400, "POST", b'{"ready": "yes"}')
    assert "not valid JSON" in await server.refusal("/v2/repository/index", 400, "POST", b"{")
    assert "4096" in await server.refusal("/v2/repository/index", 413, "POST", b" " * 5000)


SYSTEM = "/v2/systemsharedmemory"
CUDA = "/v2/cudasharedmemory"


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("POST", "/v2/repository/models/m/load", "when the server starts"),
        ("POST", "/v2/repository/models/m/unload", "when the server starts"),
        *[("GET", f"{kind}{where}/status", "binary data") for kind in (SYSTEM, CUDA) for where in ("", "/region/r")],
        *[("POST", f"{kind}/region/r/register", "binary data") for kind in (SYSTEM, CUDA)],
        *[
            ("POST", f"{kind}{where}/unregister", "binary data")
            for kind in (SYSTEM, CUDA)
            for where in ("", "/region/r")
        ],
        *[(method, "/v2/trace/setting", "traceparent") for method in ("GET", "POST")],
        *[(method, "/v2/models/m/trace/setting", "traceparent") for method in ("GET", "POST")],
        *[(method, "/v2/logging", "log_level") for method in ("GET", "POST")],
    ],
)
async def test_what_is_not_offered_says_so_and_what_to_do_instead(method: str, path: str, word: str) -> None:
    assert word in await Server(InformedModel()).refusal(path, 501, method, b"{}" if method == "POST" else b"")


async def test_a_bug_is_answered_without_its_words() -> None:
    class Broken(InformedModel):
        def config(self, version: str = "") -> Any:
            raise RuntimeError("cannot open /secret/path")

    assert "secret" not in await Server(Broken()).refusal("/v2/models/m/config", 500)


def test_the_api_is_described_as_openapi_wants_it() -> None:
    extra = {"/detect": {"post": {"operationId": "detect", "responses": errors_of(InvalidRequest)}}}
    document = describe_api(extra, {"Detection": {"type": "object"}})
    validate(document)
    assert json.loads(json.dumps(document)) == document
    assert document["info"]["version"] == __version__
    assert document["paths"]["/detect"]["post"]["responses"]["400"]["content"]
    assert "Detection" in document["components"]["schemas"]
    assert "/detect" not in describe_api()["paths"]


def test_every_error_of_inference_is_described() -> None:
    for path, item in describe_api()["paths"].items():
        if path.endswith("/infer"):
            codes = {str(code) for code in (200, 400, 404, 408, 413, 415, 500, 501, 502, 503, 504)}
            assert set(item["post"]["responses"]) == codes


def test_what_is_described_cannot_be_described_otherwise() -> None:
    with pytest.raises(ValueError, match="/v2 is described already"):
        describe_api({"/v2": {}})
    with pytest.raises(ValueError, match="Error is described already"):
        describe_api(None, {"Error": {}})


async def test_every_described_path_that_is_no_inference_is_a_route_and_answers_as_described() -> None:
    server = Server(InformedModel())
    for path, item in describe_api()["paths"].items():
        if path in ("/", "/v2/models") or path.startswith("/v1/") or path.endswith("/infer"):
            continue  # KServe's; the data plane
        if path.startswith("/v2/repository/models/"):
            continue  # test_control.py
        filled = path.replace("{model_name}", "m").replace("{version}", "1")
        for method in item.keys() & {"get", "post"}:
            told = await server.told(filled, method.upper())
            answer = item[method]["responses"]["200"]["content"]["application/json"]["schema"]
            reference = answer.get("$ref", "").rpartition("/")[2]
            schema = describe_api()["components"]["schemas"][reference] if reference else answer
            if schema.get("required"):
                assert set(schema["required"]) <= set(told), path
