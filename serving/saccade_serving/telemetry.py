"""Structured logs: an event name and numbers, one line each. Never payloads, tokens or image bytes."""

from __future__ import annotations

import logging
import sys

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
