"""Reading a request's head: what is understood, and that everything two parsers could see differently is refused."""

from __future__ import annotations

import time

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz_seeds import SEED_HEADS
from saccade_serving.connection.head import MAX_HEAD_BYTES, BadHead, Head, read_head


def head_of(*lines: str, request: str = "POST /v2/models/m/infer HTTP/1.1") -> Head:
    return read_head("".join(f"{line}\r\n" for line in (request, "Host: h", *lines)).encode("latin-1"))


def refused(*lines: str, request: str = "POST /v2/models/m/infer HTTP/1.1") -> BadHead:
    with pytest.raises(BadHead) as caught:
        head_of(*lines, request=request)
    return caught.value


def test_a_plain_head_is_read() -> None:
    head = head_of("Content-Type: application/json", "Content-Length: 12")
    assert (head.method, head.path, head.query, head.http_1_1) == ("POST", "/v2/models/m/infer", "", True)
    assert (head.length, head.chunked, head.keep_alive, head.expects_continue) == (12, False, True, False)
    assert head.headers == {"host": "h", "content-type": "application/json", "content-length": "12"}


@pytest.mark.parametrize("name", ["content-length", "CONTENT-LENGTH", "cOnTeNt-LeNgTh"])
def test_header_names_come_in_any_case(name: str) -> None:
    assert head_of(f"{name}: 7").length == 7


@pytest.mark.parametrize("line", ["X-A:1", "X-A: 1", "X-A:\t 1 \t", "x-a:   1"])
def test_white_space_around_a_value_does_not_belong_to_it(line: str) -> None:
    assert head_of(line).headers["x-a"] == "1"


def test_an_empty_value_is_a_value() -> None:
    assert head_of("X-A:").headers["x-a"] == ""


def test_repeated_headers_become_a_list() -> None:
    assert head_of("Accept: a", "Accept: b").headers["accept"] == "a, b"


@pytest.mark.parametrize("name", ["x-camera-id", "X-User-Key", "x-saccade-variant", "x-deadline-ms", "content-type"])
def test_a_header_that_states_one_thing_is_refused_when_it_is_repeated(name: str) -> None:
    error = refused(f"{name}: hall", f"{name.title()}: yard")
    assert error.status == 400
    assert str(error) == f"header {name.lower()} is sent twice, as 'hall' and 'yard'; expected it once"
    assert len(str(refused(f"{name}: {'a' * 9000}", f"{name}: {'b' * 9000}"))) < 300


def test_a_comma_in_one_header_is_a_part_of_it() -> None:
    assert head_of("x-camera-id: hall, door 3").headers["x-camera-id"] == "hall, door 3"


def test_a_secret_is_not_said_again() -> None:
    error = refused("Authorization: Bearer one", "Authorization: Bearer two")
    assert str(error) == "header authorization is sent twice; expected it once"


def test_the_query_is_not_the_path() -> None:
    head = head_of(request="GET /v2/x?a=b?c&d HTTP/1.1")
    assert (head.path, head.query) == ("/v2/x", "a=b?c&d")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://h/v2", "/v2", ""),
        ("HTTPS://user@h:80/v2?q", "/v2", "q"),
        ("http://h", "/", ""),
        ("http://h?q", "/", "q"),
        ("http://[::1]:80/x", "/x", ""),
        ("//h/v2", "//h/v2", ""),
    ],
)
def test_a_target_in_absolute_form_is_its_path(target: str, path: str, query: str) -> None:
    head = head_of(request=f"GET {target} HTTP/1.1")
    assert (head.path, head.query) == (path, query)


def test_a_star_is_a_target_of_options_alone() -> None:
    assert head_of(request="OPTIONS * HTTP/1.1").path == "*"
    assert refused(request="GET * HTTP/1.1").status == 400


def test_segments_are_decoded_one_by_one() -> None:
    assert head_of(request="GET /a%2Fb/c%20d HTTP/1.1").segments == ["", "a/b", "c d"]


@pytest.mark.parametrize(
    "request_line",
    [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET / HTTP/1",
        "GET /",
        "GET",
        "",
        "G(T / HTTP/1.1",
        "GET /\x00 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /\xe9 HTTP/1.1",
        "GET /\tx HTTP/1.1",
        "GET v2 HTTP/1.1",
        "GET ?q HTTP/1.1",
        "GET /v2#fragment HTTP/1.1",
        "GET http:///v2 HTTP/1.1",
        "GET ftp://h/v2 HTTP/1.1",
        'GET http://h"/v2 HTTP/1.1',
        "GET h:80 HTTP/1.1",
    ],
)
def test_a_request_line_that_is_not_clear_is_refused(request_line: str) -> None:
    assert refused(request=request_line).status == 400


@pytest.mark.parametrize(
    ("version", "said"), [("2.0", "HTTP/2.0"), ("3.0", "HTTP/3.0"), ("0.9", "HTTP/0.9"), ("1.2", "HTTP/1.2")]
)
def test_other_versions_are_told_what_is_served(version: str, said: str) -> None:
    refusal = refused(request=f"GET / HTTP/{version}")
    assert refusal.status == 505
    assert said in str(refusal)
    assert "HTTP/1.1" in str(refusal)


@pytest.mark.parametrize("method", ["CONNECT", "PRI", "FOO", "get", "M-SEARCH"])
def test_methods_that_no_route_has_are_refused(method: str) -> None:
    assert refused(request=f"{method} / HTTP/1.1").status == 501


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "content-length: 5"],
        ["Content-Length: 5, 5"],
        ["Content-Length: 5,6"],
        ["Content-Length: +5"],
        ["Content-Length: -5"],
        ["Content-Length: 5.0"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5 5"],
        ["Content-Length: 1_0"],
        ["Content-Length: \xb2"],
        ["Content-Length:"],
        ["Content-Length: " + "9" * 19],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 0"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
        ["Content-Length : 5"],
        ["Content-Length\t: 5"],
        [" Content-Length: 5"],
        ["X-A: b", " folded"],
        ["X-A: b", "\tfolded"],
        ["X-A: b\nContent-Length: 5"],
        ["X-A: b\rContent-Length: 5"],
        ["X-A: \x00"],
        ["X\x00A: b"],
        ["X-A: \x0b"],
        ["X-A: \x7f"],
        [": b"],
        ["no colon"],
        ["X(A): b"],
        ["X\xe9: b"],
        ["X-A: b\n"],
        ["Host: other"],
        ["X-Deadline-Ms: 5", "X-Deadline-Ms: 6"],
        ["Inference-Header-Content-Length: 5", "Inference-Header-Content-Length: 6"],
    ],
    ids=repr,
)
def test_what_two_parsers_could_read_differently_is_refused(lines: list[str]) -> None:
    assert refused(*lines).status == 400


@pytest.mark.parametrize(
    "coding", ["gzip", "gzip, chunked", "chunked, gzip", "identity", "", "chunked;q=1", "xchunked", "chunked,"]
)
def test_other_transfer_codings_than_chunked_are_refused(coding: str) -> None:
    assert refused(f"Transfer-Encoding: {coding}").status == 501


@pytest.mark.parametrize("coding", ["chunked", "Chunked", " CHUNKED\t"])
def test_a_chunked_body_has_no_length(coding: str) -> None:
    head = head_of(f"Transfer-Encoding: {coding}")
    assert (head.chunked, head.length) == (True, None)


def test_http_1_0_has_no_chunks() -> None:
    assert refused("Transfer-Encoding: chunked", request="POST / HTTP/1.0").status == 400


def test_without_a_host_only_http_1_0_is_served() -> None:
    with pytest.raises(BadHead, match="host") as caught:
        read_head(b"GET / HTTP/1.1\r\n")
    assert caught.value.status == 400
    assert read_head(b"GET / HTTP/1.0\r\n").path == "/"


@pytest.mark.parametrize(
    ("request_line", "connection", "stays"),
    [
        ("GET / HTTP/1.1", None, True),
        ("GET / HTTP/1.1", "keep-alive", True),
        ("GET / HTTP/1.1", "close", False),
        ("GET / HTTP/1.1", "TE, Close", False),
        ("GET / HTTP/1.1", "closed-circuit", True),
        ("GET / HTTP/1.0", None, False),
        ("GET / HTTP/1.0", "Keep-Alive", True),
    ],
)
def test_who_keeps_the_connection(request_line: str, connection: str | None, stays: bool) -> None:
    lines = [] if connection is None else [f"Connection: {connection}"]
    assert head_of(*lines, request=request_line).keep_alive is stays


@pytest.mark.parametrize(
    ("version", "value", "waits"),
    [
        ("1.1", "100-continue", True),
        ("1.1", "100-Continue", True),
        ("1.0", "100-continue", False),
    ],
)
def test_who_waits_for_continue(version: str, value: str, waits: bool) -> None:
    assert head_of(f"Expect: {value}", request=f"POST / HTTP/{version}").expects_continue is waits


@pytest.mark.parametrize("value", ["200-ok", "100-continue, 100-continue", "100"])
def test_another_expectation_is_refused_and_of_an_old_client_ignored(value: str) -> None:
    assert refused(f"Expect: {value}").status == 417
    assert not head_of(f"Expect: {value}", request="POST / HTTP/1.0").expects_continue


def test_more_header_lines_than_anybody_needs_are_refused() -> None:
    assert refused(*(f"x-{i}: 1" for i in range(300))).status == 431


@pytest.mark.parametrize(
    "tail",
    [
        b"a" * 65_000,
        b"a" * 65_000 + b"\r\n",
        b"a:" + b" " * 65_000 + b"\n\r\n",
        b"a\r\n" * 20_000,
        b"a:" * 32_000,
        b"a:\r\n" * 16_000,
    ],
    ids=["token", "line", "spaces", "lines", "colons", "fields"],
)
def test_no_head_takes_long_to_read(tail: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost: h\r\n" + tail
    begun = time.process_time()
    with pytest.raises(BadHead):
        read_head(data[:MAX_HEAD_BYTES])
    assert time.process_time() - begun < 0.5  # the square of the length took a minute


class Other:
    """What the application's parser sees in the same bytes."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.complete = False
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode().lower(), value.decode("latin-1").strip(" \t")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_message_complete(self) -> None:
        self.complete = True


def check_against_the_other(data: bytes) -> None:
    """What is accepted is read the same way by the application's parser: it sees the very same bytes."""
    try:
        head = read_head(data)
    except BadHead:
        return
    if "upgrade" in head.headers:
        return  # taken out before the other parser sees it
    other = Other()
    other.parser.feed_data(data + b"\r\n")
    assert other.parser.get_method().decode() == head.method
    assert other.parser.get_http_version() == ("1.1" if head.http_1_1 else "1.0")
    if other.url.startswith((b"/", b"*")):  # else it is given the path alone
        url = httptools.parse_url(other.url)
        assert url.path.decode() == head.path
        assert (url.query or b"").decode() == head.query
    assert other.headers == head.headers
    if other.parser.should_keep_alive() != head.keep_alive:  # who says both is believed the one or the other
        assert {"close", "keep-alive"} <= {text.strip() for text in head.headers["connection"].lower().split(",")}
    if head.chunked:
        assert not other.complete
        other.parser.feed_data(b"1\r\nx\r\n0\r\n\r\n")
    elif head.length:
        assert not other.complete
        length = min(head.length, 10_000)
        other.parser.feed_data(b"y" * (length - 1))
        assert not other.complete
        if length < head.length:
            return
        other.parser.feed_data(b"y")
    assert other.complete


NAMES = st.sampled_from(
    [
        "Host",
        "Content-Length",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "Expect",
        "X-A",
        "Accept",
        "Upgrade",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        [
            "h",
            "5",
            "0",
            "+5",
            "5, 5",
            "007",
            "chunked",
            "Chunked",
            "gzip, chunked",
            "close",
            "keep-alive",
            "100-continue",
            "close, keep-alive",
            "Upgrade",
            "h2c",
            "",
            " ",
            "\t1",
            "chunked ",
            "18446744073709551616",
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=8),
)
TARGETS = st.one_of(
    st.sampled_from(
        ["/", "/v2/models/m/infer", "*", "http://h/x", "http://h", "//x/y", "/a?b?c", "/a%2Fb", "/?", '/;="<>\\^`{|}']
    ),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12).map(lambda text: "/" + text),
    st.text(st.characters(max_codepoint=255), max_size=8),
)
METHODS = st.sampled_from(
    ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT", "PRI", "get", "SOURCE", "QUERY"]
)
HEADS = st.builds(
    lambda method, target, version, fields, breaks: (
        f"{method} {target} HTTP/{version}\r\n"
        + "".join(f"{n}{s}{v}{e}" for (n, v), (s, e) in zip(fields, breaks, strict=False))
    ).encode("latin-1"),
    METHODS,
    TARGETS,
    st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0"]),
    st.lists(st.tuples(NAMES, VALUES), max_size=5).map(lambda fields: [("Host", "h"), *fields]),
    st.lists(
        st.tuples(
            st.sampled_from([": ", ": ", ":", " : ", ":\t"]),
            st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r\n ", "\r"]),
        ),
        min_size=6,
        max_size=6,
    ),
)


@settings(deadline=None, max_examples=600)
@given(HEADS)
@example(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close, keep-alive\r\n")
@example(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 007\r\n")
def test_what_is_accepted_is_read_the_same_way_by_the_parser_behind(data: bytes) -> None:
    check_against_the_other(data)


@settings(deadline=None, max_examples=400)
@given(HEADS, st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255), st.booleans()), max_size=4))
def test_so_is_what_is_still_accepted_after_some_bytes_changed(
    data: bytes, changes: list[tuple[int, int, bool]]
) -> None:
    check_against_the_other(changed(data, changes))


def changed(data: bytes, changes: list[tuple[int, int, bool]]) -> bytes:
    mutable = bytearray(data)
    for at, value, insert in changes:
        at = min(at, len(mutable) - 1)
        mutable[at : at + (0 if insert else 1)] = bytes([value])
    return bytes(mutable)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_whatever_the_bytes_nothing_but_a_refusal_is_raised(data: bytes) -> None:
    check_against_the_other(data)


@pytest.mark.parametrize("name", list(SEED_HEADS))
def test_the_seeds_are_accepted_or_refused_as_they_are_known_to_be(name: str) -> None:
    data, status = SEED_HEADS[name]
    check_against_the_other(data)
    if status:
        with pytest.raises(BadHead) as refused:
            read_head(data)
        assert refused.value.status == status
    else:
        read_head(data)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from([data for data, _ in SEED_HEADS.values()]),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255), st.booleans()), min_size=1, max_size=4),
)
def test_a_seed_with_some_bytes_changed_is_read_the_same_way_or_refused(
    data: bytes, changes: list[tuple[int, int, bool]]
) -> None:
    check_against_the_other(changed(data, changes))
