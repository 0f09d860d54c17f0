"""What the batcher knows of an engine: Protocols, no implementation.

An engine holds a model on a device and offers instances; an instance accepts batches and answers with a ticket. The
two completions of a ticket are separate because they free different things: ``inputs_free`` the memory the requests
arrived in, ``done`` the answer. Both are futures of the event loop that called ``submit``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from saccade_serving.oip.messages import TensorMetadata

#: Input name -> array. Batched models: the first dimension counts rows. BYTES are object arrays of ``bytes``.
Inputs: TypeAlias = Mapping[str, NDArray[Any]]
#: Output name -> array, with the same rule.
Outputs: TypeAlias = Mapping[str, NDArray[Any]]


class EngineBroken(RuntimeError):
    """The engine answers nothing any more, now or later: nothing but a new process helps."""


class LeasedOutputs(dict[str, NDArray[Any]]):
    """Outputs in memory that the engine uses again once nobody reads them any more.

    Begins with one owner, who releases it. Outputs in fresh memory are a plain ``dict``: Python keeps them.

    Args:
        arrays: the outputs.
        free: called once, on the event loop, when the last owner has released.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], free: Callable[[], None]) -> None:
        super().__init__(arrays)
        self._free = free
        self._owners = 1

    def hold(self) -> None:
        """Add an owner."""
        self._owners += 1

    def release(self) -> None:
        """Give up one owner's part."""
        self._owners -= 1
        if not self._owners:
            self._free()


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What the loaded model says of itself.

    Attributes:
        platform: Triton's name of the kind of model, for example ``onnxruntime_onnx``.
        inputs: with the batch dimension where the graph has one; -1 is any size.
        properties: the model file's own metadata.
    """

    platform: str
    inputs: Sequence[TensorMetadata]
    outputs: Sequence[TensorMetadata]
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A batch that an instance has accepted. Either of its ends may come first.

    Attributes:
        inputs_free: the engine no longer reads the requests' arrays; until then their memory is not used again. Never
            set by an engine that hangs.
        done: the outputs of the whole batch, rows in the order of the requests; or the engine's exception. Outputs in
            memory of the engine's own are ``LeasedOutputs``. No output may lie in an input's memory, which is another
            request's as soon as ``inputs_free`` is set. ``EngineBroken`` is the last thing the engine says.
    """

    inputs_free: asyncio.Future[None]
    done: asyncio.Future[Outputs]


class Instance(Protocol):
    """One execution lane of an engine."""

    @property
    def depth(self) -> int:
        """Batches it may hold at once: 1 computes, a second may already copy."""

    def submit(self, requests: Sequence[Inputs], rows: int) -> Ticket:
        """Accept a batch without blocking. Called on the event loop, for at most ``depth`` open tickets.

        Args:
            requests: the inputs of each request; gathering them into one batch is the engine's work.
            rows: rows of all requests together.

        Raises:
            EngineBroken: it will never accept one again.
        """


class Engine(Protocol):
    """A loaded model."""

    def describe(self) -> EngineDescription:
        """What the model says of itself."""

    def instances(self) -> Sequence[Instance]:
        """Its lanes, the same objects at every call."""

    def renew(self, index: int) -> Instance | None:
        """Put a new instance in the place of one that hangs. May block; called off the event loop.

        Returns:
            The new instance; None where that cannot be done in this process: it has to be restarted.

        Raises:
            Exception: it could not be made.
        """

    def close(self) -> None:
        """Free everything. No ticket is open any more, but of instances that hang. May block; called off the loop."""
