"""The series that dashboards and alerts may read, with their labels, and what a query of PromQL reads of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import yaml

from metrics_of_the_code import declared, exposed

_OTHERS: Final = Path(__file__).with_name("helm") / "exported_metrics.yaml"
#: What Prometheus, and our PodMonitors, give to all that they scrape.
OF_ALL: Final = frozenset(
    {"namespace", "inferenceservice", "component", "revision", "pod", "container", "job", "instance"}
)


def exported() -> dict[str, set[str]]:
    """Series and their labels: ours from the code, others from the list."""
    found = {name: set(labels) for name, labels in declared().items()}
    for group in yaml.safe_load(_OTHERS.read_text(encoding="utf-8")).values():
        for name, metric in group.items():
            series = exposed(name, "Histogram") if metric["type"] == "histogram" else (name,)
            found |= {one: {*metric["labels"], *(["le"] if one.endswith("_bucket") else [])} for one in series}
    return found


def selected(expression: str) -> list[tuple[str, set[str]]]:
    """The series that PromQL selects, with the labels that it selects by."""
    found = re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expression)
    return [(name, set(re.findall(r"(\w+)(?:=~|!~|!=|=)", labels))) for name, labels in found]


def grouped(expression: str) -> set[str]:
    """The labels that PromQL groups by."""
    return {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
