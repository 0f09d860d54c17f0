"""``saccade-transformer``: images in by V2, v1 or ``/detect``; detections out; calls the predictor."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from saccade_serving.client import Balanced, GrpcClient, RestClient, V2Client
from saccade_serving.cpus import container_cpus
from saccade_serving.lines import LineWriter
from saccade_serving.server import SaccadeServer, argument_parser
from saccade_serving.settings import explain
from saccade_serving.telemetry import configure_logging
from saccade_transformers.cache.cache import CacheLimits, FrameCache
from saccade_transformers.cache.owner import CameraOwner, LocalOwner
from saccade_transformers.cache.trust import Trust
from saccade_transformers.heap import keep_freed_memory
from saccade_transformers.image.decode import ImageLimits, configure_opencv
from saccade_transformers.ledger import Ledger, encode
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.model import TransformerModel
from saccade_transformers.pipeline import Pipeline
from saccade_transformers.predictor import Predictor, PredictorContract
from saccade_transformers.routes import Detect, Predict
from saccade_transformers.settings import TransformerSettings, check_hosts
from saccade_transformers.shadow.mirror import Shadow, ShadowLimits
from saccade_transformers.shadow.sampling import Sampler
from saccade_transformers.shadow.store import WorstStore
from saccade_transformers.share_file import read_share
from saccade_transformers.target import Target
from saccade_transformers.tasks.detection import CANDIDATES, DetectionTask
from saccade_transformers.tasks.task import Task
from saccade_transformers.variants import Variants
from saccade_transformers.workers import ImageWorkers

log = logging.getLogger("saccade.cache")

#: What ``--help`` says of KServe's flags in this service.
HELP: Final = {
    "model_name": "Name of the model on this service; the predictor's may differ: PREDICTOR_MODEL.",
    "predictor_host": "Required: the predictor's host:port, of --predictor_protocol's port; or several: a:80,b:80.",
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
    try:
        check_hosts("--predictor_host", arguments.predictor_host)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
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
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
    variants = _variants(arguments, settings, metrics)
    model = TransformerModel(
        arguments.model_name,
        variants,
        Pipeline(workers, limits, metrics, _cache(settings, metrics)),
        workers,
        settings.max_images_per_request,
        settings.max_request_pixels,
        arguments.enable_predictor_health_check,
        _shadow(arguments, settings, metrics),
    )
    server = SaccadeServer(arguments, settings, metrics, lambda gate: [Detect(model, gate), Predict(model, gate)])
    with _lines(settings) as lines:
        if variants.candidate is not None:
            server.gate.recorder = Ledger(variants, metrics, lines)
        server.start([model])


def _from_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """KServe's flags win over the environment."""
    timeout_s = arguments.predictor_request_timeout_seconds
    return {} if timeout_s is None else {"default_timeout_s": timeout_s}


def _variants(arguments: argparse.Namespace, settings: TransformerSettings, metrics: TransformerMetrics) -> Variants:
    """The predictor, and beside it a candidate where there is one."""
    model = settings.predictor_model or arguments.model_name

    def target(host: str, model: str, name: str) -> Target:
        predictor = Predictor(_client(host, arguments, settings, metrics), model, metrics.predictor_seconds)
        return Target(predictor, lambda contract: _detection(contract, settings), name)

    if not settings.candidate_host:
        return Variants(target(arguments.predictor_host, model, ""))
    share_file = Path(settings.candidate_share_file) if settings.candidate_share_file else None
    try:
        share = settings.candidate_share if share_file is None else read_share(share_file)
    except ValueError as error:
        raise SystemExit(f"SACCADE_TRANSFORMER_CANDIDATE_SHARE_FILE: {error}") from None
    return Variants(
        target(arguments.predictor_host, model, settings.stable_name),
        target(settings.candidate_host, settings.candidate_model or model, settings.candidate_name),
        share,
        settings.split_salt,
        settings.variant_header,
        metrics,
        share_file=share_file,
    )


@contextlib.contextmanager
def _lines(settings: TransformerSettings) -> Iterator[LineWriter | None]:
    """Write the records of an A/B test, if they are asked for, until all has been answered."""
    if not settings.ab_log:
        yield None
        return
    try:
        lines = LineWriter("ab_log", encode, Path(settings.ab_log), settings.ab_log_max_bytes)
    except OSError as error:
        where = f"SACCADE_TRANSFORMER_AB_LOG={settings.ab_log!r}"
        sys.exit(f"{where}: the file cannot be written: {error.strerror}")
    with lines:
        yield lines


def _client(
    hosts: str, arguments: argparse.Namespace, settings: TransformerSettings, metrics: TransformerMetrics
) -> V2Client:
    """A client of one predictor, or of several by commas."""
    connections = settings.predictor_connections
    clients = [_client_of(host, arguments, settings, connections) for host in hosts.replace(",", " ").split()]
    client = Balanced(
        clients, metrics.predictor_retries, metrics.predictor_hedges, hedge_after_s=settings.hedge_after_ms / 1e3
    )
    metrics.balances.append(client.balance)
    return client


def _client_of(host: str, arguments: argparse.Namespace, settings: TransformerSettings, connections: int) -> V2Client:
    tls = arguments.predictor_use_ssl
    if arguments.predictor_protocol == "grpc-v2":
        address = host if ":" in host else f"{host}:{443 if tls else 80}"
        return GrpcClient(address, tls, settings.max_answer_bytes)
    url = f"{'https' if tls else 'http'}://{host}"
    return RestClient(url, connections, max_answer_bytes=settings.max_answer_bytes)


def _cache(settings: TransformerSettings, metrics: TransformerMetrics) -> FrameCache | None:
    if settings.cache == "off":
        return None
    limits = CacheLimits(
        settings.cache_answer_bytes,
        settings.cache_camera_bytes,
        settings.cache_exact_ttl_s,
        settings.cache_audit_share,
        settings.cache_audit_agreement,
        settings.cache_audit_pause_s,
    )
    owner = LocalOwner() if settings.cache == "local" else _redis(settings, metrics)
    return FrameCache(settings.cache_rules, limits, metrics.cache, owner)


def _redis(settings: TransformerSettings, metrics: TransformerMetrics) -> CameraOwner:
    """What several transformers share."""
    # Takes a while to import, and is not wanted without a Redis.
    from saccade_transformers.cache.shared.codec import Codec
    from saccade_transformers.cache.shared.connections import Connections
    from saccade_transformers.cache.shared.metrics import RedisMetrics
    from saccade_transformers.cache.shared.owner import PREFIX, Lifetimes, RedisOwner

    lifetimes = Lifetimes(
        settings.cache_exact_ttl_s,
        max(settings.cache_ttl_s, settings.cache_max_age_s, settings.cache_audit_pause_s * Trust.MOST_PAUSES),
        settings.cache_ttl_s,
        max(settings.cache_max_age_s, settings.cache_exact_ttl_s),
    )
    redis_metrics = RedisMetrics()
    metrics.add(*redis_metrics.families)
    connections = Connections(
        settings.cache_redis_url.get_secret_value(),
        settings.cache_redis_connections,
        settings.cache_redis_timeout_ms / 1e3,
        redis_metrics,
        PREFIX + b"probe",
    )
    secret = settings.cache_redis_secret.get_secret_value()
    if not secret:
        log.warning("redis_without_secret", extra={"expected": "SACCADE_TRANSFORMER_CACHE_REDIS_SECRET"})
    return RedisOwner(connections, Codec(secret.encode()), settings.cache_redis_namespace, lifetimes, redis_metrics)


def _shadow(
    arguments: argparse.Namespace, settings: TransformerSettings, metrics: TransformerMetrics
) -> Shadow | None:
    """What mirrors images to a candidate, where there is one."""
    if not settings.shadow_host:
        return None
    store = None
    if settings.shadow_dir:
        try:
            store = WorstStore(Path(settings.shadow_dir), settings.shadow_keep, settings.shadow_max_bytes)
        except OSError as error:
            sys.exit(f"SACCADE_TRANSFORMER_SHADOW_DIR={settings.shadow_dir!r}: {error.strerror or error}")
    candidate = Predictor(
        _client_of(settings.shadow_host, arguments, settings, settings.shadow_concurrency),
        settings.shadow_model or settings.predictor_model or arguments.model_name,
        metrics.shadow.seconds,
    )
    return Shadow(
        Target(candidate, lambda contract: _detection(contract, settings), "shadow"),
        Sampler(settings.shadow_share, settings.shadow_by),
        metrics.shadow,
        ShadowLimits(
            settings.shadow_queue,
            settings.shadow_concurrency,
            settings.shadow_timeout_s,
            settings.shadow_images,
        ),
        store,
    )


def _detection(contract: PredictorContract, settings: TransformerSettings) -> Task[Any, Any]:
    """Build the detection task from the ready graph's metadata.

    Raises:
        ValueError: the graph is no detector's.
    """
    output = contract.properties.get("saccade.output", CANDIDATES)
    if output != CANDIDATES:
        raise ValueError(
            f"its graph ends in {output!r}; expected {CANDIDATES!r}, a detector's: send pixels to the predictor itself"
        )
    # Boxes that the graph itself has made unique are left as they are, unless a request asks for less overlap.
    is_unique = contract.properties.get("saccade.nms") == "done"
    return DetectionTask(
        labels=contract.labels,
        candidates=int(contract.properties["saccade.candidates"]),
        min_score=float(contract.properties["saccade.min_score"]),
        score_threshold=settings.score_threshold,
        iou_threshold=1.0 if is_unique else settings.iou_threshold,
        max_detections=settings.max_detections,
    )


if __name__ == "__main__":
    main()
