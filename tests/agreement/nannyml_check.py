"""Estimated performance against NannyML's own CBPE, on the data that it comes with (a check that installs NannyML)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.environments import environment
from streams.configure import load
from streams.learn import learn
from streams.plan import compile_plan
from streams.scaffold import foreshock_yaml
from streams.signals.evaluate import Judge
from streams.sketch.layout import BINS, SCORE

HERE = Path(__file__).parent
MODEL = "car-loan"
CHUNK = 5_000
TOLERANCE = 0.005
"""Of every metric and chunk. Theirs is calibrated row by row if that helps, ours by the reference's bins."""


@cache
def theirs() -> Any:
    command = [str(environment(HERE / "nannyml.txt")), str(HERE / "nannyml_rows.py"), str(CHUNK)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def events(rows: list[list[float]]) -> list[bytes]:
    return [
        json.dumps(
            {
                "event_id": str(at),
                "ts": int(ts),
                "model": MODEL,
                "model_version": "1",
                "features": {},
                "score": score,
                "prediction": int(answer),
            }
        ).encode()
        for at, (ts, score, answer, _) in enumerate(rows)
    ]


def labels(rows: list[list[float]]) -> list[bytes]:
    return [
        json.dumps({"event_id": str(at), "label": int(truth), "label_ts": int(ts)}).encode()
        for at, (ts, _, _, truth) in enumerate(rows)
    ]


@cache
def ours() -> list[dict[str, float]]:
    """By chunk what the scores lead to expect."""
    rows = theirs()["reference"]
    learned = learn(MODEL, lambda: events(rows), labels=labels(rows))
    config = load(foreshock_yaml(learned, "reference", "car-loan.baseline"))
    plan = compile_plan(config, {MODEL: learned.baseline}).models[MODEL]
    estimate = Judge(plan).estimate
    assert estimate is not None
    column = [column.name for column in plan.layout.columns].index(SCORE)
    return [estimate.expected(counts) for counts in _counts(plan.layout, column)]


def _counts(layout: Any, column: int) -> Iterator[Any]:
    scores = np.array([row[1] for row in theirs()["analysis"]])
    for start in range(0, len(scores), CHUNK):
        place = np.searchsorted(layout.columns[column].edges, scores[start : start + CHUNK], "right")
        vector = np.zeros(layout.length, np.int64)
        np.add.at(vector, layout.starts[column] + BINS + place, 1)
        yield vector


@pytest.mark.parametrize("metric", ["accuracy", "precision", "recall", "f1"])
def test_every_chunk_is_expected_to_be_worth_what_nannyml_says(metric: str) -> None:
    pairs = [(mine[metric], other[metric]) for mine, other in zip(ours(), theirs()["chunks"], strict=True)]
    assert len(pairs) == 10
    furthest = max(abs(mine - other) for mine, other in pairs)
    print(f"{metric}: at most {furthest:.4f} apart")
    assert furthest <= TOLERANCE


def test_the_labels_that_came_later_bear_the_estimate_out() -> None:
    rows = theirs()["analysis"]
    for at, mine in enumerate(ours()):
        chunk = rows[at * CHUNK : (at + 1) * CHUNK]
        truth = sum(answer == label for _, _, answer, label in chunk) / len(chunk)
        assert mine["accuracy"] == pytest.approx(truth, abs=0.02)
