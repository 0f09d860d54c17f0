"""What Terraform's pages tell to paste: shell that parses, outputs and files that are there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from terraform_support import ROOT, TERRAFORM

PAGES = sorted(path for path in TERRAFORM.rglob("*.md") if ".terraform" not in path.parts)
OUTPUTS = {
    path.parent: set(re.findall(r'^output "(\w+)"', path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    for path in TERRAFORM.rglob("outputs.tf")
}


def name(page: Path) -> str:
    return str(page.relative_to(TERRAFORM))


def commands(page: Path) -> str:
    """The shell in a page."""
    return "\n".join(
        re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    )


pasted = [page for page in PAGES if commands(page)]


def root_of(page: Path, told: str) -> Path:
    """The root that a command names by -chdir, by variables of the page; else the one that the page is of."""
    if not told:
        return page.parent
    assigned = dict(re.findall(r"\b([A-Z]+)=([\w.-]+)", commands(page)))
    told = re.sub(r"\$(\w+)", lambda variable: assigned[variable[1]], told)
    return next(one for one in ((page.parent / told).resolve(), (ROOT / told).resolve()) if one.is_dir())


def test_there_are_commands_to_paste() -> None:
    assert {"examples/gcp-minimal/README.md", "stacks/platform/README.md"} <= set(map(name, pasted))


@pytest.mark.parametrize("page", pasted, ids=name)
def test_the_shell_can_be_read(page: Path) -> None:
    ended = subprocess.run(
        ["bash", "-n"], input=commands(page), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_outputs_that_are_asked_for_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8").partition("<!-- tables begin -->")[0]
    asked = re.findall(r"terraform(?: -chdir=(\S+))? output (?:-raw |-json )?([a-z]\w*)( [a-z]\w*)?", text)
    for told, output, more in asked:
        assert not more, f"terraform output takes one name, and here {output} and{more}"
        root = root_of(page, told)
        if root in OUTPUTS:
            assert output in OUTPUTS[root], f"{root} has no output {output}"


@pytest.mark.parametrize("folder", sorted((TERRAFORM / "examples").iterdir()), ids=lambda folder: folder.name)
def test_an_example_is_made_with_its_own_folder_and_name(folder: Path) -> None:
    [(example, called)] = re.findall(r"^EXAMPLE=(\S+) NAME=(\S+)$", commands(folder / "README.md"), flags=re.MULTILINE)
    assert example == folder.name
    [named] = re.findall(
        r'^  name +=\s+"(\S+)"$', (folder / "main.tf").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert called == named


@pytest.mark.parametrize("page", pasted, ids=name)
def test_the_folders_that_terraform_is_sent_to_are_there(page: Path) -> None:
    for told in re.findall(r"-chdir=(\S+)", commands(page)):
        assert list(root_of(page, told).glob("*.tf")), told
