"""A real control plane as tests use it: Helm installs into it, kubectl looks, ``saccade rollout`` waits.

Real are API server, scheduler, Knative and KServe with their webhooks; no container runs and no request is carried
(``../shared/cluster``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from helm_support import CHART, HELM, ROOT, Object, need_helm, options

SHARED = ROOT.parent / "shared" / "cluster"
KUBECTL = HELM["helm 4"].parent / "kubectl"
#: Where `make cluster` keeps a control plane that is to serve several runs.
STATE = ROOT / ".tools" / "cluster"
#: Values for every test: images that need no registry, the least that runs.
VALUES = (
    "predictor.image.repository=dev.local/saccade-predictor",
    "transformer.image.repository=dev.local/saccade-transformer",
    "model.storageUri=s3://models/repository",
    "predictor.gpu.count=0",  # the node has eight, and tests run side by side
    # Two seconds after nobody is routed to it a revision's pods go, not five minutes.
    "predictor.autoscaling.scaleDownDelaySeconds=0",
    "predictor.autoscaling.windowSeconds=6",
    "transformer.autoscaling.windowSeconds=6",
)


@dataclass(frozen=True)
class Namespace:
    """A namespace of the cluster, and what is done in it."""

    name: str
    kubeconfig: Path

    def run(self, *command: str | Path, stdin: str = "", within_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program that finds the cluster by its environment."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HELM_", "KUBE"))}
        return subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            input=stdin,
            env={**kept, "KUBECONFIG": str(self.kubeconfig)},
            timeout=within_s,
            check=False,
        )

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl prints; a failure of it fails the test."""
        ended = self.run(KUBECTL, "-n", self.name, *arguments, stdin=stdin)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def get(self, kind: str, name: str) -> Object:
        """An object."""
        found: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def names(self, kind: str) -> list[str]:
        """Names of the objects of a kind."""
        return sorted(one.rpartition("/")[2] for one in self.kubectl("get", kind, "-o", "name").split())

    def helm(self, *arguments: str | Path, which: str = "helm 4") -> subprocess.CompletedProcess[str]:
        """Run Helm."""
        return self.run(need_helm(which), "-n", self.name, *arguments)

    def upgrade(self, *sets: str, release: str = "demo", which: str = "helm 4") -> str:
        """Install or upgrade a release of the chart; what Helm prints."""
        ended = self.helm("upgrade", "--install", release, CHART, *options(*VALUES, *sets), which=which)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def refused(self, *sets: str, release: str = "demo") -> str:
        """The sentence with which the chart refuses an upgrade."""
        ended = self.helm("upgrade", "--install", release, CHART, *options(*VALUES, *sets))
        assert ended.returncode != 0, "it was not refused"
        return " ".join(ended.stderr.split())

    def rollout(self, *arguments: str, within_s: float = 180) -> subprocess.CompletedProcess[str]:
        """Run ``saccade rollout``."""
        command = [sys.executable, "-m", "saccade_cli", "rollout", *arguments, "-n", self.name]
        return self.run(*command, within_s=within_s)

    def wait(self, release: str = "demo") -> None:
        """Wait until a release has arrived."""
        ended = self.rollout("wait", release, "--timeout", "150")
        assert ended.returncode == 0, ended.stderr

    def digest(self, release: str = "demo") -> str:
        """Digest of what is stable."""
        ended = self.rollout("digest", release)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def shares(self, component: str, release: str = "demo") -> dict[str, int]:
        """Which revisions of a component have how much of the traffic (percent), by the ends of their names."""
        found: dict[str, int] = {}
        for one in self.get("ksvc", f"{release}-{component}")["status"]["traffic"]:
            revision = one["revisionName"].rpartition("-")[2]
            found[revision] = found.get(revision, 0) + one.get("percent", 0)
        return found


def features() -> dict[str, str]:
    """Knative's feature flags as the platform's chart sets them."""
    command: list[str | Path] = ["template", "platform", ROOT / "helm" / "platform", "-n", "knative-serving"]
    rendered = subprocess.run([need_helm(), *command], capture_output=True, text=True, timeout=60, check=True)
    for one in yaml.safe_load_all(rendered.stdout):
        if one and one["kind"] == "KnativeServing":
            found: dict[str, str] = one["spec"]["config"]["features"]
            return found
    raise AssertionError("helm/platform renders no KnativeServing")
