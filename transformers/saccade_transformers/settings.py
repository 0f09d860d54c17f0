"""The transformer's settings: environment variables with the prefix ``SACCADE_TRANSFORMER_``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from saccade_serving.settings import ServiceSettings


class TransformerSettings(ServiceSettings):
    """What the transformer can be told beyond KServe's flags."""

    model_config = SettingsConfigDict(env_prefix="SACCADE_TRANSFORMER_")

    predictor_model: str = Field(
        "", description="the model's name at the predictor; empty for the same as --model_name"
    )
    predictor_connections: int = Field(
        256, ge=1, le=4096, description="most connections to the predictor at once (REST)"
    )
    score_threshold: float = Field(0.4, ge=0, le=1, description="least score of a detection, unless a request says")
    iou_threshold: float = Field(
        0.5, gt=0, le=1, description="overlap (IoU) above which the weaker of two boxes of a class is dropped"
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
