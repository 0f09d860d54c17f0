"""A plan on a GPU, by size of batch: TensorRT alone, the predictor's engine, and the predictor as a process by REST.

The limit is TensorRT's own loop: executions of one context given ahead, inputs and outputs resident on the device. The
engine adds what a request needs: rows copied from where they were received, outputs copied back. End to end adds the
predictor: processes of clients send one row per request in binary, over connections for three batches, and the
predictor makes the batches. Latencies of the first two are of one batch at a time, with nothing else in flight; those
end to end are under full load, but for one row by one connection, which tells what the server adds.

--model is an ONNX file, which is built first with saccade-build plan and kept, or a model's folder in a repository
with a plan; without it a ResNet-18 is written. Sizes that the output file already has of the same plan are not
measured again. Needs an NVIDIA GPU, pycuda and TensorRT; elsewhere it says so and measures nothing. Prints a table,
writes JSON and, with --plot, draws the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from measuring import gpu_use, machine, table
from measuring.client import Client
from measuring.gpu_table import JUDGED, Size, from_json, judge, plot, show
from measuring.lanes import Effort, time_lane
from measuring.plan_lanes import engine_lane, open_engine, raw_lane
from measuring.plan_model import NoModel, PlanModel, Wanted, find
from measuring.processes import ServerFailed
from measuring.samples import ClientError
from measuring.served import BATCHES_IN_FLIGHT, offer, serving
from measuring.stopping import end_as_ctrl_c_does
from measuring.targets import BENCH
from saccade_predictor.engines.cuda import Cuda, DeviceError, NoGpu, load_cuda
from saccade_predictor.engines.engine import EngineBroken
from saccade_predictor.engines.gpus import Gpus, load_module
from saccade_serving.memory.arena import Arena

RESULTS: Final = BENCH / "results" / "gpu.json"
PLANS: Final = BENCH / "results" / "gpu-plans"
BATCHES: Final = (1, 8, 32, 64, 128)
_QUICK_BATCHES: Final = (1, 8)
_QUICK: Final = Effort(seconds=0.5, least=10, warmup=5)
#: Of all requests in a batch, and what the arena's size classes round up.
_ARENA_BYTES: Final = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Site:
    """Where plans run.

    Attributes:
        load_module: TensorRT's module, of the plan's kind.
    """

    cuda: Cuda
    load_module: Callable[[], Any]

    @contextmanager
    def gpus(self) -> Iterator[tuple[Gpus, Arena]]:
        """What opens plans as the predictor does, and the arena of its requests."""
        arena = Arena(_ARENA_BYTES)
        modules = {"trt": self.load_module, "trt-rtx": self.load_module}
        try:
            yield Gpus(arena, lambda: self.cuda, modules=modules), arena
        finally:
            arena.close()


def measure(
    site: Site, model: PlanModel, rows: int, effort: Effort, clients: Sequence[Client], say: Callable[[str, str], None]
) -> Size:
    """Measure one size of batch: the limit, the engine, then end to end.

    Raises:
        ValueError: the plan cannot be loaded or measured.
        DeviceError, EngineBroken: the GPU, or TensorRT, does not do it.
        ServerFailed, ClientError: the predictor does not.
    """
    group = f"batches of {rows}"
    with tempfile.TemporaryDirectory(prefix="saccade-bench-") as scratch:
        say(group, "TensorRT alone")
        trt = site.load_module()
        with raw_lane(trt, site.cuda.device(0), model.path.read_bytes(), rows) as lane:
            raw = asyncio.run(time_lane(lane, effort))
        say(group, "the engine")
        with site.gpus() as (gpus, arena):
            engine = open_engine(gpus, model.plan, model.path)
            try:
                with engine_lane(engine, arena, rows) as driven:
                    copied = asyncio.run(time_lane(driven, effort))
            finally:
                engine.close()
        say(group, "end to end")
        with serving(model.folder, rows, Path(scratch)) as served:
            alone = offer(served, clients, 1, effort.seconds) if rows == 1 else None
            with gpu_use.watched(Path(scratch)) as used:
                busy = offer(served, clients, BATCHES_IN_FLIGHT * rows, effort.seconds)
    return Size(rows, raw, copied, busy, alone, used())


def known_sizes(output: Path, identity: dict[str, Any]) -> list[Size]:
    """Sizes that a run before wrote of the same plan with the same effort; none if the file is another's."""
    try:
        content = json.loads(output.read_text(encoding="utf-8"))
        if content["identity"] == identity:
            return [from_json(one) for one in content["sizes"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return []


def write(output: Path, arguments: Sequence[str], identity: dict[str, Any], sizes: Sequence[Size], gpu: str) -> None:
    """Write what has been measured so far."""
    content = {
        "bench": "gpu",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/gpu.py", *arguments]),
        "machine": {**machine.describe(), "gpu": gpu},
        "identity": identity,
        "sizes": [size.to_json() for size in sizes],
        "goals": [{**asdict(goal), "reached": goal.reached} for goal in judge(sizes)],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="an ONNX file, or a model's folder with a plan (default: ResNet-18)"
    )
    parser.add_argument("--quick", action="store_true", help="two sizes, half a second each: a look, judges nothing")
    parser.add_argument("--batches", help=f"sizes of batch (default: {','.join(map(str, BATCHES))})")
    parser.add_argument("--kind", choices=("trt", "trt-rtx"), default="trt", help="of a plan that is built")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp16", help="likewise (default: fp16)"
    )
    parser.add_argument("--plans", type=Path, default=PLANS, help="where plans are kept (default: bench/results/)")
    parser.add_argument("--plans-only", action="store_true", help="build the plan if need be; measure nothing")
    parser.add_argument("--seconds", type=float, default=Effort().seconds, help="of every measurement (default: 5)")
    parser.add_argument("--clients", type=int, help="processes that send requests (default: one for four CPUs)")
    parser.add_argument("--again", action="store_true", help="measure sizes again that the output file has")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figure into a PNG or SVG file")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/gpu.json)")
    given = parser.parse_args(arguments)
    chosen = given.batches or ",".join(map(str, _QUICK_BATCHES if given.quick else BATCHES))
    given.batches = sorted({int(part) if part.strip().isdecimal() else 0 for part in chosen.split(",")})
    if given.batches[0] < 1:
        parser.error(f"--batches is {chosen!r}; expected numbers of rows such as 1,8,32")
    if given.clients is None:
        given.clients = max(1, len(os.sched_getaffinity(0)) // 4)
    if given.clients < 1 or given.seconds <= 0:
        parser.error("--clients must be at least 1, and --seconds more than 0")
    return given


def prepare(given: argparse.Namespace, say: Callable[[str], None]) -> tuple[Site, PlanModel]:
    """Find the GPU, then the model.

    Raises:
        NoGpu: there is none, or nothing to run plans with.
        NoModel: there is no plan.
    """
    # One GPU for everything: the predictor would otherwise have an instance on each.
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu_use.first_visible()
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts
    cuda = load_cuda()
    model = find(given.model, Wanted(given.kind, given.precision, given.batches, JUDGED), given.plans, say)
    load = partial(load_module, model.plan.kind)
    try:
        load()
    except ValueError as why:
        raise NoGpu(str(why)) from None
    return Site(cuda, load), model


def run(given: argparse.Namespace, arguments: Sequence[str], site: Site, model: PlanModel) -> list[Size]:
    """Measure all sizes that are missing, and write after each; returns those asked for.

    Raises:
        As ``measure`` does.
    """
    effort = _QUICK if given.quick else Effort(seconds=given.seconds)
    name = site.cuda.device(0).name
    identity = {
        "model": model.folder.name,
        "plan": model.plan.plan.sha256,
        "precision": model.plan.precision,
        "tensorrt": f"{model.plan.kind} {model.plan.tensorrt}",
        "gpu": name,
        "effort": asdict(effort),
        "clients": given.clients,
    }
    found = {} if given.again else {size.rows: size for size in known_sizes(given.output, identity)}
    progress = table.Progress(0)
    most = (model.plan.rows() or (1, 1))[1]
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(Client("rest")) for _ in range(given.clients)]
            for rows in given.batches:
                if rows in found:
                    progress.say(f"batches of {rows} were measured before (--again measures them anew)")
                elif rows > most:
                    progress.say(f"batches of {rows} are left out: the plan takes {most} rows at most")
                else:
                    found[rows] = measure(site, model, rows, effort, clients, progress.step)
                    write(given.output, arguments, identity, sorted(found.values(), key=lambda one: one.rows), name)
    finally:
        progress.end()
    return [found[rows] for rows in given.batches if rows in found]


def main(arguments: Sequence[str]) -> int:
    """Run the bench; returns the exit status."""
    given = parse(arguments)
    end_as_ctrl_c_does()
    console = table.console()
    try:
        site, model = prepare(given, lambda text: console.print(text, markup=False))
        if given.plans_only:
            print(f"{model.path}: {model.plan.plan.bytes} bytes, SHA-256 {model.plan.plan.sha256}")
            return 0
        sizes = run(given, arguments, site, model)
    except NoGpu as why:
        print(f"nothing is measured: {why}")
        return 0
    except KeyboardInterrupt:
        print("stopped; sizes that were measured are in the output file", file=sys.stderr)
        return 130
    except (NoModel, OSError, ValueError, DeviceError, EngineBroken, ServerFailed, ClientError) as why:
        print(f"{why}; sizes that were measured before are in the output file", file=sys.stderr)
        return 1
    if not sizes:
        print(f"nothing is measured: the plan takes no batch of {', '.join(map(str, given.batches))} rows")
        return 1
    title = f"{model.folder.name}, {model.plan.precision}, {site.cuda.device(0).name}: ms, and images per second"
    console.print(show(sizes, title))
    console.print(
        table.goals(list(judge(sizes)), not given.quick, title="Goals", counted="batches", shown=table.number)
    )
    if given.plot:
        plot(sizes, title.partition(":")[0], given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
