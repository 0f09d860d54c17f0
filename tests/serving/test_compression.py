"""Compressed bodies: what every client's library writes is read, and what would fill the memory is not."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import random
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade_serving.errors import InvalidRequest, PayloadTooLarge, UnsupportedMedia
from saccade_serving.oip.compression import MAX_MEMBERS, Choice, compress, fill, inflate, is_asked_for

MUCH = 2**16


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """Decompress into ``limit`` bytes of memory, in two parts, as a server does that sees that it needs more."""
    room = memoryview(bytearray(limit))
    pieces = inflate(body, coding)
    half, left = fill(room[: limit // 2], pieces)
    rest, left = fill(room[half:], pieces, left) if left else (0, b"")
    if left:
        raise PayloadTooLarge("the decompressed request body", None, limit)
    return bytes(room[: half + rest])


def raw_deflate(data: bytes, level: int = 6) -> bytes:
    """Deflate without zlib's header, as old clients send it."""
    return zlib.compress(data, level, wbits=-15)


def gzip_members(data: bytes, *cuts: int) -> bytes:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return b"".join(gzip.compress(data[a:b]) for a, b in itertools.pairwise(edges))


@given(data=st.binary(max_size=5000), coding=st.sampled_from(["gzip", "deflate"]))
def test_what_is_compressed_here_is_read_here_and_by_zlib(data: bytes, coding: str) -> None:
    packed = compress(data, coding)
    assert decompress(packed, coding, MUCH) == data
    assert zlib.decompress(packed, 31 if coding == "gzip" else 15) == data


@given(data=st.binary(max_size=5000), level=st.integers(0, 9))
def test_every_level_and_every_form_of_deflate_is_read(data: bytes, level: int) -> None:
    assert decompress(zlib.compress(data, level), "deflate", MUCH) == data
    assert decompress(raw_deflate(data, level), "deflate", MUCH) == data


@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=5))
def test_gzip_of_several_members_is_one_body(data: bytes, cuts: list[int]) -> None:
    assert decompress(gzip_members(data, *cuts), "gzip", MUCH) == data


def test_a_body_larger_than_any_step_is_read_whole() -> None:
    data = random.Random(1).randbytes(3_000_001)
    for coding, packed in (("gzip", gzip.compress(data, 1)), ("deflate", raw_deflate(data, 1))):
        assert decompress(packed, coding, len(data)) == data


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(buffer: type[bytes]) -> None:
    assert decompress(buffer(gzip.compress(b"abc")), "gzip", 3) == b"abc"


@pytest.mark.parametrize("coding", ["gzip", "GZip", "x-gzip", "X-GZIP"])
def test_a_codings_name_is_of_any_case(coding: str) -> None:
    assert decompress(gzip.compress(b"abc"), coding, 3) == b"abc"


@pytest.mark.parametrize("coding", ["br", "zstd", "", "gzip, deflate", "x" * 5000])
def test_another_coding_is_unsupported_and_named_shortly(coding: str) -> None:
    with pytest.raises(UnsupportedMedia, match="expected gzip, deflate or none") as caught:
        decompress(b"", coding, 10)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_exactly_the_limit_passes_and_one_byte_more_does_not(size: int) -> None:
    for coding, packed in (
        ("gzip", gzip.compress(bytes(size))),
        ("deflate", zlib.compress(bytes(size))),
        ("deflate", raw_deflate(bytes(size))),
    ):
        assert len(decompress(packed, coding, size)) == size
        if size:
            with pytest.raises(PayloadTooLarge, match=f"the limit is {size - 1} bytes"):
                decompress(packed, coding, size - 1)


@pytest.mark.parametrize("form", ["gzip", "members", "zlib", "raw"])
def test_a_bomb_costs_no_more_than_its_limit(form: str) -> None:
    size, limit = 200 * 2**20, 2**20
    match form:
        case "gzip":
            coding, bomb = "gzip", gzip.compress(bytes(size), 6)
        case "members":
            coding, bomb = "gzip", gzip.compress(bytes(2**20), 6) * 200
        case "zlib":
            coding, bomb = "deflate", zlib.compress(bytes(size), 6)
        case _:
            coding, bomb = "deflate", raw_deflate(bytes(size))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decompress(bomb, coding, limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit


def test_as_many_streams_as_a_body_may_have_are_read_in_a_moment_and_more_are_refused() -> None:
    member = gzip.compress(b"")
    begun = time.perf_counter()
    assert decompress(gzip.compress(b"abc") + member * (MAX_MEMBERS - 1), "gzip", 10) == b"abc"
    with pytest.raises(InvalidRequest, match="bytes follow the gzip data"):
        decompress(member * 1_000_000, "gzip", 10)
    assert time.perf_counter() - begun < 5


def test_what_hardly_compresses_takes_linear_time() -> None:
    data = random.Random(2).randbytes(2**25)
    packed = gzip.compress(data, 0)
    begun = time.perf_counter()
    assert decompress(packed, "gzip", len(data)) == data
    # 32 MiB copied once is nothing; copied again for every step they are 8 GiB.
    assert time.perf_counter() - begun < 2


@given(data=st.binary(min_size=1, max_size=500), kept=st.floats(0, 0.999), coding=st.sampled_from(["gzip", "deflate"]))
def test_a_body_that_ends_early_is_the_clients_error(data: bytes, kept: float, coding: str) -> None:
    packed = compress(data, coding)
    with pytest.raises(InvalidRequest, match="ends early"):
        decompress(packed[: int(kept * len(packed))], coding, MUCH)


def test_a_second_member_that_ends_early_is_the_clients_error() -> None:
    with pytest.raises(InvalidRequest, match="ends early"):
        decompress(gzip.compress(b"abc") + gzip.compress(b"defgh")[:-1], "gzip", MUCH)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"not compressed at all"),
        ("gzip", zlib.compress(b"abc")),
        ("deflate", gzip.compress(b"abc", mtime=0)),  # without the time, since the bytes are in the test's name
        ("deflate", b"\xff\xff\xff\xff"),
        ("gzip", gzip.compress(b"abc", mtime=0) + b"behind it"),
        ("deflate", zlib.compress(b"abc") + b"behind it"),
        ("deflate", raw_deflate(b"abc") + b"behind it"),
        ("gzip", gzip.compress(b"abcdefgh" * 9, mtime=0)[:-8] + bytes(8)),  # wrong checksum
    ],
)
def test_a_body_that_is_something_else_is_the_clients_error(coding: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decompress(body, coding, MUCH)


@given(body=st.binary(max_size=300), coding=st.sampled_from(["gzip", "deflate"]))
def test_garbage_is_refused_or_read_and_nothing_else(body: bytes, coding: str) -> None:
    with contextlib.suppress(InvalidRequest, PayloadTooLarge):
        assert len(decompress(body, coding, 10_000)) <= 10_000


@pytest.mark.parametrize(
    ("accepted", "choice", "coding"),
    [
        ("gzip", "asked", "gzip"),
        ("deflate", "asked", "deflate"),
        (" GZIP ; q=0.5 ", "asked", "gzip"),
        ("gzip;q=0, deflate", "asked", "deflate"),
        ("gzip, deflate", "asked", None),  # what requests and httpx say always
        ("gzip, deflate, br, zstd", "asked", None),  # what browsers say always
        ("identity", "asked", None),
        ("br", "asked", None),
        ("*", "asked", None),
        ("gzip, deflate", "accepted", "gzip"),
        ("br, deflate;q=0.1, gzip", "accepted", "deflate"),
        ("gzip;q=0.000", "accepted", None),
        ("gzip; q = 0", "accepted", None),
        ("", "accepted", None),
        (",;,", "accepted", None),
        ("br," * 100_000 + "gzip", "accepted", None),
        ("gzip", "off", None),
    ],
)
def test_an_answer_is_compressed_as_client_and_settings_want_it(
    accepted: str, choice: Choice, coding: str | None
) -> None:
    assert is_asked_for(accepted, choice) == coding
