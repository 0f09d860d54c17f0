"""A real predictor whose models come, change and go: by calls with a key, by the admin listener, by polling."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import onnx_graphs as graphs
from integration_support import HOST, SOON_S, Address, Answer, Service, eventually, run_client
from measuring.memory import rss_bytes
from measuring.processes import free_port
from plan_support import put_version
from saccade_serving.oip import proto

KEY = "only for the operator"
HEADER = "x-saccade-control-key"
INFER = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}]}).encode()
CONFIG = 'backend: "onnxruntime" max_batch_size: 4 dynamic_batching {}\n'


@dataclass
class Predictor:
    """The process and its repository."""

    service: Service
    repository: Path
    admin: Address

    @property
    def address(self) -> Address:
        return self.service.address

    def put(self, name: str, version: int = 1, *, doubles: bool = False, config: str | None = CONFIG) -> None:
        """Lay a version out beside the repository, and move it in: a version appears complete."""
        aside = self.repository.with_name("aside") / "model.onnx"
        (graphs.doubling if doubles else graphs.identity)(aside)
        model = self.repository / name
        model.mkdir(exist_ok=True)
        if config is not None and not (model / "config.pbtxt").exists():
            (model / "config.pbtxt").write_text(config)
        aside.parent.rename(model / str(version))

    def drop(self, name: str, version: int) -> None:
        shutil.rmtree(self.repository / name / str(version))

    def control(self, verb: str, name: str, key: str = KEY) -> Answer:
        return self.address.http(f"/v2/repository/models/{name}/{verb}", b"", {HEADER: key}, timeout_s=60)

    def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        answer = self.address.http("/v2/repository/index", b"{}")
        assert answer.status == 200
        return {(entry["name"], entry["version"]): (entry["state"], entry["reason"]) for entry in answer.json}

    def ask(self, name: str) -> tuple[str, float]:
        answer = self.address.http(f"/v2/models/{name}/infer", INFER)
        assert answer.status == 200, answer.body
        return answer.json["model_version"], answer.json["outputs"][0]["data"][0]

    def leases(self) -> float:
        samples = self.address.scrape()
        return sum(samples.total("saccade_arena_bytes", state=one) for one in ("receiving", "queued", "staged"))


def start(root: Path, flags: Sequence[str], repository: Path, environment: Mapping[str, str]) -> Predictor:
    address = Address(free_port(), free_port(), free_port())
    admin = Address(free_port(), 0, 0)
    service = Service(
        "predictor",
        address,
        root / "predictor.log",
        [*flags],
        {"MODEL_REPOSITORY": str(repository), "LOG_FORMAT": "json", **environment, "ADMIN_PORT": str(admin.rest)},
    )
    return Predictor(service, repository, admin)


def wait_live(service: Service) -> None:
    def live() -> bool:
        assert service.process.poll() is None, service.log.read_text()
        try:
            return service.address.http("/v2/health/live").status == 200
        except OSError:
            return False

    eventually("the predictor listens", live, 90)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def explicit(tmp_path: Path, repository: Path) -> Iterator[Predictor]:
    predictor = start(
        tmp_path, ["--model-control-mode=explicit", "--load-model=a"], repository, {"MODEL_CONTROL_KEY": KEY}
    )
    predictor.put("a")
    predictor.put("b", doubles=True)
    with predictor.service:
        predictor.service.wait_ready("a")
        yield predictor


def test_models_are_loaded_and_unloaded_over_rest_with_the_key(explicit: Predictor) -> None:
    assert explicit.index() == {("a", "1"): ("READY", ""), ("b", ""): ("UNAVAILABLE", "not loaded")}
    assert explicit.address.http("/v2/models/b/infer", INFER).status == 404
    assert explicit.control("load", "b", "wrong").status == 403
    assert explicit.control("load", "b").json == {"name": "b", "load": True}
    assert explicit.ask("b") == ("1", 2.0)
    assert explicit.control("unload", "a").status == 200
    assert explicit.index() == {("a", ""): ("UNAVAILABLE", "unloaded"), ("b", "1"): ("READY", "")}
    assert explicit.address.http("/v2/models/a/ready").status == 404
    assert explicit.service.stop() == 0


@pytest.mark.parametrize("field_name", ["model_name", "repository_name"], ids=["Triton's form", "KServe's form"])
def test_models_are_loaded_and_unloaded_over_grpc_with_the_key(explicit: Predictor, field_name: str) -> None:
    load = proto.RepositoryModelLoadRequest(**{field_name: "b"})
    refused = explicit.address.rpc("RepositoryModelLoad", load)
    assert refused.code == "PERMISSION_DENIED"
    assert "is missing" in refused.details
    loaded = explicit.address.rpc("RepositoryModelLoad", load, metadata=[(HEADER, KEY)])
    assert (loaded.code, loaded.message.isLoaded) == ("OK", True)
    assert explicit.ask("b") == ("1", 2.0)
    unload = proto.RepositoryModelUnloadRequest(**{field_name: "b"})
    assert explicit.address.rpc("RepositoryModelUnload", unload, metadata=[(HEADER, KEY)]).message.isUnloaded
    again = explicit.address.rpc("RepositoryModelUnload", unload, metadata=[(HEADER, KEY)])
    assert again.code == "OK", "it is unloaded already"
    absent = proto.RepositoryModelUnloadRequest(**{field_name: "absent"})
    missing = explicit.address.rpc("RepositoryModelUnload", absent, metadata=[(HEADER, KEY)])
    assert (missing.code, "it has: a" in missing.details) == ("NOT_FOUND", True)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritons_own_client_loads_and_unloads(explicit: Predictor, protocol: str) -> None:
    port = explicit.address.rest if protocol == "http" else explicit.address.grpc
    told = run_client("triton_control.py", protocol, f"{HOST}:{port}", HEADER, KEY)
    assert told == {"before": False, "loaded": True, "largest": 2, "unloaded": False, "refused": True}


def test_the_admin_listener_needs_no_key(explicit: Predictor) -> None:
    assert explicit.admin.http("/v2/repository/models/b/load", b"").status == 200
    assert explicit.ask("b") == ("1", 2.0)
    origin = {"Origin": "http://evil.example"}
    assert explicit.admin.http("/v2/repository/models/b/unload", b"", origin).status == 403
    assert explicit.admin.http("/v2/models/b/infer", INFER).status == 404


def test_polling_follows_the_repository(tmp_path: Path, repository: Path) -> None:
    predictor = start(tmp_path, ["--model-control-mode=poll", "--repository-poll-secs=0.1"], repository, {})
    predictor.put("a")
    with predictor.service:
        predictor.service.wait_ready("a")
        predictor.put("a", 2, doubles=True)
        eventually("version 2 takes over", lambda: predictor.ask("a") == ("2", 2.0))
        predictor.put("b")
        eventually("b is served", lambda: predictor.address.is_ready("b"))
        shutil.rmtree(repository / "b")
        eventually("b is gone", lambda: ("b", "1") not in predictor.index())
        assert predictor.control("load", "b").status == 501
        assert predictor.service.stop() == 0


def test_without_a_mode_load_and_unload_are_refused_with_the_reason(tmp_path: Path, repository: Path) -> None:
    predictor = start(tmp_path, [], repository, {})
    predictor.put("a")
    with predictor.service:
        predictor.service.wait_ready("a")
        refused = predictor.control("unload", "a")
        assert refused.status == 501
        assert "model_control_mode is 'none'" in refused.error
        with pytest.raises(OSError, match="refused"):
            predictor.admin.http("/v2/repository/index", b"")


def test_broken_models_are_in_the_index_with_their_reasons_while_others_go_on(
    tmp_path: Path, repository: Path
) -> None:
    predictor = start(tmp_path, [], repository, {})
    predictor.put("good")
    predictor.put("malformed", config="max_batch_size: [")
    predictor.put("unknown", config=CONFIG + "max_batch_sice: 3")
    predictor.put("refused", config=CONFIG + "sequence_batching {}")
    predictor.put("corrupt")
    (repository / "corrupt" / "1" / "model.onnx").write_bytes(b"cheese")
    predictor.put("missing", config=CONFIG + "version_policy { specific { versions: [7] } }")
    predictor.put("empty")
    (repository / "empty" / "1" / "model.onnx").unlink()
    put_version(repository / "planned" / "1", compute_capabilities=("1.0",))  # of a GPU that no machine has
    (repository / "planned" / "config.pbtxt").write_text('backend: "tensorrt_rtx" max_batch_size: 8')
    with predictor.service:
        predictor.service.wait_ready("good")
        reasons = {
            "malformed": "malformed/config.pbtxt: line 1",
            "unknown": "max_batch_sice",
            "refused": "sequence_batching",
            "corrupt": "model.onnx cannot be loaded by ONNX Runtime",
            "missing": "has no version to serve (versions found: 1)",
            "empty": "empty/1 has no file 'model.onnx' (found: nothing)",
            "planned": "planned/1/model.plan",
        }

        def told() -> bool:
            return sum(state == "UNAVAILABLE" for state, _ in predictor.index().values()) == len(reasons)

        eventually("all have failed", told)
        for (name, _), (state, reason) in predictor.index().items():
            assert state == ("READY" if name == "good" else "UNAVAILABLE")
            assert reasons.get(name, "") in reason
            assert str(tmp_path) not in reason
        missed = {
            ("malformed", ""): "config",
            ("unknown", ""): "config",
            ("refused", ""): "config",
            ("corrupt", "1"): "load",
            ("missing", ""): "files",
            ("empty", "1"): "files",
            ("planned", "1"): "plan",
        }
        samples = predictor.address.scrape()
        for (name, version), kind in missed.items():
            assert samples.total("saccade_model_unavailable", model=name, version=version, reason=kind) == 1
        assert samples.total("saccade_model_unavailable") == len(missed)
        assert predictor.ask("good") == ("1", 1.0)
        refused = predictor.address.http("/v2/models/corrupt/infer", INFER)
        assert refused.status == 503
        assert str(tmp_path) not in refused.error


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (["--model-control-mode=explicit"], {"ADMIN_PORT": "0"}, "expected SACCADE_PREDICTOR_MODEL_CONTROL_KEY"),
        (["--model-control-mode=explicit"], {"MODEL_CONTROL_KEY": "short"}, "is shorter than 16 characters"),
        (["--load-model=a"], {}, "--load-model needs --model-control-mode=explicit"),
        (["--model-control-mode=explicit", "--load-model=z"], {}, "no model 'z' to load (found: a)"),
    ],
)
def test_a_mode_that_cannot_be_ends_the_start_with_the_reason(
    tmp_path: Path, repository: Path, flags: list[str], environment: dict[str, str], words: str
) -> None:
    predictor = start(tmp_path, flags, repository, {})
    predictor.put("a")
    predictor.service.environment = {**predictor.service.environment, **environment}
    with predictor.service as service:
        assert service.ended() == 1
        said = service.log.read_text()
        assert words in said
        assert "'short'" not in said, "a key is never repeated"


# Changes under load


@dataclass
class Load:
    """Clients that ask without a pause."""

    predictor: Predictor
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[Any] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, name: str) -> None:
        connection = HTTPConnection(HOST, self.predictor.address.rest, timeout=SOON_S)
        while not self.stopping.is_set():
            connection.request("POST", f"/v2/models/{name}/infer", INFER, {"content-type": "application/json"})
            response = connection.getresponse()
            body = response.read()
            self.answers[name, response.status] += 1
            if response.status == 200:
                told = json.loads(body)
                # Odd versions double.
                if told["outputs"][0]["data"][0] != 1 + int(told["model_version"]) % 2:
                    self.wrong.append(told)
            elif name == "hot" or response.status not in (404, 503):
                self.wrong.append((response.status, body))
        connection.close()


def change_under_load(predictor: Predictor, changes: int) -> Load:
    """Versions of "hot" change under its clients; "cold" comes and goes under others, who may be told so."""
    load = Load(predictor)
    [newest] = [int(path.name) for path in (predictor.repository / "hot").iterdir() if path.is_dir()]
    begun = time.monotonic()
    with ThreadPoolExecutor(6) as clients:
        running = [clients.submit(load.run, name) for name in ("hot", "hot", "hot", "cold")]
        try:
            for number in range(changes):
                match number % 4:
                    case 0:
                        predictor.put("hot", newest + 1, doubles=(newest + 1) % 2 == 1)
                        answer = predictor.control("load", "hot")
                    case 1:
                        predictor.drop("hot", newest)
                        newest += 1
                        answer = predictor.control("load", "hot")
                    case 2:
                        answer = predictor.control("load", "cold")
                    case _:
                        answer = predictor.control("unload", "cold")
                assert answer.status == 200, answer.body
                if number and number % 1000 == 0:
                    rss = rss_bytes(predictor.service.process.pid) / 2**20
                    print(f"{number} changes, {time.monotonic() - begun:.0f} s, RSS {rss:.1f} MiB, {load.answers}")
        finally:
            load.stopping.set()
        for one in running:
            one.result(SOON_S)
    assert load.wrong == []
    assert load.answers["hot", 200] > changes / 4
    assert {status for name, status in load.answers if name == "hot"} == {200}
    eventually("all memory is given back", lambda: predictor.leases() == 0)
    return load


@pytest.fixture
def changing(tmp_path: Path, repository: Path) -> Iterator[Predictor]:
    flags = ["--model-control-mode=explicit", "--load-model=hot"]
    predictor = start(tmp_path, flags, repository, {"MODEL_CONTROL_KEY": KEY, "LOG_LEVEL": "warning"})
    predictor.put("hot", doubles=True, config=CONFIG + "version_policy { all {} }")
    predictor.put("cold", doubles=True)
    with predictor.service:
        predictor.service.wait_ready("hot")
        yield predictor


def test_no_request_fails_while_versions_and_models_change(changing: Predictor) -> None:
    load = change_under_load(changing, 80)
    assert load.answers["cold", 200]
    assert changing.service.stop() == 0
    assert changing.service.events() == [], "no warning, no error"


@pytest.mark.soak
def test_no_request_fails_in_ten_thousand_changes_and_nothing_grows(changing: Predictor) -> None:
    pid = changing.service.process.pid
    change_under_load(changing, 1000)
    before = rss_bytes(pid)
    load = change_under_load(changing, 9000)
    grown = rss_bytes(pid) - before
    print(f"10,000 changes, {load.answers}; RSS grew by {grown / 2**20:.1f} MiB over the last 9,000")
    assert grown < 48 * 2**20
    assert changing.service.stop() == 0
