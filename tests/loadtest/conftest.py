"""A service for the tests of the commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtest_support import served


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a detector that finds the same thing in every picture."""
    with served("null_detector") as found:
        yield found
