"""The replay of the cache over known frames: it answers as the transformer does, and says how well that was."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cache_support import SIDE, TASK, Bench, frame, numbered, scene
from saccade_transformers.cache.policy import Rules
from saccade_transformers.cache.replay import CacheReplay, PlainHashReplay, Quality, Seen, play, view
from saccade_transformers.image.decode import ImageLimits
from saccade_transformers.sources import Encoded
from saccade_transformers.tasks.detection import Detections

LIMITS = ImageLimits(2**30, 2**30)
NOTHING = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


def detections(box: tuple[float, ...], score: float = 1.0) -> Detections:
    return Detections(np.array([box], np.float32), np.array([score], np.float32), np.zeros(1, np.int32))


def noisy(picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    more = picture + np.random.default_rng(seed).normal(0, 2, picture.shape)
    return more.clip(0, 255).astype(np.uint8)


def seen(picture: NDArray[np.uint8], name: bytes, box: tuple[float, ...] = (100, 100, 120, 130)) -> Seen:
    png = cv2.imencode(".png", picture)[1].tobytes()
    taken, _ = view(png, (SIDE, SIDE), LIMITS)
    return Seen(replace(taken, digest=name), lambda: detections(box))


def street() -> Iterator[tuple[Encoded, float]]:
    """Frames and the seconds before each: a still scene, then a thing as bright as the limit is; a pause; a repeat."""
    drawn = np.random.default_rng(5)
    for index in range(50):
        picture = scene()
        if index >= 8:
            channel = index % 3
            levels = drawn.uniform(0.85, 1.25) * Rules().change_levels / (0.114, 0.587, 0.299)[channel]
            picture[200:230, 300:330, channel] += np.uint8(levels)
        shown = frame(picture)
        yield shown, 2.5 if index == 5 else 0.1
        if index == 5:
            yield shown, 0.1


async def test_it_answers_every_frame_as_the_transformer_does() -> None:
    bench, replay = Bench(numbered()), CacheReplay(Rules(), TASK)
    asked = itertools.count(1)
    outcomes: Counter[str] = Counter()
    try:
        for index, (source, after_s) in enumerate(street()):
            answered = await bench.answer(source, "door", after_s)
            assert isinstance(source.data, bytes)
            taken, prepared = view(source.data, (SIDE, SIDE), LIMITS)

            def infer() -> Detections:
                table = np.zeros((TASK.candidates, 6), np.float32)
                table[0] = 100, 100, 120, 130, 0.5 + next(asked) / 1000, 0
                return TASK.to_image(TASK.read({"candidates": table}, TASK.options({})), prepared.mapping)  # noqa: B023

            one = Seen(taken, infer)
            given = replay.frame(one, bench.now)
            assert (given is None) == (answered.hit is None), f"frame {index}"
            told = one.answer if given is None else given
            assert told.scores.tolist() == answered.answer.scores.tolist(), f"frame {index}: the same frame's answer"
            outcomes[answered.cache] += 1
    finally:
        await bench.close()
    assert outcomes["exact"] == 1
    assert min(outcomes["near"], outcomes["miss"]) >= 15, outcomes


def test_a_fresh_answer_is_asked_for_once() -> None:
    calls = itertools.count(1)
    one = Seen(seen(scene(), b"").view, lambda: next(calls))
    assert (one.answer, one.answer) == (1, 1)


def test_the_replay_is_the_cache() -> None:
    still = [seen(noisy(scene(), index), bytes([index])) for index in range(5)]
    quality = play(CacheReplay(Rules(), TASK), still, 0.1, TASK)
    assert (quality.hits, quality.f1, quality.worst) == (0.8, 1.0, 1.0)
    assert play(CacheReplay(replace(Rules(), gap_s=0.05), TASK), still, 0.1, TASK).hits == 0
    assert play(CacheReplay(replace(Rules(), heartbeat=1), TASK), still, 0.1, TASK).hits == 0.4
    shown = scene()
    shown[300:330, 400:430] = 255
    changed = [*still, seen(noisy(shown, 9), b"changed", (400, 300, 430, 330))]
    assert play(CacheReplay(Rules(), TASK), changed, 0.1, TASK).f1 == 1.0, "the change was seen"
    hashed = play(PlainHashReplay(4), changed, 0.1, TASK)
    assert (hashed.hits, hashed.f1) == (5 / 6, 0.8), "the plain hash has not seen it"


def test_the_same_bytes_are_an_exact_hit_and_no_frame_is_none() -> None:
    one = seen(scene(), b"same")
    assert play(CacheReplay(replace(Rules(), gap_s=0.01), TASK), [one, one], 0.1, TASK).hits == 0.5
    quality = Quality(0, [])
    assert (quality.hits, quality.f1, quality.worst) == (0.0, None, None)


def test_the_look_of_a_grey_decode_decides_where_a_hit_is_likely() -> None:
    first, other = seen(scene(), b"first"), seen(scene(3), b"other")
    looked = [replace(first.view, digest=bytes([index]), grey_look=other.view.look) for index in range(3)]
    replay = CacheReplay(Rules(), TASK)
    given = [replay.frame(Seen(one, lambda: NOTHING), 0.1 * index) for index, one in enumerate(looked)]
    assert given == [None, None, None], "another grey picture than the first, then likely no more, and kept as grey"
