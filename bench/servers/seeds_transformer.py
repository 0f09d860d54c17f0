"""What is usually written: FastAPI, ``cv2.imdecode`` of the whole frame, a perceptual hash of it, an FP32 tensor.

The baseline of ``bench/frames.py``. It is not made slow: uvicorn on uvloop and httptools without an access log, one
HTTP session, binary tensors unless told otherwise, nothing decoded twice, NumPy and OpenCV for all that touches
pixels. Its lookup never hits, which is what a miss costs. ``--threads`` moves the work on pixels off the event
loop, which such services often do not.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import aiohttp
import cv2
import imagehash
import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, HTTPException, UploadFile
from numpy.typing import NDArray
from PIL import Image

from servers.stub_predictor import INPUT, LABELS, MODEL, OUTPUT, ROWS

SCORE_THRESHOLD: Final = 0.4
IOU_THRESHOLD: Final = 0.5
#: Seconds an answer is kept; 0: every lookup is made and is a miss.
TTL_S: Final = 0.0


class Transformer:
    """The whole service.

    Args:
        predictor: its URL.
        side: of the model's square input, in pixels.
        as_json: send tensors as JSON numbers rather than as binary data.
        threads: work on pixels in a thread pool.
    """

    def __init__(self, predictor: str, side: int, as_json: bool, threads: bool) -> None:
        self._url = f"{predictor}/v2/models/{MODEL}/infer"
        self._side, self._as_json, self._threads = side, as_json, threads
        self._cache: dict[str, tuple[float, dict[str, Any]]] = {}
        self.app = FastAPI(lifespan=self._lifespan)
        self.app.post("/detect")(self.detect)
        self.app.get("/health")(self.health)

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as self._session:
            yield

    async def health(self) -> dict[str, str]:
        """Whether it runs."""
        return {"status": "ok"}

    async def detect(self, file: Annotated[UploadFile, "an encoded image"]) -> dict[str, Any]:
        """Answer one frame."""
        data = await file.read()
        if self._threads:
            key, body, headers, scale = await asyncio.to_thread(self._prepare, data)
        else:
            key, body, headers, scale = self._prepare(data)
        known = self._cache.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        async with self._session.post(self._url, data=io.BytesIO(body), headers=headers) as answer:
            candidates = await answer.read()
        table = np.frombuffer(candidates[-ROWS * 6 * 4 :], np.float32).reshape(ROWS, 6)
        found = {"detections": self._read(table, scale)}
        self._cache[key] = time.monotonic() + TTL_S, found
        return found

    def _prepare(self, data: bytes) -> tuple[str, bytes, dict[str, str], tuple[float, float]]:
        """Decode, hash, resize, encode. Returns the cache's key, body, headers, and image pixels per input pixel."""
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if frame is None:
            raise HTTPException(415, "not an image")
        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        key = str(imagehash.phash(Image.fromarray(rgb)))
        resized = cv2.resize(rgb, (self._side, self._side))
        tensor = np.ascontiguousarray((resized.astype(np.float32) / 255.0).transpose(2, 0, 1)[None])
        body, headers = self._encode(tensor)
        return key, body, headers, (frame.shape[1] / self._side, frame.shape[0] / self._side)

    def _encode(self, tensor: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
        described: dict[str, Any] = {"name": INPUT, "datatype": "FP32", "shape": list(tensor.shape)}
        if self._as_json:
            described["data"] = tensor.ravel().tolist()
            return orjson.dumps({"inputs": [described]}), {"content-type": "application/json"}
        described["parameters"] = {"binary_data_size": tensor.nbytes}
        head = orjson.dumps(
            {"inputs": [described], "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}]}
        )
        return head + tensor.tobytes(), {"inference-header-content-length": str(len(head))}

    @staticmethod
    def _read(table: NDArray[np.float32], scale: tuple[float, float]) -> list[dict[str, Any]]:
        rows = table[table[:, 4] >= SCORE_THRESHOLD]
        corners = rows[:, :4] * (*scale, *scale)
        sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        kept = cv2.dnn.NMSBoxesBatched(
            sides.tolist(), rows[:, 4].tolist(), rows[:, 5].astype(int).tolist(), SCORE_THRESHOLD, IOU_THRESHOLD
        )
        return [
            {
                "box": corners[i].round(2).tolist(),
                "score": round(float(rows[i, 4]), 4),
                "class_id": int(rows[i, 5]),
                "label": LABELS[int(rows[i, 5])],
            }
            for i in np.asarray(kept, int).ravel().tolist()
        ]


def main() -> None:
    """Serve on the given port until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("predictor_port", type=int)
    parser.add_argument("side", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", action="store_true")
    given = parser.parse_args()
    made = Transformer(f"http://127.0.0.1:{given.predictor_port}", given.side, given.json, given.threads)
    uvicorn.run(made.app, host="127.0.0.1", port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
