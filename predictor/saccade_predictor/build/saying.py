"""How the commands of ``saccade-build`` end badly: one line on standard error, and an exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

import typer

#: Exit codes: the files or options cannot be used as given; the model cannot be converted, or does not pass.
USAGE: Final = 2
MODEL: Final = 1
#: As a shell reports a process that was ended by SIGINT or SIGTERM.
INTERRUPTED: Final = 130
TERMINATED: Final = 143


def fail(sentence: str, code: int) -> NoReturn:
    """Say why, and end the command."""
    typer.echo(f"Error: {sentence}", err=True)
    raise typer.Exit(code)


def reason(error: OSError) -> str:
    """The system's own words for what went wrong with a file."""
    return error.strerror or type(error).__name__


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that nothing unfinished stays."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
