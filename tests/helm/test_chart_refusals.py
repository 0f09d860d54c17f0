"""What would not work is refused before anything is installed, with what was given, what is expected, and why."""

from __future__ import annotations

import re

import pytest

from helm_support import MINIMAL, container, only, refused, render
from saccade_serving import __version__

CPU = ("predictor.gpu.count=0",)
KEY = "predictor.env[0].valueFrom.secretKeyRef.key=b"


def env(name: str, source: str) -> str:
    """One variable of the predictor, for --set: its source as value:1, or valueFrom.fieldRef.fieldPath:a."""
    field, _, value = source.partition(":")
    return f"predictor.env[0].name={name},predictor.env[0].{field}={value}"


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
        (("predictor.timeoutSeconds=601",), "predictor.timeoutSeconds is 601; expected at most 600: Knative refuses"),
        (
            ("transformer.concurrency.hard=1001",),
            "transformer.concurrency.hard is 1001; expected at most 1000, or 0 for no limit: Knative refuses more",
        ),
        (
            ("predictor.resources.requests.cpu=4001m",),
            "predictor.resources.requests.cpu is 4001m and limits.cpu 4; expected at most as much: Kubernetes refuses",
        ),
        (("transformer.resources.limits.memory=2147483647",), "requests.memory is 2Gi and limits.memory 2147483647"),
        (("transformer.resources.limits.cpu=0.5",), "transformer.resources.requests.cpu is 2 and limits.cpu 0.5"),
        (
            ("cache.mode=redis", "redis.enabled=true", "redis.resources.requests.memory=1Gi"),
            "redis.resources.requests.memory is 1Gi and limits.memory 192Mi",
        ),
        (
            (
                "planBuild.enabled=true",
                "planBuild.source=s3://a/graph,planBuild.graph=a.onnx",
                "planBuild.image.repository=builder",
                "planBuild.resources.requests.memory=17Gi",
            ),
            "planBuild.resources.requests.memory is 17Gi and limits.memory 16Gi",
        ),
        (
            ("transformer.queueProxy.memoryRequest=1025Mi",),
            "transformer.queueProxy.memoryRequest is 1025Mi and memoryLimit 1Gi; expected at most as much",
        ),
        (
            ("predictor.image.repository=registry:5000/a/predictor:1",),
            "predictor.image.repository is registry:5000/a/predictor:1; expected it without a tag",
        ),
        (("transformer.image.repository=a/transformer@sha256:0",), "transformer.image.repository is a/transformer@"),
        (
            (
                "planBuild.image.repository=a/builder:1",
                "planBuild.enabled=true,planBuild.source=s3://a/graph,planBuild.graph=a.onnx",
            ),
            "planBuild.image.repository is a/builder:1; expected it without a tag",
        ),
        (
            (env("PORT", "value:a"),),
            "predictor.env has PORT; expected another name: Knative sets it, and refuses whoever else does",
        ),
        ((env("K_REVISION", "value:a"),), "predictor.env has K_REVISION; expected another name"),
        (
            ("predictor.settings.maxQueueSize=8", env("SACCADE_PREDICTOR_MAX_QUEUE_SIZE", "value:a")),
            "predictor.env has SACCADE_PREDICTOR_MAX_QUEUE_SIZE, which is there already; expected each name once",
        ),
        ((env("STORAGE_URI", "value:s3"),), "predictor.env has STORAGE_URI, which is there already"),
        (
            ("transformer.env[0].name=A", "transformer.env[1].name=A"),
            "transformer.env has A, which is there already",
        ),
        (
            (env("HOST_IP", "valueFrom.fieldRef.fieldPath:status.hostIP"),),
            "predictor.env has a valueFrom with fieldRef; expected secretKeyRef or configMapKeyRef: Knative refuses",
        ),
        (
            (
                "transformer.env[0].name=SACCADE_TRANSFORMER_CACHE_REDIS_URL",
                "transformer.env[0].value=rediss://u:pw@h:6379",
            ),
            "transformer.env has SACCADE_TRANSFORMER_CACHE_REDIS_URL with a value; expected it from a Secret",
        ),
        (
            (env("SACCADE_PREDICTOR_MODEL_CONTROL_KEY", "value:0123456789abcdef"),),
            "predictor.env has SACCADE_PREDICTOR_MODEL_CONTROL_KEY with a value; expected it from a Secret",
        ),
        (
            (r"string:predictor.resources.limits.nvidia\.com/gpu=8",),
            "predictor.resources.limits has nvidia.com/gpu; expected predictor.gpu.count",
        ),
        (
            (env("A", "value:a"), "predictor.env[0].valueFrom.secretKeyRef.name=a", KEY),
            "predictor.env has A with value and valueFrom; expected one of them",
        ),
        (
            (r"string:predictor.annotations.autoscaling\.knative\.dev/min-scale=3",),
            "predictor.annotations has autoscaling.knative.dev/min-scale; expected predictor.minReplicas: KServe sets",
        ),
        (
            (r"string:transformer.annotations.autoscaling\.knative\.dev/max-scale=3",),
            "expected transformer.maxReplicas",
        ),
        (
            (r"string:predictor.annotations.autoscaling\.knative\.dev/target=3",),
            "expected predictor.concurrency.target",
        ),
        (
            (r"predictor.annotations.autoscaling\.knative\.dev/window=30s",),
            "predictor.annotations has autoscaling.knative.dev/window, which the chart sets; expected the value",
        ),
        (
            (r"predictor.annotations.serving\.kserve\.io/deploymentMode=Standard",),
            "predictor.annotations has serving.kserve.io/deploymentMode, which the chart sets",
        ),
        (
            ("serviceAccount.create=false",),
            "serviceAccount.create is false and serviceAccount.name empty; expected the name of one that is there",
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
        ("predictor.timeoutSeconds=0", "at '/predictor/timeoutSeconds': minimum: got 0, want 1"),
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
        ("predictor.env[0].name=a b", "at '/predictor/env/0/name'"),
        ("predictor.env[0].valueFrom.secretKeyRef.nme=a", "additional properties 'nme' not allowed"),
        ("predictor.tolerations[0].Key=a", "at '/predictor/tolerations/0': additional properties 'Key' not allowed"),
        ("transformer.tolerations[0].effect=No", "at '/transformer/tolerations/0/effect': value must be one of"),
        ("string:predictor.tolerations[0].tolerationSeconds=9", "got string, want integer"),
        ("predictor.image.tag=1:2", "at '/predictor/image/tag'"),
        ("predictor.image.repository=Registry/Vision/predictor", "at '/predictor/image/repository'"),
        ("fullnameOverride=Big", "at '/fullnameOverride'"),
        ("redis.maxMemory=lots", "at '/redis/maxMemory'"),
    ],
    ids=lambda value: value.partition("=")[0] if "=" in value else "",
)
def test_names_types_and_ranges_are_refused_by_the_schema(sets: str, at: str) -> None:
    assert at in refused(MINIMAL, sets)


@pytest.mark.parametrize("release", ["1x", "a.b"])
def test_a_name_that_kserve_refuses_is_refused(release: str) -> None:
    said = refused(MINIMAL, release=release)
    assert f"The InferenceService's name, from the release's, is {release}; expected small letters, digits" in said
    assert "Set fullnameOverride" in said
    assert render(MINIMAL, "fullnameOverride=demo", release=release)


def test_a_drain_of_no_time_is_not_taken_for_the_default() -> None:
    sets = ("predictor.settings.drainGraceS=0", "predictor.timeoutSeconds=10")
    assert only(render(MINIMAL, *sets), "InferenceService")["spec"]["predictor"]["timeout"] == 10
    assert "settings.drainGraceS 0; expected" in refused(MINIMAL, sets[0], "predictor.timeoutSeconds=9")


def test_requests_as_large_as_the_limits_are_taken_in_any_unit() -> None:
    sets = (
        "predictor.resources.requests.cpu=4000m",
        "predictor.resources.limits.cpu=4",
        "predictor.resources.requests.memory=4096Mi",
        "predictor.resources.limits.memory=4294967296",
        "predictor.queueProxy.memoryRequest=1024Mi",
    )
    assert render(MINIMAL, *sets)


def test_names_of_a_registry_with_a_port_are_no_tags() -> None:
    rendered = container(render(MINIMAL, "predictor.image.repository=localhost:5000/vision/predictor"), "predictor")
    assert rendered["image"] == f"localhost:5000/vision/predictor:{__version__}"


def test_text_that_looks_like_a_number_stays_text() -> None:
    sets = (
        "string:predictor.queueProxy.cpuRequest=1",
        "string:predictor.queueProxy.memoryRequest=1000000000",
        "string:predictor.priorityClassName=100",
        "string:imagePullSecrets[0]=7",
        "string:serviceAccount.name=42",
    )
    predictor = only(render(MINIMAL, *sets), "InferenceService")["spec"]["predictor"]
    assert predictor["annotations"]["queue.sidecar.serving.knative.dev/cpu-resource-request"] == "1"
    assert all(isinstance(value, str) for value in predictor["annotations"].values())
    assert predictor["priorityClassName"] == "100"
    assert predictor["imagePullSecrets"] == [{"name": "7"}]
    assert predictor["serviceAccountName"] == "42"
