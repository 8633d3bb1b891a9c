"""A stream with four incidents, and the decisions about it that were agreed on: golden.json.

Decisions are frozen, not numbers: rule, state, window, and the columns in the evidence. After a change that is meant to
decide differently, look at the difference, then write the file anew:

    python -m tests.replay.test_golden
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from streams.action import Action
from streams.backtest import Backtest
from tests.synthetic import INCIDENTS, MODEL, START_MS, Event, events, learned, lines, plan

GOLDEN = Path(__file__).with_name("golden.json")
MINUTES = 45
NOW_MS = START_MS + 86_400_000


def actions_of(stream: Iterable[Event]) -> list[Action]:
    run = Backtest(plan(learned()), NOW_MS)
    return [action for outcome in run.run(lines(stream)) for action in outcome.actions]


def decision(action: Action) -> dict[str, Any]:
    data = action.data
    return {
        "window": f"{data.window.start} {data.window.end}",
        "state": data.state,
        "rule": data.rule,
        "action": data.action,
        "version": data.model_version,
        "segment": data.segment,
        "evidence": sorted({f"{item.name} {item.feature}" if item.feature else item.name for item in data.signals}),
    }


def decisions() -> list[dict[str, Any]]:
    return [decision(action) for action in actions_of(events(MINUTES, 7, INCIDENTS))]


def test_the_incidents_give_the_decisions_that_were_agreed_on() -> None:
    assert decisions() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_every_incident_is_reported_in_time_and_resolved() -> None:
    """Guards the golden file itself: whatever is written into it must say this."""
    frozen = json.loads(GOLDEN.read_text(encoding="utf-8"))
    expected = {
        "nulls": ("values-missing", "null_rate amount"),
        "explosion": ("categories-exploding", "cardinality country"),
        "errors": ("requests-failing", "request_error_rate"),
        "drift": ("inputs-drifting", "feature_drift age"),
    }
    for incident in INCIDENTS:
        rule, evidence = expected[incident.name]
        first, last = incident.minutes[0], incident.minutes[-1]
        fired = [
            _minute(item)
            for item in frozen
            if item["rule"] == rule and item["state"] == "firing" and evidence in item["evidence"]
        ]
        assert any(first <= minute <= first + 1 for minute in fired), incident.name
        resolved = [_minute(item) for item in frozen if item["rule"] == rule and item["state"] == "resolved"]
        assert any(last < minute <= last + 5 for minute in resolved), incident.name


def _minute(item: dict[str, Any]) -> int:
    """The minute of the stream in which a window ends."""
    return int(item["window"].split()[0][14:16])


def test_the_stream_without_incidents_gives_none() -> None:
    assert actions_of(events(MINUTES, 7)) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_drawn_from_the_reference_itself_fires_nothing(seed: int) -> None:
    drawn = random.Random(seed)
    reference = list(events(20, 1))
    stream = [
        {**drawn.choice(reference), "event_id": str(i), "ts": START_MS + 2 * 3_600_000 + i * 100} for i in range(3_000)
    ]
    run = Backtest(plan(learned()), NOW_MS)
    fired = [decision(action) for outcome in run.run(lines(stream)) for action in outcome.actions]
    assert fired == []
    assert run.summary().models[MODEL].counted == 3_000


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(decisions(), indent=1) + "\n", encoding="utf-8")
    print(f"{GOLDEN.name}: {len(decisions())} decisions")
