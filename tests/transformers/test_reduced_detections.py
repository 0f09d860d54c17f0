"""The decisive test of reduced decoding: the example detector finds the same boxes as in the picture decoded whole.

Not every box can be the same: re-encoding a JPEG at 3 points less quality changes some, too. A box counts as missing
if its score is safely over the threshold and the other answer has no box of its class with an IoU of 0.9, even
somewhat under the threshold. docs/decisions.md has the figures of many more pictures than are looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from saccade_transformers.image.decode import ImageLimits, configure_opencv, decode, decode_for_input
from saccade_transformers.image.letterbox import PADDING, Letterbox, letterbox
from saccade_transformers.tasks.detection import Detections, DetectionTask
from saccade_transformers.tasks.matching import iou_matrix

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "examples" / "model-repository" / "detector"
PHOTOS = ROOT / "examples" / "images"
SHARED = ROOT.parent / "shared" / "media"
SIDE = 416
LIMITS = ImageLimits(2**26, 2**26)
#: The usual threshold; how far over it a box must be to count, and how far under it it may be found.
THRESHOLD, MARGIN = 0.4, 0.05
SAME_BOX = 0.9
SUBSAMPLING = {"4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444}

Detect = Callable[[NDArray[np.uint8], Letterbox], Detections]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = cv2.getNumThreads()
    configure_opencv()
    yield
    cv2.setNumThreads(threads)


@pytest.fixture(scope="module")
def detect() -> Detect:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(DETECTOR / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"])
    labels = (DETECTOR / "labels.txt").read_text(encoding="utf-8").split()
    task = DetectionTask(labels, 1000, 0.05, THRESHOLD, 0.5, 100)
    wanted = task.options({"score_threshold": THRESHOLD - MARGIN})

    def run(tensor: NDArray[np.uint8], box: Letterbox) -> Detections:
        [table] = session.run(None, {"image": tensor[None]})
        return task.to_image(task.read({"candidates": table[0]}, wanted), box)

    return run


def photo(path: Path, megapixels: float) -> NDArray[np.uint8]:
    if not path.exists():
        pytest.skip(f"needs ../shared/media/{path.name}, beside the repository")
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert picture is not None
    scale = (megapixels * 1e6 / (picture.shape[0] * picture.shape[1])) ** 0.5 if megapixels else 1
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)


def jpeg(picture: NDArray[np.uint8], quality: int, subsampling: str) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLING[subsampling]]
    return cv2.imencode(".jpg", picture, options)[1].tobytes()


def the_plain_way(data: bytes) -> tuple[NDArray[np.uint8], Letterbox]:
    """Decode whole, shrink with INTER_AREA."""
    picture = decode(data, LIMITS)
    box = Letterbox.fit((picture.shape[1], picture.shape[0]), (SIDE, SIDE))
    width, height = box.scaled_size
    tensor = np.full((SIDE, SIDE, 3), PADDING, np.uint8)
    tensor[box.pad_y : box.pad_y + height, box.pad_x : box.pad_x + width] = cv2.resize(
        picture, (width, height), interpolation=cv2.INTER_AREA
    )
    return tensor, box


def missing(found: Detections, other: Detections) -> list[tuple[int, float]]:
    """Class and score of the boxes that are safely in one answer and not in the other."""
    sure = found.take(found.scores >= THRESHOLD + MARGIN)
    same = (iou_matrix(sure.boxes, other.boxes) >= SAME_BOX) & (sure.class_ids[:, None] == other.class_ids)
    return [(int(sure.class_ids[i]), float(sure.scores[i])) for i in range(len(sure)) if not same[i].any()]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize(
    ("megapixels", "quality", "subsampling"),
    [(0, 85, "4:2:0"), (2, 85, "4:2:0"), (4, 93, "4:4:4"), (12, 75, "4:2:0"), (12, 95, "4:4:4")],
)
@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "grace_hopper.png", "chelsea.png", "car1.jpg"])
def test_the_same_boxes_are_found_as_in_the_whole_picture(
    name: str, megapixels: float, quality: int, subsampling: str, detect: Detect
) -> None:
    path = PHOTOS / name if (PHOTOS / name).exists() else SHARED / name
    picture = photo(path, megapixels)
    data = jpeg(picture, quality, subsampling)
    expected, box = the_plain_way(data)
    ours = np.empty((SIDE, SIDE, 3), np.uint8)
    reduced = decode_for_input(data, LIMITS, (SIDE, SIDE))
    assert letterbox(reduced, ours) == box
    assert (reduced.reduction > 1) == (megapixels > 0)
    assert psnr(ours, expected) > 40
    by_plain, by_ours = detect(expected, box), detect(ours, box)
    assert len(by_plain), "the detector finds something in every one of these photos"
    assert missing(by_plain, by_ours) == []
    assert missing(by_ours, by_plain) == []
