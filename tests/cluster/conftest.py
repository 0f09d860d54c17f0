"""The control plane that `make cluster` left running, for the tests in this folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cluster_support import KUBECTL, SHARED, STATE, Namespace, features
from helm_support import need_helm
from tools import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    if not (SHARED / "up").exists():
        pytest.skip("needs ../shared/cluster")
    need_helm()
    running = STATE / "kubeconfig"
    if not running.exists() or not _answers(running):
        missing("needs a control plane: make cluster")
    _enable(running)
    return running


def _answers(kubeconfig: Path) -> bool:
    return Namespace("default", kubeconfig).run(KUBECTL, "get", "--raw", "/readyz").returncode == 0


def _enable(kubeconfig: Path) -> None:
    """Switch on in Knative what the platform's chart does."""
    knative = Namespace("knative-serving", kubeconfig)
    patch = json.dumps({"data": features()})
    knative.kubectl("patch", "configmap", "config-features", "--type", "merge", "-p", patch)


@pytest.fixture
def namespace(kubeconfig: Path) -> Iterator[Namespace]:
    """A namespace of the test's own; all that is in it goes with it."""
    made = Namespace(f"test-{uuid4().hex[:8]}", kubeconfig)
    made.kubectl("create", "namespace", made.name)
    yield made
    made.kubectl("delete", "namespace", made.name, "--wait=false")
