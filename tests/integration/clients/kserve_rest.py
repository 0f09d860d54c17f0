"""Asks a server by kserve's InferenceRESTClient, V2 and v1, and prints JSON.

kserve_rest.py http://host:port model photo ...
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def request(model: str, *encoded: bytes, binary: bool, name: str = "image") -> Any:
    """A V2 request; kserve's own way is binary data in and JSON out."""
    made = InferInput(name, [len(encoded)], "BYTES")
    elements = encoded if binary else tuple(base64.b64encode(image) for image in encoded)
    made.set_data_from_numpy(np.array(elements, dtype=object), binary_data=binary)
    return InferRequest(model, [made], parameters={"binary_data_output": binary})


def instances(*encoded: bytes) -> dict[str, Any]:
    return {"instances": [{"image": {"b64": base64.b64encode(image).decode()}} for image in encoded]}


def read(response: Any) -> list[dict[str, Any]]:
    """The detections of each image."""
    counts, boxes, scores, class_ids, labels = (
        response.get_output_by_name(name).as_numpy()
        for name in ("num_detections", "boxes", "scores", "class_ids", "labels")
    )
    return [
        {
            "detections": [
                {
                    "label": str(labels[i, j]),
                    "class_id": int(class_ids[i, j]),
                    "score": float(scores[i, j]),
                    "box": boxes[i, j].tolist(),
                }
                for j in range(counts[i])
            ]
        }
        for i in range(len(counts))
    ]


async def outcome(call: Any) -> dict[str, str]:
    """How a call that shall fail fails."""
    try:
        return {"answered": repr(await call)}
    except httpx.HTTPStatusError as error:
        return {"status": str(error.response.status_code), "message": str(error)}


async def main() -> None:
    url, model, *paths = sys.argv[1:]
    photos = {path.name: path.read_bytes() for path in map(Path, paths)}
    first = next(iter(photos.values()))
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as v2, InferenceRESTClient(RESTConfig()) as v1:

        async def ask(*encoded: bytes, binary: bool) -> list[dict[str, Any]]:
            return read(await v2.infer(url, request(model, *encoded, binary=binary), model))

        report = {
            "live": await v2.is_server_live(url),
            "ready": await v2.is_server_ready(url),
            "model_ready": await v2.is_model_ready(url, model),
            "unknown_model_ready": await v2.is_model_ready(url, "absent"),
            "binary": {name: (await ask(photo, binary=True))[0] for name, photo in photos.items()},
            "json": {name: (await ask(photo, binary=False))[0] for name, photo in photos.items()},
            "batch": await ask(*photos.values(), binary=True),
            "v1_model_ready": await v1.is_model_ready(url, model),
            "v1": (await v1.infer(url, instances(*photos.values()), model))["predictions"],
            "errors": {
                "unknown tensor": await outcome(v2.infer(url, request(model, first, binary=True, name="img"), model)),
                "not an image": await outcome(v2.infer(url, request(model, b"hello", binary=True), model)),
                "not an image by v1": await outcome(v1.infer(url, instances(b"hello"), model)),
                "unknown model": await outcome(v2.infer(url, request("absent", first, binary=True), "absent")),
                "unknown model by v1": await outcome(v1.infer(url, instances(first), "absent")),
            },
        }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
