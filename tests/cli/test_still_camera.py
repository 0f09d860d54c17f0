"""The still camera at the end of the demo: what it sends, and what it makes of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from saccade_cli.still_camera import AFTER, BEFORE, DURING, Frame, NotNoticed, frames, tell, watch

IMAGES = Path(__file__).parents[2] / "examples" / "images"


def answers(*outcomes: str) -> Any:
    left = list(outcomes)

    async def send(_image: bytes) -> dict[str, Any]:
        return {"cache": left.pop(0), "detections": []}

    return send


def test_no_two_frames_are_equal_and_the_thing_is_in_some_of_them() -> None:
    shown = frames(IMAGES / "coffee.jpg", IMAGES / "chelsea.jpg")
    assert [what for what, _ in shown] == ["coffee"] * BEFORE + ["coffee and chelsea"] * DURING + ["coffee"] * AFTER
    assert len({image for _, image in shown}) == len(shown)
    pictures = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE) for _, image in shown]
    first, same, other = (np.asarray(pictures[at], np.float32) for at in (0, 1, BEFORE))
    assert np.abs(cv2.blur(first - same, (16, 16))).max() < 4
    assert np.abs(cv2.blur(first - other, (16, 16))).max() > 30


@pytest.mark.parametrize(("scene", "thing"), [((40, 400), (400, 40)), ((400, 40), (40, 400)), ((1, 1), (300, 300))])
def test_photos_of_any_shape_fit(tmp_path: Path, scene: tuple[int, int], thing: tuple[int, int]) -> None:
    for name, (height, width) in (("scene", scene), ("thing", thing)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((height, width, 3), 90, np.uint8))
    shown = frames(tmp_path / "scene.png", tmp_path / "thing.png")
    picture = cv2.imdecode(np.frombuffer(shown[BEFORE][1], np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[:2] == scene


async def test_it_counts_what_was_saved() -> None:
    shown = [("empty", b"1"), ("empty", b"2"), ("with it", b"3"), ("with it", b"4")]
    seen = await watch(shown, answers("miss", "near", "miss", "near"))
    assert [frame.cache for frame in seen] == ["miss", "near", "miss", "near"]
    timed = [Frame(frame.what, frame.cache, 5.0 if frame.cache == "near" else 85.0, []) for frame in seen]
    assert tell(timed).startswith("The frame cache answered 2 of 4 frames, 5.0 ms each instead of 85.0: 160 ms saved.")


async def test_a_change_that_the_cache_has_not_seen_is_an_error() -> None:
    with pytest.raises(NotNoticed, match="frame 2 is 'with it' and was answered as 'empty'"):
        await watch([("empty", b"1"), ("with it", b"2")], answers("miss", "near"))


async def test_without_a_cache_it_says_so() -> None:
    seen = await watch([("empty", b"1"), ("with it", b"2")], answers("miss", "miss"))
    assert tell(seen) == "The frame cache answered none of 2 frames."
