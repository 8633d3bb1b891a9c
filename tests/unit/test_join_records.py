"""A record of outcomes has the cells of all models of its bucket: none of them goes before the others."""

from __future__ import annotations

import json

from streams.configure import load
from streams.join.fold import JoinFold
from streams.partial import OutcomePartial
from streams.plan import compile_plan
from streams.records import Records
from streams.source import SourceFold
from streams.store import MemoryStore

NOW_MS = 1_767_571_200_000
HOUR_MS = 3_600_000
MODEL = """
    grace: 1s
    lateness: {lateness}
    labels: {{task: binary, classes: ["0", "1"], horizon: 1h}}
    rules: [{{name: wrong, signals: [accuracy], response: retrain}}]
"""
LATENESS = {"a": "1m", "b": "2d"}
MODELS = "".join(f"  {name}:{MODEL.format(lateness=lateness)}" for name, lateness in LATENESS.items())
PLAN = compile_plan(load("kafka: {buckets: 1}\nmodels:\n" + MODELS), {})


def event(model: str, number: int) -> bytes:
    made = {"event_id": f"{model}{number}", "model": model, "model_version": "1", "ts": NOW_MS + number}
    return json.dumps(made | {"features": {}, "score": 0.6, "prediction": 1}).encode()


def label(model: str, number: int) -> bytes:
    return json.dumps({"event_id": f"{model}{number}", "label": 1, "label_ts": NOW_MS + 1_000}).encode()


def test_a_model_that_takes_later_labels_keeps_the_cells_of_one_that_does_not() -> None:
    join = JoinFold(PLAN, "labels", 0, MemoryStore(), NOW_MS)
    fold = SourceFold(PLAN, "inference", 0, None, NOW_MS, join=join)
    values = [event(model, number) for number in range(50) for model in "ab"]
    fold.take(Records(range(100), [NOW_MS] * 100, values), NOW_MS)
    fold.take_labels(Records(range(2), [NOW_MS] * 2, [label("a", 0), label("b", 0)]), NOW_MS)

    def passes(hours: int) -> list[OutcomePartial]:
        """As if the events of both had gone on for so long, and no older label were left to read."""
        join.meta.marks_ms.update(dict.fromkeys("ab", NOW_MS + hours * HOUR_MS))
        join.unread_until_ms = NOW_MS + hours * HOUR_MS
        join.cells.unpublished.update(place for place in join.cells.vectors if place[1] == "b")
        join._reached.clear()
        clocks_ms = (NOW_MS + hours * HOUR_MS, NOW_MS + hours * HOUR_MS + 600_000)
        published = [partial for ms in clocks_ms for partial in fold.publish(ms, caught_up=False).partials]
        return [partial for partial in published if isinstance(partial, OutcomePartial)]

    passes(10)
    again = [partial for partial in passes(20) if not partial.cohort]
    assert again and all({part.model for part in partial.models} == {"a", "b"} for partial in again)
    passes(200)
    passes(201)
    assert not join.cells.vectors
