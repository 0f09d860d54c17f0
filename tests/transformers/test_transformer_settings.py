"""Settings of the transformer that contradict one another, or that could never work, end the start."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from saccade_transformers.settings import TransformerSettings, check_hosts

SHARED = {"cache": "redis", "cache_redis_namespace": "default/detector"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"candidate_host": ","}, "candidate_host is ','; expected host:port"),
        ({"candidate_host": "http://a:1"}, "without http:// and path"),
        ({"shadow_host": "a:1,b:2"}, "shadow_host is 'a:1,b:2'; expected one host:port"),
        ({"shadow_dir": "/tmp/shadow"}, "expected SACCADE_TRANSFORMER_SHADOW_HOST"),
        ({"shadow_host": "a:1", "shadow_images": True}, "expected SACCADE_TRANSFORMER_SHADOW_DIR"),
        ({"variant_header": True}, "expected SACCADE_TRANSFORMER_CANDIDATE_HOST"),
        ({"candidate_share": 0.5}, "expected SACCADE_TRANSFORMER_CANDIDATE_HOST"),
        ({"candidate_host": "a:1", "candidate_name": "stable"}, "expected two names"),
        ({"cache": "redis"}, "expected SACCADE_TRANSFORMER_CACHE_REDIS_URL"),
        ({"cache_redis_url": "redis://a:1"}, "cache_redis_url is set, but cache is 'local'; expected 'redis'"),
        ({"cache": "redis", "cache_redis_url": "redis://a:1"}, "expected SACCADE_TRANSFORMER_CACHE_REDIS_NAMESPACE"),
        ({**SHARED, "cache_redis_url": "http://a:1"}, "cache_redis_url is no URL of a Redis"),
        ({**SHARED, "cache_redis_url": "redis://a:port"}, "cache_redis_url is no URL of a Redis"),
        ({**SHARED, "cache_redis_url": "redis://a?decode_responses=true"}, "cache_redis_url has decode_responses"),
        ({**SHARED, "cache_redis_url": "redis://a:1/cameras"}, "cache_redis_url is no URL of a Redis"),
        ({**SHARED, "cache_redis_url": "redis://"}, "cache_redis_url is no URL of a Redis"),
        ({**SHARED, "cache_redis_url": "unix:///tmp/redis.sock"}, "cache_redis_url is no URL of a Redis"),
        ({**SHARED, "cache_redis_url": "redis://a:1?ssl_ca_certs=ca.crt"}, "has ssl_ca_certs that cannot be used"),
        ({**SHARED, "cache_redis_url": "rediss://a:1?ssl_certificate=x"}, "has ssl_certificate that cannot be used"),
        ({**SHARED, "cache_redis_url": "rediss://a:1?ssl_cert_reqs=maybe"}, "has ssl_cert_reqs that cannot be used"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TransformerSettings(**settings)


@pytest.mark.parametrize(
    "url",
    [
        "redis://a",
        "redis://a:1/",
        "redis://user:p%23ss@a:1/3",
        "rediss://:password@[::1]:6380/0?ssl_ca_certs=/etc/ca.crt&ssl_cert_reqs=none",
    ],
)
def test_urls_of_a_redis(url: str) -> None:
    settings: dict[str, Any] = {**SHARED, "cache_redis_url": url}
    assert TransformerSettings(**settings).cache_redis_url.get_secret_value() == url


def test_several_hosts_are_told_apart() -> None:
    assert check_hosts("x", "a:1, b:2") == ["a:1", "b:2"]
