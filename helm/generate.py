"""Writes what of the charts follows from other files: ``make chart`` runs it, and a test fails where it was not run.

``saccade/values.schema.json`` gets the settings of both services from their pydantic models, so that a name or a range
that they would refuse is refused before anything is installed. The ``README.md`` of each chart gets the table of all
values, from the comments of ``values.yaml``. Others: ``platform_files.py``, and ``dashboards`` for Grafana.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import dashboards
import platform_files
import yaml
from pydantic.alias_generators import to_camel

from saccade_predictor.settings import PredictorSettings
from saccade_serving.settings import ServiceSettings
from saccade_transformers.settings import TransformerSettings

CHART: Final = Path(__file__).resolve().parent / "saccade"
#: What the chart sets itself, what is no ConfigMap's business, and what has values of its own.
CHARTS_OWN: Final = {"host", "metrics_port", "metrics_on_http", "model_repository", "model_control_key"}
REDIS: Final = "cache_redis_"
BEGIN, END = "<!-- values -->", "<!-- end of values -->"
_KEPT: Final = ("type", "enum", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "pattern", "description")


class Value(NamedTuple):
    """A value of the chart: its dotted name, what it is by default, what its comment says."""

    name: str
    default: Any
    description: str


def settings(model: type[ServiceSettings], prefix: str = "", without: str = "") -> dict[str, Any]:
    """Schema of the settings that have a prefix, and not another one, by their names in camelCase."""
    found = {}
    for name, field in model.model_json_schema()["properties"].items():
        if name in CHARTS_OWN or not name.startswith(prefix) or name == prefix.rstrip("_"):
            continue
        if name.startswith(REDIS) or (without and name.startswith(without)):
            continue
        found[to_camel(name.removeprefix(prefix))] = {key: field[key] for key in _KEPT if key in field}
    return {"type": "object", "additionalProperties": False, "properties": found}


def schema(written: dict[str, Any]) -> dict[str, Any]:
    """The schema with the settings as they are now."""
    definitions = {
        "predictorSettings": settings(PredictorSettings),
        "transformerSettings": settings(TransformerSettings, without="cache"),
        "cacheSettings": settings(TransformerSettings, prefix="cache_"),
    }
    return {**written, "$defs": {**written["$defs"], **definitions}}


def values(text: str) -> Iterator[Value]:
    """The values of a ``values.yaml`` in its order; a group that is empty is a value, too."""
    parsed = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
            continue
        if stripped.startswith("# ") and comment:
            comment.append(stripped.removeprefix("# "))
            continue
        match = re.match(r"( *)([A-Za-z0-9]+):", line)
        if match is None:
            continue
        indent = len(match[1])
        path = [(at, name) for at, name in path if at < indent] + [(indent, match[2])]
        found = parsed
        for _, name in path:
            found = found[name]
        if comment or not isinstance(found, dict) or not found:
            yield Value(".".join(name for _, name in path), found, " ".join(comment))
        comment = []


def table(text: str) -> str:
    """The values as a Markdown table."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for value in values(text):
        default = json.dumps(value.default)
        lines.append(f"| `{value.name}` | `{default}` | {value.description} |")
    return "\n".join(lines)


def readme(chart: Path) -> str:
    """A chart's README with the table of its values."""
    before, rest = (chart / "README.md").read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table((chart / 'values.yaml').read_text(encoding='utf-8'))}\n{END}{after}"


def files() -> dict[Path, str]:
    """What the generated files have to hold."""
    written = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return {
        CHART / "values.schema.json": json.dumps(schema(written), indent=2) + "\n",
        CHART / "README.md": readme(CHART),
        **platform_files.files(),
        **dashboards.files(),
        platform_files.PLATFORM / "README.md": readme(platform_files.PLATFORM),
    }


def main() -> None:
    """Write them."""
    for path, content in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path.relative_to(CHART.parent)}", file=sys.stderr)


if __name__ == "__main__":
    main()
