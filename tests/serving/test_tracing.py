"""Traces: a request's stages below its sender's span, batches with links, all of it at a real OTLP endpoint."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from saccade_serving.connection.exchange import Exchange
from saccade_serving.connection.gate import Gate
from saccade_serving.errors import Overloaded
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.settings import ServiceSettings
from saccade_serving.tracing import Tracing, start_tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "r-1"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


def gate_of(**settings: Any) -> Gate:
    return Gate({}, ServiceSettings(**settings), Metrics(), Arena(2**20))


def finish(gate: Gate, error: Overloaded | None = None, headers: dict[str, str] | None = None) -> Exchange:
    exchange = gate.begin("rest", headers if headers is not None else HEADERS, time.monotonic() - 0.5)
    exchange.model, exchange.version, exchange.rows = "m", "3", 2
    exchange.stages.update({"receive": 0.1, "queue": 0.2, "compute": 0.15})
    gate.finish(exchange, "rest", "503" if error else "200", error=error)
    gate.deadlines.close()
    return exchange


async def test_a_request_is_a_span_below_its_senders_with_its_stages_one_behind_the_other(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    gate = gate_of()
    gate.tracing = tracing
    finish(gate)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans.keys() == {"rest infer", "receive", "queue", "compute", "output"}
    whole = spans["rest infer"]
    assert format(whole.context.trace_id, "032x") == TRACE
    assert whole.parent is not None
    assert format(whole.parent.span_id, "016x") == PARENT
    assert whole.attributes == {
        "saccade.model": "m",
        "saccade.version": "3",
        "saccade.request_id": "r-1",
        "saccade.rows": 2,
        "saccade.code": "200",
    }
    assert 0.5 <= _seconds(whole) < 5
    assert whole.status.status_code is StatusCode.UNSET
    for name, seconds in (("receive", 0.1), ("queue", 0.2), ("compute", 0.15)):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == whole.context.span_id
        assert _seconds(spans[name]) == pytest.approx(seconds, abs=0.005)
    assert spans["receive"].end_time == pytest.approx(spans["queue"].start_time, abs=5e6)


async def test_what_fails_is_an_error_with_its_code(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    gate = gate_of()
    gate.tracing = tracing
    finish(gate, Overloaded("full"))
    whole = next(span for span in exporter.get_finished_spans() if span.name == "rest infer")
    assert (whole.status.status_code, whole.status.description) == (StatusCode.ERROR, "503")


async def test_what_is_called_upstream_is_below_this_requests_span(tracing: Tracing) -> None:
    gate = gate_of()
    gate.tracing = tracing
    exchange = finish(gate)
    sent = exchange.forwarded["traceparent"]
    assert sent.split("-")[1] == TRACE
    assert sent.split("-")[2] == format(exchange.span.get_span_context().span_id, "016x")
    assert sent.split("-")[2] != PARENT


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 32 + "-1-01"}])
async def test_who_states_no_trace_begins_one(
    tracing: Tracing, exporter: InMemorySpanExporter, headers: dict[str, str]
) -> None:
    gate = gate_of()
    gate.tracing = tracing
    finish(gate, headers=headers)
    whole = next(span for span in exporter.get_finished_spans() if span.name == "rest infer")
    assert whole.parent is None


async def test_a_sender_that_does_not_sample_is_obeyed(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    gate = gate_of()
    gate.tracing = tracing
    finish(gate, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert exporter.get_finished_spans() == ()


async def test_without_the_switch_nothing_is_made_and_the_senders_header_is_passed_on() -> None:
    gate = gate_of()
    exchange = finish(gate)
    assert exchange.span is None
    assert exchange.forwarded["traceparent"] == HEADERS["traceparent"]


class Collector:
    """An OTLP endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {a.key: a.value.string_value for a in resource.resource.attributes}
                    collector.services.add(names["service.name"])
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


async def test_spans_reach_a_collector_by_otlp(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    gate = gate_of()
    gate.tracing = start_tracing("saccade-test")
    finish(gate)
    await asyncio.to_thread(gate.tracing.close)
    assert collector.services == {"saccade-test"}
    assert {span.name for span in collector.spans} == {"rest infer", "receive", "queue", "compute", "output"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


async def test_a_collector_that_is_down_costs_nobody_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    gate = gate_of()
    gate.tracing = start_tracing("saccade-test")
    for _ in range(100):
        finish(gate)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    await asyncio.wait_for(asyncio.to_thread(gate.tracing.close), 30)


def _seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


# The request log.


@pytest.mark.parametrize(("share", "logged"), [(1.0, 8), (0.25, 2), (0.5, 4)])
async def test_a_share_of_the_requests_is_logged_and_every_failed_one(
    share: float, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_of(request_log=True, request_log_share=share)
    with caplog.at_level(logging.INFO, "saccade.requests"):
        for _ in range(8):
            finish(gate)
        assert len(caplog.records) == logged
        for _ in range(3):
            finish(gate, Overloaded("full"))
    assert len(caplog.records) >= logged + 3
    assert caplog.records[-1].__dict__["code"] == "503"
