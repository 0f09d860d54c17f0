"""The chart renders what Kubernetes and KServe take, by both versions of Helm, the same each time."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from helm_support import CHART, EXAMPLES, HELM, MINIMAL, ROOT, Object, helm, only, render, template
from saccade_serving import __version__

CRDS = ROOT.parent / "shared" / "cluster" / "crds" / "kserve.yaml"
OTHERS = {"InferenceService", "PodMonitor", "PrometheusRule"}

every_example = pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem.removesuffix("-values"))
every_helm = pytest.mark.parametrize("which", HELM)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7


@every_helm
@every_example
def test_it_lints(values: Path, which: str) -> None:
    ended = helm("lint", CHART, "--strict", "-f", values, which=which)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@every_example
def test_it_renders_the_same_each_time_and_by_each_helm(values: Path) -> None:
    first = template(values)
    assert template(values) == first
    assert sorted(render(values, which="helm 3"), key=json.dumps) == sorted(render(values), key=json.dumps)


@every_example
@pytest.mark.parametrize("version", ["1.33", "1.35"])
def test_kubernetes_takes_it(values: Path, version: str) -> None:
    checked = 0
    for one in render(values):
        if one["kind"] not in OTHERS:
            kubernetes_validate.validate(one, version, strict=True)
            checked += 1
    assert checked >= 3


@every_example
def test_kserve_takes_it(values: Path) -> None:
    if not CRDS.exists():
        pytest.skip("needs ../shared/cluster/crds")
    service = only(render(values), "InferenceService")
    found = _schema("InferenceService")
    jsonschema.Draft202012Validator(found).validate(service)
    assert not list(_unknown(found, service)), "fields that KServe would drop"


@cache
def _schema(kind: str) -> Object:
    for one in yaml.load_all(CRDS.read_text(encoding="utf-8"), yaml.CSafeLoader):
        if one and one["kind"] == "CustomResourceDefinition" and one["spec"]["names"]["kind"] == kind:
            [version] = [v for v in one["spec"]["versions"] if v["name"] == "v1beta1"]
            schema: Object = version["schema"]["openAPIV3Schema"]
            return schema
    raise AssertionError(f"no CRD of {kind}")


def _unknown(schema: Object, value: object, path: str = "") -> list[str]:
    """Fields of a value that its schema does not name."""
    if isinstance(value, list):
        return [found for at, one in enumerate(value) for found in _unknown(schema["items"], one, f"{path}[{at}]")]
    if not isinstance(value, dict) or path == ".metadata":
        return []
    if "properties" not in schema:
        return []
    unknown = [f"{path}.{key}" for key in value if key not in schema["properties"]]
    for key, one in value.items():
        if key in schema["properties"]:
            unknown += _unknown(schema["properties"][key], one, f"{path}.{key}")
    return unknown


#: Of the InferenceService's spec. Another one is another revision of the component, with GPUs of its own: where it has
#: to change, the CHANGELOG says so.
REVISIONS = {
    "canary": "7e4166955b95",
    "cpu-only": "6d18d10ed2c9",
    "external-redis": "ca3ec1709531",
    "mig": "38866530e6a6",
    "minimal": "3f4fb1febc03",
    "plan-build": "09004b0fcedf",
    "production-aws": "b8e4b0d4adbc",
    "production-gcp": "7b6079f6eea5",
}


@every_example
def test_a_change_of_the_chart_is_a_new_revision_only_on_purpose(values: Path) -> None:
    spec = only(render(values), "InferenceService")["spec"]
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]
    assert digest == REVISIONS[values.stem.removesuffix("-values")]


def test_the_version_of_the_chart_is_in_no_revision(tmp_path: Path) -> None:
    service = json.dumps(only(render(), "InferenceService")["spec"]["predictor"]["annotations"])
    assert "saccade-0" not in service
    labels = only(render(), "InferenceService")["metadata"]["labels"]
    assert set(labels) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}


def test_the_chart_has_the_version_of_the_code() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == chart["version"] == __version__


def test_values_and_their_schema_name_the_same() -> None:
    ended = helm("template", "demo", CHART, "-f", MINIMAL)
    assert ended.returncode == 0, ended.stderr
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert _unclosed(schema) == []
    assert _undefaulted(schema, schema, values) == ["global"]


def _unclosed(schema: object, path: str = "") -> list[str]:
    """Objects with named fields that take others, too."""
    if isinstance(schema, list):
        return [found for one in schema for found in _unclosed(one, path)]
    if not isinstance(schema, dict):
        return []
    here = (
        [path]
        if isinstance(schema.get("properties"), dict) and schema.get("additionalProperties") is not False
        else []
    )
    return here + [found for key, one in schema.items() for found in _unclosed(one, f"{path}/{key}")]


def _undefaulted(schema: Object, root: Object, values: object, path: str = "") -> list[str]:
    """Values that the schema knows and values.yaml does not show."""
    if not isinstance(values, dict) or not values:
        return []
    found = []
    for name, one in schema.get("properties", {}).items():
        dotted = f"{path}.{name}".lstrip(".")
        if "$ref" in one:
            one = root["$defs"][one["$ref"].rpartition("/")[2]]
        if name not in values:
            found.append(dotted)
        else:
            found += _undefaulted(one, root, values[name], dotted)
    return found
