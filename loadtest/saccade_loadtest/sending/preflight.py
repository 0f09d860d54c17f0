"""What is asked of a target before a run: whether it is there and ready, what its model is called and takes.

Ordinary requests with the standard library, one after the other. Refuses with a sentence that says what to do.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote, urlsplit

from saccade_loadtest.load.plan import TensorInput

_TIMEOUT_S: Final = 10.0
_SPACE: Final = re.compile(r"[\s\x00-\x1f]")


class NotReady(Exception):
    """The target cannot be tested; the sentence says what was asked and what it answered."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a target is.

    Attributes:
        model: name.
        service: what it serves.
        outputs: of the model.
        tensor: what a predictor takes, one row.
    """

    model: str
    service: Literal["transformer", "predictor"]
    outputs: tuple[str, ...]
    tensor: TensorInput | None


class Preflight:
    """Questions to one target.

    Args:
        url: of the service.
        headers: added to each request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        if not is_address(url):
            raise NotReady(f"{url!r} is no address of a service; expected one like http://127.0.0.1:8080")
        self._url, self._headers = url.rstrip("/"), dict(headers)

    def look(self, model: str = "") -> Found:
        """Find the model and what it takes.

        Args:
            model: its name; empty: the only one that is served.

        Raises:
            NotReady: it is not there, not ready, or not to be asked about.
        """
        name = model or self._only_model()
        status, content = self.get(f"/v2/models/{quote(name, safe='')}/ready")
        if status == 404:
            raise NotReady(f"{self._url} has no model {name!r}; it serves {', '.join(self._models()) or 'none'}")
        if status != 200:
            raise NotReady(f"model {name!r} of {self._url} is not ready: {_said(status, content)}")
        status, content = self.get(f"/v2/models/{quote(name, safe='')}")
        if status != 200 or not isinstance(content, dict):
            raise NotReady(f"the metadata of model {name!r} of {self._url} cannot be had: {_said(status, content)}")
        return describe(name, content)

    def wait_ready(self, model: str, within_s: float, clock: Callable[[], float] = time.monotonic) -> Found:
        """As ``look``, for a target that may still be starting.

        Raises:
            NotReady: it is not ready when the time is over.
        """
        deadline = clock() + within_s
        while True:
            try:
                return self.look(model)
            except NotReady:
                if clock() > deadline:
                    raise
            time.sleep(0.25)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and content of a route, parsed where it is JSON.

        Raises:
            NotReady: nobody answers.
        """
        request = urllib.request.Request(self._url + path, headers=self._headers)  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                return answer.status, _parsed(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _parsed(error.read())
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            reason = getattr(error, "reason", error)
            raise NotReady(
                f"{self._url} cannot be reached: {reason}; is the service up, and is the URL right?"
            ) from error

    def _only_model(self) -> str:
        names = self._models()
        if len(names) != 1:
            raise NotReady(f"{self._url} serves {', '.join(names) or 'no model'}; choose one with --model")
        return names[0]

    def _models(self) -> list[str]:
        status, content = self.get("/v2/models")
        if status != 200 or not isinstance(content, dict):
            raise NotReady(f"{self._url}/v2/models does not list models ({_said(status, content)}); use --model")
        return [str(name) for name in content.get("models", [])]


def is_address(url: str) -> bool:
    """Whether it is an HTTP address with a host, and a port that can be if there is one."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not _SPACE.search(url)
        )
    except ValueError:  # brackets that do not close, a port beyond 65535
        return False


def describe(model: str, metadata: Mapping[str, Any]) -> Found:
    """What a model's V2 metadata says of it.

    Raises:
        NotReady: it takes something that is not sent here.
    """
    inputs = metadata.get("inputs", [])
    outputs = tuple(str(output["name"]) for output in metadata.get("outputs", []))
    if any(one["name"] == "image" and one["datatype"] == "BYTES" for one in inputs) and "num_detections" in outputs:
        return Found(model, "transformer", outputs, None)
    if len(inputs) != 1:
        raise NotReady(f"model {model!r} takes {len(inputs)} inputs; one that takes a single tensor is asked about")
    shape = [int(size) for size in inputs[0]["shape"]]
    if any(size < 1 for size in shape[1:]):
        raise NotReady(f"input {inputs[0]['name']!r} has the shape {shape}; sizes behind the batch must be fixed")
    tensor = TensorInput(name=inputs[0]["name"], datatype=inputs[0]["datatype"], shape=(1, *shape[1:]))
    return Found(model, "predictor", outputs, tensor)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body[:300].decode(errors="replace")


def _said(status: int, content: Any) -> str:
    text = content.get("error", content) if isinstance(content, dict) else content
    return f"{status} {text}"
