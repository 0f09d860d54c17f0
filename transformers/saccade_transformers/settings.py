"""The transformer's settings: environment variables with the prefix ``SACCADE_TRANSFORMER_``."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from saccade_serving.settings import ServiceSettings
from saccade_transformers.cache.policy import Rules

#: A metric label and a header's value.
_VARIANT_NAME: Final = r"^[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?$"
#: What the URL of a Redis may say.
_REDIS_OPTION: Final = re.compile(r"host|port|db|username|password|connection_class|ssl_\w+")
#: And how: a database that is no number would be number 0.
_REDIS_URL: Final = re.compile(r"rediss?://[^/?#]+(/[0-9]*)?(\?[^#]*)?")


class TransformerSettings(ServiceSettings):
    """What the transformer can be told beyond KServe's flags."""

    model_config = SettingsConfigDict(env_prefix="SACCADE_TRANSFORMER_")

    predictor_model: str = Field(
        "", description="the model's name at the predictor; empty for the same as --model_name"
    )
    predictor_connections: int = Field(
        256, ge=1, le=4096, description="most connections to one predictor at once (REST)"
    )
    max_answer_bytes: int = Field(16 * 2**20, ge=1024, le=2**30, description="largest answer of the predictor (bytes)")
    hedge_after_ms: float = Field(
        0.0,
        ge=0,
        le=60_000,
        description="with several predictors: milliseconds without an answer until another is asked too; 0 is never",
    )
    score_threshold: float = Field(0.4, ge=0, le=1, description="least score of a detection, unless a request says")
    iou_threshold: float = Field(
        0.5,
        gt=0,
        le=1,
        description="overlap (IoU) above which the weaker of two boxes of a class is dropped, unless a request says;"
        " not for models that need no such suppression",
    )
    max_detections: int = Field(100, ge=1, le=3840, description="most detections per image, unless a request says")
    max_image_bytes: int = Field(20 * 2**20, ge=1024, le=2**30, description="largest encoded image (bytes)")
    max_image_pixels: int = Field(
        2**25, ge=2**10, le=2**30, description="largest decoded image (pixels); 2**25 is a little over 8K UHD"
    )
    max_request_pixels: int = Field(
        2**27, ge=2**10, le=2**40, description="all decoded images of one request together (pixels)"
    )
    max_images_per_request: int = Field(32, ge=1, le=1024, description="images in one V2 or v1 request")
    image_workers: int = Field(0, ge=0, le=256, description="threads that decode and draw; 0 is the container's CPUs")
    max_waiting_images: int = Field(
        256, ge=1, le=65536, description="images that may wait for such a thread; more are refused with 503"
    )
    cache: Literal["off", "local", "redis"] = Field(
        "local",
        description="whether frames are answered from the frame cache where that is safe: from this process's own "
        "(local), from one that all replicas share (redis), or never (off)",
    )
    cache_hash_distance: int = Field(
        10, ge=0, le=64, description="bits in which the hashes of two frames of a camera may differ for a near hit"
    )
    cache_change_levels: float = Field(
        12.0, gt=0, le=255, description="grey levels above which a 4x4 block of a thumbnail has changed, at least"
    )
    cache_noise_multiple: float = Field(
        6.0, ge=0, le=100, description="likewise, as a multiple of the camera's own noise; the larger of both holds"
    )
    cache_moved_share: float = Field(
        0.25, ge=0, le=1, description="share of the area of all detections that may have changed for a near hit"
    )
    cache_gone_share: float = Field(
        0.85, ge=0, le=1, description="share of the area of any one detection that may have changed for a near hit"
    )
    cache_ttl_s: float = Field(
        2.0, gt=0, le=3600, description="time without a frame of a camera after which nothing is known of it (seconds)"
    )
    cache_max_age_s: float = Field(
        10.0, gt=0, le=3600, description="age of a near hit's answer, however often it was given (seconds)"
    )
    cache_heartbeat: int = Field(
        30, ge=1, le=100_000, description="near hits in a row after which a frame is inferred all the same"
    )
    cache_exact_ttl_s: float = Field(
        60.0, gt=0, le=86_400, description="time for which the answer to the same bytes holds (seconds)"
    )
    cache_answer_bytes: int = Field(
        32 * 2**20, ge=2**16, le=2**36, description="memory for answers to the same bytes (bytes)"
    )
    cache_camera_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=2**36,
        description="memory for what is kept of cameras; each some 100 to 180 kB (bytes)",
    )
    cache_audit_share: float = Field(
        0.02, ge=0, le=1, description="share of near hits that are inferred all the same, and compared"
    )
    cache_audit_agreement: float = Field(
        0.8, ge=0, le=1, description="mean agreement (F1) in audits under which a camera loses its near hits"
    )
    cache_audit_pause_s: float = Field(
        60.0, gt=0, le=86_400, description="time for which it loses them; doubles each time in a row (seconds)"
    )
    cache_redis_url: SecretStr = Field(
        SecretStr(""), description="redis://user:password@host:6379/0, or rediss:// with TLS; for CACHE=redis"
    )
    cache_redis_secret: SecretStr = Field(
        SecretStr(""), description="seals what is kept in Redis; the same for all replicas; empty for a checksum only"
    )
    cache_redis_namespace: str = Field(
        "",
        max_length=256,
        description="transformers with the same one share answers, so only those of the same predictors may have it; "
        "for example the InferenceService's namespace and name",
    )
    cache_redis_timeout_ms: float = Field(
        5.0,
        ge=1,
        le=1000,
        description="time of a call to Redis, after which a frame goes on without it (milliseconds)",
    )
    cache_redis_connections: int = Field(8, ge=1, le=256, description="connections to Redis")
    candidate_host: str = Field(
        "",
        description="host:port of a second predictor, the candidate, called as --predictor_host is; empty for none",
    )
    candidate_model: str = Field("", description="the model's name there; empty for the same as at the predictor")
    candidate_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the cameras, and of the requests without one, that the candidate answers",
    )
    candidate_share_file: str = Field(
        "",
        description="file that holds that share, read again every 2 s, so that it changes without a restart; "
        "empty for CANDIDATE_SHARE",
    )
    candidate_name: str = Field(
        "candidate", pattern=_VARIANT_NAME, description="what the candidate is called in answers, metrics and records"
    )
    stable_name: str = Field(
        "stable", pattern=_VARIANT_NAME, description="what the predictor is called there, if there is a candidate"
    )
    split_salt: str = Field(
        "",
        max_length=64,
        pattern=r"^[ -~]*$",
        description="name of the experiment, ASCII; another one deals the cameras anew",
    )
    variant_header: bool = Field(
        False, description="requests may choose their variant by the header x-saccade-variant; for trials"
    )
    ab_log: str = Field(
        "",
        description="file that a line for every request of a variant is written to, for saccade ab-report; empty for "
        "none",
    )
    ab_log_max_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=2**40,
        description="size at which that file is renamed to end in .1 and a new one is begun (bytes)",
    )

    shadow_host: str = Field(
        "",
        description="host:port of a candidate predictor that a share of the images is mirrored to; empty for none; "
        "same protocol and TLS as the predictor's",
    )
    shadow_model: str = Field(
        "", description="the model's name at the candidate; empty for the same as the predictor's"
    )
    shadow_share: float = Field(0.05, ge=0, le=1, description="share of the images, or of the cameras, mirrored")
    shadow_by: Literal["random", "camera"] = Field(
        "random", description="draw every image for itself, or all images of a camera or none"
    )
    shadow_queue: int = Field(
        16, ge=1, le=1024, description="drawn images that may wait for the candidate; further ones are not mirrored"
    )
    shadow_concurrency: int = Field(2, ge=1, le=64, description="calls to the candidate at once")
    shadow_timeout_s: float = Field(5.0, gt=0, le=600, description="time of a call to the candidate (seconds)")
    shadow_dir: str = Field(
        "", description="directory for the frames whose two answers disagree most; one process each; empty for none"
    )
    shadow_keep: int = Field(200, ge=1, le=10_000, description="frames kept in shadow_dir")
    shadow_max_bytes: int = Field(
        256 * 2**20, ge=2**16, le=2**40, description="size of the frames kept in shadow_dir, images included (bytes)"
    )
    shadow_images: bool = Field(
        False, description="keep the encoded images of these frames too, as the clients sent them"
    )

    @property
    def cache_rules(self) -> Rules:
        """What near hits are given by."""
        return Rules(
            self.cache_hash_distance,
            self.cache_change_levels,
            self.cache_noise_multiple,
            self.cache_moved_share,
            self.cache_gone_share,
            self.cache_ttl_s,
            self.cache_max_age_s,
            self.cache_heartbeat,
        )

    @model_validator(mode="after")
    def _redis_that_can_be_asked(self) -> Self:
        url = self.cache_redis_url.get_secret_value()
        if self.cache == "redis" and not url:
            raise ValueError(
                "cache is 'redis', but cache_redis_url is empty; expected SACCADE_TRANSFORMER_CACHE_REDIS_URL, for "
                "example redis://host:6379/0"
            )
        if self.cache == "redis" and not self.cache_redis_namespace:
            raise ValueError(
                "cache is 'redis', but nothing says which transformers share it; expected "
                "SACCADE_TRANSFORMER_CACHE_REDIS_NAMESPACE, for example namespace/name of the InferenceService"
            )
        if self.cache != "redis" and url:
            raise ValueError(f"cache_redis_url is set, but cache is {self.cache!r}; expected 'redis'")
        if url:
            _check_redis_url(url)
        return self

    @model_validator(mode="after")
    def _two_variants(self) -> Self:
        if self.candidate_name == self.stable_name:
            raise ValueError(f"candidate_name and stable_name are both {self.stable_name!r}; expected two names")
        if not self.candidate_host and (self.candidate_share or self.candidate_share_file or self.ab_log):
            raise ValueError(
                "candidate_share, candidate_share_file or ab_log is set without a candidate; "
                "expected SACCADE_TRANSFORMER_CANDIDATE_HOST"
            )
        if self.candidate_share and self.candidate_share_file:
            raise ValueError(
                f"candidate_share is {self.candidate_share} and candidate_share_file {self.candidate_share_file!r}; "
                "expected one of them"
            )
        if self.variant_header and not self.candidate_host:
            raise ValueError("variant_header is set without a candidate; expected SACCADE_TRANSFORMER_CANDIDATE_HOST")
        return self

    @model_validator(mode="after")
    def _hosts_that_can_be_asked(self) -> Self:
        if self.candidate_host:
            check_hosts("candidate_host", self.candidate_host)
        if self.shadow_host and len(check_hosts("shadow_host", self.shadow_host)) > 1:
            raise ValueError(f"shadow_host is {self.shadow_host!r}; expected one host:port")
        if self.shadow_dir and not self.shadow_host:
            raise ValueError("shadow_dir is set without a shadow; expected SACCADE_TRANSFORMER_SHADOW_HOST")
        if self.shadow_images and not self.shadow_dir:
            raise ValueError("shadow_images is set without a place for them; expected SACCADE_TRANSFORMER_SHADOW_DIR")
        return self


def check_hosts(what: str, text: str) -> list[str]:
    """The hosts of a list by commas.

    Args:
        what: the setting or flag, for the error.
        text: for example ``a:8080,b:8080``.

    Raises:
        ValueError: it names no host, or one with a scheme or a path.
    """
    hosts = text.replace(",", " ").split()
    if not hosts or any("/" in host or not host.isascii() for host in hosts):
        raise ValueError(f"{what} is {text!r}; expected host:port, several by commas, without http:// and path")
    return hosts


def _check_redis_url(url: str) -> None:
    """Refuse what redis-py would fail with at every connection, or take for something else. Names no value of it."""
    from redis.asyncio.connection import Connection, parse_url  # takes a while, and is not wanted without a Redis
    from redis.exceptions import RedisError

    options: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # its text may have the password in it
        options.update(parse_url(url))
    if not options or not _REDIS_URL.fullmatch(url):
        raise ValueError("cache_redis_url is no URL of a Redis; expected redis://host:6379/0")
    if strange := sorted(name for name in options if not _REDIS_OPTION.fullmatch(name)):
        raise ValueError(f"cache_redis_url has {', '.join(strange)}; expected no options but ssl_...")
    connection = options.pop("connection_class", Connection)
    try:
        connection(**options)  # does not connect yet
    except (RedisError, TypeError, ValueError):
        names = ", ".join(sorted(name for name in options if name.startswith("ssl_"))) or "options"
        raise ValueError(
            f"cache_redis_url has {names} that cannot be used; expected those of redis-py, and rediss:// for them"
        ) from None
