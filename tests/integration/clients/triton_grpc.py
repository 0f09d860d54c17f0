"""Asks a server by tritonclient.grpc, which must not share a process with kserve's gRPC, and prints JSON.

    triton_grpc.py host:port model photo.jpg photo.png ...

The pictures are sent as BYTES; the PNGs also as UINT8 pixels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException


def tensor(array: np.ndarray, datatype: str, name: str = "image") -> Any:
    """An input as the client wants it."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def images(*encoded: bytes) -> Any:
    return tensor(np.array(encoded, dtype=object), "BYTES")


def read(result: Any) -> list[dict[str, Any]]:
    """The detections of each image."""
    counts, boxes, scores, class_ids, labels = (
        result.as_numpy(name) for name in ("num_detections", "boxes", "scores", "class_ids", "labels")
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


def outcome(call: Callable[[], Any]) -> dict[str, str]:
    """How a call that shall fail fails."""
    try:
        return {"answered": repr(call())}
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}


def main() -> None:
    address, model, *paths = sys.argv[1:]
    photos = {path.name: path.read_bytes() for path in map(Path, paths)}
    first = next(iter(photos.values()))
    with triton.InferenceServerClient(address) as client:
        infer = client.infer
        subset = infer(
            model, [images(first)], outputs=[triton.InferRequestedOutput(n) for n in ("scores", "cache")]
        ).get_response()
        traced = infer(model, [images(first)], request_id="r-7", parameters={"score_threshold": 0.9})
        report = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "version_ready": client.is_model_ready(model, "1"),
            "unknown_version_ready": client.is_model_ready(model, "7"),
            "server": client.get_server_metadata(as_json=True),
            "metadata": client.get_model_metadata(model, as_json=True),
            "metadata_of_version": client.get_model_metadata(model, "1", as_json=True),
            "bytes": {name: read(infer(model, [images(photo)]))[0] for name, photo in photos.items()},
            "uint8": {
                path.name: read(infer(model, [tensor(np.asarray(Image.open(path).convert("RGB"))[None], "UINT8")]))[0]
                for path in map(Path, paths)
                if path.suffix == ".png"
            },
            "batch": read(infer(model, [images(*photos.values())])),
            "version": infer(model, [images(first)], model_version="1").get_response().model_version,
            "subset": [output.name for output in subset.outputs],
            "id": traced.get_response().id,
            "above_threshold": read(traced)[0]["detections"],
            "errors": {
                "unknown tensor": outcome(lambda: infer(model, [tensor(np.array([first], object), "BYTES", "img")])),
                "wrong shape": outcome(lambda: infer(model, [tensor(np.array([[first]], object), "BYTES")])),
                "wrong datatype": outcome(lambda: infer(model, [tensor(np.zeros((1, 8, 8, 3), "f4"), "FP32")])),
                "unknown output": outcome(
                    lambda: infer(model, [images(first)], outputs=[triton.InferRequestedOutput("masks")])
                ),
                "not an image": outcome(lambda: infer(model, [images(b"hello")])),
                "unknown model": outcome(lambda: infer("absent", [images(first)])),
                "unknown version": outcome(lambda: infer(model, [images(first)], model_version="7")),
                "readiness of an unknown model": outcome(lambda: client.is_model_ready("absent")),
                "client timeout": outcome(lambda: infer(model, [images(first)], client_timeout=0.001)),
                "timeout parameter": outcome(lambda: infer(model, [images(first)], timeout=1)),
                "load": outcome(lambda: client.load_model(model)),
                "unload": outcome(lambda: client.unload_model(model)),
            },
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
