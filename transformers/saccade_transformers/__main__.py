"""``saccade-transformer``: images in by V2, v1 or ``/detect``; detections out; calls the predictor."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from pydantic import ValidationError

from saccade_serving.client import GrpcClient, RestClient, V2Client
from saccade_serving.cpus import container_cpus
from saccade_serving.server import SaccadeServer, argument_parser
from saccade_serving.settings import explain
from saccade_serving.telemetry import configure_logging
from saccade_transformers.heap import keep_freed_memory
from saccade_transformers.image.decode import ImageLimits, configure_opencv
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.model import TransformerModel
from saccade_transformers.pipeline import Pipeline
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.routes import Detect, Predict
from saccade_transformers.settings import TransformerSettings
from saccade_transformers.tasks.detection import DetectionTask
from saccade_transformers.tasks.task import Task
from saccade_transformers.workers import ImageWorkers

#: What ``--help`` says of KServe's flags in this service.
HELP: Final = {
    "model_name": "Name of the model on this service; the predictor's may differ: PREDICTOR_MODEL.",
    "predictor_host": "Required: the predictor's host:port, of the port that --predictor_protocol uses.",
    "predictor_protocol": "How the predictor is called: v2 (REST) or grpc-v2.",
    "predictor_use_ssl": "Call the predictor with TLS.",
    "predictor_request_timeout_seconds": "Time of a request that states no deadline; wins over DEFAULT_TIMEOUT_S.",
    "enable_predictor_health_check": "Readiness also asks whether the predictor is ready.",
}


def main() -> None:
    """Run the transformer until it is told to stop."""
    parser = argument_parser(
        "saccade-transformer",
        TransformerSettings,
        HELP,
        model_name="detector",
        predictor_protocol="v2",
        predictor_request_timeout_seconds=None,
    )
    arguments = parser.parse_args()
    if not arguments.predictor_host:
        parser.exit(2, "--predictor_host is missing; expected the predictor's host:port\n")
    if arguments.predictor_protocol == "v1":
        parser.exit(2, "--predictor_protocol=v1 cannot carry tensors; expected v2 or grpc-v2\n")
    try:
        settings = TransformerSettings(**_from_flags(arguments))
    except ValidationError as error:
        sys.exit(explain(error, "SACCADE_TRANSFORMER_"))
    configure_logging(settings.log_level, settings.log_format)
    configure_opencv()
    keep_freed_memory()

    metrics = TransformerMetrics()
    workers = ImageWorkers(settings.image_workers or container_cpus(), settings.max_waiting_images)
    metrics.watch_workers(workers)
    predictor = Predictor(
        _client(arguments, settings),
        settings.predictor_model or arguments.model_name,
        metrics.predictor_seconds,
    )
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    model = TransformerModel(
        arguments.model_name,
        predictor,
        Pipeline(predictor, workers, limits, metrics),
        workers,
        lambda contract: _detection(contract, settings),
        settings.max_images_per_request,
        settings.max_request_pixels,
        arguments.enable_predictor_health_check,
    )
    SaccadeServer(arguments, settings, metrics, lambda gate: [Detect(model, gate), Predict(model, gate)]).start(
        [model]
    )


def _from_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """KServe's flags win over the environment."""
    timeout_s = arguments.predictor_request_timeout_seconds
    return {} if timeout_s is None else {"default_timeout_s": timeout_s}


def _client(arguments: argparse.Namespace, settings: TransformerSettings) -> V2Client:
    host, tls = arguments.predictor_host, arguments.predictor_use_ssl
    if arguments.predictor_protocol == "grpc-v2":
        return GrpcClient(host if ":" in host else f"{host}:{443 if tls else 80}", tls)
    return RestClient(f"{'https' if tls else 'http'}://{host}", settings.predictor_connections)


def _detection(contract: PredictorContract, settings: TransformerSettings) -> Task[Any, Any]:
    """Build the detection task from the ready graph's metadata."""
    return DetectionTask(
        labels=contract.labels,
        candidates=int(contract.properties["saccade.candidates"]),
        min_score=float(contract.properties["saccade.min_score"]),
        score_threshold=settings.score_threshold,
        iou_threshold=settings.iou_threshold,
        max_detections=settings.max_detections,
    )


if __name__ == "__main__":
    main()
