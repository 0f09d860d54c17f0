"""Terraform as tests use it: the real program on a copy of ``terraform/`` and ``helm/``, with or without providers.

Modules without a provider are checked wherever Terraform is. What needs providers runs against
``../shared/terraform``: their real schemas, with an API that invents what a cloud would answer. Nothing here reaches
a cloud.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools import missing

ROOT = Path(__file__).resolve().parents[1]
TERRAFORM = ROOT / "terraform"
SCHEMAS = ROOT.parent / "shared" / "terraform"
LEAST = (1, 11)

Object = dict[str, Any]
Variables = Mapping[str, Any]


@functools.cache
def need_terraform() -> str:
    """The program; skips where there is none of 1.11 or later, with ``CI=true`` fails."""
    program = shutil.which("terraform")
    if program is None:
        missing("needs Terraform 1.11 or later: https://developer.hashicorp.com/terraform/install")
    told = subprocess.run([program, "version", "-json"], capture_output=True, text=True, timeout=60, check=True)
    version = json.loads(told.stdout)["terraform_version"]
    if tuple(map(int, version.split(".")[:2])) < LEAST:
        missing(f"needs Terraform 1.11 or later, and {program} is {version}")
    return program


@functools.cache
def need_providers() -> Path:
    """Configuration of Terraform with providers that have the real schemas; skips elsewhere."""
    if not SCHEMAS.is_dir():
        pytest.skip("needs ../shared/terraform")
    if shutil.which("go") is None:
        pytest.skip("needs Go, which builds the providers of ../shared/terraform")
    made = subprocess.run([SCHEMAS / "setup"], capture_output=True, text=True, timeout=600, check=False)
    assert made.returncode == 0, made.stderr
    found = re.fullmatch(r"export TF_CLI_CONFIG_FILE=(\S+)\s*", made.stdout)
    assert found is not None, made.stdout
    return Path(found[1])


def copy_sources(folder: Path) -> Path:
    """Copy what Terraform reads, so that it writes nothing into the repository. Returns the copy of ``terraform/``."""
    left_out = shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*", "*.auto.tfvars*", "*.tfplan")
    for name in ("terraform", "helm"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    return folder / "terraform"


@dataclass(frozen=True)
class Configuration:
    """A folder with Terraform's files, in a copy of the repository.

    Attributes:
        folder: where the files are.
        providers: Terraform's own configuration, which says where providers come from; None for what needs none.
        data: what the invented API answers, in the place of ``../shared/terraform``'s own answers.
    """

    folder: Path
    providers: Path | None = None
    data: Path | None = None

    def call(self, *arguments: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run Terraform here, whatever it answers."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
        environment |= {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0"}
        # Without providers nothing may be downloaded: an empty configuration, whatever the user's own says.
        environment["TF_CLI_CONFIG_FILE"] = str(self.providers) if self.providers else os.devnull
        # A run is over before it is worth collecting garbage: a quarter of its CPU time.
        environment["GOGC"] = "400"
        if self.data:
            environment["SCHEMAPROVIDER_DATA"] = str(self.data)
        return subprocess.run(
            [need_terraform(), f"-chdir={self.folder}", *map(str, arguments)],
            input=typed,
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
            check=False,
        )

    def run(self, *arguments: str | Path) -> str:
        """Run Terraform here; it has to succeed. Returns what it printed."""
        ended = self.call(*arguments)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def init(self) -> None:
        """Install modules and providers."""
        self.run("init", "-backend=false", "-no-color")

    def set(self, variables: Variables) -> None:
        """Give the variables, in the place of those given before."""
        (self.folder / "test.auto.tfvars.json").write_text(json.dumps(variables))

    def plan(self) -> Object:
        """The plan, as Terraform's JSON."""
        self.run("plan", "-no-color", "-out=test.tfplan")
        return self._load("show", "-json", "test.tfplan")

    def apply(self) -> Object:
        """Make it. Returns the outputs' values."""
        self.run("apply", "-no-color", "-auto-approve")
        return {name: output["value"] for name, output in self._load("output", "-json").items()}

    def output(self, name: str) -> str:
        """A text among the outputs, as ``terraform output -raw`` prints it."""
        return self.run("output", "-raw", name)

    def evaluate(self, expression: str) -> Any:
        """What an expression is here, before anything is made."""
        ended = self.call("console", typed=f"jsonencode({expression})\n")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return json.loads(json.loads(ended.stdout))

    def changes(self) -> str:
        """What a plan would change: nothing, or what Terraform prints."""
        ended = self.call("plan", "-no-color", "-detailed-exitcode")
        assert ended.returncode in (0, 2), ended.stdout + ended.stderr
        return "" if ended.returncode == 0 else ended.stdout

    def destroy(self) -> list[str]:
        """Take it all away, as the state has it. Returns addresses in the order in which that began."""
        # What a refresh would find is what ``changes`` looks at.
        printed = self.run("destroy", "-no-color", "-auto-approve", "-refresh=false")
        assert self.run("state", "list") == ""
        return re.findall(r"^(\S.*): Destroying\.\.\.", printed, flags=re.MULTILINE)

    def refusals(self) -> list[str]:
        """The sentences with which a plan is refused, each in one line."""
        return [sentence for sentences in self.refusals_by_file().values() for sentence in sentences]

    def refusals_by_file(self) -> dict[str, list[str]]:
        """The same by the file that Terraform points at, "" where at none."""
        ended = self.call("plan", "-json")
        assert ended.returncode == 1, "it was not refused"
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        errors = [line["diagnostic"] for line in lines if line.get("diagnostic", {}).get("severity") == "error"]
        found: dict[str, list[str]] = {}
        for error in errors:
            sentence = " ".join(error.get("detail", error["summary"]).split())
            found.setdefault(error.get("range", {}).get("filename", ""), []).append(sentence)
        return found

    def _load(self, *arguments: str) -> Object:
        found = json.loads(self.run(*arguments))
        assert isinstance(found, dict)
        return found


def resources(plan: Object, kind: str | None = None) -> dict[str, Object]:
    """Planned resources by address, with their values; of one type, or all. Data sources are none."""

    def walk(module: Object) -> list[Object]:
        here: list[Object] = module.get("resources", [])
        return here + [found for child in module.get("child_modules", []) for found in walk(child)]

    return {
        one["address"]: one["values"]
        for one in walk(plan["planned_values"]["root_module"])
        if one["mode"] == "managed" and kind in (None, one["type"])
    }


def only(found: Mapping[str, Object]) -> Object:
    """The values of the one resource."""
    [values] = found.values()
    return values
