"""What the commands that run something have in common on the command line, and the plan that they come to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from saccade_loadtest.commands.sentences import sentences
from saccade_loadtest.judging import slo as slo_file
from saccade_loadtest.judging.slo import Slo
from saccade_loadtest.load.arrivals import BadSchedule
from saccade_loadtest.load.plan import Plan, checked_headers
from saccade_loadtest.load.scenarios import Script
from saccade_loadtest.sending.dialects import DIALECTS
from saccade_loadtest.sending.preflight import Found, Preflight, is_address

#: Set where the command runs from a source checkout, which holds the example photos.
ROOT: Final = Path(__file__).resolve().parents[3]
PHOTOS: Final = ROOT / "examples" / "images"
_SIZE: Final = re.compile(r"(\d{2,4})x(\d{2,4})")
_HOST_AND_PORT: Final = re.compile(r"[^/\s]+:\d{1,5}")

Url = Annotated[str, typer.Option(help="The service, as http://127.0.0.1:8080.", show_default=False)]
Model = Annotated[str, typer.Option(help="Model; may be left out where one is served.", show_default=False)]
GrpcAddress = Annotated[str, typer.Option("--grpc", help="Host and port of gRPC.", show_default=False)]
ProtocolOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol", help=f"{', '.join(DIALECTS)}; =WEIGHT may follow; may be repeated.", show_default=False
    ),
]
Headers = Annotated[
    list[str] | None, typer.Option("--header", help="NAME: VALUE, with each request; may be repeated.")
]
Photos = Annotated[Path, typer.Option("--pictures", help="Folder of photos that the cameras' pictures are made from.")]
Size = Annotated[str, typer.Option(help="Of the cameras' pictures: WIDTHxHEIGHT.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        help="SERVICE=URL, as transformer=http://127.0.0.1:9095/metrics; may be repeated.",
        show_default=False,
    ),
]


def read_mix(chosen: Sequence[str] | None, found: Found, has_grpc: bool) -> dict[str, float]:
    """Protocols with their weights; by default a raw JPEG, or V2 binary to a predictor.

    Raises:
        BadSchedule: one is not known, or a weight is no number.
    """
    if not chosen:
        return {"jpeg" if found.service == "transformer" else "v2-binary": 1.0}
    if list(chosen) == ["all"]:
        every = DIALECTS if found.service == "transformer" else ("v2-binary", "v2-json", "v2-grpc")
        return {name: 1.0 for name in every if has_grpc or name != "v2-grpc"}
    mix: dict[str, float] = {}
    for one in chosen:
        name, _, weight = one.partition("=")
        try:
            mix[name.strip()] = float(weight or 1)
        except ValueError:
            raise BadSchedule(f"--protocol {one}: {weight!r} is no weight; expected a number") from None
    return mix


def read_headers(given: Sequence[str] | None) -> dict[str, str]:
    """Headers by name.

    Raises:
        BadSchedule: one has no colon, or cannot be sent.
    """
    headers = {}
    for one in given or ():
        name, colon, value = one.partition(":")
        if not colon:
            raise BadSchedule(f"--header {one!r} has no colon; expected NAME: VALUE")
        headers[name.strip()] = value.strip()
    return checked_headers(headers)


def read_metrics(given: Sequence[str] | None) -> dict[str, str]:
    """URLs of metrics by service.

    Raises:
        BadSchedule: one is no SERVICE=URL.
    """
    found = {}
    for one in given or ():
        service, _, url = one.partition("=")
        if not service.strip() or not is_address(url.strip()):
            raise BadSchedule(f"--metrics {one!r} is not SERVICE=URL, as transformer=http://127.0.0.1:9095/metrics")
        found[service.strip()] = url.strip()
    return found


def read_capacity(path: Path) -> float:
    """The rate of a capacity.json.

    Raises:
        BadSchedule: it holds none.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        per_s = float(content["rate_per_replica_per_s"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSchedule(f"{path} is no capacity.json of `saccade-loadtest capacity`: {error!r}") from error
    if not 0 < per_s < math.inf:
        raise BadSchedule(f"{path} says that the target can do {per_s:g}/s; there is nothing to load it with")
    return per_s


def read_slo(path: Path | None, script: Script) -> Slo:
    """The SLO of a file, else the scenario's own.

    Raises:
        BadSlo: the file cannot be used.
    """
    return slo_file.load(path) if path is not None else slo_file.parse(dict(script.slo), where="the scenario")


def make_plan(
    scenario: str,
    script: Script,
    url: str,
    found: Found,
    mix: dict[str, float],
    photos: Path,
    size: str,
    grpc: str = "",
    headers: dict[str, str] | None = None,
    **changes: Any,
) -> Plan:
    """The plan of a scenario for a target.

    Raises:
        BadSchedule: something does not fit; the sentence says what.
    """
    sizes = _SIZE.fullmatch(size)
    if sizes is None:
        raise BadSchedule(f"--size {size!r} is no size; expected WIDTHxHEIGHT, as 640x480")
    if grpc and _HOST_AND_PORT.fullmatch(grpc) is None:
        raise BadSchedule(f"{grpc!r} is no address of a gRPC port; expected host and port, as 127.0.0.1:8081")
    content = {
        "scenario": scenario,
        "url": url.rstrip("/"),
        "model": found.model,
        "service": found.service,
        "grpc": grpc,
        "cache": script.cache if found.service == "transformer" else "use",
        "headers": headers or {},
        "outputs": found.outputs,
        "tensor": found.tensor,
        "load": script.load,
        "mix": mix,
        "warmup_s": script.warmup_s,
        "pictures": {"folder": str(photos), "width": int(sizes[1]), "height": int(sizes[2])},
        "patience_s": script.patience_s,
        "nominal_per_s": script.nominal_per_s,
        "nominal_limit_ms": script.nominal_limit_ms,
        "notes": script.notes,
    }
    try:
        return Plan(**{**content, **{name: value for name, value in changes.items() if value is not None}})
    except ValidationError as error:
        raise BadSchedule(sentences(error)) from error


def find(url: str, model: str, headers: dict[str, str], script: Script) -> Found:
    """Ask the target what it is; one that need not be ready is waited for.

    Raises:
        NotReady: it cannot be tested.
    """
    preflight = Preflight(url, headers)
    if script.needs_ready:
        return preflight.look(model)
    if model:
        # A service that is scaled to nothing must not be woken by a question: it is a transformer until it says no.
        return Found(model, "transformer", (), None)
    return preflight.wait_ready(model, script.patience_s)
