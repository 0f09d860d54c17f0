"""docs/rollout.md played on the real controllers: each way of rolling out, and each way back."""

from __future__ import annotations

import json

import pytest

from cluster_support import VALUES, Namespace
from helm_support import CHART, options

NEW = "predictor.image.tag=new"
CANARY = "canary.component=predictor"
UNREADY = "string:predictor.annotations.fakenode/ready=false"


def percent(share: int) -> str:
    return f"canary.percent={share}"


@pytest.fixture
def demo(namespace: Namespace) -> Namespace:
    """A release that is stable."""
    namespace.upgrade()
    namespace.wait()
    return namespace


def transformer_revisions(namespace: Namespace) -> list[str]:
    return [one for one in namespace.names("revision") if "transformer" in one]


def test_a_canary_is_raised_and_promoted_and_the_transformer_is_not_touched(demo: Namespace) -> None:
    stable = demo.digest()
    of = f"canary.of={stable}"
    for share in (5, 25):
        printed = demo.upgrade(NEW, CANARY, percent(share), of)
        assert f"has {share} % of the requests" in printed
        demo.wait()
        assert demo.shares("predictor") == {"00001": 100 - share, "00002": share}
        assert demo.digest() == stable
    demo.upgrade(NEW)
    demo.wait()
    assert demo.shares("predictor") == {"00002": 100}
    assert demo.digest() != stable
    assert demo.shares("transformer") == {"00001": 100}
    assert transformer_revisions(demo) == ["demo-transformer-00001"]

    # The next one tries something beside what was promoted, and needs no digest where Helm sees the cluster.
    demo.upgrade("predictor.image.tag=newer", CANARY, percent(10))
    demo.wait()
    assert demo.shares("predictor") == {"00002": 90, "00003": 10}


def test_a_candidate_is_rejected_and_never_gets_a_request_again(demo: Namespace) -> None:
    stable = demo.digest()
    demo.upgrade(NEW, CANARY, percent(10))
    demo.wait()
    demo.upgrade(NEW, CANARY, percent(0))
    demo.wait()
    assert demo.shares("predictor") == {"00001": 100, "00002": 0}

    # Each of these would give the rejected revision traffic until another is ready.
    other = ("predictor.image.tag=other", CANARY, percent(10))
    assert "The newest revision of the predictor that is ready is demo-predictor-00002" in demo.refused(*other)
    assert "expected them with canary.component=predictor and canary.percent=0 first" in demo.refused()

    demo.upgrade(CANARY, percent(0))
    assert demo.shares("predictor").get("00002", 0) == 0
    demo.wait()
    assert demo.shares("predictor") == {"00001": 100, "00003": 0}
    demo.upgrade()
    demo.wait()
    assert demo.shares("predictor") == {"00003": 100}
    assert demo.digest() == stable

    demo.upgrade(*other, UNREADY)
    ended = demo.rollout("wait", "demo", "--timeout", "15")
    assert ended.returncode == 1
    assert "revision demo-predictor-00004 is not ready" in ended.stderr
    assert demo.shares("predictor").get("00004", 0) == 0
    assert demo.shares("predictor")["00003"] == 100


def test_what_is_not_ready_is_not_promoted(demo: Namespace) -> None:
    broken = (NEW, UNREADY)
    demo.upgrade(*broken, CANARY, percent(10))
    ended = demo.rollout("wait", "demo", "--timeout", "10")
    assert ended.returncode == 1
    assert "The predictor's newest revision, demo-predictor-00002, is not ready" in demo.refused(*broken)


def test_a_forgotten_canary_is_seen(demo: Namespace) -> None:
    stable = demo.digest()
    demo.upgrade(NEW, CANARY, percent(10))
    demo.wait()
    said = demo.refused("predictor.image.tag=third")
    assert "The last release has a canary of the predictor at 10 %" in said
    assert "with a third revision nobody would know which one serves" in said
    demo.upgrade(NEW)
    demo.wait()
    said = demo.refused("predictor.image.tag=third", CANARY, percent(10), f"canary.of={stable}")
    assert f"canary.of is {stable}, but stable is {demo.digest()}" in said


def test_one_component_at_a_time(demo: Namespace) -> None:
    said = demo.refused(NEW, "transformer.image.tag=new", CANARY, percent(10))
    assert "canary.component is predictor, but the transformer differs from the stable release's, too" in said
    assert "kserve#1669" in said
    said = demo.refused(NEW, "predictor.minReplicas=2", CANARY, percent(10))
    assert "predictor.minReplicas is 2 and the stable release's 1; expected the same during a canary" in said
    demo.upgrade("transformer.image.tag=new", "canary.component=transformer", percent(10))
    demo.wait()
    assert demo.shares("transformer") == {"00001": 90, "00002": 10}
    assert demo.shares("predictor") == {"00001": 100}


def test_a_canary_of_the_other_component_waits_for_the_first(demo: Namespace) -> None:
    demo.upgrade(NEW, CANARY, percent(10))
    demo.wait()
    for sets in (
        ("transformer.image.tag=new", "canary.component=transformer", percent(10)),
        (NEW, "transformer.image.tag=new", "canary.component=transformer", percent(10)),
        ("canary.component=transformer", percent(0)),
    ):
        assert "a candidate of the predictor is being tried; expected that to be promoted" in demo.refused(*sets)
    assert demo.shares("predictor") == {"00001": 90, "00002": 10}


def test_an_upgrade_that_failed_is_not_believed(demo: Namespace) -> None:
    """Nothing of it is recorded; what of it was applied is seen in the InferenceService."""
    before = demo.digest()
    broken = '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "broken"}, "spec": {"ports": []}}'
    sets = ("transformer.image.tag=new", f"json:extraObjects=[{broken}]")
    assert "broken" in demo.refused(*sets)
    assert demo.digest() == before
    said = demo.refused("transformer.image.tag=new", NEW, CANARY, percent(10))
    assert "the transformer differs from the stable release's, too" in said
    demo.kubectl("patch", "isvc", "demo", "--type=merge", "-p", '{"spec": {"predictor": {"maxReplicas": 7}}}')
    assert "The InferenceService has another spec" in demo.refused(NEW, CANARY, percent(10))
    # Helm 4 leaves a field to whoever changed it last, unless it is told to take it back.
    ended = demo.helm("upgrade", "demo", CHART, "--force-conflicts", *options(*VALUES))
    assert ended.returncode == 0, ended.stderr
    demo.wait()
    ended = demo.helm("upgrade", "demo", CHART, *options(*VALUES, NEW, CANARY, percent(10)), "--dry-run=server")
    assert ended.returncode == 0, ended.stderr


def test_a_stable_release_that_was_refused_has_not_arrived(demo: Namespace) -> None:
    demo.upgrade("string:predictor.annotations.autoscaling\\.knative\\.dev/panic-window-percentage=0")
    ended = demo.rollout("wait", "demo", "--timeout", "10")
    assert ended.returncode == 1
    said = demo.refused(NEW, CANARY, percent(10))
    assert "The last release is recorded as stable, but its predictor has not arrived" in said


def test_the_other_component_has_to_have_arrived(demo: Namespace) -> None:
    unready = "string:transformer.annotations.fakenode/ready=false"
    demo.upgrade(unready)
    ended = demo.rollout("wait", "demo", "--timeout", "10")
    assert ended.returncode == 1
    assert "its transformer has not arrived" in demo.refused(unready, NEW, CANARY, percent(10))


def test_a_canary_is_no_first_installation(demo: Namespace, namespace: Namespace) -> None:
    of = f"canary.of={demo.digest()}"
    assert "there is no InferenceService other" in namespace.refused(NEW, CANARY, percent(5), of, release="other")


def test_a_record_that_outlived_its_service_is_in_nobodys_way(demo: Namespace) -> None:
    demo.upgrade(NEW, CANARY, percent(10))
    demo.wait()
    demo.kubectl("delete", "inferenceservice", "demo", "--wait=true")
    demo.kubectl("wait", "--for=delete", "revision", "--all", "--timeout=60s")
    demo.upgrade()
    demo.wait()
    assert len(demo.names("revision")) == 2
    demo.upgrade(NEW, CANARY, percent(10))  # the new record is of the new service


def test_a_canary_without_anything_ready_is_refused(namespace: Namespace) -> None:
    namespace.upgrade(UNREADY)
    said = namespace.refused(NEW, CANARY, percent(10))
    assert "no revision of it has been ready with all of the traffic yet" in said


def test_a_canary_beside_a_release_that_did_not_arrive_is_refused(demo: Namespace) -> None:
    demo.upgrade("predictor.image.tag=broken", UNREADY)
    ended = demo.rollout("wait", "demo", "--timeout", "10")
    assert ended.returncode == 1
    said = demo.refused(NEW, CANARY, percent(10))
    assert "its predictor has not arrived: its newest revision is demo-predictor-00002" in said
    assert "demo-predictor-00001 serves" in said


def test_cameras_are_split_by_the_transformer_without_a_new_revision_of_it(namespace: Namespace) -> None:
    camera = "canary.split=camera"
    namespace.upgrade(camera)
    namespace.wait()
    namespace.upgrade(camera, NEW, CANARY, percent(25))
    namespace.wait()
    # Knative gives the candidate nothing of the predictor's own address; the transformer asks it by its tag.
    assert namespace.shares("predictor") == {"00001": 100, "00002": 0}
    tags = {
        one.get("tag"): one["revisionName"] for one in namespace.get("ksvc", "demo-predictor")["status"]["traffic"]
    }
    assert tags["latest"] == "demo-predictor-00002"
    assert f"latest-demo-predictor.{namespace.name}" in json.dumps(namespace.get("route", "demo-predictor")["status"])
    assert "latest-demo-predictor" in namespace.names("service")
    assert namespace.get("configmap", "demo-cameras")["data"]["candidateShare"] == "0.25"
    assert transformer_revisions(namespace) == ["demo-transformer-00001"]
    [container] = namespace.get("revision", "demo-transformer-00001")["spec"]["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["SACCADE_TRANSFORMER_CANDIDATE_HOST"] == f"latest-demo-predictor.{namespace.name}"
    namespace.upgrade(camera, NEW)
    namespace.wait()
    assert namespace.shares("predictor") == {"00002": 100}
    assert namespace.get("configmap", "demo-cameras")["data"]["candidateShare"] == "0"
    assert transformer_revisions(namespace) == ["demo-transformer-00001"]


ROUTE = """
apiVersion: serving.knative.dev/v1
kind: Route
metadata: {{name: detector-route}}
spec:
  traffic:
    - {{configurationName: {name}-transformer, percent: 100}}
"""


def test_blue_and_green_are_two_releases_behind_one_route(namespace: Namespace) -> None:
    def routed() -> str:
        namespace.kubectl("wait", "route/detector-route", "--for=condition=Ready", "--timeout=60s")
        [only] = namespace.get("route", "detector-route")["status"]["traffic"]
        return str(only["revisionName"])

    namespace.upgrade(release="blue")
    namespace.wait("blue")
    namespace.kubectl("apply", "-f", "-", stdin=ROUTE.format(name="blue"))
    assert routed() == "blue-transformer-00001"
    namespace.upgrade(NEW, "transformer.image.tag=new", release="green")
    namespace.wait("green")
    assert routed() == "blue-transformer-00001"
    namespace.kubectl("apply", "-f", "-", stdin=ROUTE.format(name="green"))
    namespace.kubectl(
        "wait", "route/detector-route", "--for=jsonpath={.status.traffic[0].revisionName}=green-transformer-00001"
    )
    assert routed() == "green-transformer-00001"
    namespace.kubectl("apply", "-f", "-", stdin=ROUTE.format(name="blue"))
    namespace.kubectl(
        "wait", "route/detector-route", "--for=jsonpath={.status.traffic[0].revisionName}=blue-transformer-00001"
    )


def test_an_upgrade_says_how_many_gpus_it_holds_only_if_it_does(demo: Namespace) -> None:
    gpu = "predictor.gpu.count=2"
    assert "This release changes the predictor: until the old revision is gone, at least 4 GPUs" in demo.upgrade(gpu)
    assert "GPUs are held" not in demo.upgrade(gpu, "transformer.image.tag=new")
    no_gpu_left = ("rollout.checkHeadroom=true", "rollout.maxSurgeGpus=0")
    demo.upgrade(gpu, "transformer.image.tag=newer", *no_gpu_left)
    assert "holds 2 more until the old revision is gone" in demo.refused(gpu, NEW, *no_gpu_left)


def test_a_shadow_is_a_release_of_its_own_and_a_setting(demo: Namespace) -> None:
    demo.upgrade(NEW, release="next")
    demo.wait("next")
    demo.upgrade(
        f"transformer.settings.shadowHost=next-predictor.{demo.name}",
        "json:transformer.settings.shadowShare=0.05",
    )
    demo.wait()
    assert demo.shares("predictor") == {"00001": 100}
    assert demo.shares("transformer") == {"00002": 100}


def test_waiting_says_what_the_pods_say(namespace: Namespace) -> None:
    namespace.upgrade("predictor.gpu.count=64")
    ended = namespace.rollout("wait", "demo", "--timeout", "20")
    assert ended.returncode == 1
    assert "Insufficient nvidia.com/gpu" in ended.stderr
    assert "demo has not arrived within 20 s" in ended.stderr
    ended = namespace.rollout("status", "demo")
    assert ended.returncode == 0
    assert "demo-predictor-00001" in ended.stdout


def test_what_is_not_there_is_said(namespace: Namespace) -> None:
    ended = namespace.rollout("wait", "nothing")
    assert ended.returncode == 2
    assert f"there is no InferenceService nothing in the namespace {namespace.name}" in ended.stderr
    ended = namespace.rollout("digest", "nothing")
    assert ended.returncode == 2
    assert "there is no ConfigMap nothing-rollout" in ended.stderr
