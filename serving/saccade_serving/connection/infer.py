"""``POST /v2/models/{model}[/versions/{version}]/infer``: from the body's bytes to the model and back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final

from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.operation import Operation, Reply, content_type
from saccade_serving.errors import InvalidRequest, UnsupportedMedia, short
from saccade_serving.oip import binary_codec
from saccade_serving.oip.body import HEADER_LENGTH, stated_length
from saccade_serving.oip.messages import InferRequest
from saccade_serving.oip.plan import MAX_PLANNED_BYTES, Plans, key_of

#: ``curl -d`` says form-urlencoded whatever it sends, and many clients say nothing.
V2_CONTENT_TYPES: Final = frozenset(
    {"", "application/json", "application/octet-stream", "application/x-www-form-urlencoded"}
)
#: Bytes of a JSON body above which it is read in a thread, so that others have their turn meanwhile.
MUCH_JSON: Final = 256 * 2**10


class Infer(Operation):
    """V2 inference over REST, JSON or with the binary extension."""

    protocol: ClassVar[str] = "rest"
    paths: ClassVar[tuple[str, ...]] = (
        "/v2/models/{model_name}/infer",
        "/v2/models/{model_name}/versions/{version}/infer",
    )

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._plans = Plans()
        # One thread: parsing keeps all others from running, and the event loop waits for one such call at most.
        self._reading = ThreadPoolExecutor(1, "saccade-json")

    def admit(self, exchange: Exchange) -> None:
        """Refuse unknown models and content types."""
        params, headers = exchange.params, exchange.headers
        version = params.get("version", "")
        model = self._gate.find(params["model_name"], version, exchange)
        kind = headers.get("content-type", "")
        if kind in V2_CONTENT_TYPES:
            pass
        elif (kind := content_type(headers)) not in V2_CONTENT_TYPES:
            raise UnsupportedMedia(
                f"content-type {short(kind)} is not served here; expected application/json, or "
                "application/octet-stream with the header Inference-Header-Content-Length"
            )
        if kind == "application/octet-stream" and HEADER_LENGTH not in headers:
            raise InvalidRequest(
                "content-type application/octet-stream needs the header Inference-Header-Content-Length: "
                "the number of bytes of JSON before the binary tensors"
            )
        model.admit(version, exchange)

    def start(self, exchange: Exchange, body: memoryview) -> None:
        """Decode; much JSON in a thread."""
        if not body.nbytes:
            raise InvalidRequest("the request body is empty; expected a V2 inference request")
        json_length = exchange.headers.get(HEADER_LENGTH)
        params = exchange.params
        size = (stated_length(json_length) or 0) if json_length is not None else 0
        if 0 < size <= MAX_PLANNED_BYTES and size <= body.nbytes:
            text = bytes(body[:size])
            key, identifier = key_of(params["model_name"], params.get("version", ""), text, body.nbytes)
            plan = self._plans.find(key)
            if plan is not None:
                self._ask(exchange, plan.bind(body, identifier))
                return
            request = binary_codec.decode_request(
                key[0], key[1], body, json_length, self._gate.settings.max_json_bytes
            )
            self._ask(exchange, self._plans.learn(key, identifier, request, body))
            return
        if (body.nbytes if json_length is None else size) > MUCH_JSON:
            self._read_in_thread(exchange, body)
        else:
            self._ask(exchange, self._decode(exchange, body))

    def _decode(self, exchange: Exchange, body: memoryview) -> InferRequest:
        params = exchange.params
        return binary_codec.decode_request(
            params["model_name"],
            params.get("version", ""),
            body,
            exchange.headers.get(HEADER_LENGTH),
            self._gate.settings.max_json_bytes,
        )

    def _read_in_thread(self, exchange: Exchange, body: memoryview) -> None:
        lease = exchange.lease
        if lease is not None:
            lease.hold()
        exchange.work(lambda: "while its JSON was read")

        def read() -> InferRequest | None:
            return None if exchange.over else self._decode(exchange, body)

        def done(reading: asyncio.Future[InferRequest | None]) -> None:
            try:
                request = reading.result()
                if request is not None:
                    self._ask(exchange, request)
            except Exception as error:
                exchange.fail(error)
            finally:
                if lease is not None:
                    lease.release()

        asyncio.get_running_loop().run_in_executor(self._reading, read).add_done_callback(done)

    def encode(self, exchange: Exchange, answer: Any) -> Reply:
        """Encode the outputs that were asked for."""
        request: InferRequest = exchange.state
        plan = request.plan
        encoded = plan.encode(answer) if plan is not None else None
        if encoded is None:
            encoded = binary_codec.encode_response(request, answer)
            if plan is not None:
                plan.remember(answer, encoded)
        return Reply(200, encoded.headers, encoded.parts, encoded.size, answer.release, encoded.header_lines)

    def _ask(self, exchange: Exchange, request: InferRequest) -> None:
        if exchange.over:
            return
        # Once more, after the body: a request belongs to the model that is there when it is handed over.
        model = self._gate.find(request.model_name, request.model_version, exchange)
        exchange.state = request
        if request.parameters and model.timeout_is_deadline(request.model_version):
            exchange.tighten_by_parameter(request.parameters)
        model.start_infer(request, exchange)
