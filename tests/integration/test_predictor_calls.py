"""What the transformer asks its predictor, and what clients hear when the predictor misbehaves: a stub plays it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from integration_support import (
    GRPC_CODES,
    INFER,
    MODEL,
    PREDICT,
    SOON_S,
    Address,
    Service,
    eventually,
    from_detect,
    v1_json,
    v2_binary,
    v2_grpc,
)
from saccade_serving.oip.messages import InferRequest, TensorMetadata
from stub_predictor import METADATA, ROWS, Reply, StubPredictor, answer, refusal

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def running_stub() -> Iterator[StubPredictor]:
    stub = StubPredictor()
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def service(
    running_stub: StubPredictor, choose_address: Callable[[], Address], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A transformer in front of the stub."""
    flags = [f"--predictor_host=127.0.0.1:{running_stub.port}"]
    with Service("transformer", choose_address(), tmp_path_factory.mktemp("log") / "log", flags) as transformer:
        transformer.wait_ready()
        yield transformer
        assert transformer.stop() == 0


@pytest.fixture
def stub(service: Service, running_stub: StubPredictor) -> Iterator[StubPredictor]:
    """The stub, well-behaved at the start, with a transformer that has forgotten what it was told before."""
    running_stub.reset()
    yield running_stub
    running_stub.reset()


@pytest.fixture
def address(service: Service) -> Address:
    return service.address


@pytest.fixture(scope="module")
def photo(photos: dict[str, bytes]) -> bytes:
    return photos["coffee.jpg"]


def send_all(address: Address, image: bytes, headers: dict[str, str]) -> None:
    """The same image by REST, v1, /detect and gRPC."""
    body, own = v2_binary(image)
    for path, content, more in (
        (INFER, body, own),
        (PREDICT, v1_json(image), {}),
        ("/detect", image, {}),
    ):
        assert address.http(path, content, {**more, **headers}).status == 200
    assert address.rpc("ModelInfer", v2_grpc(image), metadata=tuple(headers.items())).code == "OK"


class TestWhatIsAsked:
    def test_one_letterboxed_uint8_tensor_as_binary(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        assert address.http("/detect", photo).status == 200
        [asked] = stub.asked
        [tensor] = asked.request.inputs
        assert (tensor.name, tensor.datatype, tensor.shape) == ("image", "UINT8", (1, 64, 64, 3))
        assert asked.request.binary_output
        assert asked.headers["content-type"] == "application/octet-stream"
        picture = tensor.array[0]
        assert (picture[:10] == 114).all()  # 600 x 400 in 64 x 64: grey above and below
        assert (picture[-10:] == 114).all()
        assert picture[12:-12].std() > 20

    def test_boxes_come_back_in_the_pixels_of_the_photo(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        [found] = from_detect(address.http("/detect", photo).json)
        assert (found.label, found.score) == ("person", 0.9)
        # 8..40 of 64 across is 75..375 of 600; 56 of 64 down is beyond the lower edge (53.5).
        assert found.box[0] == pytest.approx(75, abs=0.1)
        assert found.box[2] == pytest.approx(375, abs=0.1)
        assert found.box[1] == 0
        assert found.box[3] == 400

    def test_trace_context_and_request_id_are_forwarded_by_every_route(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        headers = {"traceparent": TRACE, "tracestate": "a=1", "x-request-id": "r-42", "authorization": "Bearer t"}
        send_all(address, photo, headers)
        assert len(stub.asked) == 4
        for asked in stub.asked:
            assert {name: asked.headers[name] for name in headers} == headers

    def test_other_headers_are_not(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        private = {"cookie": "secret=1", "x-forwarded-for": "10.0.0.1", "x-custom": "1"}
        send_all(address, photo, private)
        for asked in stub.asked:
            assert not private.keys() & asked.headers.keys()

    def test_a_request_without_an_id_gets_one(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        answer = address.http("/detect", photo)
        assert stub.asked[0].headers["x-request-id"] == answer.headers["x-request-id"]

    def test_the_remaining_time_is_forwarded_as_header_and_parameter(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        body, own = v2_binary(photo)
        for headers, given_ms in (({}, 30_000), ({"x-deadline-ms": "5000"}, 5_000)):
            begun = time.monotonic()
            assert address.http(INFER, body, {**own, **headers}).status == 200
            asked = stub.asked[-1]
            spent_ms = (asked.at - begun) * 1e3
            forwarded_ms = float(asked.headers["x-deadline-ms"])
            assert given_ms - spent_ms - 1000 <= forwarded_ms < given_ms
            timeout_us = asked.request.parameters["timeout"]
            assert isinstance(timeout_us, int)
            assert 0.98 * forwarded_ms * 1000 <= timeout_us <= forwarded_ms * 1000 + 2  # rounded down to three digits

    def test_the_tightest_of_all_deadlines_counts(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        body, own = v2_binary(photo, timeout=4_000_000)
        address.http(INFER, body, {**own, "x-deadline-ms": "9000"})
        address.rpc("ModelInfer", v2_grpc(photo, timeout=9_000_000), timeout_s=4)
        address.http("/detect?timeout=4000000", photo, {"x-deadline-ms": "9000"})
        assert len(stub.asked) == 3
        for asked in stub.asked:
            assert 2000 < float(asked.headers["x-deadline-ms"]) < 4000

    def test_priority_and_version_are_passed_on(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        body, own = v2_binary(photo, priority=2)
        assert address.http(f"/v2/models/{MODEL}/versions/1/infer", body, own).status == 200
        assert stub.asked[0].request.parameters["priority"] == 2

    def test_each_image_of_a_batch_is_a_request_of_its_own_at_the_same_time(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        together = threading.Barrier(4)

        def reply(request: InferRequest) -> Reply:
            together.wait(SOON_S)  # breaks unless all four are here at once
            return answer(request)

        stub.reply = reply
        predictions = address.http(PREDICT, v1_json(*[photo] * 4)).json["predictions"]
        assert len(predictions) == len(stub.asked) == 4

    def test_a_full_table_is_counted(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        table = np.tile(np.array([8, 8, 40, 56, 0.9, 0], np.float32), (1, ROWS, 1))
        stub.reply = lambda request: answer(request, table)
        before = address.scrape().total("saccade_candidates_full_total")
        assert len(address.http("/detect", photo).json["detections"]) == 1
        assert address.scrape().total("saccade_candidates_full_total", model=MODEL, version="1") == before + 1


BAD_TABLES = {
    "nan": np.full((1, ROWS, 6), np.nan, np.float32),
    "other shape": np.zeros((1, ROWS + 1, 6), np.float32),
    "other datatype": np.zeros((1, ROWS, 6), np.float64),
    "two rows": np.zeros((2, ROWS, 6), np.float32),
    "class ids": np.full((1, ROWS, 6), 1e9, np.float32),
}


class TestMisbehaviour:
    def check_everywhere(self, address: Address, image: bytes, status: int, words: str) -> None:
        """REST, v1, /detect and gRPC say the same, and never where the predictor is."""
        body, own = v2_binary(image)
        sentences = []
        for path, content, more in (
            (INFER, body, own),
            (PREDICT, v1_json(image), {}),
            ("/detect", image, {}),
        ):
            answered = address.http(path, content, more)
            assert answered.status == status, answered.body
            sentences.append(answered.error)
        answered_rpc = address.rpc("ModelInfer", v2_grpc(image))
        assert answered_rpc.code == GRPC_CODES[status]
        for sentence in (*sentences, answered_rpc.details):
            assert words in sentence
            assert "127.0.0.1" not in sentence
            assert "Errno" not in sentence

    @pytest.mark.parametrize("table", BAD_TABLES.values(), ids=BAD_TABLES)
    def test_a_table_that_breaks_its_promise_is_502(
        self, stub: StubPredictor, address: Address, photo: bytes, table: np.ndarray
    ) -> None:
        stub.reply = lambda request: answer(request, table)
        self.check_everywhere(address, photo, 502, "the predictor's answer is not what its model promises")

    def test_an_answer_without_the_table_is_502(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        def reply(request: InferRequest) -> Reply:
            good = answer(request)
            return Reply(200, good.headers, good.body.replace(b'"candidates"', b'"candidatez"'))

        stub.reply = reply
        self.check_everywhere(address, photo, 502, "no tensor 'candidates'")

    @pytest.mark.parametrize("body", [b"", b"hello", b"{}", b'{"outputs": 1}'])
    def test_an_answer_that_is_no_v2_is_502(
        self, stub: StubPredictor, address: Address, photo: bytes, body: bytes
    ) -> None:
        stub.reply = lambda request: Reply(200, {"content-type": "application/json"}, body)
        self.check_everywhere(address, photo, 502, "the predictor")

    @pytest.mark.parametrize(
        "raw",
        [
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\ncontent-length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        ],
        ids=["no HTTP", "two lengths", "too large"],
    )
    def test_what_is_no_answer_is_502_and_not_asked_for_again(
        self, stub: StubPredictor, address: Address, photo: bytes, raw: bytes
    ) -> None:
        stub.reply = lambda request: Reply(0, {}, raw)
        self.check_everywhere(address, photo, 502, "the predictor's answer cannot be used")
        assert len(stub.asked) == 4

    def test_half_an_answer_is_502_and_not_asked_for_again(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        stub.reply = lambda request: Reply(0, {}, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhello")
        self.check_everywhere(address, photo, 502, "the predictor cannot be reached")
        assert len(stub.asked) == 4

    def test_each_answer_names_the_version_that_gave_it_while_they_change(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        versions = ["1", "2", "1", "3", "1"]
        told = iter(versions)
        stub.reply = lambda request: answer(request, version=next(told))
        found = [address.http("/detect", photo).json["model"]["version"] for _ in versions]
        assert found == versions

    def test_a_busy_predictor_is_asked_again_when_it_says_if_the_deadline_allows_it(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        body, own = v2_binary(photo)
        replies = [refusal(503, "busy", **{"retry-after": "1"})]
        stub.reply = lambda request: replies.pop() if replies else answer(request)
        assert address.http(INFER, body, {**own, "x-deadline-ms": "8000"}).status == 200
        first, second = (float(asked.headers["x-deadline-ms"]) for asked in stub.asked)
        assert second < first - 999
        assert float(stub.asked[1].request.parameters["timeout"]) <= second * 1e3
        stub.reply = lambda request: refusal(503, "busy", **{"retry-after": "1"})
        assert address.http(INFER, body, {**own, "x-deadline-ms": "900"}).status == 503

    @pytest.mark.parametrize(
        ("theirs", "ours"), [(400, 502), (404, 502), (413, 502), (429, 502), (500, 502), (503, 503), (504, 504)]
    )
    def test_errors_are_translated(
        self, stub: StubPredictor, address: Address, photo: bytes, theirs: int, ours: int
    ) -> None:
        stub.reply = lambda request: refusal(theirs, "no sir")
        self.check_everywhere(address, photo, ours, "its log has the cause" if theirs == 500 else "no sir")

    def test_an_error_without_a_sentence_is_502(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        stub.reply = lambda request: Reply(500, {"content-type": "text/html"}, b"<html>oops</html>")
        self.check_everywhere(address, photo, 502, "500")

    def test_retry_after_is_passed_on(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        stub.reply = lambda request: refusal(503, "busy", **{"retry-after": "7"})
        assert address.http("/detect", photo).headers["retry-after"] == "7"
        assert address.rpc("ModelInfer", v2_grpc(photo)).trailing["retry-after"] == "7"

    def test_a_broken_connection_is_tried_once_more_and_then_502(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        replies = [Reply(0, {}, b"")]
        stub.reply = lambda request: replies.pop() if replies else answer(request)
        assert address.http("/detect", photo).status == 200
        stub.reply = lambda request: Reply(0, {}, b"")
        self.check_everywhere(address, photo, 502, "the predictor cannot be reached")

    def test_silence_is_504_within_the_deadline(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        released = threading.Event()

        def reply(request: InferRequest) -> Reply:
            released.wait(SOON_S)
            return answer(request)

        stub.reply = reply
        body, own = v2_binary(photo)
        try:
            for send in (
                lambda: address.http(INFER, body, {**own, "x-deadline-ms": "300"}).status,
                lambda: address.http("/detect?timeout=300000", photo).status,
                lambda: address.http(PREDICT, v1_json(photo, timeout=300_000)).status,
                lambda: address.rpc("ModelInfer", v2_grpc(photo, timeout=300_000)).code,
                lambda: address.rpc("ModelInfer", v2_grpc(photo), timeout_s=0.3).code,
            ):
                begun = time.monotonic()
                assert send() in (504, "DEADLINE_EXCEEDED")
                assert 0.25 < time.monotonic() - begun < 3
        finally:
            released.set()
        eventually("no request is in flight", lambda: address.scrape().total("saccade_inflight_requests") == 0)

    def test_the_sentence_says_who_was_late(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        released = threading.Event()
        stub.reply = lambda request: answer(request) if released.wait(SOON_S) else refusal(500, "")
        answered = address.http("/detect?timeout=200000", photo)
        released.set()
        assert answered.error == "the predictor did not answer within the request's deadline"

    def test_another_model_behind_the_same_name_is_noticed(
        self, stub: StubPredictor, address: Address, photo: bytes
    ) -> None:
        """A model with another input size refuses the old tensor with 400; the next request asks what it wants."""

        def reply(request: InferRequest) -> Reply:
            if request.inputs[0].shape != (1, 32, 32, 3):
                return refusal(400, "input 'image' has shape [1, 64, 64, 3]")
            return answer(request, version="2")

        stub.state(inputs=[TensorMetadata("image", "UINT8", (-1, 32, 32, 3))], versions=["2"])
        stub.reply = reply
        assert address.http("/detect", photo).status == 502
        answered = address.http("/detect", photo)
        assert answered.status == 200
        assert answered.json["model"]["version"] == "2"
        assert address.http(f"/v2/models/{MODEL}").json["versions"] == ["2"]
        # and back again, for the tests that follow
        stub.reset()
        stub.reply = lambda request: refusal(400, "wrong") if request.inputs[0].shape[1] == 32 else answer(request)
        assert [address.http("/detect", photo).status for _ in range(2)] == [502, 200]

    def test_a_table_of_another_size_is_noticed(self, stub: StubPredictor, address: Address, photo: bytes) -> None:
        """The same name and input, but a table of other rows: the next request asks what is promised now."""
        stub.state(properties={**METADATA.properties, "saccade.candidates": "5"})
        table = np.zeros((1, 5, 6), np.float32)
        stub.reply = lambda request: answer(request, table)
        assert [address.http("/detect", photo).status for _ in range(2)] == [502, 200]
        stub.reset()
        assert [address.http("/detect", photo).status for _ in range(2)] == [502, 200]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"properties": {}}, "saccade.input=None; expected one UINT8 input"),
            ({"inputs": [TensorMetadata("image", "FP32", (-1, 3, 64, 64))]}, "takes FP32 [-1, 3, 64, 64]; expected"),
            ({"inputs": []}, "has 0 inputs"),
            ({"properties": {"saccade.input": "rgb_nhwc"}}, "does not fit this transformer"),
            ({"properties": {**METADATA.properties, "saccade.labels": "no json"}}, "does not fit this transformer"),
            ({"properties": {**METADATA.properties, "saccade.labels": "7"}}, "does not fit this transformer"),
        ],
        ids=["no ready graph", "float input", "no input", "no table size", "bad labels", "odd labels"],
    )
    def test_a_model_that_is_no_ready_graph_is_502_until_one_is_back(
        self, stub: StubPredictor, address: Address, photo: bytes, change: dict[str, Any], words: str
    ) -> None:
        stub.state(**change)
        stub.reply = lambda request: refusal(404, "gone")
        assert address.http("/detect", photo).status == 502  # from now on the transformer asks again
        self.check_everywhere(address, photo, 502, words)
        stub.reset()
        assert address.http("/detect", photo).status == 200
