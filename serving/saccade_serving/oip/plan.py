"""What a request's JSON says, read once for all requests that say the same.

A client that sends frame after frame sends the same JSON before each tensor, byte for byte but for the request's id.
Reading it, holding it against the rules and the model, and writing the JSON of the answer then cost more than
everything else about a small request. A ``Plan`` remembers the outcome. It is only made of requests that passed all
checks and whose tensors are plain numbers in the body, so that only their bytes and the id can differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, overload

import numpy as np

from saccade_serving.oip.body import EncodedBody
from saccade_serving.oip.datatypes import NUMPY_DTYPES
from saccade_serving.oip.messages import Buffer, InferRequest, InferResponse, Tensor, TensorSlot
from saccade_serving.oip.raw import encode_raw

#: Longer JSON is not worth remembering.
MAX_PLANNED_BYTES: Final = 4096
MAX_PLANS: Final = 256
_MAX_SEEN: Final = 4096
_MAX_ANSWERS: Final = 16
#: Outputs of an answer up to this size are copied.
_SMALL_BYTES: Final = 16 * 2**10


class Plan:
    """The outcome of reading one JSON.

    Attributes:
        tensors: where in the body each input lies.
        checked: what has found nothing wrong with these tensors, and what it wants to remember of that.
    """

    __slots__ = ("_answers", "_template", "checked", "tensors")

    def __init__(self, request: InferRequest, tensors: tuple[TensorSlot, ...]) -> None:
        self._template = request
        self.tensors = tensors
        self.checked: tuple[Any, ...] = (None,)
        self._answers: dict[tuple[Any, ...], tuple[bytes, bytes, EncodedBody]] = {}

    @classmethod
    def of(cls, request: InferRequest, body: memoryview) -> Plan | None:
        """Make a plan of a decoded request; None if its values, too, are in the JSON or need a look each time.

        Args:
            request: decoded from ``body``.
            body: JSON and binary tensors.
        """
        begin: int = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
        slots = []
        for tensor in request.inputs:
            data = tensor.data
            if not isinstance(data, np.ndarray) or tensor.datatype == "BOOL":
                return None
            offset = data.__array_interface__["data"][0] - begin
            if not 0 <= offset <= body.nbytes - data.nbytes:
                return None  # in the JSON, or copied because it was not aligned
            slots.append(TensorSlot(tensor.name, tensor.datatype, tensor.shape, offset, data.nbytes))
        inputs = [Tensor(t.name, t.datatype, t.shape, np.empty(0), t.parameters) for t in request.inputs]
        return cls(InferRequest(**{**_fields(request), "inputs": inputs}), tuple(slots))

    def bind(self, body: memoryview, identifier: str) -> InferRequest:
        """The request that this plan's JSON, these bytes and this id are."""
        t = self._template
        inputs = PlannedInputs(self, body, t.inputs)
        return InferRequest(
            t.model_name, inputs, t.model_version, identifier, t.parameters, t.outputs, t.binary_output, self
        )

    def encode(self, response: InferResponse) -> EncodedBody | None:
        """The answer's body, where one of the same shapes was encoded before; None otherwise."""
        known = self._answers.get(_shape_of(response))
        if known is None or response.parameters:
            return None
        before, after, encoded = known
        parts: list[Buffer] = [before + response.id.encode() + after]
        for tensor in response.outputs:
            if tensor.parameters:
                return None
            array = tensor.array
            parts.append(array.tobytes() if array.nbytes <= _SMALL_BYTES else encode_raw("output", tensor))
        return EncodedBody(parts, encoded.json_length, encoded.size, encoded.headers, encoded.header_lines)

    def remember(self, response: InferResponse, encoded: EncodedBody) -> None:
        """Remember how an answer was encoded, if all of it but numbers and id follows from its shapes."""
        if (
            self._template.outputs
            or response.parameters
            or encoded.json_length is None
            or len(encoded.parts) != 1 + len(response.outputs)
            or any(tensor.datatype not in NUMPY_DTYPES or tensor.parameters for tensor in response.outputs)
            or len(self._answers) >= _MAX_ANSWERS
        ):
            return
        before, after = bytes(encoded.parts[0]), b""
        if response.id:
            # Ids of plans need no escaping, so it stands there as it is; and nowhere else as a value of "id".
            before, mark, after = before.partition(b'"id":"' + response.id.encode() + b'"')
            if not mark or b'"id"' in before or b'"id"' in after:
                return
            before, after = before + b'"id":"', b'"' + after
        fields = "".join([f"{name}: {value}\r\n" for name, value in encoded.headers.items()])
        lines = f"{fields}content-length: {encoded.size}\r\n"
        known = EncodedBody([], encoded.json_length, encoded.size, encoded.headers, lines)
        self._answers[_shape_of(response)] = before, after, known


class PlannedInputs(Sequence[Tensor]):
    """The inputs of a planned request, made when somebody looks at them."""

    __slots__ = ("_body", "_made", "_plan", "_templates")

    def __init__(self, plan: Plan, body: memoryview, templates: Sequence[Tensor]) -> None:
        self._plan = plan
        self._body = body
        self._templates = templates
        self._made: list[Tensor] | None = None

    def _make(self) -> list[Tensor]:
        if self._made is None:
            view = self._body.toreadonly()
            self._made = [
                Tensor(
                    slot.name,
                    slot.datatype,
                    slot.shape,
                    np.frombuffer(view, NUMPY_DTYPES[slot.datatype], math.prod(slot.shape), slot.offset).reshape(
                        slot.shape
                    ),
                    template.parameters,
                )
                for slot, template in zip(self._plan.tensors, self._templates, strict=True)
            ]
        return self._made

    def __len__(self) -> int:
        return len(self._plan.tensors)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._make())

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        return self._make()[index]


class PlanKey(NamedTuple):
    """What tells one plan's requests from another's: everything but what their ids and tensors say.

    Lengths belong to it: a longer id moves the tensors, and must not make up for missing bytes of theirs.
    """

    model_name: str
    model_version: str
    before: bytes
    after: bytes
    id_bytes: int
    body_bytes: int


def key_of(model_name: str, model_version: str, text: bytes, body_bytes: int) -> tuple[PlanKey, str]:
    """Split a request's JSON around its id.

    Args:
        model_name: from the path.
        model_version: likewise; may be empty.
        text: the JSON.
        body_bytes: size of the whole body.

    Returns:
        The key and the id; empty where there is none, or where it is not plain text.
    """
    found = _ID.search(text)
    if found is None:
        return PlanKey(model_name, model_version, text, b"", 0, body_bytes), ""
    begin, end = found.span(1)
    return PlanKey(model_name, model_version, text[:begin], text[end:], end - begin, body_bytes), found[1].decode()


class Plans:
    """The plans of a server, by model and JSON.

    A plan is made when its JSON comes a second time, so that JSON which never repeats drives nothing out.
    """

    def __init__(self) -> None:
        self._plans: dict[PlanKey, Plan] = {}
        self._seen: set[int] = set()

    def find(self, key: PlanKey) -> Plan | None:
        """Look a key up."""
        return self._plans.get(key)

    def learn(self, key: PlanKey, identifier: str, request: InferRequest, body: memoryview) -> InferRequest:
        """Note a request that was decoded; from the second on, it carries its plan."""
        # What was found must be the request's id, and no other member of that name that merely looks like it.
        # An escape could spell it so that it does not look like it.
        if request.id != identifier or b'"id"' in key.after or key.before.count(b'"id"') > bool(identifier):
            return request
        if b"\\" in key.before or b"\\" in key.after:
            return request
        number = hash(key)
        if number not in self._seen:
            if len(self._seen) >= _MAX_SEEN:
                self._seen.clear()
            self._seen.add(number)
            return request
        plan = Plan.of(request, body)
        if plan is None:
            return request
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[key] = plan
        request.plan = plan
        return request


#: An id of plain text, which stands in JSON as it is.
_ID: Final = re.compile(rb'"id" *: *"([\x20\x21\x23-\x5b\x5d-\x7e]{1,128})"')


def _shape_of(response: InferResponse) -> tuple[Any, ...]:
    outputs = [(tensor.name, tensor.datatype, tensor.shape) for tensor in response.outputs]
    return len(response.id), response.model_version, *outputs


def _fields(request: InferRequest) -> dict[str, Any]:
    names = ("model_name", "inputs", "model_version", "id", "parameters", "outputs", "binary_output")
    return {name: getattr(request, name) for name in names}
