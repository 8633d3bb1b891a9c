"""Writes docs/contract from the code: JSON Schema of actions, windows and acks, AsyncAPI of the topics, and metrics.

python -m deploy.make_contract
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from agents.metrics import Table, WebhookMetric, WorkerMetric
from streams.ack import Ack
from streams.action import Action
from streams.config import Feedback, Kafka
from streams.events import MAX_NAME
from streams.facts.read import MOST, Turn
from streams.plan import Facts
from streams.window import WindowRecord

FOLDER = Path(__file__).parents[1] / "docs" / "contract"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SENT = {"actions": Action, "windows": WindowRecord}
READ = {"acks": Ack}
"""Taken, and typed."""

Json = dict[str, Any]

TIME = {"description": "RFC 3339, or milliseconds since 1970.", "type": ["string", "integer"]}
NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
WHERE: Json = {
    "model_version": {"type": ["string", "number", "null"]},
    "segments": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
}
TAKEN: dict[str, Json] = {
    "inference": {
        "title": "InferenceEvent",
        "description": "A request that a model answered. Unknown fields are counted and left out. CloudEvents too.",
        "type": "object",
        "required": ["event_id", "ts", "model", "features"],
        "properties": {
            "event_id": {"type": "string", "description": "Also the record's key, and that of its label."},
            "ts": TIME,
            "model": {"type": "string"},
            "model_version": {"type": "string"},
            "features": {"type": "object", "additionalProperties": {"type": ["number", "string", "boolean", "null"]}},
            "segments": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
            "score": {
                "description": "Of two classes the probability of the second; of several one each.",
                "anyOf": [
                    {"type": "number"},
                    {"type": "object", "additionalProperties": {"type": "number"}},
                    {"type": "null"},
                ],
            },
            "prediction": {"type": ["number", "string", "boolean", "null"]},
            "latency_ms": {"type": ["number", "null"]},
            "error": {"type": ["string", "null"]},
        },
    },
    "labels": {
        "title": "Label",
        "description": "What was true of a prediction. A later one corrects it, null withdraws it.",
        "type": "object",
        "required": ["event_id", "label", "label_ts"],
        "properties": {
            "event_id": {"type": "string", "description": "Also the record's key."},
            "label": {"type": ["number", "string", "boolean", "null"]},
            "label_ts": TIME,
            "model": {"type": "string", "description": "Where several models share event ids."},
        },
    },
    Facts.FEEDBACK: {
        "title": "Feedback",
        "description": "What a user or a workflow made of a prediction, or of a model.",
        "type": "object",
        "required": ["model", "ts", "kind"],
        "properties": {
            "event_id": {"type": "string", "description": "Of the prediction that it is about; then the record's key."},
            "model": NAME,
            "ts": TIME,
            "kind": {"enum": list(map(str, Feedback))},
            "value": {"type": ["string", "number", "boolean", "null"], "description": "Of a step its name."},
            **WHERE,
        },
    },
    Facts.RUNS: {
        "title": "RunEvent",
        "description": "An OpenLineage 1.0 RunEvent, of which these fields are read. The record's key: the job's name.",
        "type": "object",
        "required": ["eventTime", "run", "job"],
        "properties": {
            "eventType": {"type": "string", "description": f"{', '.join(Turn)} are counted."},
            "eventTime": TIME,
            "run": {"type": "object", "required": ["runId"], "properties": {"runId": NAME}},
            "job": {
                "type": "object",
                "required": ["namespace", "name"],
                "properties": {"namespace": NAME, "name": NAME},
            },
        },
    },
    Facts.OUTCOMES: {
        "title": "Observation",
        "description": "One value of a business KPI. The record's key: the model.",
        "type": "object",
        "required": ["model", "ts", "kpi", "value"],
        "properties": {
            "model": NAME,
            "ts": TIME,
            "kpi": NAME,
            "value": {"type": "number", "minimum": -MOST, "maximum": MOST},
            **WHERE,
        },
    },
}


def schema(name: str) -> Json:
    """JSON Schema of the values of a topic that Foreshock writes, or reads strictly."""
    return {"$schema": DIALECT, "title": f"Values of the topic {name}", **msgspec.json.schema((SENT | READ)[name])}


def asyncapi() -> Json:
    """All topics that others write or read. Names are the defaults; a prefix may stand before them."""
    typed = SENT | READ
    _, schemas = msgspec.json.schema_components(typed.values(), ref_template="#/components/schemas/{name}")
    schemas |= {found["title"]: found for found in TAKEN.values()}
    bodies = {str(name): found["title"] for name, found in TAKEN.items()} | {n: t.__name__ for n, t in typed.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Foreshock",
            "version": "1",
            "description": "Events, labels and facts go in; windows and actions come out; acks say what was done.",
        },
        "servers": {"kafka": {"host": Kafka().broker, "protocol": "kafka"}},
        "defaultContentType": "application/json",
        "channels": {name: _channel(name, body) for name, body in bodies.items()},
        "operations": {
            f"{'send' if name in SENT else 'receive'}-{name}": {
                "action": "send" if name in SENT else "receive",
                "channel": {"$ref": f"#/channels/{name}"},
            }
            for name in bodies
        },
        "components": {
            "messages": {body: {"payload": {"$ref": f"#/components/schemas/{body}"}} for body in bodies.values()},
            "schemas": schemas,
        },
    }


def _channel(name: str, body: str) -> Json:
    return {"address": name, "messages": {body: {"$ref": f"#/components/messages/{body}"}}}


METRICS_PAGE = """# Metrics

Written by `python -m deploy.make_contract` from `agents/metrics.py`. A *sum* rises like a counter, and Prometheus takes
it as untyped. Times are in seconds since 1970.
"""


def metrics() -> str:
    """The page of all metrics: a table for each program that shows some."""
    parts = [METRICS_PAGE]
    for title, table in (("foreshock worker", WorkerMetric), ("foreshock webhook --listen", WebhookMetric)):
        rows = "\n".join(map(_metric_row, table))
        parts.append(f"## `{title}`\n\n| name | type | labels | unit | what it says |\n|---|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _metric_row(metric: Table) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.exposed}` | {metric.kind} | {labels} | {metric.unit} | {metric.text} |"


def files() -> dict[Path, str]:
    """Every file of the folder and what is to be in it."""
    found = {f"{name}.schema.json": schema(name) for name in SENT | READ} | {"asyncapi.json": asyncapi()}
    texts = {name: json.dumps(content, indent=2) + "\n" for name, content in found.items()} | {"metrics.md": metrics()}
    return {FOLDER / name: text for name, text in texts.items()}


if __name__ == "__main__":
    for file, text in files().items():
        file.write_text(text, encoding="utf-8")
        print(file.relative_to(FOLDER.parents[1]))
