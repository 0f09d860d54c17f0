"""The examples, each made once for all tests of a run, in whichever process asks for it first.

Making one takes seconds of both CPUs, and several files look at the same ones. Nothing is taken away here: who
destroys an example has its configuration to itself, and the others keep what was read of it.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from terraform_support import TERRAFORM, Configuration, Object, copy_sources, need_providers, only, resources

EXAMPLES = sorted(path.parent.name for path in (TERRAFORM / "examples").glob("*/main.tf"))
ACCOUNT = Path(__file__).parent / "terraform" / "account.json"


@dataclass(frozen=True)
class Example:
    """An example that has been applied with the variables that it shows.

    Attributes:
        configuration: its folder, for more commands.
        validated: what ``terraform validate`` printed.
        outputs: values of the outputs.
        resources: values of the resources by address: all are known.
    """

    configuration: Configuration
    validated: str
    outputs: Object
    resources: dict[str, Object]

    def all(self, kind: str | None = None) -> dict[str, Object]:
        """Resources of a type by address, or all."""
        return {address: one for address, one in self.resources.items() if kind is None or f"{kind}." in f".{address}"}

    def the(self, kind: str, part: str = "") -> Object:
        """The one of a type whose address has the part."""
        return only({address: one for address, one in self.all(kind).items() if part in address})


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that all processes of the run see."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def folder_of_the_run(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a run of pytest have in common."""
    own = factory.getbasetemp()
    return own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own


@functools.cache
def made(run: Path, name: str) -> Example:
    """The example, made if nobody has made it yet."""
    providers = need_providers()
    folder = run / "examples-made" / name
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "made.json"
    configuration = Configuration(folder / "terraform" / "examples" / name, providers, ACCOUNT)
    with locked(folder / "lock"):
        if not record.exists():
            record.write_text(json.dumps(make(folder, configuration)))
    return Example(configuration, **json.loads(record.read_text()))


def make(folder: Path, configuration: Configuration) -> dict[str, Any]:
    """Make it; what is then known of it."""
    copy_sources(folder)
    (configuration.folder / "terraform.tfvars.example").rename(configuration.folder / "terraform.tfvars")
    configuration.init()
    validated = configuration.run("validate", "-no-color")
    outputs = configuration.apply()
    state = json.loads(configuration.run("show", "-json"))
    return {
        "validated": validated,
        "outputs": outputs,
        "resources": resources({"planned_values": state["values"]}),
    }
