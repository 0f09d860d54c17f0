"""The nouns of a measurement: what is asked of a client, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from measuring.payload import Protocol


class ClientError(Exception):
    """A request failed, so that the measurement means nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a client shall do to one server.

    Attributes:
        server_pid: the server's process, whose descendants count too.
        request: ready for the wire (REST), or the serialised message (gRPC).
        connections: each has one request in flight.
        warmup: requests before the measurement begins.
        requests: requests measured.
        limit_s: after which no further request is begun.
        timeout_s: time one answer may take.
    """

    protocol: Protocol
    port: int
    server_pid: int
    request: bytes
    connections: int
    warmup: int
    requests: int
    limit_s: float
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that were answered: their latencies, and the time from the first to the last."""

    latencies_s: Sequence[float]
    wall_s: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one server; CPU times are those of all its requests."""

    latencies_s: Sequence[float]
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float
