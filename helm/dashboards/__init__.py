"""The dashboards of the chart, one to a file; ``make chart`` writes them to ``saccade/files/dashboards``.

A test holds every metric and label against the code, and against lists of what Knative and dcgm-exporter export. How
Grafana wants it in JSON: ``grafana.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from dashboards.batching import BATCHING
from dashboards.cache import CACHE
from dashboards.canary import CANARY
from dashboards.gpu import GPU
from dashboards.overview import OVERVIEW

FOLDER: Final = Path(__file__).resolve().parents[1] / "saccade" / "files" / "dashboards"
DASHBOARDS: Final = {"overview": OVERVIEW, "batching": BATCHING, "cache": CACHE, "canary": CANARY, "gpu": GPU}


def files() -> dict[Path, str]:
    """What the generated files have to hold."""
    return {
        FOLDER / f"{name}.json": json.dumps(dashboard.to_json(), indent=1) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }
