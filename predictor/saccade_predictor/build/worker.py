"""The process that builds a plan: the one module of ``build/`` that makes TensorRT objects.

A process of its own, because TensorRT's builder takes minutes in native code that no signal reaches, and may end the
process (without a driver 10.6 aborts, 11.2 crashes at exit; either may be killed for memory). It reads one request as
JSON from standard input, and dies when that closes; it writes events as JSON lines to a file descriptor. What
the libraries print goes to standard output, which is the build log.

Supports 10.6 to 11.x and TensorRT-RTX by asking for a feature, not for a version. Bindings of 10.6 predate NumPy 2:
nothing but bytes, numbers and tuples is handed to them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias, TypedDict

from saccade_predictor.files import replace_file
from saccade_predictor.machine import find_gpus, load_tensorrt

Event: TypeAlias = dict[str, Any]
Send: TypeAlias = Callable[[Event], None]

_STEP_S: Final = 0.1
#: TensorRT's datatype -> the protocol's.
_DATATYPES: Final = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
    "UINT8": "UINT8",
}
#: How the names of compute capabilities begin; those of ``CURRENT`` and ``NONE`` do not.
_CAPABILITY: Final = "SM"
_MISSING: Final = {
    "trt": "TensorRT is not installed here, or does not load; install NVIDIA's, 10.6 to 11.x (docs/tensorrt.md)",
    "trt-rtx": "TensorRT-RTX is not installed here, or does not load: pip install 'saccade[rtx]' (Linux on x86-64)",
}


class Request(TypedDict):
    """What is to be built.

    Attributes:
        kind: key of ``machine.MODULES``.
        onnx: the graph's file.
        plan: the file to write.
        profiles: input name -> min, opt, max shapes.
        flags: builder flags by name that must be set.
        strongly_typed: whether the graph's types hold.
        tf32: whether FP32 products may be computed in TF32.
        workspace_mib: scratch memory for one layer; 0 leaves TensorRT's own limit.
        timing_cache: file that measured times are read from and written to; empty for none.
        hardware_compatibility: ``none``, ``ampere_plus`` or ``same_compute_capability``.
        compute_capabilities: TensorRT-RTX; empty: all that it knows from 8.0 on.
        verbose: whether the log holds TensorRT's verbose lines too.
    """

    kind: str
    onnx: str
    plan: str
    profiles: dict[str, list[list[int]]]
    flags: list[str]
    strongly_typed: bool
    tf32: bool
    workspace_mib: int
    timing_cache: str
    hardware_compatibility: str
    compute_capabilities: list[str]
    verbose: bool


class Refused(Exception):
    """The plan cannot be built. The sentence is the user's."""


def build(request: Request, send: Send) -> Event:
    """Build a plan and write it; returns the event that says so.

    Raises:
        Refused: it cannot be built.
        OSError: it cannot be written.
    """
    kind = request["kind"]
    gpus, why_no_gpu = find_gpus()
    gpu = gpus[0] if gpus else None  # the one that CUDA builds on
    if gpu is None and kind == "trt":
        raise Refused(f"a TensorRT plan is built on the GPU it runs on, and this machine has none: {why_no_gpu}")
    trt = load_tensorrt(kind)
    if trt is None:
        raise Refused(_MISSING[kind])
    send({"version": str(trt.__version__)})
    logger = _make_logger(trt, request["verbose"])
    builder = trt.Builder(logger)
    network, parser = _parse(trt, builder, logger, request)  # the network refers to weights that the parser holds
    config = builder.create_builder_config()
    _set_profile(builder, network, config, request["profiles"])
    _set_flags(trt, config, request)
    capabilities = _set_capabilities(trt, config, request, gpu.compute_capability if gpu is not None else None)
    cache = _load_cache(config, request["timing_cache"])
    _watch(trt, config, send)
    began = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    seconds = time.monotonic() - began
    del parser
    if plan is None:
        raise Refused(_explain(logger.errors, capabilities, request["workspace_mib"]))
    content = bytes(plan)
    replace_file(Path(request["plan"]), content)
    if cache is not None:
        replace_file(Path(request["timing_cache"]), bytes(config.get_timing_cache().serialize()))
    return {
        "done": True,
        "bytes": len(content),
        "seconds": seconds,
        "compute_capabilities": capabilities,
        "gpu": gpu.name if gpu is not None and kind == "trt" else "",
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
    }


def _make_logger(trt: ModuleType, verbose: bool) -> Any:
    quiet = trt.ILogger.VERBOSE
    base: Any = trt.ILogger

    class Log(base):
        """Prints what TensorRT says; keeps the errors."""

        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity == quiet and not verbose:
                return
            name = severity.name
            print(f"[{name}] {text}", flush=severity != quiet)
            if name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(text)

    return Log()


def _parse(trt: ModuleType, builder: Any, logger: Any, request: Request) -> tuple[Any, Any]:
    creation = trt.NetworkDefinitionCreationFlag
    flags = 0
    if request["strongly_typed"] and hasattr(creation, "STRONGLY_TYPED"):
        flags |= 1 << int(creation.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(request["onnx"])
    problems = [_problem(parser.get_error(i)) for i in range(parser.num_errors)]
    if not parsed or problems:
        listed = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise Refused(f"TensorRT's ONNX parser does not take the graph: {listed or 'it gives no reason'}")
    if not network.num_outputs:
        raise Refused("the graph has no output")
    return network, parser


def _problem(error: Any) -> str:
    """One error of the parser: which node, and why."""
    name, operator = _asked(error, "node_name"), _asked(error, "node_operator")
    text = " ".join(str(error.desc()).split())
    code = error.code().name
    if text in ("false", "") or (code == "UNSUPPORTED_NODE" and operator and "&&" not in text):
        text = f"TensorRT has no such operator, or not in this form{f' ({text})' if text not in ('false', '') else ''}"
    elif "Plugin not found" in text:
        text = "TensorRT has no such operator, and no plugin of that name is loaded"
    elif '&& "' in text:
        text = text.partition('&& "')[2].rstrip('"')
    where = f"node {name!r} ({operator})" if operator else f"node {error.node()}" if error.node() >= 0 else "the graph"
    return f"{where}: {text[:300]}"


def _asked(error: Any, name: str) -> str:
    """What older parsers do not tell is empty."""
    found = getattr(error, name, None)
    return str(found()) if found is not None else ""


def _set_profile(builder: Any, network: Any, config: Any, shapes: Mapping[str, Sequence[Sequence[int]]]) -> None:
    if not shapes:
        return
    profile = builder.create_optimization_profile()
    for name, (low, mid, high) in shapes.items():
        profile.set_shape(name, tuple(low), tuple(mid), tuple(high))
    if config.add_optimization_profile(profile) < 0:
        raise Refused("TensorRT does not take the shapes of --batch and --shape together; the log has the reason")


def _set_flags(trt: ModuleType, config: Any, request: Request) -> None:
    for name in request["flags"]:
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is None:
            raise Refused(
                f"TensorRT {trt.__version__} has no builder flag {name}: its networks are strongly typed, so that the "
                "precision stands in the graph; leave --fp16-by at graph"
            )
        config.set_flag(flag)
    if not request["tf32"]:
        config.clear_flag(trt.BuilderFlag.TF32)
    if request["workspace_mib"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_mib"] * 2**20)
    wanted = request["hardware_compatibility"]
    if wanted != "none":
        level = getattr(trt.HardwareCompatibilityLevel, wanted.upper(), None)
        if level is None:
            raise Refused(f"TensorRT {trt.__version__} has no hardware compatibility {wanted!r}")
        config.hardware_compatibility_level = level


def _set_capabilities(trt: ModuleType, config: Any, request: Request, here: str | None) -> list[str]:
    """Tell TensorRT-RTX which GPUs to build for; returns which the plan is for."""
    if request["kind"] == "trt":
        assert here is not None
        return [here]
    members = trt.ComputeCapability.__members__
    known = {_dotted(name): value for name, value in members.items() if name.startswith(_CAPABILITY)}
    wanted = request["compute_capabilities"] or [one for one in known if _order(one) >= (8, 0)]
    for one in wanted:
        if one not in known:
            hint = "; for 9.0 (H100, H200) build with --kind trt there" if one == "9.0" else ""
            raise Refused(
                f"TensorRT-RTX {trt.__version__} does not build for compute capability {one}; it does for "
                f"{', '.join(known)}{hint}"
            )
    config.num_compute_capabilities = len(wanted)
    for index, one in enumerate(wanted):
        if not config.set_compute_capability(known[one], index):
            raise Refused(f"TensorRT-RTX does not take compute capability {one} beside {', '.join(wanted)}")
    return wanted


def _dotted(name: str) -> str:
    """``SM120`` is 12.0."""
    digits = name.removeprefix(_CAPABILITY)
    return f"{digits[:-1]}.{digits[-1]}"


def _order(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


def _load_cache(config: Any, path: str) -> Any:
    if not path:
        return None
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise Refused(f"the timing cache {path} is of another GPU or TensorRT, or damaged; name another file")
    return cache


def _watch(trt: ModuleType, config: Any, send: Send) -> None:
    """Have TensorRT tell how far it is, where it can."""
    base: Any = getattr(trt, "IProgressMonitor", None)
    if base is None or not hasattr(config, "progress_monitor"):
        return

    class Monitor(base):
        """Sends phases, and steps not too often."""

        def __init__(self) -> None:
            base.__init__(self)
            self._told = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            send({"phase": name, "within": parent or "", "steps": steps})

        def step_complete(self, name: str, step: int) -> bool:
            if time.monotonic() - self._told > _STEP_S:
                self._told = time.monotonic()
                send({"phase": name, "step": step + 1})
            return True

        def phase_finish(self, name: str) -> None:
            send({"phase": name, "finished": True})

    config.progress_monitor = Monitor()


def _explain(errors: Sequence[str], capabilities: Sequence[str], workspace_mib: int) -> str:
    text = " ".join((errors[-1] if errors else "the builder returned no plan").split())
    sentence = f"TensorRT cannot build the plan: {text[:500]}"
    if "Turing" in text and "7.5" in capabilities:
        sentence += "; TensorRT-RTX computes products on 7.5 in FP16 only: add --precision fp16"
    elif "OutOfMemory" in text and workspace_mib:
        sentence += f"; --workspace-mib {workspace_mib} is too little: raise it, or lower the largest batch"
    return sentence


def _tensor(tensor: Any) -> dict[str, Any]:
    name = tensor.dtype.name
    datatype = _DATATYPES.get(name)
    if datatype is None:
        raise Refused(f"tensor {tensor.name!r} is {name} in TensorRT, which the V2 protocol cannot carry")
    return {"name": tensor.name, "datatype": datatype, "shape": [int(dim) for dim in tensor.shape]}


def _die_with_the_parent() -> None:
    """End when standard input does: its other end is the parent's, whichever way that ends."""

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Read a request, build, end the process at once: TensorRT's own ending may crash."""
    request: Request = json.loads(os.fdopen(os.dup(0), "rb", buffering=0).readline())
    events = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    _die_with_the_parent()

    def send(event: Event) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    try:
        send(build(request, send))
    except Refused as error:
        send({"failed": str(error)})
    except OSError as error:
        send({"failed": f"cannot write {error.filename or request['plan']}: {error.strerror}"})
    except MemoryError:
        send({"failed": "there is not enough memory"})
    except Exception as error:  # a sentence all the same; the log has the rest
        sys.excepthook(type(error), error, error.__traceback__)
        send({"failed": f"TensorRT failed: {' '.join(str(error).split())[:300] or type(error).__name__}"})
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
