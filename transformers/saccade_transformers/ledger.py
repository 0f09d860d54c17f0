"""Counts and records requests by variant, when they have ended: metrics for both, and a line for the report.

What a line holds, and how it is written; the report that is made of the lines is ``saccade ab-report``. A line names
no camera, only a digest of it; the request's id is the client's, so that outcomes can be joined by it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import orjson

from saccade_serving.connection.exchange import Exchange
from saccade_serving.lines import LineWriter
from saccade_transformers.metrics import TransformerMetrics
from saccade_transformers.split import salt_digest
from saccade_transformers.variants import Assigned, Variants


class Ledger:
    """Told by the gate of every request that has ended.

    Args:
        variants: between which requests are split.
        metrics: counts them.
        lines: takes a line for each; None to write none.
    """

    def __init__(self, variants: Variants, metrics: TransformerMetrics, lines: LineWriter | None = None) -> None:
        self._salt = salt_digest(variants.salt)
        self._variants = variants
        self._metrics = metrics
        self._lines = lines

    def record(self, exchange: Exchange, version: str, code: str, total_s: float) -> None:
        """Note a request; see ``saccade_serving.connection.gate.Recording``.

        Who was refused before a variant was chosen is in nobody's books. The time is counted from the request's last
        byte: how long a camera's uplink takes says nothing of a model.
        """
        assigned = exchange.notes
        if not isinstance(assigned, Assigned):
            return
        name = assigned.target.name
        seconds = max(0.0, total_s - exchange.stages.get("receive", 0.0))
        self._metrics.variant_requests.add((exchange.model, name, code))
        self._metrics.variant_seconds.observe(seconds, (exchange.model, name))
        lines = self._lines
        if lines is not None and lines.has_room():
            lines.put(
                time.time(),
                exchange.request_id,
                name,
                assigned.fell_back,
                assigned.is_chosen,
                assigned.key,
                self._salt,
                self._variants.share,
                seconds,
                code,
                assigned.items,
            )


def encode(
    unix_s: float,
    request_id: str,
    variant: str,
    fell_back: bool,
    is_chosen: bool,
    key: str,
    salt: str,
    share: float,
    seconds: float,
    code: str,
    items: int,
) -> bytes:
    """Write a line, newline included.

    Args:
        unix_s: when the request ended.
        request_id: the client's, else one of our own.
        variant: that answered.
        fell_back: stable answered for the candidate.
        is_chosen: the request chose its variant itself.
        key: digest of the camera or user; empty without one.
        salt: digest of the split's salt.
        share: the candidate's at that time, 0 to 1.
        seconds: from the request's last byte to the end of its answer.
        code: HTTP status or name of a gRPC code.
        items: things in the answer.
    """
    when = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {
        "time": when,
        "request_id": request_id,
        "variant": variant,
        "fallback": fell_back,
        "chosen": is_chosen,
        "key": key,
        "salt": salt,
        "share": share,
        "latency_ms": round(seconds * 1e3, 3),
        "code": code,
        "items": items,
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
