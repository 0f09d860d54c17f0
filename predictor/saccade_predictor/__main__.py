"""``saccade-predictor``: serves the models of a repository over V2 REST and gRPC."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from saccade_predictor.engines.gpus import Gpus
from saccade_predictor.lifecycle import Lifecycle
from saccade_predictor.loading import find_versions
from saccade_predictor.metrics import PredictorMetrics
from saccade_predictor.model import PredictorModel
from saccade_predictor.repository import RepositoryError, find_models
from saccade_predictor.settings import PredictorSettings
from saccade_predictor.version import Surroundings, Version
from saccade_serving.connection.control import Mode
from saccade_serving.cpus import container_cpus
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Labels
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
    parser = argument_parser("saccade-predictor", PredictorSettings, HELP, model_name=None)
    _add_control_flags(parser)
    arguments = parser.parse_args()
    flags = {"model_control_mode": arguments.model_control_mode, "repository_poll_s": arguments.repository_poll_secs}
    try:
        settings = PredictorSettings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        sys.exit(explain(error, "SACCADE_PREDICTOR_"))
    if arguments.load_model and settings.model_control_mode != "explicit":
        sys.exit("--load-model needs --model-control-mode=explicit; otherwise all models of the repository are loaded")
    configure_logging(settings.log_level, settings.log_format)

    metrics = PredictorMetrics()
    arena = Arena(settings.max_inflight_bytes, peer_share=settings.max_peer_share)
    shared = Surroundings(metrics, arena, settings.max_queue_size, settings.hang_limit_s)
    gpus = Gpus(arena, graphs=settings.cuda_graphs)
    find = partial(find_versions, threads=settings.engine_threads or max(1, container_cpus() - 1), gpus=gpus)
    server = SaccadeServer(arguments, settings, metrics, arena=arena)
    lifecycle = Lifecycle(
        settings.model_repository,
        arguments.model_name,
        settings.model_control_mode,
        settings.control_key,
        settings.repository_poll_s,
        make=lambda directory: PredictorModel(directory, find, shared),
        add=server.add,
        remove=server.remove,
        count=lambda name, outcome: metrics.model_changes.add((name, outcome)),
    )
    try:
        if settings.model_control_mode == "none":
            find_models(settings.model_repository, arguments.model_name)  # none at all: it says how one should look
        models = lifecycle.begin(_wanted(settings.model_control_mode, arguments.load_model))
    except RepositoryError as error:
        sys.exit(str(error))

    def versions() -> Iterator[tuple[Labels, Version]]:
        for model in lifecycle.served():
            yield from (((model.name, version.version), version) for version in model.loaded())

    metrics.watch_queues(
        lambda: [(labels, version.batcher.depth) for labels, version in versions()],
        lambda: [(labels, version.batcher.oldest_s()) for labels, version in versions()],
        lambda: [(labels, float(bool(version.fallback))) for labels, version in versions()],
    )
    metrics.watch_models(lifecycle.unavailable)
    metrics.watch_gpus(gpus.memory, gpus.locked_bytes)
    with recording(settings) as recorder:
        server.gate.recorder = recorder
        server.start(models, lifecycle, settings.admin_port if settings.model_control_mode == "explicit" else 0)
    if shared.loader.busy or shared.closer.busy or lifecycle.is_looking or gpus.in_use:
        # Threads in native code, or in a file system that hangs, cannot be ended: the process can.
        logging.shutdown()
        os._exit(0)


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


def _add_control_flags(parser: ArgumentParser) -> None:
    """Triton's own flags, spelled as Triton spells them."""
    parser.add_argument(
        "--model-control-mode",
        choices=("none", "poll", "explicit"),
        help="How the models served change: never, with the repository, or by load and unload calls.",
    )
    parser.add_argument("--repository-poll-secs", type=float, help="With poll: seconds between two looks.")
    parser.add_argument(
        "--load-model",
        action="append",
        metavar="NAME",
        help="With explicit: a model to load at the start, '*' for all; may be given several times (default: none).",
    )


def _wanted(mode: Mode, named: list[str] | None) -> set[str] | None:
    """Names of the models to start with; None: all."""
    if mode != "explicit" or "*" in (named or ()):
        return None
    return set(named or ())


if __name__ == "__main__":
    main()
