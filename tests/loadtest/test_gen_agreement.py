"""An answer agrees with what is known of a picture when all sure detections of each are in the other."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest_support import HEIGHT, WIDTH, plan_for, served
from saccade_loadtest.load.arrivals import constant
from saccade_loadtest.load.frames import Picture
from saccade_loadtest.load.plan import Pictures
from saccade_loadtest.sending.agreement import Comparison, NoReference, agrees, ask_about, overlaps
from saccade_loadtest.sending.checks import Seen
from saccade_loadtest.sending.conductor import Conductor
from saccade_loadtest.sending.dialects import Endpoint


def seen(*rows: tuple[float, float, float, float, float, int]) -> Seen:
    """Detections as x1, y1, x2, y2, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Seen("1", "near", table[:, :4], table[:, 5].astype(np.int32), table[:, 4])


PERSON = (10, 10, 50, 90, 0.9, 0)
CAT = (60, 60, 90, 90, 0.7, 15)
FAINT = (0, 0, 9, 9, 0.41, 3)


@pytest.mark.parametrize(
    ("known", "answer", "expected"),
    [
        ((PERSON, CAT), (PERSON, CAT), True),
        ((PERSON, CAT), (CAT, PERSON), True),
        ((), (), True),
        ((PERSON, FAINT), ((12, 11, 51, 92, 0.85, 0), FAINT), True),  # moved a little
        ((PERSON, FAINT), (FAINT,), False),  # one is missing
        ((FAINT,), (PERSON, FAINT), False),  # one too many
        ((PERSON, FAINT), ((10, 10, 50, 90, 0.9, 1), FAINT), False),  # of another class
        ((PERSON, FAINT), ((50, 10, 90, 90, 0.9, 0), FAINT), False),  # elsewhere
        ((PERSON,), (), False),
        ((PERSON, FAINT), (PERSON,), True),
        ((PERSON,), ((10, 10, 50, 90, 0.42, 0),), True),  # less sure, but there
        ((PERSON, CAT, FAINT), (PERSON, CAT, (0, 0, 9, 9, 0.45, 4)), True),  # near the threshold anything may be
    ],
)
def test_sure_detections_decide(known: tuple[object, ...], answer: tuple[object, ...], expected: bool) -> None:
    assert agrees(seen(*known), seen(*answer)) is expected  # type: ignore[arg-type]


def test_overlap_is_intersection_over_union() -> None:
    one = np.array([[0, 0, 10, 10]], np.float32)
    other = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    assert overlaps(one, other).tolist() == [pytest.approx([1, 1 / 3, 0, 0])]


def test_one_answer_of_five_is_compared() -> None:
    comparison = Comparison({"a": seen(PERSON)})
    told = [comparison("a", seen(PERSON)) for _ in range(10)]
    assert told == [True, None, None, None, None] * 2
    assert comparison("b", seen(PERSON)) is None


def test_answers_of_a_run_are_compared_with_what_the_service_said_before() -> None:
    with served("null_detector") as url:
        pictures = Pictures(folder=plan_for(url, constant(1, 2)).pictures.folder, width=WIDTH, height=HEIGHT, scenes=3)
        plan = plan_for(url, constant(50, 3), agreement=True, pictures=pictures, mix={"jpeg": 1, "v2-binary": 1})
        run = Conductor(plan).run().run
    checked = sum(series.agreement_checked for series in run.series.values())
    assert checked == 30
    assert sum(series.agreed for series in run.series.values()) == checked


def test_a_service_that_does_not_tell_what_it_sees_is_named() -> None:
    with pytest.raises(NoReference, match="does not tell what is in a picture"):
        ask_about({0: Picture(b"", 1, 1)}, Endpoint("http://127.0.0.1:1", "m"))
