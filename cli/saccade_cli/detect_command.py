"""How ``saccade detect`` goes through files and directories, and shows what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table

from saccade_cli.detect import DetectFailed, detect, summary
from saccade_cli.terminal import complain, literal, note
from saccade_serving.client import RestClient
from saccade_serving.errors import InvalidImage, UnsupportedMedia
from saccade_transformers.image.header import ACCEPTED, read_header

#: Bytes of a file that tell whether it is an image.
_HEAD_BYTES: Final = 512
#: Names of skipped files that are listed.
_LISTED: Final = 10


def images_of(paths: Sequence[Path]) -> list[Path]:
    """Put the images of each directory, in the order of their names, in its place; files stay as they are.

    Only the directory itself is looked through. What is no image there is named on stderr and skipped.

    Raises:
        DetectFailed: a directory holds no image.
        OSError: it cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(path.iterdir())
        images = [one for one in inside if _is_image(one)]
        if not images:
            raise DetectFailed(f"{path} holds no image among {len(inside)} files; {ACCEPTED}")
        if skipped := [one.name for one in inside if one not in set(images)]:
            more = f" and {len(skipped) - _LISTED} more" if len(skipped) > _LISTED else ""
            note(f"{path}: skipped what is no image: {', '.join(skipped[:_LISTED])}{more}")
        found += images
    return found


async def run(
    images: Sequence[Path],
    url: str,
    save: Path | None,
    as_json: bool,
    threshold: float | None,
    timeout_s: float,
    console: Console,
) -> bool:
    """Ask about all of them, one after the other, and show the answers; returns whether any failed.

    Args:
        images: files.
        url: of the transformer.
        save: directory for pictures with boxes; None for none.
        as_json: print a JSON object for each picture instead of a table.
        threshold: least score; None for the server's.
        timeout_s: for each answer.
        console: that a table is printed to.
    """
    client = RestClient(url)
    failed = 0
    table = Table("picture", "detections", "cache")
    for column in table.columns:
        column.overflow = "fold"  # a narrow terminal gets more lines, never less text
    try:
        for path in images:
            try:
                found = await detect(client, url.rstrip("/"), path, threshold, save is not None, timeout_s)
            except DetectFailed as error:
                failed += 1
                complain(str(error))
                continue
            _save(save, path, found.picture)
            if as_json:
                print(orjson.dumps({"file": str(path), **found.answer}).decode())
            else:
                answer = found.answer
                table.add_row(literal(path.name), literal(summary(answer["detections"])), literal(answer["cache"]))
    finally:
        await client.close()
    if table.row_count:
        console.print(table)
    answered = len(images) - failed
    if save is not None and answered and not as_json:
        console.print(f"Pictures with boxes: {save}/", highlight=False, soft_wrap=True, markup=False)
    if failed and answered:
        note(f"{failed} of {len(images)} pictures failed; the others were answered")
    return failed > 0


def _is_image(path: Path) -> bool:
    """Whether a file begins as one of the formats that are served; what cannot be read is for ``detect`` to name."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        read_header(head)
    except InvalidImage:
        return bool(head)  # cut off here, or damaged: the server says so
    except UnsupportedMedia:
        return False
    except OSError:
        return True
    return True


def _save(directory: Path | None, path: Path, picture: bytes | None) -> None:
    if directory is not None and picture is not None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{path.stem}-{path.suffix.lstrip('.')}.jpg").write_bytes(picture)
