"""How good the frame cache's answers are, and how often it has one: near hits against fresh inference, frame by frame.

Cameras: vtest.avi (a street with about ten people who never stop; only where a copy of it is given), and a rendered
still scene at 640x480 and 1920x1080 into which things are put at known frames: half of it photos, in which the
detector always finds the same; and once more without them, since it then finds smaller things. Beside the cache's
policy stands the plain perceptual hash with a time to live of 2 s. F1 is that of the cached answer and a fresh one for
the same frame (same class, IoU >= 0.5, score >= 0.4); its noise floor is that of two fresh ones, each with noise of
its own.

Runs in one process with the example model: no service, no network. Prints tables, writes JSON and, with --plot, draws
the curves.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import onnxruntime
from rich.table import Table

from measuring import machine
from measuring.goals import Goal
from measuring.static_scene import Insertion, frames
from measuring.table import Progress, console, goals, number
from measuring.targets import BENCH, ROOT
from saccade_cli.cache_command import plot
from saccade_cli.cache_report import Report, Video, replay, settings_of, twice
from saccade_transformers.cache.policy import Rules
from saccade_transformers.cache.replay import CacheReplay, PlainHashReplay, Seen, view
from saccade_transformers.image.decode import ImageLimits, configure_opencv
from saccade_transformers.tasks.detection import Detections, DetectionTask
from saccade_transformers.tasks.matching import iou_matrix

RESULTS: Final = BENCH / "results" / "cache.json"
MODEL: Final = ROOT / "examples" / "model-repository" / "detector" / "1" / "model.onnx"
VIDEO: Final = ROOT.parent / "shared" / "media" / "vtest.avi"
#: Frames taken of the video, and the rate and the sides of things in the rendered scenes.
VIDEO_FRAMES: Final = 300
SCENE_FPS: Final = 25.0
SCENES: Final = {(640, 480): (12, 24, 48), (1920, 1080): (36, 72, 144)}
#: Of the hits in the rendered scenes, one in so many is inferred to be judged; it makes no difference to the cache.
_JUDGED: Final = 5
#: F1 of hits in the video that is aimed at.
_AIM: Final = 0.95


class Detector:
    """The example model and the transformer's own path to and from it."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(MODEL), options)
        metadata = self._session.get_modelmeta().custom_metadata_map
        [taken] = self._session.get_inputs()
        self._name, self._size = taken.name, (taken.shape[2], taken.shape[1])
        self.task = DetectionTask(
            [], int(metadata["saccade.candidates"]), float(metadata["saccade.min_score"]), 0.4, 0.5, 100
        )
        self._options = self.task.options({})

    def see(self, jpeg: bytes) -> Seen:
        """Take a frame as the transformer does; it is inferred when its answer is asked for."""
        seen, prepared = view(jpeg, self._size, ImageLimits(2**30, 2**30))

        def infer() -> Detections:
            [table] = self._session.run(None, {self._name: prepared.tensor})
            return self.task.to_image(self.task.read({"candidates": table[0]}, self._options), prepared.mapping)

        return Seen(seen, infer)


@dataclass(frozen=True, slots=True)
class Point:
    """One setting on one camera.

    Attributes:
        hits: share of the frames that were answered by an earlier one.
        f1: of the hits; None without any.
    """

    camera: str
    policy: str
    setting: float
    hits: float
    f1: float | None


@dataclass(slots=True)
class Found:
    """What became of the things of one size.

    Attributes:
        inserted: things.
        detected: by fresh inference on their first frame.
        noticed: of these, the frame was inferred.
        unseen: of those that fresh inference does not detect, the frame was a hit.
    """

    side: int
    inserted: int = 0
    detected: int = 0
    noticed: int = 0
    unseen: int = 0


@dataclass(slots=True)
class Outcome:
    """All that was measured."""

    points: list[Point] = field(default_factory=list)
    floor: dict[str, float] = field(default_factory=dict)
    found: dict[str, list[Found]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def video(detector: Detector, path: Path, most: int, outcome: Outcome, progress: Progress) -> Report:
    """Measure a video: the floor, the cache's curve, the plain hash's."""
    film = Video(path, None, 1, most)
    drawn = np.random.default_rng(1)
    seen, floor = [], []
    for index, picture in enumerate(film):
        progress.step(f"{path.name}: inferring every frame", f"{index + 1} of {most}")
        one, again = map(detector.see, twice(picture, 90, drawn))
        floor.append(detector.task.agreement(one.answer, again.answer))
        seen.append(one)
    outcome.floor[path.name] = fmean(floor)
    rules, found = Rules(), sum(len(one.answer) > 0 for one in seen)
    points = [
        replay(policy, setting, rules, seen, 1 / film.fps, detector.task) for policy, setting in settings_of(rules)
    ]
    outcome.points += [Point(path.name, point.policy, point.setting, point.hits, point.f1) for point in points]
    return Report(path.name, len(seen), found, film.fps, fmean(floor), _AIM, rules, points)


def scene(
    detector: Detector, size: tuple[int, int], plain: bool, each: int, seed: int, outcome: Outcome, progress: Progress
) -> None:
    """Measure a rendered scene at the default settings, and what the plain hash makes of it."""
    name = f"{'empty' if plain else 'still'} scene {size[0]}x{size[1]}"
    found = {side: Found(side) for side in SCENES[size]}
    policy, hashed = CacheReplay(Rules(), detector.task), PlainHashReplay(4)
    hits, plain_hits, total = 0, 0, 0
    scores: list[float] = []
    plain_scores: list[float] = []
    floor: list[float] = []
    before: tuple[Insertion | None, Seen] | None = None
    for index, shown in enumerate(frames(*size, SCENES[size], each, seed, plain)):
        progress.step(name, f"frame {index + 1}")
        seen = detector.see(shown.jpeg)
        hit, plain_hit = policy.frame(seen, index / SCENE_FPS), hashed.frame(seen, index / SCENE_FPS)
        total += 1
        hits += hit is not None
        plain_hits += plain_hit is not None
        if index % _JUDGED == 0 or shown.is_first:
            scores += [detector.task.agreement(seen.answer, hit)] if hit is not None else []
            plain_scores += [detector.task.agreement(seen.answer, plain_hit)] if plain_hit is not None else []
        if before is not None and before[0] == shown.inserted and index % _JUDGED == 0:
            floor.append(detector.task.agreement(before[1].answer, seen.answer))
        before = shown.inserted, seen
        if shown.is_first and shown.inserted is not None:
            one = found[shown.inserted.side]
            one.inserted += 1
            if is_found(seen.answer, shown.inserted):
                one.detected += 1
                one.noticed += hit is None
            else:
                one.unseen += hit is not None
    outcome.found[name] = list(found.values())
    outcome.floor[name] = fmean(floor)
    levels = Rules().change_levels
    outcome.points.append(Point(name, "cache", levels, hits / total, fmean(scores) if scores else None))
    outcome.points.append(
        Point(name, "plain hash", 4, plain_hits / total, fmean(plain_scores) if plain_scores else None)
    )


def is_found(answer: Detections, inserted: Insertion) -> bool:
    """Whether there is a box where the thing is, of whatever class."""
    box = np.array([inserted.box], np.float32)
    return bool(len(answer)) and float(iou_matrix(box, answer.boxes).max()) >= 0.5


def judge(outcome: Outcome) -> Iterator[Goal]:
    """Hold what was measured against what is aimed at."""
    default = Rules().change_levels
    for point in outcome.points:
        if point.policy != "cache" or point.setting != default or point.f1 is None:
            continue
        if point.camera.startswith("empty"):
            continue  # a thing alone that is found in every other frame decides about its F1
        still = point.camera.startswith("still")
        yield Goal("F1 of hits", point.camera, 0.97 if still else _AIM, point.f1, True)
        if still:
            yield Goal("share of hits", point.camera, 0.85, point.hits, True)
    for camera, found in outcome.found.items():
        detected = sum(one.detected for one in found)
        if detected:
            share = sum(one.noticed for one in found) / detected
            yield Goal("detected things noticed on their first frame", camera, 1.0, share, True)


def show(outcome: Outcome, judged: bool) -> None:
    """Print the tables."""
    out = console()
    table = Table("camera", "policy", "setting", "hits", "F1 of hits", title="Near hits against fresh inference")
    for point in outcome.points:
        f1 = "-" if point.f1 is None else f"{point.f1:.3f}"
        table.add_row(point.camera, point.policy, f"{point.setting:g}", f"{point.hits:.1%}", f1)
    out.print(table)
    for camera, floor in outcome.floor.items():
        out.print(f"{camera}: two fresh inferences of one frame, each with its own noise: F1 {floor:.3f}.")
    for camera, found in outcome.found.items():
        table = Table("side", "inserted", "detected", "noticed", "not detected, hit", title=f"Things in the {camera}")
        for one in found:
            table.add_row(f"{one.side} px", *map(str, (one.inserted, one.detected, one.noticed, one.unseen)))
        out.print(table)
    out.print(goals(list(judge(outcome)), judged, title="Goals", counted="frames", shown=number))
    for what, why in outcome.skipped.items():
        out.print(f"{what} was left out: {why}", markup=False)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/cache.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few frames: a look (all of it: a quarter of an hour)")
    parser.add_argument("--video", type=Path, default=VIDEO, help="in place of vtest.avi (the curves' camera)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves into a PNG or SVG file")
    parser.add_argument("--each", type=int, help="things of each size in the rendered scenes (default: 80)")
    parser.add_argument("--seed", type=int, default=1, help="of the rendered scenes (default: 1)")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/cache.json)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the bench; returns the exit status."""
    given = parse(arguments)
    configure_opencv()
    detector, outcome, progress = Detector(), Outcome(), Progress(0)
    curves: Report | None = None
    try:
        if given.video.exists():
            curves = video(detector, given.video, 8 if given.quick else VIDEO_FRAMES, outcome, progress)
        else:
            outcome.skipped["the video"] = f"there is no {given.video.name}; give one with --video"
        each = given.each or (1 if given.quick else 80)
        for size in list(SCENES)[: 1 if given.quick else None]:
            for plain in (False,) if given.quick else (False, True):
                # The one with photos is for hits and F1, and shows that with fewer things; the other for the things.
                things = each if plain else max(1, each // 4)
                scene(detector, size, plain, things, given.seed, outcome, progress)
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    finally:
        progress.end()
    content: dict[str, Any] = {
        "bench": "cache",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/cache.py", *arguments]),
        "machine": machine.describe(),
        "rules": asdict(Rules()),
        **asdict(outcome),
        "goals": [{**asdict(goal), "reached": goal.reached} for goal in judge(outcome)],
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(outcome, not given.quick)
    if given.plot and curves is not None:
        plot(curves, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
