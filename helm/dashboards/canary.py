"""Two revisions, two variants or a shadow beside each other: for whoever decides on a rollout."""

from __future__ import annotations

from typing import Final

from dashboards.grafana import Dashboard, Panel, Query, Row, Variable
from dashboards.promql import NAME, NAMESPACE, SERVICE, TRANSFORMER, faults, mean, quantile, rate, rates, share

COMPONENT: Final = f'{SERVICE},component="$component"'
BY_REVISION: Final = f'{COMPONENT},revision=~"$revision"'

CANARY: Final = Dashboard(
    "saccade-canary",
    "Saccade / Canary against stable",
    "Two revisions, two variants or a shadow beside each other, on the same requests and at the same time.",
    variables=(
        NAMESPACE,
        NAME,
        Variable("component", "Component", f"label_values(saccade_inflight_requests{{{SERVICE}}}, component)"),
        Variable(
            "revision", "Revisions", f"label_values(saccade_inflight_requests{{{COMPONENT}}}, revision)", multi=True
        ),
    ),
    rows=[
        Row(
            "By revision (canary.split: request)",
            [
                Panel(
                    "Share of the requests",
                    [
                        Query(
                            share(
                                rate("saccade_requests_total", BY_REVISION, "revision"),
                                f"scalar({rate('saccade_requests_total', COMPONENT)})",
                            ),
                            "{{revision}}",
                        )
                    ],
                    "Whether the percentage that was set is what the revision gets.",
                    "percentunit",
                    stacked=True,
                ),
                Panel(
                    "Faults",
                    [Query(faults("saccade_requests_total", BY_REVISION, "revision"), "{{revision}}")],
                    "Share of each revision's requests that failed by the service's fault.",
                    "percentunit",
                ),
                Panel(
                    "p99",
                    [
                        Query(
                            quantile(0.99, "saccade_request_seconds", f'{BY_REVISION},stage="total"', "revision"),
                            "{{revision}}",
                        )
                    ],
                    "With few requests a p99 is one request: look at the median, too.",
                    "s",
                ),
                Panel(
                    "Median",
                    [
                        Query(
                            quantile(0.5, "saccade_request_seconds", f'{BY_REVISION},stage="total"', "revision"),
                            "{{revision}}",
                        )
                    ],
                    "Of the time of a request.",
                    "s",
                ),
                Panel(
                    "Rows of a batch, mean",
                    [Query(mean("saccade_batch_size", BY_REVISION, "revision"), "{{revision}}")],
                    "Of the predictor. A canary with few requests has smaller batches: "
                    "its latency is not that of full load.",
                ),
                Panel(
                    "As queue-proxy sees it, p99",
                    [
                        Query(
                            quantile(0.99, "kn_serving_invocation_duration_seconds", BY_REVISION, "revision"),
                            "{{revision}}",
                        )
                    ],
                    "With requests that the service never saw. Needs Knative's request-metrics-protocol: prometheus.",
                    "s",
                ),
                Panel(
                    "Replicas",
                    [Query(f"count by (revision) (up{{{BY_REVISION}}} == 1)", "{{revision}}")],
                    "Every revision in the route holds its minReplicas, whatever its percentage.",
                ),
                Panel(
                    "Promises broken, 5 minutes",
                    [
                        Query(
                            f'revision:saccade_slo_errors:ratio_rate5m{{{SERVICE},revision=~"$revision"}}',
                            "{{revision}} {{slo}}",
                        )
                    ],
                    "Share of requests that broke a promise, of the transformer's revisions. "
                    "Needs monitoring.rules.enabled.",
                    "percentunit",
                ),
                Panel(
                    "Served without its plan",
                    [Query(f"max by (revision) (saccade_engine_fallback{{{BY_REVISION}}})", "{{revision}}")],
                    "A canary that serves on CPUs says nothing about the plan.",
                ),
            ],
        ),
        Row(
            "By variant (canary.split: camera)",
            [
                Panel(
                    "Requests",
                    [rates("saccade_variant_requests_total", TRANSFORMER, "variant")],
                    "Cameras are split by a hash: each stays with one variant.",
                    "reqps",
                    stacked=True,
                ),
                Panel(
                    "Faults",
                    [
                        Query(faults("saccade_variant_requests_total", TRANSFORMER, "variant"), "{{variant}}"),
                        Query(
                            rate("saccade_variant_fallbacks_total", TRANSFORMER, "variant"), "{{variant}} fell back /s"
                        ),
                    ],
                    "Share of each variant's requests; and how often the stable one answered in its place.",
                    "percentunit",
                ),
                Panel(
                    "p99",
                    [
                        Query(quantile(0.99, "saccade_variant_seconds", TRANSFORMER, "variant"), "{{variant}}"),
                        Query(quantile(0.5, "saccade_variant_seconds", TRANSFORMER, "variant"), "{{variant}} median"),
                    ],
                    "From a request's last byte to the end of its answer.",
                    "s",
                ),
            ],
        ),
        Row(
            "Shadow",
            [
                Panel(
                    "Images by what became of them",
                    [rates("saccade_shadow_requests_total", TRANSFORMER, "outcome")],
                    "Only compared ones say something.",
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Agreement, IoU",
                    [
                        Query(mean("saccade_shadow_agreement", TRANSFORMER), "agreement"),
                        Query(quantile(0.05, "saccade_shadow_agreement", TRANSFORMER), "agreement p5"),
                        Query(mean("saccade_shadow_iou", TRANSFORMER), "IoU"),
                    ],
                    "Of the candidate's answers with those given. Under 0.9 on the mean for 30 minutes is an alert.",
                    "percentunit",
                ),
                Panel(
                    "Time of a call",
                    [
                        Query(quantile(0.99, "saccade_shadow_seconds", TRANSFORMER), "candidate p99"),
                        Query(quantile(0.99, "saccade_predictor_seconds", TRANSFORMER), "given p99"),
                    ],
                    "Beside the predictor that answers.",
                    "s",
                ),
                Panel(
                    "Objects more and less",
                    [
                        Query(
                            mean("saccade_shadow_count_difference", TRANSFORMER, "direction"), "objects {{direction}}"
                        )
                    ],
                    "How many objects the candidate finds more or less, of the images where it does.",
                ),
                Panel(
                    "Scores higher and lower",
                    [Query(mean("saccade_shadow_score_shift", TRANSFORMER, "direction"), "{{direction}}")],
                    "Of objects that both have: a candidate that is surer needs another threshold.",
                ),
                Panel(
                    "Other classes",
                    [Query(rate("saccade_shadow_class_changes_total", TRANSFORMER))],
                    "Objects that both have, with different classes.",
                    "ops",
                ),
            ],
        ),
    ],
)
