"""Text of others on somebody's terminal: what files hold may not move the cursor, colour, or name a window."""

from __future__ import annotations

from typing import Final

from rich.markup import escape

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text with every character replaced that a terminal may take for more than a sign; a space stays."""
    return text if text.isprintable() else "".join(one if one.isprintable() else _REPLACEMENT for one in text)


def literal(text: str) -> str:
    """``printable``, and nothing in it is markup."""
    return escape(printable(text))
