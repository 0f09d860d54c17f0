"""Issues batches to one execution context of a plan: copies in, execution, copies out, all of them asynchronous.

A context runs one batch at a time, on the executor's stream. Each of ``DEPTH`` buffer sets has a stream of its own for
its copies, so that the next batch is copied while the present one is executed:

    set's stream       copy in ─ copied            ┌─ copy out ─ done
                                   └──────┐        │
    execution stream          (other set)  execute ─ executed

A set is used for one batch after the other, and the next one begins when the host has waited for ``done``; that is why
its buffers need no further events. Waits for nothing itself, but in ``settle``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saccade_predictor.engines.bufferset import BufferSet, Issued
from saccade_predictor.engines.cuda import Device, DeviceBroken, DeviceError, DeviceOutOfMemory, Stream
from saccade_predictor.engines.engine import Inputs
from saccade_predictor.engines.outputblocks import OutputBlocks
from saccade_predictor.engines.pagelocks import PageLocks
from saccade_predictor.engines.plan import PlanTensor
from saccade_predictor.engines.planshapes import (
    Batch,
    Profile,
    Shape,
    batch_shapes,
    choose,
    largest,
    lay_out,
    total,
    views,
)

log = logging.getLogger("saccade.tensorrt")

#: Batches in flight per instance: one executes while another is copied.
DEPTH: Final = 2
#: Sets of input shapes remembered per context; models with open dimensions must not collect them for ever.
MOST_BATCHES: Final = 256


class Executor:
    """One context, its stream and its buffer sets. Made, used and closed with the device current.

    Args:
        device: where it runs.
        make_context: makes an execution context of TensorRT's; for recordings, one each.
        inputs: the plan's.
        outputs: likewise.
        profiles: the plan's optimization profiles.
        pages: knows which memory is page-locked in one piece.
        allocator: makes an output allocator of TensorRT's from a function that has memory and one that is told shapes.
        recorded: rows of the batches that are to be recorded as graphs.

    Raises:
        DeviceError: there is no memory for it.
    """

    def __init__(
        self,
        device: Device,
        make_context: Callable[[], Any],
        inputs: Sequence[PlanTensor],
        outputs: Sequence[PlanTensor],
        profiles: Sequence[Profile],
        pages: PageLocks,
        allocator: Callable[[Callable[[str, int], int], Callable[[str, Shape], None]], Any],
        recorded: frozenset[int] = frozenset(),
    ) -> None:
        self._device = device
        self._make_context: Callable[[], Any] | None = make_context
        self._inputs = inputs
        self._outputs = outputs
        self._profiles = profiles
        self._pages = pages
        self._recorded = recorded if device.can_capture else frozenset()
        self._order = Lock()  # the context is one: shapes, addresses and execution belong together
        self._batches: dict[tuple[Shape, ...], Batch] = {}
        self._set: Batch | None = None  # what the context has been told
        self._current: BufferSet | None = None
        self._told: dict[str, Shape] = {}  # shapes that depend on the data
        self._refusal: DeviceError | DeviceBroken | None = None  # of an allocation in the midst of an execution
        self.contexts = 0
        self.sets: list[BufferSet] = []
        self.blocks = OutputBlocks(device, 0)
        self._extra: list[Any] = []  # contexts of recordings
        self._dynamic: Sequence[str] = ()
        self._room: Mapping[str, int] = {}  # bytes that a set has for each output
        self._allocator: Any = None
        self._stream: Stream = device.stream()
        try:
            self._context = self._new_context()
            self._dynamic = self._find_dynamic()
            if self._dynamic:
                self._allocator = allocator(self._allocate, self._tell)
                for name in self._dynamic:
                    self._context.set_output_allocator(name, self._allocator)
            self._room = self._sizes()
            self.blocks = OutputBlocks(device, total(self._room.values()))
            for _ in range(DEPTH):
                self.sets.append(self._make_set(self._room))
        except BaseException:
            self.close()  # now, while the device is current
            raise

    def issue(self, own: BufferSet, requests: Sequence[Inputs], rows: int) -> Issued:
        """Give a batch's work to the device. Nobody else uses the set until the batch is done.

        Afterwards ``own.copied`` marks that the requests' memory has been read, ``own.done`` that all is back.

        Raises:
            Exception: it could not be given, or not all of it: ``settle`` before anything of it is used again.
        """
        batch = self._batch(batch_shapes(self._inputs, requests, rows))
        self._copy_in(own, requests)
        own.copied.record(own.stream)
        with self._order:
            self._stream.wait(own.copied)
            self._execute(own, batch, rows)
            shapes, offsets, size = self._outputs_of(batch)
            own.executed.record(self._stream)
        own.stream.wait(own.executed)
        block = self.blocks.take(size)
        try:
            for tensor, shape, offset in zip(self._outputs, shapes, offsets, strict=True):
                if nbytes := tensor.nbytes(shape):
                    own.stream.copy_out(block.address + offset, own.outputs[tensor.name].address, nbytes)
            own.done.record(own.stream)
        except BaseException:
            self.settle(own)  # the block must not be written to in somebody else's hands
            self.blocks.give(block)
            raise
        return Issued(block, shapes, offsets)

    def arrays(self, issued: Issued) -> dict[str, NDArray[Any]]:
        """The outputs of a batch that is done, as views of its block."""
        return views(self._outputs, issued.shapes, issued.offsets, issued.block.array)

    @property
    def buffer_bytes(self) -> int:
        """Device memory of its buffers."""
        return sum(own.bytes for own in self.sets)

    def settle(self, own: BufferSet) -> None:
        """After a failure: wait until nothing of the set's batch is in flight.

        Raises:
            DeviceError, DeviceBroken: that cannot be known.
        """
        self._device.check()
        with self._order:
            own.executed.record(self._stream)
        own.executed.wait()
        own.done.record(own.stream)
        own.done.wait()

    def close(self) -> None:
        """Free everything. Nothing is in flight."""
        for own in self.sets:
            own.close()
        self.sets = []
        self._extra.clear()
        self._context = self._allocator = self._make_context = None
        self.contexts = 0
        self._stream.close()
        self.blocks.close()

    # Copies

    def _copy_in(self, own: BufferSet, requests: Sequence[Inputs]) -> None:
        """Copy rows from where they arrived; neighbours in one copy.

        Raises:
            ValueError: an array is not what it is said to be, and would be copied wrongly or beyond the buffer.
        """
        together, stream = self._pages.together, own.stream
        for tensor in self._inputs:
            name, dtype = tensor.name, tensor.dtype
            buffer = own.inputs[name]
            target, left = buffer.address, buffer.size
            begin = size = 0
            for request in requests:
                array = request[name]
                nbytes = array.nbytes
                if not nbytes:
                    continue
                left -= nbytes
                if left < 0 or array.dtype != dtype or not array.flags.c_contiguous:
                    raise ValueError(f"input {name!r} is not contiguous {tensor.datatype}, or has too many rows")
                address: int = array.__array_interface__["data"][0]
                if size and address == begin + size and together(begin, address + nbytes - 1):
                    size += nbytes
                    continue
                if size:
                    stream.copy_in(target, begin, size, not together(begin, begin + size - 1))
                    target += size
                begin, size = address, nbytes
            if size:
                stream.copy_in(target, begin, size, not together(begin, begin + size - 1))

    # Execution, with the order held

    def _batch(self, shapes: tuple[Shape, ...]) -> Batch:
        batch = self._batches.get(shapes)
        if batch is None:
            named = {tensor.name: shape for tensor, shape in zip(self._inputs, shapes, strict=True)}
            batch = Batch(choose(self._profiles, named), shapes)
            if len(self._batches) < MOST_BATCHES:
                batch = self._batches.setdefault(shapes, batch)  # the other thread may have been first
        return batch

    def _execute(self, own: BufferSet, batch: Batch, rows: int) -> None:
        graph = own.graphs.get(batch)
        if graph is not None:
            graph.launch(self._stream)
        elif self._to_record(own, batch, rows) and self._record(own, batch):
            pass
        else:
            if self._set is not batch:
                self._set = None  # should this fail half way
                self._bind(self._context, batch)
                self._set = batch
            self._address(self._context, own)
            self._run(self._context, own)

    def _to_record(self, own: BufferSet, batch: Batch, rows: int) -> bool:
        """Whether a batch is to be recorded: each costs a context, so that there are no more than sizes asked for."""
        known = self._batches.get(batch.inputs) is batch
        return rows in self._recorded and not self._dynamic and known and len(own.graphs) < len(self._recorded)

    def _record(self, own: BufferSet, batch: Batch) -> bool:
        """Run a batch with a context of its own, then record that for the next ones.

        A recording belongs to the shapes and addresses of its context, which so must never change again.

        Returns:
            Whether the batch was run; not where there is no room for the context.
        """
        try:
            context = self._new_context()
        except DeviceError as error:
            self._not_recorded(batch, error)
            return False
        self._extra.append(context)
        self._bind(context, batch)
        self._address(context, own)
        self._run(context, own)  # the first time it does what cannot be recorded
        try:
            own.graphs[batch] = self._stream.capture(lambda: self._run(context, own))
        except DeviceError as error:
            self._not_recorded(batch, error)
            own.executed.record(self._stream)
            own.executed.wait()  # what it runs uses its memory
            self._extra.remove(context)
            self.contexts -= 1
        return True

    def _not_recorded(self, batch: Batch, error: DeviceError) -> None:
        log.warning("not_recorded", extra={"inputs": str(batch.inputs), "why": str(error)})
        self._recorded = frozenset()  # nothing more is tried; what is recorded stays

    def _bind(self, context: Any, batch: Batch) -> None:
        """Tell a context the shapes of a batch."""
        self._choose(context, batch.profile)
        for tensor, shape in zip(self._inputs, batch.inputs, strict=True):
            if not context.set_input_shape(tensor.name, shape):
                raise self._failure(f"input {tensor.name!r} cannot have the shape {list(shape)}")
        if batch.outputs is None and not self._dynamic:
            shapes = tuple([tuple(context.get_tensor_shape(tensor.name)) for tensor in self._outputs])
            if any(size < 0 for shape in shapes for size in shape):
                raise DeviceError(f"the shapes of the outputs are not known before the execution: {shapes}")
            for tensor, shape in zip(self._outputs, shapes, strict=True):
                if tensor.nbytes(shape) > self._room[tensor.name]:  # not so with the largest inputs
                    raise DeviceError(
                        f"output {tensor.name!r} has the shape {list(shape)}, for which it has no room: with the "
                        f"largest inputs it has {self._room[tensor.name]} bytes"
                    )
            batch.lay_out(self._outputs, shapes)

    def _choose(self, context: Any, profile: Profile) -> None:
        """Have a context use a profile, in the order of its stream."""
        if context.active_optimization_profile != profile.index and not context.set_optimization_profile_async(
            profile.index, self._stream.handle
        ):
            raise self._failure(f"optimization profile {profile.index} cannot be used")

    def _address(self, context: Any, own: BufferSet) -> None:
        """Tell a context the buffers of a set."""
        for name, buffer in own.inputs.items():
            context.set_tensor_address(name, buffer.address)
        for name, buffer in own.outputs.items():
            if name not in self._dynamic:
                context.set_tensor_address(name, buffer.address)

    def _run(self, context: Any, own: BufferSet) -> None:
        self._current, self._refusal = own, None
        self._told.clear()
        try:
            if not context.execute_async_v3(self._stream.handle):
                raise self._failure("the execution could not be given to the device")
        finally:
            self._current = None

    def _outputs_of(self, batch: Batch) -> tuple[Sequence[Shape], Sequence[int], int]:
        """Shapes of the batch that was just given, where they go, and the bytes of it all."""
        if batch.outputs is not None:
            return batch.outputs, batch.offsets, batch.size
        told, context = self._told, self._context
        shapes = [
            told[tensor.name] if tensor.name in told else tuple(context.get_tensor_shape(tensor.name))
            for tensor in self._outputs
        ]
        offsets, size = lay_out(self._outputs, shapes)
        return shapes, offsets, size

    def _failure(self, what: str) -> Exception:
        """TensorRT answers with no; why, the device may know."""
        try:
            self._device.check()
        except DeviceBroken as broken:
            return broken
        return self._refusal or DeviceError(f"{what}; TensorRT's log has the cause")

    # Outputs whose shapes depend on the data: TensorRT asks in the midst of ``execute_async_v3``, in its thread

    def _allocate(self, name: str, size: int) -> int:
        """Memory for such an output; 0 where there is none. The set's last batch is done, so that its may go."""
        own = self._current
        assert own is not None
        try:
            return own.grow(own.outputs, name, max(1, size)).address
        except (DeviceError, DeviceBroken) as error:
            self._refusal = error
            return 0

    def _tell(self, name: str, shape: Shape) -> None:
        self._told[name] = shape

    # What it is made of

    def _new_context(self) -> Any:
        assert self._make_context is not None
        context = self._make_context()
        if context is None:
            self._device.check()
            raise DeviceOutOfMemory(0, *self._device.memory())
        self.contexts += 1
        return context

    def _find_dynamic(self) -> Sequence[str]:
        """Outputs whose shapes stay open when all inputs' are set."""
        shapes = zip(self._outputs, self._at_most(0), strict=True)
        return [tensor.name for tensor, shape in shapes if min(shape, default=0) < 0]

    def _at_most(self, number: int) -> Sequence[Shape]:
        """Shapes of the outputs for the largest inputs of a profile. The context is left as it is then."""
        profile = self._profiles[number]
        self._choose(self._context, profile)
        for tensor in self._inputs:
            if not self._context.set_input_shape(tensor.name, profile.most[tensor.name]):
                raise self._failure(f"input {tensor.name!r} cannot have its own largest shape")
        return [tuple(self._context.get_tensor_shape(tensor.name)) for tensor in self._outputs]

    def _sizes(self) -> Mapping[str, int]:
        """Bytes of the largest output of each name, of those whose shapes follow from the inputs'."""
        sizes: dict[str, int] = {}
        for number in range(len(self._profiles)):
            for tensor, shape in zip(self._outputs, self._at_most(number), strict=True):
                if tensor.name not in self._dynamic:
                    sizes[tensor.name] = max(sizes.get(tensor.name, 1), tensor.nbytes(shape))
        return sizes

    def _make_set(self, outputs: Mapping[str, int]) -> BufferSet:
        own = BufferSet(self._device)
        try:
            for tensor in self._inputs:
                own.grow(own.inputs, tensor.name, max(1, largest(self._profiles, tensor)))
            for name, size in outputs.items():
                own.grow(own.outputs, name, size)
        except BaseException:
            own.close()
            raise
        return own


def copies(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays in memory of Python's."""
    return {name: np.array(array) for name, array in arrays.items()}
