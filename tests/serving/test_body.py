"""Receiving a body over ASGI: pieces, limits found at the earliest byte, clients that leave or dawdle, the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from saccade_serving.connection import body as body_module
from saccade_serving.connection.body import Body, ByteBudget, ClientLeft
from saccade_serving.errors import DeadlineExceeded, InvalidRequest, Overloaded, PayloadTooLarge

LIMIT = 1000


class FakeReceive:
    """An ASGI ``receive`` that hands out prepared messages and then waits for ever, as a silent client does."""

    def __init__(self, messages: Iterable[Mapping[str, Any]]) -> None:
        self.messages = list(messages)
        self.calls = 0

    async def __call__(self) -> Any:
        self.calls += 1
        if not self.messages:
            await asyncio.get_running_loop().create_future()
        return self.messages.pop(0)


def pieces(*chunks: bytes, end: bool = True) -> list[dict[str, Any]]:
    """Request messages; ``end`` says that the last one is the last."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if end:
        messages[-1]["more_body"] = False
    return messages


GONE = {"type": "http.disconnect"}


def body_of(
    messages: Iterable[Mapping[str, Any]], declared: int | str | None = None, budget: ByteBudget | None = None
) -> tuple[Body, FakeReceive]:
    receive = FakeReceive(messages)
    headers = {} if declared is None else {"content-length": str(declared)}
    return Body(receive, headers, LIMIT, budget or ByteBudget(10 * LIMIT)), receive


async def test_a_body_in_one_piece_is_handed_on_without_a_copy() -> None:
    chunk = bytes(range(200))
    body, _ = body_of(pieces(chunk), declared=200)
    assert await body.read(5) is chunk
    assert body.complete
    assert body.size == 200


@pytest.mark.parametrize("declared", [9, None])
async def test_a_body_in_pieces_is_put_together(declared: int | None) -> None:
    body, _ = body_of(pieces(b"abc", b"", b"defg", b"hi"), declared)
    assert bytes(await body.read(5)) == b"abcdefghi"
    assert body.size == 9


async def test_a_last_piece_that_is_empty_ends_a_body() -> None:
    body, _ = body_of(pieces(b"abc", b""))
    assert bytes(await body.read(5)) == b"abc"


async def test_a_request_without_a_body_reads_as_empty() -> None:
    body, _ = body_of([{"type": "http.request"}])
    assert bytes(await body.read(5)) == b""
    assert body.complete


async def test_a_body_of_exactly_the_limit_passes() -> None:
    body, _ = body_of(pieces(b"x" * 600, b"x" * 400), declared=LIMIT)
    assert len(await body.read(5)) == LIMIT


async def test_a_declared_size_over_the_limit_is_refused_before_a_byte_is_read() -> None:
    body, receive = body_of(pieces(b"x"), declared=LIMIT + 1)
    with pytest.raises(PayloadTooLarge, match="1001 bytes; the limit is 1000"):
        await body.read(5)
    assert receive.calls == 0


async def test_a_chunked_body_is_refused_at_the_piece_that_goes_over_the_limit() -> None:
    body, receive = body_of(pieces(b"x" * 600, b"x" * 401, b"x" * 5000))
    with pytest.raises(PayloadTooLarge, match="the limit is 1000 bytes"):
        await body.read(5)
    assert receive.calls == 2


async def test_a_small_declared_size_does_not_open_the_limit() -> None:
    body, _ = body_of(pieces(b"x" * 600, b"x" * 600), declared=10)
    with pytest.raises(PayloadTooLarge):
        await body.read(5)


@pytest.mark.parametrize("declared", ["-1", "1e3", "abc", "+5", "1,2", "\u0661"])
async def test_a_declared_size_that_is_no_number_is_refused(declared: str) -> None:
    body, receive = body_of(pieces(b"x"), declared=declared)
    with pytest.raises(InvalidRequest, match="content-length"):
        await body.read(5)
    assert receive.calls == 0


async def test_a_declared_size_of_a_thousand_digits_is_too_large_and_no_arithmetic() -> None:
    body, _ = body_of(pieces(b"x"), declared="9" * 1000)
    with pytest.raises(PayloadTooLarge):
        await body.read(5)


async def test_a_client_that_leaves_in_the_middle_is_noticed() -> None:
    body, _ = body_of([*pieces(b"abc", end=False), GONE], declared=10)
    with pytest.raises(ClientLeft):
        await body.read(5)
    assert not body.complete


async def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    body, _ = body_of(pieces(b"abc", end=False), declared=10)
    with pytest.raises(DeadlineExceeded) as caught:
        await body.read(0.01)
    assert str(caught.value) == "the request body did not arrive within 0.01 s (3 bytes came)"


async def test_a_deadline_that_has_passed_gives_a_silent_client_no_time() -> None:
    body, _ = body_of([], declared=10)
    with pytest.raises(DeadlineExceeded):
        await body.read(0)


async def test_what_is_left_of_a_refused_body_is_thrown_away_but_counted() -> None:
    body, receive = body_of(pieces(*[b"x" * 400] * 5))
    with pytest.raises(PayloadTooLarge):
        await body.read(5)
    await body.discard()
    assert body.complete
    assert body.size == 2000
    assert receive.messages == []


async def test_throwing_away_ends_when_the_client_leaves() -> None:
    body, _ = body_of([*pieces(b"x" * 10, end=False), GONE])
    await body.discard()
    assert body.size == 10


async def test_throwing_away_ends_after_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "DISCARD_S", 0.01)
    body, receive = body_of(pieces(b"x", end=False))
    await asyncio.wait_for(body.discard(), 5)
    assert receive.calls == 2
    assert not body.complete


async def test_throwing_away_ends_after_a_bounded_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "DISCARD_BYTES", 1500)
    body, receive = body_of(pieces(*[b"x" * 500] * 10, end=False))
    await body.discard()
    assert body.size == 1500
    assert receive.calls == 3


async def test_a_client_that_leaves_after_its_body_is_noticed() -> None:
    body, _ = body_of([*pieces(b"abc"), GONE])
    await body.read(5)
    await asyncio.wait_for(body.client_left(), 5)


async def test_a_client_that_stays_is_waited_for() -> None:
    body, _ = body_of(pieces(b"abc"))
    await body.read(5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(body.client_left(), 0.01)


async def test_a_body_holds_its_bytes_of_the_budget_until_it_is_released() -> None:
    budget = ByteBudget(LIMIT)
    body, _ = body_of(pieces(b"x" * 300, b"x" * 100), budget=budget)
    await body.read(5)
    assert budget.used == 400
    body.release()
    body.release()
    assert budget.used == 0


async def test_a_body_over_the_budget_of_all_is_refused_as_overload_and_gives_back_what_it_had() -> None:
    budget = ByteBudget(500)
    first, _ = body_of(pieces(b"x" * 300), budget=budget)
    second, _ = body_of(pieces(b"x" * 150, b"x" * 150), budget=budget)
    await first.read(5)
    with pytest.raises(Overloaded, match="the limit is 500"):
        await second.read(5)
    second.release()
    assert budget.used == 300
    first.release()
    assert budget.used == 0


async def test_a_body_that_is_announced_but_never_comes_takes_nothing_of_the_budget() -> None:
    budget = ByteBudget(LIMIT)
    body, _ = body_of([], declared=LIMIT, budget=budget)
    with pytest.raises(DeadlineExceeded):
        await body.read(0.01)
    assert budget.used == 0


@pytest.mark.parametrize("messages", [[*pieces(b"x" * 300, end=False), GONE], pieces(b"x" * 300, end=False)])
async def test_a_body_that_breaks_off_gives_back_what_it_took(messages: list[dict[str, Any]]) -> None:
    budget = ByteBudget(LIMIT)
    body, _ = body_of(messages, budget=budget)
    with pytest.raises((ClientLeft, DeadlineExceeded)):
        await body.read(0.01)
    body.release()
    assert budget.used == 0
