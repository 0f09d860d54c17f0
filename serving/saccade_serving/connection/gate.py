"""The gate every request passes, in and out: it finds the model, bounds what is in flight, counts and logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from saccade_serving.connection.body import ByteBudget
from saccade_serving.connection.exchange import Exchange
from saccade_serving.errors import ModelNotFound, Overloaded
from saccade_serving.metrics import Metrics
from saccade_serving.settings import ServiceSettings

if TYPE_CHECKING:
    from saccade_serving.model import ServedModel

log = logging.getLogger("saccade.requests")

#: HTTP status nobody reads: the client closed the connection (nginx's convention).
CLIENT_LEFT = "499"


class Gate:
    """Admission and accounting shared by all protocols of one server.

    Attributes:
        budget: bytes that the bodies of all REST requests together may hold.
        draining: set at SIGTERM; readiness turns false while requests are still answered.
        last_seen: when a request last arrived or was answered (``time.monotonic()``).
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        settings: ServiceSettings,
        metrics: Metrics,
        on_finish: Callable[[Exchange], None] = lambda exchange: None,
    ) -> None:
        self.models = models
        self.settings = settings
        self.metrics = metrics
        self.budget = ByteBudget(settings.max_inflight_bytes)
        self.draining = False
        self.last_seen = time.monotonic()
        self._on_finish = on_finish

    def begin(self, protocol: str, headers: Mapping[str, str]) -> Exchange:
        """Let a request in. Every ``begin`` is followed by one ``finish``.

        Raises:
            InvalidRequest: the deadline header cannot be read.
            Overloaded: too many requests are in flight.
        """
        exchange = Exchange.begin(protocol, headers, self.settings.default_timeout_s)
        limit = self.settings.max_inflight_requests
        if self.metrics.inflight >= limit:
            raise Overloaded(f"{limit} requests are in flight, which is the limit")
        self.metrics.inflight += 1
        self.last_seen = exchange.started
        return exchange

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
            raise Overloaded("the server is shutting down")

    def finish(self, exchange: Exchange | None, protocol: str, code: str, received: int = 0, sent: int = 0) -> None:
        """Let a request out, counted and, by switch, logged. Without an exchange it never got in."""
        metrics = self.metrics
        if exchange is None:
            metrics.requests.add(("", protocol, code))
            return
        metrics.inflight -= 1
        self.last_seen = now = time.monotonic()
        total = now - exchange.started
        metrics.requests.add((exchange.model, exchange.protocol, code))
        observe = metrics.request_seconds.observe
        observe(total, (exchange.model, exchange.version, "total"))
        for stage, seconds in exchange.stages.items():
            observe(seconds, (exchange.model, exchange.version, stage))
        if received:
            metrics.network_bytes.add(("received",), received)
        if sent:
            metrics.network_bytes.add(("sent",), sent)
        self._on_finish(exchange)
        if self.settings.request_log:
            log.info(
                "request",
                extra={
                    "request_id": exchange.request_id,
                    "protocol": exchange.protocol,
                    "model": exchange.model,
                    "version": exchange.version,
                    "code": code,
                    "total_ms": round(total * 1e3, 3),
                    "received_bytes": received,
                    "sent_bytes": sent,
                    **{f"{stage}_ms": round(s * 1e3, 3) for stage, s in exchange.stages.items()},
                },
            )

    def refuse(self, exchange: Exchange | None, reason: str) -> None:
        """Count a request that an error answered, or whose client left."""
        self.metrics.rejected.add((exchange.model if exchange is not None else "", reason))
