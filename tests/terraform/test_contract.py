"""What the contract says the chart takes: on both clouds, for every way of sharing a GPU, without a provider."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from helm_support import CHART, KUBERNETES, Object, container, environment, helm, only
from terraform_support import TERRAFORM, Configuration, copy_sources

SCHEMA = json.loads((TERRAFORM / "modules" / "contract" / "platform.schema.json").read_text(encoding="utf-8"))


def pool(**more: Any) -> dict[str, Any]:
    return {"gpu": more}


#: By name: the request, and the resource that the predictor asks for.
REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "aws whole": ({"cloud": "aws", "pools": pool(machine_type="g5.xlarge")}, "nvidia.com/gpu"),
    "aws slices": (
        {"cloud": "aws", "pools": pool(machine_type="g5.4xlarge", sharing="time_slicing", replicas_per_gpu=3)},
        "nvidia.com/gpu.shared",
    ),
    "aws mps": (
        {"cloud": "aws", "pools": pool(machine_type="g6.4xlarge", sharing="mps", replicas_per_gpu=2)},
        "nvidia.com/gpu.shared",
    ),
    "aws mig": (
        {"cloud": "aws", "pools": pool(machine_type="p4d.24xlarge", sharing="mig:3g.20gb")},
        "nvidia.com/mig-3g.20gb",
    ),
    "aws two GPUs each": (
        {
            "cloud": "aws",
            "pools": pool(machine_type="g5.12xlarge"),
            "replica": {"gpus": 2, "cpus": 8, "memory_gib": 16},
        },
        "nvidia.com/gpu",
    ),
    "gcp whole": ({"cloud": "gcp", "pools": pool(machine_type="g2-standard-8")}, "nvidia.com/gpu"),
    "gcp slices": (
        {"cloud": "gcp", "pools": pool(machine_type="g2-standard-16", sharing="time_slicing", replicas_per_gpu=3)},
        "nvidia.com/gpu",
    ),
    "gcp mig": (
        {"cloud": "gcp", "pools": pool(machine_type="a2-highgpu-1g", sharing="mig:3g.20gb")},
        "nvidia.com/gpu",
    ),
}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Configuration:
    """Request and answer together, in a copy of their own: variables stay in it."""
    found = Configuration(copy_sources(tmp_path_factory.mktemp("contract")) / "tests" / "contract")
    found.init()
    return found


def render(contract: Configuration, folder: Path) -> list[Object]:
    """What the chart renders with the values as they come out, and no others."""
    values = folder / "infra.values.yaml"
    values.write_text(contract.output("helm_values"))
    for check in (("lint", CHART, "--strict"), ("template", "detector", CHART, "--kube-version", KUBERNETES)):
        ended = helm(*check, "-f", values)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "warn" not in (ended.stdout + ended.stderr).lower(), ended.stdout + ended.stderr
    return [one for one in yaml.safe_load_all(ended.stdout) if one]


@pytest.mark.parametrize("has_redis", [False, True], ids=["alone", "redis"])
@pytest.mark.parametrize("name", REQUESTS)
def test_the_chart_takes_what_the_contract_gives(
    contract: Configuration, tmp_path: Path, name: str, has_redis: bool
) -> None:
    asked, resource = REQUESTS[name]
    contract.set({"request": asked, "has_redis": has_redis})
    platform = contract.apply()["platform"]
    jsonschema.Draft202012Validator(SCHEMA).validate(platform)
    objects = render(contract, tmp_path)

    predictor = only(objects, "InferenceService")["spec"]["predictor"]
    [pool] = platform["pools"].values()
    assert pool["resource"] == resource
    limits = container(objects, "predictor")["resources"]["limits"]
    gpus = asked.get("replica", {}).get("gpus", 1)
    assert {key: value for key, value in limits.items() if "nvidia" in key} == {resource: str(gpus)}
    requests = container(objects, "predictor")["resources"]["requests"]
    assert float(limits["cpu"]) == 2 * float(requests["cpu"]), "KServe fills a missing limit with one CPU"
    assert predictor["nodeSelector"] == pool["node_selector"]
    assert predictor["nodeSelector"].items() <= pool["labels"].items()
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 4)
    assert only(objects, "ServiceAccount")["metadata"]["annotations"] == {"example.com/role": "reader"}
    assert environment(objects, "predictor")["STORAGE_URI"] == platform["models"]["uri"]
    assert environment(objects, "transformer")["SACCADE_TRANSFORMER_CACHE"] == ("redis" if has_redis else "local")
    if has_redis:
        assert environment(objects, "transformer")["SACCADE_TRANSFORMER_CACHE_REDIS_URL"] == "saccade-cache/url"


def test_the_charts_own_check_of_headroom_gets_what_the_pools_have_room_for(
    contract: Configuration, tmp_path: Path
) -> None:
    contract.set({"request": REQUESTS["aws whole"][0]})
    contract.apply()
    values = tmp_path / "infra.values.yaml"
    values.write_text(contract.output("helm_values"))
    more = helm("template", "detector", CHART, "-f", values, "--set", "predictor.minReplicas=3")
    assert more.returncode != 0
    assert "rollout.maxSurgeGpus is 2" in more.stderr


def test_the_readmes_example_is_taken(tmp_path_factory: pytest.TempPathFactory) -> None:
    [example] = re.findall(r"```hcl\n(.*?)```", (TERRAFORM / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    request = Configuration(copy_sources(tmp_path_factory.mktemp("readme")) / "modules" / "contract" / "request")
    request.init()
    request.set(
        {"cloud": "aws", "name": "vision", "region": "eu-central-1", "zones": ["eu-central-1a", "eu-central-1b"]}
    )
    (request.folder / "terraform.tfvars").write_text(example)
    sizes = request.plan()["planned_values"]["outputs"]["sizes"]["value"]
    assert sizes["arithmetic"][:2] == [
        "peak: ceil(300 rps x 130 % / 70 rps per replica) = 6",
        "quiet hours: ceil(100 rps x 130 % / 70 rps per replica) = 2",
    ]


def test_a_name_that_the_contract_does_not_have_is_refused_by_its_schema(contract: Configuration) -> None:
    contract.set({"request": REQUESTS["gcp whole"][0]})
    platform = contract.apply()["platform"]
    platform["pools"]["gpu"]["nodes_max"] = platform["pools"]["gpu"].pop("max_nodes")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(platform)
