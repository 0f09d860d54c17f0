"""The gate every request passes, in and out: it finds the model, bounds what is in flight, counts and logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from saccade_serving.connection.deadlines import Deadlines
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import EngineFailed, ModelNotFound, Overloaded, SaccadeError
from saccade_serving.memory.arena import Arena
from saccade_serving.metrics import Metrics
from saccade_serving.settings import ServiceSettings

if TYPE_CHECKING:
    from saccade_serving.connection.control import ModelControl
    from saccade_serving.model import ServedModel
    from saccade_serving.tracing import Tracing

log = logging.getLogger("saccade.requests")

#: HTTP status nobody reads: the client closed the connection (nginx's convention).
CLIENT_LEFT = "499"
SHUTTING_DOWN = "the server is shutting down"


class Recording(Protocol):
    """Who is told of every request of a known model that has ended."""

    def record(self, exchange: Exchange, version: str, code: str, total_s: float) -> None:
        """Note it. Does not block.

        Args:
            exchange: of a known model.
            version: of the model; empty while it has none.
            code: HTTP status, or the name of a gRPC code; 499 where the client left.
            total_s: time from its first byte to its end.
        """


class Gate:
    """Admission and accounting shared by all protocols of one server.

    Attributes:
        arena: where the bodies of all requests lie.
        deadlines: ends exchanges whose time is over.
        open: the exchanges that were let in and are not finished.
        draining: set at SIGTERM; readiness turns false while requests are still answered.
        tracing: makes spans of requests; None where that is off.
        control: changes the models; None where nothing can.
        recorder: told of the requests of known models; None where that is off.
        last_seen: when a request last arrived or was answered (``time.monotonic()``).
    """

    def __init__(
        self, models: Mapping[str, ServedModel], settings: ServiceSettings, metrics: Metrics, arena: Arena
    ) -> None:
        self.models = models
        self.settings = settings
        self.metrics = metrics
        self.arena = arena
        self.deadlines = Deadlines()
        self._timeout_s = settings.default_timeout_s
        self._limit = settings.max_inflight_requests
        self._working = 0
        self.open: set[Exchange] = set()
        self.draining = False
        self.tracing: Tracing | None = None
        self.control: ModelControl | None = None
        self.recorder: Recording | None = None
        self._log_share = settings.request_log_share if settings.request_log else 0.0
        self._log_due = 0.0
        self.last_seen = time.monotonic()
        metrics.watch_gate(lambda: len(self.open), arena.bytes_by_state)

    def begin(self, protocol: str, headers: Mapping[str, str], started: float | None = None) -> Exchange:
        """Let a request in. Every ``begin`` is followed by one ``finish``.

        Raises:
            InvalidRequest: the deadline header cannot be read.
        """
        exchange = Exchange.begin(protocol, headers, self._timeout_s, started)
        self.open.add(exchange)
        self.last_seen = exchange.started
        exchange.watch(self.deadlines)
        if self.tracing is not None:
            self.tracing.begin(exchange)
        return exchange

    def check_room(self) -> None:
        """Refuse a request whose body need not be received, after its model is found, so that it is counted there.

        Raises:
            Overloaded: too many requests are being worked on.
        """
        if self._working >= self._limit:
            raise self._full()

    def enter(self, exchange: Exchange) -> None:
        """Let a request whose body is complete go on to its model. Who only sends slowly takes no place from others.

        Raises:
            Overloaded: too many requests are being worked on.
        """
        self.check_room()
        self._working += 1
        exchange.working = True

    def _full(self) -> Overloaded:
        return Overloaded(f"{self._limit} requests are in flight, which is the limit")

    def find(self, name: str, version: str, exchange: Exchange | None = None) -> ServedModel:
        """Return a model that can answer.

        Raises:
            ModelNotFound: no such model or version.
            Overloaded: it is not ready.
        """
        model = self.models.get(name)
        if model is None:
            raise ModelNotFound(name, known=sorted(self.models))
        if exchange is not None:
            exchange.model = name
        model.check_ready(version)
        return model

    def check_ready(self, name: str, version: str = "") -> None:
        """Answer a readiness probe.

        Raises:
            ModelNotFound: no such model or version.
            Overloaded: it is not ready, or the server is draining.
        """
        self.find(name, version).check_probe(version)
        if self.draining:
            raise Overloaded(SHUTTING_DOWN)

    def check_live(self) -> None:
        """Answer a liveness probe.

        Raises:
            EngineFailed: a model cannot be helped but by a restart.
        """
        for model in self.models.values():
            if model.must_restart:
                raise EngineFailed(f"model {model.name!r} needs a new process: {model.not_ready_because}")

    def finish(
        self,
        exchange: Exchange | None,
        protocol: str,
        code: str,
        received: int = 0,
        sent: int = 0,
        error: SaccadeError | None = None,
    ) -> None:
        """Let a request out, counted and, by switch, logged. Without an exchange it never got in."""
        metrics = self.metrics
        if error is not None:
            metrics.rejected.add((exchange.model if exchange is not None else "", error.reason))
        elif code == CLIENT_LEFT:
            metrics.rejected.add((exchange.model if exchange is not None else "", "client_left"))
        if exchange is None:
            metrics.requests.add(("", protocol, code))
            return
        exchange.close()
        self.open.discard(exchange)
        if exchange.working:
            self._working -= 1
        self.last_seen = now = time.monotonic()
        model = exchange.model
        stages = exchange.stages
        total = now - exchange.started
        failed = error is not None or code == CLIENT_LEFT
        if not failed:
            # What no other stage has, so that they add up: reading the request, encoding and handing over its answer.
            # (Images of one request are worked on side by side: their stages may be more than the whole.)
            stages["output"] = max(0.0, total - sum(stages.values()))
        stages["total"] = total
        metrics.requests.add((model, exchange.protocol, code))
        account = metrics.account(model, exchange.version)
        account.observe(stages)
        if failed and model and not exchange.version and (version := self._newest(model)):
            account = metrics.account(model, version)
        metrics.received_bytes += received
        metrics.sent_bytes += sent
        if (counted := account.statistics) is not None:
            if failed:
                counted.failed(int(total * 1e9))
            else:
                queue_ns = int(stages.get("queue", 0.0) * 1e9)
                infer_ns = int((stages.get("compute") or stages.get("predict", 0.0)) * 1e9)
                counted.succeeded(exchange.rows, int(total * 1e9), queue_ns, 0, infer_ns)
        if self.tracing is not None:
            self.tracing.end(exchange, code, failed)
        if self.recorder is not None and model:
            self.recorder.record(exchange, exchange.version or self._newest(model), code, total)
        if self._log_share:
            self._log_due += self._log_share
            if failed or self._log_due >= 1:
                self._log_due %= 1
                _log_request(exchange, code, received, sent)

    def _newest(self, name: str) -> str:
        """The version on whose account failures go that no version has seen; empty if there is none."""
        model = self.models.get(name)
        versions = model.versions() if model is not None else []
        return max(versions, key=lambda version: (version.isdecimal() and int(version), version), default="")

    def abort(self) -> None:
        """End whatever is still open: the grace is over."""
        for exchange in list(self.open):
            exchange.abandon(Overloaded("the server is shutting down, and this request took too long"))


def _log_request(exchange: Exchange, code: str, received: int, sent: int) -> None:
    log.info(
        "request",
        extra={
            "request_id": exchange.request_id,
            "protocol": exchange.protocol,
            "model": exchange.model,
            "version": exchange.version,
            "code": code,
            "received_bytes": received,
            "sent_bytes": sent,
            **{f"{stage}_ms": round(s * 1e3, 3) for stage, s in exchange.stages.items()},
        },
    )
