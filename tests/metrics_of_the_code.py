"""The metrics that the services' code declares: names as Prometheus sees them, with their labels."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_KINDS: Final = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
_CALLS: Final = {**{kind: kind for kind in _KINDS}, "CounterMetricFamily": "Counter"}
_PACKAGES: Final = ("serving/saccade_serving", "predictor/saccade_predictor", "transformers/saccade_transformers")


def exposed(name: str, kind: str) -> tuple[str, ...]:
    """Names of the series of a metric."""
    return tuple(f"{name}{suffix}" for suffix in _KINDS[kind])


def declared() -> dict[str, frozenset[str]]:
    """Every series of ours, with its labels (``le`` of a histogram's buckets among them)."""
    found: dict[str, frozenset[str]] = {}
    for package in _PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for name, kind, labels in _in_module(path, ROOT / package.partition("/")[0]):
                for series in exposed(name, kind):
                    found[series] = labels | ({"le"} if series.endswith("_bucket") else set())
    return found


def _in_module(path: Path, root: Path) -> Iterator[tuple[str, str, frozenset[str]]]:
    text = path.read_text(encoding="utf-8")
    if not re.search(rf"\b({'|'.join(_CALLS)})\(", text):
        return
    module = importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _CALLS:
            continue
        if not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        name = str(node.args[0].value)
        if name.startswith("saccade_"):
            yield name, _CALLS[node.func.id], frozenset(_labels(node, vars(module)))


def _labels(node: ast.Call, names: dict[str, object]) -> tuple[str, ...]:
    """The argument ``labels``: a counter's third, a gauge's or histogram's fourth."""
    assert isinstance(node.func, ast.Name)
    at = 2 if node.func.id == "Counter" else 3
    given = [word.value for word in node.keywords if word.arg == "labels"] or node.args[at : at + 1]
    if not given:
        return ()
    code = compile(ast.Expression(given[0]), "labels", "eval")
    labels: tuple[str, ...] = tuple(eval(code, dict(names)))
    return labels
