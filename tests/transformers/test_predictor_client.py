"""The predictor as the transformer sees it: the contract asked once, deadlines handed down, errors translated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from typing import Any

import numpy as np
import pytest

from fakes import FakeV2Client, detector_client, detector_metadata, settle
from saccade_serving.client import ConnectionFailed, Refused
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import DeadlineExceeded, Overloaded, PredictorUnavailable, SaccadeError
from saccade_serving.metrics import Histogram
from saccade_serving.oip.messages import InferRequest, InferResponse, ModelMetadata, Tensor, TensorMetadata
from saccade_transformers import predictor as predictor_module
from saccade_transformers.predictor import Predictor, PredictorContract

IMAGE = np.zeros((1, 24, 32, 3), np.uint8)
PERSON = (1, 2, 11, 12, 0.9, 0)


def predictor_of(client: FakeV2Client) -> Predictor:
    return Predictor(client, "detector", Histogram("saccade_predictor_seconds", "S.", labels=("model",)))


def exchange(timeout_s: float = 10.0, **headers: str) -> Exchange:
    return Exchange.begin("rest", {name.replace("_", "-"): value for name, value in headers.items()}, timeout_s)


async def never(*_: Any) -> Any:
    await asyncio.get_running_loop().create_future()


# The contract.


def test_a_contract_is_read_from_the_metadata() -> None:
    contract = PredictorContract.of(detector_metadata(versions=["3", "4"]))
    assert contract.input_name == "image"
    assert contract.input_size == (32, 24), "width, height"
    assert contract.versions == ("3", "4")
    assert contract.labels == ["person", "cat"]
    assert contract.properties["saccade.min_score"] == "0.05"


async def test_what_calls_usually_take_leaves_out_the_first_and_those_without_an_answer() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    contract = await predictor.contract(5)
    await predictor.infer(IMAGE, contract, {}, exchange())
    assert predictor.usual_s is None
    answer = client.answer

    async def late(_: InferRequest) -> InferResponse:
        raise TimeoutError

    client.answer = late
    with pytest.raises(DeadlineExceeded) as caught:
        await predictor.infer(IMAGE, contract, {}, exchange(2.0))
    assert caught.value.given_s == pytest.approx(2, abs=0.5)
    assert predictor.usual_s is None
    client.answer = answer
    await predictor.infer(IMAGE, contract, {}, exchange())
    assert predictor.usual_s is not None


def test_labels_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    contract = PredictorContract.of(detector_metadata())
    assert contract.labels == ["person", "cat"]
    monkeypatch.setattr(json, "loads", None)
    assert contract.labels == ["person", "cat"]


def test_a_model_without_labels_has_none() -> None:
    assert PredictorContract.of(detector_metadata(properties={"saccade.input": "rgb_nhwc"})).labels == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"properties": {}}, "saccade.input=None"),
        ({"properties": {"saccade.input": "nv12"}}, "saccade.input=nv12"),
        ({"inputs": []}, "0 inputs"),
        ({"inputs": [TensorMetadata("a", "UINT8", (-1, 24, 32, 3))] * 2}, "2 inputs"),
        ({"inputs": [TensorMetadata("a", "FP32", (-1, 24, 32, 3))]}, r"takes FP32 \[-1, 24, 32, 3\]"),
        ({"inputs": [TensorMetadata("a", "UINT8", (-1, 3, 24, 32))]}, r"takes UINT8 \[-1, 3, 24, 32\]"),
        ({"inputs": [TensorMetadata("a", "UINT8", (-1, -1, -1, 3))]}, r"takes UINT8 \[-1, -1, -1, 3\]"),
        ({"inputs": [TensorMetadata("a", "UINT8", (24, 32, 3))]}, r"takes UINT8 \[24, 32, 3\]"),
        ({"inputs": [TensorMetadata("a", "UINT8", (-1, 0, 32, 3))]}, r"takes UINT8 \[-1, 0, 32, 3\]"),
        ({"inputs": [TensorMetadata("a", "UINT8", ())]}, r"takes UINT8 \[\]"),
    ],
)
def test_a_model_that_is_no_ready_graph_is_named_with_what_is_expected(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(PredictorUnavailable, match=named) as caught:
        PredictorContract.of(detector_metadata(**changes))
    assert "model 'detector'" in str(caught.value)
    assert "saccade.input=rgb_nhwc, as saccade-build writes them" in str(caught.value)


@pytest.mark.parametrize(("height", "width"), [(100_000, 100_000), (4096, 4097)])
def test_a_model_that_states_a_giant_input_is_not_believed(height: int, width: int) -> None:
    """Or the transformer would make images of 30 GB for it, and end."""
    giant = TensorMetadata("a", "UINT8", (-1, height, width, 3))
    with pytest.raises(PredictorUnavailable, match=f"takes images of {width}x{height}; expected at most 16777216"):
        PredictorContract.of(detector_metadata(inputs=[giant]))
    large = TensorMetadata("a", "UINT8", (-1, 4096, 4096, 3))
    assert PredictorContract.of(detector_metadata(inputs=[large])).input_size == (4096, 4096)


async def test_the_contract_is_asked_once_however_many_want_it() -> None:
    answered = asyncio.Event()

    async def describe() -> ModelMetadata:
        await answered.wait()
        return detector_metadata()

    client = FakeV2Client(never, describe)
    predictor = predictor_of(client)
    tasks = [asyncio.create_task(predictor.contract(10)) for _ in range(20)]
    await settle()
    answered.set()
    contracts = await asyncio.gather(*tasks)
    assert client.metadata_calls == 1
    assert all(contract is contracts[0] for contract in contracts)
    assert await predictor.contract(10) is contracts[0]
    assert client.metadata_calls == 1


async def test_a_contract_that_could_not_be_had_is_asked_for_again() -> None:
    outcomes: list[Exception | ModelMetadata] = [
        ConnectionFailed("refused"),
        detector_metadata(properties={}),
        detector_metadata(),
    ]

    async def describe() -> ModelMetadata:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    predictor = predictor_of(FakeV2Client(never, describe))
    for _ in range(2):
        with pytest.raises(PredictorUnavailable):
            await predictor.contract(10)
    assert (await predictor.contract(10)).input_size == (32, 24)


async def test_one_who_gives_up_asking_does_not_stop_the_others() -> None:
    answered = asyncio.Event()

    async def describe() -> ModelMetadata:
        await answered.wait()
        return detector_metadata()

    client = FakeV2Client(never, describe)
    predictor = predictor_of(client)
    asker, waiter = (asyncio.create_task(predictor.contract(10)) for _ in range(2))
    await settle()
    asker.cancel()
    await settle()
    answered.set()
    assert (await waiter).input_size == (32, 24)
    assert client.metadata_calls == 2


async def test_nobody_waits_for_the_contract_longer_than_the_own_deadline() -> None:
    predictor = predictor_of(FakeV2Client(never, never))
    outcomes = await asyncio.wait_for(
        asyncio.gather(*(predictor.contract(0.02) for _ in range(5)), return_exceptions=True), 5
    )
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 5


async def test_a_predictor_that_does_not_say_what_it_expects_holds_up_nobody_who_knew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictor_module, "_ASK_S", 0.05)
    client = detector_client()
    predictor = predictor_of(client)
    known = await predictor.contract(10)
    client.describe = never
    predictor.forget()
    waiting = asyncio.create_task(predictor.contract(10))
    await settle()
    assert await predictor.contract(10) is known, "while another asks"
    assert await asyncio.wait_for(waiting, 5) is known
    client.describe = detector_client().describe
    assert await predictor.contract(10) is not known, "the next one asks again"


async def test_one_that_never_said_is_given_up_after_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "_ASK_S", 0.05)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(predictor_of(FakeV2Client(never, never)).contract(10), 5)


async def test_a_model_that_was_replaced_by_one_of_the_same_version_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictor_module, "_BELIEVED_S", 0.0)
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    before = await predictor.contract(10)
    other = detector_metadata(properties={**before.properties, "saccade.labels": '["screw", "nut"]'})
    client.describe = detector_client(metadata=other).describe
    assert await predictor.contract(10) is before, "no request waits for it"
    await settle()
    assert (await predictor.contract(10)).labels == ["screw", "nut"]


async def test_a_model_that_says_the_same_again_stays_the_same_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "_BELIEVED_S", 0.0)
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    before = await predictor.contract(10)
    for asked in range(2, 5):
        assert await predictor.contract(10) is before
        await settle()
        assert client.metadata_calls == asked


async def test_what_a_model_says_is_believed_for_a_while() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    for _ in range(5):
        await predictor.contract(10)
        await settle()
    assert client.metadata_calls == 1


@pytest.mark.parametrize(
    "trouble",
    [ConnectionFailed("gone"), Refused(404, "gone"), TimeoutError(), None],
    ids=["no connection", "refused", "late", "no ready graph"],
)
async def test_what_was_known_holds_where_asking_again_does_not_help(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception | None
) -> None:
    monkeypatch.setattr(predictor_module, "_BELIEVED_S", 0.0)
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    before = await predictor.contract(10)

    async def describe() -> ModelMetadata:
        if trouble is not None:
            raise trouble
        return detector_metadata(properties={})

    client.describe = describe
    for asked in range(2, 4):
        assert await predictor.contract(10) is before
        await settle()
        assert client.metadata_calls == asked, "asked in vain, and asked again"


async def test_closing_ends_what_is_asked_beside_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "_BELIEVED_S", 0.0)
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    await predictor.contract(10)
    client.describe = never
    await predictor.contract(10)
    await settle()
    await predictor.close()
    assert len(asyncio.all_tasks()) == 1, "the test's own"


# One image.


async def test_an_image_goes_out_as_one_tensor_and_its_outputs_come_back() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    outputs, version = await predictor.infer(IMAGE, await predictor.contract(5), {"priority": 3}, exchange())
    assert version == "3"
    assert outputs["candidates"].shape == (1, 4, 6)
    [request] = client.requests
    assert (request.model_name, request.model_version) == ("detector", "")
    assert request.inputs[0].name == "image"
    assert request.inputs[0].array is IMAGE, "no copy"
    assert request.binary_output
    assert request.parameters["priority"] == 3


async def test_a_version_that_the_contract_does_not_name_makes_it_be_asked_again_but_not_at_every_answer() -> None:
    client = detector_client(PERSON, version="4", metadata=detector_metadata(versions=["3"]))
    predictor = predictor_of(client)
    for _ in range(5):
        await predictor.infer(IMAGE, await predictor.contract(5), {}, exchange())
    assert client.metadata_calls == 2, "once at first, once after the first surprise"


async def test_a_version_that_was_withdrawn_makes_the_contract_be_asked_again() -> None:
    client = detector_client(PERSON, version="4", metadata=detector_metadata(versions=["3", "4"]))
    predictor = predictor_of(client)
    for _ in range(2):
        await predictor.infer(IMAGE, await predictor.contract(5), {}, exchange())
    replacement = detector_client(PERSON, version="3", metadata=detector_metadata(versions=["3"]))
    client.answer, client.describe = replacement.answer, replacement.describe
    await predictor.infer(IMAGE, await predictor.contract(5), {}, exchange(), version="3")
    assert (await predictor.contract(5)).versions == ("3", "4"), "it was asked for: that says nothing"
    await predictor.infer(IMAGE, await predictor.contract(5), {}, exchange())
    assert (await predictor.contract(5)).versions == ("3",)


async def test_a_version_is_asked_for_by_name() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    await predictor.infer(IMAGE, await predictor.contract(5), {}, exchange(), version="7")
    assert client.requests[0].model_version == "7"


async def test_the_remaining_time_is_handed_down_less_the_reserve() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    contract = await predictor.contract(5)
    span = exchange(10.0)
    before = span.remaining_s()
    await predictor.infer(IMAGE, contract, {}, span, reserve_s=4.0)
    after = span.remaining_s()
    [timeout_s] = client.timeouts
    assert after - 4.0 <= timeout_s <= before - 4.0
    # Rounded down to three digits, so that most requests say the same.
    rounded = client.requests[0].parameters["timeout"]
    assert isinstance(rounded, int)
    assert 0.99 * timeout_s * 1e6 <= rounded <= timeout_s * 1e6
    assert str(rounded)[3:].strip("0") == ""
    assert float(client.headers[0]["x-deadline-ms"]) == pytest.approx(timeout_s * 1e3, abs=0.001)


async def test_a_client_cannot_lengthen_what_is_handed_down_by_its_own_timeout_parameter() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    await predictor.infer(IMAGE, await predictor.contract(5), {"timeout": 10**12}, exchange(1.0))
    assert float(client.requests[0].parameters["timeout"]) <= 1e6


async def test_without_time_left_beyond_the_reserve_the_predictor_is_not_asked() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    contract = await predictor.contract(5)
    for timeout_s, reserve_s in ((1.0, 2.0), (-1.0, 0.0)):
        with pytest.raises(DeadlineExceeded, match="before the predictor was asked"):
            await predictor.infer(IMAGE, contract, {}, exchange(timeout_s), reserve_s)
    assert client.requests == []


async def test_trace_context_and_request_id_are_handed_down() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    span = exchange(x_request_id="r1", traceparent="00-1-2-01", cookie="secret")
    await predictor.infer(IMAGE, await predictor.contract(5), {}, span)
    sent = client.headers[0]
    assert (sent["x-request-id"], sent["traceparent"]) == ("r1", "00-1-2-01")
    assert "cookie" not in sent


@pytest.mark.parametrize(
    ("failure", "kind", "sentence"),
    [
        (TimeoutError(), DeadlineExceeded, "the predictor did not answer within the request's deadline"),
        (ConnectionFailed("http://10.0.0.7:80 refused"), PredictorUnavailable, "cannot be reached; try again later"),
        (Refused(503, "full", 7.0), Overloaded, "the predictor refused: full"),
        (Refused(503, "full"), Overloaded, "the predictor refused: full"),
        (Refused(504, "late"), DeadlineExceeded, "the predictor gave up: late"),
        (Refused(400, "shape"), PredictorUnavailable, r"answered with an error \(400\): shape"),
        (Refused(404, "gone"), PredictorUnavailable, r"answered with an error \(404\): gone"),
        (Refused(413, "big"), PredictorUnavailable, r"answered with an error \(413\): big"),
        (
            Refused(500, "broken"),
            PredictorUnavailable,
            r"^the predictor answered with an error \(500\); its log has the cause$",
        ),
        (Refused(501, "never"), PredictorUnavailable, r"answered with an error \(501\): never"),
    ],
)
async def test_a_failure_of_the_predictor_becomes_the_error_of_the_table(
    failure: Exception, kind: type[SaccadeError], sentence: str
) -> None:
    async def fail(_request: InferRequest) -> InferResponse:
        raise failure

    async def describe() -> ModelMetadata:
        raise failure

    predictor = predictor_of(FakeV2Client(fail, describe))
    contract = PredictorContract.of(detector_metadata())
    for call in (predictor.infer(IMAGE, contract, {}, exchange()), predictor.contract(5)):
        with pytest.raises(kind, match=sentence) as caught:
            await call
        assert type(caught.value) is kind
        assert caught.value.__cause__ is failure, "the log has the cause"
        assert "10.0.0.7" not in str(caught.value), "the address is nobody's business"
        if kind is Overloaded:
            assert caught.value.retry_after_s == getattr(failure, "retry_after_s", None) or 1.0


@pytest.mark.parametrize(("status", "calls"), [(400, 2), (404, 2), (500, 1), (503, 1), (504, 1), (413, 1)])
async def test_the_contract_is_forgotten_where_another_model_may_stand_now(status: int, calls: int) -> None:
    async def fail(_request: InferRequest) -> InferResponse:
        raise Refused(status, "no")

    async def describe() -> ModelMetadata:
        return detector_metadata()

    client = FakeV2Client(fail, describe)
    predictor = predictor_of(client)
    with pytest.raises(SaccadeError):
        await predictor.infer(IMAGE, await predictor.contract(5), {}, exchange())
    await predictor.contract(5)
    assert client.metadata_calls == calls


async def test_a_cancelled_request_cancels_the_call() -> None:
    seen: list[str] = []

    async def watch(_request: InferRequest) -> InferResponse:
        seen.append("asked")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        raise AssertionError("unreachable")

    predictor = predictor_of(FakeV2Client(watch, never))
    contract = PredictorContract.of(detector_metadata())
    task = asyncio.create_task(predictor.infer(IMAGE, contract, {}, exchange()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["asked", "cancelled"]


async def test_every_call_is_timed_whatever_becomes_of_it() -> None:
    async def fail(_request: InferRequest) -> InferResponse:
        raise ConnectionFailed("refused")

    seconds = Histogram("saccade_predictor_seconds", "S.", labels=("model",))
    contract = PredictorContract.of(detector_metadata())
    for client in (detector_client(PERSON), FakeV2Client(fail, never)):
        with contextlib.suppress(PredictorUnavailable):
            await Predictor(client, "detector", seconds).infer(IMAGE, contract, {}, exchange())
    [count] = [s.value for s in seconds.collect().samples if s.name.endswith("_count")]
    assert count == 2


async def test_outputs_that_are_no_numbers_are_left_out() -> None:
    async def answer(request: InferRequest) -> InferResponse:
        outputs = [Tensor.of("a", np.ones(1)), Tensor.of_bytes("b", (1,), [b"x"])]
        return InferResponse(request.model_name, outputs, "1")

    predictor = predictor_of(FakeV2Client(answer, never))
    outputs, _ = await predictor.infer(IMAGE, PredictorContract.of(detector_metadata()), {}, exchange())
    assert list(outputs) == ["a"]


async def test_readiness_and_closing_are_the_clients() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    assert await predictor.is_ready(1)
    client.ready = False
    assert not await predictor.is_ready(1)
    await predictor.close()
    assert client.closed


async def test_a_deadline_that_is_over_by_a_hair_sends_no_zero_timeout() -> None:
    # Triton reads timeout 0 as none.
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    contract = await predictor.contract(5)
    span = Exchange.begin("rest", {}, 10, time.monotonic())
    reserve_s = span.remaining_s() - 1e-3
    try:
        await predictor.infer(IMAGE, contract, {}, span, reserve_s)
    except DeadlineExceeded:
        assert client.requests == []
    else:
        assert client.requests[0].parameters["timeout"] >= 1  # type: ignore[operator]
        assert math.isfinite(client.timeouts[0])


async def test_every_call_has_an_id_of_its_own_of_one_length() -> None:
    client = detector_client(PERSON)
    predictor = predictor_of(client)
    for _ in range(20):
        await predictor.infer(IMAGE, await predictor.contract(5), {}, exchange())
    ids = {request.id for request in client.requests}
    assert len(ids) == 20
    assert {len(one) for one in ids} == {25}
