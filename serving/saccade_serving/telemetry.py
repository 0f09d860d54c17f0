"""Structured logs: an event name and numbers, one line each. Never payloads, tokens or image bytes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

#: Loggers of libraries that write a line per request at level INFO.
CHATTY = ("uvicorn.access", "kserve", "kserve.trace", "httpx")


class TextFormatter(logging.Formatter):
    """``time level logger event key=value ...`` for people."""

    _STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        """Append the event's fields to the plain line."""
        line = super().format(record)
        fields = {k: v for k, v in record.__dict__.items() if k not in self._STANDARD}
        return line + "".join(f" {key}={value}" for key, value in fields.items())


class Seldom:
    """Lets one of many equal events through now and then.

    Args:
        interval_s: least time between two events of one kind.
        clock: seconds, monotonic.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._next: dict[str, float] = {}

    def due(self, kind: str) -> bool:
        """Whether an event of this kind may pass now. Kinds are few and come from the code."""
        now = self._clock()
        if now < self._next.get(kind, now):
            return False
        self._next[kind] = now + self._interval_s
        return True


def configure_logging(level: str, log_format: str) -> None:
    """Send all logs of the process to stderr. Replaces handlers set before."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                reserved_attrs=[*RESERVED_ATTRS, "color_message"],
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "message": "event"},
            )
        )
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
