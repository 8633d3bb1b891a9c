"""Models of every shape: learned, replayed and judged, with labels and without."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from streams.backtest import Backtest
from streams.configure import load
from streams.learn import learn
from streams.plan import compile_plan
from streams.scaffold import foreshock_yaml

START_MS = 1_767_225_600_000

FEATURES: dict[str, Any] = {
    "numbers only": lambda drawn: {"x": drawn.gauss(0, 1)},
    "categories only": lambda drawn: {"c": drawn.choice("abc")},
    "flags only": lambda drawn: {"b": drawn.random() < 0.5},
    "no features": lambda drawn: {},
}
ANSWERS: dict[str, Any] = {
    "a probability": lambda drawn: ({"score": drawn.random()}, drawn.random() < 0.5),
    "three classes": lambda drawn: ({"score": {"a": 0.5, "b": 0.3, "c": 0.2}, "prediction": "a"}, drawn.choice("abc")),
    "a quantity": lambda drawn: ({"prediction": drawn.gauss(5, 1)}, drawn.gauss(5, 1)),
    "a class without a score": lambda drawn: ({"prediction": drawn.choice([1, 2, 3])}, drawn.choice([1, 2, 3])),
}


def stream(features: Any, answers: Any, seed: int) -> tuple[list[bytes], list[bytes]]:
    drawn = random.Random(seed)
    events, labels = [], []
    for i in range(3_000):
        ts = START_MS + i * 200
        answer, label = answers(drawn)
        event = {"event_id": f"{seed}-{i}", "ts": ts, "model": "m", "features": features(drawn)} | answer
        events.append(json.dumps(event).encode())
        labels.append(json.dumps({"event_id": event["event_id"], "label": label, "label_ts": ts + 30_000}).encode())
    return events, labels


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("features", FEATURES)
def test_a_stream_like_the_reference_is_judged_and_silent(features: str, answers: str) -> None:
    rows, truth = stream(FEATURES[features], ANSWERS[answers], 1)
    found = learn("m", lambda: rows, labels=truth)
    plan = compile_plan(load(foreshock_yaml(found, "reference", "m.baseline")), {"m": found.baseline})
    run = Backtest(plan, START_MS + 10**9, labelled=True)
    outcomes = list(run.run(*stream(FEATURES[features], ANSWERS[answers], 2)))
    clocks = {window.clock for outcome in outcomes for window in outcome.windows}
    assert clocks == {"event", "arrival", "cohort"}
    assert [action for outcome in outcomes for action in outcome.actions] == []
    summary = run.summary().models["m"]
    assert (summary.counted, summary.labels["matched"]) == (3_000, 3_000)
