"""What ``saccade up`` prints once the pair is ready: lines to paste into another terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path

from saccade_cli.pair import Pair


def curl_lines(pair: Pair, photo: Path) -> str:
    """Tell where the pair listens, and a line for each way to call it."""
    with contextlib.suppress(ValueError):
        photo = photo.relative_to(Path.cwd())
    url, infer = pair.url, f"{pair.url}/v2/models/{pair.model}/infer"
    return f"""
Serving {pair.model} at {url} (gRPC {pair.host}:{pair.ports.grpc}). Paste one of these into another terminal:

# boxes as JSON
curl -sS -F file=@{photo} {url}/detect

# the picture with boxes drawn
curl -sS -H 'Content-Type: image/jpeg' -H 'Accept: image/jpeg' --data-binary @{photo} -o boxes.jpg {url}/detect

# Open Inference Protocol (V2), JSON
(printf '{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[1],"data":["'; base64 < {photo} | tr -d '\\n'; \
printf '"]}}]}}') | curl -sS -H 'Content-Type: application/json' --data-binary @- {infer}

# the predictor's tensors and configuration
curl -sS http://{pair.host}:{pair.ports.predictor_rest}/v2/models/{pair.model}/config

# metrics of the transformer and of the predictor
curl -sS {pair.metrics_urls["transformer"]}
curl -sS {pair.metrics_urls["predictor"]}

Ctrl-C stops both processes."""
