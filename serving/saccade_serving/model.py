"""What the server expects of a model: ready or not, described, asked. Each service brings its own.

A ``ServedModel`` is a ``kserve.Model``: KServe's repository and its list routes see it. Inference does not take
KServe's ``preprocess``/``predict``/``postprocess`` hooks, because those are tied to KServe's own request types,
whose REST decoder reads tensors element by element.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kserve import Model

from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import ModelNotFound, Overloaded, Unimplemented
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, TensorMetadata

if TYPE_CHECKING:
    from saccade_serving.tracing import Tracing

#: Why a model is not ready that nothing has been said of yet.
LOADING: Final = "it is still loading"


@dataclass(frozen=True, slots=True)
class ModelConfiguration:
    """A model's configuration as Triton's clients read it.

    Attributes:
        json: Triton's JSON of its ``ModelConfig``.
        protobuf: the same message, serialised.
    """

    json: dict[str, Any]
    protobuf: bytes


class ServedModel(Model):
    """A model behind the V2 routes of both protocols.

    Attributes:
        extensions: V2 extensions this model has beyond those that every model has.
    """

    extensions: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        #: Why the model is not ready, in words for the client.
        self.not_ready_because = LOADING
        #: Makes spans of batches; None where traces are off.
        self.tracing: Tracing | None = None
        #: Nothing but a new process can help it; liveness says so, so that Kubernetes restarts the container.
        self.must_restart = False

    @abstractmethod
    async def prepare(self) -> None:
        """Load, warm up with a real inference, then set ``ready``. Runs while the server already listens.

        Raises:
            Exception: the model can never become ready; the message goes to the log.
        """

    @abstractmethod
    def metadata(self, version: str = "") -> ModelMetadata:
        """Describe the model.

        Raises:
            ModelNotFound: there is no such version.
            Overloaded: it is not known yet.
        """

    def admit(self, version: str, exchange: Exchange) -> None:
        """Look at a request's head, before any of its body is received. May bring its deadline forward.

        Raises:
            SaccadeError: it is refused, for example because it could not be answered in time.
        """

    def timeout_is_deadline(self, version: str) -> bool:
        """Whether nobody waits for a request any more when its parameter ``timeout`` is over."""
        return True

    def start_infer(self, request: InferRequest, exchange: Exchange) -> None:
        """Begin one request; whatever happens later ends the exchange. A model either overrides this or ``infer``.

        Args:
            request: its tensors are views of the body, which is kept until the exchange is closed, or as long as its
                lease is held.
            exchange: the request's deadline, headers and end.

        Raises:
            SaccadeError: the request is refused.
        """
        exchange.run(self.infer(request, exchange))

    async def infer(self, request: InferRequest, exchange: Exchange) -> InferResponse:
        """Answer one request in a task of its own. May be cancelled at any await: the client has left."""
        raise NotImplementedError

    @abstractmethod
    async def close(self) -> None:
        """Free everything. Called once, after the last answer."""

    @abstractmethod
    def versions(self) -> list[str]:
        """Versions served at present."""

    def config(self, version: str = "") -> ModelConfiguration:
        """Describe how the model is served, as Triton does.

        Raises:
            Unimplemented: it has no such configuration, which is so unless a service says otherwise.
            ModelNotFound: there is no such version.
        """
        raise Unimplemented(
            f"model {self.name!r} has no Triton configuration; GET /v2/models/{self.name} describes its tensors"
        )

    def unserved(self) -> dict[str, tuple[str, str]]:
        """State (LOADING, UNAVAILABLE) and reason of what is not served, or not yet, by version.

        An empty version stands for the model itself. A version that is served may be here, too: its replacement.
        """
        return {}

    def labels(self, output: str, version: str = "") -> Sequence[str]:
        """Class names of an output, by index; empty where the model has none."""
        return ()

    def check_ready(self, version: str = "") -> None:
        """Refuse politely while the model cannot answer.

        Raises:
            Overloaded: not ready; the message says why.
            ModelNotFound: ready, but without that version.
        """
        if not self.ready:
            raise Overloaded(f"model {self.name!r} is not ready: {self.not_ready_because}")
        if version and version not in self.versions():
            raise ModelNotFound(self.name, version, self.versions())

    def check_probe(self, version: str = "") -> None:
        """What readiness probes ask; may be stricter than what requests need.

        Raises:
            As ``check_ready``.
        """
        self.check_ready(version)

    def start(self) -> None:
        """KServe's hook; readiness is ``prepare``'s to decide."""

    def get_input_types(self) -> list[dict[str, Any]]:
        """Inputs in the form KServe's own metadata uses."""
        return [_as_dict(tensor) for tensor in self.metadata().inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Outputs in the form KServe's own metadata uses."""
        return [_as_dict(tensor) for tensor in self.metadata().outputs]

    async def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        """KServe's v1 and explain entry; a model that serves v1 brings its own route.

        Raises:
            Unimplemented: always.
        """
        raise Unimplemented(f"model {self.name!r} serves the V2 protocol only; use POST /v2/models/{self.name}/infer")


def _as_dict(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
