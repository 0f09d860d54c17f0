"""An engine's times, for servers whose engine sleeps: slow enough that two cores have next to nothing to do.

Clients wait 500 ms, and the predictor is told 480, less what the way takes. B* = 64 rows, 296 rows a second. B* is not
at the edge of what fits, and all times are long: neither chance nor a busy machine's milliseconds move them much.
"""

from __future__ import annotations

from typing import Final

from saccade_serving.scheduling.policy import BatchingRules
from saccade_serving.scheduling.profile import LatencyProfile

MODEL: Final = "sleeping"
#: Rows -> seconds of the slowest batch.
PROFILE: Final = {1: 0.050, 8: 0.075, 64: 0.216, 128: 0.450}
#: A batch takes up to this part less, by chance.
JITTER: Final = 0.05
MAX_BATCH_SIZE: Final = 128
#: What clients wait, and what of it the predictor is given.
CLIENT_S: Final = 0.5
SLO_S: Final = 0.48


def profile() -> LatencyProfile:
    """The times as the scheduler knows them."""
    return LatencyProfile(PROFILE)


def rules() -> BatchingRules:
    """The model's rules as its config says them."""
    return BatchingRules(MAX_BATCH_SIZE, slo_s=SLO_S)
