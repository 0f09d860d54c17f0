"""What pydantic finds wrong with a plan, in sentences. Light: the judging commands load nothing that sends."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from saccade_loadtest.load.arrivals import BadSchedule


def sentences(error: ValidationError) -> str:
    """What was found, with what was given."""
    return "; ".join(_sentence(one) for one in error.errors())


def _sentence(fault: Any) -> str:
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, BadSchedule):
        return str(cause)
    return f"{'.'.join(map(str, fault['loc']))} is {fault['input']!r}: {fault['msg']}"
