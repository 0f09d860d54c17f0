"""Loading and unloading on request: who may, what is understood, and what is said to the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from informed_model import InformedModel, gate_of
from saccade_serving.connection.control import CONTROL_KEY, MAX_CONTROL_BYTES, Mode, admin_application
from saccade_serving.connection.information import Information, InformationRoutes
from saccade_serving.connection.openapi import describe_api
from saccade_serving.errors import InvalidRequest, ModelNotFound
from saccade_serving.statistics import Statistics

KEY = "correct horse battery"


class FakeControl:
    """Notes what it is told; knows the model "m", and cannot load "broken"."""

    def __init__(self, mode: Mode = "explicit", key: str = KEY) -> None:
        self.mode: Mode = mode
        self.key = key
        self.told: list[tuple[str, str, str | None]] = []

    async def look(self) -> None: ...

    def unserved(self) -> list[dict[str, str]]:
        return [{"name": "idle", "version": "", "state": "UNAVAILABLE", "reason": "not loaded"}]

    async def load(self, name: str, config: str | None = None) -> None:
        if name == "broken":
            raise InvalidRequest("model 'broken' could not be loaded: it is made of cheese")
        self.told.append(("load", name, config))

    async def unload(self, name: str) -> None:
        if name != "m":
            raise ModelNotFound(name, known=["m"])
        self.told.append(("unload", name, None))

    async def watch(self) -> None: ...

    async def close(self) -> None: ...


class Server:
    def __init__(self, control: FakeControl | None) -> None:
        self.gate = gate_of(InformedModel())
        self.gate.control = control
        routes = InformationRoutes(self.gate, Statistics())
        self._open = httpx.ASGITransport(Starlette(routes=routes.routes()))
        self._admin = httpx.ASGITransport(admin_application(self.gate, routes.index))

    async def post(
        self,
        what: str,
        content: bytes | Mapping[str, Any] = b"",
        headers: Mapping[str, str] | None = None,
        *,
        admin: bool = False,
    ) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        base = "http://127.0.0.1:9000" if admin else "http://server"
        async with httpx.AsyncClient(transport=self._admin if admin else self._open, base_url=base) as client:
            return await client.post(f"/v2/repository/{what}", content=body, headers=headers or {})


WITH_KEY = {CONTROL_KEY: KEY}


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize(
    ("control", "words"),
    [
        (None, "loading and unloading on request is not offered here"),
        (FakeControl("none"), "model_control_mode is 'none'; expected 'explicit'"),
        (FakeControl("poll"), "follow the model repository"),
    ],
    ids=["without", "none", "poll"],
)
async def test_control_that_is_off_says_so_whatever_key_is_shown(
    verb: str, control: FakeControl | None, words: str
) -> None:
    answer = await Server(control).post(f"models/m/{verb}", headers=WITH_KEY)
    assert answer.status_code == 501
    assert words in answer.json()["error"]


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize(
    ("shown", "words"), [({}, "is missing"), ({CONTROL_KEY: KEY[:-1]}, "is wrong"), ({CONTROL_KEY: ""}, "is missing")]
)
async def test_without_the_key_nothing_is_done(verb: str, shown: dict[str, str], words: str) -> None:
    control = FakeControl()
    answer = await Server(control).post(f"models/m/{verb}", headers=shown)
    assert answer.status_code == 403
    assert words in answer.json()["error"]
    assert CONTROL_KEY in answer.json()["error"]
    assert KEY not in answer.text
    assert control.told == []


async def test_blanks_around_a_key_are_not_part_of_it() -> None:
    answer = await Server(FakeControl()).post("models/m/load", headers={CONTROL_KEY: f"{KEY} \t"})
    assert answer.status_code == 200


async def test_a_key_that_was_never_set_fits_nothing() -> None:
    control = FakeControl(key="")
    for shown in ({}, {CONTROL_KEY: ""}, {CONTROL_KEY: "x"}):
        answer = await Server(control).post("models/m/load", headers=shown)
        assert answer.status_code == 403
        assert "admin listener only" in answer.json()["error"]
    assert control.told == []


async def test_with_the_key_models_are_loaded_and_unloaded() -> None:
    control = FakeControl()
    server = Server(control)
    loaded = await server.post("models/m/load", headers=WITH_KEY)
    assert (loaded.status_code, loaded.json()) == (200, {"name": "m", "load": True})
    text = '{"backend": "onnxruntime"}'
    await server.post("models/m/load", {"parameters": {"config": text}}, WITH_KEY)
    unloaded = await server.post("models/m/unload", {"parameters": {"unload_dependents": True}}, WITH_KEY)
    assert (unloaded.status_code, unloaded.json()) == (200, {"name": "m", "unload": True})
    assert control.told == [("load", "m", None), ("load", "m", text), ("unload", "m", None)]


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_the_answer_is_as_it_is_described(verb: str) -> None:
    described = describe_api()["paths"][f"/v2/repository/models/{{model_name}}/{verb}"]["post"]["responses"]
    assert set(described) == {"200", "400", "403", "404", "413", "501", "503"}
    told = (await Server(FakeControl()).post(f"models/m/{verb}", headers=WITH_KEY)).json()
    assert set(told) == set(described["200"]["content"]["application/json"]["schema"]["required"])


@pytest.mark.parametrize(
    ("verb", "body", "status", "words"),
    [
        ("load", b"[]", 400, "the load request"),
        ("load", b"{", 400, "the load request"),
        ("load", {"parameters": []}, 400, "'parameters' of the load request is not an object"),
        ("load", {"parameters": {"config": 5}}, 400, "'config' is not a string"),
        ("load", {"parameters": {"file:1/model.onnx": "AAAA"}}, 400, "come from the repository, not from a request"),
        ("load", {"parameters": {"speed": 1}}, 400, "'speed' of a load is not known"),
        ("unload", {"parameters": {"force": True}}, 400, "'force' of an unload is not known"),
        ("load", b" " * (MAX_CONTROL_BYTES + 1), 413, "the limit is 1048576 bytes"),
    ],
)
async def test_what_is_not_understood_is_refused(verb: str, body: Any, status: int, words: str) -> None:
    control = FakeControl()
    answer = await Server(control).post(f"models/m/{verb}", body, WITH_KEY)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert control.told == []


async def test_what_the_service_refuses_is_passed_on() -> None:
    server = Server(FakeControl())
    broken = await server.post("models/broken/load", headers=WITH_KEY)
    assert (broken.status_code, broken.json()["error"]) == (
        400,
        "model 'broken' could not be loaded: it is made of cheese",
    )
    assert (await server.post("models/absent/unload", headers=WITH_KEY)).status_code == 404


async def test_who_stops_changes_nothing_any_more() -> None:
    server = Server(FakeControl())
    server.gate.draining = True
    assert (await server.post("models/m/load", headers=WITH_KEY)).status_code == 503


async def test_the_index_tells_also_of_what_is_not_served() -> None:
    server = Server(FakeControl())
    told = (await server.post("index")).json()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in told] == [
        ("m", "1", "READY"),
        ("m", "3", "READY"),
        ("idle", "", "UNAVAILABLE"),
    ]
    ready = (await server.post("index", {"ready": True})).json()
    assert {entry["name"] for entry in ready} == {"m"}


async def test_the_extension_is_claimed_where_there_is_control() -> None:
    assert "model_repository" in Information(Server(FakeControl("none")).gate, Statistics()).server()["extensions"]
    assert "model_repository" not in Information(Server(None).gate, Statistics()).server()["extensions"]


class TestAdminListener:
    async def test_it_needs_no_key(self) -> None:
        control = FakeControl(key="")
        server = Server(control)
        assert (await server.post("models/m/load", admin=True)).status_code == 200
        assert (await server.post("models/m/unload", admin=True)).status_code == 200
        assert [entry["name"] for entry in (await server.post("index", admin=True)).json()] == ["m", "m", "idle"]
        assert [verb for verb, _, _ in control.told] == ["load", "unload"]

    @pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1", "[::1]:9000"])
    async def test_names_of_this_machine_are_right(self, host: str) -> None:
        assert (await Server(FakeControl()).post("models/m/load", b"", {"host": host}, admin=True)).status_code == 200

    async def test_other_methods_are_refused_in_the_v2_form(self) -> None:
        server = Server(FakeControl())
        async with httpx.AsyncClient(transport=server._admin, base_url="http://127.0.0.1") as client:
            answer = await client.get("/v2/repository/index")
        assert answer.status_code == 405
        assert "expected POST" in answer.json()["error"]

    @pytest.mark.parametrize(
        "headers",
        [
            {"host": "evil.example@127.0.0.1"},
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"host": "evil.example"},
            {"host": "10.0.0.1"},
        ],
    )
    async def test_a_page_in_a_browser_is_refused(self, headers: dict[str, str]) -> None:
        control = FakeControl()
        answer = await Server(control).post("models/m/unload", b"", headers, admin=True)
        assert answer.status_code == 403
        assert control.told == []

    async def test_it_serves_nothing_else(self) -> None:
        answer = await Server(FakeControl()).post("../models/m/infer", admin=True)
        assert answer.status_code == 404
        assert "expected POST /v2/repository" in answer.json()["error"]
