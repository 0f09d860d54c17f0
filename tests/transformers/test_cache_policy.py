"""When a camera's frame may be answered by an earlier one: hash, blocks, limits, trust, health. All of it pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from saccade_transformers.cache.blocks import ALL_REGIONS, LARGEST_REGION, MARGIN, differences, measure, noise, regions
from saccade_transformers.cache.health import LASTS_FRAMES, LASTS_S, Health
from saccade_transformers.cache.perceptual import HASH_BITS, Look, distance, phash
from saccade_transformers.cache.policy import LOUDEST, Reference, Rules, Since, compare, in_time, level_of
from saccade_transformers.cache.shelf import Shelf
from saccade_transformers.cache.trust import Trust

HEIGHT, WIDTH = 117, 208
SIZE = (1920, 1080)
RULES = Rules()
NO_BOXES = np.zeros((0, 4), np.float32)


def picture(seed: int) -> NDArray[np.uint8]:
    """A 32 x 32 picture with a structure of its own."""
    grain = np.random.default_rng(seed).normal(0, 6, (32, 32))
    y, x = np.mgrid[:32, :32]
    waves = 128 + 60 * np.sin(x / (3 + seed)) + 50 * np.cos(y / (2 + seed))
    return np.asarray(np.clip(waves + grain, 0, 255), np.uint8)


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, "f0f7d08ee9d9003a"),
        (1, "e0d018d6ed4ecb36"),
        (2, "c031cb8724fe59bc"),
        (3, "c08fda594c57312f"),
        (4, "c0aafb46894ad772"),
        (5, "c0d7e524a575f243"),
    ],
)
def test_the_hash_is_that_of_imagehash(seed: int, expected: str) -> None:
    """The expected ones were written down from ``imagehash.phash`` 4.3.2 of the same 32 x 32 pixels."""
    assert f"{phash(picture(seed)):016x}" == expected


def test_distance_counts_bits() -> None:
    assert distance(0, 0) == 0
    assert distance(0b1011, 0b0001) == 2
    assert distance(0, 2**HASH_BITS - 1) == HASH_BITS


def scene(seed: int = 0) -> NDArray[np.uint8]:
    """A thumbnail with some structure."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = 110 + 30 * np.sin(x / 17 + seed) + 25 * np.cos(y / 11 + seed)
    return np.asarray(waves, np.uint8)


def noisy(thumbnail: NDArray[np.uint8], seed: int, sigma: float) -> NDArray[np.uint8]:
    more = np.random.default_rng(seed).normal(0, sigma, thumbnail.shape)
    return np.clip(thumbnail + more, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("contrast", [30, -30, 80])
def test_a_small_object_moves_a_block_wherever_it_lies(offset: int, contrast: int) -> None:
    """36 px in 1080p are 3.9 px of the thumbnail: a fixed grid would cut it into four."""
    before = scene()
    after = before.astype(np.int16)
    after[50 + offset : 54 + offset, 90 + offset : 94 + offset] += contrast
    found = regions(NO_BOXES, SIZE, before.shape)
    change = measure(differences(before, after.astype(np.uint8)), 12.0, found)
    assert change.outside == pytest.approx(abs(contrast), abs=2)


@pytest.mark.parametrize("drift", [-20, 7, 20])
def test_light_that_changes_all_over_is_no_change(drift: int) -> None:
    before = scene()
    changed = differences(before, (before.astype(np.int16) + drift).astype(np.uint8))
    assert changed.max() == 0


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_noise_is_told_from_a_change(sigma: float) -> None:
    changed = differences(noisy(scene(), 1, sigma), noisy(scene(), 2, sigma))
    # Of two frames, over 16 pixels that are independent.
    assert noise(changed) == pytest.approx(sigma * 2**0.5 / 4, rel=0.15)
    assert changed.max() < 6 * noise(changed) + 1


def test_regions_lie_where_the_boxes_do_with_a_margin() -> None:
    found = regions(np.array([[960, 540, 1000, 600]], np.float32), SIZE, (HEIGHT, WIDTH))
    assert found.boxes.tolist() == [[104, 58, 109, 65]]
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[58 - MARGIN : 65 + MARGIN, 104 - MARGIN : 109 + MARGIN] = True
    assert ((found.inside == 255) == inside).all()
    assert ((found.outside == 0) == inside).all()


def test_a_large_box_is_no_region_because_too_much_could_be_new_inside() -> None:
    side = int((LARGEST_REGION * SIZE[0] * SIZE[1]) ** 0.5)
    boxes = np.array([[0, 0, side + 40, side + 40], [0, 0, side - 40, side - 40]], np.float32)
    assert len(regions(boxes, SIZE, (HEIGHT, WIDTH)).boxes) == 1


@pytest.mark.parametrize(
    "box", [[0, 0, 1, 1], [1919, 1079, 1920, 1080], [0, 1079.5, 1920, 1080], [1919.9, 0, 1920, 30]]
)
def test_boxes_at_the_edges_have_a_pixel_at_least(box: list[float]) -> None:
    found = regions(np.array([box], np.float32), SIZE, (HEIGHT, WIDTH))
    [[x1, y1, x2, y2]] = found.boxes.tolist()
    assert 0 <= x1 < x2 <= WIDTH
    assert 0 <= y1 < y2 <= HEIGHT
    measure(differences(scene(), scene()), 12.0, found)


def reference(boxes: Any = NO_BOXES, came: float = 100.0) -> Reference:
    found = regions(np.asarray(boxes, np.float32).reshape(-1, 4), SIZE, (HEIGHT, WIDTH))
    return Reference(Look(0, scene()), found, SIZE, "1", came)


SINCE = Since(seen=100.0, hits=0, noise=0.2)


@pytest.mark.parametrize(
    ("now", "since", "live", "refusal"),
    [
        (101.0, SINCE, ["1"], None),
        (102.0, SINCE, ["1", "2"], None),
        (101.0, SINCE, ["2"], "version"),
        (101.0, SINCE, [], "version"),
        (102.1, SINCE, ["1"], "gap"),
        (99.9, SINCE, ["1"], "gap"),  # a clock that was set back
        (109.9, Since(109, 3, 0), ["1"], None),
        (110.1, Since(109, 3, 0), ["1"], "max_age"),
        (101.0, Since(100.9, RULES.heartbeat - 1, 0), ["1"], None),
        (101.0, Since(100.9, RULES.heartbeat, 0), ["1"], "heartbeat"),
    ],
)
def test_limits_of_time(now: float, since: Since, live: list[str], refusal: str | None) -> None:
    assert in_time(reference(), since, now, live, RULES) == refusal


def test_the_same_frame_is_a_hit() -> None:
    verdict = compare(reference(), SINCE, Look(0, noisy(scene(), 1, 1.0)), SIZE, RULES)
    assert verdict.is_hit
    assert verdict.distance == 0
    assert verdict.change is not None
    assert verdict.change.outside < 3


@pytest.mark.parametrize(("bits", "hit"), [(10, True), (11, False)])
def test_another_scene_by_its_hash(bits: int, hit: bool) -> None:
    verdict = compare(reference(), SINCE, Look(2**bits - 1, scene()), SIZE, RULES)
    assert (verdict.refusal, verdict.distance) == ("" if hit else "hash", bits)


@pytest.mark.parametrize(("size", "shape"), [((1280, 720), (HEIGHT, WIDTH)), (SIZE, (HEIGHT, WIDTH - 1))])
def test_another_size(size: tuple[int, int], shape: tuple[int, int]) -> None:
    assert compare(reference(), SINCE, Look(0, np.zeros(shape, np.uint8)), size, RULES).refusal == "size"


def changed(*areas: tuple[int, int, int, int], by: int = 40) -> Look:
    """The scene with areas (x1, y1, x2, y2) changed."""
    after = scene().astype(np.int16)
    for x1, y1, x2, y2 in areas:
        after[y1:y2, x1:x2] += by
    return Look(0, after.clip(0, 255).astype(np.uint8))


#: Two people: thumbnail boxes [20, 20, 28, 40] and [100, 60, 108, 80].
BOXES = np.array([[20, 20, 28, 40], [100, 60, 108, 80]], np.float32) * (SIZE[0] / WIDTH)


@pytest.mark.parametrize(
    ("look", "refusal"),
    [
        (changed((20, 20, 22, 40)), ""),  # one of them has moved a little
        (changed((150, 100, 154, 104)), "outside"),  # something new elsewhere
        (changed((150, 100, 154, 104), by=10), ""),  # too faint to be a thing
        (changed((20, 20, 28, 40)), "gone"),  # one of them is gone or has turned
        (changed((20, 20, 28, 34), (100, 60, 108, 80)), "moved"),
    ],
)
def test_what_is_found_may_move_a_little_and_nothing_else_may_change(look: Look, refusal: str) -> None:
    assert compare(reference(BOXES), SINCE, look, SIZE, RULES).refusal == refusal


def test_one_of_many_that_is_gone_is_noticed() -> None:
    row = [[10 + 20 * k, 50, 18 + 20 * k, 70] for k in range(8)]
    boxes = np.array(row, np.float32) * (SIZE[0] / WIDTH)
    verdict = compare(reference(boxes), SINCE, changed((10, 50, 18, 70)), SIZE, RULES)
    assert verdict.refusal == "gone"
    assert verdict.change is not None
    assert verdict.change.moved < RULES.moved_share


@pytest.mark.parametrize(("own", "level"), [(0.0, 12.0), (1.5, 12.0), (3.0, 18.0), (50.0, 12.0 * LOUDEST)])
def test_a_camera_s_noise_raises_the_limit_but_not_for_ever(own: float, level: float) -> None:
    assert level_of(own, RULES) == level


def test_a_shelf_keeps_what_was_used_last_within_its_size() -> None:
    shelf = Shelf[str, int](100)
    for number, key in enumerate("abc"):
        shelf.put(key, number, 40)
    assert (shelf.get("a"), shelf.get("b"), shelf.size, len(shelf)) == (None, 1, 80, 2)
    shelf.put("d", 3, 40)
    assert (shelf.get("c"), shelf.get("b"), shelf.get("d")) == (None, 1, 3)
    shelf.put("b", 9, 10)
    assert (shelf.size, shelf.values()) == (50, [3, 9])
    shelf.put("huge", 1, 101)
    assert (shelf.get("huge"), shelf.get("b")) == (None, 9)
    shelf.drop("b")
    shelf.drop("b")
    assert (shelf.size, len(shelf)) == (40, 1)


def test_a_value_that_has_grown_too_large_leaves_nothing_of_the_old_one() -> None:
    shelf = Shelf[str, int](100)
    shelf.put("a", 1, 10)
    shelf.put("a", 2, 101)
    assert (shelf.get("a"), shelf.size) == (None, 0)


def test_a_camera_whose_audits_disagree_loses_its_near_hits_for_a_time() -> None:
    trust = Trust(0.8, 60.0)
    assert not trust.audited(0.1, 0.0), "one audit is no proof"
    assert not trust.audited(0.9, 1.0)
    assert trust.audited(0.9, 2.0), "mean 0.63"
    assert not trust.holds(61.9)
    assert not trust.audited(0.0, 30.0), "it is off already"
    assert trust.holds(62.0)


def test_the_pause_doubles_until_the_camera_has_proved_itself() -> None:
    trust = Trust(0.8, 60.0)
    now = 0.0
    pauses = []
    for _ in range(7):
        assert [trust.audited(0.0, now) for _ in range(3)] == [False, False, True]
        begun = now
        while not trust.holds(now):
            now += 30
        pauses.append(now - begun)
    assert pauses == [60, 120, 240, 480, 960, 960, 960]
    for _ in range(8):
        assert not trust.audited(1.0, now)
    for _ in range(8):
        if trust.audited(0.0, now):
            break
    assert not trust.holds(now + 59)
    assert trust.holds(now + 60)


def test_audits_that_agree_change_nothing() -> None:
    trust = Trust(0.8, 60.0)
    assert not any(trust.audited(0.8, float(now)) for now in range(50))
    assert trust.holds(0)


def watch(health: Health, frames: int, every_s: float, digest: Any, thumbnail: Any, begin: float = 0.0) -> None:
    """Show it frames as the cache does."""
    for number in range(frames):
        now = begin + number * every_s
        if not health.saw(digest(number), now):
            health.looked(Look(0, thumbnail(number)), now)


def conditions(health: Health) -> list[str]:
    return list(health.conditions)


def test_a_camera_that_repeats_its_bytes_is_frozen_until_they_change() -> None:
    health = Health()
    still = scene()
    watch(health, 10, 1.0, lambda _: b"same", lambda _: still)
    assert conditions(health) == [], "nine seconds"
    watch(health, 3, 1.0, lambda _: b"same", lambda _: still, 10.0)
    assert conditions(health) == ["frozen"]
    health.saw(b"other", 13.0)
    health.looked(Look(0, noisy(still, 1, 1.0)), 13.0)
    assert conditions(health) == []


def test_a_camera_whose_pixels_stay_the_same_in_new_bytes_is_frozen_too() -> None:
    health = Health()
    watch(health, LASTS_FRAMES + 2, LASTS_S / 10, lambda n: str(n).encode(), lambda _: scene())
    assert conditions(health) == ["frozen"]


def test_pictures_decoded_as_grey_and_in_colour_are_each_held_against_their_own_kind() -> None:
    health = Health()
    for number in range(40):
        health.saw(bytes([number]), float(number))
        of_grey = number % 3 > 0
        health.looked(Look(0, scene() + np.uint8(of_grey), of_grey), float(number))
    assert conditions(health) == ["frozen"]
    health.saw(b"other", 40.0)
    health.looked(Look(0, noisy(scene(), 1, 1.0), True), 40.0)
    assert conditions(health) == []


def test_few_frames_or_short_time_freeze_nothing() -> None:
    slow, fast = Health(), Health()
    watch(slow, LASTS_FRAMES - 1, 60.0, lambda _: b"same", lambda _: scene())
    watch(fast, 100, 0.01, lambda _: b"same", lambda _: scene())
    assert (slow.conditions, fast.conditions) == ((), ())


def test_an_earlier_picture_that_comes_again_is_not_frozen() -> None:
    health = Health()
    for number in range(40):
        now = float(number)
        if not health.saw(b"ab"[number % 2 :][:1], now):
            health.repeated()
    assert conditions(health) == []


def test_a_black_picture_with_noise_is_black_and_not_frozen() -> None:
    health = Health()
    black = np.full((HEIGHT, WIDTH), 8, np.uint8)
    watch(health, 12, 1.0, lambda n: str(n).encode(), lambda n: noisy(black, n, 1.0))
    assert conditions(health) == ["black"]
    health.saw(b"day", 12.0)
    health.looked(Look(0, scene()), 12.0)
    assert conditions(health) == []


def test_a_black_picture_that_is_repeated_is_both() -> None:
    health = Health()
    watch(health, 13, 1.0, lambda _: b"same", lambda _: np.zeros((HEIGHT, WIDTH), np.uint8))
    assert conditions(health) == ["frozen", "black"]


def test_regions_together_cover_no_more_than_a_part_of_the_frame() -> None:
    boxes = np.array([[x, y, x + 60, y + 60] for y in range(0, 480, 60) for x in range(0, 640, 64)], np.float32)
    found = regions(boxes, (640, 480), (156, 208))
    assert 0 < len(found.boxes) < len(boxes)
    assert (found.inside > 0).mean() <= ALL_REGIONS
    np.testing.assert_array_equal(found.boxes[0], regions(boxes[:1], (640, 480), (156, 208)).boxes[0])


def test_something_new_is_seen_however_many_boxes_there_are() -> None:
    boxes = np.array([[x, y, x + 60, y + 60] for y in range(0, 480, 60) for x in range(0, 640, 64)], np.float32)
    before = np.full((156, 208), 100, np.uint8)
    after = before.copy()
    after[100:112, 120:132] = 180
    change = measure(differences(before, after), 12.0, regions(boxes, (640, 480), before.shape))
    assert change.outside > 12
