"""Small models of every kind: task × segments × versions × what else is read of them; and a pipeline that restarts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from streams.backtest import TOPIC, Backtest
from streams.chunk import Step
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.learn import Learned, learn
from streams.ledger import unpack_ledger
from streams.partial import key_of, pack, unpack
from streams.plan import Facts, Plan
from streams.publication import LEDGER_KEY, UNIT_KEY, publications
from streams.scaffold import foreshock_yaml
from streams.state import ModelState, unpack_state, unpack_unit
from streams.times import rfc3339

START_MS, MINUTE_MS = 1_767_225_600_000, 60_000
EVERY_MS, MINUTES = 250, 16
CHANGE_AT = 6
"""Minute from which on features, scores, labels, feedback, KPIs and runs are worse."""
CLASSES = ("a", "b", "c")
TASKS = ("none", "binary", "multiclass", "regression")
SIDE_INPUTS = """\
    feedback:
      complaint: {usual: 0.01}
      override: {}
      workflow_step: {values: [check]}
    kpis:
      loss: {aggregate: sum, better: lower}
      conversion: {aggregate: mean, better: higher, target: 0.5}
      cost: {aggregate: ratio, of: [paid, sold], better: lower}
      paid: {aggregate: sum, better: lower}
      sold: {aggregate: sum, better: higher}
    served: requests_served
    jobs:
      features: {every: 5m, longest: 4m}
"""
SIDE_RULES = """\
      - {name: pipeline-failing, signals: [job_failure, freshness], response: data_incident, severity: critical}
      - {name: requests-lost, signals: [capture_ratio], response: data_incident}
      - {name: complaints-rising, signals: [complaint_rate, override_rate], response: human_review}
      - {name: conversion-falling, signals: [kpi], features: [conversion], response: rollback}
      - {name: cost-rising, signals: [kpi], features: [cost], response: rollback, over: 4m}
"""


@dataclass(frozen=True)
class Case:
    """One model. `side` inputs: feedback, KPIs (with a ratio and what was served) and jobs."""

    task: str
    segments: bool
    versions: bool
    side: bool

    @property
    def name(self) -> str:
        return "-".join([self.task, *(flag for flag in ("segments", "versions", "side") if getattr(self, flag))])


CASES = [Case(task, bool(n & 1), bool(n & 2), bool(n & 4)) for task in TASKS for n in (0, 3, 5, 6)]


def _row(
    case: Case, number: int, drawn: random.Random, worse: bool, every_ms: int = EVERY_MS
) -> tuple[dict[str, Any], Any]:
    """An event and its label."""
    x = drawn.gauss(0, 1) + (1.0 if worse else 0.0)
    row: dict[str, Any] = {
        "event_id": f"{case.name}-{number}",
        "ts": START_MS + number * every_ms,
        "model": case.name,
        "features": {"x": round(x, 3), "colour": drawn.choice(("red", "green"))},
        "latency_ms": round(drawn.lognormvariate(2, 0.3), 2),
    }
    if case.versions:
        row["model_version"] = drawn.choice(("1", "2"))
    if case.segments:
        row["segments"] = {"region": drawn.choice(("north", "south"))}
    if case.task == "regression":
        return row | {"prediction": round(2 * x, 3)}, round(2 * x + drawn.gauss(1.5 if worse else 0, 1), 3)
    score = round(min(0.99, max(0.01, 0.5 + x / 6)), 4)
    if case.task == "multiclass":
        best = drawn.choice(CLASSES)
        scores = {name: 0.8 if name == best else 0.1 for name in CLASSES}
        right = drawn.random() < (0.4 if worse else 0.8)
        return row | {"score": scores, "prediction": best}, best if right else drawn.choice(CLASSES)
    return row | {"score": score, "prediction": int(score > 0.5)}, int(drawn.random() < (1 - score if worse else score))


def stream(
    case: Case, seed: int, minutes: int = MINUTES, change_at: int = CHANGE_AT, every_ms: int = EVERY_MS
) -> tuple[list[bytes], list[bytes]]:
    """Events, and labels in the order of their times: some corrected, some withdrawn."""
    drawn, events, labels = random.Random(seed), [], []
    for number in range(minutes * MINUTE_MS // every_ms):
        row, label = _row(case, number, drawn, number * every_ms >= change_at * MINUTE_MS, every_ms)
        events.append(json.dumps(row).encode())
        if case.task != "none":
            at_ms = row["ts"] + drawn.randrange(60_000)
            labels.append((at_ms, row["event_id"], label))
            if drawn.random() < 0.02:
                later_ms = at_ms + drawn.randrange(120_000)
                labels.append((later_ms, row["event_id"], None if drawn.random() < 0.3 else label))
    rows = [
        {"event_id": name, "label": label, "label_ts": at_ms}
        for at_ms, name, label in sorted(labels, key=lambda found: found[:2])
    ]
    return events, [json.dumps(row | {"model": case.name}).encode() for row in rows]


def side_inputs(
    case: Case, seed: int, minutes: int = MINUTES, change_at: int = CHANGE_AT, every_ms: int = EVERY_MS
) -> dict[Facts, list[bytes]]:
    """Feedback, KPIs and runs, in the order of their times."""
    if not case.side:
        return {}
    drawn = random.Random(seed)
    feedback, kpis, runs = [], [], []
    for minute in range(minutes):
        start_ms, worse = START_MS + minute * MINUTE_MS, minute >= change_at
        for _ in range(20 if worse else 3):
            at_ms, kind = start_ms + drawn.randrange(MINUTE_MS), drawn.choice(("complaint", "override"))
            number = (at_ms - START_MS) // every_ms
            feedback.append({"event_id": f"{case.name}-{number}", "model": case.name, "ts": at_ms, "kind": kind})
        for second in range(0, 60, 2):
            one = {"model": case.name, "ts": start_ms + second * 1_000}
            kpis.append(one | {"kpi": "conversion", "value": int(drawn.random() < (0.2 if worse else 0.5))})
            kpis.append(one | {"kpi": "loss", "value": drawn.random()})
            kpis.append(one | {"kpi": "paid", "value": drawn.random() * (3 if worse else 1)})
            kpis.append(one | {"kpi": "sold", "value": drawn.random()})
        served = MINUTE_MS // every_ms * (2 if worse else 1)
        kpis.append({"model": case.name, "ts": start_ms + 59_000, "kpi": "requests_served", "value": served})
        if minute % 5 == 0:
            runs += [_run(start_ms - 1_000, "START", minute), _run(start_ms, "FAIL" if worse else "COMPLETE", minute)]
    told = {Facts.FEEDBACK: feedback, Facts.RUNS: runs, Facts.OUTCOMES: kpis}
    return {kind: [json.dumps(row).encode() for row in sorted(rows, key=_time)] for kind, rows in told.items()}


def _time(row: dict[str, Any]) -> int:
    return int(row["ts"]) if "ts" in row else 0


def _run(at_ms: int, turn: str, minute: int) -> dict[str, Any]:
    job = {"namespace": "n", "name": "features"}
    return {"eventType": turn, "eventTime": rfc3339(at_ms), "run": {"runId": f"r{minute}"}, "job": job}


@cache
def reference(case: Case, minutes: int = 2 * MINUTES, every_ms: int = EVERY_MS) -> Learned:
    events, labels = stream(case, 1, minutes, minutes, every_ms)
    return learn(case.name, lambda: events, labels=labels or None)


def text(case: Case, minutes: int = 2 * MINUTES, every_ms: int = EVERY_MS) -> str:
    """The configuration."""
    found = foreshock_yaml(reference(case, minutes, every_ms), "reference.ndjson", f"{case.name}.baseline")
    return found.replace("    rules:\n", f"{SIDE_INPUTS}    rules:\n{SIDE_RULES}") if case.side else found


class Restarting(Backtest):
    """A backtest whose stage 2 is rebuilt, after each of some numbers of folds, from what it has published."""

    def __init__(self, plan: Plan, now_ms: int, *, labelled: bool, told: Iterable[Facts], restarts: frozenset[int]):
        super().__init__(plan, now_ms, labelled=labelled, told=told)
        self.restarts, self.folds = restarts, 0
        self.kinds = dict.fromkeys(self.facts, 1)
        self.partials: dict[bytes, bytes] = {}
        self.state: dict[bytes, bytes] = {}

    def _fold(self, steps: Iterable[Step]) -> Iterator[Outcome]:
        found: Sequence[Step] = list(steps)
        for item in (item for step in found for item in step.partials):
            self.partials[key_of(item, "w")] = pack(item)
        for outcome in super()._fold(found):
            for record in (record for group in publications(outcome) for record in group if record.topic == "state"):
                if record.value is None:
                    self.state.pop(record.key, None)
                else:
                    self.state[record.key] = record.value
            yield outcome
        self.folds += 1
        if self.folds in self.restarts:
            for bucket in self._buckets:
                self._buckets[bucket] = self._rebuilt(bucket)
                yield from self._buckets[bucket].advance()

    def _rebuilt(self, bucket: int) -> BucketJudge:
        judge = BucketJudge(self.plan, bucket, TOPIC, 1, self.kinds)
        for key, value in sorted(self.state.items(), key=lambda item: item[0].startswith(b"\0")):
            if key.startswith(UNIT_KEY):
                judge.restore_unit(*unpack_unit(value))
            elif key.startswith(LEDGER_KEY):
                judge.restore_ledger(unpack_ledger(value))
            else:
                judge.restore(unpack_state(value, ModelState))
        for key, value in self.partials.items():
            partial = unpack(value)
            if partial.bucket == bucket:
                judge.apply(partial, key, fresh=False)
        for _ in judge.resume():
            pass
        return judge
