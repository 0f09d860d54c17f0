"""Object detection: boxes with a score and a class.

A ready detector graph ends in one table per image, ``candidates`` FP32 [K, 6] = x1, y1, x2, y2 (input pixels),
score, class; best score first, unused rows 0. Here it becomes an answer: score threshold, class-aware
non-maximum suppression, the largest number wanted; then the boxes move into the image.

Does not call the predictor, and keeps nothing between requests.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from saccade_serving.errors import InvalidRequest
from saccade_serving.oip.messages import Parameters, Tensor, TensorMetadata
from saccade_transformers.image.letterbox import Letterbox
from saccade_transformers.tasks.matching import match
from saccade_transformers.tasks.task import ContractBroken, Options, number, whole

CANDIDATES: Final = "candidates"
#: Class ids above this are taken for a broken graph, not for a large vocabulary.
_MAX_CLASS_ID: Final = 65_535
#: No model's input is this large; keeps the sums within NMS exact whatever the graph answers. Pixels.
_FAR: Final = 1e5
#: A detection's bytes where it is packed: box, score, class.
_ROW_BYTES: Final = 24
#: Least score of a box in which movement is expected.
_SURE: Final = 0.3
#: Candidates over the threshold that are suppressed within 0.3 ms.
_LIGHT: Final = 100
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
#: Height of the font's capitals at scale 1, in pixels.
_FONT_HEIGHT: Final = 21.0
#: Smallest legible height of capitals, in pixels; a label that would need less is left out.
_LEAST_LETTER: Final = 6.0


@dataclass(frozen=True, slots=True)
class DetectionOptions(Options):
    """What a request may choose.

    Attributes:
        score_threshold: least score of a detection, min_score of the graph to 1.
        iou_threshold: of two boxes of one class that overlap more than this, the better one stays; above 0, at most 1.
        max_detections: the most detections per image, 1 to K.
    """

    score_threshold: float
    iou_threshold: float
    max_detections: int


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The detections in one image, best score first. The arrays are not to be changed.

    Attributes:
        boxes: float32 [m, 4] as x1, y1, x2, y2 in pixels.
        scores: float32 [m], 0..1.
        class_ids: int32 [m].
        full: the graph's table was full: there may have been more candidates.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]
    full: bool = False

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: NDArray[Any]) -> Detections:
        """Return the detections that an index or mask array names, in its order."""
        return Detections(self.boxes[which], self.scores[which], self.class_ids[which], self.full)


@dataclass(frozen=True, slots=True)
class DetectionTask:
    """The ``Task`` of a detector.

    Attributes:
        labels: class names, by class id.
        candidates: K, rows of the graph's table.
        min_score: the score under which the graph reports nothing, 0..1.
        score_threshold: default for requests, min_score..1.
        iou_threshold: default for requests, above 0 and at most 1.
        max_detections: default for requests, at least 1; K where it is larger.

    Raises:
        ValueError: a value is out of its range.
    """

    labels: Sequence[str]
    candidates: int
    min_score: float
    score_threshold: float
    iou_threshold: float
    max_detections: int

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.max_detections < 1:
            raise ValueError(
                f"candidates is {self.candidates}, max_detections {self.max_detections}; each must be at least 1"
            )
        if not 0 <= self.min_score <= self.score_threshold <= 1:
            raise ValueError(
                f"score_threshold is {self.score_threshold}; expected from the graph's min_score "
                f"({self.min_score}) to 1"
            )
        if not 0 < self.iou_threshold <= 1:
            raise ValueError(f"iou_threshold is {self.iou_threshold}; expected above 0 and at most 1")

    @property
    def reads(self) -> tuple[str, ...]:
        """The one tensor that ``read`` needs."""
        return (CANDIDATES,)

    def options(self, parameters: Parameters) -> DetectionOptions:
        """Validate ``score_threshold``, ``iou_threshold`` and ``max_detections``; see ``Task.options``."""
        score = number(parameters, "score_threshold", self.score_threshold, low=0, high=1)
        if score < self.min_score:
            raise InvalidRequest(
                f"parameter 'score_threshold' is {score:.9g}; the model reports nothing under {self.min_score:g}, "
                f"so expected a number from {self.min_score:g} to 1"
            )
        return DetectionOptions(
            score,
            number(parameters, "iou_threshold", self.iou_threshold, low=0, high=1, open_low=True),
            whole(
                parameters,
                "max_detections",
                min(self.max_detections, self.candidates),
                low=1,
                high=self.candidates,
            ),
        )

    def read(self, outputs: Mapping[str, NDArray[Any]], options: DetectionOptions) -> Detections:
        """Read ``candidates`` float32 [K, 6] of one image; see ``Task.read``. Boxes without area are dropped."""
        table = outputs.get(CANDIDATES)
        if table is None:
            listed = ", ".join(repr(name) for name in outputs) or "none"
            raise ContractBroken(f"the predictor's answer has no tensor {CANDIDATES!r}; it has {listed}")
        if table.dtype != np.float32 or table.shape != (self.candidates, 6):
            raise ContractBroken(
                f"tensor {CANDIDATES!r} is {table.dtype} {list(table.shape)}; expected float32 [{self.candidates}, 6]"
            )
        scores = table[:, 4]
        rows = table[(scores >= options.score_threshold) & (scores > 0)]
        classes = rows[:, 5]
        if not (np.isfinite(scores).all() and np.isfinite(rows).all()):
            raise ContractBroken(f"tensor {CANDIDATES!r} has values that are not finite")
        if len(rows) and not (classes.min() >= 0 and classes.max() <= _MAX_CLASS_ID):
            raise ContractBroken(f"tensor {CANDIDATES!r} has class ids outside 0 to {_MAX_CLASS_ID}")
        found = Detections(rows[:, :4], rows[:, 4], classes.astype(np.int32), bool(scores[-1] > 0))
        found = found.take(_has_area(found.boxes))
        return suppress(found, options.iou_threshold, options.max_detections)

    def to_image(self, answer: Detections, letterbox: Letterbox) -> Detections:
        """Move boxes into the image and clip them to it; those without area there are dropped."""
        boxes = letterbox.to_image(answer.boxes)
        return Detections(boxes, answer.scores, answer.class_ids, answer.full).take(_has_area(boxes))

    def count(self, answer: Detections) -> int:
        """How many boxes it has."""
        return len(answer)

    def nbytes(self, answer: Detections) -> int:
        """Its arrays."""
        return answer.boxes.nbytes + answer.scores.nbytes + answer.class_ids.nbytes

    def pack(self, answer: Detections) -> bytes:
        """A byte that says whether the table was full, then boxes, scores and classes; little-endian."""
        arrays = answer.boxes.astype("<f4"), answer.scores.astype("<f4"), answer.class_ids.astype("<i4")
        return bytes([answer.full]) + b"".join(array.tobytes() for array in arrays)

    def unpack(self, packed: bytes) -> Detections:
        """See ``Task.unpack``: also refuses what no detector answers."""
        count, rest = divmod(len(packed) - 1, _ROW_BYTES)
        if rest or not 0 <= count <= self.candidates or packed[0] > 1:
            raise ValueError(f"{len(packed)} bytes are no detections; expected 1 + {_ROW_BYTES} for each")
        boxes = np.frombuffer(packed, "<f4", 4 * count, 1).reshape(count, 4).astype(np.float32)
        scores = np.frombuffer(packed, "<f4", count, 1 + 16 * count).astype(np.float32)
        class_ids = np.frombuffer(packed, "<i4", count, 1 + 20 * count).astype(np.int32)
        good = np.isfinite(boxes).all(axis=1) & _has_area(boxes) & np.isfinite(scores) & (scores > 0)
        if not (good & (class_ids >= 0) & (class_ids <= _MAX_CLASS_ID)).all():
            raise ValueError("the values are no detections")
        return Detections(boxes, scores, class_ids, bool(packed[0]))

    def regions(self, answer: Detections) -> NDArray[np.float32]:
        """The boxes that are sure enough, whatever threshold was asked for."""
        return answer.boxes[answer.scores >= _SURE]

    def is_light(self, outputs: Mapping[str, NDArray[Any]], options: DetectionOptions) -> bool:
        """Whether few enough candidates reach the threshold: suppression compares each with each."""
        table = outputs.get(CANDIDATES)
        if table is None or table.ndim != 2 or table.shape[1] != 6:
            return True  # refused at once
        return int(np.count_nonzero(table[:, 4] >= options.score_threshold)) <= _LIGHT

    def is_full(self, answer: Detections) -> bool:
        """Whether the last row of the table was in use."""
        return answer.full

    def merge(self, kept: Detections, fresh: Detections, options: DetectionOptions) -> Detections:
        """Unite two answers: all boxes of both, class-aware NMS, at most ``max_detections``.

        Of two boxes for the same object the better score stays; of two equal scores the fresh one.
        """
        both = Detections(
            np.concatenate([fresh.boxes, kept.boxes]),
            np.concatenate([fresh.scores, kept.scores]),
            np.concatenate([fresh.class_ids, kept.class_ids]),
            kept.full or fresh.full,
        )
        return suppress(both, options.iou_threshold, options.max_detections)

    def agreement(self, a: Detections, b: Detections) -> float:
        """F1 of matching the boxes of one class at an IoU of at least 0.5, best overlap first; 1 if both are empty.

        Scores do not count. F1 = 2 matches / (boxes in a + boxes in b), so the order of a and b does not matter.
        """
        if not len(a) and not len(b):
            return 1.0
        return 2 * len(match(a.boxes, a.class_ids, b.boxes, b.class_ids)[0]) / (len(a) + len(b))

    def differences(self, a: Detections, b: Detections) -> dict[str, float]:
        """Match boxes as ``agreement`` does, then what is left over regardless of class; see ``Task.differences``.

        Returns:
            ``matched``: boxes of one class that both have; ``class_changes``; ``only_in_a`` and ``only_in_b``: boxes
            without a counterpart; ``iou``: the mean of all pairs, left out where there are boxes and none is paired;
            ``score_shift``: the mean of the pairs of one class, 0 where there is none; ``count_difference``.
        """
        same, changed = match(a.boxes, a.class_ids, b.boxes, b.class_ids)
        pairs = same + changed
        shifts = [float(b.scores[j]) - float(a.scores[i]) for i, j, _ in same]
        found: dict[str, float] = {
            "matched": len(same),
            "class_changes": len(changed),
            "only_in_a": len(a) - len(pairs),
            "only_in_b": len(b) - len(pairs),
            "score_shift": sum(shifts) / len(shifts) if shifts else 0.0,
            "count_difference": len(b) - len(a),
        }
        if pairs:
            found["iou"] = sum(iou for _, _, iou in pairs) / len(pairs)
        elif not len(a) and not len(b):
            found["iou"] = 1.0
        return found

    def draw(self, image: NDArray[np.uint8], answer: Detections) -> NDArray[np.uint8]:
        """Draw boxes with label and score; a class always has the same colour. See ``Task.draw``."""
        picture = np.array(image, order="C")
        height, width = picture.shape[:2]
        side = (height * width) ** 0.5
        line = max(1, round(side / 300))
        worst_first = range(len(answer) - 1, -1, -1)  # the best one ends up on top
        for i in worst_first:
            x1, y1, x2, y2 = (int(v) for v in np.rint(answer.boxes[i]))
            corner = (min(x2, width - 1), min(y2, height - 1))
            cv2.rectangle(picture, (x1, y1), corner, _BLACK, line + 2)  # an outline, for any background
            cv2.rectangle(picture, (x1, y1), corner, _colour(int(answer.class_ids[i])), line)
        for i in worst_first:
            class_id = int(answer.class_ids[i])
            text = f"{self._label(class_id)} {answer.scores[i]:.2f}"
            _write(picture, text, answer.boxes[i], _colour(class_id), max(10.0, side / 60), line)
        return picture

    def to_v1(self, answer: Detections) -> list[dict[str, Any]]:
        """Return ``{"box": [x1, y1, x2, y2], "score", "class_id", "label"}`` per detection; boxes to 0.01 pixels."""
        boxes = answer.boxes.astype(np.float64).round(2).tolist()
        scores = answer.scores.astype(np.float64).round(4).tolist()
        return [
            {"box": box, "score": score, "class_id": class_id, "label": self._label(class_id)}
            for box, score, class_id in zip(boxes, scores, answer.class_ids.tolist(), strict=True)
        ]

    def to_v2(self, answers: Sequence[Detections]) -> list[Tensor]:
        """Return the tensors of ``schema`` for n images; m is the largest count, the rest is 0 or empty."""
        n, m = len(answers), max((len(answer) for answer in answers), default=0)
        counts = np.array([len(answer) for answer in answers], np.int32)
        boxes = np.zeros((n, m, 4), np.float32)
        scores = np.zeros((n, m), np.float32)
        class_ids = np.zeros((n, m), np.int32)
        labels = [b""] * (n * m)
        for i, answer in enumerate(answers):
            k = len(answer)
            boxes[i, :k], scores[i, :k], class_ids[i, :k] = answer.boxes, answer.scores, answer.class_ids
            labels[i * m : i * m + k] = [self._label(c).encode() for c in answer.class_ids.tolist()]
        return [
            Tensor.of("num_detections", counts),
            Tensor.of("boxes", boxes),
            Tensor.of("scores", scores),
            Tensor.of("class_ids", class_ids),
            Tensor.of_bytes("labels", (n, m), labels),
        ]

    def schema(self) -> list[TensorMetadata]:
        """Return the V2 outputs: n images, m detections in the image that has most."""
        return [
            TensorMetadata("num_detections", "INT32", (-1,)),
            TensorMetadata("boxes", "FP32", (-1, -1, 4)),
            TensorMetadata("scores", "FP32", (-1, -1)),
            TensorMetadata("class_ids", "INT32", (-1, -1)),
            TensorMetadata("labels", "BYTES", (-1, -1)),
        ]

    def _label(self, class_id: int) -> str:
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else f"class_{class_id}"


def suppress(found: Detections, iou_threshold: float, limit: int) -> Detections:
    """Class-aware non-maximum suppression: of two boxes of one class that overlap more, the better one stays.

    Args:
        found: in any order; each box has an area. Among equal scores the earlier one counts as better.
        iou_threshold: above 0, at most 1.
        limit: the most detections to return.

    Returns:
        What stays, best score first.
    """
    if not len(found):
        return found
    boxes = np.minimum(np.maximum(found.boxes.astype(np.float64), -_FAR), _FAR)  # np.clip, for less
    # NMSBoxesBatched tells classes apart by shifting each one's boxes past the largest coordinate, which holds only
    # where no coordinate is negative. IoU does not change when all boxes move together.
    least = boxes[:, :2].min(axis=0)
    boxes[:, :2] -= least
    boxes[:, 2:] -= least
    boxes[:, 2:] -= boxes[:, :2]  # it wants x, y, width, height
    kept = cv2.dnn.NMSBoxesBatched(
        boxes,  # type: ignore[arg-type]  # its stub knows lists only; it takes arrays
        np.ascontiguousarray(found.scores),  # type: ignore[arg-type]
        np.ascontiguousarray(found.class_ids),  # type: ignore[arg-type]
        score_threshold=0.0,
        nms_threshold=iou_threshold,
    )
    return found.take(np.asarray(kept, np.intp)[:limit])


def _has_area(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _colour(class_id: int) -> tuple[int, int, int]:
    """A saturated colour per class; steps of the golden ratio keep neighbouring classes far apart."""
    hue = (0.35 + class_id * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.7 if class_id % 2 else 0.85, 0.8 if class_id % 3 == 2 else 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _write(
    picture: NDArray[np.uint8],
    text: str,
    box: NDArray[np.float32],
    colour: tuple[int, int, int],
    letter: float,
    line: int,
) -> None:
    """Write a label on its box's upper edge, or inside the box where there is no room above; never cut off."""
    height, width = picture.shape[:2]
    thickness = max(1, round(letter / 10))
    (text_width, _), _ = cv2.getTextSize(text, _FONT, letter / _FONT_HEIGHT, thickness)
    margin = max(2, round(letter / 4))
    room = width - 2 * margin
    if text_width > room:  # shrink to fit
        letter *= room / text_width
        if letter < _LEAST_LETTER:
            return
        thickness = max(1, round(letter / 10))
        (text_width, _), _ = cv2.getTextSize(text, _FONT, letter / _FONT_HEIGHT, thickness)
    tall = round(letter * 1.3) + 2 * margin  # letters have descenders
    left = max(0, min(round(float(box[0])) - line // 2, width - text_width - 2 * margin))
    top = round(float(box[1])) - tall
    if top < 0:
        top = max(0, round(float(box[1])))
    top = max(0, min(top, height - tall))
    cv2.rectangle(picture, (left, top), (left + text_width + 2 * margin - 1, top + tall - 1), colour, cv2.FILLED)
    red, green, blue = colour
    ink = _BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else _WHITE
    origin = (left + margin, top + margin + round(letter * 1.08))
    cv2.putText(picture, text, origin, _FONT, letter / _FONT_HEIGHT, ink, thickness, cv2.LINE_AA)
