"""What would not work is refused before anything is installed, with what was given, what is expected, and why."""

from __future__ import annotations

import re

import pytest

from helm_support import MINIMAL, refused

CPU = ("predictor.gpu.count=0",)


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (("predictor.image.repository=",), "predictor.image.repository is empty. Build and push the image"),
        (("transformer.image.repository=",), "docker build --target transformer"),
        (
            ("predictor.minReplicas=0",),
            "predictor.minReplicas is 0; expected at least 1, or predictor.allowScaleToZero=true",
        ),
        (("predictor.minReplicas=4",), "predictor.minReplicas is 4 and maxReplicas 3"),
        (("transformer.minReplicas=6",), "transformer.minReplicas is 6 and maxReplicas 5"),
        (
            ("predictor.timeoutSeconds=39",),
            "predictor.timeoutSeconds is 39 and settings.drainGraceS 30; expected at least 10",
        ),
        (("transformer.settings.drainGraceS=111",), "transformer.timeoutSeconds is 120 and settings.drainGraceS 111"),
        (
            ("predictor.timeoutSeconds=120",),
            "120 and transformer.timeoutSeconds 120; expected the transformer's to be larger",
        ),
        (
            ("predictor.concurrency.hard=119",),
            "predictor.concurrency.hard is 119; expected 0 (no limit, which is best) or at least 120",
        ),
        (("predictor.concurrency.hard=120", "predictor.concurrency.target=121"), "target is 121 and hard 120"),
        (("transformer.concurrency.hard=8",), "transformer.concurrency.target is 16 and hard 8"),
        (
            ("predictor.resources.limits.cpu=null",),
            "predictor.resources.limits has no cpu; expected cpu and memory in both requests and limits",
        ),
        (("transformer.resources.requests.memory=null",), "transformer.resources.requests has no memory"),
        (("predictor.gpu.sharing=mig",), "migProfile is empty; expected one, for example 1g.10gb"),
        (("predictor.gpu.migProfile=1g.10gb",), "predictor.gpu.migProfile is 1g.10gb and sharing none"),
        ((*CPU, "predictor.gpu.product=NVIDIA-L4"), 'count is 0, but product is "NVIDIA-L4"'),
        ((*CPU, "predictor.gpu.sharing=mps"), 'count is 0, but product is "" and sharing "mps"'),
        (("model.path=/opt/models",), "model.storageUri is s3://models/repository and model.path /opt/models"),
        (
            ("model.storageUri=",),
            "model.storageUri and model.path are empty; expected where the model repository lies",
        ),
        (("cache.mode=redis",), "cache.mode is redis, but there is none; expected redis.existingSecret=NAME"),
        (("redis.enabled=true",), "There is a Redis, but cache.mode is local"),
        (
            ("cache.mode=redis", "redis.enabled=true", "redis.existingSecret=a"),
            "redis.enabled is true and redis.existingSecret a",
        ),
        (
            ("cache.mode=redis", "redis.enabled=true", "redis.sealKey=a"),
            "redis.sealKey is a, but there is no redis.existingSecret",
        ),
    ],
    ids=lambda value: re.sub(r"[^\w=.]+", "-", value[0]) if isinstance(value, tuple) else "",
)
def test_what_contradicts_itself_is_refused_with_a_sentence(sets: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(MINIMAL, *sets)


@pytest.mark.parametrize(
    ("sets", "at"),
    [
        ("model.nme=a", "at '/model': additional properties 'nme' not allowed"),
        ("modle.name=a", "at '': additional properties 'modle' not allowed"),
        ("model.name=a/b", "at '/model/name'"),
        ("model.storageUri=/mnt/models", "at '/model/storageUri'"),
        ("model.path=models", "at '/model/path'"),
        ("predictor.timeoutSeconds=601", "at '/predictor/timeoutSeconds': maximum: got 601, want 600"),
        ("predictor.protocol=grpc", "at '/predictor/protocol': value must be one of 'v2', 'grpc-v2'"),
        ("predictor.gpu.count=two", "at '/predictor/gpu/count': got string, want integer"),
        ("predictor.gpu.migProfile=small", "at '/predictor/gpu/migProfile'"),
        ("predictor.image.digest=sha256:abc", "at '/predictor/image/digest'"),
        ("predictor.concurrency.target=0", "at '/predictor/concurrency/target'"),
        (
            "predictor.settings.maxQueSize=8",
            "at '/predictor/settings': additional properties 'maxQueSize' not allowed",
        ),
        ("predictor.settings.maxQueueSize=0", "at '/predictor/settings/maxQueueSize': minimum: got 0, want 1"),
        ("predictor.settings.modelControlKey=secret", "additional properties 'modelControlKey' not allowed"),
        ("predictor.settings.metricsPort=1", "additional properties 'metricsPort' not allowed"),
        ("transformer.settings.scoreThreshold=2", "at '/transformer/settings/scoreThreshold'"),
        ("transformer.settings.cacheTtlS=3", "additional properties 'cacheTtlS' not allowed"),
        ("cache.settings.redisUrl=redis://a", "additional properties 'redisUrl' not allowed"),
        ("cache.mode=on", "at '/cache/mode': value must be one of 'local', 'redis', 'off'"),
        ("predictor.resources.limits.memory=lots", "at '/predictor/resources/limits/memory'"),
        ("predictor.env[0].value=a", "missing property 'name'"),
        ("fullnameOverride=Big", "at '/fullnameOverride'"),
        ("redis.maxMemory=lots", "at '/redis/maxMemory'"),
    ],
    ids=lambda value: value.partition("=")[0] if "=" in value else "",
)
def test_names_types_and_ranges_are_refused_by_the_schema(sets: str, at: str) -> None:
    assert at in refused(MINIMAL, sets)
