"""Text of others on somebody's terminal: what files hold may not move the cursor, colour, or name a window.

Also says what goes to stderr: notes and errors.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape

errors = Console(stderr=True)

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text with every character replaced that a terminal may take for more than a sign; a space stays."""
    return text if text.isprintable() else "".join(one if one.isprintable() else _REPLACEMENT for one in text)


def literal(text: str) -> str:
    """``printable``, and nothing in it is markup."""
    return escape(printable(text))


def note(message: str) -> None:
    """Say something that is not the command's result, on stderr."""
    errors.print(_lines(message), highlight=False, soft_wrap=True, markup=False)


def complain(message: str) -> None:
    """Say what went wrong, on stderr."""
    errors.print(f"[red]error:[/red] {escape(_lines(message))}", highlight=False, soft_wrap=True)


def _lines(message: str) -> str:
    """A message of ours, which may have several lines, with names in it that are not."""
    return "\n".join(map(printable, message.split("\n")))
