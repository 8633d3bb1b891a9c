"""A model's bad day over all topics: its feature pipeline fails, its concept changes, its users complain.

minute 10 to 20   the pipeline's runs fail; a feature is null, the scores shift, the model is wrong
minute 40 to 60   with sound inputs, the labels turn round: the concept has changed
minute 70 on      the model is as good as ever, and six times as many users complain
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from uuid import UUID

from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.serde import Serde

from streams.configure import load
from streams.plan import Facts, Plan, compile_plan
from streams.scaffold import foreshock_yaml
from streams.times import rfc3339
from tests.replay.test_labelled_streams import MINUTE_MS, MODEL, START_MS, Row, reference, rows, split

BROKEN, MENDED, CHANGED, RETRAINED, COMPLAINTS, END = 10, 20, 40, 60, 70, 85
"""Minutes."""
JOB = "credit_features"
RULES = """\
      - {name: pipeline-failing, signals: [job_failure, freshness], response: data_incident, severity: critical}
      - {name: requests-lost, signals: [capture_ratio], response: data_incident}
      - {name: complaints-rising, signals: [complaint_rate], response: human_review, for: 2}
      - {name: overrides-rising, signals: [override_rate], response: human_review, for: 2}
      - {name: conversion-falling, signals: [kpi], features: [conversion], response: rollback, for: 2}
"""
DECLARED = """\
    feedback:
      complaint: {usual: 0.01}
      override: {usual: 0.02}
      workflow_step: {values: [manual_check]}
    kpis:
      conversion: {aggregate: mean, better: higher, target: 0.3}
    served: requests_served
    jobs:
      credit_features: {every: 5m, longest: 4m, namespace: warehouse}
"""

Pair = tuple[bytes | None, bytes]


def text() -> str:
    """The configuration."""
    found = foreshock_yaml(reference(), "reference.ndjson", "credit.baseline")
    return found.replace("    rules:\n", f"{DECLARED}    rules:\n{RULES}")


def plan() -> Plan:
    return compile_plan(load(text()), {MODEL: reference().baseline})


def write(folder: Path, prefix: str) -> Path:
    """The configuration and its baseline, for topics of a prefix."""
    config = folder / "foreshock.yaml"
    config.write_text(text().replace("  prefix: ''", f"  prefix: {prefix}"))
    (folder / "credit.baseline").write_bytes(reference().baseline.to_bytes())
    return config


def _happens(told: Row, drawn: random.Random) -> None:
    minute = (told["row"]["ts"] - START_MS) / MINUTE_MS
    if BROKEN <= minute < MENDED:
        told["row"]["features"]["age"] = None
        told["row"]["score"] = round(drawn.betavariate(8, 2), 4)
        told["row"]["prediction"] = 1
    elif CHANGED <= minute < RETRAINED:
        told["label"]["label"] = 1 - told["label"]["label"]


@cache
def stream() -> tuple[list[bytes], list[bytes], dict[Facts, list[bytes]]]:
    """Events, labels, and what else is told, each in the order of its times."""
    events, labels = split(rows(END, 2, _happens, since=BROKEN))
    drawn = random.Random(3)
    feedback: list[tuple[int, bytes]] = []
    served = [0] * END
    for event in events:
        row = json.loads(event)
        minute = (row["ts"] - START_MS) // MINUTE_MS
        served[minute] += 1
        for kind, rate in (("complaint", 0.06 if minute >= COMPLAINTS else 0.01), ("override", 0.02)):
            if drawn.random() < rate:
                told = {"event_id": row["event_id"], "model": MODEL, "ts": row["ts"] + 2_000, "kind": kind}
                feedback.append((told["ts"], json.dumps(told).encode()))
    outcomes = [
        {"model": MODEL, "ts": START_MS + minute * MINUTE_MS + second * 1_000, "kpi": kpi, "value": value}
        for minute in range(END)
        for second, kpi, value in [
            *((second, "conversion", int(drawn.random() < 0.3)) for second in range(30, 60)),
            (59, "requests_served", served[minute]),
        ]
    ]
    return (
        events,
        labels,
        {
            Facts.FEEDBACK: [value for _, value in sorted(feedback)],
            Facts.RUNS: [value for minute in range(0, END, 5) for value in _run(minute)],
            Facts.OUTCOMES: [json.dumps(outcome).encode() for outcome in outcomes],
        },
    )


def _run(minute: int) -> list[bytes]:
    """One run of the pipeline, as the client of OpenLineage tells of it. It has failed before its features are null."""
    failed = BROKEN <= minute < MENDED
    start_ms = START_MS + minute * MINUTE_MS - 30_000
    turns = ((RunState.START, 0), (RunState.RUNNING, 5_000), (RunState.FAIL if failed else RunState.COMPLETE, 20_000))
    return [
        Serde.to_json(
            RunEvent(
                eventType=turn,
                eventTime=rfc3339(start_ms + after_ms),
                run=Run(runId=str(UUID(int=minute))),
                job=Job(namespace="warehouse", name=JOB),
                producer="https://example.org/pipeline",
            )
        ).encode()
        for turn, after_ms in turns
    ]


def records() -> dict[str, list[Pair]]:
    """By topic, with the keys that producers give them: of the event, of the job, or of the model."""
    events, labels, told = stream()
    return {
        "inference": [(_key(value, "event_id"), value) for value in events],
        "labels": [(_key(value, "event_id"), value) for value in labels],
        "feedback": [(_key(value, "event_id"), value) for value in told[Facts.FEEDBACK]],
        "runs": [(JOB.encode(), value) for value in told[Facts.RUNS]],
        "outcomes": [(MODEL.encode(), value) for value in told[Facts.OUTCOMES]],
    }


def _key(value: bytes, name: str) -> bytes:
    return str(json.loads(value)[name]).encode()
