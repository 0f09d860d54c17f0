"""What one batch in flight uses on the device: buffers, a stream for its copies, events."""

from __future__ import annotations

from collections.abc import Sequence

from saccade_predictor.engines.cuda import Buffer, Device, Event, Graph, HostBuffer, Stream
from saccade_predictor.engines.planshapes import Batch, Shape


class BufferSet:
    """Used for one batch after the other; the next begins when the host has waited for ``done``.

    Args:
        device: current, as at every call.

    Attributes:
        stream: for copies.
        copied: the requests' memory has been read.
        executed: the outputs are in their buffers.
        done: they are back in the host's memory.
        inputs: the plan's inputs by name; ``outputs`` likewise.
        graphs: recorded batches.
    """

    __slots__ = ("_device", "copied", "done", "executed", "graphs", "inputs", "outputs", "stream")

    def __init__(self, device: Device) -> None:
        self._device = device
        self.stream: Stream = device.stream()
        self.copied: Event = device.event()
        self.executed: Event = device.event()
        self.done: Event = device.event()
        self.inputs: dict[str, Buffer] = {}
        self.outputs: dict[str, Buffer] = {}
        self.graphs: dict[Batch, Graph] = {}

    @property
    def bytes(self) -> int:
        """Device memory of all buffers."""
        return sum(buffer.size for buffer in (*self.inputs.values(), *self.outputs.values()))

    def grow(self, buffers: dict[str, Buffer], name: str, size: int) -> Buffer:
        """A buffer of at least so many bytes under a name. The set's last batch is done, so that the old one may go.

        Raises:
            DeviceOutOfMemory: there is no room for it.
        """
        known = buffers.get(name)
        if known is not None:
            if known.size >= size:
                return known
            del buffers[name]
            known.free()
        buffer = buffers[name] = self._device.allocate(size)
        return buffer

    def close(self) -> None:
        """Free everything. Nothing is in flight."""
        for graph in self.graphs.values():
            graph.close()
        for buffer in (*self.inputs.values(), *self.outputs.values()):
            buffer.free()
        self.graphs, self.inputs, self.outputs = {}, {}, {}
        for event in (self.copied, self.executed, self.done):
            event.close()
        self.stream.close()


class Issued:
    """A batch whose work has been given to the device.

    Attributes:
        block: what its outputs come back into.
        shapes: of its outputs.
        offsets: where each begins in the block.
    """

    __slots__ = ("block", "offsets", "shapes")

    def __init__(self, block: HostBuffer, shapes: Sequence[Shape], offsets: Sequence[int]) -> None:
        self.block = block
        self.shapes = shapes
        self.offsets = offsets
