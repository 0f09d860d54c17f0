"""Every error a client can get: one status, one gRPC code, one reason, a sentence made of values."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from saccade_serving import errors
from saccade_serving.errors import (
    DeadlineExceeded,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    SaccadeError,
    UnknownTensor,
    short,
)

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^ *[|` ]*[|`]- (\w+) +(\d{3}) +([A-Z_]+) ", re.MULTILINE)
#: Class name -> (status, gRPC code), as the module's docstring draws the tree.
DRAWN = {name: (int(status), code) for name, status, code in ROW.findall(errors.__doc__ or "")}


def tree(base: type[SaccadeError] = SaccadeError) -> Iterator[type[SaccadeError]]:
    """All classes below ``base``."""
    for kind in base.__subclasses__():
        yield kind
        yield from tree(kind)


CLASSES = {kind.__name__: kind for kind in tree() if kind.__module__ == errors.__name__}


def test_the_drawn_tree_and_the_classes_are_the_same_set() -> None:
    assert len(DRAWN) == 16
    assert set(CLASSES) == set(DRAWN)


def test_every_error_class_of_the_packages_stands_in_the_one_file() -> None:
    bases = {"SaccadeError", *CLASSES}
    for path in ROOT.glob("*/saccade_*/**/*.py"):
        if path == Path(errors.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not {ast.unparse(base) for base in node.bases} & bases, f"{path.name}: {node.name}"


@pytest.mark.parametrize("name", DRAWN)
def test_a_class_has_the_status_and_the_code_that_are_drawn(name: str) -> None:
    assert (CLASSES[name].status, CLASSES[name].grpc_code) == DRAWN[name]


@pytest.mark.parametrize("name", CLASSES)
def test_a_grpc_code_is_one_that_grpc_knows(name: str) -> None:
    assert CLASSES[name].grpc_code in grpc.StatusCode.__members__


def test_a_class_drawn_under_another_is_its_subclass() -> None:
    lines = re.findall(r"^    ([|` ] {2})?[|`]- (\w+)", errors.__doc__ or "", re.MULTILINE)
    above = ""
    drawn = {}
    for indented, name in lines:
        if indented:
            drawn[name] = above
        else:
            above = name
    assert drawn == {
        "InvalidImage": "InvalidRequest",
        "MalformedBody": "InvalidRequest",
        "UnknownTensor": "InvalidRequest",
        "WrongShape": "InvalidRequest",
        "ArenaFull": "Overloaded",
    }
    assert all(issubclass(CLASSES[name], CLASSES[parent]) for name, parent in drawn.items())
    direct = set(re.findall(r"^    [|`]- (\w+)", errors.__doc__ or "", re.MULTILINE))
    assert direct == {kind.__name__ for kind in SaccadeError.__subclasses__()}


def test_every_class_has_a_reason_of_its_own_that_a_metric_label_can_hold() -> None:
    reasons = [kind.reason for kind in CLASSES.values()]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch("[a-z_]+", reason) for reason in reasons)


def test_the_reasons_are_those_of_the_api_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (\d{3})[^|]*\| ([A-Z_]+) \|", page, re.MULTILINE)
    assert {(reason, int(status), code) for reason, status, code in listed} == {
        (kind.reason, kind.status, kind.grpc_code) for kind in CLASSES.values()
    }


def test_only_overload_says_when_to_come_back() -> None:
    assert Overloaded("full").retry_after_s == 1.0
    assert Overloaded("full", 2.5).retry_after_s == 2.5
    assert DeadlineExceeded("over").retry_after_s is None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UnknownTensor("b", ["a", "c"]), "input 'b' is not a tensor of this model; expected 'a', 'c'"),
        (UnknownTensor("b", [], "output"), "output 'b' is not a tensor of this model; expected none"),
        (ModelNotFound("m"), "model 'm' is not served here"),
        (ModelNotFound("m", known=["n", "o"]), "model 'm' is not served here; available: n, o"),
        (ModelNotFound("m", "9", ["1", "2"]), "version '9' of model 'm' is not served here; available: 1, 2"),
        (PayloadTooLarge("the image", 12, 10), "the image is 12 bytes; the limit is 10 bytes"),
        (PayloadTooLarge("the body", None, 10), "the body is larger than allowed; the limit is 10 bytes"),
        (PayloadTooLarge("the request", 3, 2, "images"), "the request has 3 images; the limit is 2 images"),
    ],
)
def test_an_error_builds_its_sentence_from_values(error: SaccadeError, sentence: str) -> None:
    assert str(error) == sentence


def test_a_clients_text_in_a_sentence_is_quoted_and_cannot_forge_a_line() -> None:
    sentence = str(ModelNotFound("evil\r\n\x1b[31mmodel\u202e\ud800"))
    assert sentence.isprintable()
    assert sentence.encode("ascii")
    assert "evil\\r\\n\\x1b[31mmodel\\u202e\\ud800" in sentence


def test_short_leaves_what_fits_and_cuts_what_does_not() -> None:
    assert short("a" * 80) == repr("a" * 80)
    assert short("a" * 81) == repr("a" * 80 + "...")
    assert short("abcdef", limit=3) == "'abc...'"
    assert len(short("\x00" * 10**6)) < 400


def test_the_constructors_need_nothing_but_what_they_say() -> None:
    # gRPC and REST build their answers from these attributes of any error, whatever its constructor takes.
    for kind in CLASSES.values():
        assert "self" in inspect.signature(kind.__init__).parameters
        assert isinstance(kind.status, int)
        assert kind.retry_after_s is None
