"""checkov's rules for what Terraform makes, with a reason beside each that is skipped."""

from __future__ import annotations

import json
import re
import subprocess

from terraform_support import ROOT, TERRAFORM
from tools import missing

CHECKOV = ROOT / ".tools" / "checkov" / "bin" / "checkov"
CONFIGURATION = TERRAFORM / ".checkov.yaml"


def test_checkov_finds_nothing_beside_what_is_skipped_for_a_reason() -> None:
    if not CHECKOV.exists():
        missing("needs checkov: make tools")
    ended = subprocess.run(
        [CHECKOV, "-d", TERRAFORM, "--config-file", CONFIGURATION, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = json.loads(ended.stdout)
    failed = {(one["check_id"], one["check_name"], one["resource"]) for one in found["results"]["failed_checks"]}
    assert failed == set()
    assert found["summary"]["parsing_errors"] == 0
    assert found["summary"]["passed"] > 300
    assert ended.returncode == 0


def test_every_skip_has_its_reason() -> None:
    _, skips = CONFIGURATION.read_text(encoding="utf-8").split("skip-check:\n")
    reason = False
    for line in skips.splitlines():
        if line.lstrip().startswith("#"):
            reason = True
        elif re.fullmatch(r"  - CKV2?_[A-Z]+_[0-9]+", line):
            assert reason, f"{line.strip()} has no comment above"
        else:
            assert not line.strip(), line
            reason = False
