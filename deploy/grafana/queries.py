"""What panels ask for: names and labels of metrics, and panels of signals with their thresholds."""

from __future__ import annotations

from deploy.grafana.panels import Json, Size, lines, target

MODEL = 'model="$model"'
CELL = f'{MODEL}, version=~"$version", segment=~"$segment"'
EACH_SEGMENT = f'{MODEL}, version=~"$version", segment!=""'
NO_SEGMENT = f'{MODEL}, version=~"$version", segment=""'
# Volume and freshness are of the model as a whole, not of a version.
WHOLE_CELL = f'{MODEL}, version="", segment=~"$segment"'
WHOLE_EACH_SEGMENT = f'{MODEL}, version="", segment!=""'

HEALTH = 'family="health"'
QUALITY = 'family=~"quality|drift"'
SCORES = 'family="score"'
BEHAVIOUR = 'family=~"score|calibration|performance|labels"'

FEW = 5
"""Features that a panel shows: those nearest to their thresholds."""
LIMIT = " · threshold"
THRESHOLD_LOOK = {
    "matcher": {"id": "byRegexp", "options": f"/{LIMIT}$/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}},
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "semi-dark-red"}},
    ],
}
HERE = "/d/foreshock/foreshock"
KEEP = "${datasource:queryparam}&${__url_time_range}"


def value(labels: str) -> str:
    return f"foreshock_signal_value{{{labels}}}"


def threshold(labels: str) -> str:
    return f"foreshock_signal_threshold{{{labels}}}"


def breached(labels: str) -> str:
    return f"foreshock_signal_breached{{{labels}}}"


def nearness(labels: str) -> str:
    """1 at the threshold. Not for a signal that alarms when it falls."""
    return f"{value(labels)} / {threshold(labels)}"


def rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])" if labels else f"rate({metric}[$__rate_interval])"


def signals(title: str, size: Size, text: str, name: str, *, unit: str, labels: str = CELL) -> Json:
    """A signal of the model, or several (a regular expression), each with its threshold."""
    legend = "{{signal}}" + ("" if 'version=""' in labels else " v{{version}}")
    chosen = f'signal=~"{name}", {labels}'
    targets = [target(value(chosen), legend), target(threshold(chosen), legend + LIMIT)]
    return with_thresholds(lines(title, size, text, targets, unit=unit, stepped=True))


def features(title: str, size: Size, text: str, name: str, *, unit: str) -> Json:
    """A signal of the features nearest to their thresholds, each with its threshold."""
    chosen = f'signal="{name}", {CELL}'
    few = f"topk({FEW}, {nearness(chosen)})"
    legend = "{{feature}} v{{version}}"
    targets = [target(f"{value(chosen)} and {few}", legend), target(f"{threshold(chosen)} and {few}", legend + LIMIT)]
    return with_thresholds(lines(title, size, text, targets, unit=unit, stepped=True))


def with_thresholds(panel: Json) -> Json:
    """The panel, with its thresholds as dashed lines."""
    panel["fieldConfig"]["overrides"] = [THRESHOLD_LOOK]
    return panel
