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
        own_ids: the request is a template, and each that is sent has an id of its own (REST).
        per_s: send at this rate for ``limit_s`` whether or not answers come (REST); 0: each connection sends its next
            request when the answer to the last has come.
        answer_bytes: an answer is right that has at least so many; 0: one that has the number of ``payload``.
        proxy_pid: a process between client and server, whose CPU time is counted apart; 0 if there is none.
        right: a body that holds one of these is a right answer (REST); none: as ``answer_bytes`` says.
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
    own_ids: bool = False
    per_s: float = 0.0
    proxy_pid: int = 0
    answer_bytes: int = 0
    right: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that were answered.

    Attributes:
        latencies_s: of each; from the moment it was due, where requests are sent at a rate.
        wall_s: time from the first to the last.
        client_cpu_s: what sending and receiving cost the client.
        sent_bytes: heads and bodies, as the client handed them to its socket (REST).
        received_bytes: heads and bodies of the answers (REST).
    """

    latencies_s: Sequence[float]
    wall_s: float
    client_cpu_s: float
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one server; CPU times are those of all its requests."""

    latencies_s: Sequence[float]
    wall_s: float
    server_cpu_s: float
    client_cpu_s: float
    proxy_cpu_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
