"""OpenTelemetry traces: one span a request with its stages below it, and one a batch with links to its requests.

Off unless the setting ``tracing`` is on. Where spans go, and how many are sampled, is OpenTelemetry's own environment:
``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``. Spans are made of times that are
measured anyway, so that nothing is timed twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from saccade_serving import __version__

if TYPE_CHECKING:
    from saccade_serving.connection.exchange import Exchange

#: Stages in the order in which a request passes them; ``total`` is the request's span itself.
STAGES: Final = ("receive", "decode", "queue", "compute", "predict", "postprocess", "draw", "output")
#: Requests that a batch's span links to at most: OpenTelemetry's default limit.
MAX_LINKS: Final = 128

_context: Final = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of one service.

    Args:
        provider: where finished spans go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("saccade", __version__)

    def begin(self, exchange: Exchange) -> None:
        """Open a request's span, below its sender's if it states one (``traceparent``)."""
        parent = _context.extract(dict(exchange.headers))
        began = _wall_ns(exchange.started)
        exchange.span = self._tracer.start_span(
            f"{exchange.protocol} infer", parent, SpanKind.SERVER, start_time=began
        )
        carrier: dict[str, str] = {}
        _context.inject(carrier, set_span_in_context(exchange.span))
        exchange.span_headers = carrier

    def end(self, exchange: Exchange, code: str, failed: bool) -> None:
        """Close a request's span, with its stages one behind the other below it."""
        span: Span | None = exchange.span
        if span is None or not span.is_recording():
            return
        span.set_attributes(
            {
                "saccade.model": exchange.model,
                "saccade.version": exchange.version,
                "saccade.request_id": exchange.request_id,
                "saccade.rows": exchange.rows,
                "saccade.code": code,
            }
        )
        at = exchange.started
        below = set_span_in_context(span)
        for stage in STAGES:
            seconds = exchange.stages.get(stage)
            if seconds is not None:
                child = self._tracer.start_span(stage, below, start_time=_wall_ns(at))
                at += seconds
                child.end(_wall_ns(at))
        if failed:
            span.set_status(Status(StatusCode.ERROR, code))
        span.end(time.time_ns())

    def batch(self, spans: Sequence[Span], model: str, version: str, rows: int, began: float, ended: float) -> None:
        """Note a batch that an engine has computed, linked to the requests in it.

        Args:
            spans: of its requests.
            model: name.
            version: likewise.
            rows: of the batch.
            began: on ``time.monotonic()``'s clock.
            ended: likewise.
        """
        links = [Link(span.get_span_context()) for span in spans[:MAX_LINKS] if span.is_recording()]
        if not links:
            return
        attributes: dict[str, str | int] = {"saccade.model": model, "saccade.version": version, "saccade.rows": rows}
        span = self._tracer.start_span("batch", None, SpanKind.INTERNAL, attributes, links, _wall_ns(began))
        span.end(_wall_ns(ended))

    def close(self) -> None:
        """Send what is left; blocks for a few seconds at most."""
        self._provider.shutdown()


def start_tracing(service: str) -> Tracing:
    """Send spans by OTLP over HTTP, from a thread, in batches; a collector that is down loses them and nothing else.

    Args:
        service: name, unless ``OTEL_SERVICE_NAME`` says otherwise.
    """
    resource = Resource.create({SERVICE_VERSION: __version__, "service.name": service})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _wall_ns(at: float) -> int:
    """A time of ``time.monotonic()``'s clock as nanoseconds since 1970."""
    return time.time_ns() + int((at - time.monotonic()) * 1e9)
