"""The batching servers that are compared, each a process around the same ONNX file: how they are started and asked.

Each gets the fastest protocol that it serves: V2 REST with binary tensors (Saccade), V2 gRPC with raw contents
(MLServer, whose REST is JSON alone), and the bare bytes of a row by HTTP (LitServe).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from measuring.environment import install
from measuring.onnx_models import INPUT, OUTPUT, Model
from measuring.payload import Protocol
from measuring.processes import HOST, Server, free_port, get
from measuring.targets import BENCH, ROOT
from saccade_serving.oip import proto
from servers.onnx_session import Counts

_START_S: Final = 90.0
_LOCK: Final = ROOT / "requirements" / "bench-batching.txt"
_PEERS: Final = "MLServer and LitServe (100 MB, 400 MB installed)"
#: Packages of the peers' environment whose versions change the numbers.
_PACKAGES: Final = ("mlserver", "litserve", "onnxruntime", "numpy", "uvloop", "uvicorn", "grpcio")


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table.

    Attributes:
        delay_ms: time that it waits for a batch to fill. MLServer and LitServe can only batch with one; Saccade takes
            what waits when its engine is idle.
    """

    key: str
    label: str
    product: str
    protocol: Protocol
    delay_ms: float = 0.0


ALONE: Final = "saccade-alone"
CONTENDERS: Final = (
    Contender("saccade-batching", "Saccade, dynamic batching", "saccade", "rest"),
    Contender(ALONE, "Saccade without batching", "saccade", "rest"),
    Contender("mlserver", "MLServer, batching, 5 ms", "mlserver", "grpc", 5),
    Contender("mlserver-patient", "MLServer, batching, 20 ms", "mlserver", "grpc", 20),
    Contender("litserve", "LitServe, batching, 5 ms", "litserve", "rest", 5),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What all servers are told.

    Attributes:
        threads: intra-op threads of ONNX Runtime.
        max_batch: rows of the largest batch.
    """

    threads: int = 1
    max_batch: int = 16


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready.

    Attributes:
        counts: batches and rows so far.
    """

    server: Server
    port: int
    counts: Callable[[], tuple[int, int]]


def install_peers(say: Callable[[str], None]) -> dict[str, str]:
    """Install the peers unless they are there; returns their versions.

    Raises:
        Unavailable: they cannot be had here.
    """
    packages = install(_environment(), _LOCK, _PEERS, say)
    found = {one.name.lower(): one.version for one in metadata.distributions(path=[str(packages)])}
    return {name: found[name] for name in _PACKAGES}


@contextmanager
def running(contender: Contender, model: Model, file: Path, rules: Rules, scratch: Path) -> Iterator[Running]:
    """Start one server around an ONNX file, end it with the block.

    Args:
        contender: which one.
        model: what is in the file.
        file: the file.
        rules: the same for all.
        scratch: an empty folder.

    Raises:
        ServerFailed: it did not start.
    """
    ports = [free_port() for _ in range(3)]
    http, grpc, _ = ports
    counts_file = scratch / "counts"
    peer = {"PYTHONPATH": str(BENCH)}
    ready = f"/v2/models/{model.key}/ready"
    if contender.product == "saccade":
        environment = _saccade_environment(contender, model, file, rules, scratch)
        command = [sys.executable, "-m", "saccade_predictor", f"--http_port={http}", f"--grpc_port={grpc}"]
    elif contender.product == "mlserver":
        _write_mlserver(contender, model, file, rules, scratch, ports, counts_file)
        environment, command = peer, [str(_environment() / "bin" / "mlserver"), "start", str(scratch)]
    else:
        environment, ready = peer, "/health"
        command = [str(_environment() / "bin" / "python"), "-m", "servers.litserve_onnx", f"--file={file}"]
        command += [f"--counts={counts_file}", f"--threads={rules.threads}", f"--max-batch={rules.max_batch}"]
        command += [f"--delay-ms={contender.delay_ms}", str(http)]
    with Server(contender.label, command, environment, scratch, scratch / "log") as server:
        needed = [http] if contender.product == "litserve" else [http, grpc]
        server.wait_ready(needed, {http: [ready]}, _START_S)
        counts: Callable[[], tuple[int, int]] = (
            (lambda: _saccade_counts(http, model)) if contender.product == "saccade" else Counts(counts_file).read
        )
        yield Running(server, grpc if contender.protocol == "grpc" else http, counts)


def request(contender: Contender, model: Model, rows: NDArray[Any]) -> bytes:
    """A request of one row, ready for the wire (REST) or serialised (gRPC). Every answer ends with its numbers."""
    raw = rows.tobytes()
    if contender.product == "mlserver":
        message = proto.ModelInferRequest(model_name=model.key)
        message.inputs.add(name=INPUT, datatype="BYTES", shape=[1, 1])
        message.raw_input_contents.append(len(raw).to_bytes(4, "little") + raw)
        serialised: bytes = message.SerializeToString()
        return serialised
    path, text, headers = "/predict", b"", ""
    if contender.product == "saccade":
        parameters = {"binary_data_size": len(raw)}
        tensor = {"name": INPUT, "datatype": model.datatype, "shape": [1, *model.shape], "parameters": parameters}
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        path, headers = f"/v2/models/{model.key}/infer", f"Inference-Header-Content-Length: {len(text)}\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/octet-stream\r\n"
    return f"{head}{headers}Content-Length: {len(text) + len(raw)}\r\n\r\n".encode() + text + raw


def _environment() -> Path:
    return ROOT / ".tools" / "batching"


def _saccade_environment(
    contender: Contender, model: Model, file: Path, rules: Rules, scratch: Path
) -> dict[str, str]:
    """Write a model repository; returns the settings."""
    folder = scratch / "models" / model.key
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").symlink_to(file)
    dims = ", ".join(map(str, model.shape))
    (folder / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\nmax_batch_size: {rules.max_batch}\n'
        f'input [ {{ name: "{INPUT}" data_type: TYPE_{model.datatype} dims: [ {dims} ] }} ]\n'
        f'output [ {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {model.outputs} ] }} ]\n'
        + ("" if contender.key == ALONE else "dynamic_batching { }\n")
    )
    settings = {
        "MODEL_REPOSITORY": str(folder.parent),
        "HOST": HOST,
        "METRICS_PORT": "0",
        "DRAIN_QUIET_S": "0",
        "ENGINE_THREADS": str(rules.threads),
        "LOG_LEVEL": "warning",
        "LOG_FORMAT": "text",
    }
    return {f"SACCADE_PREDICTOR_{name}": value for name, value in settings.items()}


def _saccade_counts(port: int, model: Model) -> tuple[int, int]:
    [stats] = json.loads(get(port, f"/v2/models/{model.key}/stats") or b"{}")["model_stats"]
    return stats["execution_count"], stats["inference_count"]


def _write_mlserver(
    contender: Contender, model: Model, file: Path, rules: Rules, scratch: Path, ports: list[int], counts_file: Path
) -> None:
    """The two settings files of ``mlserver start``; its access log, on by default, is off."""
    http, grpc, metrics = ports
    settings = {"host": HOST, "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "debug": False}
    extra = {"file": str(file), "counts": str(counts_file), "threads": rules.threads}
    own = {
        "name": model.key,
        "implementation": "servers.mlserver_onnx.OnnxModel",
        "max_batch_size": rules.max_batch,
        "max_batch_time": contender.delay_ms / 1e3,
        "parameters": {"extra": extra},
    }
    (scratch / "settings.json").write_text(json.dumps(settings))
    (scratch / "model-settings.json").write_text(json.dumps(own))
