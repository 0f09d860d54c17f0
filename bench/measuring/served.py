"""A model of a repository served by the predictor as a process of its own, and clients that keep it busy by REST.

One process per size of batch, whose ``max_batch_size`` that size is; every request has one row in binary, so that the
predictor makes the batches. Knows no engine: what the model's configuration says serves it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format  # type: ignore[import-untyped]  # it ships no types

from measuring.client import Client
from measuring.lanes import rows_of
from measuring.processes import HOST, Server, ServerFailed, free_port, get
from measuring.samples import ClientError, Load
from measuring.summary import percentile
from measuring.targets import BENCH
from saccade_predictor.repository import CONFIG_FILE
from saccade_predictor.tritonschema import load_schema
from saccade_serving.client import RestClient
from saccade_serving.oip import binary_codec
from saccade_serving.oip.messages import InferRequest, Tensor

#: A plan is loaded, and every size of batch run, before the model is ready.
_START_S: Final = 300.0
_TIMEOUT_S: Final = 60.0
#: Clients' requests for each row of a batch: one batch executes, one is copied, one waits.
BATCHES_IN_FLIGHT: Final = 3
#: Requests per connection before the measurement.
_WARMUP: Final = 5
_MOST: Final = 10**7


@dataclass(frozen=True, slots=True)
class Serving:
    """A predictor that is ready.

    Attributes:
        request: one row, head and body, ready for the wire.
        answer_bytes: what the body of a right answer holds at least.
    """

    server: Server
    port: int
    model: str
    request: bytes
    answer_bytes: int

    def counts(self) -> tuple[int, int]:
        """Batches executed and rows in them, so far."""
        [stats] = json.loads(get(self.port, f"/v2/models/{self.model}/stats") or b"{}")["model_stats"]
        return stats["execution_count"], stats["inference_count"]


@dataclass(frozen=True, slots=True)
class Served:
    """What clients saw.

    Attributes:
        connections: each has one request in flight.
        answers: measured.
        per_s: answers, which are rows, per second.
        p50_ms: from sending a request to having its answer; ``p99_ms`` likewise.
        mean_batch: rows of a batch as the engine got them.
        server_cores: of the predictor's process.
        clients_cores: of all client processes.
    """

    connections: int
    answers: int
    per_s: float
    p50_ms: float
    p99_ms: float
    mean_batch: float
    server_cores: float
    clients_cores: float


@contextmanager
def serving(folder: Path, rows: int, scratch: Path, settings: dict[str, str] | None = None) -> Iterator[Serving]:
    """Serve a model with batches of at most so many rows; it ends with the block.

    Args:
        folder: the model's, in a repository, with a config.pbtxt.
        rows: ``max_batch_size``.
        scratch: an empty folder.
        settings: of the predictor, without their prefix.

    Raises:
        ServerFailed: it did not start, or answered a first request wrongly.
        ValueError: the model cannot be measured.
    """
    repository = scratch / "models"
    copy_model(folder, repository / folder.name, rows)
    port, grpc = free_port(), free_port()
    told = {
        "MODEL_REPOSITORY": str(repository),
        "HOST": HOST,
        "METRICS_PORT": "0",
        "DRAIN_QUIET_S": "0",
        "LOG_LEVEL": "warning",
        "LOG_FORMAT": "text",
        "MAX_INFLIGHT_BYTES": str(4 * 2**30),
        **(settings or {}),
    }
    environment = {f"SACCADE_PREDICTOR_{name}": value for name, value in told.items()}
    command = [sys.executable, "-m", "saccade_predictor", f"--http_port={port}", f"--grpc_port={grpc}"]
    with Server("the predictor", command, environment, BENCH, scratch / "predictor.log") as server:
        server.wait_ready([port], {port: [f"/v2/models/{folder.name}/ready"]}, _START_S)
        request, answer_bytes = asyncio.run(_ask_once(port, folder.name))
        yield Serving(server, port, folder.name, request, answer_bytes)


def copy_model(folder: Path, target: Path, rows: int) -> None:
    """A model's folder with other batches: its files by link, config.pbtxt with ``max_batch_size`` as given."""
    target.mkdir(parents=True)
    for child in folder.iterdir():
        if child.name != CONFIG_FILE:
            (target / child.name).symlink_to(child.resolve())
    config = text_format.Parse((folder / CONFIG_FILE).read_text(encoding="utf-8"), load_schema().ModelConfig())
    config.max_batch_size = rows
    config.dynamic_batching.SetInParent()
    del config.dynamic_batching.preferred_batch_size[:]
    config.dynamic_batching.preferred_batch_size.append(rows)
    (target / CONFIG_FILE).write_text(text_format.MessageToString(config), encoding="utf-8")


async def _ask_once(port: int, model: str) -> tuple[bytes, int]:
    """Learn the model's tensors, ask it once with our own client, and write the request that the others send."""
    client = RestClient(f"http://{HOST}:{port}")
    try:
        metadata = await client.metadata(model, _TIMEOUT_S)
        [row] = rows_of(metadata.inputs, 1)
        request = InferRequest(model, [Tensor.of(name, array) for name, array in row.items()])
        answer = await client.infer(request, _TIMEOUT_S)
    finally:
        await client.close()
    named = {output.name for output in answer.outputs}
    if named != {output.name for output in metadata.outputs} or any(one.shape[0] != 1 for one in answer.outputs):
        raise ServerFailed(f"a request of one row was answered with {[(o.name, o.shape) for o in answer.outputs]}")
    return _on_the_wire(request), sum(output.array.nbytes for output in answer.outputs)


def _on_the_wire(request: InferRequest) -> bytes:
    encoded = binary_codec.encode_request(request)
    head = [f"POST /v2/models/{request.model_name}/infer HTTP/1.1", f"Host: {HOST}", f"Content-Length: {encoded.size}"]
    head += [f"{name}: {value}" for name, value in encoded.headers.items() if name.lower() != "content-length"]
    return "\r\n".join([*head, "", ""]).encode() + b"".join(bytes(part) for part in encoded.parts)


def offer(serving: Serving, clients: Sequence[Client], connections: int, seconds: float) -> Served:
    """Keep connections busy for a time, shared out among the clients.

    Raises:
        ClientError: a request failed.
    """
    shares = [connections // len(clients) + (number < connections % len(clients)) for number in range(len(clients))]
    busy = [(client, share) for client, share in zip(clients, shares, strict=True) if share]

    def measure(client: Client, share: int) -> Any:
        return client.measure(
            Load(
                protocol="rest",
                port=serving.port,
                server_pid=serving.server.pid,
                request=serving.request,
                connections=share,
                warmup=share * _WARMUP,
                requests=_MOST,
                limit_s=seconds,
                timeout_s=_TIMEOUT_S,
                answer_bytes=serving.answer_bytes,
            )
        )

    before = serving.counts()
    with ThreadPoolExecutor(len(busy)) as threads:
        samples = list(threads.map(lambda one: measure(*one), busy))
    batches, rows = (now - then for now, then in zip(serving.counts(), before, strict=True))
    latencies_s = [latency for sample in samples for latency in sample.latencies_s]
    if not batches or not latencies_s:
        raise ClientError("nothing was answered")
    return Served(
        connections=connections,
        answers=len(latencies_s),
        per_s=sum(len(sample.latencies_s) / sample.wall_s for sample in samples),
        p50_ms=percentile(latencies_s, 0.5) * 1e3,
        p99_ms=percentile(latencies_s, 0.99) * 1e3,
        mean_batch=rows / batches,
        # Each client looks at the server for as long as itself measures, and they do so together.
        server_cores=sum(sample.server_cpu_s / sample.wall_s for sample in samples) / len(samples),
        clients_cores=sum(sample.client_cpu_s / sample.wall_s for sample in samples),
    )
