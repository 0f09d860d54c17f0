"""saccade-build parity: numbers, matched detections, limits and exit codes; and what two models are compared on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner, Result

import onnx_graphs as graphs
from plan_support import L4, NO_GPU, put_version
from saccade_predictor.build import parity as comparing
from saccade_predictor.build.__main__ import app
from saccade_predictor.build.agreement import Errors, Matches, match, overlap, share_interval, suppress
from saccade_predictor.build.halves import to_fp16
from saccade_predictor.build.pictures import PictureError, find_images, from_images, letterbox
from saccade_predictor.engines.engine import Engine
from saccade_predictor.engines.onnx import OnnxEngine
from saccade_predictor.engines.plan import Plan, PlanTensor, Shapes, read_sidecar
from saccade_predictor.modelconfig import ModelConfig
from saccade_serving.oip.messages import TensorMetadata

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "examples" / "model-repository" / "detector" / "1" / "model.onnx"
PHOTOS = ROOT / "examples" / "images"


def parity(reference: Path, candidate: Path, *options: object) -> Result:
    return CliRunner().invoke(app, ["parity", str(reference), str(candidate), *map(str, options)])


def rows(*boxes: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 6)


CAT = (10, 10, 50, 50, 0.9, 1)
DOG = (100, 100, 180, 180, 0.6, 2)


def compared(a: NDArray[np.float32], b: NDArray[np.float32]) -> Matches:
    found = Matches()
    found.add("one", a, b, 0.4)
    return found


def test_the_same_answer_agrees_in_any_order() -> None:
    found = compared(rows(CAT, DOG), rows(DOG, CAT))
    assert (found.agreement, found.matched, found.reference, found.candidate) == (1.0, 2, 2, 2)
    assert max(found.box_errors + found.score_errors) == 0


def test_nothing_agrees_with_nothing() -> None:
    assert compared(rows(), rows()).agreement == 1.0


@pytest.mark.parametrize(
    ("candidate", "matched", "flips", "missing", "extra"),
    [
        (rows(CAT), 1, 0, 1, 0),
        (rows(CAT, DOG, (300, 300, 350, 350, 0.7, 3)), 2, 0, 0, 1),
        (rows(CAT, (*DOG[:5], 7)), 1, 1, 0, 0),
        (rows(CAT, (104, 103, 182, 180, 0.55, 2)), 2, 0, 0, 0),
        (rows(CAT, (150, 150, 230, 230, 0.6, 2)), 1, 0, 1, 1),
        (rows(CAT, DOG, (300, 300, 350, 350, 0.2, 3)), 2, 0, 0, 0),
    ],
)
def test_differences_are_told_apart(
    candidate: NDArray[np.float32], matched: int, flips: int, missing: int, extra: int
) -> None:
    found = compared(rows(CAT, DOG), candidate)
    assert (found.matched, found.flips, found.missing, found.extra) == (matched, flips, missing, extra)
    assert found.agreement == matched / (matched + flips + missing + extra)


def test_of_the_references_detections_those_are_found_again_that_lie_where_they_were() -> None:
    near = rows(CAT, (104, 103, 182, 180, 0.55, 2), (300, 300, 350, 350, 0.7, 3))  # the dog's overlap is 0.89
    loose, strict = Matches(), Matches(iou=0.9)
    for found in (loose, strict):
        found.add("one", rows(CAT, DOG), near, 0.4)
    assert (loose.recall, loose.found) == (1.0, 2)
    assert (strict.recall, strict.found, strict.missing, strict.extra) == (0.5, 1, 1, 2)


def test_an_interval_of_a_share_is_wilsons() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for part, whole, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert share_interval(part, whole) == pytest.approx((low, high), abs=1e-4)
    assert share_interval(0, 0) == (0.0, 1.0)
    assert share_interval(20, 20)[1] == 1.0


def test_a_score_on_either_side_of_the_threshold_is_no_disagreement() -> None:
    found = compared(rows((*CAT[:4], 0.401, 1)), rows((*CAT[:4], 0.399, 1)))
    assert (found.agreement, found.reference, found.candidate) == (1.0, 1, 0)
    assert compared(rows((*CAT[:4], 0.5, 1)), rows((*CAT[:4], 0.3, 1))).missing == 1


def test_overlapping_boxes_of_a_class_are_one_object() -> None:
    table = rows(CAT, (12, 11, 50, 50, 0.8, 1), (12, 11, 50, 50, 0.7, 2))
    assert suppress(table).tolist() == rows(CAT, (12, 11, 50, 50, 0.7, 2)).tolist()


def test_pairs_are_made_by_class_before_overlap() -> None:
    a = rows((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 9, 0.8, 2))
    b = rows((0, 0, 10, 10, 0.9, 2), (0, 0, 10, 9, 0.8, 1))
    assert sorted(match(a, b)) == [(0, 1), (1, 0)]


def test_overlap_is_intersection_over_union() -> None:
    found = overlap(rows((0, 0, 2, 2, 1, 0), (5, 5, 5, 5, 1, 0)), rows((1, 0, 3, 2, 1, 0)))
    assert found.tolist() == [[pytest.approx(1 / 3)], [0.0]]


def test_differences_of_any_tensor() -> None:
    errors = Errors()
    errors.add(np.array([1.0, 2.0, np.nan, np.inf]), np.array([1.5, 2.0, np.nan, np.inf]))
    errors.add(np.array([1.0]), np.array([np.nan]))
    assert (errors.largest, errors.mean, errors.unlike) == (0.5, 0.1, 1)
    errors.add(np.array([b"a", b"b"], object), np.array([b"a", b"c"], object))
    assert errors.unlike == 2
    with pytest.raises(ValueError, match=r"the shapes differ: \[1\] and \[2\]"):
        errors.add(np.zeros(1), np.zeros(2))


def test_the_example_agrees_with_itself_in_fp16(tmp_path: Path) -> None:
    halves = tmp_path / "halves.onnx"
    onnx.save(to_fp16(onnx.load(DETECTOR)).model, halves)
    result = parity(DETECTOR, halves, "--images", PHOTOS, "--limit", 4, "--max-error", 0.01, "--max-box-error", 1)
    assert result.exit_code == 0, result.output
    for part in ("halves.onnx against model.onnx, 4 images", "agreement", "class flips", "within the limits"):
        assert part in result.output


def test_another_detector_is_beyond_the_limits_and_json_says_how(tmp_path: Path) -> None:
    # The table's scores 0.2 lower, and its classes one further.
    model = onnx.load(DETECTOR)
    last = model.graph.node[-1]
    last.output[0] = "before"
    shift = np.array([0, 0, 0, 0, -0.2, 1], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(shift, "shift"))
    model.graph.node.append(helper.make_node("Add", ["before", "shift"], ["candidates"]))
    onnx.save(model, tmp_path / "other.onnx")
    report_file = tmp_path / "report.json"
    result = parity(DETECTOR, tmp_path / "other.onnx", "--images", PHOTOS, "--limit", 2, "--json", report_file)
    assert result.exit_code == 1
    assert "beyond the limits: " in result.output
    report = json.loads(report_file.read_text())
    assert report["passed"] is False
    found = report["detections"]
    assert found["matched"] == 0
    assert found["class_flips"] + found["missing"] == found["reference"] > 0
    assert report["limits"]["min_agreement"] == 0.95
    assert "the detections agree; the limit is 95.00% (worst: " in report["failures"][0]


def test_any_model_is_compared_on_random_numbers(tmp_path: Path) -> None:
    one, two = graphs.identity(tmp_path / "one.onnx"), graphs.doubling(tmp_path / "two.onnx")
    result = parity(one, one, "--random", 5, "--max-error", 0, "--json", "-")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["outputs"] == {"y": {"max_error": 0.0, "mean_error": 0.0, "unlike": 0}}
    result = parity(one, two, "--random", 5, "--max-error", 0.001)
    assert result.exit_code == 1
    assert "output 'y' differs by up to" in result.output
    assert parity(one, two, "--random", 5).exit_code == 0, "without a limit nothing is judged"


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ([], 2, "expected one of --images FOLDER and --random N"),
        (["--images", "x", "--random", 1], 2, "expected one of"),
        (["--images", "no-such-folder"], 2, "no-such-folder is not a folder"),
        (["--images", str(PHOTOS)], 2, "the model takes x FP32 [-1, 2]; pictures fit one input UINT8"),
    ],
)
def test_wrong_options_are_one_line(options: list[object], code: int, part: str, tmp_path: Path) -> None:
    one = graphs.identity(tmp_path / "one.onnx")
    result = parity(one, one, *options)
    assert result.exit_code == code
    assert result.output.startswith("Error: ")
    assert part in result.output


def test_models_whose_tensors_differ_are_not_compared(tmp_path: Path) -> None:
    one, other = graphs.identity(tmp_path / "one.onnx"), graphs.identity(tmp_path / "two.onnx", dims=("n", 3))
    result = parity(one, other, "--random", 1)
    assert result.exit_code == 1
    assert "the inputs differ: x FP32 [-1, 2] and x FP32 [-1, 3]" in result.output
    assert "is not a file" in parity(one, tmp_path / "none.onnx", "--random", 1).output
    (tmp_path / "bad.onnx").write_bytes(b"")
    assert "cannot be loaded" in parity(one, tmp_path / "bad.onnx", "--random", 1).output


def test_a_model_that_fails_while_it_runs_says_so(tmp_path: Path) -> None:
    # Random indices are 0 and 1 and fit; a table of one row they do not.
    good = graphs.picking(tmp_path / "good.onnx")
    model = onnx.load(good)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((1, 2), np.float32), "table"))
    onnx.save(model, tmp_path / "bad.onnx")
    result = parity(good, tmp_path / "bad.onnx", "--random", 8)
    assert result.exit_code == 1
    assert "onnxruntime_onnx failed on a batch of 4" in result.output


REAL_ENGINES = comparing.engines


def ready_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[ModelConfig]]:
    """A plan that an engine of the test opens, as the one for its backend would."""
    put_version(folder)
    opened: list[ModelConfig] = []

    def open_it(path: Path, plan: Plan, config: ModelConfig) -> Engine:
        opened.append(config)
        return OnnxEngine(path.with_name("model.onnx"), 1, 1)

    monkeypatch.setattr(comparing, "look", lambda *kinds: L4)
    monkeypatch.setattr(comparing, "engines", lambda: {"tensorrt_rtx": open_it})
    return folder / "model.plan", opened


def test_a_plans_result_stands_in_its_sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = ready_plan(tmp_path, monkeypatch)
    result = parity(tmp_path / "model.onnx", path, "--random", 3, "--max-error", 0)
    assert result.exit_code == 0, result.output
    found = read_sidecar(tmp_path / "plan.json").parity
    assert found is not None
    assert (found["passed"], found["samples"], found["on"]) == (True, 3, "3 random rows")
    assert found["candidate"]["sha256"] == read_sidecar(tmp_path / "plan.json").plan.sha256
    assert [config.max_batch_size for config in opened] == [8]

    graphs.doubling(tmp_path / "other.onnx")
    assert parity(tmp_path / "other.onnx", path, "--random", 3, "--max-error", 0).exit_code == 1
    found = read_sidecar(tmp_path / "plan.json").parity
    assert found is not None
    assert found["passed"] is False, "a failure stands there too"


def test_a_plan_that_cannot_run_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = ready_plan(tmp_path, monkeypatch)
    monkeypatch.setattr(comparing, "look", lambda *kinds: NO_GPU)
    result = parity(tmp_path / "model.onnx", path, "--random", 3)
    assert result.exit_code == 1
    assert "this machine has no GPU" in result.output
    assert "fallback_backend" not in result.output, "that is the predictor's way out"
    path.write_bytes(b"cut")
    assert "cut short" in parity(tmp_path / "model.onnx", path, "--random", 3).output
    monkeypatch.setattr(comparing, "look", lambda *kinds: L4)
    monkeypatch.setattr(comparing, "engines", REAL_ENGINES)
    put_version(tmp_path)
    assert "needs a GPU: " in parity(tmp_path / "model.onnx", path, "--random", 3).output
    assert read_sidecar(tmp_path / "plan.json").parity is None


def test_a_picture_is_fitted_centred_and_upright(tmp_path: Path) -> None:
    photo = Image.new("RGB", (20, 10), (255, 0, 0))
    exif = photo.getexif()
    exif[0x0112] = 6  # turned by a quarter
    photo.save(tmp_path / "turned.png", exif=exif)
    pixels = letterbox(tmp_path / "turned.png", 40, 40)
    assert pixels.shape == (40, 40, 3)
    assert pixels[20, 20].tolist() == [255, 0, 0]
    assert pixels[20, 5].tolist() == [114, 114, 114], "it is upright, so the bars are at the sides"
    assert pixels[1, 20].tolist() == [255, 0, 0]


def test_floats_are_scaled_and_the_channel_is_first(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 51)).save(tmp_path / "a.png")
    [sample] = from_images([tmp_path / "a.png"], [TensorMetadata("images", "FP32", (-1, 3, 8, 8))])
    array = sample.inputs["images"]
    assert array.shape == (1, 3, 8, 8)
    assert array.dtype == np.float32
    assert array[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


def test_a_file_that_is_no_image_is_an_error_not_one_fewer(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(PictureError, match=r"a\.jpg cannot be read as an image"):
        letterbox(tmp_path / "a.jpg", 8, 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="holds no image"):
        find_images(tmp_path / "empty", 0)
    assert find_images(tmp_path, 1) == [tmp_path / "a.jpg"]


def test_open_dimensions_behind_the_batch_have_a_size(tmp_path: Path) -> None:
    one = graphs.identity(tmp_path / "one.onnx", dims=("n", "h"))
    assert parity(one, one, "--random", 2, "--max-error", 0).exit_code == 0
    whole = graphs.identity(tmp_path / "two.onnx", "UINT8", dims=(3, 2))
    assert parity(whole, whole, "--random", 2, "--max-error", 0).exit_code == 0
    text = graphs.identity(tmp_path / "three.onnx", "STRING")
    assert "there are no random ones" in parity(text, text, "--random", 2).output


def test_a_plan_of_one_row_is_opened_for_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = ready_plan(tmp_path, monkeypatch)
    fixed: dict[str, Any] = {
        "inputs": (PlanTensor(name="x", datatype="FP32", shape=(3, 2)),),
        "outputs": (PlanTensor(name="y", datatype="FP32", shape=(3, 2)),),
        "profiles": ({"x": Shapes(min=(3, 2), opt=(3, 2), max=(3, 2))},),
    }
    put_version(tmp_path, **fixed)
    graphs.identity(tmp_path / "model.onnx", dims=(3, 2))
    assert parity(tmp_path / "model.onnx", path, "--random", 2, "--max-error", 0).exit_code == 0
    assert [config.max_batch_size for config in opened] == [0]
