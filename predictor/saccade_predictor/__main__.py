"""``saccade-predictor``: serves the models of a repository over V2 REST and gRPC."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from saccade_predictor.loading import load_engines
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.repository import RepositoryError, find_models
from saccade_predictor.settings import PredictorSettings
from saccade_serving.cpus import container_cpus
from saccade_serving.memory.arena import Arena
from saccade_serving.recording import Recorder
from saccade_serving.server import SaccadeServer, argument_parser
from saccade_serving.settings import explain
from saccade_serving.telemetry import configure_logging

_NO_PREDICTOR: Final = "ignored: only the transformer calls a predictor"
#: What ``--help`` says of KServe's flags in this service.
HELP: Final = {
    "model_name": "Serve this model of the repository alone (default: all of them).",
    "predictor_host": _NO_PREDICTOR,
    "predictor_protocol": _NO_PREDICTOR,
    "predictor_use_ssl": _NO_PREDICTOR,
    "predictor_request_timeout_seconds": _NO_PREDICTOR,
    "enable_predictor_health_check": _NO_PREDICTOR,
}


def main() -> None:
    """Run the predictor until it is told to stop."""
    arguments = argument_parser("saccade-predictor", PredictorSettings, HELP, model_name=None).parse_args()
    try:
        settings = PredictorSettings()
        directories = find_models(settings.model_repository, arguments.model_name)
    except ValidationError as error:
        sys.exit(explain(error, "SACCADE_PREDICTOR_"))
    except RepositoryError as error:
        sys.exit(str(error))
    configure_logging(settings.log_level, settings.log_format)

    metrics = PredictorMetrics()
    arena = Arena(settings.max_inflight_bytes, peer_share=settings.max_peer_share)
    load = partial(load_engines, threads=settings.engine_threads or max(1, container_cpus() - 1))
    models = [
        PredictorModel(directory, load, settings.max_queue_size, metrics, arena, settings.hang_limit_s)
        for directory in directories
    ]
    metrics.watch_queues(
        lambda: [((model.name, v.version), v.batcher.depth) for model in models for v in model.loaded()],
        lambda: [((model.name, v.version), v.batcher.oldest_s()) for model in models for v in model.loaded()],
    )
    with recording(settings) as recorder:
        server = SaccadeServer(arguments, settings, metrics, arena=arena)
        server.gate.recorder = recorder
        server.start(models)


@contextmanager
def recording(settings: PredictorSettings) -> Iterator[Recorder | None]:
    """Record the arrival trace, if it is asked for, until all has been answered.

    Raises:
        SystemExit: its file cannot be written.
    """
    if not settings.arrival_trace:
        yield None
        return
    try:
        recorder = Recorder(Path(settings.arrival_trace), settings.arrival_trace_max_bytes)
    except OSError as error:
        where = f"SACCADE_PREDICTOR_ARRIVAL_TRACE={settings.arrival_trace!r}"
        sys.exit(f"{where}: the file cannot be written: {error.strerror}")
    with recorder:
        yield recorder


if __name__ == "__main__":
    main()
