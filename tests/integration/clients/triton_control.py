"""Loads and unloads the model "b" with Triton's own client; prints what it saw as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

protocol, address, header, key = sys.argv[1:]
client: Any
if protocol == "http":
    import tritonclient.http as triton

    client = triton.InferenceServerClient(address, connection_timeout=20, network_timeout=60)
else:
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(address)
with_key = {header: key}


def ready() -> bool:
    try:
        return bool(client.is_model_ready("b"))
    except triton.InferenceServerException:
        return False


told: dict[str, Any] = {"before": ready()}
client.load_model("b", headers=with_key, config=json.dumps({"backend": "onnxruntime", "max_batch_size": 2}))
told["loaded"] = ready()
config = client.get_model_config("b")
told["largest"] = config["max_batch_size"] if protocol == "http" else config.config.max_batch_size
client.unload_model("b", headers=with_key)
told["unloaded"] = ready()
try:
    client.load_model("b")
    told["refused"] = False
except triton.InferenceServerException as error:
    told["refused"] = header in str(error)
print(json.dumps(told))
