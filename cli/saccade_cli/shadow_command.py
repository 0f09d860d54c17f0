"""How ``saccade shadow-report`` shows the frames that a shadow kept: tables, two sentences, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson
from rich.table import Table

from saccade_cli.detect import summary
from saccade_cli.shadow_report import ClassCount, Contrast, Frame, Summary
from saccade_cli.terminal import literal, printable

#: Classes in the table; JSON has all.
_CLASSES: Final = 10


def frames_table(frames: Sequence[Frame]) -> Table:
    """A row of a few lines for each frame: which one it is, and in what the candidate's answer differs.

    Lines and not columns: at 80 columns an id of 36 characters stays in one piece, and objects can be read.
    """
    table = Table("frame", "differences", show_lines=True)
    for column in table.columns:
        column.overflow = "fold"
    for frame in frames:
        found = Contrast.of(frame)
        changes = ", ".join(
            f"{a['label']} {a['score']:.2f} -> {b['label']} {b['score']:.2f}" for a, b in found.changed
        )
        camera = frame.camera and f"camera {frame.camera[:8]}"
        which = [f"agreement {frame.agreement:.2f}", frame.request_id, camera, Path(frame.image).name]
        differences = [
            f"{name}: {told}"
            for name, told in (
                ("missed", found.missed and summary(found.missed)),
                ("found alone", found.alone and summary(found.alone)),
                ("other class", changes),
            )
            if told
        ]
        lines = ("\n".join(literal(line) for line in cell if line) for cell in (which, differences or ["-"]))
        table.add_row(*lines)
    return table


def classes_table(classes: Sequence[ClassCount]) -> Table:
    """The ten classes that the answers differ in most."""
    table = Table("class, in all frames kept", "served", "missed", "found alone")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for one in classes[:_CLASSES]:
        table.add_row(literal(one.label), str(one.served), str(one.missed), str(one.found_alone))
    return table


def tell(found: Summary) -> str:
    """How many frames, of when, of which versions, in what way they differ."""
    versions, candidates = (", ".join(names) for names in (found.served_versions, found.candidate_versions))
    head = f"{found.frames} frames, {found.first} to {found.last}; version {versions} served, candidate {candidates}"
    sums = found.objects
    return (
        f"{printable(head)}\n"
        f"{sums['matched']} objects in both, {sums['class_changes']} with another class, "
        f"{sums['only_in_a']} missed by the candidate, {sums['only_in_b']} found by it alone"
    )


def write_json(found: Summary, listed: Sequence[Frame], path: Path) -> None:
    """Write it for a program to read: the fields of ``Summary``, and under ``worst`` the listed frames.

    Each of these has the fields of ``Frame`` and, object by object, those of ``Contrast``; of a pair in ``changed``
    the served one stands first.
    """
    worst = [{**asdict(frame), **asdict(Contrast.of(frame))} for frame in listed]
    content = {**asdict(found), "worst": worst}
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
