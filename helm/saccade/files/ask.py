"""What ``helm test`` runs: is the model ready, and does it see what is in a picture. Python's own library alone.

Usage: ask.py URL MODEL PICTURE LABEL
"""

import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def get(url: str, body: bytes | None = None) -> bytes:
    """Answer of a call; ends with a sentence where there is none."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"} if body else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # the chart's own URL
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}: {error.code} {error.read(300).decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{url}: {error}")


def main(url: str, model: str, picture: str, label: str) -> None:
    """Ask, and end with 1 if the answer has not the label."""
    get(f"{url}/v2/models/{model}/ready")
    print(f"{model} is ready")
    image = {"name": "image", "datatype": "BYTES", "shape": [1]}
    image["data"] = [base64.b64encode(Path(picture).read_bytes()).decode()]
    answer = json.loads(get(f"{url}/v2/models/{model}/infer", json.dumps({"inputs": [image]}).encode()))
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    found = [f"{name} {score:.2f}" for name, score in zip(outputs["labels"], outputs["scores"], strict=True) if name]
    print(f"version {answer['model_version']} sees: {', '.join(found) or 'nothing'}")
    if label and label not in outputs["labels"]:
        sys.exit(f"{picture} shows a {label}, which was not found")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
