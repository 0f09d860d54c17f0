"""A model that says much of itself and infers nothing, and a gate before it: for the routes beside inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from saccade_serving.connection.gate import Gate
from saccade_serving.errors import ModelNotFound
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.model import ModelConfiguration, ServedModel
from saccade_serving.oip.messages import ModelMetadata, TensorMetadata
from saccade_serving.settings import ServiceSettings


class InformedModel(ServedModel):
    """Ready unless told otherwise, versions 1 and 3."""

    extensions: ClassVar[tuple[str, ...]] = ("classification", "model_configuration", "classification")

    def __init__(self, name: str = "m", ready: bool = True, versions: Sequence[str] = ("1", "3")) -> None:
        super().__init__(name)
        self.ready = ready
        self._served = list(versions)

    async def prepare(self) -> None: ...

    async def close(self) -> None: ...

    async def infer(self, *_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError

    def versions(self) -> list[str]:
        return self._served if self.ready else []

    def metadata(self, version: str = "") -> ModelMetadata:
        tensors = [TensorMetadata("x", "FP32", (-1, 3))]
        return ModelMetadata(self.name, [version] if version else self._served, "fake", tensors, tensors)

    def config(self, version: str = "") -> ModelConfiguration:
        if version not in ("", *self._served):
            raise ModelNotFound(self.name, version)
        # ModelConfig.name is field 1.
        return ModelConfiguration({"name": self.name, "max_batch_size": 8}, b"\x0a\x01" + self.name.encode())


class PlainModel(InformedModel):
    """One without a Triton configuration."""

    extensions = ()
    config = ServedModel.config


def gate_of(*models: ServedModel) -> Gate:
    return Gate({model.name: model for model in models}, ServiceSettings(), Metrics(), Arena(2**20))
