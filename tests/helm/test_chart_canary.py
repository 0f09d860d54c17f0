"""A canary by values alone, as where Helm cannot look at the cluster: what it renders, and which ones are refused.

What compares with live objects is tested on a real control plane: tests/cluster/test_rollouts.py.
"""

from __future__ import annotations

import pytest
import yaml

from helm_support import CHART, MINIMAL, Object, helm, only, refused, render

NEW = ("predictor.image.tag=new", "canary.component=predictor")


def rollout(objects: list[Object]) -> dict[str, str]:
    """The record that is written when everything else has been taken."""
    [found] = [
        one["data"]
        for one in objects
        if one["metadata"]["name"] == "demo-rollout"
        and "post-install" in one["metadata"]["annotations"]["helm.sh/hook"].split(",")
    ]
    assert isinstance(found, dict)
    return found


def cameras_share(objects: list[Object]) -> float:
    """What the transformers read."""
    return float(only(objects, "ConfigMap", "demo-cameras")["data"]["candidateShare"])


def stable(*sets: str) -> str:
    return rollout(render(MINIMAL, *sets))["digest"]


def percents(objects: list[Object]) -> tuple[object, object]:
    spec = only(objects, "InferenceService")["spec"]
    return spec["predictor"].get("canaryTrafficPercent"), spec["transformer"].get("canaryTrafficPercent")


@pytest.mark.parametrize("which", ["helm 4", "helm 3"])
def test_a_release_records_its_digest_and_no_canary(which: str) -> None:
    objects = render(MINIMAL, which=which)
    data = rollout(objects)
    assert data["stable"] == data["digest"] == stable()
    assert (data["component"], data["percent"]) == ("", "100")
    assert not [one for one in objects if one["metadata"]["name"] == "demo-cameras"]
    assert percents(objects) == (None, None)


def test_a_canary_has_its_share_and_remembers_what_is_stable() -> None:
    of = stable()
    objects = render(MINIMAL, *NEW, "canary.percent=5", f"canary.of={of}")
    data = rollout(objects)
    assert (data["component"], data["percent"], data["stable"]) == ("predictor", "5", of)
    assert data["digest"].partition("-")[2] == of.partition("-")[2]
    assert data["digest"] != of
    assert percents(objects) == (5, None)
    assert render(MINIMAL, *NEW, "canary.percent=5", f"canary.of={of}") == objects


def test_all_of_the_traffic_is_no_canary() -> None:
    objects = render(MINIMAL, *NEW, "canary.percent=100")
    assert percents(objects) == (None, None)
    assert rollout(objects)["stable"] == stable("predictor.image.tag=new")


def test_a_share_of_nothing_is_rendered() -> None:
    assert percents(render(MINIMAL, *NEW, "canary.percent=0", f"canary.of={stable()}")) == (0, None)


def test_the_way_back_holds_the_stable_values_at_nothing() -> None:
    objects = render(MINIMAL, "canary.component=predictor", "canary.percent=0", f"canary.of={stable()}")
    assert percents(objects) == (0, None)
    assert rollout(objects)["digest"] == rollout(objects)["stable"]


def test_the_transformer_can_be_tried() -> None:
    sets = ("transformer.image.tag=new", "canary.component=transformer", "canary.percent=20", f"canary.of={stable()}")
    assert percents(render(MINIMAL, *sets)) == (None, 20)


def test_cameras_are_the_transformers_to_give() -> None:
    camera = "canary.split=camera"
    before = render(MINIMAL, camera)
    objects = render(MINIMAL, camera, *NEW, "canary.percent=20", f"canary.of={stable(camera)}")
    assert percents(objects) == (0, None)
    assert (cameras_share(before), cameras_share(objects)) == (0, 0.2)
    service = only(objects, "InferenceService")
    assert service["metadata"]["annotations"]["serving.kserve.io/enable-tag-routing"] == "true"
    assert service["spec"]["transformer"] == only(before, "InferenceService")["spec"]["transformer"]
    [container] = service["spec"]["transformer"]["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["SACCADE_TRANSFORMER_CANDIDATE_HOST"] == "latest-demo-predictor.vision"
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "rollout"]
    assert environment["SACCADE_TRANSFORMER_CANDIDATE_SHARE_FILE"] == f"{mount['mountPath']}/candidateShare"
    [volume] = [one for one in service["spec"]["transformer"]["volumes"] if one["name"] == "rollout"]
    assert volume["configMap"]["name"] == "demo-cameras"
    assert volume["configMap"]["items"] == [{"key": "candidateShare", "path": "candidateShare"}]


@pytest.mark.parametrize("share", [1, 7, 29, 33, 99])
def test_a_camera_share_is_a_number_that_the_transformer_reads(share: int) -> None:
    sets = ("canary.split=camera", *NEW, f"canary.percent={share}", f"canary.of={stable('canary.split=camera')}")
    assert cameras_share(render(MINIMAL, *sets)) == pytest.approx(share / 100)


def test_a_digest_changes_with_what_makes_a_revision_and_with_nothing_else() -> None:
    of = stable()
    for sets in ("predictor.image.tag=new", "predictor.concurrency.target=20", "predictor.settings.maxQueueSize=9"):
        changed = stable(sets)
        assert changed.partition("-")[0] != of.partition("-")[0], sets
        assert changed.partition("-")[2] == of.partition("-")[2], sets
    assert stable("cache.mode=off").partition("-")[0] == of.partition("-")[0]
    assert stable("cache.mode=off") != of
    assert stable("predictor.minReplicas=2").split("x", 1)[0] == of.split("x", 1)[0]
    assert stable("podDisruptionBudget.enabled=false", "slo.p99Ms=50", "networkPolicy.enabled=false") == of


def test_who_splits_is_part_of_both_components_revisions() -> None:
    pairs = zip(stable().split("-"), stable("canary.split=camera").split("-"), strict=True)
    assert all(before != after for before, after in pairs)


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (
            ("canary.percent=10",),
            "canary.percent is 10 and canary.component is empty; expected predictor or transformer",
        ),
        (
            (*NEW, "canary.percent=10"),
            "there is no live release to look up, and canary.of is empty; expected canary.of=",
        ),
        (
            (*NEW, "canary.percent=10", "canary.of=OF", "transformer.image.tag=new"),
            "canary.component is predictor, but the transformer differs from the stable release's, too",
        ),
        (
            (*NEW, "canary.percent=10", "canary.of=OF", "predictor.minReplicas=2"),
            "predictor.minReplicas is 2 and the stable release's 1; expected the same during a canary",
        ),
        (
            ("canary.component=predictor", "canary.percent=10", "canary.of=OF"),
            "canary.component is predictor at 10 %, but the predictor is as in the stable release",
        ),
        (
            ("transformer.image.tag=new", "canary.component=transformer", "canary.percent=5", "canary.split=camera"),
            "canary.component is transformer and canary.split camera; expected split=request",
        ),
        (
            ("canary.split=camera", "transformer.settings.candidateHost=a:80"),
            "transformer.settings has candidateHost, candidateShare or candidateShareFile; expected one of them",
        ),
        (
            (*NEW, "canary.percent=10", "canary.of=OF", "canary.split=camera"),
            "the transformer differs from the stable release's, too",
        ),
        (("rollout.checkHeadroom=true",), "maxSurgeGpus is not set; expected the number of GPUs that may be held"),
        (
            (
                "rollout.checkHeadroom=true",
                "rollout.maxSurgeGpus=3",
                "predictor.minReplicas=2",
                "predictor.gpu.count=2",
            ),
            "rollout.maxSurgeGpus is 3, but a change of the predictor holds 4 more until the old revision is gone",
        ),
        (("canary.percent=101", *NEW), "at '/canary/percent': maximum: got 101, want 100"),
        (("canary.component=both",), "at '/canary/component': value must be one of '', 'predictor', 'transformer'"),
        (("canary.of=abc",), "at '/canary/of': 'abc' does not match pattern"),
        (("canary.pecent=1",), "additional properties 'pecent' not allowed"),
    ],
)
def test_a_canary_that_would_mix_revisions_is_refused(sets: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(MINIMAL, *(one.replace("=OF", f"={stable()}") for one in sets))


def test_a_revision_begins_with_a_pod_even_if_it_may_have_none() -> None:
    sets = ("predictor.minReplicas=0", "predictor.allowScaleToZero=true", "predictor.gpu.count=4")
    said = refused(MINIMAL, *sets, "rollout.checkHeadroom=true", "rollout.maxSurgeGpus=0")
    assert "holds 4 more until the old revision is gone (1 x gpu.count 4" in said


def test_who_does_not_change_the_predictor_needs_no_headroom() -> None:
    checked = ("rollout.checkHeadroom=true", "rollout.maxSurgeGpus=0")
    of = f"canary.of={stable()}"
    render(MINIMAL, *checked, of, "transformer.image.tag=new", "canary.component=transformer", "canary.percent=5")
    assert "holds 1 more" in refused(MINIMAL, *checked, of, *NEW, "canary.percent=5")


def test_enough_headroom_is_no_matter() -> None:
    sets = ("rollout.checkHeadroom=true", "rollout.maxSurgeGpus=1")
    assert render(MINIMAL, *sets) == render(MINIMAL)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ((), "--set canary.of="),
        ((*NEW, "canary.percent=5"), "Canary: the newest revision of the predictor has 5 % of the requests"),
        ((*NEW, "canary.percent=5", "canary.split=camera"), "has 5 % of the cameras"),
    ],
)
def test_the_notes_say_how_the_rollout_goes_on(sets: tuple[str, ...], told: str) -> None:
    split = [one for one in sets if one.startswith("canary.split")]
    of = [f"canary.of={stable(*split)}"] if sets else []
    options = [option for one in (*sets, *of) for option in ("--set", one)]
    ended = helm("install", "demo", CHART, "-n", "vision", "-f", MINIMAL, "--dry-run=client", *options)
    assert ended.returncode == 0, ended.stderr
    notes = ended.stdout.partition("NOTES:")[2]
    assert told in notes
    assert "saccade rollout wait demo -n vision" in notes


def test_the_example_of_a_canary_is_one() -> None:
    example = MINIMAL.parent / "canary-values.yaml"
    values = yaml.safe_load(example.read_text(encoding="utf-8"))
    data = rollout(render(example))
    assert data["component"] == values["canary"]["component"]
    assert data["stable"] == values["canary"]["of"]
