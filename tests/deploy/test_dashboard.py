"""The dashboard: sound as JSON, and asking for nothing that a worker does not have."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.metrics import Kind, WebhookMetric, WorkerMetric
from deploy.check_prometheus import Query, label_query, panels, queries, read_dashboard
from deploy.grafana import make_dashboard
from tests.deploy.contract import METRICS
from tests.deploy.promql import VARIABLES, selectors, unknown

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = read_dashboard(make_dashboard.FILE)
ALL = list(panels(DASHBOARD))
SHOWN = [panel for panel in ALL if panel["type"] != "row"]
QUERIES = list(queries(DASHBOARD))

each_panel = pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: panel["title"])
each_query = pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)


def test_the_file_is_what_its_script_writes() -> None:
    assert make_dashboard.main(["--check"]) == 0, "python -m deploy.grafana.make_dashboard"


def test_ids_are_unique_and_panels_do_not_overlap() -> None:
    assert len({panel["id"] for panel in ALL}) == len(ALL)
    for one, other in combinations((panel["gridPos"] for panel in ALL), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in ALL)


def test_rows_follow_the_layers() -> None:
    titles = [panel["title"] for panel in ALL if panel["type"] == "row"]
    assert [title[:1] for title in titles] == ["0", "1", "2", "3", "3", "4", "A", "L"]


@each_panel
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    """A sentence, and a unit for its numbers; data from the source that is chosen above."""
    assert re.fullmatch(r"[A-Z].*\.", panel["description"], re.DOTALL)
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"], "an empty panel"
    assert [target["refId"] for target in panel["targets"]] == [chr(65 + i) for i in range(len(panel["targets"]))]
    if panel["type"] in ("stat", "timeseries"):
        assert panel["fieldConfig"]["defaults"]["unit"]


@each_panel
def test_a_signal_is_drawn_with_its_threshold(panel: dict[str, Any]) -> None:
    """A value without a threshold is a number that nobody can judge."""
    asked = {metric for target in panel["targets"] for metric, _ in selectors(target["expr"])}
    assert ("foreshock_signal_value" in asked) <= ("foreshock_signal_threshold" in asked)


@each_query
def test_a_query_asks_for_what_there_is(query: Query) -> None:
    assert not unknown(query.expr), query.expr


@each_panel
def test_a_legend_names_labels_of_its_query(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        labels = {label for metric, _ in selectors(target["expr"]) for label in METRICS[metric]}
        assert {*re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))} <= labels


def test_every_metric_can_be_seen() -> None:
    asked = {metric for query in QUERIES for metric, _ in selectors(query.expr)}
    assert asked == METRICS.keys()


def test_variables_come_from_labels_of_metrics() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables.keys() == VARIABLES.keys()
    for variable in variables.values():
        if variable["type"] == "query":
            series, label = label_query(variable)
            assert not unknown(series)
            assert all(label in METRICS[metric] for metric, _ in selectors(series))


def test_grafana_is_told_where_things_are() -> None:
    """What is provisioned is what compose mounts and runs."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(mount.split(":")[:2] for mount in compose["grafana"]["volumes"])
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/foreshock.yml").read_text())["providers"]
    assert provider["options"]["path"] == mounts["./deploy/grafana/dashboards"]
    home = compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{make_dashboard.FILE.name}"
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    scraping = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"], "what $__rate_interval is made of"


def test_the_exporter_fills_every_metric_of_the_table() -> None:
    source = (ROOT / "agents" / "exporter.py").read_text(encoding="utf-8")
    assert {*re.findall(r"WorkerMetric\.(\w+)", source)} == WorkerMetric.__members__.keys()


def test_names_and_labels_of_metrics_are_those_of_prometheus() -> None:
    endings = {Kind.COUNTER: ("_total",), Kind.SUM: ("_sum", "_count"), Kind.INFO: ("_info",)}
    metrics = [*WorkerMetric, *WebhookMetric]
    assert len({metric.exposed for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert re.fullmatch(r"foreshock(_[a-z]+)+", metric.exposed)
        assert metric.exposed.endswith(endings.get(metric.kind, ""))
        assert metric.kind is not Kind.GAUGE or not metric.exposed.endswith(("_total", "_info"))
        assert re.fullmatch(r"[A-Z1].*\.", metric.text) and len({*metric.labels}) == len(metric.labels)
