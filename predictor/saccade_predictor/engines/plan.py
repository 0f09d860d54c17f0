"""The sidecar of a TensorRT plan, ``plan.json``: what the plan is, where it runs, and what it was built from.

A plan is opaque without TensorRT and a GPU, so everything that has to be known before it is loaded stands beside it.
Reads, checks and writes the sidecar; whether a machine can run the plan is ``plancheck.py``'s, loading it an engine's.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from saccade_predictor.files import replace_file
from saccade_serving.oip.datatypes import DATATYPES, NUMPY_DTYPES
from saccade_serving.oip.messages import TensorMetadata

PLAN_FILE: Final = "model.plan"
SIDECAR_FILE: Final = "plan.json"
#: Raised when a reader of before would misread what is written now; new fields alone do not raise it.
SCHEMA: Final = 1
MAX_SIDECAR_BYTES: Final = 2**22

Kind: TypeAlias = Literal["trt", "trt-rtx"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
#: ``none``: the GPUs of ``compute_capabilities``; ``ampere_plus``: every GPU from 8.0 on;
#: ``same_compute_capability``: every GPU of the capability it was built on.
Compatibility: TypeAlias = Literal["none", "ampere_plus", "same_compute_capability"]

#: Kind of plan -> the backend of config.pbtxt that runs it.
BACKENDS: Final[Mapping[str, str]] = MappingProxyType({"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"})
#: Kind of plan -> what people call it.
NAMES: Final[Mapping[str, str]] = MappingProxyType({"trt": "TensorRT", "trt-rtx": "TensorRT-RTX"})

Digest: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Capability: TypeAlias = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]
Dims: TypeAlias = tuple[Annotated[int, Field(ge=0)], ...]


class SidecarError(ValueError):
    """A sidecar is missing or cannot be used. The sentence says what was found and what to do."""


class _Part(BaseModel):
    # What a later version adds within the same schema is left alone.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class FileMark(_Part):
    """A file beside the sidecar, so that another in its place is noticed.

    Attributes:
        file: its name.
        sha256: of its content, as hex.
        bytes: its size.
    """

    file: str = Field(min_length=1, max_length=255, pattern=r"^[^/\x00]+$")
    sha256: Digest
    bytes: int = Field(ge=1)


class Shapes(_Part):
    """The shapes of one input that a profile allows, batch included: ``min`` to ``max``, tuned for ``opt``."""

    min: Dims
    opt: Dims
    max: Dims

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError("min, opt and max differ in their number of dimensions")
        if not all(low <= mid <= high for low, mid, high in zip(self.min, self.opt, self.max, strict=True)):
            raise ValueError("min <= opt <= max does not hold")
        return self


class PlanTensor(_Part):
    """An input or output of a plan, batch included; -1 is any size the profiles allow."""

    name: str = Field(min_length=1)
    datatype: str
    shape: tuple[Annotated[int, Field(ge=-1)], ...]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.datatype not in DATATYPES:
            raise ValueError(f"{self.datatype!r} is not a datatype of the V2 protocol")
        return self

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its NumPy type."""
        return NUMPY_DTYPES[self.datatype]

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes it has in a shape."""
        return math.prod(shape) * self.dtype.itemsize

    def metadata(self) -> TensorMetadata:
        """As the rest of the predictor knows it."""
        return TensorMetadata(self.name, self.datatype, self.shape)


class Plan(_Part):
    """What ``plan.json`` says of a plan.

    Attributes:
        schema_version: ``SCHEMA`` of who wrote it.
        kind: which TensorRT runs it.
        tensorrt: the version that built it, in full; a plan runs in no other.
        compute_capabilities: of the GPUs it was built for.
        asked_capabilities: of the GPUs that were asked for, of TensorRT-RTX; empty for all that it knew.
        hardware_compatibility: which other GPUs may run it.
        gpu: name of the GPU it was built on; empty where none was needed.
        precision: asked for. The network is strongly typed, so it stands in the graph, unless ``strongly_typed`` is
            false: then TensorRT chose among FP32 and it, layer by layer.
        strongly_typed: see above.
        tf32: whether FP32 products may be computed in TF32 (a mantissa of 10 bits).
        kept_fp32: nodes and operators that were asked to stay FP32.
        workspace_mib: scratch memory that a layer might take; 0: TensorRT's own limit.
        profiles: input name -> shapes, for each profile.
        inputs: in the plan's order; ``outputs`` likewise.
        source: the ONNX file beside it that it was built from.
        plan: the plan's own file.
        properties: the ONNX file's metadata, which a plan cannot carry.
        tools: name -> version of what built it.
        built_at: UTC, ISO 8601.
        build_seconds: what TensorRT took.
        parity: the report of ``saccade-build parity``; None until it has run.
    """

    schema_version: Literal[1] = SCHEMA
    kind: Kind
    tensorrt: str = Field(pattern=r"^\d+(\.\d+)+")
    compute_capabilities: tuple[Capability, ...] = Field(min_length=1)
    asked_capabilities: tuple[Capability, ...] = ()
    hardware_compatibility: Compatibility = "none"
    gpu: str = ""
    precision: Precision
    strongly_typed: bool = True
    tf32: bool = False
    kept_fp32: tuple[str, ...] = ()
    workspace_mib: int = 0
    profiles: tuple[dict[str, Shapes], ...]
    inputs: tuple[PlanTensor, ...] = Field(min_length=1)
    outputs: tuple[PlanTensor, ...] = Field(min_length=1)
    source: FileMark
    plan: FileMark
    properties: dict[str, str] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)
    built_at: str = ""
    build_seconds: float = Field(0.0, ge=0)
    parity: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for profile in self.profiles:
            for tensor in self.inputs:
                shapes = profile.get(tensor.name)
                if shapes is None:
                    if -1 in tensor.shape:
                        raise ValueError(f"a profile says nothing of input {tensor.name!r}, which has open dimensions")
                elif len(shapes.max) != len(tensor.shape):
                    raise ValueError(f"a profile of input {tensor.name!r} has another number of dimensions than it")
        return self

    @property
    def backend(self) -> str:
        """The backend of config.pbtxt that runs it."""
        return BACKENDS[self.kind]

    def rows(self) -> tuple[int, int] | None:
        """Least and largest number of rows of the profile that takes most; None where no first dimension is open."""
        batched = [tensor.name for tensor in self.inputs if tensor.shape[:1] == (-1,)]
        if not batched or not self.profiles:
            return None
        ranges = [
            (max(profile[name].min[0] for name in batched), min(profile[name].max[0] for name in batched))
            for profile in self.profiles
        ]
        return max(ranges, key=lambda found: found[1])

    def to_json(self) -> str:
        """The text of ``plan.json``."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def sidecar_of(plan: Path) -> Path:
    """Where the sidecar of a plan lies."""
    return plan.with_name(SIDECAR_FILE)


def read_sidecar(path: Path, name: str = "") -> Plan:
    """Read a ``plan.json``.

    Args:
        path: the file.
        name: what sentences call it; default: its path. Clients read the predictor's, which so holds no path.

    Raises:
        SidecarError: it is missing, or no sidecar this version can read.
    """
    name = name or str(path)
    build = "build the plan with saccade-build plan, which writes it"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIDECAR_BYTES + 1)
    except FileNotFoundError:
        raise SidecarError(f"{name} is missing: nothing tells what the plan beside it needs; {build}") from None
    except OSError as error:
        raise SidecarError(f"{name} cannot be read: {error.strerror}; expected a readable file") from None
    if len(content) > MAX_SIDECAR_BYTES:
        raise SidecarError(f"{name} has more than {MAX_SIDECAR_BYTES} bytes; {build}")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        state = "empty" if not content.strip() else "not JSON, or cut short"
        raise SidecarError(f"{name} is {state}; {build}") from None
    schema = found.get("schema_version") if isinstance(found, dict) else None
    if isinstance(schema, int) and schema != SCHEMA:
        raise SidecarError(
            f"{name} is of schema {schema}; this version of Saccade reads schema {SCHEMA}: build the plan with it"
        )
    try:
        return Plan.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        reason = first["msg"].removeprefix("Value error, ")
        raise SidecarError(f"{name} is not a plan's description ({where}: {reason}); {build}") from None


def write_sidecar(path: Path, plan: Plan) -> None:
    """Write a ``plan.json`` in one step.

    Raises:
        OSError: it cannot be written; the older one stays.
    """
    replace_file(path, plan.to_json().encode())


def mark(path: Path) -> FileMark:
    """Size and digest of a file.

    Raises:
        OSError: it cannot be read.
        ValidationError: it is empty.
    """
    digest, size = hash_file(path)
    return FileMark(file=path.name, sha256=digest, bytes=size)


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 of a file as hex, and its size in bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()
