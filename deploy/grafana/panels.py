"""Titles, texts and queries → panels as Grafana 12 has them in a dashboard's JSON. Nothing here knows Foreshock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = dict[str, Any]
Size = tuple[int, int]
"""Width and height, in cells of Grafana's grid of 24."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def steps(*bounds: tuple[float | None, str]) -> Json:
    """Colours from each bound on; the first has none."""
    return {"mode": "absolute", "steps": [{"value": bound, "color": color} for bound, color in bounds]}


NEUTRAL = steps((None, "text"))
NONE_IS_GOOD = steps((None, "green"), (1, "red"))
COLOURED = {"type": "color-background", "mode": "basic"}


def target(expr: str, legend: str = "__auto") -> Json:
    """A query over the time range: lines."""
    return _target(expr, legend) | {"instant": False, "range": True, "format": "time_series"}


def number(expr: str, legend: str = "__auto") -> Json:
    """A query as of now: numbers."""
    return _target(expr, legend) | {"instant": True, "range": False, "format": "time_series"}


def rows(expr: str) -> Json:
    """A query as of now: rows of a table, a column a label."""
    return _target(expr, "__auto") | {"instant": True, "range": False, "format": "table"}


def _target(expr: str, legend: str) -> Json:
    return {"expr": expr, "legendFormat": legend, "editorMode": "code", "datasource": DATASOURCE}


def panel(kind: str, title: str, size: Size, text: str, targets: Sequence[Json], field: Json, options: Json) -> Json:
    """A panel without an id or a place. `field`: the defaults of its fields."""
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": DATASOURCE,
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": [{"refId": chr(ord("A") + i), **item} for i, item in enumerate(targets)],
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": options,
    }


def stat(
    title: str,
    size: Size,
    text: str,
    query: Json,
    *,
    unit: str = "short",
    thresholds: Json = NEUTRAL,
    mappings: Sequence[Json] = (),
    named: bool = False,
) -> Json:
    """One number. `named`: with the name of its series."""
    field = {"unit": unit, "thresholds": thresholds, "mappings": list(mappings)}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value_and_name" if named else "value",
        "wideLayout": True,
    }
    return panel("stat", title, size, text, [query], field, options)


def lines(
    title: str,
    size: Size,
    text: str,
    targets: Sequence[Json],
    *,
    unit: str = "short",
    stacked: bool = False,
    stepped: bool = False,
    limit: float | None = None,
) -> Json:
    """Series over time. `stepped`: a value holds until the next; `limit`: where a dashed line is drawn."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "stepAfter" if stepped else "linear",
        "lineWidth": 1,
        "fillOpacity": 25 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if limit is None else "dashed"},
        "axisSoftMin": 0,
    }
    thresholds = NEUTRAL if limit is None else steps((None, "text"), (limit, "semi-dark-red"))
    field = {"unit": unit, "color": {"mode": "palette-classic"}, "custom": custom, "thresholds": thresholds}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, size, text, targets, field, options)


def timeline(title: str, size: Size, text: str, query: Json, *, empty: str = "") -> Json:
    """Bars over time, a row a series: green at 0, red from 1 on. `empty`: said when there is no series."""
    field = {
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 75, "lineWidth": 0},
        "thresholds": NONE_IS_GOOD,
        "decimals": 0,
        **({"noValue": empty} if empty else {}),
    }
    options = {
        "mergeValues": True,
        "showValue": "never",
        "alignValue": "center",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", title, size, text, [query], field, options)


def table(
    title: str,
    size: Size,
    text: str,
    targets: Sequence[Json],
    *,
    columns: Mapping[str, str],
    looks: Sequence[Json] = (),
    hide: Iterable[str] = (),
    by: str = "",
    sort: tuple[str, bool] | None = None,
    empty: str = "",
) -> Json:
    """Rows as of now. `columns`: names of labels and values → titles, in their order. `by`: what several queries are
    joined by; without it, by all labels that they share. `sort`: a title, and whether from the largest down.
    """
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    field = {"custom": custom, "thresholds": NEUTRAL, **({"noValue": empty} if empty else {})}
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "sortBy": [{"displayName": sort[0], "desc": sort[1]}] if sort else [],
    }
    joined = (
        {"id": "joinByField", "options": {"byField": by, "mode": "outer"}} if by else {"id": "merge", "options": {}}
    )
    organized = {
        "excludeByName": dict.fromkeys(hide, True),
        "indexByName": {name: i for i, name in enumerate(columns)},
        "renameByName": dict(columns),
    }
    found = panel("table", title, size, text, targets, field, options)
    found["transformations"] = [
        {"id": "filterFieldsByName", "options": {"include": {"pattern": "^(?!Time$|__name__$).*$"}}},
        *([joined] if len(targets) > 1 else []),
        {"id": "organize", "options": organized},
    ]
    found["fieldConfig"]["overrides"] = list(looks)
    return found


def look(title: str, **properties: Any) -> Json:
    """How one column of a table looks; `custom_x` is Grafana's custom.x."""
    return {
        "matcher": {"id": "byName", "options": title},
        "properties": [{"id": key.replace("_", "."), "value": item} for key, item in properties.items()],
    }


def link(title: str, url: str) -> Json:
    return {"title": title, "url": url}


def row(title: str) -> Json:
    """The title over the panels that follow."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": 24, "h": 1}}


def placed(panels: Iterable[Json]) -> list[Json]:
    """The panels with ids and places: from left to right, on to the next line when there is no room."""
    found: list[Json] = []
    x = y = height = 0
    for number, item in enumerate(panels, 1):
        size = item["gridPos"]
        if x + size["w"] > 24:
            x, y, height = 0, y + height, 0
        found.append({"id": number, **item, "gridPos": {"x": x, "y": y, **size}})
        x, height = x + size["w"], max(height, size["h"])
    return found


def datasource_variable(name: str, label: str, text: str) -> Json:
    return {
        "type": "datasource",
        "name": name,
        "label": label,
        "description": text,
        "query": "prometheus",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
    }


def query_variable(name: str, label: str, text: str, query: str, all_value: str | None = None) -> Json:
    """`all_value`: the regular expression that "All" stands for; without it there is no "All"."""
    everything = {"allValue": all_value, "current": {"text": "All", "value": "$__all"}} if all_value is not None else {}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": text,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": False,
        "includeAll": all_value is not None,
        **everything,
    }
