"""A TensorRT plan as lanes: the raw enqueue loop over resident data, which is the limit, and the predictor's engine.

Goes through the predictor's CUDA layer, so that the tests' fake of that layer runs it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from measuring.lanes import InstanceLane, place, rows_of
from saccade_predictor.engines.bufferset import BufferSet
from saccade_predictor.engines.cuda import Device, DeviceError, Event
from saccade_predictor.engines.engine import Engine
from saccade_predictor.engines.gpus import Gpus
from saccade_predictor.engines.plan import Plan, PlanTensor
from saccade_predictor.engines.planshapes import Profile, choose
from saccade_predictor.engines.tensorrt import logger_of, profiles_of, tensors_of
from saccade_serving.memory.arena import Arena

#: Batches given ahead in the raw loop, so that the GPU never waits for the host.
RAW_DEPTH: Final = 2


class RawLane:
    """TensorRT alone: one context whose inputs lie on the device and whose outputs stay there. Made by ``raw_lane``.

    Args:
        context: TensorRT's, bound to shapes and addresses.
        own: its buffers and its stream.
        events: one for each batch in flight.
        rows: of a batch.
    """

    depth = RAW_DEPTH

    def __init__(self, context: Any, own: BufferSet, events: Sequence[Event], rows: int) -> None:
        self._context = context
        self._own = own
        self._events = events
        self._given = 0
        self.rows = rows

    async def give(self) -> Event:
        """See ``Lane``."""
        event = self._events[self._given % RAW_DEPTH]
        self._given += 1
        if not self._context.execute_async_v3(self._own.stream.handle):
            raise DeviceError("the execution could not be given to the device; TensorRT's log has the cause")
        event.record(self._own.stream)
        return event

    async def finish(self, given: Event) -> None:
        """See ``Lane``. The thread sleeps."""
        given.wait()

    def close(self) -> None:
        """Let go of the context, when nothing is in flight any more."""
        self._own.done.record(self._own.stream)
        self._own.done.wait()
        self._context = None


@contextmanager
def raw_lane(trt: Any, device: Device, content: bytes, rows: int) -> Iterator[RawLane]:
    """Load a plan with TensorRT alone, for batches of one size.

    Args:
        trt: the module.
        device: where.
        content: the plan.
        rows: of a batch.

    Raises:
        ValueError: the plan cannot be loaded, has no profile for that batch, or outputs that depend on the data.
        DeviceError: there is no memory for it.
    """
    with device.current(), ExitStack() as stack:
        runtime = trt.Runtime(logger_of(trt))
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise ValueError(f"the plan cannot be loaded by TensorRT {trt.__version__}")
        inputs, outputs = tensors_of(trt, engine, "the plan")
        profile = choose(profiles_of(engine, inputs), {one.name: (rows, *one.shape[1:]) for one in inputs})
        context = engine.create_execution_context()
        if context is None:
            raise DeviceError("TensorRT made no execution context")
        own = BufferSet(device)
        stack.callback(own.close)
        _bind(context, own, inputs, outputs, profile, rows)
        events = [device.event() for _ in range(RAW_DEPTH)]
        for event in events:
            stack.callback(event.close)
        lane = RawLane(context, own, events, rows)
        try:
            yield lane
        finally:
            lane.close()
            # TensorRT's objects go while the device is current, the runtime last.
            del context
            del engine
            del runtime


def _bind(
    context: Any,
    own: BufferSet,
    inputs: Sequence[PlanTensor],
    outputs: Sequence[PlanTensor],
    profile: Profile,
    rows: int,
) -> None:
    """Tell a context its shapes and buffers, and fill the inputs.

    Raises:
        ValueError: the shapes of the outputs are not known before the execution.
    """
    if profile.index and not context.set_optimization_profile_async(profile.index, own.stream.handle):
        raise DeviceError(f"optimization profile {profile.index} cannot be used")
    for request in rows_of([tensor.metadata() for tensor in inputs], 1):
        for tensor in inputs:
            batch = np.ascontiguousarray(np.repeat(request[tensor.name], rows, axis=0))
            if not context.set_input_shape(tensor.name, tuple(batch.shape)):
                raise DeviceError(f"input {tensor.name!r} cannot have the shape {list(batch.shape)}")
            buffer = own.grow(own.inputs, tensor.name, batch.nbytes)
            own.stream.copy_in(buffer.address, batch.__array_interface__["data"][0], batch.nbytes, staged=True)
            own.done.record(own.stream)
            own.done.wait()
            context.set_tensor_address(tensor.name, buffer.address)
    for tensor in outputs:
        shape = tuple(context.get_tensor_shape(tensor.name))
        if min(shape, default=0) < 0:
            raise ValueError(f"the shape of output {tensor.name!r} depends on the data, which is not measured")
        buffer = own.grow(own.outputs, tensor.name, max(1, tensor.nbytes(shape)))
        context.set_tensor_address(tensor.name, buffer.address)


@contextmanager
def engine_lane(engine: Engine, arena: Arena, rows: int) -> Iterator[InstanceLane]:
    """The first instance of an engine, with a batch of one-row requests in the arena it reads from."""
    requests, leases = place(arena, rows_of(engine.describe().inputs, rows))
    try:
        yield InstanceLane(engine.instances()[0], requests)
    finally:
        del requests
        for lease in leases:
            lease.release()


def open_engine(gpus: Gpus, plan: Plan, path: Path, *, recorded: int = 0) -> Engine:
    """The predictor's engine of a plan, one instance on the first GPU.

    Args:
        gpus: of this process.
        plan: its sidecar.
        path: its file.
        recorded: rows of the batch that is recorded as a CUDA graph where ``gpus`` records; 0: none.
    """
    return gpus.open_plan(path, plan, (0,), frozenset({recorded} if recorded else ()))
