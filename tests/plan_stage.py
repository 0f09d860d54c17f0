"""A plan on the fake device, an arena, and requests that are told apart by their values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuda_fake import FakeCuda, FakeDevice
from hazards import me, watch_host
from saccade_predictor.engines.engine import Inputs, LeasedOutputs, Outputs, Ticket
from saccade_predictor.engines.pagelocks import PageLocks
from saccade_predictor.engines.tensorrt import TensorRTEngine
from saccade_serving.memory.arena import Arena, Lease
from trt_fake import Network, Shape, Trt

WIDTH = 6


def doubling(rows: int = 8, width: int = WIDTH) -> Network:
    """x FP32 [n, width] -> y = 2 x, and s INT32 [n, 1], the rounded sums; one profile of 1 to ``rows``."""

    def compute(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        x = inputs["x"]
        return {"y": x * 2, "s": np.rint(x.sum(axis=1, keepdims=True)).astype(np.int32)}

    def shapes(given: Mapping[str, Shape]) -> Mapping[str, Shape]:
        return {"y": given["x"], "s": (given["x"][0], 1)}

    return Network(
        inputs={"x": ("FLOAT", (-1, width))},
        outputs={"y": ("FLOAT", (-1, width)), "s": ("INT32", (-1, 1))},
        profiles=[{"x": ((1, width), (rows, width))}],
        compute=compute,
        shapes=shapes,
    )


class Stage:
    """An engine on fake devices over a real arena. Call ``close`` at the end: it checks for hazards.

    Args:
        patch: watches how host threads tell each other.
        network: of the plan.
        seed: of the order in which the device does things.
        places: the device of each instance.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        network: Network | None = None,
        seed: int = 0,
        places: Sequence[int] = (0,),
        recorded: frozenset[int] = frozenset(),
        before: Callable[[FakeCuda, Trt], None] = lambda cuda, trt: None,
    ) -> None:
        self.cuda = FakeCuda(seed, max(places) + 1)
        self.device: FakeDevice = self.cuda.devices[0]
        self.checker = self.cuda.checker
        watch_host(self.checker, patch, asyncio.get_running_loop())
        self.trt = Trt(self.cuda, network or doubling())
        before(self.cuda, self.trt)
        self.arena = Arena(2**22, poison=True)
        self.pages = PageLocks(self.arena, self.device, start=lambda work: work())
        devices = [self.cuda.devices[index] for index in places]
        self.engine = TensorRTEngine(b"plan", "model.plan", self.trt, devices, self.pages, recorded)

    def request(self, value: float, rows: int = 1, width: int = WIDTH) -> tuple[Lease, Inputs]:
        """A request in the arena: rows of ``value``, ``value + 1`` and so on."""
        lease = self.arena.lease(rows * width * 4)
        x = np.frombuffer(lease.view, np.float32).reshape(rows, width)
        self.checker.access(me(), lease.address, lease.size, True, "a request is received")
        x[:] = (value + np.arange(rows, dtype=np.float32))[:, None]
        lease.queued()
        lease.staged()
        return lease, {"x": x}

    def submit(self, *requests: tuple[Lease, Inputs], instance: int = 0) -> Ticket:
        """Hand a batch of requests to an instance; their memory is freed when it says so."""
        rows = sum(len(inputs["x"]) for _, inputs in requests)
        ticket = self.engine.instances()[instance].submit([inputs for _, inputs in requests], rows)

        def free(_: object) -> None:
            for lease, _inputs in requests:
                lease.release()

        ticket.inputs_free.add_done_callback(free)
        return ticket

    async def outputs(self, ticket: Ticket, within_s: float = 20.0) -> dict[str, NDArray[Any]]:
        """The outputs of a batch, read and copied as a connection does."""
        return self.read(await asyncio.wait_for(asyncio.shield(ticket.done), within_s))

    def read(self, outputs: Outputs) -> dict[str, NDArray[Any]]:
        """Read outputs and give them back."""
        if isinstance(outputs, LeasedOutputs):
            for array in outputs.values():
                if array.nbytes:
                    self.checker.access(me(), array.ctypes.data, array.nbytes, False, "an output is sent")
        copied = {name: np.array(array) for name, array in outputs.items()}
        if isinstance(outputs, LeasedOutputs):
            outputs.release()
        return copied

    async def run(self, *values: float, rows: int = 1, instance: int = 0) -> dict[str, NDArray[Any]]:
        """A batch of requests of these values."""
        return await self.outputs(self.submit(*(self.request(value, rows) for value in values), instance=instance))

    async def close(self) -> None:
        """Free everything; nothing may be left of it, and nothing have raced."""
        await asyncio.to_thread(self.engine.close)
        await asyncio.sleep(0)
        self.checker.check()
        assert not any(device.used for device in self.cuda.devices), "device memory is left"
        assert not any(device.pinned_at for device in self.cuda.devices), "page-locked memory is left"
        assert not self.cuda.registered, "the arena is still page-locked"
        assert not any(stream.work for device in self.cuda.devices for stream in device.streams)
        assert self.trt.engines == 0, "TensorRT's engine is still there"
        assert self.arena.leases == 0


def doubled(values: Sequence[float], rows: int = 1, width: int = WIDTH) -> list[list[float]]:
    """What ``y`` has to be."""
    return [[2 * (value + row)] * width for value in values for row in range(rows)]
