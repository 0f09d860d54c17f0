"""Send what 72 cameras see, each a part of a photo in its own light, and write whether its thing was found."""

import csv
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

URL, OUTCOMES = sys.argv[1:]
THINGS = {"astronaut": "person", "chelsea": "cat", "coffee": "cup", "grace_hopper": "person"}


def watch(camera):
    chance = np.random.default_rng(camera)
    name, thing = list(THINGS.items())[camera % len(THINGS)]
    photo = cv2.imread(f"examples/images/{name}.jpg")
    height, width = (int(side * 0.7) for side in photo.shape[:2])
    top, left = (int(side * 0.3 * chance.random()) for side in photo.shape[:2])
    view = photo[top : top + height, left : left + width] * chance.uniform(0.3, 1.2)
    for frame in range(4):
        seen = np.clip(view + chance.normal(0, 10, view.shape), 0, 255).astype(np.uint8)
        request_id = f"{camera}-{frame}"
        headers = {"content-type": "image/jpeg", "x-camera-id": f"hall-{camera}", "x-request-id": request_id}
        request = urllib.request.Request(f"{URL}/detect", cv2.imencode(".jpg", seen)[1].tobytes(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)["detections"]
        yield request_id, int(any(one["label"] == thing for one in found)), "found"


with ThreadPoolExecutor(2) as threads, open(OUTCOMES, "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(("request_id", "value", "name"))
    for frames in threads.map(lambda camera: list(watch(camera)), range(72)):
        rows.writerows(frames)
