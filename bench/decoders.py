"""What decoding a JPEG costs: OpenCV whole and reduced, simplejpeg at some eighths, with freed memory kept or not.

Prints CPU per JPEG, writes JSON. simplejpeg is installed into .tools/frames on the first run; without it its rows are
missing. Each row is measured in turns with the others, in a thread as the transformer's are.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import cv2
import numpy as np
from rich.table import Table

from measuring import machine, pictures
from measuring.environment import Unavailable, install
from measuring.table import Progress, console, number
from measuring.targets import BENCH, ROOT
from saccade_transformers.heap import keep_freed_memory
from saccade_transformers.image.decode import configure_opencv

RESULTS: Final = BENCH / "results" / "decoders.json"
#: Name -> width, height, bytes (0: JPEG quality 85).
FRAMES: Final = {
    "1920x1080, 350 kB": (1920, 1080, 350_000),
    "640x480": (640, 480, 0),
    "4000x3000": (4000, 3000, 0),
}
_OPENCV: Final = {
    "OpenCV whole": cv2.IMREAD_COLOR_RGB,
    "OpenCV 1/2": cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    "OpenCV 1/4": cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    "OpenCV 1/8": cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
    "OpenCV 1/8, grey": cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_EIGHTHS: Final = (8, 5, 4, 3, 2, 1)


def ways(image: bytes, width: int, height: int, simplejpeg: Any) -> dict[str, Callable[[], object]]:
    """What is measured of one JPEG."""
    view = np.frombuffer(image, np.uint8)
    made: dict[str, Callable[[], object]] = {
        name: lambda flags=flags: cv2.imdecode(view, flags)  # type: ignore[misc]  # a default, bound now
        for name, flags in _OPENCV.items()
    }
    if simplejpeg is not None:
        for eighths in _EIGHTHS:
            least = {"min_width": -(-width * eighths // 8), "min_height": -(-height * eighths // 8)}
            made[f"simplejpeg {eighths}/8"] = lambda least=least: simplejpeg.decode_jpeg(  # type: ignore[misc]
                image, "RGB", strict=False, **least
            )
    return made


def measure(kept: bool, turns: int, packages: str, pipe: Any) -> None:
    """Measure all frames in this process; sends frame -> way -> CPU ms of each turn."""
    configure_opencv()
    if kept:
        keep_freed_memory()
    sys.path += [packages] if packages else []
    simplejpeg = importlib.import_module("simplejpeg") if packages else None
    found: dict[str, dict[str, list[float]]] = {}

    def run() -> None:
        for frame, of in FRAMES.items():
            made = ways(pictures.jpeg(*of), of[0], of[1], simplejpeg)
            taken = found[frame] = {name: [] for name in made}
            for _ in range(turns):
                for name, decode in made.items():
                    begun = time.thread_time()
                    decode()
                    taken[name].append((time.thread_time() - begun) * 1e3)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    pipe.send(found)


def in_process(kept: bool, turns: int, packages: str) -> dict[str, dict[str, list[float]]]:
    """``measure`` in a fresh process, whose memory nothing else has shaped."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=measure, args=(kept, turns, packages, far), daemon=True)
    process.start()
    far.close()
    found: dict[str, dict[str, list[float]]] = near.recv()
    process.join()
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench/decoders.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each but once")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file (default: bench/results/)")
    given = parser.parse_args(arguments)
    progress = Progress(2)
    packages = ""
    try:
        lock = ROOT / "requirements" / "bench-frames.txt"
        packages = str(install(ROOT / ".tools" / "frames", lock, "simplejpeg and others (40 MB)", progress.say))
    except Unavailable as why:
        progress.say(f"without simplejpeg: {why}")
    turns = 1 if given.quick else 30
    found = {}
    for kept in (False, True):
        progress.step("decoding", "freed memory is kept" if kept else "freed memory goes back")
        found[kept] = in_process(kept, turns, packages)
    progress.end()
    lines = [
        {"frame": frame, "way": way, "kept": kept, "cpu_ms_median": median(taken), "cpu_ms_min": min(taken)}
        for frame in FRAMES
        for way in found[True][frame]
        for kept in (False, True)
        for taken in [found[kept][frame][way]]
    ]
    table = Table(title=f"CPU ms per JPEG: median (least) of {turns}", title_justify="left")
    for name in ("frame", "decoder", "memory goes back", "memory is kept"):
        table.add_column(name, justify="left" if name in ("frame", "decoder") else "right")
    for without, with_ in zip(lines[::2], lines[1::2], strict=True):
        cells = [f"{number(one['cpu_ms_median'])} ({number(one['cpu_ms_min'])})" for one in (without, with_)]  # type: ignore[arg-type]
        table.add_row(str(without["frame"]), str(without["way"]), *cells)
    console().print(table)
    content = {
        "bench": "decoders",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/decoders.py", *arguments]),
        "machine": machine.describe(),
        "lines": lines,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
