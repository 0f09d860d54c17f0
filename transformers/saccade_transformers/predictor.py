"""The predictor as the transformer sees it: what its model expects, and one image's tensor through it.

Keeps no connection state of its own: a predictor that goes and comes back is found again by the next request.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade_serving.client import BadAnswer, ConnectionFailed, Refused, V2Client
from saccade_serving.client.remaining import TIMEOUT_PARAMETER, deadline_ms, timeout_us
from saccade_serving.connection.exchange import DEADLINE_HEADER, Exchange
from saccade_serving.errors import DeadlineExceeded, Overloaded, PredictorUnavailable, SaccadeError
from saccade_serving.metrics import Histogram
from saccade_serving.oip.messages import InferRequest, ModelMetadata, Parameters, Tensor

log = logging.getLogger("saccade.predictor")

#: The one wire layout this transformer writes; the ready graph names its own.
WIRE_LAYOUT = "rgb_nhwc"
#: The stage of a request in which its predictor is asked.
PREDICT = "predict"
#: A model that states a larger input than 4096 x 4096 is not believed: each image would be made that large for it.
_MAX_INPUT_PIXELS = 2**24
#: Shortest time between two looks at the metadata because an unknown version answered: in a canary the metadata
#: route answers for either version at random.
_ASK_AGAIN_S = 10.0
#: What was said is believed for this time, then asked beside the next request: a model may be replaced by one of the
#: same version and shape, of which nothing but the metadata tells (other class names, another ``min_score``).
_BELIEVED_S = 10.0
#: Time of one look at the metadata: a predictor that does not say must not hold up requests that it could answer.
_ASK_S = 2.0
#: Weight of the newest call in the running mean of the time calls take.
_SMOOTHING = 0.1

#: Ids of our calls, by which an answer is told from another call's. All are of one length, so that the predictor
#: remembers what it has read of such a request (``oip.plan``).
_ID_PREFIX = secrets.token_hex(4)
_ID_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class PredictorContract:
    """What the predictor's model says of itself, as far as the transformer needs it.

    Attributes:
        input_name: name of the UINT8 image tensor.
        input_size: (width, height) in pixels.
        versions: the versions it states.
        properties: the ready graph's metadata (``saccade.*``).
    """

    input_name: str
    input_size: tuple[int, int]
    versions: tuple[str, ...]
    properties: Mapping[str, str]

    @classmethod
    def of(cls, metadata: ModelMetadata) -> PredictorContract:
        """Read the contract from V2 model metadata.

        Raises:
            PredictorUnavailable: the model is no ready graph; the sentence says what is expected.
        """
        expected = (
            f"one UINT8 input [-1, height, width, 3] and saccade.input={WIRE_LAYOUT}, as saccade-build writes them"
        )
        layout = metadata.properties.get("saccade.input")
        if len(metadata.inputs) != 1 or layout != WIRE_LAYOUT:
            raise PredictorUnavailable(
                f"the predictor's model {metadata.name!r} has {len(metadata.inputs)} inputs and "
                f"saccade.input={layout}; expected {expected}"
            )
        tensor = metadata.inputs[0]
        if tensor.datatype != "UINT8" or len(tensor.shape) != 4 or tensor.shape[3] != 3 or min(tensor.shape[1:]) < 1:
            raise PredictorUnavailable(
                f"the predictor's model {metadata.name!r} takes {tensor.datatype} {list(tensor.shape)}; "
                f"expected {expected}"
            )
        height, width = tensor.shape[1:3]
        if height * width > _MAX_INPUT_PIXELS:
            raise PredictorUnavailable(
                f"the predictor's model {metadata.name!r} takes images of {width}x{height}; expected at most "
                f"{_MAX_INPUT_PIXELS} pixels"
            )
        return cls(tensor.name, (width, height), tuple(metadata.versions), metadata.properties)

    @cached_property
    def labels(self) -> list[str]:
        """Class names, empty if the model states none. Every mirrored image looks at them, so they are read once."""
        names = json.loads(self.properties.get("saccade.labels", "[]"))
        return [str(name) for name in names]


class Predictor:
    """Calls one model of one predictor.

    Args:
        client: speaks V2 with the predictor.
        model: the model's name there.
        seconds: histogram of the calls' duration, labelled by model.

    Attributes:
        usual_s: running mean of what answered calls take; None before the second, since the first finds it cold.
    """

    def __init__(self, client: V2Client, model: str, seconds: Histogram) -> None:
        self.model = model
        self.usual_s: float | None = None
        self._is_warm = False
        self._client = client
        self._seconds = seconds
        self._contract: PredictorContract | None = None
        self._former: PredictorContract | None = None
        self._asking = asyncio.Lock()
        self._ask_again_at = 0.0
        self._chosen = ""  # the version that the predictor has chosen last
        self._believed_until = 0.0
        self._renewing: asyncio.Task[None] | None = None

    async def contract(self, timeout_s: float) -> PredictorContract:
        """What the model expects; asked once, then remembered, and now and then asked again beside the requests.

        Where it is to be asked anew and does not say, what it said before is taken.

        Raises:
            PredictorUnavailable, Overloaded, DeadlineExceeded: it cannot be asked now.
        """
        if self._contract is None:
            if self._former is not None and self._asking.locked():
                return self._former  # somebody asks already
            ask_s = min(timeout_s, _ASK_S)
            try:
                async with asyncio.timeout(ask_s), self._asking:
                    if self._contract is None:
                        self._contract = await self._ask(ask_s)
            except (ConnectionFailed, Refused, TimeoutError) as error:
                if self._former is not None and timeout_s > ask_s:
                    return self._former  # most likely it still holds; whether it does, the answer will show
                raise _translate(error, ask_s) from error
        elif self._renewing is None and time.monotonic() >= self._believed_until:
            self._renewing = asyncio.create_task(self._renew())
        return self._contract

    async def _ask(self, timeout_s: float) -> PredictorContract:
        contract = PredictorContract.of(await self._client.metadata(self.model, timeout_s))
        self._believed_until = time.monotonic() + _BELIEVED_S
        return contract

    async def _renew(self) -> None:
        """Ask again while requests go on with what is known; where that does not help, it holds as before."""
        try:
            async with asyncio.timeout(_ASK_S), self._asking:
                told = await self._ask(_ASK_S)
            if told != self._contract:  # else the same object stays, by which others tell that nothing has changed
                self._contract = told
                log.info("predictor_model_changed", extra={"model": self.model, "versions": list(told.versions)})
        except (ConnectionFailed, Refused, TimeoutError, PredictorUnavailable):
            self._believed_until = time.monotonic() + _BELIEVED_S
        finally:
            self._renewing = None

    async def infer(
        self,
        image: NDArray[np.uint8],
        contract: PredictorContract,
        parameters: Parameters,
        exchange: Exchange,
        reserve_s: float = 0.0,
        version: str = "",
    ) -> tuple[dict[str, NDArray[Any]], str]:
        """Infer one image.

        Args:
            image: [1, height, width, 3], the contract's size.
            contract: what the model expects.
            parameters: request parameters passed on (``priority``); the remaining time is added as ``timeout``.
            exchange: gives the deadline and the headers to forward.
            reserve_s: time to keep for what comes after the answer.
            version: the version to ask for; empty for the predictor's choice.

        Returns:
            The outputs of the image and the version that answered.

        Raises:
            PredictorUnavailable, Overloaded, DeadlineExceeded.
        """
        remaining_s = exchange.remaining_s() - reserve_s
        if remaining_s <= 0:
            raise exchange.too_late("before the predictor was asked")
        request = InferRequest(
            model_name=self.model,
            model_version=version,
            inputs=[Tensor.of(contract.input_name, image)],
            parameters={**parameters, TIMEOUT_PARAMETER: timeout_us(remaining_s)},
            binary_output=True,
            id=f"{_ID_PREFIX}-{next(_ID_NUMBERS):016x}",
        )
        headers = {**exchange.forwarded, DEADLINE_HEADER: deadline_ms(remaining_s)}
        begun = time.monotonic()
        try:
            answer = await self._client.infer(request, remaining_s, headers)
        except (ConnectionFailed, Refused, TimeoutError) as error:
            if isinstance(error, Refused) and error.status in (400, 404):
                self.forget()
            raise _translate(error, remaining_s) from error
        finally:
            self._seconds.observe(time.monotonic() - begun, (self.model,))
        self._took(time.monotonic() - begun)
        former = self._chosen
        if not version:
            self._chosen = answer.model_version
        if answer.model_version not in contract.versions or (former and self._chosen != former):
            self._ask_again()
        return {
            tensor.name: tensor.array for tensor in answer.outputs if tensor.datatype != "BYTES"
        }, answer.model_version

    def forget(self) -> None:
        """Ask for the contract anew at the next request: another model may stand there now."""
        self._former = self._contract or self._former
        self._contract = None

    def _took(self, seconds: float) -> None:
        if self._is_warm:
            self.usual_s = seconds if self.usual_s is None else self.usual_s + _SMOOTHING * (seconds - self.usual_s)
        self._is_warm = True

    def _ask_again(self) -> None:
        """Forget the contract now and then while versions answer that it does not name, or that did not answer before.

        As in a roll-out or a canary, or where a version was withdrawn.
        """
        now = time.monotonic()
        if now >= self._ask_again_at:
            self._ask_again_at = now + _ASK_AGAIN_S
            self.forget()

    async def is_ready(self, timeout_s: float) -> bool:
        """Whether the predictor's model says it is ready."""
        return await self._client.is_ready(self.model, timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self._client.close()


def is_predictors(error: SaccadeError) -> bool:
    """Whether the predictor has failed, refused or been late, rather than the client or this service."""
    return isinstance(error, PredictorUnavailable) or isinstance(
        error.__cause__, (ConnectionFailed, Refused, TimeoutError)
    )


def is_fault(error: SaccadeError) -> bool:
    """Whether the predictor has failed by its own fault. What it calls a bad request, it may be right about."""
    cause = error.__cause__
    return is_predictors(error) and not (isinstance(cause, Refused) and cause.status == 400)


def _translate(error: ConnectionFailed | Refused | TimeoutError, given_s: float) -> Exception:
    """The predictor's failures as our client shall see them. The predictor's address stays in the log."""
    if isinstance(error, TimeoutError):
        return _late("the predictor did not answer within the request's deadline", given_s)
    if isinstance(error, BadAnswer):
        return PredictorUnavailable(f"the predictor's answer cannot be used: {error}")
    if isinstance(error, ConnectionFailed):
        return PredictorUnavailable("the predictor cannot be reached; try again later")
    if error.status == 503:
        return Overloaded(f"the predictor refused: {error}", error.retry_after_s or 1.0)
    if error.status == 504:
        return _late(f"the predictor gave up: {error}", given_s)
    if error.status == 500:  # whatever it says of its inside is for its operator
        return PredictorUnavailable("the predictor answered with an error (500); its log has the cause")
    return PredictorUnavailable(f"the predictor answered with an error ({error.status}): {error}")


def _late(message: str, given_s: float) -> DeadlineExceeded:
    error = DeadlineExceeded(message)
    error.given_s = given_s
    return error
