"""One copy of the sources for the tests of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from terraform_support import copy_sources, need_terraform


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy of ``terraform/``."""
    need_terraform()
    return copy_sources(tmp_path_factory.mktemp("sources"))
