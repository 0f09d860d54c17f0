"""Batching bench: what dynamic batching gains on a CPU, beside no batching, MLServer's and LitServe's own batching.

Two models with random weights, a ResNet-18 and fully connected layers, in ONNX Runtime behind each server; closed
loops of 1, 8 and 32 clients that send one row a request. Prints tables and writes them as JSON. Measures no GPU, no
transformer and no network: all traffic stays on 127.0.0.1. Says nothing of how right a model is.

How, and what came out: docs/performance.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from measuring import batching_table, machine, table
from measuring.batching_table import Cell, EngineRow, Taken
from measuring.client import Client
from measuring.contenders import CONTENDERS, Contender, Rules, Running, install_peers, request, running
from measuring.cpu import total_cpu_s, with_descendants
from measuring.environment import Unavailable
from measuring.onnx_models import INPUT, MODELS, Model, build
from measuring.payload import GRPC_METHOD, Protocol
from measuring.processes import HOST, ServerFailed
from measuring.samples import ClientError, Load
from measuring.stopping import end_as_ctrl_c_does
from measuring.targets import BENCH
from servers.onnx_session import open_session

RESULTS: Final = BENCH / "results" / "batching.json"
#: Different rows that are sent at once before anything is measured, to see that everybody gets their own answer.
_CHECKED: Final = 24
#: Cores that others may use before images per second are no longer the server's doing.
_MANY_CORES: Final = 0.3
_ENDLESS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does.

    Attributes:
        measure_s: after which no further request of one measurement is begun.
        warmup_s: the same of what comes before it.
    """

    models: Sequence[Model] = MODELS
    clients: Sequence[int] = (1, 8, 32)
    rounds: int = 3
    measure_s: float = 3.0
    warmup_s: float = 1.0
    rules: Rules = field(default_factory=Rules)


class WrongAnswers(Exception):
    """A server answered something else than ONNX Runtime does; the message says what."""


class Bench:
    """One run: what is measured, and what was.

    Attributes:
        samples: of every server under every load, one for each round.
        engine: ONNX Runtime alone.
        skipped: of each model, why a server's rows are missing, or have samples of some loads only.
        peers: versions of their packages.
    """

    def __init__(self, plan: Plan, contenders: Sequence[Contender]) -> None:
        self.plan, self.contenders = plan, contenders
        self.samples: dict[Cell, list[Taken]] = {}
        self.engine: list[EngineRow] = []
        self.skipped: dict[str, dict[str, str]] = {model.key: {} for model in plan.models}
        self.peers: dict[str, str] = {}
        self._clients: dict[Protocol, Client] = {}
        self._progress = table.Progress(plan.rounds * len(plan.models) * len(plan.clients) * len(contenders))

    def run(self) -> None:
        """Measure everything."""
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saccade-bench-")))
            stack.callback(self._progress.end)
            self._install()
            for protocol in dict.fromkeys(one.protocol for one in self.contenders):
                self._clients[protocol] = stack.enter_context(Client(protocol))
            for model in self.plan.models:
                self._measure_model(model, scratch)

    def _install(self) -> None:
        peers = [one for one in self.contenders if one.product != "saccade"]
        if not peers:
            return
        try:
            self.peers = install_peers(self._progress.say)
        except Unavailable as why:
            for missing in self.skipped.values():
                missing.update({one.key: str(why) for one in peers})

    def _measure_model(self, model: Model, scratch: Path) -> None:
        file = scratch / f"{model.key}.onnx"
        self._progress.say(f"building {model.key}, measuring ONNX Runtime alone")
        build(model, file)
        session = open_session(file, self.plan.rules.threads)
        rows = model.rows(_CHECKED)
        right = np.concatenate([session.run(None, {INPUT: rows[at : at + 1]})[0] for at in range(_CHECKED)])
        size = 1
        while size <= self.plan.rules.max_batch:
            self.engine.append(_engine_alone(session, model, size, self.plan.warmup_s))
            size *= 2
        for number in range(self.plan.rounds):
            # Another server begins each round, so that none always follows the same one.
            first = number % len(self.contenders)
            for one in [*self.contenders[first:], *self.contenders[:first]]:
                folder = scratch / f"{model.key}-{number}-{one.key}"
                folder.mkdir()
                self._measure_server(one, model, file, folder, rows, right, number)

    def _measure_server(
        self,
        one: Contender,
        model: Model,
        file: Path,
        folder: Path,
        rows: NDArray[Any],
        right: NDArray[Any],
        number: int,
    ) -> None:
        """Start one server, see that it answers right, measure it under all loads, end it.

        No other server runs meanwhile: some of them use CPU even when nobody asks them anything.
        """
        group = f"{model.key}, round {number + 1} of {self.plan.rounds}"
        if one.key in self.skipped[model.key]:
            return
        try:
            with running(one, model, file, self.plan.rules, folder) as server:
                check(one, server, model, rows, right)
                for clients in self.plan.clients:
                    self._progress.step(f"{group}, {one.label}", f"clients: {clients}")
                    taken = self._measure(one, server, model, request(one, model, rows[:1]), clients)
                    self.samples.setdefault((one.key, model.key, clients), []).append(taken)
        except (ServerFailed, ClientError, WrongAnswers) as why:
            self.skipped[model.key][one.key] = f"{group}: {why}"
            self._progress.say(f"{one.label} left out from here: {why}")

    def _measure(self, one: Contender, server: Running, model: Model, sent: bytes, clients: int) -> Taken:
        client = self._clients[one.protocol]
        load = Load(
            protocol=one.protocol,
            port=server.port,
            server_pid=server.server.pid,
            request=sent,
            connections=clients,
            warmup=0,
            requests=_ENDLESS,
            limit_s=self.plan.measure_s,
            answer_bytes=4 * model.outputs,
        )
        client.measure(replace(load, limit_s=self.plan.warmup_s))
        own = [os.getpid(), client.pid, *with_descendants(server.server.pid)]
        busy = machine.Load(lambda: total_cpu_s(own))
        batches, rows = server.counts()
        sample = client.measure(load)
        batches, rows = (now - then for now, then in zip(server.counts(), (batches, rows), strict=True))
        return Taken(sample, batches, rows, busy.report()["cores_used_by_others"])


def check(one: Contender, server: Running, model: Model, rows: NDArray[Any], right: NDArray[Any]) -> None:
    """Send different rows at once and compare every answer with ONNX Runtime's.

    Raises:
        WrongAnswers: one differs, or is no answer.
    """

    def ask(at: int) -> bytes:
        sent = request(one, model, rows[at : at + 1])
        if one.protocol == "grpc":
            with grpc.insecure_channel(f"{HOST}:{server.port}") as channel:
                call = channel.unary_unary(GRPC_METHOD, request_serializer=None, response_deserializer=None)
                answer: bytes = call(sent, timeout=60)
                return answer
        head, _, body = sent.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
        connection.request("POST", first.split()[1], body, dict(line.split(": ", 1) for line in lines))
        found = connection.getresponse()
        content = found.read()
        connection.close()
        if found.status != 200:
            raise WrongAnswers(f"{found.status}: {content[:300]!r}")
        return content

    with ThreadPoolExecutor(len(rows)) as pool:
        try:
            answers = list(pool.map(ask, range(len(rows))))
        except (OSError, grpc.RpcError, http.client.HTTPException) as error:
            raise WrongAnswers(f"no answer: {error!r}"[:300]) from error
    for at, answer in enumerate(answers):
        found = np.frombuffer(answer[-4 * model.outputs :], np.float32)
        # Kernels for other batch sizes add in another order.
        if found.shape != right[at].shape or not np.allclose(found, right[at], rtol=1e-3, atol=1e-4):
            raise WrongAnswers(f"row {at} is answered otherwise than by ONNX Runtime alone")


def _engine_alone(session: Any, model: Model, size: int, seconds: float) -> EngineRow:
    batch = model.rows(size)
    session.run(None, {INPUT: batch})
    runs, begun, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds or runs < 2:
        session.run(None, {INPUT: batch})
        runs += 1
    images = runs * size
    taken_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    return EngineRow(model.key, size, images / taken_s, cpu_s / images * 1e3)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/batching.py",
        description=__doc__.partition("\n\n")[0],
        epilog="The first run installs MLServer and LitServe into .tools/batching. Takes 12 minutes, --quick 2.",
    )
    parser.add_argument("--quick", action="store_true", help="one round of 1 s each, 1 and 8 clients: a look")
    parser.add_argument("--models", nargs="+", choices=[one.key for one in MODELS], help="default: all")
    parser.add_argument("--clients", nargs="+", type=int, metavar="N", help="each with one request in flight")
    parser.add_argument("--rounds", type=int, help="each starts and measures every server once")
    parser.add_argument("--seconds", type=float, help="time of one measurement")
    parser.add_argument("--threads", type=int, help="ONNX Runtime's intra-op threads in every server (default: 1)")
    parser.add_argument("--max-batch", type=int, help="rows of the largest batch in every server (default: 16)")
    names = sorted({name for one in CONTENDERS for name in (one.key, one.product)})
    parser.add_argument("--only", nargs="+", default=[], choices=names, help="servers, or all of a product")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    counts = [*(given.clients or []), given.rounds, given.threads, given.max_batch, given.seconds]
    if any(one is not None and one <= 0 for one in counts):
        parser.error("numbers have to be above 0")
    return given


def plan_of(given: argparse.Namespace) -> Plan:
    """What a person asked for."""
    plan = Plan(clients=(1, 8), rounds=1, measure_s=1.0, warmup_s=0.3) if given.quick else Plan()
    rules = replace(
        plan.rules, threads=given.threads or plan.rules.threads, max_batch=given.max_batch or plan.rules.max_batch
    )
    return replace(
        plan,
        models=[one for one in MODELS if not given.models or one.key in given.models],
        clients=given.clients or plan.clients,
        rounds=given.rounds or plan.rounds,
        measure_s=given.seconds or plan.measure_s,
        rules=rules,
    )


def main(arguments: list[str]) -> int:
    """Run the bench; returns the exit status: 1 if a row of ours is missing."""
    given = parse(arguments)
    chosen = [one for one in CONTENDERS if not given.only or one.key in given.only or one.product in given.only]
    end_as_ctrl_c_does()
    bench = Bench(plan_of(given), chosen)
    averages = [os.getloadavg()]
    try:
        bench.run()
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    averages.append(os.getloadavg())
    rows = batching_table.summarise(bench.samples, bench.plan.models)
    content = {
        "bench": "batching",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/batching.py", *arguments]),
        "machine": machine.describe(),
        "peers": bench.peers,
        "plan": asdict(bench.plan),
        "load": {"load_averages": averages},
        "skipped": bench.skipped,
        "engine": [asdict(one) for one in bench.engine],
        "results": [asdict(one) for one in rows],
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    console = table.console()
    for model in bench.plan.models:
        console.print(batching_table.engine(bench.engine, model))
        console.print(batching_table.results(rows, model, bench.skipped[model.key]))
    if any(row.others_cores > _MANY_CORES for row in rows):
        console.print("others used much of the machine: believe CPU and batches, and images/s once it is quiet")
    missing = {key for skipped in bench.skipped.values() for key in skipped}
    return 1 if any(one.key in missing and one.product == "saccade" for one in chosen) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
