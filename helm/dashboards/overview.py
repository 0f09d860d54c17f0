"""Whether clients are served well, and if not, where the time and the requests go: for whoever is on call."""

from __future__ import annotations

from typing import Final

from dashboards.grafana import Dashboard, Panel, Query, Row
from dashboards.promql import (
    NAME,
    NAMESPACE,
    PREDICTOR,
    REVISIONS,
    SERVICE,
    TRANSFORMER,
    faults,
    gauges,
    quantile,
    quantiles,
    rate,
    rates,
    share,
)

TOTAL: Final = f'{TRANSFORMER},stage="total"'
INFERRED: Final = f'{PREDICTOR},stage="total"'

OVERVIEW: Final = Dashboard(
    "saccade-overview",
    "Saccade / Overview",
    "Whether clients are served well, and if not, where the time and the requests go.",
    variables=(NAMESPACE, NAME),
    rows=[
        Row(
            "What clients get",
            [
                Panel(
                    "Requests",
                    [Query(rate("saccade_requests_total", TRANSFORMER))],
                    "By the transformer.",
                    "reqps",
                    "stat",
                    4,
                ),
                Panel(
                    "p99",
                    [Query(quantile(0.99, "saccade_request_seconds", TOTAL))],
                    "99 % of the requests are answered within this time. The promise is slo.p99Ms.",
                    "s",
                    "stat",
                    4,
                ),
                Panel(
                    "Faults",
                    [Query(faults("saccade_requests_total", TRANSFORMER))],
                    "Share of requests that failed by the service's fault: 5xx, or gRPC's INTERNAL, UNAVAILABLE, "
                    "DEADLINE_EXCEEDED, UNKNOWN. The promise is slo.availability.",
                    "percentunit",
                    "stat",
                    4,
                    limits=(0.001, 0.01),
                ),
                Panel(
                    "Budget left: availability",
                    [Query(f'inferenceservice:saccade_slo_error_budget:remaining{{{SERVICE},slo="availability"}}')],
                    "Of 30 days' faults that the promise allows. Needs monitoring.rules.enabled.",
                    "percentunit",
                    "stat",
                    4,
                    limits=(0.5, 0.1),
                ),
                Panel(
                    "Budget left: latency",
                    [Query(f'inferenceservice:saccade_slo_error_budget:remaining{{{SERVICE},slo="latency"}}')],
                    "Of the 1 % of 30 days' requests that may be slower than slo.p99Ms. "
                    "Needs monitoring.rules.enabled.",
                    "percentunit",
                    "stat",
                    4,
                    limits=(0.5, 0.1),
                ),
                Panel(
                    "Answered from the cache",
                    [
                        Query(
                            share(
                                rate("saccade_cache_requests_total", f'{TRANSFORMER},outcome=~"exact|near|coalesced"'),
                                rate("saccade_cache_requests_total", TRANSFORMER),
                            )
                        )
                    ],
                    "Share of images that needed no inference of their own.",
                    "percentunit",
                    "stat",
                    4,
                ),
                Panel(
                    "Requests by code",
                    [rates("saccade_requests_total", TRANSFORMER, "code")],
                    "499 is a client that left.",
                    "reqps",
                    stacked=True,
                ),
                Panel(
                    "Latency",
                    quantiles("saccade_request_seconds", TOTAL),
                    "From the first byte of a request's head to the end of its answer, in the transformer.",
                    "s",
                ),
                Panel(
                    "Refused, by reason",
                    [rates("saccade_rejected_requests_total", SERVICE, "component, reason")],
                    "Requests that were refused or dropped; docs/api.md has the reasons.",
                    "reqps",
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Where the time goes",
            [
                Panel(
                    "Transformer, mean by stage",
                    [
                        Query(
                            share(
                                rate("saccade_request_seconds_sum", f'{TRANSFORMER},stage!="total"', "stage"),
                                f"scalar({rate('saccade_request_seconds_count', TOTAL)})",
                            ),
                            "{{stage}}",
                        )
                    ],
                    "Stages of a request; together they are its total, where a request has one image.",
                    "s",
                    stacked=True,
                ),
                Panel(
                    "Predictor, mean by stage",
                    [
                        Query(
                            share(
                                rate("saccade_request_seconds_sum", f'{PREDICTOR},stage!="total"', "stage"),
                                f"scalar({rate('saccade_request_seconds_count', INFERRED)})",
                            ),
                            "{{stage}}",
                        )
                    ],
                    "queue is the wait for an instance, compute the batch.",
                    "s",
                    stacked=True,
                ),
                Panel(
                    "Calls to the predictor",
                    [
                        *quantiles("saccade_predictor_seconds", TRANSFORMER),
                        Query(
                            rate("saccade_predictor_retries_total", TRANSFORMER, "reason"), "retried: {{reason}} /s"
                        ),
                    ],
                    "As the transformer sees them, with the network and queue-proxy; and how often it asked again.",
                    "s",
                ),
            ],
        ),
        Row(
            "Replicas",
            [
                Panel(
                    "Replicas that answer Prometheus",
                    [Query(f"count by (component, revision) (up{{{SERVICE}}} == 1)", "{{revision}}")],
                    "By revision. More than one of a component is a rollout or a canary.",
                    stacked=True,
                ),
                Panel(
                    "Replicas wanted and there",
                    [
                        Query(f"max by (kn_revision_name) (kn_revision_pods_desired{{{REVISIONS}}})", "wanted"),
                        Query(f"max by (kn_revision_name) (kn_revision_pods_count{{{REVISIONS}}})", "there"),
                        Query(f"max by (kn_revision_name) (kn_revision_pods_pending_count{{{REVISIONS}}})", "pending"),
                        Query(
                            f"max by (kn_revision_name) (kn_revision_pods_not_ready_count{{{REVISIONS}}})", "not ready"
                        ),
                    ],
                    "By Knative's autoscaler. Pending pods find no node, a GPU for instance.",
                ),
                Panel(
                    "Concurrency and its target",
                    [
                        gauges("kn_revision_concurrency_stable", REVISIONS, "kn_revision_name", "max"),
                        Query(
                            f"max by (kn_revision_name) (kn_revision_concurrency_target{{{REVISIONS}}})",
                            "{{kn_revision_name}} target",
                        ),
                        Query(
                            f"max by (kn_revision_name) (kn_revision_panic_mode{{{REVISIONS}}})",
                            "{{kn_revision_name}} panic",
                        ),
                    ],
                    "Requests in a replica, on the mean of its window, and what the autoscaler aims at.",
                ),
            ],
        ),
        Row(
            "Inside",
            [
                Panel(
                    "Requests in flight",
                    [gauges("saccade_inflight_requests", SERVICE, "component")],
                    "Being received or answered.",
                ),
                Panel(
                    "Event loop's delay, p99",
                    [
                        Query(
                            quantile(0.99, "saccade_loop_lag_seconds", SERVICE, "component, pod"),
                            "{{component}} {{pod}}",
                        )
                    ],
                    "Over some milliseconds a replica has too little CPU, or something blocks it.",
                    "s",
                ),
                Panel(
                    "Request bodies in memory",
                    [gauges("saccade_arena_bytes", SERVICE, "component, state")],
                    "The arena, by what is done with the bodies; free is mapped and unused.",
                    "bytes",
                    stacked=True,
                ),
                Panel(
                    "Network",
                    [rates("saccade_network_bytes_total", SERVICE, "component, direction")],
                    "Bodies received and sent.",
                    "Bps",
                ),
                Panel(
                    "Images waiting for a thread",
                    [gauges("saccade_image_workers_pending", TRANSFORMER, "pod")],
                    "Being decoded or drawn, or waiting for it: the transformer's own queue.",
                ),
                Panel(
                    "Full candidate tables",
                    [rates("saccade_candidates_full_total", TRANSFORMER, "model, version")],
                    "Images whose table of candidates had no row left: objects may be missing.",
                    "ops",
                ),
            ],
        ),
    ],
)
