"""Asks a server by kserve's InferenceGRPCClient, which must not share a process with tritonclient.grpc; prints JSON.

kserve_grpc.py host:port model photo ...
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


def request(model: str, *encoded: bytes, name: str = "image") -> Any:
    made = InferInput(name, [len(encoded)], "BYTES")
    made.set_data_from_numpy(np.array(encoded, dtype=object))
    return InferRequest(model, [made])


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
                    "label": labels[i, j].decode(),
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
    except grpc.aio.AioRpcError as error:
        return {"status": error.code().name, "message": error.details()}


async def main() -> None:
    address, model, *paths = sys.argv[1:]
    photos = {path.name: path.read_bytes() for path in map(Path, paths)}
    first = next(iter(photos.values()))
    async with InferenceGRPCClient(address, retries=0) as client:
        report = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(model),
            "bytes": {name: read(await client.infer(request(model, photo)))[0] for name, photo in photos.items()},
            "batch": read(await client.infer(request(model, *photos.values()))),
            "errors": {
                "unknown tensor": await outcome(client.infer(request(model, first, name="img"))),
                "not an image": await outcome(client.infer(request(model, b"hello"))),
                "unknown model": await outcome(client.infer(request("absent", first))),
                "readiness of an unknown model": await outcome(client.is_model_ready("absent")),
                "timeout": await outcome(client.infer(request(model, first), timeout=0.001)),
            },
        }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
