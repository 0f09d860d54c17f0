"""Why a model, or a version of it, cannot be served, as one word of few: for a metric's label.

The sentence that operators and clients are told is ``model.reason_of``'s.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from saccade_predictor.batchingconfig import ModelConfigError
from saccade_predictor.engines.cuda import NoGpu
from saccade_predictor.engines.plan import SidecarError
from saccade_predictor.engines.plancheck import PlanRefused
from saccade_predictor.repository import RepositoryError
from saccade_serving.errors import SaccadeError

#: plan: refused on this machine. config: ``config.pbtxt`` cannot be served as it stands. files: one is missing, or not
#: laid out as expected. warmup: the engine could not run its first requests. engine: it served, and broke or hangs.
#: load: all else.
Reason: TypeAlias = Literal["plan", "config", "files", "warmup", "engine", "load"]


def classify(error: BaseException) -> Reason:
    """Say what kind of thing kept a model from being loaded."""
    match error:
        case PlanRefused() | SidecarError() | NoGpu():
            return "plan"
        case ModelConfigError():
            return "config"
        case RepositoryError() | OSError():
            return "files"
        case SaccadeError():
            return "warmup"
        case _:
            return "load"
