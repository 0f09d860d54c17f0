"""The release workflow: as GitHub's syntax wants it, with actions pinned, and about what is in this repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import missing

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = ROOT / ".github" / "workflows" / "release.yml"


def workflow(path: Path = RELEASE) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actionlint_finds_nothing(path: Path) -> None:
    """Syntax, expressions, names of jobs and outputs, permissions, runners."""
    program = ROOT / ".tools" / "bin" / "actionlint"
    if not program.exists():
        missing("needs actionlint: make tools")
    ended = subprocess.run([program, "-no-color", path], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_say_their_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert used
    for one in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one


def test_every_right_is_asked_for_where_it_is_needed() -> None:
    found = workflow()
    assert found["permissions"] == {}
    for name, job in found["jobs"].items():
        assert job["permissions"]["contents"] == ("write" if name == "release" else "read")
        assert job["timeout-minutes"] <= 90


def test_the_images_are_the_dockerfiles_that_are_for_others() -> None:
    targets = set(
        re.findall(r"^FROM \S+ AS ([\w-]+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    built = set(workflow()["jobs"]["image"]["strategy"]["matrix"]["target"])
    assert built == {"transformer", "predictor", "predictor-cpu", "plan-builder"}
    assert built <= targets
    script = next(step["run"] for step in workflow()["jobs"]["release"]["steps"] if "SBOM" in step.get("name", ""))
    [listed] = re.findall(r"for target in (.*); do", script)
    assert set(listed.split()) == built


@pytest.mark.parametrize(("tag", "passes"), [("v0.1.0", True), ("v0.2.0", False)])
def test_a_tag_that_is_not_the_versions_stops_it(tag: str, passes: bool, tmp_path: Path) -> None:
    from saccade_serving import __version__

    step = next(one for one in workflow()["jobs"]["check"]["steps"] if one.get("id") == "version")
    tag = f"v{__version__}" if passes else tag
    output = tmp_path / "output"
    ended = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
        cwd=ROOT,
        env={"TAG": tag, "OWNER": "Some-Owner", "GITHUB_OUTPUT": str(output), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode == 0) == passes, ended.stdout + ended.stderr
    if passes:
        assert output.read_text(encoding="utf-8") == f"version={__version__}\nowner=some-owner\n"
    else:
        assert f"the tag is {tag}; expected the version of the code" in ended.stdout


def test_every_script_is_one_that_bash_reads() -> None:
    for job in workflow()["jobs"].values():
        for step in job["steps"]:
            if "run" in step:
                subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True, timeout=60)
                assert "${{" not in step["run"], "what comes from outside goes in by env, not into a script"
