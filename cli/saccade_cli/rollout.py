"""Whether a release has arrived on Knative KServe: pure, from the objects that the API server has.

Helm cannot judge an InferenceService: KServe copies its ``observedGeneration`` from whichever Knative service it
handled last, and its ``Ready`` may still be that of the spec before. So this compares what the InferenceService asks
for with what each Knative service has (``passed_on``), and asks for the newest revision to be the one that is ready
and to have its traffic.
Asks no cluster itself (``cluster``), and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from saccade_cli.passed_on import Object, find_difference

COMPONENTS: Final = ("predictor", "transformer")
#: Time that a revision may take when nothing is said of it (seconds): Knative's own default.
_DEADLINE_S: Final = 600.0
_DEADLINE: Final = "serving.knative.dev/progress-deadline"


@dataclass(frozen=True)
class Observed:
    """What the API server has of a release.

    Attributes:
        service: the InferenceService.
        knative: the Knative service of each component that there is one of.
        rollout: data of the ConfigMap in which the chart records the release; empty where there is none.
    """

    service: Object
    knative: Mapping[str, Object]
    rollout: Mapping[str, str]


@dataclass(frozen=True)
class ComponentState:
    """Where a component of the InferenceService stands.

    Attributes:
        name: predictor or transformer.
        newest: its newest revision; empty before there is one.
        ready: its newest revision that is ready.
        traffic: revisions with their share (percent), as the route has them.
        waits_for: what is missing until the release has arrived, a sentence; empty where it has.
    """

    name: str
    newest: str
    ready: str
    traffic: Sequence[tuple[str, int]]
    waits_for: str


def look(observed: Observed) -> list[ComponentState]:
    """The components of the InferenceService, in the order of requests' ways back."""
    return [_component(observed, name) for name in COMPONENTS if name in observed.service.get("spec", {})]


def missing(observed: Observed) -> list[str]:
    """What is missing until the release has arrived; empty where it has."""
    found = [f"{one.name}: {one.waits_for}" for one in look(observed) if one.waits_for]
    if found:
        return found
    ready = _condition(observed.service, "Ready")
    return [] if ready.get("status") == "True" else [_why(ready, "the InferenceService is not Ready yet")]


def deadline_s(service: Object) -> float:
    """Time in which a release should arrive: its components' longest progress deadline, and a minute (seconds)."""
    found = [_DEADLINE_S]
    for name in COMPONENTS:
        text = str(service.get("spec", {}).get(name, {}).get("annotations", {}).get(_DEADLINE, ""))
        if text.endswith("s") and text[:-1].isdecimal():
            found.append(float(text[:-1]))
    return max(found) + 60


def _component(observed: Observed, name: str) -> ComponentState:
    knative = observed.knative.get(name)
    if knative is None:
        reason = _why(_condition(observed.service, "Ready"), "")
        sentence = "KServe has not made its Knative service yet" + (f" ({reason})" if reason else "")
        return ComponentState(name, "", "", (), sentence)
    status = knative.get("status", {})
    newest, ready = (str(status.get(f"latest{which}RevisionName", "")) for which in ("Created", "Ready"))
    shares: dict[str, int] = {}
    for target in status.get("traffic", ()):
        if target.get("revisionName"):
            shares[target["revisionName"]] = shares.get(target["revisionName"], 0) + int(target.get("percent") or 0)
    traffic = sorted(shares.items())
    return ComponentState(name, newest, ready, traffic, _waits_for(observed, name, knative, newest, ready, shares))


def _waits_for(
    observed: Observed, name: str, knative: Object, newest: str, ready: str, shares: Mapping[str, int]
) -> str:
    spec = observed.service["spec"][name]
    if different := find_difference(observed.service, name, knative["spec"]["template"]):
        return f"KServe has not passed on the spec yet ({different})"
    if knative.get("status", {}).get("observedGeneration") != knative["metadata"].get("generation"):
        return "Knative has not seen the spec yet"
    if newest != ready or not newest:
        sentence = _why(_condition(knative, "ConfigurationsReady"), f"revision {newest or '(none yet)'} is not ready")
        refused = _condition(observed.service, f"{name.capitalize()}Ready")
        return _why(refused, sentence) if refused.get("reason") == "ReconcileFailed" else sentence
    condition = _condition(knative, "Ready")
    if condition.get("status") != "True":
        return _why(condition, "its Knative service is not Ready")
    known = observed.service.get("status", {}).get("components", {}).get(name, {})
    if (known.get("latestCreatedRevision"), known.get("latestReadyRevision")) != (newest, ready):
        return "KServe's status is behind that of Knative"
    percent = spec.get("canaryTrafficPercent")
    wanted = 100 if percent is None or known.get("latestRolledoutRevision") in (None, newest) else int(percent)
    if shares.get(newest, 0) != wanted:
        return f"revision {newest} has {shares.get(newest, 0)} % of the traffic; expected {wanted} %"
    return ""


def _condition(one: Object, kind: str) -> Object:
    for condition in one.get("status", {}).get("conditions", ()):
        if condition.get("type") == kind:
            found: Object = condition
            return found
    return {}


def _why(condition: Object, otherwise: str) -> str:
    """What a condition says of itself, unless it is true."""
    if condition.get("status") == "True":
        return otherwise
    told = [str(condition[key]) for key in ("reason", "message") if condition.get(key)]
    return ": ".join([*([otherwise] if otherwise else []), *told])
