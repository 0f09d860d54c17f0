"""Pieces of HTML that reports are made of: tables, facts, marks. Cells are HTML already, escaped by the caller."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Final

from saccade_loadtest.judging.finding import Outcome

#: Outcomes are told by a sign and a word, not by colour alone.
_SIGNS: Final[dict[Outcome, str]] = {"pass": "✓", "fail": "✗", "invalid": "?"}


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int] = (), caption: str = ""
) -> str:
    """A table that scrolls where it is too wide.

    Args:
        heads: plain text.
        rows: of HTML cells, the first of each a header of its row.
        numbers: columns that are set to the right.
        caption: plain text.
    """

    def cell(column: int, content: str) -> str:
        tag, scope = ("th", ' scope="row"') if column == 0 else ("td", "")
        style = ' class="number"' if column in numbers else ""
        return f"<{tag}{scope}{style}>{content}</{tag}>"

    head = "".join(
        f'<th scope="col"{" class=" + chr(34) + "number" + chr(34) if at in numbers else ""}>{escape(name)}</th>'
        for at, name in enumerate(heads)
    )
    body = "".join(f"<tr>{''.join(cell(at, content) for at, content in enumerate(row))}</tr>" for row in rows)
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="card scroll"><table>{told}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body or f'<tr><td colspan={len(heads)}>none</td></tr>'}</tbody></table></div>"
    )


def facts(shown: Mapping[str, str]) -> str:
    """A few figures with their names, large."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in shown.items())
    return f'<dl class="facts">{items}</dl>'


def mark(outcome: Outcome, word: str) -> str:
    """A word with the sign and colour of an outcome."""
    return f'<span class="mark {outcome}">{_SIGNS[outcome]} {escape(word)}</span>'
