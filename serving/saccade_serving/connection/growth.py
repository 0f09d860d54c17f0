"""How much memory a body has while it comes: some times what was sent, so that a stated length alone takes none."""

from __future__ import annotations

from typing import Final

#: How much larger the next slot is than a full one: 64 KiB, 2 MiB, all. Each step copies what has come, and a picture
#: of a few megabytes shall be copied once only.
_STEP: Final = 32


def next_slot(held: int, length: int, share: int) -> int:
    """Size of the slot that follows a full one.

    Args:
        held: size of the full one.
        length: of the whole body.
        share: what one sender may hold; the old slot and the new one are held side by side for a moment.

    Returns:
        ``_STEP`` times as much; or room for all of it, where one more step would be for less than half of it or would
        not fit the share beside the whole.
    """
    size = _STEP * held
    return length if 2 * size > length or size + length > share else size
