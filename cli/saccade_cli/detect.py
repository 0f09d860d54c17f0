"""``saccade detect``: sends pictures to a running transformer and shows what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from saccade_serving.client import ConnectionFailed, RestClient


class DetectFailed(Exception):
    """An image was not answered; the message tells a person why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the server found in one file."""

    path: Path
    answer: dict[str, Any]
    picture: bytes | None


async def detect(
    client: RestClient, url: str, path: Path, threshold: float | None, draw: bool, timeout_s: float
) -> Found:
    """Send one file to ``/detect``; with ``draw``, ask for the drawn picture too.

    Raises:
        DetectFailed: the file cannot be read, nobody answers, or the answer is an error.
    """
    try:
        image = path.read_bytes()
    except OSError as error:
        raise DetectFailed(f"{path}: {error.strerror}") from error
    query = f"?score_threshold={threshold}" if threshold is not None else ""
    answer = _answer(path, await _post(client, url, path, image, query, "application/json", timeout_s))
    picture = await _post(client, url, path, image, query, "image/jpeg", timeout_s) if draw else None
    return Found(path, answer, picture)


async def _post(
    client: RestClient, url: str, path: Path, image: bytes, query: str, accept: str, timeout_s: float
) -> bytes:
    headers = {"content-type": "application/octet-stream", "accept": accept}
    try:
        status, _, body = await client.call("POST", f"/detect{query}", timeout_s, image, headers)
    except ConnectionFailed as error:
        raise DetectFailed(f"no server answers at {url}; start one with: make serve, or saccade up") from error
    except TimeoutError as error:
        raise DetectFailed(f"{path}: {url} did not answer within {timeout_s:g} s") from error
    if status != 200:
        raise DetectFailed(f"{path}: {_reason(status, body)}")
    return body


def _answer(path: Path, body: bytes) -> dict[str, Any]:
    """The answer as an object that has detections, whoever sent it."""
    try:
        answer: dict[str, Any] = orjson.loads(body)
        summary(answer["detections"])
        if isinstance(answer["cache"], str):
            return answer
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        pass
    raise DetectFailed(f"{path}: {_reason(200, b'')}")


def _reason(status: int, body: bytes) -> str:
    try:
        return f"{orjson.loads(body)['error']} (HTTP {status})"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"the server answered with HTTP {status}; is it a Saccade transformer?"


def with_scheme(url: str) -> str:
    """``127.0.0.1:8080`` is ``http://127.0.0.1:8080``."""
    return url if "://" in url else f"http://{url}"


def summary(detections: list[dict[str, Any]]) -> str:
    """``person 0.83, tie 0.52``, or a dash."""
    return ", ".join(f"{one['label']} {one['score']:.2f}" for one in detections) or "-"
