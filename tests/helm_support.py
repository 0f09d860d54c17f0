"""The chart as tests use it: rendered, linted and refused by the real Helm, of version 3 and of version 4."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tools import missing

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "saccade"
EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))
HELM = {"helm 4": ROOT / ".tools" / "helm" / "helm", "helm 3": ROOT / ".tools" / "bin" / "helm"}
KUBERNETES = "1.34.0"
MINIMAL = CHART / "ci" / "minimal-values.yaml"

Object = dict[str, Any]


def need_helm(which: str = "helm 4") -> Path:
    """The program; skips where it is not installed, with ``CI=true`` fails."""
    program = HELM[which]
    if program.exists():
        return program
    missing(f"needs {which}: make tools")


def helm(*arguments: str | Path, which: str = "helm 4") -> subprocess.CompletedProcess[str]:
    """Run Helm without a cluster and without a user's own configuration."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HELM_", "KUBE"))}
    return subprocess.run(
        [need_helm(which), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def options(*sets: str) -> list[str]:
    """Helm's options for values; those that begin with ``json:`` or ``string:`` are set as that."""
    found = []
    for one in sets:
        kind, _, value = one.partition(":")
        found += [f"--set-{kind}", value] if kind in ("json", "string") else ["--set", one]
    return found


def template(
    values: Path = MINIMAL, *sets: str, which: str = "helm 4", release: str = "demo", namespace: str = "vision"
) -> str:
    """What Helm renders."""
    where = ["--namespace", namespace, "--kube-version", KUBERNETES]  # a Helm built by Go alone takes it for 1.20
    ended = helm("template", release, CHART, *where, "-f", values, *options(*sets), which=which)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def render(values: Path = MINIMAL, *sets: str, which: str = "helm 4", release: str = "demo") -> list[Object]:
    """The objects that Helm renders."""
    return [found for found in yaml.safe_load_all(template(values, *sets, which=which, release=release)) if found]


def refused(values: Path = MINIMAL, *sets: str, release: str = "demo") -> str:
    """The sentence with which the chart refuses values."""
    ended = helm("template", release, CHART, "-f", values, *options(*sets))
    assert ended.returncode != 0, "it was not refused"
    return " ".join(ended.stderr.split())


def only(objects: Sequence[Object], kind: str, name: str | None = None) -> Object:
    """The one object of a kind, or of a kind and name."""
    [found] = [one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    return found


def container(objects: Sequence[Object], component: str) -> Object:
    """The container of a component of the InferenceService."""
    [found] = only(objects, "InferenceService")["spec"][component]["containers"]
    assert isinstance(found, dict)
    return found


def environment(objects: Sequence[Object], component: str) -> dict[str, str]:
    """The environment of a component's container; of what comes from a Secret, its name and key."""
    found = {}
    for variable in container(objects, component)["env"]:
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        found[variable["name"]] = f"{source['name']}/{source['key']}" if source else variable["value"]
    assert len(found) == len(container(objects, component)["env"]), "a variable is set twice"
    return found
