"""What of an SLO a run could not be judged by, told before the run: nobody waits an hour for an "invalid". Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from saccade_loadtest.judging.finding import seconds
from saccade_loadtest.judging.server_objectives import LEAST_SPAN_S
from saccade_loadtest.judging.slo import Slo

#: Stages of ``saccade_request_seconds`` (DESIGN section 7); a service tells of one once it has served a request.
STAGES: Final = (
    "total", "receive", "decode", "phash", "cache", "predict", "queue", "input", "compute", "output", "postprocess",
)  # fmt: skip


class NotJudgeable(ValueError):
    """An SLO has objectives that the run would tell nothing of; a sentence for each."""

    def __init__(self, slo: Slo, objections: list[str]) -> None:
        super().__init__(f"SLO {slo.name} cannot be judged by this run: {'; '.join(objections)}")


@dataclass(frozen=True, slots=True)
class Intended:
    """What a run will tell of.

    Attributes:
        protocols: by which it sends.
        cache: "use", "bypass" or "refresh"; empty of a service without one.
        measured_s: after the warm-up.
        compares: whether answers are compared with known ones.
        stages: of the services whose metrics are asked: the stages that they tell of now; none before any request.
        unreadable: services whose metrics were to be asked and cannot be read, with the reason.
        metrics_hint: how metrics could be asked for.
    """

    protocols: Collection[str]
    cache: str
    measured_s: float
    compares: bool
    stages: Mapping[str, Collection[str]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    metrics_hint: str = "give --metrics {service}=URL, as {service}=http://127.0.0.1:9095/metrics"


def check(slo: Slo, intended: Intended) -> None:
    """Refuse a run that could not be judged.

    Raises:
        NotJudgeable: with all that could not.
    """
    objections = [*_latency(slo, intended), *_answers(slo, intended), *_growth(slo, intended)]
    if objections:
        raise NotJudgeable(slo, list(dict.fromkeys(objections)))


def _latency(slo: Slo, intended: Intended) -> Iterator[str]:
    for limit in slo.latency:
        if limit.stage:
            yield from _stage(limit.stage, intended)
        elif limit.protocol not in ("all", "each", *intended.protocols):
            sent = ", ".join(intended.protocols) or "none"
            yield f"it has a limit for protocol {limit.protocol}, and the run sends by {sent}"


def _stage(name: str, intended: Intended) -> Iterator[str]:
    service, _, stage = name.partition("/")
    if service in intended.unreadable:
        yield f"it has a limit for {name}, and {intended.unreadable[service]}"
    elif service not in intended.stages:
        yield (
            f"it has a limit for {name}, and the metrics of {service} are not asked; "
            + intended.metrics_hint.format(service=service)
        )
    else:
        known = sorted({*STAGES, *intended.stages[service]})
        if stage not in known:
            near = difflib.get_close_matches(stage, known, n=1)
            meant = f"did you mean {service}/{near[0]}? " if near else ""
            yield f"it has a limit for {name}, which there is not; {meant}known stages: {', '.join(known)}"


def _answers(slo: Slo, intended: Intended) -> Iterator[str]:
    if slo.cache_hits is not None and intended.cache != "use":
        told = f"the run asks with cache={intended.cache}" if intended.cache else "the service has no frame cache"
        yield f"it asks for cache hits, and {told}"
    if slo.agreement is not None and not intended.compares:
        yield "it asks for agreement, and answers are not compared in this kind of run"


def _growth(slo: Slo, intended: Intended) -> Iterator[str]:
    if slo.growth is None:
        return
    if not intended.stages:
        told = "; ".join(intended.unreadable.values()) or intended.metrics_hint.format(service="predictor")
        yield f"it limits growth of memory or descriptors, and no metrics are asked; {told}"
    if intended.measured_s < LEAST_SPAN_S:
        yield (
            f"it limits growth, which is told after {seconds(LEAST_SPAN_S)} at least, and the run measures for "
            f"{seconds(intended.measured_s)}"
        )
