"""The predictor's settings: environment variables with the prefix ``SACCADE_PREDICTOR_``."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from saccade_serving.settings import ServiceSettings

#: A key that could be guessed is none.
MIN_KEY_CHARS: Final = 16


class PredictorSettings(ServiceSettings):
    """What the predictor can be told beyond KServe's flags."""

    model_config = SettingsConfigDict(env_prefix="SACCADE_PREDICTOR_")

    model_repository: Path = Field(
        Path("/mnt/models"), description="Triton model repository; KServe's storage initializer fills /mnt/models"
    )
    max_queue_size: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="requests that may wait for one model where its config.pbtxt sets no max_queue_size",
    )
    hang_limit_s: float = Field(
        30.0,
        ge=0.1,
        le=3600,
        description="time that one batch may compute; an engine instance that takes longer hangs and is replaced, at "
        "most 3 times, then the process says that it is not live",
    )
    engine_threads: int = Field(
        0,
        ge=0,
        le=256,
        description="threads of one CPU engine instance; 0 is the container's CPUs less one, at least 1",
    )
    cuda_graphs: bool = Field(
        False,
        description="record batches of preferred sizes and of max_batch_size as CUDA graphs; each takes an execution "
        "context of its own, and so memory of the GPU",
    )
    arrival_trace: str = Field(
        "",
        description="file that a line for every inference request is written to, to be replayed; empty for none",
    )
    arrival_trace_max_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=2**40,
        description="size at which that file is renamed to end in .1 and a new one is begun (bytes)",
    )
    model_control_mode: Literal["none", "poll", "explicit"] = Field(
        "none",
        description="how the models served change: never, with the repository, or by load and unload calls; the flag "
        "--model-control-mode wins",
    )
    repository_poll_s: float = Field(
        15.0,
        ge=0.1,
        le=86_400,
        description="with model_control_mode poll: time between two looks at the repository (seconds); the flag "
        "--repository-poll-secs wins",
    )
    model_control_key: SecretStr = Field(
        SecretStr(""),
        description="with model_control_mode explicit: what the header x-saccade-control-key of a load or unload call "
        f"must be, at least {MIN_KEY_CHARS} characters; from a Secret",
    )
    admin_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="with model_control_mode explicit: port on 127.0.0.1 where load and unload need no key; 0 is none",
    )

    @property
    def control_key(self) -> str:
        """The key of load and unload calls; empty without one."""
        return self.model_control_key.get_secret_value().strip()

    @model_validator(mode="after")
    def _guarded_control(self) -> Self:
        if not (self.control_key.isascii() and self.control_key.isprintable()):
            raise ValueError("SACCADE_PREDICTOR_MODEL_CONTROL_KEY is not plain ASCII text, which a header can carry")
        if 0 < len(self.control_key) < MIN_KEY_CHARS:
            raise ValueError(f"SACCADE_PREDICTOR_MODEL_CONTROL_KEY is shorter than {MIN_KEY_CHARS} characters")
        if self.model_control_mode == "explicit" and not self.control_key and not self.admin_port:
            raise ValueError(
                "model_control_mode is 'explicit': expected SACCADE_PREDICTOR_MODEL_CONTROL_KEY, which load and "
                "unload calls have to show, or SACCADE_PREDICTOR_ADMIN_PORT, where they need none"
            )
        return self
