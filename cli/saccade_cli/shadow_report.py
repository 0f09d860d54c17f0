"""``saccade shadow-report``: reads the frames that a transformer's shadow kept, and says what they have in common.

Reads the directory and changes nothing in it; it may do so while the transformer writes.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import orjson
from numpy.typing import NDArray

from saccade_cli.terminal import printable
from saccade_transformers.image.decode import ImageLimits, decode, encode_jpeg
from saccade_transformers.shadow.store import FILE, IMAGE_NAME, IMAGES, MAX_FILE_BYTES, read_regular
from saccade_transformers.tasks.detection import Detections, DetectionTask
from saccade_transformers.tasks.matching import match

#: Pixels of frame between the two pictures.
_GAP: Final = 8
#: What is read of somebody's disk: the largest that a transformer can be told to take.
_LIMITS: Final = ImageLimits(2**30, 2**30)
_MAX_IMAGE_BYTES: Final = 64 * 2**20
#: What a frame's numbers may come to: pixels, classes, and counts of objects.
_MAX_PIXEL: Final = 1e6
_MAX_CLASS: Final = 2**16 - 1
_MAX_DIFFERENCE: Final = 1e9
#: Of a frame's differences, those that are counts of objects.
_SUMS: Final = ("matched", "class_changes", "only_in_a", "only_in_b")


class ReportFailed(Exception):
    """There is nothing to report on; the message tells a person why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that was kept.

    Attributes:
        time: when it was compared, ISO 8601, UTC.
        request_id: of the request.
        camera: digest of the camera's name, empty for none.
        agreement: 0..1.
        differences: see ``Task.differences``; a is what was served, b the candidate's.
        served: the answer that was given.
        candidate: the candidate's.
        versions: of the two models.
        image: path of the image within the directory as it stands in the line, empty where none was kept.
    """

    time: str
    request_id: str
    camera: str
    agreement: float
    differences: Mapping[str, float]
    served: list[dict[str, Any]]
    candidate: list[dict[str, Any]]
    versions: tuple[str, str]
    image: str


def read_frames(directory: Path) -> list[Frame]:
    """Read all frames, the least agreement first.

    Raises:
        ReportFailed: there is no such file, or a line is not one of ours.
    """
    path = directory / FILE
    try:
        lines = read_regular(path, MAX_FILE_BYTES).splitlines()
    except OSError as error:
        raise ReportFailed(f"{path}: {error.strerror}; expected the directory of SHADOW_DIR") from error
    frames = []
    for number, line in enumerate(lines, 1):
        try:
            frames.append(_frame(orjson.loads(line)))
        except ValueError as error:
            raise ReportFailed(f"{path}, line {number} is not a frame: {printable(str(error))}") from error
    return sorted(frames, key=lambda frame: frame.agreement)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Where the two answers for a frame differ, object by object.

    Attributes:
        missed: served, and not found by the candidate.
        alone: found by the candidate, and not served.
        changed: at the same place with different classes: served, candidate.
    """

    missed: list[dict[str, Any]]
    alone: list[dict[str, Any]]
    changed: list[tuple[dict[str, Any], dict[str, Any]]]

    @classmethod
    def of(cls, frame: Frame) -> Contrast:
        """Match the two answers as the shadow did."""
        a, b = _detections(frame.served), _detections(frame.candidate)
        same, changed = match(a.boxes, a.class_ids, b.boxes, b.class_ids)
        left, right = ({pair[i] for pair in same + changed} for i in (0, 1))
        return cls(
            [one for i, one in enumerate(frame.served) if i not in left],
            [one for i, one in enumerate(frame.candidate) if i not in right],
            [(frame.served[pair.a], frame.candidate[pair.b]) for pair in changed],
        )


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How the answers of all frames differ in one class, in objects.

    Attributes:
        served: in the answers that were given.
        missed: of these, not found by the candidate, or taken for another class.
        found_alone: by the candidate, and not served, or served as another class.
    """

    label: str
    served: int
    missed: int
    found_alone: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What all frames have in common.

    Attributes:
        frames: how many.
        first: time of the earliest; empty without any.
        last: likewise.
        served_versions: of the model that serves.
        candidate_versions: of the candidate.
        objects: sums of the counts of ``Task.differences``.
        classes: the ones that the answers differ in most stand first.
    """

    frames: int
    first: str
    last: str
    served_versions: list[str]
    candidate_versions: list[str]
    objects: dict[str, int]
    classes: list[ClassCount]


def summarise(frames: Sequence[Frame]) -> Summary:
    """Sum up all frames."""
    times = [frame.time for frame in frames]
    served, candidate = (sorted({frame.versions[i] for frame in frames}) for i in (0, 1))
    objects = {name: round(sum(frame.differences.get(name, 0) for frame in frames)) for name in _SUMS}
    first, last = min(times, default=""), max(times, default="")
    return Summary(len(frames), first, last, served, candidate, objects, _classes(frames))


def _classes(frames: Sequence[Frame]) -> list[ClassCount]:
    counts: dict[str, Counter[str]] = {}
    for frame in frames:
        found = Contrast.of(frame)
        for name, objects in (
            ("served", frame.served),
            ("missed", [*found.missed, *(served for served, _ in found.changed)]),
            ("alone", [*found.alone, *(candidate for _, candidate in found.changed)]),
        ):
            for one in objects:
                counts.setdefault(str(one["label"]), Counter())[name] += 1
    found_counts = [ClassCount(label, c["served"], c["missed"], c["alone"]) for label, c in counts.items()]
    return sorted(found_counts, key=lambda one: (-one.missed - one.found_alone, one.label))


def save_pairs(directory: Path, frames: Sequence[Frame], save: Path, note: Callable[[str], None]) -> int:
    """Write both answers of every frame that has an image; returns how many. ``note`` is told what cannot be drawn."""
    save.mkdir(parents=True, exist_ok=True)
    saved = 0
    for number, frame in enumerate(frames, 1):
        if not frame.image:
            continue
        try:
            picture = draw(directory, frame)
            (save / f"{number:03d}-{Path(frame.image).stem}.jpg").write_bytes(picture)
            saved += 1
        except ReportFailed as error:
            note(str(error))
    if not saved:
        note("no frame has an image that can be drawn: the transformer's SHADOW_IMAGES keeps them")
    return saved


def draw(directory: Path, frame: Frame) -> bytes:
    """Draw what was served and, to its right, what the candidate found; returns a JPEG.

    Raises:
        ReportFailed: the image is not there or no image.
    """
    try:
        picture = decode(_read_image(directory, frame.image), _LIMITS)
    except Exception as error:
        raise ReportFailed(printable(f"{directory / frame.image}: {error}")) from error
    gap = np.full((picture.shape[0], _GAP, 3), 255, np.uint8)
    drawn = [_draw(picture, answer) for answer in (frame.served, frame.candidate)]
    return encode_jpeg(cv2.hconcat([drawn[0], gap, drawn[1]]).astype(np.uint8))


def _read_image(directory: Path, image: str) -> bytes:
    """Read an image that a store wrote there; nothing else that a line may name."""
    folder, _, name = image.partition("/")
    if folder != IMAGES or not IMAGE_NAME.fullmatch(name):
        raise ValueError(f"no image of a shadow; expected {IMAGES}/ and 16 hexadecimal digits")
    opened = os.open(directory / IMAGES, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return read_regular(Path(name), _MAX_IMAGE_BYTES, opened)
    finally:
        os.close(opened)


def _draw(picture: NDArray[np.uint8], answer: list[dict[str, Any]]) -> NDArray[np.uint8]:
    names = {int(one["class_id"]): str(one["label"]) for one in answer}
    labels = [names.get(class_id, "") for class_id in range(max(names, default=-1) + 1)]
    return DetectionTask(labels, 1, 0.0, 0.0, 0.5, 1).draw(picture, _detections(answer))


def _detections(answer: list[dict[str, Any]]) -> Detections:
    return Detections(
        np.array([one["box"] for one in answer], np.float32).reshape(-1, 4),
        np.array([one["score"] for one in answer], np.float32),
        np.array([one["class_id"] for one in answer], np.int32),
    )


def _frame(content: Any) -> Frame:
    """A line's frame.

    Raises:
        ValueError: it is none; the message says what is expected.
    """
    served, candidate = (_object(content, name) for name in ("served", "candidate"))
    differences = _object(content, "differences")
    return Frame(
        _text(content, "time"),
        _text(content, "request_id"),
        _text(content, "camera"),
        _number(content, "agreement", 1.0),
        {name: _number(differences, name, _MAX_DIFFERENCE) for name in differences},
        _answer(served),
        _answer(candidate),
        (_text(served, "version"), _text(candidate, "version")),
        "" if content.get("image") is None else _text(content, "image"),
    )


def _answer(side: dict[str, Any]) -> list[dict[str, Any]]:
    answer = side.get("answer")
    if not isinstance(answer, list):
        raise ValueError("'answer' is missing or no list")
    for one in answer:
        box = one.get("box") if isinstance(one, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value, _MAX_PIXEL) for value in box):
            raise ValueError("'box' is missing or not four numbers of pixels")
        class_id = one.get("class_id")
        if type(class_id) is not int or not 0 <= class_id <= _MAX_CLASS:
            raise ValueError(f"'class_id' is missing or no whole number of 0 to {_MAX_CLASS}")
        _number(one, "score", _MAX_PIXEL)
        _text(one, "label")
    return answer


def _object(content: Any, name: str) -> dict[str, Any]:
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} is missing or no object")
    return value


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is missing or no text")
    return value


def _number(content: dict[str, Any], name: str, most: float) -> float:
    value = content.get(name)
    if not _is_number(value, most):
        raise ValueError(f"{name!r} is missing or no number of at most {most:g}")
    return float(value)  # type: ignore[arg-type]


def _is_number(value: Any, most: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= most
