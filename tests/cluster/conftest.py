"""A control plane for the tests in this folder: the one that `make cluster` left running, or one of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cluster_support import SHARED, STATE, Namespace, features
from helm_support import need_helm
from tools import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not (SHARED / "up").exists():
        pytest.skip("needs ../shared/cluster")
    need_helm()
    if shutil.which("go") is None and not Path("~/.cache/local-cluster/bin").expanduser().exists():
        missing("needs Go, which builds the control plane")
    running = STATE / "kubeconfig"
    if running.exists() and _answers(running):
        yield running
        return
    state = tmp_path_factory.mktemp("cluster")
    environment = {**os.environ, "CLUSTER_STATE": str(state), "CLUSTER_FEATURES": features()}
    # The first start builds for some minutes; its lines are the progress that `pytest -s` shows.
    subprocess.run([SHARED / "up"], env=environment, check=True, timeout=3000)
    try:
        yield state / "kubeconfig"
    finally:
        subprocess.run([SHARED / "down"], env=environment, check=True, timeout=120)


def _answers(kubeconfig: Path) -> bool:
    return Namespace("default", kubeconfig).run("kubectl", "get", "--raw", "/readyz").returncode == 0


@pytest.fixture
def namespace(kubeconfig: Path) -> Iterator[Namespace]:
    """A namespace of the test's own; all that is in it goes with it."""
    made = Namespace(f"test-{uuid4().hex[:8]}", kubeconfig)
    made.kubectl("create", "namespace", made.name)
    yield made
    made.kubectl("delete", "namespace", made.name, "--timeout=90s")
