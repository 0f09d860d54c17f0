"""The protocol's nouns, independent of how they travel: tensors, requests, responses, model metadata.

Nothing here reads or writes bytes: the codecs do. Every codec produces and accepts these same objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import UnknownTensor
from saccade_serving.oip.datatypes import BYTES, datatype_of

if TYPE_CHECKING:
    from saccade_serving.oip.plan import Plan

#: Values a V2 parameter may have.
ParameterValue: TypeAlias = bool | int | float | str
Parameters: TypeAlias = Mapping[str, ParameterValue]
#: One element of a BYTES tensor; a view of the received body where the transport allows it.
Buffer: TypeAlias = bytes | bytearray | memoryview


class TensorSlot(NamedTuple):
    """Where a tensor lies in a piece of memory.

    Attributes:
        shape: as the client sent it; of a batched model, rows first.
        offset: bytes from the memory's first.
        nbytes: for BYTES, of the elements with their length prefixes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


# Tensor, InferRequest and InferResponse are made for every request. They are not to be changed either, but frozen
# dataclasses take three times as long to make.


@dataclass(slots=True)
class Tensor:
    """One named tensor.

    Attributes:
        name: the tensor's name.
        datatype: one of ``datatypes.DATATYPES``.
        shape: dimensions, each >= 0; ``()`` is a scalar.
        data: for fixed-size datatypes an array of ``shape`` (possibly a read-only view of the request body);
            for BYTES the elements in row-major order.
        parameters: the tensor's V2 parameters, without those that only describe the encoding.
        is_text: BYTES elements that came as JSON strings (UTF-8), and so cannot be raw binary data.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | Sequence[Buffer]
    parameters: Parameters = field(default_factory=dict)
    is_text: bool = False

    @classmethod
    def of(cls, name: str, array: NDArray[Any]) -> Tensor:
        """Wrap a numeric or boolean array; its dtype decides the datatype."""
        return cls(name, datatype_of(array.dtype), array.shape, array)

    @classmethod
    def of_bytes(cls, name: str, shape: tuple[int, ...], elements: Sequence[Buffer]) -> Tensor:
        """Wrap byte strings, given in row-major order."""
        return cls(name, BYTES, shape, elements)

    @property
    def array(self) -> NDArray[Any]:
        """The data as an array of ``shape``. Only for fixed-size datatypes."""
        if not isinstance(self.data, np.ndarray):
            raise TypeError(f"tensor {self.name!r} holds BYTES, not numbers")
        return self.data

    @property
    def elements(self) -> Sequence[Buffer]:
        """The byte strings in row-major order. Only for BYTES."""
        if isinstance(self.data, np.ndarray):
            raise TypeError(f"tensor {self.name!r} holds {self.datatype}, not BYTES")
        return self.data

    @property
    def element_count(self) -> int:
        """Product of the dimensions; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output the client asked for by name.

    Attributes:
        binary: REST only; whether it shall travel as binary data, or None where the request does not say.
    """

    name: str
    binary: bool | None = None
    parameters: Parameters = field(default_factory=dict)


@dataclass(slots=True)
class InferRequest:
    """An inference request.

    Attributes:
        model_version: empty for the model's own choice.
        outputs: empty for all outputs.
        binary_output: REST only; default encoding of outputs that do not say (``binary_data_output``).
        plan: what is known of requests with the same JSON, if there were any.
    """

    model_name: str
    inputs: Sequence[Tensor]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    outputs: Sequence[RequestedOutput] = ()
    binary_output: bool = False
    plan: Plan | None = field(default=None, compare=False, repr=False)

    def input(self, name: str) -> Tensor:
        """Return the input of that name.

        Raises:
            UnknownTensor: there is none; the message lists what was sent.
        """
        for tensor in self.inputs:
            if tensor.name == name:
                return tensor
        raise UnknownTensor(name, [tensor.name for tensor in self.inputs])

    def wants_binary(self, output: str) -> bool:
        """Whether an output travels as binary data over REST."""
        for requested in self.outputs:
            if requested.name == output and requested.binary is not None:
                return requested.binary
        return self.binary_output


@dataclass(slots=True)
class InferResponse:
    """An inference response.

    Attributes:
        release: gives back the outputs' memory, where it is not the tensors' own; called once, after they have been
            sent or copied.
    """

    model_name: str
    outputs: Sequence[Tensor]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    release: Callable[[], None] | None = None

    def output(self, name: str) -> Tensor:
        """Return the output of that name.

        Raises:
            UnknownTensor: there is none; the message lists what came.
        """
        for tensor in self.outputs:
            if tensor.name == name:
                return tensor
        raise UnknownTensor(name, [tensor.name for tensor in self.outputs], "output")


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """Name, datatype and shape of a model's input or output; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model says of itself.

    Attributes:
        properties: free key-value pairs (the protocol's optional model properties), for example the ready
            graph's ``saccade.input``.
    """

    name: str
    versions: Sequence[str]
    platform: str
    inputs: Sequence[TensorMetadata]
    outputs: Sequence[TensorMetadata]
    properties: Mapping[str, str] = field(default_factory=dict)
