"""What of ``helm/platform`` follows from other files: its schema's keys of Knative, and the install scripts.

``knative_keys.yaml`` closes ``knative.config`` against the keys that Knative 1.21 knows, since the operator would
write any key into a ConfigMap without a word. ``platform/install.yaml`` becomes two shell scripts, one of them for
kind, so that nothing but a shell, Helm and kubectl is needed to follow it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
PLATFORM: Final = HERE / "platform"
_TEXT: Final = {"type": ["string", "number", "boolean"]}
_FLAG: Final = {"type": "string", "enum": ["enabled", "allowed", "disabled"]}
_NODE: Final = "kindest/node:v1.34.0"
_KIND: Final = [
    # kind's default is its newest Kubernetes, which may be newer than those that KServe and Knative are tested with.
    f"kind create cluster --name saccade --image {_NODE}",
    "kubectl config use-context kind-saccade",
]
_HEAD: Final = """\
#!/bin/sh
# Written from install.yaml by `make chart`. Run in helm/platform, or paste step by step; needs helm and kubectl.
# PLATFORM_VALUES names a file of values for this chart: the domain, the load balancer's annotations.
set -eu
"""
_OWN_VALUES: Final = ' \\\n  ${PLATFORM_VALUES:+--values "$PLATFORM_VALUES"}'


def config_schema(keys: dict[str, list[str]]) -> dict[str, Any]:
    """Schema of ``knative.config``: Knative's ConfigMaps with the keys that they know, and no others."""
    maps = {
        name: {
            "type": "object",
            "additionalProperties": False,
            "properties": dict.fromkeys(known, _FLAG if name == "features" else _TEXT),
        }
        for name, known in sorted(keys.items())
    }
    return {"type": "object", "additionalProperties": False, "properties": maps}


def schema(written: dict[str, Any]) -> dict[str, Any]:
    """The chart's schema with Knative's keys as they stand in ``knative_keys.yaml``."""
    keys = yaml.safe_load((HERE / "knative_keys.yaml").read_text(encoding="utf-8"))
    return {**written, "$defs": {**written["$defs"], "knativeConfig": config_schema(keys)}}


def command(step: dict[str, Any], more: tuple[str, ...] = ()) -> str:
    """The ``helm`` command of a step; ``more`` are values files beside its own."""
    words = ["helm", "upgrade", "--install", step["name"], step["chart"]]
    if "repository" in step:
        words += ["--repo", step["repository"]]
    if "version" in step:
        words += ["--version", step["version"]]
    words += ["--namespace", step["namespace"], "--create-namespace"]
    for file in (*step.get("values", ()), *more):
        words += ["--values", file]
    if step["chart"] != ".":  # the operator's work is waited for by a command of its own
        words.append("--wait")
    lines = [shlex.join(words[:5])]
    rest = words[5:]
    while rest:
        taken = 1 if len(rest) == 1 or rest[1].startswith("--") else 2
        lines.append("  " + shlex.join(rest[:taken]))
        rest = rest[taken:]
    return " \\\n".join(lines) + (_OWN_VALUES if step["chart"] == "." else "")


def script(steps: list[dict[str, Any]], kind: bool) -> str:
    """The steps as a shell script; on kind there are no GPUs, and the gateway has no load balancer."""
    return _HEAD + "".join(_parts(steps, kind))


def _parts(steps: list[dict[str, Any]], kind: bool) -> Iterator[str]:
    if kind:
        yield "\n# A cluster of one node.\n" + "\n".join(_KIND) + "\n"
    for step in steps:
        if kind and (step.get("gpu") or step.get("optional")):
            continue
        optional = " Optional." if step.get("optional") else ""
        yield f"\n# {step['name']}: {step['why']}.{optional}\n"
        more = ("values/kind.yaml",) if kind and step["chart"] == "." else ()
        yield command(step, more) + "\n"
        yield "".join(f"{one}\n" for one in step.get("wait", ()))


def files() -> dict[Path, str]:
    """What the generated files have to hold."""
    written = json.loads((PLATFORM / "values.schema.json").read_text(encoding="utf-8"))
    steps = yaml.safe_load((PLATFORM / "install.yaml").read_text(encoding="utf-8"))["steps"]
    return {
        PLATFORM / "values.schema.json": json.dumps(schema(written), indent=2) + "\n",
        PLATFORM / "install.sh": script(steps, kind=False),
        PLATFORM / "install-kind.sh": script(steps, kind=True),
    }
