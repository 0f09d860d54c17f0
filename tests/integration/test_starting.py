"""Services that cannot start say why in one line and end; a broken model does not take a good one with it."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration_support import HOST, INFER, MODEL, REPOSITORY, Address, Service, eventually, grey_rows, v2_grpc
from saccade_serving.oip import proto

CONFIG = (REPOSITORY / MODEL / "config.pbtxt").read_bytes()
ONNX = (REPOSITORY / MODEL / "1" / "model.onnx").read_bytes()
NO_PREDICTOR = ["--predictor_host=nowhere.invalid"]


def write_model(repository: Path, name: str = MODEL, **changes: bytes | None) -> Path:
    """Copy the example model under a name; a change replaces a file, None removes it. Return the repository."""
    shutil.copytree(REPOSITORY / MODEL, repository / name)
    (repository / name / "config.pbtxt").write_bytes(CONFIG.replace(b'name: "detector"', f'name: "{name}"'.encode()))
    for file, content in changes.items():
        path = repository / name / {"model": "1/model.onnx", "config": "config.pbtxt", "labels": "labels.txt"}[file]
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    return repository


def write_without_version(repository: Path, name: str = MODEL) -> Path:
    shutil.rmtree(write_model(repository, name) / name / "1")
    return repository


@dataclass(frozen=True)
class Broken:
    """A start that must fail.

    Attributes:
        words: in exactly one line of the log.
        repository: writes it; the example one if None.
        taken: which of its ports somebody else has; its number is appended to the words.
    """

    service: str
    words: str
    flags: Sequence[str] = ()
    settings: tuple[tuple[str, str], ...] = ()
    repository: Callable[[Path], Path] | None = None
    code: int = 1
    taken: str = ""


STARTS: dict[str, Broken] = {
    "repository missing": Broken(
        "predictor", "is not a directory; set SACCADE_PREDICTOR_MODEL_REPOSITORY", repository=lambda root: root
    ),
    "model unknown": Broken("predictor", "holds no model 'absent' (found: detector)", ["--model_name=absent"]),
    "model corrupt": Broken(
        "predictor",
        "cannot be loaded by ONNX Runtime",
        repository=lambda root: write_model(root, model=b"no onnx" * 100),
    ),
    "config malformed": Broken(
        "predictor", "config.pbtxt", repository=lambda root: write_model(root, config=b"max_batch_size: [")
    ),
    "version missing": Broken("predictor", "has no version to serve", repository=write_without_version),
    "setting of the wrong kind": Broken(
        "predictor", "SACCADE_PREDICTOR_MAX_QUEUE_SIZE='many'", settings=(("MAX_QUEUE_SIZE", "many"),)
    ),
    "arrival trace in a folder that is not there": Broken(
        "predictor",
        "SACCADE_PREDICTOR_ARRIVAL_TRACE='/absent/trace': the file cannot be written: No such file or directory",
        settings=(("ARRIVAL_TRACE", "/absent/trace"),),
    ),
    "setting out of range": Broken(
        "transformer",
        "SACCADE_TRANSFORMER_SCORE_THRESHOLD='1.5'",
        NO_PREDICTOR,
        (("SCORE_THRESHOLD", "1.5"), ("LOG_LEVEL", "loud")),
    ),
    "predictor not named": Broken(
        "transformer", "--predictor_host is missing; expected the predictor's host:port", code=2
    ),
    "REST port of the predictor taken": Broken("predictor", f"cannot listen on {HOST}:", taken="rest"),
    "REST port taken": Broken("transformer", f"cannot listen on {HOST}:", NO_PREDICTOR, taken="rest"),
    "gRPC port taken": Broken("transformer", f"cannot listen on {HOST}:", NO_PREDICTOR, taken="grpc"),
    "metrics port taken": Broken("transformer", f"cannot listen on {HOST}:", NO_PREDICTOR, taken="metrics"),
    "address of another machine": Broken("predictor", "cannot listen on 192.0.2.1", settings=(("HOST", "192.0.2.1"),)),
    "certificate missing": Broken(
        "transformer",
        "TLS is not possible with --ssl_certfile=absent.pem and --ssl_keyfile=absent.key: No such file or directory",
        [*NO_PREDICTOR, "--ssl_certfile=absent.pem", "--ssl_keyfile=absent.key"],
    ),
    "key without certificate": Broken("transformer", "both are needed", [*NO_PREDICTOR, "--ssl_keyfile=absent.key"]),
}


@dataclass(frozen=True)
class Ending:
    """How a service ended."""

    code: int
    log: str
    words: str


class TestStartsThatFail:
    @pytest.fixture(scope="class")
    @classmethod
    def endings(
        cls, tmp_path_factory: pytest.TempPathFactory, choose_address: Callable[[], Address]
    ) -> Iterator[dict[str, Future[Ending]]]:
        """All of them, two at a time: each is a process that has to read its libraries."""
        root = tmp_path_factory.mktemp("endings")

        def run(name: str, broken: Broken, address: Address) -> Ending:
            settings = dict(broken.settings)
            if broken.repository is not None:
                settings["MODEL_REPOSITORY"] = str(broken.repository(root / f"{name} models"))
            words = broken.words
            with contextlib.ExitStack() as stack:
                if broken.taken:
                    port = getattr(address, broken.taken)
                    stack.enter_context(socket.create_server((HOST, port)))
                    words += str(port)
                log = root / f"{name}.log"
                service = stack.enter_context(Service(broken.service, address, log, broken.flags, settings))
                return Ending(service.ended(), log.read_text(), words)

        with ThreadPoolExecutor(2) as pool:
            yield {name: pool.submit(run, name, broken, choose_address()) for name, broken in STARTS.items()}
            pool.shutdown(cancel_futures=True)

    @pytest.mark.parametrize("name", STARTS)
    def test_the_process_ends_with_one_clear_line(self, endings: dict[str, Future[Ending]], name: str) -> None:
        ending = endings[name].result(90)
        assert ending.code == STARTS[name].code, ending.log
        assert sum(ending.words in line for line in ending.log.splitlines()) == 1, ending.log
        assert "Traceback" not in ending.log

    def test_a_predictor_that_is_not_named_is_one_line(self, endings: dict[str, Future[Ending]]) -> None:
        assert len(endings["predictor not named"].result(90).log.splitlines()) == 1

    def test_every_wrong_setting_has_a_line(self, endings: dict[str, Future[Ending]]) -> None:
        lines = endings["setting out of range"].result(90).log.splitlines()
        assert len(lines) == 2
        assert lines[1].startswith("SACCADE_TRANSFORMER_LOG_LEVEL='loud': ") or "LOG_LEVEL='loud'" in lines[0]


#: Directory -> (how to write it, what the log says of it).
BROKEN_MODELS: dict[str, tuple[Callable[[Path, str], Path], str]] = {
    "corrupt": (lambda root, name: write_model(root, name, model=b"no onnx"), "cannot be loaded by ONNX Runtime"),
    "cut": (lambda root, name: write_model(root, name, model=ONNX[:100_000]), "cannot be loaded by ONNX Runtime"),
    "empty": (lambda root, name: write_model(root, name, model=b""), "cannot be loaded by ONNX Runtime"),
    "fileless": (lambda root, name: write_model(root, name, model=None), "has no file 'model.onnx' (found: nothing)"),
    "versionless": (write_without_version, "has no version to serve (versions found: none)"),
    "malformed": (lambda root, name: write_model(root, name, config=b"max_batch_size: ["), "config.pbtxt"),
    "binary": (lambda root, name: write_model(root, name, config=b"\xff\xfe\x00"), "is not UTF-8 text"),
    "misnamed": (lambda root, name: write_model(root, name, config=CONFIG), "detector"),
    "inventive": (lambda root, name: write_model(root, name, config=b"speed: 3"), "speed"),
    "foreign": (
        lambda root, name: write_model(root, name, config=b'backend: "pytorch"'),
        "backend is 'pytorch'; expected one of",
    ),
    "disagreeing": (
        lambda root, name: write_model(
            root,
            name,
            config=CONFIG.replace(b"[ 416, 416, 3 ]", b"[ 320, 320, 3 ]").replace(b'name: "detector"', b""),
        ),
        "320",
    ),
    "unlabelled": (lambda root, name: write_model(root, name, labels=None), "labels.txt, named by label_filename"),
}


class TestARepositoryOfOneGoodModelAndManyBrokenOnes:
    @pytest.fixture(scope="class")
    @classmethod
    def service(
        cls, tmp_path_factory: pytest.TempPathFactory, choose_address: Callable[[], Address]
    ) -> Iterator[Service]:
        root = tmp_path_factory.mktemp("mixed")
        write_model(root / "models")
        for name, (write, _) in BROKEN_MODELS.items():
            write(root / "models", name)
        settings = {"MODEL_REPOSITORY": str(root / "models")}
        with Service("predictor", choose_address(), root / "log", (), settings) as predictor:
            predictor.wait_ready()
            eventually("all others have failed", lambda: len(predictor.events("model_failed")) == len(BROKEN_MODELS))
            yield predictor
            assert predictor.stop() == 0
            assert "Traceback" not in predictor.log.read_text()

    @pytest.mark.parametrize("name", BROKEN_MODELS)
    def test_a_broken_one_is_503_and_the_log_says_why(self, service: Service, name: str) -> None:
        address = service.address
        sentence = f"model '{name}' is not ready: it could not be loaded; the server's log has the cause"
        body, headers = grey_rows(1)
        for path, content in (("/infer", body), ("/ready", None), ("", None), ("/versions/1/infer", body)):
            refused = address.http(f"/v2/models/{name}{path}", content, headers if content else {})
            assert (refused.status, refused.error) == (503, sentence)
        refused_rpc = address.rpc("ModelInfer", v2_grpc(b"any", model=name))
        assert (refused_rpc.code, refused_rpc.details) == ("UNAVAILABLE", sentence)
        assert address.rpc("ModelReady", proto.ModelReadyRequest(name=name)).message.ready is False
        [line] = [event for event in service.events("model_failed") if event["model"] == name]
        assert BROKEN_MODELS[name][1] in line["why"]
        assert "\n" not in line["why"]

    def test_the_good_one_is_served(self, service: Service) -> None:
        address = service.address
        assert address.http(INFER, *grey_rows(1)).status == 200
        assert address.http(f"/v2/models/{MODEL}/ready").status == 200
        assert set(address.http("/v2/models").json["models"]) == {MODEL, *BROKEN_MODELS}

    def test_the_server_as_a_whole_is_not_ready(self, service: Service) -> None:
        assert service.address.http("/v2/health/ready").status == 503
        assert service.address.rpc("ServerReady", proto.ServerReadyRequest()).message.ready is False
        assert service.address.http("/v2/health/live").status == 200
