"""What the frame cache saves, and whether its answers can be trusted: for whoever sets its limits."""

from __future__ import annotations

from typing import Final

from dashboards.grafana import Dashboard, Panel, Query, Row
from dashboards.promql import NAME, NAMESPACE, RATE, TRANSFORMER, gauges, quantile, quantiles, rate, rates, share

HITS: Final = f'{TRANSFORMER},outcome=~"exact|near|coalesced"'

CACHE: Final = Dashboard(
    "saccade-cache",
    "Saccade / Frame cache",
    "What the frame cache saves, why it does not answer, and whether its answers can be trusted.",
    variables=(NAMESPACE, NAME),
    rows=[
        Row(
            "What it saves",
            [
                Panel(
                    "Images by outcome",
                    [rates("saccade_cache_requests_total", TRANSFORMER, "outcome")],
                    "exact: the same bytes; near: a camera's frame that is nearly the last one; "
                    "coalesced: an equal image is being inferred; bypass: not asked.",
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Answered from the cache",
                    [
                        Query(
                            share(
                                rate("saccade_cache_requests_total", HITS),
                                rate("saccade_cache_requests_total", TRANSFORMER),
                            ),
                            "all",
                        ),
                        Query(
                            share(
                                rate("saccade_cache_requests_total", f'{TRANSFORMER},outcome="near"'),
                                rate("saccade_cache_requests_total", TRANSFORMER),
                            ),
                            "near",
                        ),
                    ],
                    "Share of the images.",
                    "percentunit",
                ),
                Panel(
                    "Why not",
                    [rates("saccade_cache_refusals_total", TRANSFORMER, "reason")],
                    "Reasons of docs/cache.md: moved is a block that changed, hash the whole picture, max_age and "
                    "heartbeat are limits that were set.",
                    "ops",
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Whether it is right",
            [
                Panel(
                    "Audits that agreed",
                    [
                        Query(
                            share(
                                rate("saccade_cache_audits_total", f'{TRANSFORMER},agreed="true"'),
                                rate("saccade_cache_audits_total", TRANSFORMER),
                            )
                        )
                    ],
                    "Near hits that were inferred all the same, of those the share with the same objects.",
                    "percentunit",
                ),
                Panel(
                    "Agreement in audits",
                    [
                        Query(quantile(q, "saccade_cache_agreement", TRANSFORMER), f"p{100 * q:.0f}")
                        for q in (0.05, 0.5)
                    ],
                    "F1 of cached and fresh objects: the median, and the twentieth that agrees least.",
                    "percentunit",
                ),
                Panel(
                    "Cameras that something is wrong with",
                    [
                        gauges("saccade_cameras", TRANSFORMER, "condition"),
                        Query(
                            f"sum (increase(saccade_cache_cameras_switched_off_total{{{TRANSFORMER}}}{RATE}))",
                            "lost near hits",
                        ),
                        Query(
                            f"sum (increase(saccade_cache_audit_failures_total{{{TRANSFORMER}}}{RATE}))",
                            "audits without an answer",
                        ),
                    ],
                    "Frozen or black pictures; near hits off because audits disagreed.",
                ),
            ],
        ),
        Row(
            "What it keeps",
            [
                Panel(
                    "Entries",
                    [gauges("saccade_cache_entries", TRANSFORMER, "kind")],
                    "Over all replicas.",
                ),
                Panel(
                    "Memory",
                    [gauges("saccade_cache_bytes", TRANSFORMER, "pod, kind")],
                    "By replica.",
                    "bytes",
                    stacked=True,
                ),
                Panel(
                    "Redis: values that are no answers",
                    [rates("saccade_cache_rejected_values_total", TRANSFORMER, "reason")],
                    "Of another version, with a wrong seal, too large. They count as misses.",
                    "ops",
                ),
            ],
        ),
        Row(
            "Redis (cache.mode: redis)",
            [
                Panel(
                    "Calls by outcome",
                    [rates("saccade_cache_redis_calls_total", TRANSFORMER, "outcome")],
                    "All but ok are misses: a frame is inferred that Redis might have answered.",
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Time of a call",
                    quantiles("saccade_cache_redis_seconds", TRANSFORMER),
                    "Those that Redis answered; slower than 5 ms is given up.",
                    "s",
                ),
                Panel(
                    "Replicas that reach it, connections",
                    [
                        Query(f"sum (saccade_cache_redis_up{{{TRANSFORMER}}})", "replicas"),
                        Query(f"sum (saccade_cache_redis_connections{{{TRANSFORMER}}})", "connections"),
                    ],
                    "No replica is an alert.",
                ),
            ],
        ),
    ],
)
