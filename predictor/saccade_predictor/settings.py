"""The predictor's settings: environment variables with the prefix ``SACCADE_PREDICTOR_``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from saccade_serving.settings import ServiceSettings


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
