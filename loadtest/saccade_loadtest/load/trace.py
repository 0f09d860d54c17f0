"""What cameras sent, or are to send: moments and frames, as a file that can be written by hand and is checked.

A trace is CSV with the header ``due_s,camera,scene,shot,light``. ``scene`` numbers what the picture shows, ``shot``
what the sensor's noise made of it: the same scene and shot of a camera are the same bytes, the same scene with another
shot looks the same and has other bytes, another scene is another picture. Holds no pictures: ``frames`` makes them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from saccade_loadtest.load.arrivals import LONGEST_S, BadSchedule, Phase

Light = Literal["day", "night"]
_COLUMNS: Final = ("due_s", "camera", "scene", "shot", "light")
#: A line of text is about 25 bytes: five hours of 100 cameras at 1 frame per second, in half a gigabyte of memory.
MOST_LINES: Final = 2_000_000
MOST_BYTES: Final = 64 * 2**20
#: Cameras, scenes and shots are four bytes of a frame's stamp.
_LARGEST: Final = 2**32 - 1
_MOST_DIGITS: Final = 10


class Shot(NamedTuple):
    """One frame of one camera.

    Attributes:
        due_s: seconds from the beginning of the run.
        camera: its number, from 0.
        scene: what the picture shows, from 0.
        shot: which picture of that scene, from 0.
        light: a picture by day or by night.
    """

    due_s: float
    camera: int = 0
    scene: int = 0
    shot: int = 0
    light: Light = "day"


class BadTrace(BadSchedule):
    """A trace that cannot be replayed; the sentence names the line, what it says and what is expected."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")


@dataclass(frozen=True)
class Trace:
    """A trace in memory.

    Attributes:
        shots: in the order of their moments.
        name: for reports.
    """

    shots: Sequence[Shot]
    name: str = "trace"

    @property
    def duration_s(self) -> float:
        """From the beginning to just behind the last frame; at least a second, of which a rate can be told."""
        return max(math.nextafter(self.shots[-1].due_s, math.inf), 1.0)

    @property
    def cameras(self) -> int:
        """How many cameras send."""
        return len({shot.camera for shot in self.shots})

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: the whole trace."""
        return (Phase(self.name, 0.0, self.duration_s, len(self.shots) / max(self.duration_s, 1.0)),)

    def share(self, index: int, count: int) -> Iterator[Shot]:
        """The frames of every ``count``-th camera, so that a camera's frames keep their order."""
        return (shot for shot in self.shots if shot.camera % count == index)


def read_trace(path: Path) -> Trace:
    """Read and check a trace.

    Raises:
        BadTrace: it cannot be replayed as it stands.
        OSError: it cannot be read.
    """
    return parse_trace(read_text(path).splitlines(), path.name)


def read_text(path: Path) -> str:
    """The text of a trace's file, unchecked.

    Raises:
        BadTrace: it is too large, or no text.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise BadTrace(path.name, f"over {MOST_BYTES // 2**20} MiB; split it into several runs")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTrace(path.name, f"it is no text in UTF-8 ({error}); expected CSV as {','.join(_COLUMNS)}") from error


def parse_trace(lines: Iterable[str], name: str) -> Trace:
    """Check the lines of a trace; see ``read_trace``."""
    try:
        return _parsed(csv.reader(lines), name)
    except csv.Error as error:
        raise BadTrace(name, f"it is no CSV: {error}; expected lines as {','.join(_COLUMNS)}") from error


def _parsed(rows: Iterator[list[str]], name: str) -> Trace:
    header = tuple(column.strip() for column in next(rows, []))
    if header[:2] != _COLUMNS[:2] or header != _COLUMNS[: len(header)]:
        expected = ",".join(_COLUMNS)
        raise BadTrace(
            f"{name}, line 1", f"the header is {','.join(header)[:80]!r}; expected {expected!r} or its beginning"
        )
    shots: list[Shot] = []
    before = 0.0
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if number > MOST_LINES:
            raise BadTrace(name, f"over {MOST_LINES:,} lines; split it into several runs")
        shot = _shot(row, len(header), f"{name}, line {number}")
        if shot.due_s < before:
            raise BadTrace(
                f"{name}, line {number}",
                f"due_s {shot.due_s:g} comes after {before:g}; moments must ascend (sort the file by due_s)",
            )
        before = shot.due_s
        shots.append(shot)
    if not shots:
        raise BadTrace(name, "no frame; expected a line for each one")
    return Trace(shots, name)


def write_trace(shots: Iterable[Shot]) -> str:
    """A trace as the text of a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((f"{shot.due_s:.6f}", *shot[1:]) for shot in shots)
    return text.getvalue()


def _shot(row: Sequence[str], columns: int, where: str) -> Shot:
    if len(row) != columns:
        raise BadTrace(where, f"{len(row)} values; expected {columns}, as in the header")
    try:
        due_s = float(row[0])
    except ValueError:
        raise BadTrace(where, f"due_s {row[0][:40]!r} is no number of seconds") from None
    if not 0 <= due_s <= LONGEST_S:
        raise BadTrace(
            where,
            f"due_s {row[0].strip()[:40]} cannot be; expected seconds from the beginning, at least 0 and at most "
            f"{LONGEST_S:.0f} (30 days)",
        )
    numbers = [_whole(value, column, where) for value, column in zip(row[1:4], _COLUMNS[1:4], strict=False)]
    light = row[4].strip() if columns > 4 else "day"
    if light not in ("day", "night"):
        raise BadTrace(where, f"light {light[:40]!r} is not known; expected day or night")
    camera, scene, shot = (*numbers, 0, 0, 0)[:3]
    return Shot(due_s, camera, scene, shot, "night" if light == "night" else "day")


def _whole(value: str, column: str, where: str) -> int:
    text = value.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) <= _LARGEST):
        raise BadTrace(where, f"{column} {text[:40]!r} is no whole number from 0 to {_LARGEST}")
    return int(text)
