"""A candidate's share that stands in a file: what may stand there, and that a change of it is followed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from saccade_transformers.share_file import follow_share, read_share


@pytest.mark.parametrize(("text", "share"), [("0", 0.0), ("0.1\n", 0.1), (" 1 ", 1.0), ("5e-2", 0.05), ("0.25", 0.25)])
def test_a_share_is_a_number_from_0_to_1(tmp_path: Path, text: str, share: float) -> None:
    (tmp_path / "share").write_text(text)
    assert read_share(tmp_path / "share") == share


@pytest.mark.parametrize("text", ["", "ten", "10", "-0.1", "nan", "inf", "10%", "0.1 0.2", "0." + "1" * 100, "\xff"])
def test_anything_else_is_refused_with_what_was_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "share").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"share holds .*; expected the candidate's share, a number from 0 to 1"):
        read_share(tmp_path / "share")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"share cannot be read: No such file or directory"):
        read_share(tmp_path / "share")


def looks(steps: list[Callable[[], object]]) -> Callable[[float], Awaitable[None]]:
    """A pause that takes the next step before the next look, and ends the looking after the last."""
    left = iter(steps)

    async def pause(_: float) -> None:
        step = next(left, None)
        if step is None:
            raise asyncio.CancelledError
        step()

    return pause


async def followed(path: Path, *steps: Callable[[], object]) -> list[float]:
    told: list[float] = []
    with pytest.raises(asyncio.CancelledError):
        await follow_share(path, told.append, looks(list(steps)))
    return told


async def test_changes_are_followed_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "share"
    path.write_text("0")
    told = await followed(path, lambda: path.write_text("0.05"), lambda: path.write_text("0.25"))
    assert told == [0.0, 0.05, 0.25]


async def test_a_config_map_is_followed_which_swaps_a_link(tmp_path: Path) -> None:
    for name, text in (("..1", "0.1"), ("..2", "0.5")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "share").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "share").symlink_to("..data/share")

    def swap() -> None:
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").rename(tmp_path / "..data")

    assert await followed(tmp_path / "share", swap) == [0.1, 0.5]


async def test_what_is_no_share_changes_nothing_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "share"
    path.write_text("0.1")
    told = await followed(
        path, lambda: path.write_text("most"), lambda: None, path.unlink, lambda: path.write_text("0.2")
    )
    assert told == [0.1, 0.2]
    said = [record.__dict__["why"] for record in caplog.records]
    assert len(said) == 2
    assert re.search("holds 'most'", said[0])
    assert "cannot be read" in said[1]
