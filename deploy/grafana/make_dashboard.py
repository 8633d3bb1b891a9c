"""The panels of the dashboard, as a table → deploy/grafana/dashboards/foreshock.json.

    python deploy/grafana/make_dashboard.py           writes the file
    python deploy/grafana/make_dashboard.py --check   says whether it is up to date; exit code 1 when it is not

Rows follow the layers that Foreshock watches: the processor itself, then system health, data quality, model behaviour,
and what was decided. Wherever a signal is drawn, its own threshold is drawn with it, as a dashed line: nothing here
has a limit of its own. Made for Grafana 12.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "dashboards" / "foreshock.json"
WIDTH = 24

Json = dict[str, Any]

# --- What is asked for

MODEL = 'model="$model"'
CELL = f'{MODEL}, version=~"$version", segment=~"$segment"'
WHOLE = f'{MODEL}, version="", segment=~"$segment"'  # the model as a whole: volume and freshness are of no version
LAYER_2 = 'family=~"quality|drift"'
LAYER_3 = 'family="score"'
NEAREST = 5
"""Features that a panel shows: those nearest to their thresholds."""


def value(labels: str) -> str:
    return f"foreshock_signal_value{{{labels}}}"


def threshold(labels: str) -> str:
    return f"foreshock_signal_threshold{{{labels}}}"


def nearness(labels: str) -> str:
    """1 at the threshold. Not for signals that alarm when they fall."""
    return f"{value(labels)} / {threshold(labels)}"


def breached(labels: str) -> str:
    return f"foreshock_signal_breached{{{labels}}}"


def rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])" if labels else f"rate({metric}[$__rate_interval])"


# --- Targets, panels, rows


def target(expr: str, legend: str = "", *, now: bool = False, table: bool = False) -> Json:
    """A query: over the time range, or as of `now`."""
    kind: Json = {"instant": True, "range": False} if now else {"instant": False, "range": True}
    shape = {"format": "table"} if table else {"format": "time_series"}
    name = {"legendFormat": legend or "__auto"}
    return {"expr": expr, "editorMode": "code", "datasource": DATASOURCE, **kind, **shape, **name}


DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(
    kind: str,
    title: str,
    size: tuple[int, int],
    text: str,
    targets: Sequence[Json],
    field: Json,
    options: Json,
    **more: Any,
) -> Json:
    """A panel without an id or a place. `size`: width and height."""
    lettered = [{"refId": chr(ord("A") + i), **item} for i, item in enumerate(targets)]
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": DATASOURCE,
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": lettered,
        "fieldConfig": {"defaults": field, "overrides": more.pop("overrides", [])},
        "options": options,
        **more,
    }


def steps(*bounds: tuple[float | None, str]) -> Json:
    return {"mode": "absolute", "steps": [{"value": bound, "color": color} for bound, color in bounds]}


NEUTRAL = steps((None, "text"))
NONE_IS_GOOD = steps((None, "green"), (1, "red"))


def stat(title: str, size: tuple[int, int], text: str, expr: str, *, unit: str = "short", **more: Any) -> Json:
    """One number as of now."""
    field = {"unit": unit, "thresholds": more.pop("thresholds", NEUTRAL), "mappings": more.pop("mappings", [])}
    field |= {key: more.pop(key) for key in ("decimals", "noValue", "links") if key in more}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": more.pop("text_mode", "auto"),
        "wideLayout": True,
    }
    return panel("stat", title, size, text, [target(expr, more.pop("legend", ""), now=True)], field, options, **more)


def lines(
    title: str, size: tuple[int, int], text: str, targets: Sequence[Json], *, unit: str = "short", **more: Any
) -> Json:
    """Series over time. `stacked` draws shares of a whole; `low` is the lowest end of the axis."""
    stacked = more.pop("stacked", False)
    custom = {
        "drawStyle": "line",
        "lineInterpolation": more.pop("interpolation", "linear"),
        "lineWidth": 1,
        "fillOpacity": 25 if stacked else more.pop("fill", 6),
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": more.pop("threshold_style", "off")},
        "axisSoftMin": more.pop("low", 0),
    }
    field = {
        "unit": unit,
        "color": {"mode": "palette-classic"},
        "custom": custom,
        "thresholds": more.pop("thresholds", NEUTRAL),
    }
    field |= {key: more.pop(key) for key in ("max", "decimals", "noValue") if key in more}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, size, text, targets, field, options, **more)


def signal(
    title: str,
    size: tuple[int, int],
    text: str,
    names: Sequence[str],
    *,
    unit: str,
    labels: str = CELL,
    per_feature: bool = False,
    **more: Any,
) -> Json:
    """Signals with their thresholds. `per_feature`: of the features nearest to theirs."""
    version = "" if labels == WHOLE else " v{{version}}"
    targets = []
    for name in names:
        chosen = f'signal="{name}", {labels}'
        legend = "{{feature}}" + version if per_feature else name + version
        for what, suffix in ((value(chosen), ""), (threshold(chosen), LIMIT)):
            expr = f"{what} and topk({NEAREST}, {nearness(chosen)})" if per_feature else what
            targets.append(target(expr, legend + suffix))
    # A window is judged when it closes, and its numbers hold until the next one: steps, not slopes.
    return lines(title, size, text, targets, unit=unit, interpolation="stepAfter", overrides=[THRESHOLD_LINE], **more)


LIMIT = " · threshold"
THRESHOLD_LINE = {
    "matcher": {"id": "byRegexp", "options": f"/{LIMIT}$/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}},
        {"id": "custom.fillOpacity", "value": 0},
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "semi-dark-red"}},
    ],
}


def timeline(title: str, size: tuple[int, int], text: str, expr: str, legend: str, *, empty: str = "") -> Json:
    """Bars over time, a row a series: green at 0, red from 1 on."""
    field = {
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 75, "lineWidth": 0, "spanNulls": False},
        "thresholds": NONE_IS_GOOD,
        "decimals": 0,
    }
    field |= {"noValue": empty} if empty else {}
    options = {
        "mergeValues": True,
        "showValue": "never",
        "alignValue": "center",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", title, size, text, [target(expr, legend)], field, options)


def table(
    title: str,
    size: tuple[int, int],
    text: str,
    targets: Sequence[Json],
    transformations: Sequence[Json],
    overrides: Sequence[Json],
    sort: Sequence[tuple[str, bool]] = (),
    empty: str = "",
) -> Json:
    """Rows as of now. `sort`: columns, and whether from the largest down."""
    field: Json = {
        "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
        "thresholds": NEUTRAL,
    }
    field |= {"noValue": empty} if empty else {}
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "sortBy": [{"displayName": name, "desc": down} for name, down in sort],
    }
    return panel(
        "table", title, size, text, targets, field, options, transformations=transformations, overrides=list(overrides)
    )


def without_time() -> Json:
    return {"id": "filterFieldsByName", "options": {"include": {"pattern": "^(?!Time$|__name__$).*$"}}}


def organized(order: Sequence[str], rename: dict[str, str], hide: Iterable[str] = ()) -> Json:
    return {
        "id": "organize",
        "options": {
            "excludeByName": dict.fromkeys(hide, True),
            "indexByName": {name: i for i, name in enumerate(order)},
            "renameByName": rename,
        },
    }


def column(name: str, **properties: Any) -> Json:
    """How one column of a table looks."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("_", "."), "value": item} for key, item in properties.items()],
    }


COLOURED = {"type": "color-background", "mode": "basic"}
NEAR = steps((None, "transparent"), (0.8, "orange"), (1, "red"))
A_DAY = 86_400

# --- The panels


def overview() -> list[Json]:
    firing = f"sum(foreshock_action_firing{{{MODEL}}}) or vector(0)"
    at_large = f'{MODEL}, version=~"$version", segment=""'

    def layer(title: str, families: str, text: str) -> Json:
        expr = f"sum({breached(f'{families}, {at_large}')}) or vector(0)"
        return stat(
            title, (4, 4), f"{text} Signals beyond their thresholds in the last window.", expr, thresholds=NONE_IS_GOOD
        )

    return [
        stat(
            "Actions firing",
            (4, 4),
            "Rules that fire now, in the model as a whole and in its segments. Which ones: the last row.",
            firing,
            thresholds=NONE_IS_GOOD,
        ),
        layer("1 · System health", 'family="health"', "Volume, latency, errors, freshness."),
        layer("2 · Data quality", LAYER_2, "Nulls, types, ranges, categories, drift of the inputs."),
        layer("3 · Model behaviour", LAYER_3, "Drift of scores and predictions."),
        stat(
            "Judged until",
            (4, 4),
            "End of the last window that was judged, in event time. In a replay this is the time of the events.",
            f"1000 * max(foreshock_judged_until_timestamp_seconds{{{MODEL}}})",
            unit="dateTimeAsIso",
        ),
        stat(
            "Events in the last window",
            (4, 4),
            "Of the segment chosen above. The numbers of a small window say little, and it is not judged.",
            f"sum(foreshock_window_events{{{WHOLE}}})",
        ),
        table(
            "Models",
            (24, 6),
            "Every model that the workers have. Choose one here, or above.",
            [
                target(
                    "sum by (model) (foreshock_action_firing) or 0 * max by (model) (foreshock_decisions_total)",
                    now=True,
                    table=True,
                ),
                target('sum by (model) (foreshock_signal_breached{segment=""})', now=True, table=True),
                target('sum by (model) (foreshock_window_events{version="", segment=""})', now=True, table=True),
                target("1000 * max by (model) (foreshock_judged_until_timestamp_seconds)", now=True, table=True),
                target('sum by (model) (foreshock_books_records_total{outcome="read"})', now=True, table=True),
                target(
                    'sum by (model) (foreshock_books_records_total{outcome=~"late|rejected|duplicate"})'
                    ' / sum by (model) (foreshock_books_records_total{outcome="read"})',
                    now=True,
                    table=True,
                ),
            ],
            [
                without_time(),
                {"id": "joinByField", "options": {"byField": "model", "mode": "outer"}},
                organized(
                    ["model", "Value #A", "Value #B", "Value #C", "Value #D", "Value #E", "Value #F"],
                    {
                        "model": "Model",
                        "Value #A": "Actions firing",
                        "Value #B": "Signals breached",
                        "Value #C": "Events in window",
                        "Value #D": "Judged until",
                        "Value #E": "Records read",
                        "Value #F": "Not counted",
                    },
                ),
            ],
            [
                column(
                    "Model",
                    links=[
                        {
                            "title": "Show this model",
                            "url": "/d/foreshock/foreshock?var-model=${__value.raw}&${datasource:queryparam}&${__url_time_range}",
                        }
                    ],
                ),
                column(
                    "Actions firing", custom_cellOptions=COLOURED, thresholds=steps((None, "transparent"), (1, "red"))
                ),
                column(
                    "Signals breached",
                    custom_cellOptions=COLOURED,
                    thresholds=steps((None, "transparent"), (1, "orange")),
                ),
                column("Judged until", unit="dateTimeAsIso"),
                column("Events in window", unit="short"),
                column("Records read", unit="short"),
                column("Not counted", unit="percentunit", decimals=2),
            ],
            sort=[("Actions firing", True)],
        ),
    ]


def processor() -> list[Json]:
    marks = "foreshock_watermark_timestamp_seconds", "foreshock_judged_until_timestamp_seconds"
    return [
        stat(
            "Workers",
            (4, 4),
            "Workers that Prometheus reaches, by release.",
            "count by (version) (foreshock_worker_info)",
            legend="{{version}}",
            text_mode="value_and_name",
        ),
        stat(
            "Records waiting",
            (4, 4),
            "Lag: records of the source that have not been fetched. A hump is a backlog being worked off; a line that "
            "only rises is a worker that cannot keep up.",
            "sum(foreshock_lag_records)",
        ),
        stat(
            "Records read",
            (4, 4),
            "By all workers, from the source topics.",
            f"sum({rate('foreshock_records_total')})",
            unit="reqps",
        ),
        stat(
            "Books",
            (4, 4),
            "read − counted − late − rejected − duplicate, of all models. Anything but 0 is a bug in Foreshock.",
            'abs(sum(foreshock_books_records_total{outcome="read"}) - sum(foreshock_books_records_total{outcome!="read"}))',
            thresholds=NONE_IS_GOOD,
            mappings=[{"type": "value", "options": {"0": {"text": "balanced", "index": 0}}}],
        ),
        stat(
            "Series withheld",
            (4, 4),
            "Series that the cap web.max_series keeps out of the metrics. They are judged all the same.",
            "sum(foreshock_series_withheld)",
            thresholds=steps((None, "green"), (1, "orange")),
        ),
        stat(
            "Longest rebuild",
            (4, 4),
            "How long the last rebuild of a bucket's state from the log took, after a start or a rebalance.",
            "max(foreshock_rebuild_seconds)",
            unit="s",
        ),
        lines(
            "Records read",
            (8, 7),
            "Records a second, by topic.",
            [target(f"sum by (topic) ({rate('foreshock_records_total')})", "{{topic}}")],
            unit="reqps",
        ),
        lines(
            "Records waiting, by partition",
            (8, 7),
            "One partition that waits while the others do not holds back the watermark of every model on it.",
            [target("sum by (topic, partition) (foreshock_lag_records)", "{{topic}}-{{partition}}")],
        ),
        lines(
            "Bytes read",
            (8, 7),
            "Bytes of values a second, by topic.",
            [target(f"sum by (topic) ({rate('foreshock_bytes_total')})", "{{topic}}")],
            unit="Bps",
        ),
        lines(
            "What became of the records of $model",
            (8, 7),
            "Every record that was read is counted, late, rejected or a duplicate. All but counted should be thin.",
            [
                target(
                    f"sum by (outcome) ({rate('foreshock_books_records_total', f'{MODEL}, outcome!=' + chr(34) + 'read' + chr(34))})",
                    "{{outcome}}",
                )
            ],
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Rejects, by reason",
            (8, 7),
            "Records that cannot be read as events, of all models. They are on the topic dead-letter.",
            [target(f"sum by (reason) ({rate('foreshock_rejects_total')})", "{{reason}}")],
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Partials",
            (8, 7),
            "Sketches that stage 1 sends and stage 2 folds; foreign ones were made under another configuration of the "
            "model and are left out.",
            [
                target(f"sum by (stage) ({rate('foreshock_partials_total')})", "{{stage}}"),
                target(f"sum({rate('foreshock_foreign_partials_total', MODEL)})", "foreign, $model"),
            ],
            unit="ops",
        ),
        lines(
            "How busy the stages are",
            (8, 7),
            "Seconds of work in a second. The stages of a worker share one core: near 100 % together, add a worker.",
            [target(f"sum by (stage) ({rate('foreshock_batch_seconds_sum')})", "{{stage}}")],
            unit="percentunit",
            stacked=True,
        ),
        lines(
            "Time for a batch",
            (8, 7),
            "Mean time that a stage takes for what it is handed at once.",
            [
                target(
                    f"sum by (stage) ({rate('foreshock_batch_seconds_sum')})"
                    f" / sum by (stage) ({rate('foreshock_batch_seconds_count')})",
                    "{{stage}}",
                )
            ],
            unit="s",
        ),
        lines(
            "Pace of event time in $model",
            (8, 7),
            "Event time that passes in a second. 1: live. Above: catching up, or a replay. 0: nothing comes, or a "
            "partition holds the watermark.",
            [
                target(f"max(deriv({marks[0]}{{{MODEL}}}[$__rate_interval]))", "watermark"),
                target(f"max(deriv({marks[1]}{{{MODEL}}}[$__rate_interval]))", "judged until"),
            ],
            unit="none",
        ),
    ]


def health() -> list[Json]:
    return [
        signal(
            "Requests a second",
            (8, 8),
            "Events of a window over its length. Alarms below its threshold.",
            ["request_rate"],
            unit="reqps",
            labels=WHOLE,
        ),
        signal(
            "Freshness",
            (8, 8),
            "Time without events at the end of the window, against the longest gap of the reference.",
            ["freshness"],
            unit="s",
            labels=WHOLE,
        ),
        signal(
            "Request errors",
            (8, 8),
            "Share of the requests that ended in an error.",
            ["request_error_rate"],
            unit="percentunit",
        ),
        signal(
            "Latency",
            (8, 8),
            "Median and 99th percentile, known to within 26 %. There is no threshold where the window is too small for one.",
            ["latency_p50", "latency_p99"],
            unit="ms",
        ),
        lines(
            "Events in a window, by segment",
            (8, 8),
            "A segment that falls silent is seen here, even if the whole is as usual.",
            [target(f'sum by (segment) (foreshock_window_events{{{MODEL}, version="", segment!=""}})', "{{segment}}")],
            interpolation="stepAfter",
            stacked=True,
        ),
        lines(
            "Request errors, by segment",
            (8, 8),
            "Share of a segment's requests that ended in an error.",
            [
                target(
                    f'sum by (segment) (foreshock_window_errors{{{MODEL}, version="", segment!=""}})'
                    f' / sum by (segment) (foreshock_window_events{{{MODEL}, version="", segment!=""}})',
                    "{{segment}}",
                )
            ],
            unit="percentunit",
            interpolation="stepAfter",
        ),
    ]


def quality() -> list[Json]:
    chosen = f"{LAYER_2}, {CELL}"
    shown = f"topk(15, {nearness(chosen)})"

    def of_features(title: str, name: str, text: str, unit: str) -> Json:
        return signal(
            title,
            (6, 7),
            f"{text} The {NEAREST} features nearest to their thresholds.",
            [name],
            unit=unit,
            per_feature=True,
        )

    return [
        timeline(
            "Features out of bounds",
            (24, 10),
            "Red while a signal of the feature is beyond its threshold: nulls, absence, type, range, categories, drift.",
            f"sum by (feature) ({breached(chosen)})",
            "{{feature}}",
        ),
        lines(
            "Nearest to their thresholds",
            (12, 9),
            "Value over threshold of any signal of any feature: 1 is the threshold. What climbs here is the next alarm.",
            [target(f"topk({NEAREST}, {nearness(chosen)})", "{{feature}}: {{signal}} v{{version}}")],
            unit="none",
            interpolation="stepAfter",
            threshold_style="dashed",
            thresholds=steps((None, "text"), (1, "semi-dark-red")),
        ),
        table(
            "In numbers",
            (12, 9),
            "The same as of now, with values and thresholds in the units of the signals.",
            [
                target(f"{value(chosen)} and {shown}", now=True, table=True),
                target(f"{threshold(chosen)} and {shown}", now=True, table=True),
                target(shown, now=True, table=True),
            ],
            [
                without_time(),
                {"id": "merge", "options": {}},
                organized(
                    ["feature", "signal", "version", "segment", "Value #A", "Value #B", "Value #C"],
                    {
                        "feature": "Feature",
                        "signal": "Signal",
                        "version": "Version",
                        "segment": "Segment",
                        "Value #A": "Value",
                        "Value #B": "Threshold",
                        "Value #C": "Of threshold",
                    },
                    hide=("instance", "job", "family", "model"),
                ),
            ],
            [
                column("Of threshold", unit="percentunit", decimals=0, custom_cellOptions=COLOURED, thresholds=NEAR),
                column("Value", unit="short", decimals=3),
                column("Threshold", unit="short", decimals=3),
            ],
            sort=[("Of threshold", True)],
        ),
        of_features("Nulls", "null_rate", "Share of events in which the value is null.", "percentunit"),
        of_features("Absent", "missing_rate", "Share of events that do not have the field.", "percentunit"),
        of_features("Wrong type", "type_mismatch_rate", "Share of events whose value has another type.", "percentunit"),
        of_features("Schema", "schema_drift", "Growth of the share that is absent or retyped, or new.", "percentunit"),
        of_features("Unseen categories", "unseen_rate", "Share of values that the reference has not.", "percentunit"),
        of_features("Out of range", "out_of_range_rate", "Share of values beyond the declared range.", "percentunit"),
        of_features("Categories", "cardinality", "Number of different values in the window.", "short"),
        of_features("Drift", "feature_drift", "Distance from the reference's distribution.", "none"),
    ]


def behaviour() -> list[Json]:
    return [
        signal(
            "Drift of the scores",
            (12, 8),
            "Distance of the scores' distribution from the reference's. The first sign of trouble while labels are missing.",
            ["score_drift"],
            unit="none",
            per_feature=True,
        ),
        signal(
            "Drift of the predictions",
            (12, 8),
            "Distance of the predictions' distribution from the reference's.",
            ["prediction_drift"],
            unit="none",
            per_feature=True,
        ),
        timeline(
            "Segments out of bounds",
            (12, 8),
            "Red while a signal, of whatever layer, is beyond its threshold in the segment. One segment alone: look there.",
            f"sum by (segment) ({breached(f'{MODEL}, version=~{chr(34)}$version{chr(34)}, segment!={chr(34)}{chr(34)}')})",
            "{{segment}}",
        ),
        lines(
            "Scores and predictions, by segment",
            (12, 8),
            "Largest drift of scores or predictions in each segment, over its threshold: 1 is the threshold.",
            [
                target(
                    f"max by (segment) ({nearness(f'{LAYER_3}, {MODEL}, version=~{chr(34)}$version{chr(34)}, segment!={chr(34)}{chr(34)}')})",
                    "{{segment}}",
                )
            ],
            unit="none",
            interpolation="stepAfter",
            threshold_style="dashed",
            thresholds=steps((None, "text"), (1, "semi-dark-red")),
        ),
    ]


def decisions() -> list[Json]:
    return [
        table(
            "Firing now",
            (24, 8),
            "Each is an action on the topic actions, with its evidence, owner and runbook. Lower layers first: nobody "
            "retrains on broken data.",
            [target(f"foreshock_action_firing{{{MODEL}}}", now=True, table=True)],
            [
                without_time(),
                organized(
                    ["layer", "response", "severity", "rule", "version", "segment"],
                    {
                        "layer": "Layer",
                        "response": "Response",
                        "severity": "Severity",
                        "rule": "Rule",
                        "version": "Version",
                        "segment": "Segment",
                    },
                    hide=("Value", "instance", "job", "model"),
                ),
            ],
            [
                column(
                    "Severity",
                    custom_cellOptions=COLOURED,
                    mappings=[
                        {
                            "type": "value",
                            "options": {
                                "critical": {"color": "red", "index": 0},
                                "warning": {"color": "orange", "index": 1},
                                "info": {"color": "blue", "index": 2},
                            },
                        }
                    ],
                ),
                column(
                    "Segment",
                    links=[
                        {
                            "title": "Show this segment",
                            "url": "/d/foreshock/foreshock?${model:queryparam}&var-segment=${__value.raw}&${datasource:queryparam}&${__url_time_range}",
                        }
                    ],
                ),
            ],
            sort=[("Layer", False)],
            empty="Nothing fires.",
        ),
        timeline(
            "Rules firing",
            (24, 8),
            "Red while the rule fires.",
            f"max by (rule, response, segment) (foreshock_action_firing{{{MODEL}}})",
            "{{rule}} → {{response}} {{segment}}",
            empty="Nothing has fired.",
        ),
        lines(
            "Incidents",
            (12, 7),
            "Incidents that began and ended, by response, since the model's state began.",
            [target(f"sum by (response, state) (foreshock_actions_total{{{MODEL}}})", "{{response}} {{state}}")],
            interpolation="stepAfter",
            fill=0,
        ),
        lines(
            "Decisions, by reason",
            (12, 7),
            "Every rule decides about every window, and says why: quiet ones are left out here.",
            [
                target(
                    f"sum by (reason) ({rate('foreshock_decisions_total', f'{MODEL}, reason!={chr(34)}quiet{chr(34)}')})",
                    "{{reason}}",
                )
            ],
            unit="ops",
            stacked=True,
        ),
    ]


ROWS = (
    ("", overview),
    ("0 · Processor: does Foreshock keep up?", processor),
    ("1 · System health of $model", health),
    ("2 · Data quality of $model", quality),
    ("3 · Behaviour of $model", behaviour),
    ("Actions: what is to be done about $model", decisions),
)

# --- The dashboard


def query_variable(name: str, label: str, text: str, query: str, all_value: str | None = None) -> Json:
    variable: Json = {
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
    }
    if all_value is not None:
        variable |= {"allValue": all_value, "current": {"text": "All", "value": "$__all"}}
    return variable


def variables() -> list[Json]:
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "description": "The Prometheus that scrapes the workers.",
            "query": "prometheus",
            "refresh": 1,
            "multi": False,
            "includeAll": False,
        },
        query_variable("model", "Model", "One model.", "label_values(foreshock_decisions_total, model)"),
        query_variable(
            "version",
            "Version",
            "All: every version, each a line of its own.",
            f"label_values(foreshock_signal_value{{{MODEL}}}, version)",
            all_value=".*",
        ),
        query_variable(
            "segment",
            "Segment",
            "All: the whole model, not split by segment.",
            f"label_values(foreshock_window_events{{{MODEL}}}, segment)",
            all_value="^$",
        ),
    ]


def annotations() -> list[Json]:
    return [
        {
            "name": "Actions that began to fire",
            "datasource": DATASOURCE,
            "enable": True,
            "hide": False,
            "iconColor": "red",
            "expr": f'sum by (response) (increase(foreshock_actions_total{{{MODEL}, state="firing"}}[1m])) > 0',
            "step": "30s",
            "titleFormat": "{{response}}",
        }
    ]


def placed() -> list[Json]:
    """All panels with their ids and places: from left to right, and on to the next line when there is no room."""
    found: list[Json] = []
    y = 0
    for title, make in ROWS:
        if title:
            found.append(
                {
                    "type": "row",
                    "title": title,
                    "collapsed": False,
                    "panels": [],
                    "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
                }
            )
            y += 1
        x = height = 0
        for item in make():
            width = item["gridPos"]["w"]
            if x + width > WIDTH:
                x, y, height = 0, y + height, 0
            item["gridPos"] = {"x": x, "y": y, **item["gridPos"]}
            x, height = x + width, max(height, item["gridPos"]["h"])
            found.append(item)
        y += height
    return [{"id": number, **item} for number, item in enumerate(found, 1)]


def dashboard() -> Json:
    return {
        "uid": "foreshock",
        "title": "Foreshock",
        "description": "Models in production, layer by layer: what is measured, where its threshold lies, what was decided.",
        "tags": ["foreshock", "ml"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair for all panels
        "timezone": "utc",
        "time": {"from": "now-30m", "to": "now"},
        "refresh": "10s",
        "templating": {"list": variables()},
        "annotations": {"list": annotations()},
        "links": [],
        "panels": placed(),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    if "--check" in arguments:
        current = FILE.exists() and FILE.read_text(encoding="utf-8") == text()
        if not current:
            print(f"{FILE.name} is out of date: run python deploy/grafana/make_dashboard.py", file=sys.stderr)
        return 0 if current else 1
    FILE.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
