"""A model's configuration: Triton's ``config.pbtxt``, read with Triton's own protobuf.

Which of Triton's fields are implemented, harmless (accepted, with one warning) or refused stands in
``tritonschema.py``. Looks at no disk and at no model file: the text and the graph's tensors are handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from google.protobuf import json_format, text_format  # type: ignore[import-untyped]  # it ships no types

from saccade_predictor.batchingconfig import DynamicBatching, ModelConfigError, read_batching, read_slo
from saccade_predictor.tritonschema import findings, load_schema
from saccade_predictor.warmupconfig import WarmupSample, read_warmup
from saccade_serving.oip.datatypes import BYTES, DATATYPES
from saccade_serving.oip.messages import TensorMetadata

InstanceKind: TypeAlias = Literal["KIND_AUTO", "KIND_GPU", "KIND_CPU"]

#: Backend -> the file it runs unless ``default_model_filename`` names another.
DEFAULT_MODEL_FILENAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"onnxruntime": "model.onnx", "tensorrt": "model.plan", "tensorrt_rtx": "model.plan"}
)
#: The older way to name a backend.
PLATFORMS: Final = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}
CPU_BACKENDS: Final = ("onnxruntime",)
#: Triton's ``--default-max-batch-size`` is 4; 8 is what the example detector was measured with.
AUTOCOMPLETE_MAX_BATCH_SIZE: Final = 8
#: Each has a thread and a session of its own.
MAX_INSTANCES: Final = 64
_DATATYPES: Final = {f"TYPE_{name}": name for name in DATATYPES if name != BYTES} | {"TYPE_STRING": BYTES}


@dataclass(frozen=True, slots=True)
class TensorConfig:
    """An input or output of a model.

    Attributes:
        datatype: the protocol's name, for example ``FP32``.
        dims: shape of one row when the model batches, else the full shape; -1 is any size.
        label_filename: outputs only; file of class names in the model's directory, or empty.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    label_filename: str = ""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions of a model are served.

    Attributes:
        count: for ``latest``: how many, the highest numbers first.
        versions: for ``specific``: these and no others.
    """

    kind: Literal["latest", "specific", "all"] = "latest"
    count: int = 1
    versions: tuple[int, ...] = ()

    def select(self, available: Iterable[int]) -> tuple[int, ...]:
        """Choose among the versions on disk, ascending. A specific version that is not there is left out."""
        ordered = sorted(set(available))
        if self.kind == "latest":
            return tuple(ordered[-self.count :])
        return tuple(v for v in ordered if self.kind == "all" or v in self.versions)


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Instances of one kind.

    Attributes:
        count: on each GPU.
        gpus: indices; none: all there are.
    """

    count: int = 1
    gpus: tuple[int, ...] = ()

    def placed(self, gpus: int) -> list[int]:
        """The GPU of each instance, where there are so many GPUs."""
        return [gpu for gpu in self.gpus or range(gpus) for _ in range(self.count)]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the predictor needs to know of a model.

    Attributes:
        backend: a key of ``DEFAULT_MODEL_FILENAMES``.
        max_batch_size: rows of one engine call; 0 for a model without a batch dimension.
        dynamic_batching: None: each request runs by itself.
        instance_count: how many batches may execute at the same time on a CPU.
        instance_groups: where instances are on GPUs.
        fallback_backend: serves where there is no GPU (``parameters.fallback_backend``), or None.
        slo_ms: time from a request's first byte to its answer that shall be kept (``parameters.slo_ms``); 0 is none.
        warmup: requests to be sent before it is ready; none: zeros.
        source: the ``config.pbtxt`` it was read from as serialised protobuf, empty without one; for
            ``configuration``, which tells clients also of the fields that have no effect.
    """

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    default_model_filename: str
    dynamic_batching: DynamicBatching | None = None
    instance_count: int = 1
    instance_groups: tuple[InstanceGroup, ...] = (InstanceGroup(),)
    instance_kind: InstanceKind = "KIND_AUTO"
    version_policy: VersionPolicy = VersionPolicy()
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fallback_backend: str | None = None
    slo_ms: float = 0.0
    warmup: tuple[WarmupSample, ...] = ()
    source: bytes = field(default=b"", repr=False, compare=False)


def parse(text: str, model: str, *, gpu_available: bool = False) -> tuple[ModelConfig, list[str]]:
    """Read a ``config.pbtxt``.

    Args:
        text: the file's content.
        model: name of the model's directory, which ``name`` must repeat if it is given.
        gpu_available: without one, KIND_GPU needs ``parameters.fallback_backend``.

    Returns:
        The configuration, whose inputs and outputs may still be empty (see ``complete``), and the warnings.

    Raises:
        ModelConfigError: the text is not a configuration, or asks for what is not served.
    """
    proto = load_schema().ModelConfig()
    try:
        text_format.Parse(text, proto)
    except text_format.ParseError as err:
        reason = str(err).partition(" : ")[2] or str(err)
        found = f"not valid ({reason[:200].rstrip('.')})"
        raise ModelConfigError(model, f"line {err.GetLine() or 1}", found, "Triton's ModelConfig as text") from err
    warnings: dict[str, str] = {}
    for name, path, refused, reason in findings(proto):
        if refused:
            raise ModelConfigError(model, path, "set", f"absent, as it is not implemented: {reason}")
        warnings.setdefault(name, f"{path} has no effect: {reason}")

    if proto.name not in ("", model):
        raise ModelConfigError(model, "name", repr(proto.name), f"{model!r}, the directory's name")
    if proto.max_batch_size < 0:
        raise ModelConfigError(model, "max_batch_size", proto.max_batch_size, "0 or more")
    if proto.HasField("dynamic_batching") and proto.max_batch_size == 0:
        warnings["batching"] = "dynamic_batching has no effect: max_batch_size is 0"
    backend = _read_backend(proto, model)
    parameters = MappingProxyType({key: value.string_value for key, value in proto.parameters.items()})
    fallback = _read_fallback(parameters, model)
    kind, groups = _read_instances(proto.instance_group, backend, model)
    if kind == "KIND_GPU" and (not gpu_available or backend in CPU_BACKENDS):
        if fallback is None:
            why = f"backend {backend} runs on CPUs" if gpu_available else "it has no GPU"
            expected = f"a kind that this machine has ({why}), or parameters.fallback_backend"
            raise ModelConfigError(model, "instance_group kind", kind, expected)
        warnings["kind"] = f"instance_group kind KIND_GPU without a GPU: {fallback} serves, not {backend}"
    filename = _read_filename(proto.default_model_filename, "default_model_filename", model)
    config = ModelConfig(
        name=model,
        backend=backend,
        max_batch_size=proto.max_batch_size,
        inputs=_read_tensors(proto.input, "input", model),
        outputs=_read_tensors(proto.output, "output", model),
        default_model_filename=filename or DEFAULT_MODEL_FILENAMES[backend],
        dynamic_batching=read_batching(proto, model) if proto.max_batch_size > 0 else None,
        instance_count=sum(group.count for group in groups),
        instance_groups=groups,
        instance_kind=kind,
        version_policy=_read_versions(proto.version_policy, model),
        parameters=parameters,
        fallback_backend=fallback,
        slo_ms=read_slo(parameters, proto.max_batch_size, model),
        warmup=read_warmup(proto, model),
        source=proto.SerializeToString(),
    )
    return config, [f"{model}/config.pbtxt: {warning}" for warning in warnings.values()]


def json_as_text(text: str, model: str) -> str:
    """Write a configuration that came as Triton's JSON as ``config.pbtxt`` would have it.

    Raises:
        ModelConfigError: it is no such configuration.
    """
    try:
        proto = json_format.Parse(text, load_schema().ModelConfig(), max_recursion_depth=20)
    except json_format.ParseError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelConfigError(model, "the JSON", f"not valid ({reason})", "Triton's ModelConfig") from None
    written: str = text_format.MessageToString(proto)
    return written


def complete(
    config: ModelConfig, graph_inputs: Sequence[TensorMetadata], graph_outputs: Sequence[TensorMetadata]
) -> ModelConfig:
    """Fill in what a configuration leaves to the graph, and check what it says against the graph.

    Inputs that are not configured are added. Outputs are added only if none is configured: naming some of them
    is how an author serves only those. A configured -1 takes the graph's size where that is fixed.

    Args:
        config: as parsed.
        graph_inputs: the graph's inputs, with full shapes.
        graph_outputs: the graph's outputs, with full shapes.

    Raises:
        ModelConfigError: a tensor's name, datatype or dims disagree, or the model cannot batch.
    """
    inputs = _match(config, "input", config.inputs, graph_inputs)
    outputs = _match(config, "output", config.outputs, graph_outputs)
    added_inputs = _match_all(config, "input", graph_inputs, without=config.inputs)
    added_outputs = () if config.outputs else _match_all(config, "output", graph_outputs, without=())
    return replace(config, inputs=inputs + added_inputs, outputs=outputs + added_outputs)


def autocomplete(
    name: str,
    backend: str,
    inputs: Sequence[TensorMetadata],
    outputs: Sequence[TensorMetadata],
    first_dim_dynamic: bool | None = None,
) -> ModelConfig:
    """Make the configuration of a model that has none.

    Args:
        name: name of the model's directory.
        backend: a key of ``DEFAULT_MODEL_FILENAMES``.
        inputs: the graph's inputs, with full shapes.
        outputs: the graph's outputs, with full shapes.
        first_dim_dynamic: whether the first dimension of every tensor is a batch of any size, None to see it
            from the shapes. If so, requests are batched, up to ``AUTOCOMPLETE_MAX_BATCH_SIZE`` rows.

    Raises:
        ModelConfigError: ``first_dim_dynamic`` is said of a tensor that is not so.
    """
    if first_dim_dynamic is None:
        first_dim_dynamic = all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
    bare = ModelConfig(
        name=name,
        backend=backend,
        max_batch_size=AUTOCOMPLETE_MAX_BATCH_SIZE if first_dim_dynamic else 0,
        inputs=(),
        outputs=(),
        default_model_filename=DEFAULT_MODEL_FILENAMES[backend],
        dynamic_batching=DynamicBatching() if first_dim_dynamic else None,
    )
    return complete(bare, inputs, outputs)


def _read_backend(proto: Any, model: str) -> str:
    expected = f"one of {', '.join(DEFAULT_MODEL_FILENAMES)}"
    if proto.platform and proto.platform not in PLATFORMS:
        expected = f"one of {', '.join(PLATFORMS)}, or a backend ({expected})"
        raise ModelConfigError(model, "platform", repr(proto.platform), expected)
    backend: str = proto.backend or PLATFORMS.get(proto.platform, "")
    if backend not in DEFAULT_MODEL_FILENAMES:
        raise ModelConfigError(model, "backend", repr(backend) if backend else "missing", expected)
    if proto.platform and PLATFORMS[proto.platform] != backend:
        raise ModelConfigError(model, "platform", repr(proto.platform), f"none, or that of backend {backend!r}")
    return backend


def _read_fallback(parameters: Mapping[str, str], model: str) -> str | None:
    fallback = parameters.get("fallback_backend")
    if fallback is None or fallback in CPU_BACKENDS:
        return fallback
    expected = f"a backend that needs no GPU: {', '.join(CPU_BACKENDS)}"
    raise ModelConfigError(model, "parameters.fallback_backend", repr(fallback), expected)


def _read_instances(groups: Any, backend: str, model: str) -> tuple[InstanceKind, tuple[InstanceGroup, ...]]:
    """Kind and groups of instances; a group without a count has one."""
    kinds: dict[str, InstanceKind] = {"KIND_AUTO": "KIND_AUTO", "KIND_GPU": "KIND_GPU"}
    if backend in CPU_BACKENDS:
        kinds["KIND_CPU"] = "KIND_CPU"
    found = {group.Kind.Name(group.kind) for group in groups} or {"KIND_AUTO"}
    if len(found) > 1:
        listed = " and ".join(sorted(found))
        raise ModelConfigError(model, "instance_group kind", listed, "one kind for all groups")
    kind = found.pop()
    if kind not in kinds:
        raise ModelConfigError(model, "instance_group kind", kind, f"{' or '.join(kinds)} with backend {backend}")
    for group in groups:
        if group.count < 0:
            raise ModelConfigError(model, "instance_group count", group.count, "1 or more")
        if min(group.gpus, default=0) < 0 or len(set(group.gpus)) != len(group.gpus):
            expected = "the index of each GPU once, counted from 0, or no list"
            raise ModelConfigError(model, "instance_group gpus", list(group.gpus), expected)
    read = tuple([InstanceGroup(group.count or 1, tuple(group.gpus)) for group in groups]) or (InstanceGroup(),)
    count = sum(group.count * max(1, len(group.gpus)) for group in read)
    if count > MAX_INSTANCES:
        raise ModelConfigError(model, "instance_group count", count, f"at most {MAX_INSTANCES} together")
    return kinds[kind], read


def _read_versions(policy: Any, model: str) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "latest":
            if policy.latest.num_versions < 1:
                raise ModelConfigError(model, "version_policy.latest.num_versions", 0, "1 or more")
            return VersionPolicy("latest", policy.latest.num_versions)
        case "specific":
            versions = tuple(policy.specific.versions)
            if not versions or min(versions) < 1:
                found, expected = list(versions) or "empty", "version numbers of 1 or more"
                raise ModelConfigError(model, "version_policy.specific.versions", found, expected)
            return VersionPolicy("specific", versions=versions)
        case "all":
            return VersionPolicy("all")
    return VersionPolicy()


def _read_tensors(tensors: Any, direction: str, model: str) -> tuple[TensorConfig, ...]:
    read: dict[str, TensorConfig] = {}
    for number, tensor in enumerate(tensors):
        if not tensor.name or tensor.name in read:
            found = f"{tensor.name!r} a second time" if tensor.name else "missing"
            raise ModelConfigError(model, f"{direction}[{number}].name", found, "a name of its own")
        what, type_name = f"{direction} {tensor.name!r}", load_schema().DataType.Name(tensor.data_type)
        if type_name not in _DATATYPES:
            found = "missing" if type_name == "TYPE_INVALID" else type_name
            raise ModelConfigError(model, f"{what} data_type", found, f"one of {', '.join(_DATATYPES)}")
        if not tensor.dims or any(dim != -1 and dim < 1 for dim in tensor.dims):
            expected = "dimensions of 1 or more, or -1 for any size"
            raise ModelConfigError(model, f"{what} dims", list(tensor.dims) or "missing", expected)
        labels = _read_filename(getattr(tensor, "label_filename", ""), f"{what} label_filename", model)
        read[tensor.name] = TensorConfig(tensor.name, _DATATYPES[type_name], tuple(tensor.dims), labels)
    return tuple(read.values())


def _read_filename(name: str, what: str, model: str) -> str:
    """A file within the model's directory: the repository is not a way to read the rest of the disk."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ModelConfigError(model, what, repr(name), "the name of a file in the model's directory")
    return name


def _match_all(
    config: ModelConfig, direction: str, graph: Sequence[TensorMetadata], without: Sequence[TensorConfig]
) -> tuple[TensorConfig, ...]:
    """The graph's tensors that are not configured, as if they were."""
    known = {tensor.name for tensor in without}
    rest = [tensor for tensor in graph if tensor.name not in known]
    batched = config.max_batch_size > 0
    wild = [TensorConfig(t.name, t.datatype, (-1,) * (len(t.shape) - batched)) for t in rest]
    return _match(config, direction, wild, rest)


def _match(
    config: ModelConfig, direction: str, given: Sequence[TensorConfig], graph: Sequence[TensorMetadata]
) -> tuple[TensorConfig, ...]:
    """Check configured tensors against the graph's, and take fixed sizes from there."""
    known = {tensor.name: tensor for tensor in graph}
    matched = []
    for tensor in given:
        what, actual = f"{direction} {tensor.name!r}", known.get(tensor.name)
        if actual is None:
            names = ", ".join(repr(name) for name in known) or "none"
            raise ModelConfigError(config.name, what, "not a tensor of the model", f"one of {names}")
        if tensor.datatype != actual.datatype:
            expected = f"{actual.datatype}, as in the model"
            raise ModelConfigError(config.name, f"{what} data_type", tensor.datatype, expected)
        if config.max_batch_size > 0 and actual.shape[:1] != (-1,):
            expected = f"0: {what} of the model has no dynamic first dimension, its shape is {list(actual.shape)}"
            raise ModelConfigError(config.name, "max_batch_size", config.max_batch_size, expected)
        dims = actual.shape[1:] if config.max_batch_size > 0 else actual.shape
        agree = len(dims) == len(tensor.dims)
        if not agree or any(-1 not in pair and pair[0] != pair[1] for pair in zip(dims, tensor.dims, strict=True)):
            after = ", after the batch dimension" if config.max_batch_size > 0 else ""
            expected = f"{list(dims)}, as in the model{after}"
            raise ModelConfigError(config.name, f"{what} dims", list(tensor.dims), expected)
        merged = tuple(b if a == -1 else a for a, b in zip(dims, tensor.dims, strict=True))
        matched.append(replace(tensor, dims=merged))
    return tuple(matched)
