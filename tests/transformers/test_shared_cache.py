"""Several transformers with one Redis: what they share, what is never given, and what Redis may do to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from redis import Redis as RedisClient
from redis.exceptions import ResponseError

from cache_support import OPTIONS, TASK, Bench, frame, number_of, numbered, scene
from fakes import FakeV2Client, candidates, eventually
from http1_support import make_certificate
from redis_support import HOST, RedisServer, debian_redis, delaying, redis_server
from saccade_serving.oip.messages import InferRequest, InferResponse
from saccade_transformers.cache.cache import CacheLimits
from saccade_transformers.cache.frames import Frame, Scope
from saccade_transformers.cache.policy import Rules
from saccade_transformers.cache.shared import connections
from saccade_transformers.cache.shared.codec import SCHEMA, Codec
from saccade_transformers.cache.shared.connections import Connections, RedisAway
from saccade_transformers.cache.shared.limit import Limit
from saccade_transformers.cache.shared.metrics import RedisMetrics
from saccade_transformers.cache.shared.owner import PREFIX, Lifetimes, RedisOwner
from saccade_transformers.cache.shared.scripts import PROBE
from saccade_transformers.cache.trust import Trust
from saccade_transformers.tasks.detection import Detections

#: Long enough that a busy machine is not taken for a slow Redis.
PATIENT_S = 2.0
NO_AUDITS = CacheLimits(audit_share=0.0)
LIFETIMES = Lifetimes(60, 960, 30, 60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    """The module's server, empty."""
    server.client.flushall()
    server.client.config_resetstat()
    return server


class Replica(Bench):
    """A pipeline whose cameras belong to Redis."""

    def __init__(
        self,
        client: FakeV2Client,
        url: str,
        rules: Rules | None = None,
        limits: CacheLimits = NO_AUDITS,
        timeout_s: float = PATIENT_S,
        secret: bytes = b"",
        namespace: str = "predictor/detector",
        connections: int = 2,
        lifetimes: Lifetimes = LIFETIMES,
    ) -> None:
        self.redis_metrics = RedisMetrics()
        self.connections = Connections(url, connections, timeout_s, self.redis_metrics, PREFIX + b"probe")
        self.owner = RedisOwner(self.connections, Codec(secret), namespace, lifetimes, self.redis_metrics)
        super().__init__(client, rules, limits, self.owner)
        self.metrics.add(*self.redis_metrics.families)

    async def is_up(self) -> None:
        await eventually(lambda: self.connections.is_up, "Redis is in use")

    def rejected(self, why: str) -> float:
        return self.value("saccade_cache_rejected_values_total", reason=why)

    def calls(self, outcome: str) -> float:
        return self.value("saccade_cache_redis_calls_total", outcome=outcome)


@contextlib.asynccontextmanager
async def fleet(
    url: str, count: int = 2, client: FakeV2Client | None = None, **more: Any
) -> AsyncIterator[list[Replica]]:
    """Transformers before one predictor, connected."""
    client = client or numbered()
    replicas = [Replica(client, url, **more) for _ in range(count)]
    for replica in replicas:
        replica.pipeline.start()
    try:
        for replica in replicas:
            await replica.is_up()
        yield replicas
    finally:
        for replica in replicas:
            await replica.close()


def keys(server: RedisServer, kind: bytes) -> list[bytes]:
    return sorted(server.client.keys(PREFIX + kind + b":*"))


# What is shared


async def test_the_same_bytes_are_inferred_once_for_all(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other):
        source = frame(scene())
        first, second = await one.answer(source), await other.answer(source)
        assert (first.cache, second.cache, one.asked) == ("miss", "exact", 1)
        for name in ("boxes", "scores", "class_ids"):
            np.testing.assert_array_equal(getattr(second.answer, name), getattr(first.answer, name))
        assert (second.width, second.height, second.version) == (640, 480, "3")
        assert second.hit is not None
        assert 0 <= second.hit.age_s < 30
        assert (await other.answer(source)).cache == "exact"
        assert redis.calls("get") == 1, "the second time it was known in the process"


async def test_frames_of_a_camera_are_near_hits_whoever_gets_them(redis: RedisServer) -> None:
    async with fleet(redis.url, 3) as replicas:
        answers = [await replicas[index % 3].answer(frame(scene()), "gate") for index in range(9)]
        assert [answer.cache for answer in answers] == ["miss"] + ["near"] * 8
        assert {number_of(answer) for answer in answers} == {1}
        ages = [answer.hit.age_s for answer in answers if answer.hit is not None]
        assert ages == sorted(ages)
        assert redis.calls("get") == 2, "the record goes once to each of the other two"
        [camera] = keys(redis, b"c")
        assert redis.client.hget(camera, "h") == b"8"


async def test_a_change_is_seen_by_whoever_gets_it(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other):
        await one.answer(frame(scene()), "gate")
        shown = scene()
        shown[200:240, 300:330] = 255
        changed = await other.answer(frame(shown), "gate")
        assert (changed.cache, number_of(changed)) == ("miss", 2)
        assert other.refused("outside") == 1
        again = await one.answer(frame(shown), "gate")
        assert (again.cache, number_of(again)) == ("near", 2)
        back = await other.answer(frame(scene()), "gate")
        assert (back.cache, number_of(back)) == ("miss", 3), "the process's own older copy was not asked"


async def test_limits_count_the_hits_of_all(redis: RedisServer) -> None:
    async with fleet(redis.url, rules=replace(Rules(), heartbeat=3)) as (one, other):
        outcomes = [(await (one, other)[index % 2].answer(frame(scene()), "gate")).cache for index in range(9)]
        assert outcomes == ["miss", "near", "near", "near"] * 2 + ["miss"]


async def test_an_answer_that_is_too_old_is_refused_on_rediss_clock(redis: RedisServer) -> None:
    async with fleet(redis.url, rules=replace(Rules(), max_age_s=2.0, gap_s=60)) as (one, other):
        await one.answer(frame(scene()), "gate")
        assert (await other.answer(frame(scene()), "gate")).cache == "near"
        old_at = time.time() + 2.05
        await eventually(lambda: time.time() >= old_at, "it is old")
        assert (await other.answer(frame(scene()), "gate")).cache == "miss"
        assert other.refused("max_age") == 1


async def test_cameras_and_namespaces_share_nothing_but_equal_bytes(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other), fleet(redis.url, 1, namespace="another") as (stranger,):
        source = frame(scene())
        await one.answer(source, "gate")
        assert (await other.answer(frame(scene()), "yard")).cache == "miss"
        assert (await other.answer(source, "door")).cache == "exact"
        assert (await stranger.answer(source)).cache == "miss"
        assert (await stranger.answer(frame(scene()), "gate")).cache == "miss"
        assert b"gate" not in b"".join(redis.client.keys()), "names stay at home"


async def test_what_is_kept_expires(redis: RedisServer) -> None:
    async with fleet(redis.url, 1) as (one,):
        await one.answer(frame(scene()), "gate")
        for kind, most_s in ((b"a", 60), (b"c", 960), (b"r", 30)):
            [key] = keys(redis, kind)
            assert 0 < redis.client.pttl(key) <= most_s * 1e3


async def test_audits_of_all_count_together(redis: RedisServer) -> None:
    client = numbered()
    limits = CacheLimits(audit_share=1.0, audit_pause_s=30)
    async with fleet(redis.url, 2, client, limits=limits) as (one, other):
        for replica in (one, other):
            replica.drawn = 0.0

        async def elsewhere(request: InferRequest) -> InferResponse:
            return wandering(request)

        await one.answer(frame(scene()), "gate")
        client.answer = elsewhere
        [camera] = keys(redis, b"c")
        audits = 0
        for index in range(12):
            replica = (one, other)[index % 2]
            told = redis.client.hget(camera, "t")
            if (await replica.answer(frame(scene()), "gate")).cache != "near":
                break
            audits += 1
            await eventually(partial(has_changed, redis, camera, told), "Redis is told of the audit")
        assert audits == 3
        for replica in (one, other):
            assert (await replica.answer(frame(scene()), "gate")).cache == "miss"
            assert replica.refused("off") >= 1
        assert (await one.answer(frame(scene()), "yard")).cache == "miss"


def has_changed(redis: RedisServer, camera: bytes, told: bytes | None) -> bool:
    return bool(redis.client.hget(camera, "t") != told)


_places = iter(range(10_000))


def wandering(request: InferRequest) -> InferResponse:
    """An answer that never agrees with the one before."""
    left = 20.0 * (next(_places) % 15)
    return InferResponse(request.model_name, [candidates((left, 100, left + 15, 130, 0.9, 0))], "3")


# What is never given


async def test_nothing_older_is_given_after_a_silence(redis: RedisServer) -> None:
    async with fleet(redis.url, lifetimes=replace(LIFETIMES, camera_s=0.1, record_s=0.2)) as (one, other):
        former = frame(scene())
        await one.answer(former, "gate")
        await one.answer(frame(scene(1)), "gate")
        await eventually(lambda: not keys(redis, b"r"), "what is large is forgotten")
        answered = await other.answer(former, "gate")
        assert (answered.cache, number_of(answered)) == ("miss", 3)


async def test_nothing_older_is_given_after_something_newer(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other):
        old, new = frame(scene(0)), frame(scene(1))
        assert number_of(await one.answer(old, "gate")) == 1
        assert number_of(await other.answer(new, "gate")) == 2
        again = await one.answer(old, "gate")
        assert (again.cache, number_of(again)) == ("miss", 3), "the very same bytes, but older than what was given"
        assert one.refused("older") == 1
        assert (await one.answer(old)).cache == "exact", "nobody's camera"


async def test_four_replicas_behind_random_balancing(redis: RedisServer) -> None:
    """One camera's frames one after another: as many hits as one replica has, and never an older answer."""

    async def hits(count: int) -> tuple[int, list[int]]:
        redis.client.flushall()
        draw = random.Random(7)
        picture = scene()
        async with fleet(redis.url, count) as replicas:
            numbers: list[int] = []
            near = 0
            for index in range(160):
                if index % 16 == 0:
                    picture = scene(index)
                answered = await draw.choice(replicas).answer(frame(picture), "gate")
                near += answered.cache == "near"
                numbers.append(number_of(answered))
            return near, numbers

    alone, _ = await hits(1)
    together, numbers = await hits(4)
    assert alone >= 140
    assert together >= 0.9 * alone
    assert numbers == sorted(numbers), "answers never go back"


async def test_many_cameras_at_once_through_four_replicas(redis: RedisServer) -> None:
    client = numbered()
    answer = client.answer
    assert answer is not None
    draw = random.Random(3)

    async def slow(request: InferRequest) -> InferResponse:
        await asyncio.sleep(draw.random() * 0.02)
        return await answer(request)

    client.answer = slow
    async with fleet(redis.url, 4, client, connections=4) as replicas:
        given: list[tuple[float, float, float, bool]] = []
        came_of: dict[int, float] = {}
        for replica in replicas:
            keep = replica.owner.keep

            async def noting(frame: Any, camera: Any, known: Any, kept: Any, is_given: bool, keep: Any = keep) -> bool:
                came_of[round((float(kept.answer.scores[0]) - 0.5) * 1000)] = kept.came
                newest: bool = await keep(frame, camera, known, kept, is_given)
                return newest

            replica.owner.keep = noting  # type: ignore[method-assign]

        async def send(seed: int, camera: str) -> None:
            begun = time.monotonic()
            answered = await draw.choice(replicas).answer(frame(scene(seed // 6)), camera)
            came = answered.hit.kept.came if answered.hit is not None else came_of[number_of(answered)]
            given.append((begun, time.monotonic(), came, answered.hit is not None))

        for seed in range(30):  # three frames of one camera are under way at any time
            await asyncio.gather(*(send(seed, "gate") for _ in range(3)))
        for begun, _, came, is_hit in given:  # a frame's own fresh answer is never old
            newest = max((other for _, ended, other, _ in given if ended < begun), default=0)
            assert not is_hit or came >= newest
        assert sum(is_hit for *_, is_hit in given) > 30


async def test_a_camera_that_shows_two_scenes_in_turn_is_never_answered_with_the_other(redis: RedisServer) -> None:
    async with fleet(redis.url) as replicas:
        answers = [await replicas[index // 2 % 2].answer(frame(scene(index % 2 * 9)), "gate") for index in range(12)]
        assert [answer.cache for answer in answers] == ["miss"] * 12


async def test_an_answer_that_redis_did_not_learn_of_is_a_debt_that_is_paid(redis: RedisServer) -> None:
    client = numbered()
    answer = client.answer
    assert answer is not None
    async with fleet(redis.url, 2, client, timeout_s=0.2) as (one, other):
        await one.answer(frame(scene(0)), "gate")
        assert (await other.answer(frame(scene(0)), "gate")).cache == "near"

        async def while_redis_is_frozen(request: InferRequest) -> InferResponse:
            redis.freeze()
            return await answer(request)

        [camera] = keys(redis, b"c")
        before = int(redis.client.hget(camera, "g"))
        client.answer = while_redis_is_frozen
        try:
            assert number_of(await one.answer(frame(scene(1)), "gate")) == 2
        finally:
            redis.thaw()
        client.answer = answer
        await other.is_up()
        await eventually(lambda: not one.owner._debts, "Redis has been told")
        assert int(redis.client.hget(camera, "g")) > before
        back = await other.answer(frame(scene(0)), "gate")
        assert (back.cache, number_of(back)) == ("miss", 3), "scene 0's answer is older than the one given last"


async def test_a_redis_that_has_gone_back_in_time_is_not_believed(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, _):
        await one.answer(frame(scene(0)), "gate")
        [camera] = keys(redis, b"c")
        earlier = redis.client.hgetall(camera)
        assert number_of(await one.answer(frame(scene(1)), "gate")) == 2
        redis.client.delete(camera)
        redis.client.hset(camera, mapping=earlier)  # a replica that was behind has taken over
        back = await one.answer(frame(scene(0)), "gate")
        assert (back.cache, number_of(back)) == ("miss", 3)


async def test_a_redis_that_has_forgotten_everything_is_filled_again(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other):
        await one.answer(frame(scene()), "gate")
        redis.client.flushall()
        redis.client.script_flush()
        assert (await other.answer(frame(scene()), "gate")).cache == "miss"
        assert (await one.answer(frame(scene()), "gate")).cache == "near"


@pytest.mark.parametrize("ahead_s", [0.5, 3600.0], ids=["a little", "an hour"])
async def test_a_clock_that_was_set_back_costs_a_camera_its_hits_at_most(redis: RedisServer, ahead_s: float) -> None:
    async with fleet(redis.url) as (one, other):
        await one.answer(frame(scene()), "gate")
        [camera] = keys(redis, b"c")
        stamp = int(time.time() * 1e6 + ahead_s * 1e6)
        redis.client.hset(camera, mapping={"s": stamp, "g": stamp})
        answers = [await (one, other)[index % 2].answer(frame(scene()), "gate") for index in range(6)]
        assert answers[0].cache == "miss"
        assert [answer.cache for answer in answers[2:]] == ["near"] * 4
        stamps = int(redis.client.hget(camera, "s") or 0)
        assert (stamps > stamp) == (ahead_s < 1), "stamps go on, or begin anew"


# What may stand in Redis


def sealed(key: bytes, content: Any, schema: int = SCHEMA) -> bytes:
    packed: bytes = msgpack.packb(content)
    return bytes([schema]) + Codec()._tag(key, packed) + packed


def bad_values() -> dict[str, tuple[str, Callable[[bytes, bytes], bytes]]]:
    """By name: why it is rejected, and how it is made of key and good value."""

    def without(index: int, value: object) -> Callable[[bytes, bytes], bytes]:
        def make(key: bytes, good: bytes) -> bytes:
            content = msgpack.unpackb(good[17:])
            content[index] = value
            return sealed(key, content)

        return make

    nested: Any = []
    for _ in range(500):
        nested = [nested]
    many: Any = [[]] * 100_000
    nan = bytes([0]) + np.full(6, np.nan, "<f4").tobytes()
    return {
        "a bit turned": ("seal", lambda _, good: good[:-1] + bytes([good[-1] ^ 1])),
        "cut off": ("seal", lambda _, good: good[:40]),
        "a byte": ("seal", lambda _, good: good[:1]),
        "another's": ("seal", lambda _, good: sealed(b"another key", msgpack.unpackb(good[17:]))),
        "text": ("schema", lambda _, good: b"hello"),
        "pickle": ("schema", lambda _, good: b"\x80\x04\x95" + bytes(40)),
        "newer schema": ("schema", lambda key, good: sealed(key, msgpack.unpackb(good[17:]), SCHEMA + 1)),
        "too large": ("size", lambda _, good: good + bytes(2**21)),
        "no array": ("content", lambda key, good: sealed(key, {"boxes": []})),
        "short array": ("content", lambda key, good: sealed(key, [1, 2])),
        "nested": ("content", lambda key, good: sealed(key, nested)),
        "many": ("content", lambda key, good: sealed(key, many)),
        "no msgpack": ("content", lambda key, good: bytes([SCHEMA]) + Codec()._tag(key, b"\xc1") + b"\xc1"),
        "version": ("content", without(0, 3)),
        "width": ("content", without(1, "640")),
        "no height": ("content", without(2, 0)),
        "true as a number": ("content", without(2, True)),
        "stamp": ("content", without(3, -5)),
        "answer": ("content", without(4, "x")),
        "answer's length": ("content", without(4, bytes(30))),
        "boxes without end": ("content", without(4, bytes(24 * 5000 + 1))),
        "not a number": ("content", without(4, nan)),
        "class": ("content", without(4, bytes([0]) + np.array([0, 0, 9, 9, 0.5], "<f4").tobytes() + b"\xff" * 4)),
        "no score": ("content", without(4, bytes([0]) + np.array([0, 0, 9, 9, 0, 0], "<f4").tobytes())),
    }


@pytest.mark.parametrize("name", bad_values())
async def test_a_value_that_is_none_is_a_miss_and_counted(redis: RedisServer, name: str) -> None:
    why, make = bad_values()[name]
    async with fleet(redis.url) as (one, other):
        source = frame(scene())
        await one.answer(source, "gate")
        [answer], [camera] = keys(redis, b"a"), keys(redis, b"r")
        good, record = redis.client.get(answer), redis.client.get(camera)
        assert good is not None
        assert record is not None
        redis.client.set(answer, make(answer, good))
        assert (await other.answer(source)).cache == "miss"
        assert other.rejected(why) == 1
        redis.client.set(camera, make(camera, record))
        assert (await other.answer(frame(scene()), "gate")).cache == "miss"
        assert other.rejected(why) == 2
        assert (await other.answer(frame(scene()), "gate")).cache == "near"
        assert (await one.answer(frame(scene()), "gate")).cache == "near"


@pytest.mark.parametrize(
    "record",
    [
        {5: -1},
        {6: 0},
        {6: 10**6},
        {7: 1},
        {8: b""},
        {8: "text"},
        {9: float("nan")},
        {9: 1},
        {3: 12345},
    ],
    ids=["hash", "height", "much", "width", "no pixels", "text", "noise", "no noise", "another generation"],
)
async def test_a_record_that_is_none_is_a_miss(redis: RedisServer, record: dict[int, Any]) -> None:
    async with fleet(redis.url) as (one, other):
        await one.answer(frame(scene()), "gate")
        [camera] = keys(redis, b"r")
        content = msgpack.unpackb(redis.client.get(camera)[17:])
        for index, value in record.items():
            content[index] = value
        redis.client.set(camera, sealed(camera, content))
        assert (await other.answer(frame(scene()), "gate")).cache == "miss"
        assert other.rejected("content") == 1
        assert (await one.answer(frame(scene()), "gate")).cache == "near"


@pytest.mark.parametrize("field", ["s", "g", "n", "h"])
@pytest.mark.parametrize("value", [b"abc", b"nan", b"-1", b"1e400", b"9" * 16, b"9" * 400, b"\xff\x00"])
async def test_a_camera_whose_fields_are_no_numbers_is_begun_anew(
    redis: RedisServer, field: str, value: bytes
) -> None:
    if field == "h" and value == b"9" * 16:
        pytest.skip("a number of hits, if a large one: the next frame is inferred")
    async with fleet(redis.url) as (one, other):
        await one.answer(frame(scene()), "gate")
        [camera] = keys(redis, b"c")
        await one.answer(frame(scene(1)), "yard")
        redis.client.hset(camera, field, value)
        assert (await other.answer(frame(scene()), "gate")).cache == "miss"
        assert other.rejected("content") == 1
        assert [(await replica.answer(frame(scene()), "gate")).cache for replica in (one, other)] == ["near"] * 2
        assert (await other.answer(frame(scene(1)), "yard")).cache == "near", "another camera"
        assert one.connections.is_up
        assert other.connections.is_up
        assert not one.calls("refused") + other.calls("refused")


async def test_what_audits_say_at_length_is_not_fetched(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other):
        await one.answer(frame(scene()), "gate")
        [camera] = keys(redis, b"c")
        redis.client.hset(camera, "t", bytes(8 * 2**20))
        before = redis.client.info("stats")["total_net_output_bytes"]
        assert (await other.answer(frame(scene()), "gate")).cache == "miss"
        assert other.rejected("content") == 1
        assert redis.client.info("stats")["total_net_output_bytes"] - before < 2**20
        assert (await one.answer(frame(scene()), "gate")).cache == "near"


async def test_keys_of_another_kind_are_begun_anew(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other):
        source = frame(scene())
        await one.answer(source, "gate")
        for key in (*keys(redis, b"a"), *keys(redis, b"c"), *keys(redis, b"r")):
            redis.client.delete(key)
            redis.client.rpush(key, "a list")
        assert (await other.answer(source, "gate")).cache == "miss"
        assert (await one.answer(frame(scene()), "gate")).cache == "near"
        assert not one.calls("refused") + other.calls("refused")


async def test_what_audits_say_cannot_be_written_by_others(redis: RedisServer) -> None:
    limits = CacheLimits(audit_share=1.0, audit_pause_s=30)
    client = numbered()
    async with fleet(redis.url, 2, client, limits=limits, secret=b"ours") as (one, other):
        for replica in (one, other):
            replica.drawn = 0.0
        await one.answer(frame(scene()), "gate")

        async def elsewhere(request: InferRequest) -> InferResponse:
            return wandering(request)

        client.answer = elsewhere
        [camera] = keys(redis, b"c")
        theirs = Codec(b"theirs").pack_trust(camera, Trust(0.8, 60.0))
        outcomes = []
        for index in range(10):
            redis.client.hset(camera, "t", theirs)
            replica = (one, other)[index % 2]
            before = round(replica.value("saccade_cache_audits_total", agreed="false"))
            outcomes.append((await replica.answer(frame(scene()), "gate")).cache)
            if outcomes[-1] == "near":
                await eventually(partial(replica.disagreed, before + 1), "the audit")
        assert one.rejected("seal") + other.rejected("seal") >= 5
        told = [await one.answer(frame(scene()), "gate") for _ in range(2)]
        assert {answer.cache for answer in told} <= {"near", "miss"}


async def test_a_pause_is_kept_though_somebody_deletes_it(redis: RedisServer) -> None:
    limits = CacheLimits(audit_share=1.0, audit_pause_s=30)
    client = numbered()
    async with fleet(redis.url, 1, client, limits=limits, secret=b"ours") as (one,):
        one.drawn = 0.0
        await one.answer(frame(scene()), "gate")
        [camera] = keys(redis, b"c")

        async def elsewhere(request: InferRequest) -> InferResponse:
            return wandering(request)

        client.answer = elsewhere
        before = None
        for _ in range(3):
            before = redis.client.hget(camera, "t")
            assert (await one.answer(frame(scene()), "gate")).cache == "near"
            await eventually(partial(has_changed, redis, camera, before), "Redis is told of the audit")
        assert before
        assert (await one.answer(frame(scene()), "gate")).cache == "miss"
        redis.client.hdel(camera, "t")
        assert (await one.answer(frame(scene()), "gate")).cache == "miss"
        redis.client.hset(camera, "t", before)  # from before it was switched off, and well sealed
        assert (await one.answer(frame(scene()), "gate")).cache == "miss"
        assert one.refused("off") == 3
        assert one.rejected("seal") == 0


async def test_the_heartbeat_is_kept_though_somebody_sets_its_count_back(redis: RedisServer) -> None:
    async with fleet(redis.url, 2, rules=replace(Rules(), heartbeat=5)) as replicas:
        outcomes = []
        for index in range(24):
            outcomes.append((await replicas[index % 2].answer(frame(scene()), "gate")).cache)
            redis.client.hset(keys(redis, b"c")[0], "h", 0)
        assert outcomes.count("miss") >= 3, "at most five of each replica"


async def test_a_camera_that_redis_cannot_serve_costs_the_others_nothing(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other):
        await one.answer(frame(scene()), "gate")
        [camera], [record] = keys(redis, b"c"), keys(redis, b"r")
        debt = one.owner._keys(Frame(Scope("", "detector", "", (416, 416), OPTIONS), "gate", "use", TASK, 0.0))
        assert (debt.camera, debt.record) == (camera, record), "the same camera"
        for _ in range(20):
            redis.client.delete(camera)
            redis.client.rpush(camera, "a list")
            assert (await one.answer(frame(scene(1)), "yard")).cache in ("miss", "near")
            assert (await other.answer(frame(scene()), "gate")).cache == "miss"
        assert one.connections.is_up
        assert other.connections.is_up
        assert one.calls("left_out") == other.calls("left_out") == 0


# Many at once


async def test_many_frames_at_one_moment_are_no_fault_of_redis(redis: RedisServer) -> None:
    """A fleet of cameras in step, with a limit that is short beside what their calls take together."""
    async with fleet(redis.url, 1, timeout_s=0.02, connections=8) as (one,):
        wrong = 0
        for _ in range(5):
            answers = await asyncio.gather(
                *(one.connections.call(PROBE, [PREFIX + b"x"], ()) for _ in range(256)), return_exceptions=True
            )
            wrong += sum(answer != 1 for answer in answers)
            assert one.connections.is_up, "late calls of a busy process are not Redis's fault"
        assert wrong < 5 * 256, "most are answered even so"


async def test_late_answers_now_and_then_do_not_open_the_breaker_and_many_do(redis: RedisServer) -> None:
    is_late = False
    async with (
        delaying(redis.port, lambda: 0.25 * is_late) as port,
        fleet(f"redis://127.0.0.1:{port}", 1, timeout_s=0.1, connections=1) as (one,),
    ):
        for every, opens in ((10, False), (2, True)):
            for number in range(60):
                is_late = number % every == 0
                with contextlib.suppress(RedisAway):
                    await one.connections.call(PROBE, [PREFIX + b"x"], ())
                is_late = False
                if one.connections._breaker.is_open:
                    break
                await one.is_up()
            assert one.connections._breaker.is_open == opens
            await one.is_up()


async def test_connections_that_were_closed_while_idle_are_no_failure(redis: RedisServer) -> None:
    async with fleet(redis.url, 1, connections=4) as (one,):
        await eventually(lambda: len(one.connections._open) == 4, "all are open")
        for _ in range(2):
            redis.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            quiet = time.monotonic() + 1.05
            await eventually(lambda quiet=quiet: time.monotonic() > quiet, "idle for a while")  # type: ignore[misc]
            assert (await one.answer(frame(scene()), "gate")).cache in ("miss", "near")
        assert not one.calls("failed")
        assert one.connections.is_up


async def test_what_a_camera_takes_is_counted_whoever_has_inferred_it(redis: RedisServer) -> None:
    async with fleet(redis.url) as (one, other):
        for index in range(5):
            await one.answer(frame(scene()), f"camera {index}")
            assert (await other.answer(frame(scene()), f"camera {index}")).cache == "near"
        sizes = [replica.value("saccade_cache_bytes", kind="cameras") for replica in (one, other)]
        assert sizes[0] == sizes[1] > 5 * 100_000


async def test_debts_are_of_cameras_not_of_frames(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with fleet(server.url, 1, timeout_s=0.1) as (one,):
            server.kill()
            for index in range(12):
                await one.answer(frame(scene(index)), f"camera {index % 2}")
            assert len(one.owner._debts) == 2
            server.start()
            await eventually(lambda: not one.owner._debts, "they are paid")
            given = [int(server.client.hget(key, "g")) for key in keys(server, b"c")]
            assert len(given) == 2


async def test_with_a_secret_nobody_else_can_write_answers(redis: RedisServer) -> None:
    async with fleet(redis.url, secret=b"ours") as (one, other), fleet(redis.url, 1, secret=b"theirs") as (thief,):
        source = frame(scene())
        await thief.answer(source, "gate")
        assert (await one.answer(source)).cache == "miss"
        assert (await one.answer(frame(scene()), "gate")).cache == "miss"
        assert one.rejected("seal") == 2
        assert (await other.answer(frame(scene()), "gate")).cache == "near"


# What Redis may do


async def test_without_redis_everything_is_inferred_and_nothing_waits(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    replica = Replica(numbered(), server.url)
    replica.pipeline.start()
    try:
        source = frame(scene())
        for _ in range(3):
            assert (await replica.answer(frame(scene()), "gate")).cache == "miss"
        assert replica.refused("unknown") == 3
        assert replica.calls("left_out") >= 3
        assert [(await replica.answer(source)).cache for _ in range(2)] == ["miss", "exact"], (
            "nobody's frames: as ever"
        )
        assert (await replica.answer(source, "gate")).cache == "miss"
        assert replica.refused("unknown") == 4, "counted once, though there are two answers that it might have had"
        server.start()
        await replica.is_up()
        assert [(await replica.answer(frame(scene()), "gate")).cache for _ in range(2)] == ["miss", "near"]
    finally:
        await replica.close()
        server.client.close()
        server.kill()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_redis_that_goes_and_comes_back(tmp_path: Path, fault: str) -> None:
    with redis_server(tmp_path) as server:
        async with fleet(server.url, timeout_s=0.1) as (one, other):
            assert (await one.answer(frame(scene()), "gate")).cache == "miss"
            assert (await other.answer(frame(scene()), "gate")).cache == "near"
            getattr(server, {"killed": "kill", "frozen": "freeze"}[fault])()
            for _ in range(10):
                answers = await asyncio.gather(*(one.answer(frame(scene()), f"camera {n}") for n in range(4)))
                assert {answer.cache for answer in answers} == {"miss"}
                if not one.connections.is_up:
                    break
            assert not one.connections.is_up
            before = one.calls("left_out")
            assert (await one.answer(frame(scene()), "gate")).cache == "miss"
            assert one.calls("left_out") > before
            assert one.value("saccade_cache_redis_up") == 0
            getattr(server, {"killed": "start", "frozen": "thaw"}[fault])()
            await one.is_up()
            await other.is_up()

            async def is_hit() -> bool:
                return [(await replica.answer(frame(scene()), "gate")).cache for replica in (one, other)] == [
                    "near"
                ] * 2

            for _ in range(100):
                if await is_hit():
                    break
            else:
                pytest.fail("no hits again")
            assert one.value("saccade_cache_redis_up") == 1


async def test_a_slow_redis_is_left_alone(redis: RedisServer) -> None:
    delay_s = 0.0
    async with (
        delaying(redis.port, lambda: delay_s) as port,
        fleet(f"redis://127.0.0.1:{port}", timeout_s=0.05) as (one, _),
    ):
        assert [(await one.answer(frame(scene()), "gate")).cache for _ in range(2)] == ["miss", "near"]
        delay_s = 0.2
        await asyncio.gather(*(one.answer(frame(scene()), f"camera {n}") for n in range(10)))
        await eventually(lambda: not one.connections.is_up, "it is left alone")
        assert one.calls("timeout") >= 5
        delay_s = 0.0
        await one.is_up()
        assert [(await one.answer(frame(scene()), "yard")).cache for _ in range(2)] == ["miss", "near"]


async def test_a_full_redis_is_left_alone_until_there_is_room(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as server:
        async with fleet(server.url) as (one, _):
            server.client.config_set("maxmemory", "1")
            for _ in range(6):
                assert (await one.answer(frame(scene()), "gate")).cache == "miss"
            assert one.calls("refused") >= 1
            assert not one.connections.is_up
            server.client.config_set("maxmemory", "0")
            await one.is_up()
            assert [(await one.answer(frame(scene()), "gate")).cache for _ in range(2)] == ["miss", "near"]


async def test_a_redis_that_may_only_be_read_is_left_alone(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with fleet(server.url) as (one, _):
            server.client.replicaof("127.0.0.1", "1")  # demoted: a failover
            for _ in range(6):
                assert (await one.answer(frame(scene()), "gate")).cache == "miss"
            assert one.calls("refused") >= 1
            assert not one.connections.is_up
            server.client.replicaof("NO", "ONE")
            await one.is_up()
            assert [(await one.answer(frame(scene()), "gate")).cache for _ in range(2)] == ["miss", "near"]


async def test_a_redis_that_a_script_keeps_busy_is_left_alone(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--lua-time-limit", "20") as server:
        async with fleet(server.url) as (one, _):
            endless = asyncio.create_task(asyncio.to_thread(server.client.eval, "while true do end", 0))
            for _ in range(6):
                assert (await one.answer(frame(scene()), "gate")).cache == "miss"
            assert one.calls("refused") >= 1
            assert not one.connections.is_up
            RedisClient.from_url(server.url).script_kill()
            with pytest.raises(ResponseError):
                await endless
            await one.is_up()
            assert [(await one.answer(frame(scene()), "gate")).cache for _ in range(2)] == ["miss", "near"]


async def test_a_cluster_is_told_of_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(tmp_path, "--cluster-enabled", "yes") as server:
        server.client.execute_command("CLUSTER ADDSLOTS", *range(16_384))
        await eventually(lambda: server.client.cluster("INFO")["cluster_state"] == "ok", "a cluster of one")
        replica = Replica(numbered(), server.url)
        replica.pipeline.start()
        await eventually(lambda: any(one.msg == "redis_away" for one in caplog.records), "it is told of")
        assert not replica.connections.is_up
        [said] = [vars(one)["why"] for one in caplog.records if one.msg == "redis_away"]
        assert "hash to the same slot" in said
        assert (await replica.answer(frame(scene()), "gate")).cache == "miss"
        await replica.close()


@pytest.mark.parametrize("is_frozen", [False, True], ids=["slow", "frozen"])
async def test_why_a_redis_that_does_not_answer_is_away(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_frozen: bool
) -> None:
    monkeypatch.setattr(connections, "_CONNECT_S", 0.1 if is_frozen else 30.0)
    async with delaying(redis.port, lambda: 60.0 if is_frozen else 0.2) as port:
        replica = Replica(numbered(), f"redis://127.0.0.1:{port}", timeout_s=0.05)
        replica.pipeline.start()
        await eventually(lambda: any(one.msg == "redis_away" for one in caplog.records), "it is told of")
        [said] = [vars(one)["why"] for one in caplog.records if one.msg == "redis_away"]
        assert said == ("no connection within 0.1 s" if is_frozen else "no answer within 50 ms")
        await replica.close()


async def test_a_redis_that_comes_and_goes_is_told_of_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "saccade.cache")

    def told() -> list[str]:
        return [one.msg for one in caplog.records if one.msg.startswith("redis_")]

    async def kill(server: RedisServer, one: Replica) -> None:
        server.kill()
        await asyncio.gather(*(one.answer(frame(scene()), f"camera {n}") for n in range(8)))
        await eventually(lambda: not one.connections.is_up, "it is away")

    with redis_server(tmp_path) as server:
        async with fleet(server.url, 1) as (one,):
            for _ in range(3):
                await kill(server, one)
                server.start()
                await one.is_up()
            assert told() == ["redis_in_use", "redis_away", "redis_in_use"]
            await kill(server, one)
            assert told()[3:] == []
            one.connections._seldom._next.clear()  # the minute is over, and it stays away
            await eventually(lambda: told()[3:] == ["redis_away"], "it is told of again")
            server.start()
            await eventually(lambda: told()[3:] == ["redis_away", "redis_in_use"], "and that it is back")


async def test_a_call_that_was_cancelled_leaves_no_answer_to_another(redis: RedisServer) -> None:
    delay_s = 0.0
    async with (
        delaying(redis.port, lambda: delay_s) as port,
        fleet(f"redis://127.0.0.1:{port}", 1, connections=1) as (one,),
    ):
        known = frame(scene(1))
        await one.answer(known, "yard")
        delay_s = 0.3
        call = asyncio.create_task(one.answer(frame(scene(2)), "gate"))
        await eventually(lambda: not one.connections._idle, "the call is under way")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        delay_s = 0.0
        await one.is_up()
        answered = await one.answer(frame(scene(1)), "yard")
        assert (answered.cache, number_of(answered)) == ("near", 1)


async def test_nothing_piles_up_while_redis_comes_and_goes(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with fleet(server.url, 1, timeout_s=0.1) as (one,):
            for _ in range(3):
                server.kill()
                await asyncio.gather(*(one.answer(frame(scene()), f"camera {n}") for n in range(8)))
                server.start()
                await one.is_up()
            await eventually(lambda: not one.owner._debts, "the debts are paid")
            await eventually(lambda: len(one.connections._open) == 2, "all connections are open")
            assert len(one.connections._idle) == 2
            assert not one.connections._closing
            assert int(server.client.info("clients")["connected_clients"]) == 3


def has_failed(replica: Replica) -> bool:
    return bool(replica.connections._said)


async def test_with_tls_and_a_user_that_may_do_little(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    acl = (
        "cache on >geheim ~saccade:* +evalsha +eval +script|load +get +set +del +strlen +type +hmget +hset +hdel "
        "+hincrby +pexpire +time +select"
    )
    server = RedisServer(
        tmp_path,
        *("--port", "0", "--tls-port", "{port}", "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-auth-clients", "no", "--user", *acl.split()),
        executable=debian_redis(),
        url=f"rediss://{HOST}:{{port}}/1?ssl_ca_certs={certificate}",
    )
    server.start()
    try:
        url = server.url.replace("rediss://", "rediss://cache:geheim@")
        async with fleet(url) as (one, other):
            assert (await one.answer(frame(scene()), "gate")).cache == "miss"
            assert (await other.answer(frame(scene()), "gate")).cache == "near"
        for bad in (server.url.replace("rediss://", "rediss://cache:falsch@"), f"rediss://{HOST}:{server.port}/0"):
            replica = Replica(numbered(), bad)
            replica.pipeline.start()
            try:
                await eventually(partial(has_failed, replica), "it was tried")
                assert (await replica.answer(frame(scene()), "gate")).cache == "miss"
            finally:
                await replica.close()
    finally:
        server.client.close()
        server.kill()


async def test_a_late_loop_is_not_taken_for_a_late_answer() -> None:
    reader, writer = await asyncio.open_connection(sock=(ours := socket.socketpair())[0])
    ours[1].send(b"in time")
    async with Limit(0.02):
        time.sleep(0.1)  # noqa: ASYNC251  # the loop is busy elsewhere
        assert await reader.read(7) == b"in time"
    with pytest.raises(TimeoutError):
        async with Limit(0.02):
            await reader.read(1)
    async with Limit(0.0):
        pass
    await asyncio.sleep(0)
    writer.close()
    await writer.wait_closed()
    ours[1].close()


def test_an_answer_is_what_it_was_after_a_way_through_bytes() -> None:
    boxes = np.array([[0.5, 1, 9.25, 20], [3, 4, 1e6, 6]], np.float32)
    before = Detections(boxes, np.array([0.9, 1.5], np.float32), np.array([0, 65_535], np.int32), True)
    after = TASK.unpack(TASK.pack(before))
    np.testing.assert_array_equal(after.boxes, before.boxes)
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_array_equal(after.class_ids, before.class_ids)
    assert after.full
    empty = TASK.unpack(TASK.pack(before.take(np.zeros(2, bool))))
    assert len(empty) == 0
