"""What cameras do: frames at a rate with jitter, bursts after a stall, static and moving scenes, duplicates, nights.

Makes the moments and the contents' numbers of a fleet, lazily, in order and the same for a seed; every camera has a
chance of its own, so that adding one leaves the others as they were. Pure: no pictures, no clock.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from saccade_loadtest.load.arrivals import LONGEST_S, BadSchedule, Phase
from saccade_loadtest.load.trace import Light, Shot

#: Bursts and changes of a static scene may not come closer together than this, which bounds the work per frame.
_LEAST_GAP_S: Final = 0.1


@dataclass(frozen=True)
class Fleet:
    """Cameras that are alike.

    Attributes:
        cameras: how many.
        fps: frames per second of each.
        duration_s: how long they send.
        jitter: how far a frame may be off its moment, as a share of the time between two frames (0 to 0.5).
        static: share of the cameras whose scene stays for ``scene_s`` on average; the others' changes with each frame.
        scene_s: seconds for which a static scene stays, on average.
        duplicates: share of frames that are the camera's last one again, byte for byte.
        burst_every_s: a camera's network stalls so often on average; 0: never.
        burst_s: for so long, after which all frames that were held back come at once.
        day_s: length of a day; 0: always day. By night, a third of it, frames are dark and come at ``night_fps``.
        night_fps: frames per second by night; None: as by day.
        seed: the same seed gives the same frames.
    """

    cameras: int
    fps: float
    duration_s: float
    jitter: float = 0.1
    static: float = 0.0
    scene_s: float = 10.0
    duplicates: float = 0.0
    burst_every_s: float = 0.0
    burst_s: float = 0.5
    day_s: float = 0.0
    night_fps: float | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            BadSchedule: with the field, what it is and what is expected.
        """
        limits: dict[str, tuple[float, float]] = {
            "cameras": (1, 100_000),  # each has its own chance, of 3 KB
            "fps": (0.001, 1000),
            "duration_s": (0.001, LONGEST_S),
            "jitter": (0, 0.5),
            "static": (0, 1),
            "scene_s": (_LEAST_GAP_S, math.inf),
            "duplicates": (0, 1),
            "burst_s": (0.001, 60),
            "day_s": (0, math.inf),
        }
        for name, (least, most) in limits.items():
            _check(name, getattr(self, name), least, most)
        if self.burst_every_s:
            _check("burst_every_s", self.burst_every_s, _LEAST_GAP_S, math.inf)
        if self.night_fps is not None:
            _check("night_fps", self.night_fps, 0.001, 1000)

    @property
    def per_s(self) -> float:
        """Frames per second of all cameras together, by day."""
        return self.cameras * self.fps

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Days and nights in order."""
        if not self.day_s:
            return (Phase("cameras", 0.0, self.duration_s, self.per_s),)
        found: list[Phase] = []
        third, begins = self.day_s / 3, 0.0
        while begins < self.duration_s:
            light = self._light(begins)
            ends = min(begins + (third if light == "night" else 2 * third), self.duration_s)
            fps = self.fps if light == "day" or self.night_fps is None else self.night_fps
            found.append(Phase(light, begins, ends, self.cameras * fps))
            begins = ends
        return tuple(found)

    def shots(self, index: int = 0, count: int = 1) -> Iterator[Shot]:
        """The frames of every ``count``-th camera in the order of their moments."""
        if not 0 <= index < count:
            raise BadSchedule(f"share {index} of {count} cannot be; it must be from 0 to {count - 1}")
        return heapq.merge(*(self.frames_of(camera) for camera in range(index, self.cameras, count)))

    def frames_of(self, camera: int) -> Iterator[Shot]:
        """The frames of one camera in the order of their moments."""
        chance = random.Random(f"{self.seed}/{camera}")  # noqa: S311 - reproducible, not secret
        is_static = chance.random() < self.static
        at_s = chance.random() / self.fps  # cameras are not in step
        stalls_at = self._gap(chance, self.burst_every_s)
        scene_ends = self._gap(chance, self.scene_s)
        scene = chance.randrange(1_000_000)
        shot, last_s, is_first = 0, 0.0, True
        while at_s < self.duration_s:
            light = self._light(at_s)
            fps = self.fps if light == "day" or self.night_fps is None else self.night_fps
            due_s = max(last_s, at_s + self.jitter / fps * chance.uniform(-1, 1), 0.0)
            while due_s >= stalls_at + self.burst_s:
                stalls_at += self._gap(chance, self.burst_every_s) + self.burst_s
            if due_s >= stalls_at:
                due_s = stalls_at + self.burst_s
            if is_first or chance.random() >= self.duplicates:
                shot += 1
                if not is_static:
                    scene, shot = scene + 1, 0
                elif at_s >= scene_ends:
                    scene, shot = scene + 1, 0
                    scene_ends = at_s + self._gap(chance, self.scene_s)
            if due_s >= self.duration_s:
                return
            yield Shot(due_s, camera, scene, shot, light)
            last_s, is_first = due_s, False
            at_s += 1 / fps

    def _light(self, at_s: float) -> Light:
        """A day begins at daybreak: two thirds of it are light."""
        return "night" if self.day_s and at_s % self.day_s >= self.day_s * 2 / 3 - 1e-9 else "day"

    @staticmethod
    def _gap(chance: random.Random, mean_s: float) -> float:
        return max(_LEAST_GAP_S, chance.expovariate(1 / mean_s)) if mean_s else math.inf


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        limit = f"from {least:g} to {most:g}" if most < math.inf else f"at least {least:g}"
        raise BadSchedule(f"{name} is {value:g}; it must be {limit}")
