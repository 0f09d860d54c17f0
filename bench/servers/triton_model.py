"""Triton's no-op model, run by the stub of its Python backend. The bench puts it into a model repository.

Triton's embedded interpreter ignores PYTHONPATH, so the bench names the folders in a variable of its own.
"""

from __future__ import annotations

import os
import sys
from typing import Any

sys.path += os.environ["BENCH_PYTHON_PATH"].split(os.pathsep)

import triton_python_backend_utils as backend  # type: ignore[import-not-found]  # beside the stub

from servers.noop import INPUT, OUTPUT, first_byte


class TritonPythonModel:
    """The class Triton looks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Read one byte of every request."""
        return [
            backend.InferenceResponse(
                [backend.Tensor(OUTPUT, first_byte(backend.get_input_tensor_by_name(request, INPUT).as_numpy()))]
            )
            for request in requests
        ]
