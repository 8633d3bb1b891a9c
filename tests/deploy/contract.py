"""The metrics that dashboards and alerts may rely on: name → labels. Taking one away breaks somebody's screen."""

from collections.abc import Mapping

from agents.metrics import WorkerMetric

METRICS: Mapping[str, tuple[str, ...]] = {metric.exposed: metric.labels for metric in WorkerMetric}
FROM_PROMETHEUS: Mapping[str, tuple[str, ...]] = {"up": ()}
"""Metrics that Prometheus makes of every target."""
TARGET_LABELS = frozenset({"job", "instance"})
"""Labels that Prometheus puts on everything."""
