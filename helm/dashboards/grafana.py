"""A Grafana dashboard as Grafana keeps it in JSON: panels with queries to Prometheus, laid out in rows.

Knows Grafana's format (schema 39, Grafana 10 and later) and nothing of what is shown: that is ``dashboards.py``. Every
dashboard asks for its data source, and for the namespace and the InferenceService, by variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

#: Width of a dashboard and height of its panels, in Grafana's units.
WIDTH: Final = 24
HEIGHT: Final = 8
STAT_HEIGHT: Final = 4
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "heatmap"]


@dataclass(frozen=True)
class Query:
    """PromQL, and how its series are named; ``{{label}}`` stands for a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A picture of some queries.

    Args:
        title: what is seen, with its unit where the axis does not say it.
        queries: what is drawn.
        description: how to read it, what is good and what is not; it is shown beside the title.
        unit: Grafana's name of the unit: s, bytes, reqps, percentunit, short.
        kind: lines over time, one number of now, or a histogram over time.
        width: of ``WIDTH``.
        stacked: lines that add up.
        limits: values from which on a number turns orange and red.
    """

    title: str
    queries: Sequence[Query]
    description: str
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    stacked: bool = False
    limits: tuple[float, float] | None = None

    @property
    def height(self) -> int:
        """In Grafana's units."""
        return STAT_HEIGHT if self.kind == "stat" else HEIGHT

    def to_json(self, number: int, x: int, y: int) -> Json:
        """The panel at a place."""
        targets = [self._target(query, "ABCDEFGHIJ"[at]) for at, query in enumerate(self.queries)]
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": _SOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
            "targets": targets,
        }

    def _target(self, query: Query, letter: str) -> Json:
        target: Json = {
            "refId": letter,
            "datasource": _SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "range": True,
        }
        if self.kind == "heatmap":
            target |= {"format": "heatmap", "legendFormat": "{{le}}"}
        if self.kind == "stat":
            target |= {"instant": True, "range": False}
        return target

    def _defaults(self) -> Json:
        if self.kind == "heatmap":
            return {}
        steps: list[Json] = [{"color": "green", "value": None}]
        if self.limits is not None:
            low, high = self.limits
            order = ("orange", "red") if low < high else ("red", "orange")
            first, second = sorted((low, high))
            if low > high:  # less is worse
                steps = [{"color": "red", "value": None}, {"color": "orange", "value": first}]
                steps.append({"color": "green", "value": second})
            else:
                steps += [{"color": order[0], "value": first}, {"color": order[1], "value": second}]
        defaults: Json = {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}}
        if self.kind == "timeseries":
            defaults["min"] = 0
            defaults["custom"] = {
                "drawStyle": "line",
                "fillOpacity": 30 if self.stacked else 5,
                "lineWidth": 1,
                "showPoints": "never",
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            }
        return defaults

    def _options(self) -> Json:
        if self.kind == "stat":
            return {
                "colorMode": "value",
                "graphMode": "none",
                "textMode": "auto",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            }
        if self.kind == "heatmap":
            return {
                "calculate": False,
                "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "yAxis": {"unit": self.unit},
                "tooltip": {"mode": "single", "yHistogram": False},
            }
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }


@dataclass(frozen=True)
class Row:
    """A heading and its panels, from left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """What a reader chooses among the values of a label."""

    name: str
    label: str
    query: str
    multi: bool = False

    def to_json(self) -> Json:
        """The variable, which is read again when the time range changes."""
        return {
            "name": self.name,
            "label": self.label,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": self.query, "refId": self.name},
            "definition": self.query,
            "refresh": 2,
            "sort": 1,
            "multi": self.multi,
            "includeAll": self.multi,
            "allValue": ".*" if self.multi else None,
            "current": {},
        }


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels under a name; ``uid`` is in its address and stays."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = field(default=())

    def to_json(self) -> Json:
        """As Grafana imports it."""
        source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["saccade"],
            "schemaVersion": 39,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "Saccade",
                    "tags": ["saccade"],
                    "asDropdown": True,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "templating": {"list": [source, *(one.to_json() for one in self.variables)]},
            "panels": self._panels(),
        }

    def _panels(self) -> list[Json]:
        found: list[Json] = []
        y = 0
        for row in self.rows:
            place: Json = {"h": 1, "w": WIDTH, "x": 0, "y": y}
            found.append(
                {"id": len(found) + 1, "type": "row", "title": row.title, "collapsed": False, "gridPos": place}
            )
            y += 1
            x = height = 0
            for panel in row.panels:
                if x + panel.width > WIDTH:
                    x, y, height = 0, y + height, 0
                found.append(panel.to_json(len(found) + 1, x, y))
                x, height = x + panel.width, max(height, panel.height)
            y += height
        for panel_json in found:
            if panel_json["type"] == "row":
                panel_json["panels"] = []
        return found
