"""Answers of a server, read piece by piece: what is one, what is none, and where it ends."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.client import BadAnswer
from saccade_serving.client.answer import SCRATCH_BYTES, Answer, AnswerReader

LIMIT = 2**20
HEAD = b"HTTP/1.1 200 OK\r\n"


def reader_of(limit: int = LIMIT) -> AnswerReader:
    return AnswerReader(bytearray(SCRATCH_BYTES), limit)


def feed(reader: AnswerReader, data: bytes) -> int:
    """Give the reader bytes as a socket would; returns how many it took until its answer was complete."""
    at = 0
    while at < len(data):
        buffer = reader.buffer()
        count = min(len(buffer), len(data) - at)
        buffer[:count] = data[at : at + count]
        at += count
        if reader.received(count):
            break
    return at


def read(data: bytes, limit: int = LIMIT, bodyless: bool = False) -> tuple[Answer, bool]:
    """The answer in the bytes, and whether its connection may be used again."""
    reader = reader_of(limit)
    reader.expect(bodyless)
    assert feed(reader, data) == len(data)
    assert reader.answer is not None
    return reader.answer, reader.keep_alive


WHOLE = {
    "length": HEAD + b"Content-Length: 5\r\nX-Y: a\r\nx-y: b\r\n\r\nhello",
    "empty": HEAD + b"content-length: 0\r\n\r\n",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nx-t: 1\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    + HEAD
    + b"content-length: 5\r\n\r\nhello",
    "no reason": b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello",
    "large": HEAD + b"content-length: 200000\r\n\r\n" + bytes(range(250)) * 800,
}


def test_an_answer_is_status_headers_and_body() -> None:
    answer, keep_alive = read(WHOLE["length"])
    assert (answer.status, bytes(answer.body)) == (200, b"hello")
    assert answer.headers == {"content-length": "5", "x-y": "a, b"}
    assert keep_alive


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("empty", b""),
        ("chunks", b"hello"),
        ("interim", b"hello"),
        ("no reason", b"hello"),
        ("large", bytes(range(250)) * 800),
    ],
)
def test_a_body_ends_where_its_head_says(name: str, body: bytes) -> None:
    answer, keep_alive = read(WHOLE[name])
    assert (answer.status, bytes(answer.body)) == (200, body)
    assert keep_alive


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_the_pieces_that_an_answer_comes_in_change_nothing(name: str, sizes: list[int]) -> None:
    data = WHOLE[name]
    reader = reader_of()
    reader.expect()
    at, turn = 0, 0
    while at < len(data):
        size = max(sizes[turn % len(sizes)], len(data) // 2000)
        at += feed(reader, data[at : at + size])
        turn += 1
    assert reader.answer is not None
    whole, _ = read(data)
    assert reader.answer == whole
    assert reader.keep_alive


def test_sixteen_interim_heads_are_passed_over_before_each_answer() -> None:
    reader = reader_of()
    for _ in range(2):
        reader.expect()
        feed(reader, b"HTTP/1.1 100 Continue\r\n\r\n" * 16 + WHOLE["length"])
        assert reader.answer is not None
        assert bytes(reader.answer.body) == b"hello"


def test_memory_that_is_only_announced_is_not_touched() -> None:
    size = 2**30
    reader = reader_of(size)
    reader.expect()
    before = resident()
    feed(reader, HEAD + b"content-length: %d\r\n\r\nhello" % size)
    assert len(reader.buffer()) == size - 5
    assert resident() - before < 64 * 2**20


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_one_answer_after_the_other_has_memory_of_its_own() -> None:
    reader = reader_of()
    bodies = []
    for letter in b"abc":
        reader.expect()
        feed(reader, HEAD + b"content-length: 100000\r\n\r\n" + bytes([letter]) * 100000)
        assert reader.answer is not None
        bodies.append(reader.answer.body)
    assert [bytes(body) for body in bodies] == [bytes([letter]) * 100000 for letter in b"abc"]


@pytest.mark.parametrize("head", [b"connection: close", b"Connection: x, Close"])
def test_a_server_that_closes_is_heard_to_its_end(head: bytes) -> None:
    reader = reader_of()
    reader.expect()
    feed(reader, HEAD + head + b"\r\n\r\nhello")
    assert reader.answer is None
    assert reader.ended()
    assert reader.answer is not None
    assert bytes(reader.answer.body) == b"hello"
    assert not reader.keep_alive


def test_an_end_in_the_middle_completes_nothing_else() -> None:
    for data in (b"", HEAD, HEAD + b"content-length: 5\r\n\r\nhell", WHOLE["chunks"][:-2]):
        reader = reader_of()
        reader.expect()
        feed(reader, data)
        assert not reader.ended()
        assert reader.began == bool(data)


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"content-length: 5\r\nconnection: close\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        WHOLE["length"] + b"HTTP/1.1 200 OK\r\n",
        WHOLE["chunks"] + b"x",
    ],
)
def test_a_connection_is_not_used_again_where_it_is_to_close_or_more_came_than_the_answer(data: bytes) -> None:
    answer, keep_alive = read(data)
    assert bytes(answer.body) == b"hello"
    assert not keep_alive


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body_whatever_they_say(status: int) -> None:
    data = b"HTTP/1.1 %d X\r\ncontent-length: 5\r\n\r\n" % status
    assert read(data)[0].body == b""
    assert read(WHOLE["length"][:-5], bodyless=True)[0].body == b""


BAD = {
    "garbage": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "garbage without an end": b"\x15\x03\x01\x00\x02\x02",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "status": b"HTTP/1.1 20 OK\r\n\r\n",
    "large status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "switching": b"HTTP/1.1 101 X\r\nupgrade: x\r\n\r\n",
    "no length": HEAD + b"\r\n",
    "two lengths": HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "list of lengths": HEAD + b"content-length: 5, 5\r\n\r\nhello",
    "negative": HEAD + b"content-length: -5\r\n\r\n",
    "signed": HEAD + b"content-length: +5\r\n\r\nhello",
    "length and chunks": HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    "gzip": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n",
    "chunks in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    "space before a colon": HEAD + b"content-length : 5\r\n\r\nhello",
    "folded": HEAD + b"x: a\r\n b\r\ncontent-length: 5\r\n\r\nhello",
    "bare line feed": HEAD + b"x: a\ncontent-length: 5\r\n\r\nhello",
    "bad chunk": HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
    "long chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "long head": HEAD + b"x: " + b"a" * 70_000,
    "many headers": HEAD + b"x: a\r\n" * 300 + b"\r\n",
    "long body": HEAD + b"content-length: %d\r\n\r\n" % (LIMIT + 1),
    "absurd body": HEAD + b"content-length: 9" + b"9" * 30 + b"\r\n\r\n",
    "long chunks": HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 2**16 + b"\r\n") * 17,
    "many interim heads": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + WHOLE["length"],
    "long rest": HEAD + b"connection: close\r\n\r\n" + b"x" * (LIMIT + 1),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    reader = reader_of()
    reader.expect()
    with pytest.raises(BadAnswer):
        feed(reader, data)


def test_memory_is_taken_for_what_comes_not_for_what_is_announced_beyond_the_limit() -> None:
    reader = reader_of(10)
    reader.expect()
    with pytest.raises(BadAnswer, match="the answer has 11 bytes or more; the limit is 10"):
        feed(reader, HEAD + b"content-length: 11\r\n\r\n")


def test_what_nobody_asked_for_is_refused() -> None:
    reader = reader_of()
    with pytest.raises(BadAnswer, match="nobody asked for"):
        feed(reader, b"HTTP/1.1 408 Timeout\r\n\r\n")
    reader = reader_of()
    reader.expect()
    feed(reader, WHOLE["length"])
    with pytest.raises(BadAnswer, match="nobody asked for"):
        feed(reader, b"x")


@given(st.binary(max_size=300), st.integers(1, 50))
def test_whatever_comes_is_an_answer_or_none_and_never_anything_else(data: bytes, size: int) -> None:
    for start in (b"", b"HTTP/1.1 ", HEAD, HEAD + b"transfer-encoding: chunked\r\n\r\n"):
        reader = reader_of(1000)
        reader.expect()
        whole = start + data
        try:
            for at in range(0, len(whole), size):
                feed(reader, whole[at : at + size])
        except BadAnswer:
            pass
