"""The GPUs under the predictor, by dcgm-exporter: for whoever pays for them."""

from __future__ import annotations

from typing import Final

from dashboards.grafana import Dashboard, Panel, Query, Row
from dashboards.promql import GPUS, NAME, NAMESPACE, PREDICTOR, RATE, gauges

GPU: Final = Dashboard(
    "saccade-gpu",
    "Saccade / GPU",
    "The GPUs that hold the predictor's pods, by NVIDIA's dcgm-exporter; the predictor's own account of their memory.",
    variables=(NAMESPACE, NAME),
    rows=[
        Row(
            "Work",
            [
                Panel(
                    "Engine active",
                    [gauges("DCGM_FI_PROF_GR_ENGINE_ACTIVE", GPUS, "exported_pod, gpu", "max")],
                    "Share of the time that any kernel runs: what a busy predictor comes near to.",
                    "percentunit",
                ),
                Panel(
                    "Tensor cores, memory active",
                    [
                        Query(
                            f"max by (exported_pod, gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{GPUS}}})",
                            "{{exported_pod}} tensor cores",
                        ),
                        Query(
                            f"max by (exported_pod, gpu) (DCGM_FI_PROF_DRAM_ACTIVE{{{GPUS}}})",
                            "{{exported_pod}} memory",
                        ),
                    ],
                    "Tensor cores at rest under load: the plan is FP32, or batches are small.",
                    "percentunit",
                ),
                Panel(
                    "Over PCIe",
                    [
                        Query(
                            f"sum by (exported_pod) (DCGM_FI_PROF_PCIE_RX_BYTES{{{GPUS}}})",
                            "{{exported_pod}} to the GPU",
                        ),
                        Query(
                            f"sum by (exported_pod) (DCGM_FI_PROF_PCIE_TX_BYTES{{{GPUS}}})",
                            "{{exported_pod}} from the GPU",
                        ),
                    ],
                    "Images in, candidates out.",
                    "Bps",
                ),
            ],
        ),
        Row(
            "Memory",
            [
                Panel(
                    "Memory of the GPU",
                    [
                        Query(
                            f"max by (exported_pod, gpu) (DCGM_FI_DEV_FB_USED{{{GPUS}}}) * 1048576",
                            "{{exported_pod}} used",
                        ),
                        Query(
                            f"max by (exported_pod, gpu) (DCGM_FI_DEV_FB_FREE{{{GPUS}}}) * 1048576",
                            "{{exported_pod}} free",
                        ),
                    ],
                    "Of the whole GPU; where it is shared, with what the others hold.",
                    "bytes",
                ),
                Panel(
                    "What plans take",
                    [
                        Query(
                            f'sum by (pod, kind) (saccade_gpu_memory_bytes{{{PREDICTOR},kind!~"free|total"}})',
                            "{{pod}} {{kind}}",
                        )
                    ],
                    "The predictor's own account.",
                    "bytes",
                    stacked=True,
                ),
                Panel(
                    "Page-locked request bodies",
                    [gauges("saccade_arena_locked_bytes", PREDICTOR, "pod")],
                    "Memory of the host that copies go from without the CPU.",
                    "bytes",
                ),
            ],
        ),
        Row(
            "Health",
            [
                Panel(
                    "Temperature",
                    [gauges("DCGM_FI_DEV_GPU_TEMP", GPUS, "exported_pod, gpu", "max")],
                    "A hot GPU lowers its clock.",
                    "celsius",
                ),
                Panel(
                    "Clock",
                    [
                        Query(
                            f"min by (exported_pod, gpu) (DCGM_FI_DEV_SM_CLOCK{{{GPUS}}}) * 1000000",
                            "{{exported_pod}} {{gpu}}",
                        )
                    ],
                    "Of the multiprocessors. A profile that was made at another clock is another profile.",
                    "hertz",
                ),
                Panel(
                    "Power",
                    [gauges("DCGM_FI_DEV_POWER_USAGE", GPUS, "exported_pod, gpu", "max")],
                    "Drawn now.",
                    "watt",
                ),
                Panel(
                    "Last XID error",
                    [
                        Query(
                            f"max by (exported_pod, gpu, UUID) (DCGM_FI_DEV_XID_ERRORS{{{GPUS}}})",
                            "{{exported_pod}} {{gpu}}",
                        )
                    ],
                    "0 is none; any other is an alert.",
                ),
                Panel(
                    "Remapped rows, PCIe replays",
                    [
                        Query(
                            f"max by (exported_pod, gpu) (DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{GPUS}}})",
                            "{{exported_pod}} uncorrectable rows",
                        ),
                        Query(
                            f"max by (exported_pod, gpu) (increase(DCGM_FI_DEV_PCIE_REPLAY_COUNTER{{{GPUS}}}{RATE}))",
                            "{{exported_pod}} replays",
                        ),
                    ],
                    "A GPU with uncorrectable rows has to be reset; replays are a bad link.",
                ),
                Panel(
                    "Served without its plan",
                    [gauges("saccade_engine_fallback", PREDICTOR, "pod, model", "max")],
                    "1: the model runs on CPUs while a GPU is held.",
                ),
            ],
        ),
    ],
)
