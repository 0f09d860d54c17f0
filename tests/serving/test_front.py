"""What is remembered of request heads: never a value of another request's, never a secret, never without bound."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import eventually
from saccade_serving.connection import front
from saccade_serving.connection.front import Front
from saccade_serving.connection.gate import Gate
from saccade_serving.connection.head import read_head
from saccade_serving.connection.infer import Infer
from saccade_serving.connection.operation import Router
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.settings import ServiceSettings


def make_front() -> Front:
    gate = Gate({}, ServiceSettings(), Metrics(), Arena(2**20))
    return Front(gate, Router([Infer(gate)]), 1.0)


def head_of(*fields: str, length: int = 5) -> bytes:
    lines = ["POST /v2/models/m/infer HTTP/1.1", "Host: x", f"Content-Length: {length}", *fields]
    return "".join(f"{line}\r\n" for line in lines).encode()


def meet(front: Front, data: bytes) -> bool:
    """Meet a head as a connection does; returns whether it was known, and checks what was known of it."""
    head = read_head(data)
    known = front.recall(data)
    if known is None:
        found = front.router.find(head.path)
        assert found is not None
        front.learn(data, head, found)
        return False
    recalled, headers, _, params = known
    assert headers == head.headers
    assert params == {"model_name": "m"} or params["version"]
    for name in ("method", "path", "query", "length", "chunked", "keep_alive", "expects_continue", "json_length"):
        assert getattr(recalled, name) == getattr(head, name)
    return True


def test_a_head_is_known_from_the_third_time_on_whatever_its_volatile_values_are() -> None:
    front = make_front()
    heads = [head_of(f"x-request-id: {n}", f"Traceparent:00-{n}-01", f"X-DEADLINE-MS:  {n}.5 ") for n in range(6)]
    assert [meet(front, data) for data in heads] == [False, False, True, True, True, True]


@pytest.mark.parametrize("field", ["Authorization: Bearer {}", "Cookie: a={}", "Proxy-Authorization: Basic {}"])
def test_a_head_with_a_secret_is_never_kept(field: str) -> None:
    front = make_front()
    for _ in range(4):
        assert not meet(front, head_of(field.format("s")))
    assert not front.known


def test_another_length_method_path_or_header_is_another_head() -> None:
    front = make_front()
    for _ in range(3):
        meet(front, head_of("x-request-id: a"))
    for other in (
        head_of("x-request-id: a", length=6),
        head_of("x-request-id: a", "Connection: close"),
        head_of("x-request-id: a", "x-request-id: b"),
        head_of(),
        head_of("x-request-id: a").replace(b"POST", b"PUT"),
        head_of("x-request-id: a").replace(b"/m/", b"/n/"),
    ):
        assert front.recall(other) is None


def test_a_value_cannot_carry_a_line_of_its_own() -> None:
    front = make_front()
    for _ in range(3):
        meet(front, head_of("x-request-id: a"))
    for value in ("a\rContent-Length: 9", "a\nTransfer-Encoding: chunked", "a\x00", "a\x7f", "\té", ""):
        assert front.recall(head_of(f"x-request-id: {value}")) is None


@pytest.mark.parametrize("second", ["x-request-id:\tb", "X-Request-Id:", "x-request-id: \tb", "x-request-id:b\tc"])
@pytest.mark.parametrize("first", ["x-request-id: a{}", "Traceparent: a{}"])
def test_a_volatile_header_in_a_second_form_is_not_lost(first: str, second: str) -> None:
    front = make_front()
    for fields in ((0, 1), (1, 0)):
        for number in range(4):
            lines = [first.format(number), second]
            meet(front, head_of(*(lines[at] for at in fields)))
    for _ in range(4):
        meet(front, head_of(second))


def test_no_more_heads_are_kept_than_the_limit() -> None:
    front = make_front()
    for number in range(1000):
        for _ in range(2):
            meet(front, head_of(f"x-other: {number}"))
        assert len(front.known) <= 256


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x-request-id", "X-Request-Id", "traceparent", "tracestate", "x-deadline-ms", "accept"]),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8),
        ),
        max_size=4,
        unique_by=lambda field: field[0].lower(),
    ),
    st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8), min_size=4, max_size=4),
)
def test_a_known_head_says_what_reading_it_says(fields: list[tuple[str, str]], values: list[str]) -> None:
    front = make_front()
    for value in ["first", "second", *values]:
        meet(front, head_of(*(f"{name}:{value if name != 'accept' else fixed}" for name, fixed in fields)))


async def test_no_failure_ends_the_look_at_what_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_front()
    monkeypatch.setattr(front, "_LOOK_S", 0.001)
    looks = 0

    def broken(idle_s: float, most_bytes: int) -> int:
        nonlocal looks
        looks += 1
        raise RuntimeError("a device does not let go")

    monkeypatch.setattr(made.gate, "arena", SimpleNamespace(trim=broken))
    made.start()
    await eventually(lambda: looks > 2, "it goes on")
    await made.stop()
    assert {record.message for record in caplog.records} == {"trim_failed"}
