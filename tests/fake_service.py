"""A service around ``SaccadeServer`` with models that do what a request tells them; a process of its own.

Run as ``python tests/fake_service.py --model_name=NAME,NAME,...`` with KServe's flags and ``SACCADE_FAKE_`` settings.
A model's name says how it is prepared: ``broken...`` fails, ``slow...`` waits for a request that releases it, any
other is ready at once. What a request does stands in its parameter ``do``:

    echo        answer the inputs (the default)
    hold        answer once another request releases its id; note when it starts, ends, or is cancelled
    release     release the requests and the models that hold
    events      answer what was noted so far, as the BYTES output ``events``
    raise       fail as a bug would, with a path in the message
    overloaded  refuse, come back in 7 s
    remaining   answer the seconds the request still has, as the FP64 output ``remaining``
    late        wait until the deadline is over, then say so
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np
from pydantic_settings import SettingsConfigDict

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import Overloaded
from saccade_serving.metrics import Metrics
from saccade_serving.model import ServedModel
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata
from saccade_serving.server import SaccadeServer, argument_parser
from saccade_serving.settings import ServiceSettings
from saccade_serving.telemetry import configure_logging


class FakeSettings(ServiceSettings):
    """The shared settings under a prefix of their own."""

    model_config = SettingsConfigDict(env_prefix="SACCADE_FAKE_")


class Stage:
    """What the models of the process share: who waits, and what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.released = asyncio.Event()


class ObedientModel(ServedModel):
    """Does what its name and its requests say."""

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self._stage = stage

    async def prepare(self) -> None:
        if self.name.startswith("broken"):
            raise ValueError("the model file is made of cheese")
        if self.name.startswith("slow"):
            await self._stage.released.wait()
        self.ready = True

    def versions(self) -> list[str]:
        return ["1", "2"]

    def metadata(self, version: str = "") -> ModelMetadata:
        tensors = [TensorMetadata("x", "INT32", (-1,))]
        return ModelMetadata(self.name, [version] if version else self.versions(), "fake", tensors, tensors)

    async def infer(self, request: InferRequest, exchange: Exchange) -> InferResponse:
        exchange.version = request.model_version or "2"
        exchange.spent("compute", 0.001)
        outputs = list(request.inputs)
        match request.parameters.get("do", "echo"):
            case "hold":
                await self._hold(request.id)
            case "release":
                self._stage.released.set()
                self._stage.released = asyncio.Event()
            case "events":
                events = [event.encode() for event in self._stage.events]
                outputs = [Tensor.of_bytes("events", (len(events),), events)]
            case "raise":
                raise RuntimeError("cannot open /secret/path/model.bin")
            case "overloaded":
                raise Overloaded("too much", 7.0)
            case "remaining":
                outputs = [Tensor.of("remaining", np.array([exchange.remaining_s()]))]
            case "late":
                await asyncio.sleep(max(0.0, exchange.remaining_s()))
                raise exchange.too_late("while the fake was late")
        return InferResponse(self.name, outputs, exchange.version, request.id)

    async def close(self) -> None:
        self._stage.events.append("closed")
        sys.stderr.write(f"events: {' '.join(self._stage.events)}\n")

    async def _hold(self, request_id: str) -> None:
        self._stage.events.append(f"{request_id}:started")
        try:
            await self._stage.released.wait()
        except asyncio.CancelledError:
            self._stage.events.append(f"{request_id}:cancelled")
            raise
        self._stage.events.append(f"{request_id}:ended")


def main() -> None:
    """Serve until a signal."""
    arguments = argument_parser("fake", FakeSettings).parse_args()
    settings = FakeSettings()
    configure_logging(settings.log_level, settings.log_format)
    stage = Stage()
    models = [ObedientModel(name, stage) for name in arguments.model_name.split(",")]
    SaccadeServer(arguments, settings, Metrics()).start(models)


if __name__ == "__main__":
    main()
