"""What becomes of an exception: our own are kept, others hidden and logged, and none keeps a request's memory."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator

import pytest

from saccade_serving.connection import failures
from saccade_serving.connection.failures import as_saccade_error
from saccade_serving.errors import EngineFailed, InvalidRequest, PredictorUnavailable, SaccadeError
from saccade_serving.telemetry import Seldom


class Payload:
    """Something large in a frame."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def plain(payload: Payload) -> None:
    raise InvalidRequest("no")


def caused(payload: Payload) -> None:
    def inner(deep: Payload) -> None:
        raise ValueError("deep")

    try:
        inner(payload)
    except ValueError as error:
        raise InvalidRequest("no") from error


def from_none(payload: Payload) -> None:
    try:
        raise ValueError(payload)
    except ValueError:
        raise InvalidRequest("no") from None


def in_passing(payload: Payload) -> None:
    def inner(deep: Payload) -> None:
        raise KeyError("deep")

    try:
        inner(payload)
    except KeyError:
        raise InvalidRequest("no")  # noqa: B904  # that is the point


def of_another_cause(payload: Payload) -> None:
    def inner(deep: Payload) -> None:
        raise KeyError("deep")

    try:
        inner(payload)
    except KeyError:
        raise InvalidRequest("no") from ValueError("elsewhere")


def unexpected(payload: Payload) -> None:
    raise ZeroDivisionError("a bug")


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("raising", [plain, caused, in_passing, of_another_cause, unexpected])
def test_an_answered_error_keeps_no_frame_and_so_no_buffer(
    raising: Callable[[Payload], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures.log, "disabled", True)  # what captures logs for the test keeps them
    payload = Payload()
    freed = weakref.ref(payload)
    kept: SaccadeError | None = None
    try:
        raising(payload)
    except Exception as error:
        kept = as_saccade_error(error)
        cycle = [error]
        cycle.append(cycle)  # type: ignore[arg-type]  # whoever holds an error often is held by it
    del payload
    assert kept is not None
    assert freed() is None


@pytest.mark.usefixtures("no_collector")
def test_a_long_chain_of_errors_is_forgotten_without_going_round_in_circles() -> None:
    first, second = InvalidRequest("one"), InvalidRequest("two")
    first.__cause__, second.__cause__ = second, first
    assert as_saccade_error(first) is first


@pytest.mark.parametrize("raising", [plain, caused, from_none, in_passing])
def test_an_error_of_ours_stays_the_same_object(raising: Callable[[Payload], None]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        raising(Payload())
    assert as_saccade_error(caught.value) is caught.value


def test_anything_else_is_hidden_from_the_client_and_whole_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    try:
        unexpected(Payload())
    except ZeroDivisionError as error:
        answered = as_saccade_error(error)
    assert isinstance(answered, EngineFailed)
    assert "bug" not in str(answered)
    [record] = caplog.records
    assert record.message == "internal_error"
    assert record.exc_info is not None
    assert record.exc_text is None or "a bug" in record.exc_text
    assert "ZeroDivisionError: a bug" in caplog.text
    assert "in unexpected" in caplog.text, "with the place"


def test_the_cause_of_an_upstream_failure_is_logged_but_not_for_every_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_seldom", Seldom(3600.0))
    for _ in range(5):
        error = PredictorUnavailable("not reached")
        error.__cause__ = OSError("connection refused")
        assert as_saccade_error(error) is error
    with caplog.at_level(logging.ERROR):
        as_saccade_error(PredictorUnavailable("without a cause"))
    [record] = caplog.records
    assert record.__dict__["cause"] == "OSError('connection refused')"
