"""PromQL that the dashboards have in common: whose series, and what is made of them.

Nothing here is drawn; queries come with the names of their series.
"""

from __future__ import annotations

from typing import Final

from dashboards.grafana import Query, Variable

SERVICE: Final = 'namespace="$namespace",inferenceservice="$inferenceservice"'
TRANSFORMER: Final = f'{SERVICE},component="transformer"'
PREDICTOR: Final = f'{SERVICE},component="predictor"'
REVISIONS: Final = (
    'k8s_namespace_name="$namespace",kn_revision_name=~"$inferenceservice-(predictor|transformer)-[0-9]+"'
)
#: dcgm-exporter's own labels of the pod that holds a GPU; Prometheus puts exported_ before what it gives itself.
GPUS: Final = 'exported_namespace="$namespace",exported_pod=~"$inferenceservice-predictor-.*"'
#: As in templates/_slo.tpl: what is the service's fault.
FAULTS: Final = "5..|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|UNKNOWN"
RATE: Final = "[$__rate_interval]"

NAMESPACE: Final = Variable("namespace", "Namespace", "label_values(saccade_inflight_requests, namespace)")
NAME: Final = Variable(
    "inferenceservice",
    "InferenceService",
    'label_values(saccade_inflight_requests{namespace="$namespace"}, inferenceservice)',
)


def rate(metric: str, selector: str, by: str = "") -> str:
    """A counter's growth per second, summed over pods."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{selector}}}{RATE}))"


def rates(metric: str, selector: str, by: str) -> Query:
    """The same by labels, named by their values."""
    return Query(rate(metric, selector, by), _values_of(by))


def gauges(metric: str, selector: str, by: str, over: str = "sum") -> Query:
    """A gauge by labels, named by their values; ``over`` pods it is summed, or the largest or smallest is taken."""
    return Query(f"{over} by ({by}) ({metric}{{{selector}}})", _values_of(by))


def _values_of(by: str) -> str:
    return " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))


def faults(metric: str, selector: str, by: str = "") -> str:
    """Share of requests that failed by the service's fault; 0, not nothing, where none did."""
    failed, all_of_them = (rate(metric, f"{selector}{only}", by) for only in (f',code=~"{FAULTS}"', ""))
    return f"({failed} or 0 * {all_of_them}) / {all_of_them}"


def share(part: str, whole: str) -> str:
    """A part of a whole."""
    return f"{part} / {whole}"


def mean(histogram: str, selector: str, by: str = "") -> str:
    """What a histogram's observations were on the mean."""
    return share(rate(f"{histogram}_sum", selector, by), rate(f"{histogram}_count", selector, by))


def quantile(q: float, histogram: str, selector: str, by: str = "") -> str:
    """A quantile of a histogram, over pods."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', selector, labels)})"


def quantiles(histogram: str, selector: str) -> list[Query]:
    """p50, p95 and p99."""
    return [Query(quantile(q, histogram, selector), f"p{100 * q:.0f}") for q in (0.5, 0.95, 0.99)]
