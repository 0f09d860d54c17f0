"""How the commands of ``saccade-build`` end badly: one line on standard error, and an exit code."""

from __future__ import annotations

from typing import Final, NoReturn

import typer

#: Exit codes: the files or options cannot be used as given; the model cannot be converted, or does not pass.
USAGE: Final = 2
MODEL: Final = 1


def fail(sentence: str, code: int) -> NoReturn:
    """Say why, and end the command."""
    typer.echo(f"Error: {sentence}", err=True)
    raise typer.Exit(code)


def reason(error: OSError) -> str:
    """The system's own words for what went wrong with a file."""
    return error.strerror or type(error).__name__
