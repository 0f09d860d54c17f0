"""Whether an answer is right: the tensors that were promised, plausible detections, not the status code alone.

Each check takes an answer's body and what was asked, and returns what the answer says, or raises ``WrongAnswer`` with
what is wrong: an answer of another model, or out of a cache that was to be bypassed, is no right one. Pure. Knows the
shapes of the transformer's answers and of the predictor's ``candidates`` (DESIGN section 2); of other models it checks
that the outputs are the promised ones and hold numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from saccade_loadtest.sending.oip_wire import Answer, WrongAnswer, decode_binary, decode_json

#: Boxes are rounded and may lie this far outside, in pixels.
_SLACK: Final = 1.0
_JSON_BYTES: Final = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)
_OUTPUTS: Final = frozenset(("num_detections", "boxes", "scores", "class_ids", "labels", "cache"))
#: Outcomes that can be, by what was asked of the cache (docs/cache.md).
_OUTCOMES: Final = {
    "use": frozenset(("miss", "exact", "near", "coalesced")),
    "bypass": frozenset(("bypass",)),
    "refresh": frozenset(("miss",)),
}
_KNOWN: Final = frozenset.union(*_OUTCOMES.values())
_NO_BOXES: Final[NDArray[np.float32]] = np.zeros((0, 4), np.float32)


class Asked(NamedTuple):
    """What an answer must be to.

    Attributes:
        model: its name.
        cache: "use", "bypass" or "refresh".
        service: "transformer", whose answers always name a version, or "predictor", where V2 lets it be left out.
    """

    model: str
    cache: str = "use"
    service: str = "transformer"


class Seen(NamedTuple):
    """What a right answer says.

    Attributes:
        version: of the model that answered.
        cache: outcome of the frame cache; empty where there is none.
        boxes: [n, 4] pixels, best score first; None of a model that is not a detector.
        classes: [n] class ids.
        scores: [n], 0 to 1.
    """

    version: str = ""
    cache: str = ""
    boxes: NDArray[np.float32] | None = None
    classes: NDArray[np.int32] | None = None
    scores: NDArray[np.float32] | None = None


def check_detect(body: bytes, width: int, height: int, asked: Asked) -> Seen:
    """An answer of ``POST /detect``."""
    return _check_object(_parsed(body), width, height, asked)


def check_v1(body: bytes, width: int, height: int, asked: Asked) -> Seen:
    """A v1 answer about one picture."""
    content = _parsed(body)
    predictions = content.get("predictions")
    if not isinstance(predictions, list) or len(predictions) != 1:
        raise WrongAnswer("not one prediction for one picture")
    return _check_object(predictions[0], width, height, asked)


def read_v2(head: bytes, body: bytes) -> Answer:
    """A V2 answer over REST, in the form that its head says."""
    found = _JSON_BYTES.search(head)
    if found is None:
        _parsed(body)
        return decode_json(body)
    size = int(found[1])
    if size > len(body):
        raise WrongAnswer(f"its JSON shall have {size} bytes, the whole body has {len(body)}")
    try:
        return decode_binary(body, size)
    except orjson.JSONDecodeError as error:
        raise WrongAnswer(f"its JSON cannot be read: {error}") from error


def check_pictures(answer: Answer, width: int, height: int, asked: Asked) -> Seen:
    """The transformer's V2 answer about one picture."""
    _check_model(answer.model, answer.version, asked)
    outputs = answer.outputs
    if missing := _OUTPUTS - outputs.keys():
        raise WrongAnswer(f"no output {', '.join(sorted(missing))}")
    try:
        count = int(outputs["num_detections"][0])
        boxes, scores, classes = (outputs[name][0] for name in ("boxes", "scores", "class_ids"))
        labels = outputs["labels"]
        if not (len(boxes) == len(scores) == len(classes) == len(labels)) or not 0 <= count <= len(boxes):
            raise WrongAnswer(f"{count} detections in outputs of {len(boxes)} rows, {len(labels)} labels")
        cache = outputs["cache"][0].decode()
    except (IndexError, TypeError, AttributeError) as error:
        raise WrongAnswer(f"outputs of other shapes: {error!r}") from error
    boxes, scores, classes = boxes[:count], scores[:count], classes[:count]
    if any(not label for label in labels[:count]):
        raise WrongAnswer("a detection without a label")
    _check_boxes(boxes, scores, width, height)
    return Seen(answer.version, _outcome(cache, asked), boxes, classes, scores)


def check_tensors(answer: Answer, names: Collection[str], asked: Asked) -> Seen:
    """A predictor's V2 answer: the outputs of its metadata, with numbers in them; candidates as DESIGN has them."""
    _check_model(answer.model, answer.version, asked)
    if missing := set(names) - answer.outputs.keys():
        raise WrongAnswer(f"no output {', '.join(sorted(missing))}")
    for name, output in answer.outputs.items():
        if not isinstance(output, list) and output.dtype.kind == "f" and not np.isfinite(output).all():
            raise WrongAnswer(f"output {name!r} holds values that are no finite numbers")
    candidates = answer.outputs.get("candidates")
    if candidates is not None:
        if candidates.ndim != 3 or candidates.shape[0] != 1 or candidates.shape[2] != 6:
            raise WrongAnswer(f"candidates of shape {list(candidates.shape)}; expected [1, K, 6]")
        scores = candidates[0, :, 4]
        if len(scores) and (scores[-1] < 0 or scores[0] > 1 or (np.diff(scores) > 0).any()):
            raise WrongAnswer("candidates whose scores are not in order, or not from 0 to 1")
    return Seen(answer.version)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise WrongAnswer(f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise WrongAnswer(f"JSON, but a {type(content).__name__}")
    return content


def _check_object(content: Mapping[str, Any], width: int, height: int, asked: Asked) -> Seen:
    try:
        detections, image, model = content["detections"], content["image"], content["model"]
        if (image["width"], image["height"]) != (width, height):
            raise WrongAnswer(f"about a picture of {image['width']} x {image['height']}, not {width} x {height}")
        boxes = np.array([one["box"] for one in detections], np.float32) if detections else _NO_BOXES
        scores = np.array([one["score"] for one in detections], np.float32)
        classes = np.array([one["class_id"] for one in detections], np.int32)
        if not all(one["label"] for one in detections):
            raise WrongAnswer("a detection without a label")
        if boxes.shape != (len(detections), 4):
            raise WrongAnswer(f"boxes of shape {list(boxes.shape)}")
        name, version, cache = model["name"], model["version"], content["cache"]
    except (KeyError, TypeError, ValueError) as error:
        raise WrongAnswer(f"not the object of detections: {error!r}") from error
    _check_model(name, version, asked)
    _check_boxes(boxes, scores, width, height)
    return Seen(version, _outcome(cache, asked), boxes, classes, scores)


def _check_model(name: object, version: object, asked: Asked) -> None:
    if name != asked.model:
        raise WrongAnswer(f"model {asked.model!r} was asked, and {name!r} has answered")
    if not isinstance(version, str):
        raise WrongAnswer(f"the model's version is {version!r}; expected a text")
    if not version and asked.service == "transformer":
        raise WrongAnswer(f"model {asked.model!r} has answered without its version")


def _check_boxes(boxes: NDArray[Any], scores: NDArray[Any], width: int, height: int) -> None:
    right, bottom = width + _SLACK, height + _SLACK
    # Plain numbers: for the few boxes of an answer faster than NumPy. NaN fails every comparison.
    for x1, y1, x2, y2 in boxes.tolist():
        if not (-_SLACK <= x1 <= x2 <= right and -_SLACK <= y1 <= y2 <= bottom):
            raise WrongAnswer(f"the box [{x1}, {y1}, {x2}, {y2}] does not lie in the picture of {width} x {height}")
    before = 1.0
    for score in scores.tolist():
        if not 0 <= score <= before:
            raise WrongAnswer("scores that are not in order, or not from 0 to 1")
        before = score


def _outcome(cache: object, asked: Asked) -> str:
    right = _OUTCOMES[asked.cache]
    if cache in right:
        return str(cache)
    if cache not in _KNOWN:
        raise WrongAnswer(f"the cache outcome {cache!r} is not known")
    raise WrongAnswer(
        f"cache={asked.cache} was asked, and the outcome is {cache!r}; expected {' or '.join(sorted(right))}"
    )
