"""Logs are one line per event: JSON for machines, ``key=value`` for people."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from saccade_serving.telemetry import CHATTY, configure_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give the root logger its handlers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


def test_a_json_line_has_the_event_and_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    logging.getLogger("saccade.x").info("batch_done", extra={"size": 3, "wait_ms": 1.5, "model": "m"})
    [event] = logged(capsys)
    assert event.pop("time")
    assert event == {
        "level": "INFO",
        "logger": "saccade.x",
        "event": "batch_done",
        "size": 3,
        "wait_ms": 1.5,
        "model": "m",
    }


def test_a_json_line_stays_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    logging.getLogger("saccade.x").warning("odd", extra={"why": 'a\nb"\u2028\x00', "kind": ValueError})
    [event] = logged(capsys)
    assert event["why"] == 'a\nb"\u2028\x00'


def test_an_exception_is_in_the_same_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    try:
        raise ValueError("because")
    except ValueError as error:
        logging.getLogger("saccade.x").error("failed", exc_info=error)
    [event] = logged(capsys)
    assert "ValueError: because" in event["exc_info"]


def test_a_text_line_ends_in_the_events_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    logging.getLogger("saccade.x").info("batch_done", extra={"size": 3, "model": "m"})
    [line] = lines(capsys)
    assert line.endswith(" INFO saccade.x batch_done size=3 model=m")


def test_a_field_that_only_colours_a_terminal_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    for log_format in ("text", "json"):
        configure_logging("info", log_format)
        logging.getLogger("uvicorn.error").info("started", extra={"color_message": "\x1b[32mstarted"})
        [line] = lines(capsys)
        assert "color_message" not in line
        assert "started" in line


def test_the_level_is_the_least_severe_that_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "json")
    logging.getLogger("saccade.x").info("quiet")
    logging.getLogger("saccade.x").warning("loud")
    assert [event["event"] for event in logged(capsys)] == ["loud"]


def test_libraries_that_log_every_request_are_kept_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "json")
    for name in CHATTY:
        logging.getLogger(name).info("GET / 200")
    assert logged(capsys) == []


def test_configuring_twice_does_not_log_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "text")
    configure_logging("info", "json")
    logging.getLogger("saccade.x").info("once")
    assert len(logged(capsys)) == 1
