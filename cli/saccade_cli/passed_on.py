"""Whether KServe has passed a component of an InferenceService on to its Knative service: pure.

Compared are the fields that a release of the chart may change, both ways: what is asked for has to be there, and what
is there has to be asked for or be an addition that KServe and Knative are known to make. Without the second half a
variable or a GPU that a release takes away would be there in the old template, and the old one taken for the new.
Annotations and fields of other kinds, which a webhook of the cluster may add, do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kubernetes.utils.quantity import parse_quantity

Object = dict[str, Any]

#: Fields of a component that the pods' template of its Knative service has under the same name.
_OF_PODS: Final = (
    "containers",
    "volumes",
    "nodeSelector",
    "tolerations",
    "serviceAccountName",
    "priorityClassName",
    "imagePullSecrets",
    "containerConcurrency",
)
#: Fields of a component that are annotations of its revisions.
_ANNOTATIONS: Final = {
    "minReplicas": "autoscaling.knative.dev/min-scale",
    "maxReplicas": "autoscaling.knative.dev/max-scale",
    "scaleTarget": "autoscaling.knative.dev/target",
}
#: Beginnings of the annotations that are compared both ways.
_KINDS: Final = (
    "autoscaling.knative.dev/",
    "queue.sidecar.serving.knative.dev/",
    "serving.knative.dev/progress-deadline",
    "serving.kserve.io/enable-tag-routing",
)
#: Annotations of these kinds that KServe sets from fields, or for all.
_KSERVES_ANNOTATIONS: Final = {
    *_ANNOTATIONS.values(),
    "autoscaling.knative.dev/class",
    "autoscaling.knative.dev/metric",
}
#: Variables that KServe and Knative add, and the beginning of those of KServe's tracing.
_KSERVES_ENV: Final = {"INFERENCE_SERVICE_NAME", "PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
_TRACING: Final = "OTEL_"
#: Options that KServe adds where they are missing, each with its value behind it.
_KSERVES_OPTIONS: Final = {"--model_name", "--predictor_host", "--http_port", "--workers"}
#: Resources that KServe fills in.
_FILLED: Final = {"cpu", "memory"}


def find_difference(service: Object, name: str, template: Object) -> str:
    """Where the template of a component's Knative service is not what the InferenceService asks for.

    Args:
        service: the InferenceService.
        name: the component, predictor or transformer.
        template: ``spec.template`` of its Knative service.

    Returns:
        Path of the first such field; empty where there is none.
    """
    spec = service["spec"][name]
    pods: Object = {field: spec[field] for field in _OF_PODS if field in spec}
    if "timeout" in spec:
        pods["timeoutSeconds"] = spec["timeout"]
    of_all = service.get("metadata", {}).get("annotations", {})
    annotations = {key: value for key, value in of_all.items() if _is_compared(key)}
    annotations |= spec.get("annotations", {})
    annotations |= {key: str(spec[field]) for field, key in _ANNOTATIONS.items() if field in spec}
    found = template["metadata"].get("annotations", {})
    return (
        _missing(annotations, found, "annotations")
        or _missing(pods, template["spec"], "")
        or next((f"annotations.{key}" for key in found if key not in annotations and _is_compared(key)), "")
        or next(_besides(pods, template["spec"]), "")
    )


def _is_compared(annotation: str) -> bool:
    return annotation.startswith(_KINDS) and annotation not in _KSERVES_ANNOTATIONS


def _besides(wanted: Object, found: Object) -> Iterator[str]:
    """Paths of what is there and nobody asks for."""
    if found.get("priorityClassName") and not wanted.get("priorityClassName"):
        yield "priorityClassName"
    yield from (f"nodeSelector.{key}" for key in _more(wanted, found, "nodeSelector"))
    for field in ("volumes", "imagePullSecrets"):
        yield from (f"{field}[{name}]" for name in _more_names(wanted, found, field))
    if len(found.get("tolerations") or ()) > len(wanted.get("tolerations") or ()):
        yield "tolerations"
    containers = {one.get("name"): one for one in found.get("containers", ())}
    for one in wanted.get("containers", ()):
        there: Object = containers.get(one.get("name"), {})
        path = f"containers[{one.get('name')}]"
        for name in _more_names(one, there, "env"):
            if name not in _KSERVES_ENV and not name.startswith(_TRACING):
                yield f"{path}.env[{name}]"
        yield from (f"{path}.volumeMounts[{name}]" for name in _more_names(one, there, "volumeMounts"))
        yield from (f"{path}.args[{option}]" for option in _more_options(one.get("args"), there.get("args")))
        for kind in ("requests", "limits"):
            more = _more(one.get("resources", {}), there.get("resources", {}), kind)
            yield from (f"{path}.resources.{kind}.{resource}" for resource in more if resource not in _FILLED)


def _more(wanted: Object, found: Object, field: str) -> list[str]:
    """Keys of a map that are there and not asked for."""
    return [key for key in found.get(field) or () if key not in (wanted.get(field) or ())]


def _more_names(wanted: Object, found: Object, field: str) -> list[str]:
    """Names of a list's items that are there and not asked for."""
    names = {one.get("name") for one in wanted.get(field) or ()}
    return [str(one.get("name")) for one in found.get(field) or () if one.get("name") not in names]


def _more_options(wanted: Sequence[str] | None, found: Sequence[str] | None) -> Iterator[str]:
    """Arguments that are there and not asked for, apart from KServe's own."""
    left = list(wanted or ())
    arguments = iter(found or ())
    for one in arguments:
        if left and one == left[0]:
            left.pop(0)
        elif one in _KSERVES_OPTIONS:
            next(arguments, None)
        else:
            yield one


def _missing(wanted: object, found: object, path: str) -> str:
    """Path of the first value that is wanted and not there."""
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping):
            return path
        for key, value in wanted.items():
            there = f"{path}.{key}".lstrip(".")
            if key not in found and not value and value is not False:
                continue  # an empty list or map is the same as none
            if different := _missing(value, found.get(key), there):
                return different
        return ""
    if isinstance(wanted, list):
        left = list(found) if isinstance(found, list) else []
        for value in wanted:
            while left and _missing(value, left[0], path):
                left.pop(0)
            if not left:
                name = value.get("name", "") if isinstance(value, dict) else value
                return f"{path}[{name}]"
            left.pop(0)
        return ""
    if wanted == found:
        return ""
    return path if found is None or not _is_same_quantity(str(wanted), str(found)) else ""


def _is_same_quantity(one: str, other: str) -> bool:
    """Whether two texts are the same, or the same number of Kubernetes: 1000m is 1."""
    if one == other:
        return True
    try:
        return bool(parse_quantity(one) == parse_quantity(other))
    except ValueError:
        return False
