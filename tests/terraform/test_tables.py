"""The tables in Terraform's READMEs are those of its files."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from terraform_support import TERRAFORM


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """terraform/tables.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("terraform_tables", TERRAFORM / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_files(writer: ModuleType) -> None:
    for path, content in writer.files().items():
        assert path.read_text(encoding="utf-8") == content, f"{path.relative_to(TERRAFORM)} has drifted: make chart"


def test_every_stack_and_example_has_a_readme_with_its_tables(writer: ModuleType) -> None:
    written = {path.parent for path in writer.files()}
    roots = {path.parent for kind in ("stacks", "examples") for path in (TERRAFORM / kind).glob("*/versions.tf")}
    assert len(roots) == 8
    assert roots <= written


def test_a_type_of_many_lines_stands_in_one(writer: ModuleType) -> None:
    text = """variable "pools" {
  description = <<-EOT
    Pools
    by name | alias.
  EOT
  type = map(object({
    machine = string # of the catalog
    nodes   = optional(number, 1)
    taints  = list(object({ key = string, value = string }))
  }))
  default  = {}
  nullable = false

  validation {
    condition     = true
    error_message = "never"
  }
}
"""
    [block] = writer.blocks(text, "variable")
    assert block.description == r"Pools by name \| alias."
    assert writer.one_line(block.arguments["type"]) == (
        "map(object({machine = string, nodes = optional(number, 1), "
        "taints = list(object({key = string, value = string}))}))"
    )
    assert block.arguments["default"] == "{}"
    assert "condition" not in block.arguments
