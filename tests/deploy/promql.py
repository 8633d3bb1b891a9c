"""PromQL → what it asks for. SyntaxError-like ValueError when it is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser

from deploy.check_prometheus import BUILT_IN, substituted
from tests.deploy.contract import FROM_PROMETHEUS, METRICS, TARGET_LABELS

KNOWN = {**METRICS, **FROM_PROMETHEUS}
PARTS = ("lhs", "rhs", "expr", "vector_selector", "args", "param")
VARIABLES = {"datasource": "d", "model": "m", "version": ".*", "segment": "^$"}


def parsed(expr: str) -> Any:
    """The syntax tree; variables of Grafana are replaced first."""
    return promql_parser.parse(substituted(expr, {**BUILT_IN, **VARIABLES}))


def nodes(tree: Any) -> Iterator[Any]:
    yield tree
    for name in PARTS:
        part = getattr(tree, name, None)
        for child in part if isinstance(part, list) else [part]:
            if child is not None and not isinstance(child, (str, int, float)):
                yield from nodes(child)


def selectors(expr: str) -> Iterator[tuple[str, list[str]]]:
    """Name and labels of every series that is asked for."""
    for node in nodes(parsed(expr)):
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name, [matcher.name for matcher in node.matchers.matchers]


def unknown(expr: str) -> list[str]:
    """Metrics, and labels of metrics, that no worker has."""
    found = []
    for metric, labels in selectors(expr):
        if metric not in KNOWN:
            found.append(metric)
        else:
            found += [f"{metric}{{{label}}}" for label in {*labels} - {*KNOWN[metric]} - TARGET_LABELS]
    grouped = {label for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr) for label in re.findall(r"\w+", labels)}
    metrics = {metric for metric, _ in selectors(expr)} & {*KNOWN}
    return [*found, *(label for label in sorted(grouped) if not any(label in KNOWN[name] for name in metrics))]
