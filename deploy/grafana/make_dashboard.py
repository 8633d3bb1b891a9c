"""What is to be seen, as a table of panels → deploy/grafana/dashboards/foreshock.json.

    python -m deploy.grafana.make_dashboard           writes the file
    python -m deploy.grafana.make_dashboard --check   exit code 1 when it is not up to date

Rows follow the layers that Foreshock watches: the processor itself, then system health, data quality, model behaviour,
what was decided, and how far it can be trusted. Wherever a signal is drawn, its own threshold is drawn with it, as a
dashed line: there are no other limits on a model here. Made for Grafana 12.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deploy.grafana import decision_rows, model_rows, service_rows
from deploy.grafana.panels import DATASOURCE, Json, datasource_variable, placed, query_variable, row
from deploy.grafana.queries import MODEL

FILE = Path(__file__).parent / "dashboards" / "foreshock.json"

ROWS: tuple[tuple[str, Callable[[], Iterator[Json]]], ...] = (
    ("0 · Processor: does Foreshock keep up?", service_rows.processor),
    ("1 · System health of $model", model_rows.health),
    ("2 · Data quality of $model", model_rows.quality),
    ("3 · Behaviour of $model", model_rows.behaviour),
    ("3 · Labels of $model: performance of the scores", model_rows.labels),
    ("4 · Users and business of $model", model_rows.users),
    ("Actions: what is to be done about $model", decision_rows.actions),
    ("Ledger of $model: how far the proxies can be trusted", decision_rows.ledger),
)
"""Below the overview: titles, and the panels under them."""


def panels() -> Iterator[Json]:
    """All panels, row by row."""
    yield from service_rows.overview()
    for title, panels_of_row in ROWS:
        yield row(title)
        yield from panels_of_row()


def variables() -> list[Json]:
    versions = f"label_values(foreshock_signal_value{{{MODEL}}}, version)"
    segments = f"label_values(foreshock_window_events{{{MODEL}}}, segment)"
    return [
        datasource_variable("datasource", "Data source", "The Prometheus that scrapes the workers."),
        query_variable("model", "Model", "One model.", "label_values(foreshock_decisions_total, model)"),
        query_variable("version", "Version", "All: every version, a line each.", versions, all_value=".*"),
        query_variable("segment", "Segment", "All: the whole model, not split.", segments, all_value="^$"),
    ]


def fired() -> Json:
    began = f'foreshock_actions_total{{{MODEL}, state="firing"}}'
    return {
        "name": "Actions that began to fire",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "expr": f"sum by (response) (increase({began}[1m])) > 0",
        "step": "30s",
        "titleFormat": "{{response}}",
    }


def dashboard() -> Json:
    return {
        "uid": "foreshock",
        "title": "Foreshock",
        "description": "Models in production, layer by layer: what is measured, its threshold, what was decided",
        "tags": ["foreshock", "ml"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair for all panels
        "timezone": "utc",
        "time": {"from": "now-30m", "to": "now"},
        "refresh": "10s",
        "templating": {"list": variables()},
        "annotations": {"list": [fired()]},
        "links": [],
        "panels": placed(panels()),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """0: written, or up to date."""
    if "--check" not in arguments:
        FILE.write_text(text(), encoding="utf-8")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == text():
        return 0
    print(f"{FILE.name} is out of date: run python -m deploy.grafana.make_dashboard", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
