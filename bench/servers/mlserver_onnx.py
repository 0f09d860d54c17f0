"""The custom runtime around ONNX Runtime that MLServer loads by name; batching is its own adaptive one.

Tensors travel as elements of datatype BYTES, one for each row, which MLServer hands on as they are; FP32 or UINT8 it
would unpack into a Python list, number by number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from servers.onnx_session import Counts, open_session


class OnnxModel(MLModel):  # type: ignore[misc]  # its environment has MLServer, ours has not
    """A custom runtime as MLServer's documentation writes them."""

    async def load(self) -> bool:
        """Open the file, in the worker process where there is one."""
        given = self.settings.parameters.extra
        self._session = open_session(Path(given["file"]), given["threads"])
        self._counts = Counts(Path(given["counts"]))
        [source] = self._session.get_inputs()
        self._input, self._shape = source.name, source.shape[1:]
        self._dtype = np.uint8 if source.type == "tensor(uint8)" else np.float32
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Infer what the batcher has put together."""
        data = payload.inputs[0].data
        rows = getattr(data, "root", data)
        batch = np.frombuffer(b"".join(rows), self._dtype).reshape(-1, *self._shape)
        [answer] = self._session.run(None, {self._input: batch})
        self._counts.add(len(rows))
        output = ResponseOutput(
            name="output", shape=[len(rows), 1], datatype="BYTES", data=[row.tobytes() for row in answer]
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
