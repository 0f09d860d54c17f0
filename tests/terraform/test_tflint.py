"""tflint's rules for Terraform, all of them, in every folder."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from terraform_support import ROOT, TERRAFORM, Object
from tools import missing

TFLINT = ROOT / ".tools" / "bin" / "tflint"


def issues(folder: Path) -> list[str]:
    """What it finds in a folder and below: the rule and where."""
    if not TFLINT.exists():
        missing("needs tflint: make tools")
    ended = subprocess.run(
        [TFLINT, f"--chdir={folder}", "--recursive", f"--config={TERRAFORM / '.tflint.hcl'}", "--format=json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found: Object = json.loads(ended.stdout)
    assert found["errors"] == [], ended.stdout + ended.stderr
    return [f"{one['rule']['name']}: {one['range']['filename']}: {one['message']}" for one in found["issues"]]


def test_tflint_finds_nothing() -> None:
    assert issues(TERRAFORM) == []


def test_tflint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('variable "unused" {}\n')
    rules = {one.partition(":")[0] for one in issues(tmp_path)}
    assert {"terraform_unused_declarations", "terraform_typed_variables", "terraform_required_version"} <= rules
