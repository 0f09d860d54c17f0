"""``saccade demo``: the pair as real processes, real photos by three protocols, one table, pictures with boxes.

The photos go past the frame cache, so that every protocol is answered by the model; a still camera shows the cache.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from saccade_cli import still_camera
from saccade_cli.pair import Pair
from saccade_serving.client import GrpcClient, RestClient, V2Client
from saccade_serving.oip.messages import InferRequest, InferResponse, Tensor

TIMEOUT_S: Final = 30.0
_PAST_THE_CACHE: Final = "/detect?cache=bypass"
SUFFIXES: Final = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}

#: (box, score, label) rounded as ``/detect`` gives them.
Detection = dict[str, Any]
Ask = Callable[[Path, bytes], Awaitable[list[Detection]]]


class DemoFailed(Exception):
    """The demo found something wrong; the message says what."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    photo: str
    protocol: str
    detections: list[Detection]
    milliseconds: float


async def run(pair: Pair, photos: list[Path], out: Path, on_row: Callable[[Row], None]) -> None:
    """Send every photo by every protocol, compare the answers, write the drawn pictures.

    Raises:
        DemoFailed: the protocols disagree, or no photo has a detection.
    """
    rest = RestClient(pair.url)
    grpc = GrpcClient(f"{pair.host}:{pair.ports.grpc}")
    protocols: dict[str, Ask] = {
        "V2 REST binary": lambda path, image: _ask_v2(rest, pair.model, image),
        "V2 gRPC": lambda path, image: _ask_v2(grpc, pair.model, image),
        "POST /detect": lambda path, image: _ask_detect(rest, path, image),
    }
    out.mkdir(parents=True, exist_ok=True)
    found = 0
    try:
        for photo in photos:
            image = photo.read_bytes()
            answers = []
            for protocol, ask in protocols.items():
                begun = time.perf_counter()
                detections = await ask(photo, image)
                on_row(Row(photo.name, protocol, detections, (time.perf_counter() - begun) * 1e3))
                answers.append(detections)
            if any(answer != answers[0] for answer in answers):
                raise DemoFailed(f"{photo.name}: the protocols disagree: {answers}")
            found += len(answers[0])
            headers = {"content-type": SUFFIXES[photo.suffix.lower()], "accept": "image/jpeg"}
            drawn = await _call(rest, _PAST_THE_CACHE, image, headers)
            (out / f"{photo.stem}-{photo.suffix[1:].lower()}.jpg").write_bytes(drawn)
    finally:
        await rest.close()
        await grpc.close()
    if not found:
        raise DemoFailed("nothing was found in any photo")


async def watch(pair: Pair, photos: list[Path]) -> list[still_camera.Frame]:
    """Send what a still camera sees in front of the first photo, the next one put into it for a while.

    Raises:
        NotNoticed, DemoFailed: it went wrong.
    """
    rest = RestClient(pair.url)

    async def send(image: bytes) -> dict[str, Any]:
        headers = {"content-type": "image/jpeg", "x-camera-id": still_camera.CAMERA}
        answer: dict[str, Any] = orjson.loads(await _call(rest, "/detect", image, headers))
        return answer

    scene = photos[0]
    thing = next((photo for photo in photos if photo.stem != scene.stem), scene)
    try:
        return await still_camera.watch(still_camera.frames(scene, thing), send)
    finally:
        await rest.close()


def verdict(answers: int) -> str:
    """What a run without an error has shown."""
    return f"{answers} answers; the three protocols agree"


async def _ask_v2(client: V2Client, model: str, image: bytes) -> list[Detection]:
    request = InferRequest(
        model, [Tensor.of_bytes("image", (1,), [image])], parameters={"cache": "bypass"}, binary_output=True
    )
    return _read_v2(await client.infer(request, TIMEOUT_S))


async def _ask_detect(client: RestClient, path: Path, image: bytes) -> list[Detection]:
    body = await _call(client, _PAST_THE_CACHE, image, {"content-type": SUFFIXES[path.suffix.lower()]})
    detections: list[Detection] = orjson.loads(body)["detections"]
    return detections


async def _call(client: RestClient, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    status, _, answer = await client.call("POST", path, TIMEOUT_S, body, headers)
    if status != 200:
        raise DemoFailed(f"{path} answered with HTTP {status}: {answer[:300].decode(errors='replace')}")
    return answer


def _read_v2(response: InferResponse) -> list[Detection]:
    """The first image's detections of a V2 answer, in the form of ``/detect``."""
    count = int(response.output("num_detections").array[0])
    boxes, scores, class_ids = (response.output(name).array[0][:count] for name in ("boxes", "scores", "class_ids"))
    labels = response.output("labels").elements[:count]
    return [
        {
            "box": [round(float(side), 2) for side in box],
            "score": round(float(score), 4),
            "class_id": int(class_id),
            "label": bytes(label).decode(),
        }
        for box, score, class_id, label in zip(boxes, scores, class_ids, labels, strict=True)
    ]
