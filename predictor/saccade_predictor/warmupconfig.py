"""``model_warmup`` of a ``config.pbtxt``: which requests a version is sent before it is ready.

The fields and their meaning are Triton's (``ModelWarmup`` in model_config.proto): each sample is a request of
``batch_size`` equal rows (0: it is skipped), sent ``count`` times, with zeros, random values or a file's bytes as
data. Random floats are in [0, 1), where Triton's are any bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from saccade_predictor.batchingconfig import ModelConfigError
from saccade_predictor.tritonschema import load_schema
from saccade_predictor.warmup import Sample
from saccade_serving.errors import InvalidRequest
from saccade_serving.oip.datatypes import BYTES, NUMPY_DTYPES
from saccade_serving.oip.messages import Tensor
from saccade_serving.oip.raw import decode_raw

if TYPE_CHECKING:
    from saccade_predictor.modelconfig import ModelConfig, TensorConfig

#: Bytes of all samples of a model together, each with all its rows.
MAX_BYTES: Final = 2**28
#: What an element of text takes at least.
_BYTES_ELEMENT: Final = 64
MAX_SAMPLES: Final = 100
MAX_COUNT: Final = 10_000
_SEED: Final = 0

#: Reads a file of the model's warm-up folder: its name, and the size above which one byte more is enough.
ReadFile = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True)
class WarmupInput:
    """One input of a sample.

    Attributes:
        type_name: Triton's name of the datatype.
        dims: of one row if the model batches, else the full shape.
        source: what it is filled with.
        filename: with ``input_data_file``, within the model's folder ``warmup``.
    """

    type_name: str
    dims: tuple[int, ...]
    source: str
    filename: str


@dataclass(frozen=True, slots=True)
class WarmupSample:
    """One request, sent ``count`` times."""

    name: str
    batch_size: int
    count: int
    inputs: Mapping[str, WarmupInput]


def read_warmup(proto: Any, model: str) -> tuple[WarmupSample, ...]:
    """Read ``model_warmup``; empty where a model has none.

    Args:
        proto: the model's ``ModelConfig``.
        model: its name, for errors.

    Raises:
        ModelConfigError: a value is out of its range.
    """
    if len(proto.model_warmup) > MAX_SAMPLES:
        raise ModelConfigError(model, "model_warmup", f"{len(proto.model_warmup)} samples", f"at most {MAX_SAMPLES}")
    samples = []
    for number, given in enumerate(proto.model_warmup):
        place = f"model_warmup[{given.name or number}]"
        largest = proto.max_batch_size or 1
        if not given.batch_size:
            continue  # Triton skips such a sample, too (GenerateWarmupData in backend_model_instance.cc)
        if given.batch_size > largest:
            why = "the max_batch_size" if proto.max_batch_size else "as the model has no batches"
            raise ModelConfigError(model, f"{place}.batch_size", given.batch_size, f"1 to {largest}, {why}")
        if given.count > MAX_COUNT:
            raise ModelConfigError(model, f"{place}.count", given.count, f"at most {MAX_COUNT}")
        inputs = {name: _read_input(one, f"{place}.inputs[{name}]", model) for name, one in given.inputs.items()}
        samples.append(WarmupSample(given.name or str(number), given.batch_size, given.count or 1, inputs))
    return tuple(samples)


def _read_input(given: Any, place: str, model: str) -> WarmupInput:
    source = given.WhichOneof("input_data_type")
    chosen = source is not None and (source == "input_data_file" or getattr(given, source))
    if source is None or not chosen:
        raise ModelConfigError(model, place, "without data", "zero_data, random_data or input_data_file")
    filename = given.input_data_file
    path = PurePosixPath(filename)
    if source == "input_data_file" and (not filename or path.is_absolute() or ".." in path.parts or "\0" in filename):
        expected = "the name of a file in the model's folder warmup"
        raise ModelConfigError(model, f"{place}.input_data_file", repr(filename), expected)
    if any(dim < 1 for dim in given.dims):
        raise ModelConfigError(model, f"{place}.dims", list(given.dims), "dimensions of 1 or more")
    return WarmupInput(load_schema().DataType.Name(given.data_type), tuple(given.dims), source, filename)


def read_samples(config: ModelConfig, read_file: ReadFile) -> list[Sample]:
    """Make the requests that a model's configuration wants it to be warmed up with.

    Args:
        config: completed from the graph, so that all inputs are known.
        read_file: reads the data of ``input_data_file``.

    Raises:
        ModelConfigError: a sample does not fit the model, or a file does not fit its sample.
        RepositoryError: from ``read_file``.
    """
    samples: list[Sample] = []
    total = 0
    for sample in config.warmup:
        place = f"model_warmup[{sample.name}]"
        names = sorted(tensor.name for tensor in config.inputs)
        if sorted(sample.inputs) != names:
            raise ModelConfigError(config.name, f"{place}.inputs", sorted(sample.inputs), f"{names}, the model's")
        tensors = [
            _make(config, tensor, sample.inputs[tensor.name], f"{place}.inputs[{tensor.name}]", read_file)
            for tensor in config.inputs
        ]
        total += sum(_size(tensor) for tensor in tensors) * sample.batch_size
        if total > MAX_BYTES:
            raise ModelConfigError(config.name, place, f"{total} bytes with those before it", f"at most {MAX_BYTES}")
        samples.append(Sample(sample.name, sample.batch_size, sample.count, tensors))
    return samples


def _make(config: ModelConfig, tensor: TensorConfig, given: WarmupInput, place: str, read_file: ReadFile) -> Tensor:
    """One row of one input."""
    type_name = "TYPE_STRING" if tensor.datatype == BYTES else f"TYPE_{tensor.datatype}"
    if given.type_name != type_name:
        raise ModelConfigError(config.name, f"{place}.data_type", given.type_name, f"{type_name}, the input's")
    fits = len(given.dims) == len(tensor.dims)
    if not fits or any(want not in (-1, got) for want, got in zip(tensor.dims, given.dims, strict=True)):
        raise ModelConfigError(config.name, f"{place}.dims", list(given.dims), f"{list(tensor.dims)}, the input's")
    shape = (1, *given.dims) if config.max_batch_size else given.dims
    itemsize = _BYTES_ELEMENT if tensor.datatype == BYTES else NUMPY_DTYPES[tensor.datatype].itemsize
    size = math.prod(shape) * itemsize
    if size > MAX_BYTES:
        raise ModelConfigError(config.name, f"{place}.dims", list(given.dims), f"at most {MAX_BYTES} bytes")
    if given.source == "input_data_file":
        data = read_file(given.filename, MAX_BYTES if tensor.datatype == BYTES else size)
        try:
            return decode_raw("input", tensor.name, tensor.datatype, shape, memoryview(data), {})
        except InvalidRequest as error:
            expected = f"the input's raw bytes: {error}"
            raise ModelConfigError(config.name, f"{place}.input_data_file", repr(given.filename), expected) from None
    if tensor.datatype == BYTES:
        return Tensor.of_bytes(tensor.name, shape, [b""] * math.prod(shape))  # random text is empty at Triton, too
    dtype = NUMPY_DTYPES[tensor.datatype]
    if given.source == "zero_data":
        return Tensor(tensor.name, tensor.datatype, shape, np.zeros(shape, dtype))
    return Tensor(tensor.name, tensor.datatype, shape, _random(shape, dtype))


def _size(tensor: Tensor) -> int:
    if tensor.datatype != BYTES:
        return tensor.array.nbytes
    return sum(_BYTES_ELEMENT + len(element) for element in tensor.elements)


def _random(shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """The same values at every start."""
    generator = np.random.default_rng(_SEED)
    if dtype.kind == "f":
        return generator.random(shape, np.float32).astype(dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape, np.uint8).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
