"""``saccade cache-report``: what the frame cache would do with a video, and how good its answers would be.

A running transformer is asked for every frame, past its cache, twice: once as it is and once with noise, which tells
how far even fresh answers agree. Then the cache is replayed over the frames at several thresholds, and beside it the
plain perceptual hash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import cv2
import numpy as np
import orjson
from numpy.typing import NDArray

from saccade_serving.client import ConnectionFailed, RestClient
from saccade_transformers.cache.policy import Rules
from saccade_transformers.cache.replay import CacheReplay, PlainHashReplay, Seen, play, view
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.tasks.detection import Detections, DetectionTask

LEVELS: Final = (6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 32.0, 48.0)
BITS: Final = (0, 2, 4, 6, 8, 12)
#: Hits that a setting is judged by at least.
FEWEST_HITS: Final = 20

#: What is put on a frame to ask about it once more: a sensor's noise in grey levels (standard deviation), and so much
#: less quality of the JPEG.
_NOISE, _LESS_QUALITY = 2.0, 5
_TIMEOUT_S: Final = 60.0
_RETRIES: Final = 10
_MOST_FPS: Final = 1000.0
_LARGEST_JPEG_SIDE: Final = 65_500
_LIMITS: Final = ImageLimits(2**30, 2**30)

Policy: TypeAlias = Literal["cache", "plain hash"]
#: Told what is being done: a step, how much of it is done, and of how much.
Progress: TypeAlias = Callable[[str, int, int], None]


class CacheReportFailed(Exception):
    """There is no report; the message tells a person why."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting.

    Attributes:
        policy: the frame cache, or the plain perceptual hash.
        setting: grey levels, or bits.
        hits: share of the frames, 0..1.
        f1: of the hits with fresh answers for the same frames; None without a hit.
        worst: one hit in twenty is worse.
        judged: hits.
    """

    policy: Policy
    setting: float
    hits: float
    f1: float | None
    worst: float | None
    judged: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        video: its file name.
        frames: that were asked about.
        fps: of them.
        found: of these, in which something was found.
        floor: mean agreement of two fresh answers for one frame, one of them with noise, 0..1.
        aim: F1 that hits shall have.
        rules: the cache's, as they are set now.
        points: the cache at every threshold, then the plain hash.
    """

    video: str
    frames: int
    found: int
    fps: float
    floor: float
    aim: float
    rules: Rules
    points: Sequence[Point]

    @property
    def cached(self) -> list[Point]:
        """The cache's settings."""
        return [point for point in self.points if point.policy == "cache"]

    @property
    def good(self) -> list[Point]:
        """The cache's settings that reach the aim, if perhaps with few hits."""
        return [point for point in self.cached if point.f1 is not None and point.f1 >= self.aim]

    @property
    def recommended(self) -> Point | None:
        """The setting of the cache with the most hits that reaches the aim; None where none can be said to.

        Of several, it is the present one, else the strictest.
        """
        judged = [point for point in self.good if point.judged >= FEWEST_HITS] if self.found else []
        return max(judged, key=lambda point: (point.hits, self.is_set(point), -point.setting), default=None)

    def is_set(self, point: Point) -> bool:
        """Whether that is how the cache is set now."""
        return point.policy == "cache" and point.setting == self.rules.change_levels


class Video:
    """The frames of a video file.

    Args:
        path: of it.
        fps: frames per second that it was made at; None for what the file says.
        every: take each n-th frame.
        most: frames at most.
        max_pixels: of a frame.

    Raises:
        CacheReportFailed: it is no video, does not say how fast it is, or its frames are too large.
    """

    def __init__(self, path: Path, fps: float | None, every: int, most: int, max_pixels: int = 2**30) -> None:
        if path.is_dir():
            raise CacheReportFailed(f"{path} is a directory; expected a video file")
        if not path.exists():
            raise CacheReportFailed(f"{path} does not exist")
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise CacheReportFailed(f"{path} is no video that OpenCV can read")
        width, height = (
            round(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > max_pixels or max(width, height) > _LARGEST_JPEG_SIDE:
            raise CacheReportFailed(
                f"{path} has frames of {width}x{height}; expected at most {max_pixels} pixels "
                f"(SACCADE_TRANSFORMER_MAX_IMAGE_PIXELS) and sides of at most {_LARGEST_JPEG_SIDE}"
            )
        told = float(self._capture.get(cv2.CAP_PROP_FPS))
        if fps is None and not 0 < told <= _MOST_FPS:
            raise CacheReportFailed(f"{path} does not say how many frames it has per second; tell it with --fps")
        self.path = path
        self.fps = (told if fps is None else fps) / every
        self.most = most
        self._every = every

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """[h, w, 3] BGR, one after the other."""
        for index in range(self._every * self.most):
            if not self._capture.grab():
                return
            if index % self._every:
                continue
            ok, picture = self._capture.retrieve()
            if not ok:
                return
            yield np.asarray(picture, np.uint8)


async def watch(
    client: RestClient,
    video: Video,
    aim: float,
    rules: Rules | None = None,
    quality: int = 90,
    on_step: Progress = lambda step, done, of: None,
) -> Report:
    """Ask about all frames, and replay the cache over them.

    Args:
        client: of a transformer.
        video: what a camera saw.
        aim: F1 that hits shall have.
        rules: the cache's, as they are set now; None for the defaults.
        quality: of the JPEGs that frames are sent as, 1..100.
        on_step: told how far it is.

    Raises:
        CacheReportFailed: the video is too short, or the transformer does not answer.
    """
    rules = rules or Rules()
    side = await _input_size(client)
    task = DetectionTask([], 1, 0.0, 0.0, 0.5, 1)
    drawn = np.random.default_rng(1)
    frames: list[Seen] = []
    floor: list[float] = []
    for picture in video:
        on_step("asking about frame", len(frames) + 1, video.most)
        jpeg, again = await asyncio.to_thread(twice, picture, quality, drawn)
        answers = await asyncio.gather(_ask(client, jpeg), _ask(client, again))
        floor.append(task.agreement(*answers))
        frames.append(await asyncio.to_thread(_seen, jpeg, side, answers[0]))
    if len(frames) < 2:
        found = "one frame" if frames else "no frame"
        raise CacheReportFailed(f"{video.path} has {found} that could be read; expected at least 2")
    points: list[Point] = []
    tried = list(settings_of(rules))
    for policy, setting in tried:
        on_step("replaying the cache", len(points) + 1, len(tried))
        points.append(await asyncio.to_thread(replay, policy, setting, rules, frames, 1 / video.fps, task))
    with_any = sum(len(seen.answer) > 0 for seen in frames)
    return Report(video.path.name, len(frames), with_any, video.fps, fmean(floor), aim, rules, points)


def twice(picture: NDArray[np.uint8], quality: int, drawn: np.random.Generator) -> tuple[bytes, bytes]:
    """Make a frame as a camera sends it, and one that shows the same.

    Args:
        picture: [h, w, 3] BGR.
        quality: of the JPEG, 1..100.
        drawn: the noise of the other one.

    Returns:
        The JPEG, and another one with noise of its own and a little less quality.
    """
    noisy = np.clip(picture + drawn.normal(0, _NOISE, picture.shape), 0, 255).astype(np.uint8)
    return _encode(picture, quality), _encode(noisy, max(1, quality - _LESS_QUALITY))


def settings_of(rules: Rules) -> Iterator[tuple[Policy, float]]:
    """What is tried: every policy with its settings, that of ``rules`` among them."""
    for level in sorted({*LEVELS, rules.change_levels}):
        yield "cache", level
    for bits in BITS:
        yield "plain hash", bits


def replay(
    policy: Policy, setting: float, rules: Rules, frames: Sequence[Seen], interval_s: float, task: DetectionTask
) -> Point:
    """Find out how good a setting is.

    Args:
        policy: whose it is.
        setting: grey levels, or bits.
        rules: all else that the cache goes by.
        frames: with their fresh answers.
        interval_s: between two of them.
        task: says how far answers agree.
    """
    camera = (
        CacheReplay(replace(rules, change_levels=setting), task)
        if policy == "cache"
        else PlainHashReplay(round(setting))
    )
    quality = play(camera, frames, interval_s, task)
    return Point(policy, setting, quality.hits, quality.f1, quality.worst, len(quality.agreements))


def _encode(picture: NDArray[np.uint8], quality: int) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _seen(jpeg: bytes, side: tuple[int, int], answer: Detections) -> Seen:
    """The frame as the transformer sees it."""
    seen, _ = view(jpeg, side, _LIMITS)
    return Seen(seen, lambda: answer)


async def _input_size(client: RestClient) -> tuple[int, int]:
    """(width, height) of the model's input, as the transformer says."""
    index = await _call(lambda: client.call("POST", "/v2/repository/index", _TIMEOUT_S))
    try:
        name = quote(orjson.loads(index)[0]["name"], safe="")
        told = orjson.loads(await _call(lambda: client.call("GET", f"/v2/models/{name}", _TIMEOUT_S)))
        width, height = map(int, told["properties"]["saccade.input_size"].split("x"))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise CacheReportFailed("the server does not state its model's input; is it a Saccade transformer?") from None
    if not (1 <= width <= 8192 and 1 <= height <= 8192):
        raise CacheReportFailed(f"the server states an input of {width}x{height}")
    return width, height


async def _ask(client: RestClient, jpeg: bytes) -> Detections:
    """A fresh answer for a frame."""
    headers = {"content-type": "image/jpeg"}
    body = await _call(lambda: client.call("POST", "/detect?cache=bypass", _TIMEOUT_S, jpeg, headers))
    try:
        found = orjson.loads(body)["detections"]
        boxes = np.array([one["box"] for one in found], np.float32).reshape(len(found), 4)
        scores = np.array([one["score"] for one in found], np.float32)
        class_ids = np.array([one["class_id"] for one in found], np.int32)
        if np.isfinite(boxes).all() and np.isfinite(scores).all():
            return Detections(boxes, scores, class_ids)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError):
        pass
    raise CacheReportFailed("the answer is no list of detections; is it a Saccade transformer?")


async def _call(send: Callable[[], Awaitable[tuple[int, Any, bytes]]]) -> bytes:
    """Call until the server is no longer busy.

    Raises:
        CacheReportFailed: it does not answer, or refuses.
    """
    for attempt in range(_RETRIES):
        try:
            status, _, body = await send()
        except ConnectionFailed as error:
            raise CacheReportFailed(f"the transformer does not answer: {error}") from None
        except TimeoutError:
            raise CacheReportFailed(f"the transformer did not answer within {_TIMEOUT_S:g} s") from None
        if status == 200:
            return body
        if status != 503:
            break
        await asyncio.sleep(0.2 * (attempt + 1))
    try:
        why = str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        why = "is it a Saccade transformer?"
    raise CacheReportFailed(f"the transformer answered with HTTP {status}: {why}")
