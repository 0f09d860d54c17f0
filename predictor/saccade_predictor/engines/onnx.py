"""ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from saccade_predictor.engines.engine import EngineDescription, Inputs, Outputs
from saccade_predictor.engines.runner import RunnerInstance
from saccade_serving.oip.messages import TensorMetadata

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

#: Gather buffers kept per session; models with variable dims must not collect them for ever.
_MAX_BUFFERS: Final = 16


class OnnxEngine:
    """A model file in ONNX Runtime sessions, one per instance.

    Args:
        path: the ONNX file.
        instances: how many batches may run at once.
        threads: intra-op threads of each session, at least 1.
        simulate_int8: whether quantized products are computed in FP32 from the quantized numbers, as exactly as a GPU
            does, and not by the CPU's 8-bit instructions, which are faster and saturate on some CPUs.

    Raises:
        ValueError: the file is no ONNX model that ONNX Runtime can load, or has tensors V2 cannot carry.
    """

    def __init__(self, path: Path, instances: int, threads: int, *, simulate_int8: bool = False) -> None:
        self._path = path
        self._options = options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would burn the CPUs that the event loop and the decoder need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if simulate_int8:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 3
        try:
            sessions = [self._open() for _ in range(instances)]
        except Exception as error:  # ONNX Runtime's exceptions share no base
            reason = str(error).replace(str(path), path.name)  # clients read it
            raise ValueError(f"{path.name} cannot be loaded by ONNX Runtime: {reason}") from error
        self._description = _describe(sessions[0])
        self._runners: list[RunnerInstance] = []
        try:
            for index, session in enumerate(sessions):
                self._runners.append(RunnerInstance(_Session(session, self._description).run, f"onnx-{index}"))
        except BaseException:
            self.close()  # threads that no one would end
            raise

    def describe(self) -> EngineDescription:
        """What the graph says of itself."""
        return self._description

    def instances(self) -> Sequence[RunnerInstance]:
        """One per session."""
        return self._runners

    def renew(self, index: int) -> RunnerInstance:
        """A new session with a thread of its own; the old ones are left to themselves."""
        self._runners[index] = RunnerInstance(_Session(self._open(), self._description).run, f"onnx-{index}")
        return self._runners[index]

    def _open(self) -> ort.InferenceSession:
        return ort.InferenceSession(self._path, self._options, providers=["CPUExecutionProvider"])

    def close(self) -> None:
        """End the threads; the sessions go with them."""
        for runner in self._runners:
            runner.close()
        self._runners = []


class _Session:
    """Runs batches on one session, gathering rows into buffers that are allocated once."""

    def __init__(self, session: ort.InferenceSession, description: EngineDescription) -> None:
        self._session = session
        self._output_names = [tensor.name for tensor in description.outputs]
        self._string_outputs = {tensor.name for tensor in description.outputs if tensor.datatype == "BYTES"}
        self._buffers: dict[tuple[str, tuple[int, ...]], NDArray[Any]] = {}

    def run(self, requests: Sequence[Inputs], rows: int) -> Outputs:
        feeds = requests[0] if len(requests) == 1 else self._gather(requests, rows)
        outputs = self._session.run(self._output_names, {name: _runnable(array) for name, array in feeds.items()})
        return {
            name: _encoded(array) if name in self._string_outputs else array
            for name, array in zip(self._output_names, outputs, strict=True)
        }

    def _gather(self, requests: Sequence[Inputs], rows: int) -> Inputs:
        gathered = {}
        for name, first in requests[0].items():
            batch = self._buffer(name, first, rows)[:rows]
            at = 0
            for request in requests:
                array = request[name]
                batch[at : at + len(array)] = array
                at += len(array)
            gathered[name] = batch
        return gathered

    def _buffer(self, name: str, like: NDArray[Any], rows: int) -> NDArray[Any]:
        """A buffer of at least ``rows`` rows; grows to the largest batch and stays."""
        key = (name, like.shape[1:])
        buffer = self._buffers.get(key)
        if buffer is None or len(buffer) < rows:
            if len(self._buffers) >= _MAX_BUFFERS:
                self._buffers.clear()
            buffer = self._buffers[key] = np.empty((rows, *like.shape[1:]), like.dtype)
        return buffer


def _runnable(array: NDArray[Any]) -> NDArray[Any]:
    """ONNX Runtime takes strings as ``str``, our BYTES are ``bytes``."""
    if array.dtype != object:
        return array
    return np.array([bytes(element).decode() for element in array.ravel()], dtype=object).reshape(array.shape)


def _encoded(array: NDArray[Any]) -> NDArray[Any]:
    return np.array([str(element).encode() for element in array.ravel()], dtype=object).reshape(array.shape)


def _describe(session: ort.InferenceSession) -> EngineDescription:
    return EngineDescription(
        platform="onnxruntime_onnx",
        inputs=[_tensor(node) for node in session.get_inputs()],
        outputs=[_tensor(node) for node in session.get_outputs()],
        properties=dict(session.get_modelmeta().custom_metadata_map),
    )


def _tensor(node: Any) -> TensorMetadata:
    if node.type not in _DATATYPES:
        raise ValueError(f"tensor {node.name!r} is of type {node.type}, which the V2 protocol cannot carry")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    return TensorMetadata(node.name, _DATATYPES[node.type], shape)
