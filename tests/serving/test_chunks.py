"""The end of a chunked body: found where the application's parser finds it, whatever the pieces it comes in."""

from __future__ import annotations

import itertools

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade_serving.connection.chunks import ChunkedBody
from saccade_serving.connection.head import BadHead

HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\n"


def end_of(data: bytes, *cuts: int) -> int | None:
    """How many bytes belong to the body, fed in the pieces between ``cuts``; None while more must come."""
    body, taken = ChunkedBody(), 0
    edges = [0, *sorted(cuts), len(data)]
    for begin, end in itertools.pairwise(edges):
        step = body.feed(memoryview(data)[begin:end])
        taken += step
        if body.complete:
            return taken
        assert step == end - begin
    return None


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\n\r\n",
        b"000\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"A\r\n0123456789\r\n0\r\n\r\n",
        b"a;name=value\r\n0123456789\r\n0;x\r\n\r\n",
        b"5 ;x\r\nhello\r\n0\r\n\r\n",
        b"2\r\n\r\n\r\n0\r\n\r\n",
        b"1\r\n0\r\n1\r\n\n\r\n0\r\n\r\n",
        b"0\r\nX-Sum: 1\r\nX-B:\r\n\r\n",
    ],
)
def test_a_body_ends_where_it_ends_in_one_piece_in_two_and_byte_by_byte(body: bytes) -> None:
    data = body + NEXT
    assert end_of(data) == len(body)
    for cut in range(len(data)):
        assert end_of(data, cut) == len(body)
    assert end_of(data, *range(len(data))) == len(body)
    for end in range(len(body)):
        assert end_of(body[:end]) is None


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"g\r\n\r\n",
        b"5_0\r\n\r\n",
        b"1" * 16 + b"\r\n\r\n",
        b"5;\x00\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"0\r\nX-A : 1\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: 1\r\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
        b"0;" + b"x" * 5000 + b"\r\n\r\n",
        b"0" * 5000 + b"\r\n",
        b"0\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
        b"0\r\n" + b"X: 1\r\n" * 65 + b"\r\n",
    ],
)
def test_what_two_parsers_could_read_differently_is_refused_however_it_comes(body: bytes) -> None:
    for cuts in ((), range(len(body)), range(0, len(body), 3)):
        with pytest.raises(BadHead):
            end_of(body, *cuts)


def test_a_line_that_never_ends_is_refused_and_not_kept() -> None:
    body = ChunkedBody()
    for _ in range(40):
        assert body.feed(b"0" * 100) == 100
    with pytest.raises(BadHead):
        body.feed(b"0" * 100)


class Other:
    """The application's parser, which decodes the same bytes."""

    def __init__(self) -> None:
        self.body = b""
        self.complete = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(HEAD)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


CHUNKS = st.lists(
    st.builds(
        lambda data, extension, upper: (b"%X" if upper else b"%x") % len(data) + extension + b"\r\n" + data + b"\r\n",
        st.binary(min_size=1, max_size=40),
        st.sampled_from([b"", b";a", b";a=b", b';a="b c"', b"; a"]),
        st.booleans(),
    ),
    max_size=5,
)
LAST = st.sampled_from(
    [b"0\r\n\r\n", b"00\r\n\r\n", b"0;x\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n", b"0\r\na: b\r\nc:\r\n\r\n"]
)
BODIES = st.builds(lambda chunks, last: b"".join(chunks) + last, CHUNKS, LAST)


def check_against_the_other(data: bytes, cuts: list[int]) -> None:
    """Where we see the end, the parser behind sees it too, at that very byte; it may refuse more than we do."""
    try:
        end = end_of(data, *(cut % (len(data) + 1) for cut in cuts))
    except BadHead:
        return
    other = Other()
    try:
        if end is None:
            other.parser.feed_data(data)
            assert not other.complete
        else:
            other.parser.feed_data(data[: end - 1])
            assert not other.complete
            other.parser.feed_data(data[end - 1 : end])
            assert other.complete
    except httptools.HttpParserError:
        pass


@settings(deadline=None, max_examples=400)
@given(BODIES, st.lists(st.integers(0, 300), max_size=5))
def test_the_end_is_where_the_parser_behind_sees_it(body: bytes, cuts: list[int]) -> None:
    assert end_of(body + NEXT, *(cut % (len(body) + 1) for cut in cuts)) == len(body)
    check_against_the_other(body + NEXT, cuts)


@settings(deadline=None, max_examples=600)
@given(
    BODIES,
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from(b"0159afgAF\r\n;: \t\x00+-xX"), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(0, 300), max_size=5),
)
def test_so_is_it_after_some_bytes_changed(body: bytes, changes: list[tuple[int, int, bool]], cuts: list[int]) -> None:
    changed = bytearray(body)
    for at, value, insert in changes:
        at = min(at, len(changed) - 1)
        changed[at : at + (0 if insert else 1)] = bytes([value])
    check_against_the_other(bytes(changed) + NEXT, cuts)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=3))
def test_whatever_the_bytes_nothing_but_a_refusal_is_raised(data: bytes, cuts: list[int]) -> None:
    check_against_the_other(data, cuts)
