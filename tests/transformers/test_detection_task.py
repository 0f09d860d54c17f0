"""Detections: from the predictor's table to boxes in the image, in every form a client may ask for."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saccade_serving.errors import InvalidRequest
from saccade_serving.oip.messages import ParameterValue
from saccade_transformers.image.letterbox import Letterbox
from saccade_transformers.tasks.detection import (
    DetectionOptions,
    Detections,
    DetectionTask,
    suppress,
)
from saccade_transformers.tasks.matching import iou_matrix
from saccade_transformers.tasks.task import ContractBroken, Task

LABELS = ("person", "car", "traffic light")
K = 20
TASK = DetectionTask(LABELS, candidates=K, min_score=0.05, score_threshold=0.25, iou_threshold=0.5, max_detections=10)
OPTIONS = DetectionOptions(0.25, 0.5, 10)
#: x1, y1, x2, y2, score, class
Row = tuple[float, float, float, float, float, int]


def detections(*rows: Row, full: bool = False) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32), full)


def candidates(*rows: Row) -> dict[str, NDArray[Any]]:
    table = np.zeros((K, 6), np.float32)
    table[: len(rows)] = np.array(rows, np.float32).reshape(-1, 6)
    return {"candidates": table}


def rows_of(answer: Detections) -> list[list[float]]:
    rows: list[list[float]] = np.column_stack([answer.boxes, answer.scores, answer.class_ids]).round(3).tolist()
    return rows


def test_it_is_a_task_for_the_type_checker_too() -> None:
    task: Task[Detections, DetectionOptions] = TASK
    assert task.reads == ("candidates",)


# Options


def test_what_a_request_does_not_say_comes_from_the_settings() -> None:
    assert TASK.options({}) == OPTIONS
    assert TASK.options({"camera_id": "7", "cache": "bypass", "priority": 1}) == OPTIONS


def test_the_default_number_of_detections_is_at_most_the_tables() -> None:
    task = DetectionTask(LABELS, candidates=5, min_score=0, score_threshold=0.3, iou_threshold=0.5, max_detections=300)
    assert task.options({}).max_detections == 5


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"score_threshold": 0.5}, DetectionOptions(0.5, 0.5, 10)),
        ({"score_threshold": "0.5"}, DetectionOptions(0.5, 0.5, 10)),
        ({"score_threshold": " 5e-1 "}, DetectionOptions(0.5, 0.5, 10)),
        ({"score_threshold": 1}, DetectionOptions(1.0, 0.5, 10)),
        ({"score_threshold": 0.05}, DetectionOptions(0.05, 0.5, 10)),
        ({"iou_threshold": 1}, DetectionOptions(0.25, 1.0, 10)),
        ({"iou_threshold": ".75"}, DetectionOptions(0.25, 0.75, 10)),
        ({"max_detections": K}, DetectionOptions(0.25, 0.5, K)),
        ({"max_detections": "3"}, DetectionOptions(0.25, 0.5, 3)),
        ({"max_detections": 3.0}, DetectionOptions(0.25, 0.5, 3)),
    ],
)
def test_options_may_come_as_numbers_or_text(
    parameters: dict[str, ParameterValue], expected: DetectionOptions
) -> None:
    assert TASK.options(parameters) == expected


@pytest.mark.parametrize(
    ("name", "value", "sent", "span"),
    [
        ("score_threshold", True, "true", "a number from 0 to 1"),
        ("score_threshold", -0.1, "-0.1", "a number from 0 to 1"),
        ("score_threshold", 1.01, "1.01", "a number from 0 to 1"),
        ("score_threshold", "high", "'high'", "a number from 0 to 1"),
        ("score_threshold", "", "''", "a number from 0 to 1"),
        ("score_threshold", "0,5", "'0,5'", "a number from 0 to 1"),
        ("score_threshold", "nan", "'nan'", "a number from 0 to 1"),
        ("score_threshold", float("nan"), "nan", "a number from 0 to 1"),
        ("score_threshold", "0_1", "'0_1'", "a number from 0 to 1"),
        ("score_threshold", "9" * 200, "'" + "9" * 80 + "...'", "a number from 0 to 1"),
        ("score_threshold", 0.04, "0.04", "so expected a number from 0.05 to 1"),
        ("score_threshold", "0", "0", "the model reports nothing under 0.05"),
        ("iou_threshold", 0, "0", "a number above 0 and at most 1"),
        ("iou_threshold", 1.5, "1.5", "a number above 0 and at most 1"),
        ("iou_threshold", False, "false", "a number above 0 and at most 1"),
        ("max_detections", 0, "0", "a whole number from 1 to 20"),
        ("max_detections", 21, "21", "a whole number from 1 to 20"),
        ("max_detections", 2.5, "2.5", "a whole number from 1 to 20"),
        ("max_detections", True, "true", "a whole number from 1 to 20"),
        ("max_detections", "many", "'many'", "a whole number from 1 to 20"),
        ("max_detections", 10**400, "1000", "a whole number from 1 to 20"),
        ("max_detections", "1e999", "'1e999'", "a whole number from 1 to 20"),
    ],
)
def test_a_bad_option_is_refused_by_name_value_and_range(
    name: str, value: ParameterValue, sent: str, span: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        TASK.options({name: value})
    assert str(refused.value).startswith(f"parameter {name!r} is {sent}")
    assert span in str(refused.value)


def test_options_are_hashable_and_name_every_field() -> None:
    assert len({OPTIONS, TASK.options({}), TASK.options({"max_detections": 3})}) == 2
    assert repr(OPTIONS) == "DetectionOptions(score_threshold=0.25, iou_threshold=0.5, max_detections=10)"


@pytest.mark.parametrize(
    "wrong",
    [
        {"score_threshold": 0.01},
        {"score_threshold": 1.1},
        {"min_score": -0.1},
        {"iou_threshold": 0},
        {"iou_threshold": 1.1},
        {"max_detections": 0},
        {"candidates": 0},
    ],
)
def test_settings_that_contradict_each_other_are_refused_at_the_start(wrong: dict[str, Any]) -> None:
    right = {"candidates": K, "min_score": 0.05, "score_threshold": 0.25, "iou_threshold": 0.5, "max_detections": 10}
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("min_score", "score_threshold")):
        DetectionTask(LABELS, **(right | wrong))


# Reading the predictor's answer


def test_candidates_become_detections_best_first() -> None:
    answer = TASK.read(candidates((0, 0, 10, 10, 0.9, 1), (50, 0, 60, 10, 0.6, 0), (80, 0, 90, 10, 0.24, 0)), OPTIONS)
    assert rows_of(answer) == [[0, 0, 10, 10, 0.9, 1], [50, 0, 60, 10, 0.6, 0]]
    arrays = (answer.boxes, answer.scores, answer.class_ids)
    assert [array.dtype.name for array in arrays] == ["float32", "float32", "int32"]


def test_the_score_threshold_is_inclusive() -> None:
    assert len(TASK.read(candidates((0, 0, 10, 10, 0.3, 1)), DetectionOptions(0.3, 0.5, 10))) == 1


def test_an_empty_table_is_an_empty_answer() -> None:
    answer = TASK.read(candidates(), DetectionOptions(0.05, 0.5, 10))
    assert len(answer) == 0
    assert answer.boxes.shape == (0, 4)
    assert not TASK.is_full(answer)


def test_unused_rows_are_no_detections_even_where_every_score_is_wanted() -> None:
    task = DetectionTask(LABELS, K, min_score=0, score_threshold=0, iou_threshold=0.5, max_detections=10)
    assert len(task.read(candidates((0, 0, 5, 5, 0.01, 0)), task.options({}))) == 1


def test_overlapping_boxes_of_one_class_are_one_object_and_of_two_classes_two() -> None:
    answer = TASK.read(
        candidates((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 1), (0, 0, 10, 9, 0.7, 0), (0, 0, 9, 10, 0.6, 1)),
        OPTIONS,
    )
    assert rows_of(answer) == [[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 1]]


def test_no_more_than_max_detections_the_best_ones() -> None:
    table = candidates(*[(20.0 * i, 0, 20 * i + 10, 10, 0.9 - i / 100, i % 3) for i in range(K)])
    answer = TASK.read(table, DetectionOptions(0.25, 0.5, 4))
    assert [round(score, 2) for score in answer.scores.tolist()] == [0.9, 0.89, 0.88, 0.87]


def test_a_full_table_is_noticed_even_if_its_last_row_is_under_the_threshold() -> None:
    rows: list[Row] = [(20.0 * i, 0, 20 * i + 10, 10, 0.9, 0) for i in range(K - 1)]
    assert not TASK.is_full(TASK.read(candidates(*rows), OPTIONS))
    full = TASK.read(candidates(*rows, (900, 0, 910, 10, 0.06, 0)), OPTIONS)
    assert TASK.is_full(full)
    assert TASK.is_full(TASK.to_image(full, Letterbox.fit((416, 416), (416, 416))))


def test_the_answer_does_not_hang_on_the_predictors_buffer() -> None:
    table = candidates((0, 0, 10, 10, 0.9, 1))
    answer = TASK.read(table, OPTIONS)
    table["candidates"][:] = -1
    assert rows_of(answer) == [[0, 0, 10, 10, 0.9, 1]]


def table_with(row: int, column: int, value: float) -> dict[str, NDArray[Any]]:
    outputs = candidates((0, 0, 10, 10, 0.9, 1))
    outputs["candidates"][row, column] = value
    return outputs


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ({}, "has no tensor 'candidates'; it has none"),
        ({"output0": np.zeros(3)}, "it has 'output0'"),
        ({"candidates": np.zeros((K, 5), np.float32)}, r"float32 \[20, 5\]; expected float32 \[20, 6\]"),
        ({"candidates": np.zeros((K + 1, 6), np.float32)}, "expected"),
        ({"candidates": np.zeros((1, K, 6), np.float32)}, "expected"),
        ({"candidates": np.zeros((K, 6), np.float64)}, "float64"),
        (table_with(0, 0, np.nan), "not finite"),
        (table_with(0, 2, np.inf), "not finite"),
        (table_with(5, 4, np.nan), "not finite"),
        (table_with(0, 5, -1), "class ids"),
        (table_with(0, 5, 1e20), "class ids"),
    ],
)
def test_a_table_that_is_not_as_promised_breaks_the_contract(outputs: dict[str, NDArray[Any]], why: str) -> None:
    with pytest.raises(ContractBroken, match=why):
        TASK.read(outputs, OPTIONS)


def test_boxes_without_area_and_inverted_ones_are_dropped() -> None:
    assert len(TASK.read(candidates((5, 5, 5, 9, 0.9, 0), (9, 9, 2, 2, 0.9, 0)), OPTIONS)) == 0


# Non-maximum suppression


def reference_nms(found: Detections, iou_threshold: float) -> list[int]:
    """Greedy NMS as in Girshick's R-CNN code, in plain numpy; equal scores keep their order."""
    overlap = iou_matrix(found.boxes, found.boxes)
    kept: list[int] = []
    for i in np.argsort(-found.scores, kind="stable").tolist():
        if all(found.class_ids[i] != found.class_ids[k] or overlap[i, k] <= iou_threshold for k in kept):
            kept.append(i)
    return kept


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 80),
    st.integers(1, 80),
    st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    st.sampled_from([0.0, -5000.0, 5000.0]),
)
def test_suppression_is_that_of_the_reference(
    seed: int, count: int, classes: int, iou_threshold: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-60, 300, (count, 2)) + shift
    boxes = np.hstack([corners, corners + rng.uniform(1, 150, (count, 2))]).astype(np.float32)
    scores = (rng.integers(1, 20, count) / 20).astype(np.float32)  # with many equal ones
    found = Detections(boxes, scores, rng.integers(0, classes, count).astype(np.int32))
    kept = suppress(found, iou_threshold, count)
    expected = found.take(np.array(reference_nms(found, iou_threshold), np.intp))
    assert rows_of(kept) == rows_of(expected)


def test_negative_coordinates_do_not_mix_classes() -> None:
    found = detections((0, 0, 100, 100, 0.9, 0), (-101, -101, -1, -1, 0.8, 1), (-50, -50, 50, 50, 0.7, 2))
    assert len(suppress(found, 0.5, 10)) == 3


def test_absurdly_large_boxes_do_not_mix_classes_either() -> None:
    found = detections((0, 0, 10, 10, 0.9, 0), (0, 0, 1e30, 1e30, 0.8, 1), (0, 0, 10, 10, 0.7, 2))
    assert len(suppress(found, 0.5, 10)) == 3


def test_of_equal_scores_the_earlier_box_stays() -> None:
    found = detections((0, 0, 10, 10, 0.5, 0), (0, 0, 10, 9, 0.5, 0))
    assert rows_of(suppress(found, 0.5, 10)) == [[0, 0, 10, 10, 0.5, 0]]


# Into the image, merging, agreement


def test_boxes_move_into_the_image_and_are_clipped_there() -> None:
    letterbox = Letterbox.fit((832, 416), (416, 416))
    answer = detections((100, 154, 200, 204, 0.9, 0), (-50, 90, 500, 400, 0.8, 1), (10, 10, 50, 90, 0.7, 2))
    assert rows_of(TASK.to_image(answer, letterbox)) == [
        [200, 100, 400, 200, 0.9, 0],
        [0, 0, 832, 416, 0.8, 1],
    ]


def test_nothing_moves_into_the_image_as_nothing() -> None:
    assert len(TASK.to_image(detections(), Letterbox.fit((10, 20), (416, 416)))) == 0


def test_merging_keeps_all_objects_once_best_first() -> None:
    kept = detections((0, 0, 10, 10, 0.9, 0), (100, 0, 110, 10, 0.5, 0))
    fresh = detections((101, 0, 111, 10, 0.6, 0), (0, 0, 10, 10, 0.3, 1))
    assert rows_of(TASK.merge(kept, fresh, OPTIONS)) == [
        [0, 0, 10, 10, 0.9, 0],
        [101, 0, 111, 10, 0.6, 0],
        [0, 0, 10, 10, 0.3, 1],
    ]
    assert len(TASK.merge(kept, fresh, DetectionOptions(0.25, 0.5, 2))) == 2


def test_of_two_equally_sure_boxes_the_fresh_one_stays() -> None:
    merged = TASK.merge(detections((0, 0, 10, 10, 0.5, 0)), detections((1, 0, 11, 10, 0.5, 0)), OPTIONS)
    assert rows_of(merged) == [[1, 0, 11, 10, 0.5, 0]]


def test_merging_with_nothing_changes_nothing() -> None:
    one, none = detections((0, 0, 10, 10, 0.5, 0), full=True), detections()
    assert rows_of(TASK.merge(one, none, OPTIONS)) == rows_of(TASK.merge(none, one, OPTIONS)) == rows_of(one)
    assert TASK.is_full(TASK.merge(one, none, OPTIONS))
    assert len(TASK.merge(none, none, OPTIONS)) == 0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (detections(), detections(), 1.0),
        (detections((0, 0, 10, 10, 0.9, 0)), detections(), 0.0),
        (detections((0, 0, 10, 10, 0.9, 0)), detections((0, 0, 10, 10, 0.2, 0)), 1.0),
        (detections((0, 0, 10, 10, 0.9, 0)), detections((0, 0, 10, 10, 0.9, 1)), 0.0),
        (detections((0, 0, 10, 10, 0.9, 0)), detections((0, 0, 10, 5, 0.9, 0)), 1.0),
        (detections((0, 0, 10, 10, 0.9, 0)), detections((0, 0, 10, 4.9, 0.9, 0)), 0.0),
        (detections((0, 0, 10, 10, 0.9, 0), (50, 0, 60, 10, 0.8, 0)), detections((0, 0, 10, 10, 0.9, 0)), 2 / 3),
        (detections((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 9, 0.8, 0)), detections((0, 0, 10, 10, 0.9, 0)), 2 / 3),
    ],
)
def test_agreement_is_the_f1_of_matched_boxes(a: Detections, b: Detections, expected: float) -> None:
    assert TASK.agreement(a, b) == pytest.approx(expected)


@st.composite
def answers(draw: st.DrawFn) -> Detections:
    side = st.integers(0, 6)
    rows = draw(st.lists(st.tuples(side, side, st.integers(1, 6), st.integers(1, 6), st.integers(0, 1)), max_size=8))
    return detections(*[(x, y, x + w, y + h, 0.5, c) for x, y, w, h, c in rows])


@settings(max_examples=300)
@given(answers(), answers())
def test_agreement_is_symmetric_from_0_to_1_and_1_with_itself(a: Detections, b: Detections) -> None:
    assert TASK.agreement(a, b) == TASK.agreement(b, a)
    assert 0 <= TASK.agreement(a, b) <= 1
    assert TASK.agreement(a, a) == 1


def test_differences_tell_what_moved_what_changed_class_and_what_only_one_answer_has() -> None:
    a = detections((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.8, 1), (50, 0, 60, 10, 0.7, 0))
    b = detections((0, 0, 10, 8, 0.7, 0), (20, 0, 30, 10, 0.8, 2), (80, 0, 90, 10, 0.6, 0), (80, 20, 90, 30, 0.6, 0))
    assert TASK.differences(a, b) == pytest.approx(
        {
            "matched": 1,
            "class_changes": 1,
            "only_in_a": 1,
            "only_in_b": 2,
            "iou": 0.9,
            "score_shift": -0.2,
            "count_difference": 1,
        }
    )


def test_a_box_has_its_own_class_as_counterpart_before_any_other() -> None:
    a = detections((0, 0, 10, 10, 0.9, 0))
    b = detections((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 6, 0.9, 0))
    found = TASK.differences(a, b)
    assert (found["matched"], found["class_changes"], found["only_in_b"]) == (1, 0, 1)


@settings(max_examples=300)
@given(answers(), answers())
def test_differences_of_equal_answers_are_none_and_swapped_answers_differ_the_other_way(
    a: Detections, b: Detections
) -> None:
    equal = TASK.differences(a, a)
    assert (equal.pop("matched"), equal.pop("iou")) == (len(a), 1)
    assert set(equal.values()) == {0}
    there, back = TASK.differences(a, b), TASK.differences(b, a)
    for name in ("matched", "class_changes", "iou"):
        assert there.get(name) == pytest.approx(back.get(name))
    for name in ("score_shift", "count_difference"):
        assert there[name] == pytest.approx(-back[name])
    assert (there["only_in_a"], there["only_in_b"]) == (back["only_in_b"], back["only_in_a"])
    assert 0 <= there.get("iou", 0) <= 1
    assert ("iou" in there) == bool(there["matched"] + there["class_changes"] or len(a) + len(b) == 0)
    assert TASK.agreement(a, b) == pytest.approx(
        1 if not len(a) + len(b) else 2 * there["matched"] / (len(a) + len(b))
    )


def test_two_full_tables_are_matched_as_their_parts_are() -> None:
    boxes = [(20 * (i % 60), 20 * (i // 60), 20 * (i % 60) + 10, 20 * (i // 60) + 10, 0.5, i % 3) for i in range(700)]
    found = TASK.differences(detections(*boxes), detections(*reversed(boxes)))
    assert (found["matched"], found["only_in_a"], found["only_in_b"], found["iou"]) == (700, 0, 0, 1)


# Drawing


@pytest.mark.parametrize("size", [(1, 1), (8, 5), (64, 48), (640, 480), (4000, 30), (30, 2000)])
def test_drawing_marks_a_copy(size: tuple[int, int]) -> None:
    width, height = size
    image = np.full((height, width, 3), 90, np.uint8)
    before = image.copy()
    answer = detections((0, 0, width, height, 0.9, 0), (width / 4, height / 4, width / 2, height / 2, 0.5, 99))
    drawn = TASK.draw(image, answer)
    np.testing.assert_array_equal(image, before)
    assert drawn.shape == image.shape
    assert not np.shares_memory(drawn, image)
    assert (drawn != image).any()


def test_nothing_found_is_drawn_as_the_picture_itself() -> None:
    image = np.full((20, 30, 3), 90, np.uint8)
    np.testing.assert_array_equal(TASK.draw(image, detections()), image)


def test_all_four_edges_of_a_box_are_drawn_where_it_is() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    drawn: NDArray[np.bool_] = np.any(TASK.draw(image, detections((100, 120, 200, 220, 0.9, 1))) > 0, axis=2)
    assert drawn[170, 100]
    assert drawn[170, 200]
    assert drawn[220, 150]
    assert drawn[120, 150]
    assert not drawn[140:200, 110:190].any()
    assert not drawn[230:].any()


def test_a_label_stays_in_the_picture_at_every_edge() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    middle = TASK.draw(image, detections((100, 100, 101, 101, 0.9, 2))).any(axis=2).sum()
    for x, y in ((0, 0), (299, 0), (0, 199), (299, 199), (150, 0), (299, 100)):
        marked = TASK.draw(image, detections((x, y, x + 1, y + 1, 0.9, 2))).any(axis=2).sum()
        assert marked > 0.9 * middle


def test_a_class_always_has_the_same_colour_and_another_class_another_one() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    box = (100, 100, 180, 180)
    edges = [tuple(TASK.draw(image, detections((*box, 0.9, c)))[180, 140].tolist()) for c in (0, 0, *range(1, 20))]
    assert edges[0] == edges[1]
    assert len(set(edges)) == 20


# Answers


def test_v1_is_plain_json_rounded_sensibly() -> None:
    answer = detections((1.23456, 2, 3.999, 4, 0.876543, 1), (0, 0, 1, 1, 0.5, 7))
    v1 = TASK.to_v1(answer)
    assert v1 == [
        {"box": [1.23, 2.0, 4.0, 4.0], "score": 0.8765, "class_id": 1, "label": "car"},
        {"box": [0.0, 0.0, 1.0, 1.0], "score": 0.5, "class_id": 7, "label": "class_7"},
    ]
    assert json.loads(json.dumps(v1)) == v1
    assert TASK.to_v1(detections()) == []


def test_v2_pads_every_image_to_the_largest_count() -> None:
    two = detections((0, 0, 10, 10, 0.9, 2), (5, 5, 9, 9, 0.5, 40))
    tensors = {tensor.name: tensor for tensor in TASK.to_v2([detections(), two, detections((1, 2, 3, 4, 0.7, 0))])}
    assert tensors["num_detections"].array.tolist() == [0, 2, 1]
    assert tensors["boxes"].array.tolist() == [
        [[0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 10, 10], [5, 5, 9, 9]],
        [[1, 2, 3, 4], [0, 0, 0, 0]],
    ]
    np.testing.assert_allclose(tensors["scores"].array, np.array([[0, 0], [0.9, 0.5], [0.7, 0]]), rtol=1e-6)
    assert tensors["class_ids"].array.tolist() == [[0, 0], [2, 40], [0, 0]]
    assert list(tensors["labels"].elements) == [b"", b"", b"traffic light", b"class_40", b"person", b""]


@pytest.mark.parametrize("images", [[], [detections()], [detections((0, 0, 1, 1, 0.5, 0)), detections()]])
def test_the_schema_describes_every_v2_answer(images: list[Detections]) -> None:
    tensors = TASK.to_v2(images)
    most = max((len(image) for image in images), default=0)
    assert [tensor.name for tensor in tensors] == [metadata.name for metadata in TASK.schema()]
    for tensor, metadata in zip(tensors, TASK.schema(), strict=True):
        assert tensor.datatype == metadata.datatype
        assert tensor.shape == (len(images), most, 4)[: len(metadata.shape)]
        data: Any = tensor.data
        assert len(data) == (len(images) if metadata.datatype != "BYTES" else len(images) * most)
    assert [metadata.shape for metadata in TASK.schema()] == [(-1,), (-1, -1, 4), (-1, -1), (-1, -1), (-1, -1)]


@pytest.mark.parametrize(("over", "light"), [(0, True), (100, True), (101, False)])
def test_an_answer_is_light_while_few_candidates_reach_the_threshold(over: int, light: bool) -> None:
    task = DetectionTask(["person"], 1000, 0.05, 0.4, 0.5, 100)
    table = np.zeros((1000, 6), np.float32)
    table[:, 4] = 0.3
    table[:over, 4] = 0.5
    assert task.is_light({"candidates": table}, task.options({})) == light


@pytest.mark.parametrize("outputs", [{}, {"candidates": np.zeros(3, np.float32)}, {"candidates": np.zeros((2, 3, 4))}])
def test_outputs_that_break_the_contract_are_light(outputs: dict[str, Any]) -> None:
    task = DetectionTask(["person"], 1000, 0.05, 0.4, 0.5, 100)
    assert task.is_light(outputs, task.options({}))
