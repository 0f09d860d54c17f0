"""How the predictor fills batches: for whoever sets the SLO and the instances."""

from __future__ import annotations

from typing import Final

from dashboards.grafana import Dashboard, Panel, Query, Row
from dashboards.promql import NAME, NAMESPACE, PREDICTOR, RATE, gauges, mean, quantiles, rate, rates

QUEUE: Final = f'{PREDICTOR},stage="queue"'
COMPUTE: Final = f'{PREDICTOR},stage="compute"'

BATCHING: Final = Dashboard(
    "saccade-batching",
    "Saccade / Batching",
    "How the predictor fills batches, how long requests wait for one, and how busy the engines are.",
    variables=(NAMESPACE, NAME),
    rows=[
        Row(
            "Batches",
            [
                Panel(
                    "Rows of a batch",
                    [Query(f"sum by (le) (increase(saccade_batch_size_bucket{{{PREDICTOR}}}{RATE}))")],
                    "Under load batches should fill to what fits in the SLO (B*); a full largest is a full replica.",
                    kind="heatmap",
                ),
                Panel(
                    "Rows of a batch, mean",
                    [Query(mean("saccade_batch_size", PREDICTOR, "model, version"), "{{model}} {{version}}")],
                    "Against what `saccade-build profile` printed for 70 % of the capacity.",
                ),
                Panel(
                    "Rows and batches per second",
                    [
                        Query(rate("saccade_batch_size_sum", PREDICTOR), "rows"),
                        Query(rate("saccade_batch_size_count", PREDICTOR), "batches"),
                    ],
                    "Of all replicas.",
                    "ops",
                ),
            ],
        ),
        Row(
            "Waiting",
            [
                Panel(
                    "Requests waiting",
                    [gauges("saccade_queue_depth", PREDICTOR, "pod")],
                    "For an instance, by replica.",
                ),
                Panel(
                    "Age of the oldest",
                    [gauges("saccade_queue_age_seconds", PREDICTOR, "pod", "max")],
                    "Over slo.p99Ms for two minutes is an alert.",
                    "s",
                ),
                Panel(
                    "Time in the queue",
                    quantiles("saccade_request_seconds", QUEUE),
                    "An idle instance takes what is there: without load this is next to nothing.",
                    "s",
                ),
            ],
        ),
        Row(
            "Engines",
            [
                Panel(
                    "Time of a batch",
                    quantiles("saccade_request_seconds", COMPUTE),
                    "As its requests see it: copies, execution, copies.",
                    "s",
                ),
                Panel(
                    "Instances at work",
                    [rates("saccade_engine_busy_seconds_total", PREDICTOR, "pod, model")],
                    "Seconds of work per second: 1 for each instance that never rests.",
                ),
                Panel(
                    "Refused by the predictor",
                    [rates("saccade_rejected_requests_total", PREDICTOR, "reason")],
                    "queue_full and the like are overload: the door is closed before a request would be too late.",
                    "reqps",
                    stacked=True,
                ),
                Panel(
                    "Served without its plan",
                    [gauges("saccade_engine_fallback", PREDICTOR, "pod, model, version", "max")],
                    "1 where the ONNX file serves on CPUs in the plan's place.",
                ),
                Panel(
                    "Loads and unloads",
                    [
                        Query(
                            f"sum by (model, outcome) (increase(saccade_model_changes_total{{{PREDICTOR}}}{RATE}))",
                            "{{model}} {{outcome}}",
                        )
                    ],
                    "Of models, while serving.",
                ),
                Panel(
                    "Request bodies in memory",
                    [gauges("saccade_arena_bytes", PREDICTOR, "state")],
                    "staged is what an engine reads now, queued what waits for it.",
                    "bytes",
                    stacked=True,
                ),
            ],
        ),
    ],
)
