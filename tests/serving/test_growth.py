"""How a body's memory grows: not far ahead of what has come, in few steps, and always to its end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.connection.growth import next_slot
from saccade_serving.settings import FIRST_SLOT_BYTES


def test_a_large_body_grows_in_three_steps() -> None:
    assert next_slot(FIRST_SLOT_BYTES, 64 * 2**20, 2**29) == 2 * 2**20
    assert next_slot(2 * 2**20, 64 * 2**20, 2**29) == 64 * 2**20


def test_a_picture_has_all_its_memory_after_the_first_slot() -> None:
    assert next_slot(FIRST_SLOT_BYTES, 1_228_900, 2**29) == 1_228_900


@given(st.integers(FIRST_SLOT_BYTES + 1, 2**30), st.integers(0, 2**30))
def test_whoever_fits_the_share_with_its_first_slot_fits_it_at_every_step(length: int, spare: int) -> None:
    share = length + FIRST_SLOT_BYTES + spare
    held, steps = FIRST_SLOT_BYTES, 0
    while held < length:
        size = next_slot(held, length, share)
        assert held < size <= length
        assert held + size <= share
        held, steps = size, steps + 1
    assert steps <= 3
