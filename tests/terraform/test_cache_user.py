"""The transformers' user in ElastiCache may do what the shared frame cache does, and no more: a real Redis says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from cache_support import Bench, frame, numbered, scene
from fakes import eventually
from redis_support import RedisServer, redis_server
from saccade_transformers.cache.cache import CacheLimits
from saccade_transformers.cache.shared.codec import Codec
from saccade_transformers.cache.shared.connections import Connections
from saccade_transformers.cache.shared.metrics import RedisMetrics
from saccade_transformers.cache.shared.owner import PREFIX, Lifetimes, RedisOwner
from terraform_support import TERRAFORM

CACHE = TERRAFORM / "modules" / "aws" / "cache" / "main.tf"
PASSWORD = "a-password-of-letters-only"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis whose user saccade may do what the module says."""
    found = re.search(r'access_string = "([^"]+)"', CACHE.read_text(encoding="utf-8"))
    assert found is not None
    with redis_server(tmp_path) as server:
        rules = [rule for rule in found[1].split() if rule != "on"]
        server.client.execute_command("ACL", "SETUSER", "saccade", "on", f">{PASSWORD}", *rules)
        yield server


def url(server: RedisServer) -> str:
    """As the module writes it into the secret, without TLS."""
    return f"redis://saccade:{PASSWORD}@127.0.0.1:{server.port}/0"


async def test_the_user_may_do_what_the_cache_does(server: RedisServer) -> None:
    client = numbered()
    benches = []
    for _ in range(2):
        metrics = RedisMetrics()
        connections = Connections(url(server), 2, 2.0, metrics, PREFIX + b"probe")
        owner = RedisOwner(connections, Codec(b""), "vision/detector", Lifetimes(60, 960, 30, 60), metrics)
        bench = Bench(client, None, CacheLimits(audit_share=0.0), owner)
        bench.pipeline.start()
        benches.append(bench)
        await eventually(partial(getattr, connections, "is_up"), "Redis is in use")
    one, other = benches
    source = frame(scene())
    assert [(await one.answer(source)).cache, (await other.answer(source)).cache] == ["miss", "exact"]
    for bench in benches:
        await bench.close()


@pytest.mark.parametrize("command", ["FLUSHALL", "CONFIG GET *", "KEYS *", "ACL LIST", "SHUTDOWN", "REPLICAOF NO ONE"])
def test_the_user_administrates_nothing(server: RedisServer, command: str) -> None:
    with Redis.from_url(url(server)) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())
