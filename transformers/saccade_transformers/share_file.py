"""The candidate's share out of a file, read again while the transformer runs: a canary is raised without a restart.

In Kubernetes the file is a key of a mounted ConfigMap. A change of it makes no new revision of the transformer, as a
change of an environment variable would. What is written there that is no share changes nothing, and is said once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from saccade_serving.errors import short

log = logging.getLogger("saccade.variants")

#: A file that holds a share is not longer than this (bytes).
_LONGEST: Final = 64
_LOOK_EVERY_S: Final = 2.0


def read_share(path: Path) -> float:
    """The share in a file: a number from 0 to 1, and white space around it.

    Raises:
        ValueError: the file cannot be read, or holds something else; the sentence says which.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST + 1).decode(errors="replace").strip()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1 or len(text) > _LONGEST:
        raise ValueError(f"{path} holds {short(text)}; expected the candidate's share, a number from 0 to 1")
    return share


async def follow_share(
    path: Path, change: Callable[[float], None], pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Look at the file every 2 s, for ever, and tell its share; one that is unreadable is not told, but logged.

    Args:
        path: read by ``read_share``.
        change: is told the share at each look.
        pause: waits for so many seconds.
    """
    said = ""
    while True:
        try:
            change(await asyncio.to_thread(read_share, path))
            said = ""
        except ValueError as error:
            if str(error) != said:
                said = str(error)
                log.warning("candidate_share_unreadable", extra={"why": said})
        await pause(_LOOK_EVERY_S)
