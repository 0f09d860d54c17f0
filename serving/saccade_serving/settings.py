"""Settings that both services share, read once from the environment in ``__main__`` and passed down.

Each service adds its own fields and its prefix. KServe's command-line flags (ports, model name, predictor host,
TLS) are not repeated here: they keep working and win.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from saccade_serving.oip.compression import Choice

#: What is leased for a body until this much of it has come.
FIRST_SLOT_BYTES: Final = 64 * 2**10


class ServiceSettings(BaseSettings):
    """Fields both services have. Frozen: a running service never changes its mind."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True)

    host: str = Field("0.0.0.0", description="address that REST, gRPC and metrics listen on")  # noqa: S104
    max_request_bytes: int = Field(
        64 * 2**20, ge=1024, le=2**30, description="largest request body, REST and gRPC (bytes)"
    )
    max_json_bytes: int = Field(
        16 * 2**20,
        ge=1024,
        le=2**30,
        description="largest JSON part of a request (bytes); tensors in binary are not JSON",
    )
    default_timeout_s: float = Field(
        30.0, gt=0, le=600, description="time a request has when it states no deadline (seconds)"
    )
    min_receive_bytes_per_s: float = Field(
        10_000.0,
        ge=0,
        le=1e9,
        description="a body that comes more slowly is refused with 408, judged after 5 seconds (bytes per second)",
    )
    write_timeout_s: float = Field(
        30.0, gt=0, le=600, description="time a client has to take an answer; then it is disconnected (seconds)"
    )
    response_compression: Choice = Field(
        "asked",
        description="compress answers: 'asked' for clients that accept nothing but gzip or deflate, 'accepted' for "
        "all that accept them, 'off'",
    )
    max_inflight_requests: int = Field(
        1024,
        ge=1,
        le=65536,
        description="requests worked on at once, who is still sending not counted; more are refused with 503",
    )
    max_inflight_bytes: int = Field(
        2**30, ge=2**20, le=2**40, description="bytes of all request bodies in flight; more are refused with 503"
    )
    max_peer_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="part of max_inflight_bytes that bodies from one address may hold while they are received; "
        "addresses of this machine are not limited",
    )
    drain_quiet_s: float = Field(
        2.0,
        ge=0,
        le=60,
        description="after SIGTERM: time without an inference request after which the listener closes (seconds)",
    )
    drain_grace_s: float = Field(
        30.0,
        ge=0,
        le=600,
        description="after SIGTERM: longest time before the listener closes all the same (seconds)",
    )
    metrics_port: int = Field(9095, ge=0, le=65535, description="port of /metrics; 0 switches it off")
    metrics_on_http: bool = Field(True, description="serve /metrics on the REST port too")
    request_log: bool = Field(False, description="one log line per request")
    request_log_share: float = Field(
        1.0, gt=0, le=1, description="with request_log: share of the requests that are logged; failed ones always are"
    )
    tracing: bool = Field(
        False, description="OpenTelemetry traces by OTLP over HTTP; where to, and how many: OpenTelemetry's OTEL_*"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level logged")
    log_format: Literal["json", "text"] = Field("json", description="one JSON object or one plain line per event")

    @model_validator(mode="after")
    def _room_for_a_body(self) -> Self:
        if self.peer_bytes < 2 * FIRST_SLOT_BYTES:
            raise ValueError(
                f"max_inflight_bytes={self.max_inflight_bytes} and max_peer_share={self.max_peer_share:g} leave no "
                f"room for a request; expected a product of at least {2 * FIRST_SLOT_BYTES}"
            )
        return self

    @property
    def service(self) -> str:
        """What the service is called in traces: ``saccade-predictor`` or ``saccade-transformer``."""
        prefix = str(self.model_config.get("env_prefix", ""))
        return prefix.lower().rstrip("_").replace("_", "-") or "saccade"

    @property
    def largest_body_bytes(self) -> int:
        """The largest body that can be received: ``max_request_bytes``, unless one sender's share of memory is less.

        A body's first 64 KiB at least are held twice while it grows.
        """
        return min(self.max_request_bytes, self.peer_bytes - FIRST_SLOT_BYTES)

    @property
    def peer_bytes(self) -> int:
        """What the bodies of one sender may hold while they come."""
        return int(self.max_inflight_bytes * self.max_peer_share)


def explain(error: ValidationError, prefix: str) -> str:
    """Turn pydantic's report into one line per wrong variable, named as the operator wrote it."""
    lines = []
    for problem in error.errors():
        field = "_".join(str(part) for part in problem["loc"]).upper()
        if not field:  # a contradiction between several
            lines.append(problem["msg"].removeprefix("Value error, "))
            continue
        lines.append(f"{prefix}{field}={problem.get('input')!r}: {problem['msg']}")
    return "\n".join(lines)


def describe(settings: type[ServiceSettings]) -> str:
    """List every environment variable with its default, for ``--help`` and the documentation."""
    prefix = settings.model_config.get("env_prefix", "")
    return "\n".join(
        f"  {prefix}{name.upper()} (default {_plain(field.default)}): {field.description}"
        for name, field in settings.model_fields.items()
    )


def _plain(default: object) -> str:
    """A default as a person writes it."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return str(default) if isinstance(default, PurePath) else repr(default)
