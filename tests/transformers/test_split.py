"""The split: stable, fair, monotone in the share, dealt anew by another salt, and with no memory of any key."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_transformers.origin import read_origin
from saccade_transformers.split import is_candidates, place, salt_digest

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
SHARES = st.floats(0, 1)


def test_a_key_falls_where_it_always_fell() -> None:
    # Constants: a new release must not deal the cameras of a running experiment anew.
    assert place("camera:door", "").digest == "d80d52a55a627ba2"
    assert place("camera:door", "spring").digest == "31ab59eff45703ea"
    assert place("camera:door", "spring") == place("camera:door", "spring")


@given(KEYS, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=16))
def test_a_point_is_in_the_unit_interval_and_its_digest_begins_alike(key: str, salt: str) -> None:
    point, digest = place(key, salt)
    assert 0 <= point < 1
    assert point == (int(digest, 16) >> 11) / 2**53


@given(KEYS, SHARES, SHARES)
def test_a_larger_share_never_takes_a_camera_from_the_candidate(key: str, a: float, b: float) -> None:
    smaller, larger = sorted((a, b))
    point, _ = place(key, "salt")
    assert is_candidates(point, smaller) <= is_candidates(point, larger)


@given(KEYS)
def test_nobody_and_everybody_are_shares(key: str) -> None:
    point, _ = place(key, "")
    assert not is_candidates(point, 0)
    assert is_candidates(point, 1)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("name", ["camera:{}", "camera:hall-{:04d}", "user:{:x}"])
def test_names_that_hardly_differ_are_split_in_the_share_that_is_asked_for(share: float, name: str) -> None:
    count = 20_000
    found = sum(is_candidates(place(name.format(i), "salt").point, share) for i in range(count))
    assert abs(found - share * count) < 4 * (count * share * (1 - share)) ** 0.5


def test_another_salt_deals_the_cameras_anew() -> None:
    def candidates(salt: str) -> set[int]:
        return {i for i in range(10_000) if is_candidates(place(f"camera:{i}", salt).point, 0.1)}

    first, second = candidates("spring"), candidates("summer")
    assert len(first & second) == pytest.approx(100, abs=50), "a tenth of a tenth, as by chance"


def test_a_salt_and_a_key_do_not_run_together() -> None:
    assert place("b", "a") != place("ab", "")


def test_fifty_thousand_cameras_leave_nothing_behind() -> None:
    def ask(i: int) -> None:
        place(read_origin({}, {"x-camera-id": f"camera-{i}"}).key, "salt")

    for i in range(100):
        ask(i)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i in range(50_000):
            ask(i)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000
    assert peak - before < 100_000


def test_a_salt_has_a_digest_of_its_own() -> None:
    assert len({salt_digest(salt) for salt in ("", "spring", "autumn")}) == 3
    assert salt_digest("spring") == salt_digest("spring") != place("", "spring").digest[:8]
