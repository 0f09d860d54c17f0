"""Who a request comes from: where it may say so, what may stand there, what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.errors import InvalidRequest
from saccade_transformers.form import PARAMETERS
from saccade_transformers.origin import CAMERA_ID, NOBODY, USER_KEY, Origin, read_origin


def test_who_says_nothing_is_nobody_and_has_no_key() -> None:
    assert read_origin({"score_threshold": 0.5}, {"host": "h"}) is NOBODY
    assert NOBODY.key == ""


@pytest.mark.parametrize(
    ("parameters", "headers", "expected"),
    [
        ({"camera_id": "door"}, {}, Origin("door")),
        ({}, {"x-camera-id": "door"}, Origin("door")),
        ({"camera_id": "door"}, {"x-camera-id": "yard"}, Origin("door")),  # the parameter wins
        ({"user_key": "ann"}, {}, Origin("", "ann")),
        ({}, {"x-user-key": "ann"}, Origin("", "ann")),
        ({"camera_id": "door"}, {"x-user-key": "ann"}, Origin("door", "ann")),
        ({"camera_id": "Küche 3"}, {}, Origin("Küche 3")),
        ({}, {"x-camera-id": "Küche 3".encode().decode("latin-1")}, Origin("Küche 3")),  # UTF-8 in a header
        ({}, {"x-camera-id": "K\xfcche 3"}, Origin("Küche 3")),  # Latin-1 in a header
        ({"camera_id": "x" * 128}, {}, Origin("x" * 128)),
        ({"camera_id": "a\u200cb"}, {}, Origin("a\u200cb")),  # joiners are some scripts' own business
    ],
)
def test_camera_and_user_are_read_from_parameters_else_from_headers(
    parameters: dict[str, str], headers: dict[str, str], expected: Origin
) -> None:
    assert read_origin(parameters, headers) == expected


@pytest.mark.parametrize(
    ("parameters", "headers", "sentence"),
    [
        (
            {"camera_id": "x" * 10_240},
            {},
            "parameter 'camera_id' is 'xxx.*', 10240 characters; expected a string of 1",
        ),
        ({"camera_id": ""}, {}, "parameter 'camera_id' is '', 0 characters; expected"),
        ({"camera_id": "a\nb"}, {}, r"parameter 'camera_id' is 'a\\nb', which has control characters; expected"),
        ({"camera_id": "a\x00"}, {}, "which has control characters"),
        ({"camera_id": "a\x9b"}, {}, "which has control characters"),
        ({"camera_id": "a\u2028b"}, {}, "which has control characters"),
        ({"camera_id": "\ud800"}, {}, "which has control characters"),
        ({"camera_id": 7}, {}, "parameter 'camera_id' is a number; expected a string of 1 to 128 characters"),
        ({"camera_id": True}, {}, "parameter 'camera_id' is a boolean"),
        ({"user_key": 1.5}, {}, "parameter 'user_key' is a number"),
        ({}, {"x-camera-id": "x" * 129}, "header x-camera-id is 'xxx.*', 129 characters"),
        ({}, {"x-camera-id": ""}, "header x-camera-id is '', 0 characters"),
        ({}, {"x-camera-id": "a\x1b[31m"}, "header x-camera-id is .* control characters"),
        ({}, {"x-user-key": "a\tb"}, "header x-user-key is .* control characters"),
    ],
)
def test_what_is_no_name_is_refused_with_what_was_sent_and_what_is_expected(
    parameters: dict[str, str | int | float | bool], headers: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as refused:
        read_origin(parameters, headers)
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()


def test_a_camera_and_a_user_of_the_same_name_are_not_the_same() -> None:
    assert Origin("7").key != Origin("", "7").key
    assert Origin("7").key == Origin("7", "ann").key, "the camera decides"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.dictionaries(st.just("x-camera-id"), st.text()),
)
def test_every_text_is_either_read_as_it_is_or_refused(text: str, headers: dict[str, str]) -> None:
    if not 0 < len(text) <= 128 or not set(text).isdisjoint(map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029))):
        with pytest.raises(InvalidRequest):
            read_origin({"camera_id": text}, headers)
        return
    origin = read_origin({"camera_id": text}, headers)
    assert origin.camera_id == text
    assert origin.key.encode()


def test_forms_and_queries_may_hold_both() -> None:
    assert {CAMERA_ID, USER_KEY} <= PARAMETERS
