"""Edits of a configuration that a person makes between two restarts: named functions from YAML text to YAML text.

`draw` gives one that leaves a valid file. An edit that needs what a file does not have (a second model, a KPI)
is none of that file: it gives None.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from streams.duration import format_ms, parse_ms
from tests.config_document import Document, Edit, some_model, without_rules
from tests.side_input_edits import (
    feedback_added,
    feedback_ends,
    feedback_removed,
    feedback_usual,
    feedback_values,
    job_added,
    job_renamed,
    job_times,
    jobs_removed,
    kpi_added,
    kpi_of_another_kind,
    kpi_of_other_parts,
    kpi_removed,
    kpi_renamed,
    kpi_target,
    kpi_turned,
    kpis_removed,
    served_removed,
    served_renamed,
)

PANES = ("30s", "1m", "2m", "3m", "5m", "15m", "1h")
OVERS = ("5m", "7m", "15m", "1h", "12h", "1d")


def parsed(text: str) -> Document:
    """The document of a configuration's text."""
    document: Document = yaml.safe_load(text)
    return document


def written(document: Document) -> str:
    """The text of a document, its keys in their order."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def applied(edit: Edit, text: str, drawn: random.Random) -> str | None:
    """The text after an edit; None: it has nothing to change there, or changes nothing."""
    document, before = parsed(text), parsed(text)
    if not edit(document, drawn):
        return None
    if document == before and list(_order(document)) == list(_order(before)):
        return None
    return written(document)


def _order(value: Any) -> Any:
    """The keys of all mappings, in their order: a feature that moved is a change too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _order(item)


def draw(
    text: str, drawn: random.Random, is_valid: Callable[[str], bool], names: tuple[str, ...] | None = None
) -> tuple[str, str]:
    """The name of an edit, and the text after it."""
    for name in drawn.sample(sorted(names or EDITS), len(names or EDITS)):
        after = applied(EDITS[name], text, drawn)
        if after is not None and is_valid(after):
            return name, after
    raise ValueError("no edit changes this file")


# What the edits have in common


def _rule(document: Document, drawn: random.Random) -> Document | None:
    rules = some_model(document, drawn).get("rules") or []
    return drawn.choice(rules) if rules else None


def _setting(name: str, values: tuple[Any, ...]) -> Edit:
    def edit(document: Document, drawn: random.Random) -> bool:
        some_model(document, drawn)[name] = drawn.choice(values)
        return True

    return edit


def _of_rule(name: str, values: tuple[Any, ...]) -> Edit:
    def edit(document: Document, drawn: random.Random) -> bool:
        rule = _rule(document, drawn)
        if rule is None:
            return False
        rule[name] = drawn.choice(values)
        return True

    return edit


def pane(document: Document, drawn: random.Random) -> bool:
    """Windows that are no whole number of the new panes are rounded up."""
    model = some_model(document, drawn)
    model["pane"] = drawn.choice(PANES)
    pane_ms = parse_ms(model["pane"])
    for rule in model.get("rules") or []:
        if "over" in rule:
            overs = [rule["over"]] if isinstance(rule["over"], str) else rule["over"]
            rounded = [format_ms(-(-parse_ms(over) // pane_ms) * pane_ms) for over in overs]
            rule["over"] = rounded[0] if isinstance(rule["over"], str) else rounded
    return True


# Rules


def rule_removed(document: Document, drawn: random.Random) -> bool:
    rules = some_model(document, drawn).get("rules") or []
    if len(rules) < 2:
        return False
    rules.remove(drawn.choice(rules))
    return True


def rule_renamed(document: Document, drawn: random.Random) -> bool:
    rule = _rule(document, drawn)
    if rule is None:
        return False
    rule["name"] += "-anew"
    return True


def rule_added(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    rules, over = model.setdefault("rules", []), format_ms(7 * parse_ms(model["pane"]))
    rules.append({"name": f"more-{len(rules)}", "signals": ["null_rate"], "response": "human_review", "over": over})
    return True


def rule_of_other_signals(document: Document, drawn: random.Random) -> bool:
    rule = _rule(document, drawn)
    if rule is None or "kpi" in rule["signals"] or "capture_ratio" in rule["signals"]:
        return False
    rule.pop("features", None)
    rule["signals"] = drawn.choice((["latency_p50"], ["null_rate", "missing_rate"], ["request_rate"]))
    return True


# Features


def feature_removed(document: Document, drawn: random.Random) -> bool:
    features = some_model(document, drawn).get("features") or {}
    if len(features) < 2:
        return False
    del features[drawn.choice(list(features))]
    return True


def feature_added(document: Document, drawn: random.Random) -> bool:
    kind = drawn.choice(("numeric", "categorical", "boolean"))
    some_model(document, drawn).setdefault("features", {})[f"extra_{kind}"] = {"type": kind}
    return True


def features_reordered(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    features = model.get("features") or {}
    if len(features) < 2:
        return False
    model["features"] = dict(list(features.items())[1:] + list(features.items())[:1])
    return True


def feature_widened(document: Document, drawn: random.Random) -> bool:
    """The same number of bins, between other edges."""
    ranged = [item for item in (some_model(document, drawn).get("features") or {}).values() if item.get("range")]
    if not ranged:
        return False
    item = drawn.choice(ranged)
    low, high = item["range"]
    item["range"] = [low - 10, high + 10]
    return True


# Segments and versions


def segment_removed(document: Document, drawn: random.Random) -> bool:
    segments = some_model(document, drawn).get("segments") or {}
    if not segments:
        return False
    values = segments[drawn.choice(list(segments))]
    if len(values) < 2:
        return False
    values.remove(drawn.choice(values))
    return True


def segment_added(document: Document, drawn: random.Random) -> bool:
    segments = some_model(document, drawn).get("segments") or {}
    if not segments:
        return False
    segments[drawn.choice(list(segments))].append("another")
    return True


def dimension_removed(document: Document, drawn: random.Random) -> bool:
    model = some_model(document, drawn)
    if not model.get("segments") or any(isinstance(rule.get("segments"), dict) for rule in model.get("rules") or []):
        return False
    del model["segments"][drawn.choice(list(model["segments"]))]
    return True


def dimension_added(document: Document, drawn: random.Random) -> bool:
    some_model(document, drawn).setdefault("segments", {})["tier"] = ["gold", "silver"]
    return True


# Labels, KPIs, feedback, jobs


def labels_removed(document: Document, drawn: random.Random) -> bool:
    from streams.signals.names import SIGNALS, judges_labels

    model = some_model(document, drawn)
    if not model.pop("labels", None):
        return False
    without_rules(model, lambda rule: judges_labels(rule["signals"]) and bool(SIGNALS))
    return True


def horizon(document: Document, drawn: random.Random) -> bool:
    labels = some_model(document, drawn).get("labels")
    if not labels:
        return False
    labels["horizon"] = drawn.choice(("1h", "6h", "2d", "30d"))
    return True


def threshold(document: Document, drawn: random.Random) -> bool:
    labels = some_model(document, drawn).get("labels")
    if not labels or labels.get("task") != "binary":
        return False
    labels["threshold"] = drawn.choice((0.3, 0.6))
    return True


def classes_turned(document: Document, drawn: random.Random) -> bool:
    """The score is the probability of the other class."""
    labels = some_model(document, drawn).get("labels")
    if not labels or labels.get("task") != "binary":
        return False
    labels["classes"] = labels["classes"][::-1]
    return True


def critical_classes(document: Document, drawn: random.Random) -> bool:
    labels = some_model(document, drawn).get("labels")
    if not labels or not labels.get("classes"):
        return False
    labels["critical"] = [drawn.choice(labels["classes"])]
    return True


# Models


def baseline_removed(document: Document, drawn: random.Random) -> bool:
    return bool(some_model(document, drawn).pop("baseline", None))


def model_renamed(document: Document, drawn: random.Random) -> bool:
    models = document["models"]
    name = drawn.choice(sorted(models))
    models[f"{name}-anew"] = models.pop(name)
    return True


def model_added(document: Document, drawn: random.Random) -> bool:
    rules = [{"name": "values-missing", "signals": ["null_rate"], "response": "data_incident"}]
    document["models"]["one-more"] = {"features": {"a": {"type": "numeric"}}, "rules": rules}
    return True


def model_removed(document: Document, drawn: random.Random) -> bool:
    models = document["models"]
    if len(models) < 2:
        return False
    del models[drawn.choice(sorted(models))]
    return True


def chunk_size(document: Document, drawn: random.Random) -> bool:
    document.setdefault("kafka", {})["chunk_size"] = drawn.choice((256, 1024, 4096, 65_536))
    return True


EDITS: Mapping[str, Edit] = {
    "grace": _setting("grace", ("0s", "5s", "2m", "10m")),
    "lateness": _setting("lateness", ("10m", "1h", "2d")),
    "idle": _setting("idle", ("10s", "5m")),
    "budget": _setting("false_alarms_per_week", (0.1, 5)),
    "owner": _setting("owner", ("team-a", "team-b")),
    "versions": _setting("versions", (["1", "2"], ["7"])),
    "max_versions": _setting("max_versions", (1, 2, 20)),
    "over": _of_rule("over", OVERS),
    "for": _of_rule("for", (1, 2, 4)),
    "clear": _of_rule("clear", (1, 3, 6)),
    "min_n": _of_rule("min_n", (1, 200)),
    "cool_down": _of_rule("cool_down", ("10m", "1d")),
    "severity": _of_rule("severity", ("info", "critical")),
    "response": _of_rule("response", ("human_review", "rollback", "retrain", "data_incident")),
    "shadow": _of_rule("shadow", (True, False)),
    "of_segments": _of_rule("segments", (True, False)),
    **{
        edit.__name__: edit
        for edit in (
            pane,
            *(rule_removed, rule_renamed, rule_added, rule_of_other_signals),
            *(feature_removed, feature_added, features_reordered, feature_widened),
            *(segment_removed, segment_added, dimension_removed, dimension_added),
            *(labels_removed, horizon, threshold, classes_turned, critical_classes),
            *(kpi_removed, kpi_renamed, kpi_added, kpi_turned, kpi_target, kpi_of_another_kind, kpi_of_other_parts),
            *(kpis_removed, served_removed, served_renamed),
            *(feedback_removed, feedback_added, feedback_ends, feedback_usual, feedback_values),
            *(jobs_removed, job_renamed, job_added, job_times),
            *(baseline_removed, model_renamed, model_added, model_removed),
        )
    },
}
