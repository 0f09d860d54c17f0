"""What the integration tests share: services as processes, calls by plain HTTP and gRPC, polling with a deadline."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import ssl
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import grpc
from prometheus_client.parser import text_string_to_metric_families

from saccade_serving.errors import SaccadeError
from saccade_serving.oip import grpc_codec, proto
from saccade_serving.oip.messages import InferResponse

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT / "examples" / "model-repository"
CLIENTS = ROOT / "tests" / "integration" / "clients"
HOST = "127.0.0.1"
MODEL = "detector"
INFER = f"/v2/models/{MODEL}/infer"
PREDICT = f"/v1/models/{MODEL}:predict"
PHOTOS = sorted(path.name for path in (ROOT / "examples" / "images").glob("*.[jp][pn]g"))
#: For whatever normally takes well under a second; generous, since the machine may be busy.
SOON_S = 30.0

#: HTTP status -> gRPC code, for the errors that clients get.
GRPC_CODES: dict[int, str] = {kind.status: kind.grpc_code for kind in SaccadeError.__subclasses__()}


def eventually(what: str, check: Callable[[], T], within_s: float = SOON_S) -> T:
    """Poll until ``check`` returns something true; return that."""
    deadline = time.monotonic() + within_s
    while not (result := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(0.02)
    return result


class Detection(NamedTuple):
    """One box as every protocol gives it."""

    label: str
    class_id: int
    score: float
    box: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of an error in the V2 form, which has nothing else."""
        content = self.json
        assert list(content) == ["error"], content
        return str(content["error"])


@dataclass(frozen=True)
class RpcAnswer:
    """A gRPC answer: a message, or a code with a sentence."""

    code: str
    details: str
    message: Any
    trailing: dict[str, str]


@dataclass(frozen=True)
class Address:
    """Where one service listens."""

    rest: int
    grpc: int
    metrics: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.rest}"

    def http(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        method: str = "",
        timeout_s: float = SOON_S,
        tls: ssl.SSLContext | None = None,
    ) -> Answer:
        """One request on a connection of its own. Without a method: POST where there is a body, else GET."""
        connection = (
            http.client.HTTPConnection(HOST, self.rest, timeout=timeout_s)
            if tls is None
            else http.client.HTTPSConnection(HOST, self.rest, timeout=timeout_s, context=tls)
        )
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def rpc(
        self, method: str, message: Any, timeout_s: float = SOON_S, metadata: Sequence[tuple[str, str]] = ()
    ) -> RpcAnswer:
        """One call on a channel of its own."""
        request, response = proto.METHODS[method]
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"{HOST}:{self.grpc}", options) as channel:
            call = channel.unary_unary(
                f"/{proto.SERVICE}/{method}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            try:
                answer, ended = call.with_call(message, timeout=timeout_s, metadata=metadata)
            except grpc.RpcError as error:
                trailing = {str(key): str(value) for key, value in error.trailing_metadata() or ()}
                return RpcAnswer(error.code().name, error.details(), None, trailing)
            return RpcAnswer("OK", "", answer, {str(k): str(v) for k, v in ended.trailing_metadata()})

    def is_ready(self, model: str = MODEL) -> bool:
        """Whether the model's ready route says yes; no where nobody listens."""
        try:
            return self.http(f"/v2/models/{model}/ready").status == 200
        except OSError:
            return False

    def scrape(self) -> Samples:
        """The metrics port's samples."""
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics}/metrics", timeout=SOON_S) as response:
            return Samples(response.read().decode())


class Samples:
    """What ``/metrics`` says at one moment."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._values[sample.name, frozenset(sample.labels.items())] = sample.value

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self._values}

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples that have these labels, whatever others they have; 0 where there are none."""
        wanted = labels.items()
        return sum(value for (found, having), value in self._values.items() if found == name and wanted <= having)

    def label_values(self, name: str, label: str) -> set[str]:
        return {dict(having)[label] for found, having in self._values if found == name}


@dataclass
class Service:
    """One of the two services as a process of its own; its log is a file.

    Args:
        name: "predictor" or "transformer".
        address: where it shall listen.
        log: file for its output; appended to by every start.
        flags: further command line flags.
        environment: settings without their prefix, for example ``DRAIN_QUIET_S``.
    """

    name: str
    address: Address
    log: Path
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the process without waiting for it."""
        prefix = f"SACCADE_{self.name.upper()}_"
        settings = {
            "HOST": HOST,
            "METRICS_PORT": str(self.address.metrics),
            "DRAIN_QUIET_S": "0",
            "MODEL_REPOSITORY": str(REPOSITORY),
            **self.environment,
        }
        if self.name == "transformer":
            del settings["MODEL_REPOSITORY"]
            # The same photo is sent again and again: what is not about the cache shall reach the predictor.
            settings.setdefault("CACHE", "off")
        module = {"predictor": "saccade_predictor", "transformer": "saccade_transformers"}[self.name]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SACCADE_")}
        ports = [f"--http_port={self.address.rest}", f"--grpc_port={self.address.grpc}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *ports, *self.flags],
                env={**inherited, **{prefix + key: value for key, value in settings.items()}},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def wait_ready(self, model: str = MODEL) -> None:
        def check() -> bool:
            assert self.process.poll() is None, f"the {self.name} ended:\n{self.log.read_text()}"
            return self.address.is_ready(model)

        eventually(f"the {self.name} is ready", check, 90)

    def ended(self, within_s: float = 60) -> int:
        """Wait for the process to end by itself; return its exit code."""
        return self.process.wait(within_s)

    def send(self, sig: signal.Signals) -> None:
        self.process.send_signal(sig)

    def stop(self) -> int:
        """End it as Kubernetes does; return its exit code."""
        self.send(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The log's JSON lines, or those of one event."""
        found: list[dict[str, Any]] = []
        if not self.log.exists():
            return found
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if not name or event.get("event") == name:
                    found.append(event)
        return found


def bytes_tensor(elements: Sequence[bytes]) -> bytes:
    """The raw form of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def v2_json(image: bytes, **parameters: Any) -> bytes:
    """A V2 REST request for one encoded image, all JSON."""
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(image).decode()]}
    return json.dumps({"inputs": [tensor], "parameters": parameters}).encode()


def binary_request(header: Mapping[str, Any], *buffers: bytes) -> tuple[bytes, dict[str, str]]:
    """A V2 REST request with binary tensors: body and headers."""
    text = json.dumps(header).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(text))}
    return text + b"".join(buffers), headers


def v2_binary(image: bytes, **parameters: Any) -> tuple[bytes, dict[str, str]]:
    """A V2 REST request for one encoded image, the image as binary data."""
    raw = bytes_tensor([image])
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    return binary_request({"inputs": [tensor], "parameters": {**parameters, "binary_data_output": True}}, raw)


def grey_rows(rows: int) -> tuple[bytes, dict[str, str]]:
    """A request for the predictor itself: body and headers."""
    raw = bytes(rows * 416 * 416 * 3)
    size = {"binary_data_size": len(raw)}
    tensor = {"name": "image", "datatype": "UINT8", "shape": [rows, 416, 416, 3], "parameters": size}
    return binary_request({"inputs": [tensor]}, raw)


def v2_grpc(image: bytes, model: str = MODEL, version: str = "", **parameters: Any) -> Any:
    """A V2 gRPC request for one encoded image."""
    message = proto.ModelInferRequest(model_name=model, model_version=version)
    message.inputs.add(name="image", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(bytes_tensor([image]))
    set_parameters(message, parameters)
    return message


def set_parameters(message: Any, parameters: Mapping[str, Any]) -> None:
    """Write request parameters into a gRPC message."""
    for name, value in parameters.items():
        choice = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], choice, value)


def v1_json(*images: bytes, **parameters: Any) -> bytes:
    """A v1 request."""
    instances = [{"image": {"b64": base64.b64encode(image).decode()}} for image in images]
    return json.dumps({"instances": instances, "parameters": parameters}).encode()


def multipart(image: bytes, filename: str = "photo.jpg", **fields: str) -> tuple[bytes, dict[str, str]]:
    """A form as ``curl -F file=@photo.jpg -F name=value`` sends it: body and headers."""
    boundary = "------------------------d74496d66958873e"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + image
        + b"\r\n"
    ]
    parts += [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), {"content-type": f"multipart/form-data; boundary={boundary}"}


def ask_all(address: Address, image: bytes, timeout_ms: int = 20_000) -> dict[str, Answer | RpcAnswer]:
    """The same image by every route, each with the same deadline."""
    headers = {"x-deadline-ms": str(timeout_ms)}
    body, own = v2_binary(image)
    return {
        "rest": address.http(INFER, body, {**own, **headers}),
        "v1": address.http(PREDICT, v1_json(image), headers),
        "detect": address.http("/detect", image, headers),
        "grpc": address.rpc("ModelInfer", v2_grpc(image), metadata=tuple(headers.items())),
    }


def from_v2(response: InferResponse) -> list[list[Detection]]:
    """The detections of each image of a V2 answer; checks that the padding is empty."""
    counts = response.output("num_detections").array.tolist()
    boxes, scores, class_ids = (response.output(name).array for name in ("boxes", "scores", "class_ids"))
    texts = [bytes(label).decode() for label in response.output("labels").elements]
    return from_arrays(counts, boxes.tolist(), scores.tolist(), class_ids.tolist(), texts)


def from_rpc(message: Any) -> list[list[Detection]]:
    """The detections of each image of a ModelInferResponse."""
    return from_v2(grpc_codec.decode_response(message))


def from_arrays(
    counts: Sequence[int],
    boxes: Sequence[Sequence[Sequence[float]]],
    scores: Sequence[Sequence[float]],
    class_ids: Sequence[Sequence[int]],
    labels: Sequence[str],
) -> list[list[Detection]]:
    """The detections of each image; ``labels`` is flat."""
    most = max(counts, default=0)
    assert len(labels) == len(counts) * most
    found = []
    for i, count in enumerate(counts):
        texts = labels[i * most : (i + 1) * most]
        found.append([Detection(texts[j], class_ids[i][j], scores[i][j], tuple(boxes[i][j])) for j in range(count)])
        assert not any(texts[count:])
        assert not any(scores[i][count:])
    return found


def from_v2_json(content: Mapping[str, Any]) -> list[list[Detection]]:
    """The detections of each image of a V2 answer that is all JSON."""
    outputs = {tensor["name"]: tensor for tensor in content["outputs"]}
    n, m, _ = outputs["boxes"]["shape"]

    def rows(name: str) -> list[list[Any]]:
        flat = outputs[name]["data"]
        return [flat[i * m : (i + 1) * m] for i in range(n)]

    flat = outputs["boxes"]["data"]
    boxes = [[flat[4 * (i * m + j) : 4 * (i * m + j) + 4] for j in range(m)] for i in range(n)]
    return from_arrays(
        outputs["num_detections"]["data"], boxes, rows("scores"), rows("class_ids"), outputs["labels"]["data"]
    )


def from_detect(content: Mapping[str, Any]) -> list[Detection]:
    """The detections of a ``/detect`` answer, or of one v1 prediction."""
    return [Detection(one["label"], one["class_id"], one["score"], tuple(one["box"])) for one in content["detections"]]


def check_same(
    found: Sequence[Detection], expected: Sequence[Detection], pixels: float = 1e-3, score: float = 1e-5
) -> None:
    """Same objects, in the same order."""
    assert [one.label for one in found] == [one.label for one in expected]
    assert [one.class_id for one in found] == [one.class_id for one in expected]
    for a, b in zip(found, expected, strict=True):
        assert abs(a.score - b.score) <= score, (a, b)
        assert max(abs(x - y) for x, y in zip(a.box, b.box, strict=True)) <= pixels, (a, b)


def check_rounded(found: Sequence[Detection], expected: Sequence[Detection]) -> None:
    """Same objects, where one side gives boxes to 0.01 pixels and scores to 4 digits."""
    check_same(found, expected, pixels=0.0051, score=0.000051)


def run_client(script: str, *arguments: str) -> Any:
    """Run a script of ``clients/`` in a process of its own; return the JSON it prints."""
    ended = subprocess.run(
        [sys.executable, str(CLIENTS / script), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@contextlib.contextmanager
def watching_memory(pid: int) -> Iterator[Callable[[], float]]:
    """Yield a function that returns by how many MiB a process's peak memory has grown since."""

    def peak_mib() -> float:
        status = Path(f"/proc/{pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    # 5: forget the peak, so that VmHWM counts from the present size.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = peak_mib()
    yield lambda: peak_mib() - before
