"""Terraform's own checks of every folder, and what each has to say of itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from terraform_support import TERRAFORM, Configuration, copy_sources, need_providers, need_terraform

FOLDERS = sorted({path.parent for path in TERRAFORM.rglob("*.tf") if ".terraform" not in path.parts})
MODULES = [folder for folder in FOLDERS if folder.is_relative_to(TERRAFORM / "modules")]
STACKS = [folder for folder in FOLDERS if folder.parent == TERRAFORM / "stacks"]
EXAMPLES = [folder for folder in FOLDERS if folder.parent == TERRAFORM / "examples"]


def text(folder: Path) -> str:
    """All of a folder's files."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.tf")))


def needs_no_provider(folder: Path) -> bool:
    """Whether it runs with what is built into Terraform."""
    return "required_providers" not in text(folder)


def name(folder: Path) -> str:
    return str(folder.relative_to(TERRAFORM))


def called(folder: Path) -> set[Path]:
    """Folders that a folder calls, and those that these call."""
    found = {(folder / source).resolve() for source in re.findall(r'^  source\s+= "(\.[^"]+)"', text(folder), re.M)}
    return found.union(*map(called, found))


#: What an example calls is valid with it: Terraform looks at all of it (test_examples.py).
OF_EXAMPLES = set(EXAMPLES).union(*map(called, EXAMPLES))
REST = [folder for folder in FOLDERS if folder not in OF_EXAMPLES]
ROOTS = [folder for folder in REST if folder not in set().union(*map(called, REST))]

every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=name)
tested = [folder for folder in FOLDERS if list(folder.glob("tests/*.tftest.hcl"))]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that nobody else gives variables to."""
    return copy_sources(tmp_path_factory.mktemp("clean"))


def copied(folder: Path, sources: Path) -> Configuration:
    found = Configuration(
        sources / folder.relative_to(TERRAFORM), None if needs_no_provider(folder) else need_providers()
    )
    found.init()
    return found


def test_there_are_the_parts() -> None:
    assert {"aws", "gcp", "platform"} <= {folder.name for folder in STACKS}
    assert {folder.name for folder in EXAMPLES} == {
        "aws-minimal",
        "aws-private-a100",
        "aws-a10g-timeslice",
        "gcp-minimal",
        "gcp-l4-spot",
    }
    assert len(MODULES) >= 20
    assert [name(folder) for folder in MODULES if needs_no_provider(folder)] == [
        "modules/contract/answer",
        "modules/contract/request",
        "modules/gpu-catalog",
    ]


def test_it_has_terraforms_form() -> None:
    ended = subprocess.run(
        [need_terraform(), "fmt", "-check", "-diff", "-recursive", TERRAFORM],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_whatever_no_example_calls_is_checked_here() -> None:
    assert {name(folder) for folder in ROOTS} == {"stacks/platform", "tests/contract"}
    assert OF_EXAMPLES.union(ROOTS, *map(called, ROOTS)) == set(FOLDERS)


@pytest.mark.parametrize("folder", ROOTS, ids=name)
def test_it_is_valid_without_a_warning(folder: Path, sources: Path) -> None:
    printed = copied(folder, sources).run("validate", "-no-color")
    assert printed.strip() == "Success! The configuration is valid."


@pytest.mark.parametrize("folder", tested, ids=name)
def test_its_own_tests_pass(folder: Path, sources: Path) -> None:
    printed = copied(folder, sources).run("test", "-no-color")
    assert re.search(r"Success! [1-9][0-9]* passed, 0 failed\.", printed), printed


@every_folder
def test_its_least_version_is_said(folder: Path) -> None:
    floor = "1.9" if folder in MODULES else "1.11"
    assert f'required_version = ">= {floor}, < 2.0"' in text(folder)


def floors(folder: Path, provider: str) -> list[str]:
    return re.findall(rf'hashicorp/{provider}"\n\s+version = ">= ([0-9.]+), < ', text(folder))


def test_every_folder_asks_for_a_provider_that_has_what_is_used() -> None:
    """``deletion_protection`` of ``aws_eks_cluster`` came with 6.9.0: before it no plan works."""
    on_aws = [folder for folder in FOLDERS if "hashicorp/aws" in text(folder)]
    assert len(on_aws) >= 13
    assert {floor for folder in on_aws for floor in floors(folder, "aws")} == {"6.9"}


def test_how_a_node_group_is_updated_is_left_to_whoever_set_it() -> None:
    """Providers from 6.26 on have ``update_strategy``, and would plan to unset it; ours may be older and lacks it."""
    groups = text(TERRAFORM / "modules" / "aws" / "node-pools")
    assert "ignore_changes = [scaling_config[0].desired_size, update_config]" in groups


@every_folder
def test_every_variable_has_a_type_and_a_description(folder: Path) -> None:
    for variable, body in re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text(folder), flags=re.DOTALL | re.MULTILINE):
        assert re.search(r"^  type\s+= ", body, flags=re.MULTILINE), f"{variable} has no type"
        assert re.search(r"^  description = ", body, flags=re.MULTILINE), f"{variable} has no description"


@every_folder
def test_every_output_has_a_description(folder: Path) -> None:
    for output, body in re.findall(r'^output "(\w+)" \{\n(.*?)^\}', text(folder), flags=re.DOTALL | re.MULTILINE):
        assert re.search(r"^  description = ", body, flags=re.MULTILINE), f"{output} has no description"


@every_folder
def test_modules_come_from_here_alone(folder: Path) -> None:
    for source in re.findall(r'^  source\s+= "([^"]+)"', text(folder), flags=re.MULTILINE):
        assert source.startswith("../"), f"{source} is somebody else's"


# stacks/platform is a root: the contract says where its providers find the cluster.
@pytest.mark.parametrize(
    "folder", [one for one in MODULES + STACKS if one != TERRAFORM / "stacks" / "platform"], ids=name
)
def test_what_others_call_configures_no_provider(folder: Path) -> None:
    assert not re.search(r"^provider ", text(folder), flags=re.MULTILINE)


@pytest.mark.parametrize("folder", [*EXAMPLES, TERRAFORM / "stacks" / "platform"], ids=name)
def test_a_root_shows_a_locked_and_encrypted_backend(folder: Path) -> None:
    backend = (folder / "backend.tf.example").read_text(encoding="utf-8")
    assert 'backend "gcs"' in backend or ("use_lockfile = true" in backend and re.search(r"encrypt\s+= true", backend))
