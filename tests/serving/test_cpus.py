"""CPUs of a container: affinity and the cgroup quota, version 2 and version 1, in made-up cgroup trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from saccade_serving.cpus import container_cpus

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def v2(root: Path, text: str) -> Path:
    (root / "cpu.max").write_text(text)
    return root


def v1(root: Path, quota: str, period: str) -> Path:
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (root / "cpu" / "cpu.cfs_period_us").write_text(period)
    return root


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of 64 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),  # a fraction is rounded down
        ("50000 100000\n", 1),  # never below 1
        ("100 100000\n", 1),
        ("max 100000\n", 64),
        ("12800000 100000\n", 64),  # a quota above what there is
        ("3200 1600\n", 2),
        ("", 64),  # unreadable: as if there were none
        ("two many\n", 64),
        ("100000 0\n", 64),
        ("1 2 3\n", 64),
    ],
)
def test_a_quota_of_cgroup_v2_bounds_the_cpus(tmp_path: Path, text: str, cpus: int) -> None:
    assert container_cpus(v2(tmp_path, text)) == cpus


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [("400000", "100000", 4), ("-1", "100000", 64), ("0", "100000", 64), ("150000", "100000", 1), ("x", "1", 64)],
)
def test_a_quota_of_cgroup_v1_bounds_the_cpus(tmp_path: Path, quota: str, period: str, cpus: int) -> None:
    assert container_cpus(v1(tmp_path, quota, period)) == cpus


@pytest.mark.usefixtures("many")
def test_of_both_versions_the_second_counts(tmp_path: Path) -> None:
    assert container_cpus(v2(v1(tmp_path, "400000", "100000"), "300000 100000")) == 3


@pytest.mark.usefixtures("many")
def test_without_a_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    assert container_cpus(tmp_path / "none") == 64


def test_a_generous_quota_does_not_invent_cpus(tmp_path: Path) -> None:
    assert container_cpus(v2(tmp_path, "99900000 100000")) == HERE


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= container_cpus() <= HERE
