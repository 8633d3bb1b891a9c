"""The shell's stage 1, when feedback or labels of a past are sent before their events: so much is read and no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka import TopicPartition

import agents.resuming
from agents.channel import Batch
from agents.clients import Connection
from agents.clock import now_ms
from agents.intake import Intake
from agents.sketch import SketchStage
from agents.store import Stores
from streams.chunk import Step
from streams.configure import load
from streams.join.fold import JoinFold
from streams.plan import Facts, Plan, compile_plan
from streams.records import Records
from streams.store import MemoryStore
from tests.strategies import START_MS

YAML = """
models:
  shop:
    labels: {task: binary, classes: ["0", "1"], horizon: 1d}
    feedback: {complaint: {usual: 0.01}}
    rules:
      - {name: complaints, signals: [complaint_rate], response: human_review}
"""
FEEDBACK, EVENTS = TopicPartition("feedback", 0), TopicPartition("inference", 0)


def plan() -> Plan:
    return compile_plan(load(YAML), {})


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SketchStage]:
    """One that finds no progress, publishes at once, and lets two records of feedback wait."""

    async def nothing(*arguments: Any, **how: Any) -> dict[int, int]:
        return {}

    async def sent(step: Step, *_: object) -> None:
        pass

    monkeypatch.setattr(agents.resuming, "read_to_end", nothing)
    monkeypatch.setattr("streams.facts.fold.MAX_WAITING", 2)
    monkeypatch.setattr("agents.sketch.PUBLISH_EVERY_MS", 0)
    producer, stores = Mock(), Stores(tmp_path)
    producer.partitions_for = lambda topic: asyncio.sleep(0, {0})
    found = SketchStage(plan(), Connection(broker="none:1"), producer, "a", stores, [Facts.FEEDBACK])
    monkeypatch.setattr(found, "_execute", sent)
    found.intake = Mock(logs={})
    yield found
    stores.close()


def batch(tp: TopicPartition, first: int, rows: list[dict[str, Any]], *, caught_up: bool) -> Batch:
    values = [json.dumps(row).encode() for row in rows]
    records = Records(range(first, first + len(rows)), [now_ms()] * len(rows), values)
    end = first + len(rows)
    return Batch(tp.topic, tp.partition, records, end, end + (not caught_up), caught_up, now_ms(), 0)


def complaint(number: int) -> dict[str, Any]:
    return {"event_id": f"e{number}", "model": "shop", "ts": START_MS + number, "kind": "complaint"}


def event(number: int) -> dict[str, Any]:
    return {"event_id": f"e{number}", "model": "shop", "ts": START_MS + number, "features": {}, "prediction": "1"}


def held_back(stage: SketchStage, tp: TopicPartition) -> bool:
    """What the stage said last of a partition."""
    assert isinstance(stage.intake, Mock)
    said = [call.args[1] for call in stage.intake.hold_back.call_args_list if call.args[0] == tp]
    return bool(said[-1])


@pytest.mark.parametrize("caught_up", [True, False], ids=["events are still to be sent", "events are still to be read"])
def test_feedback_waits_for_its_events_and_goes_on_when_they_come(stage: SketchStage, caught_up: bool) -> None:
    """No batch of feedback comes while it is held back: that of the events lets it go on."""

    async def main() -> None:
        await stage.on_assigned({FEEDBACK, EVENTS, TopicPartition("labels", 0)})
        await stage.process(batch(EVENTS, 0, [], caught_up=caught_up))
        await stage.process(batch(FEEDBACK, 0, [complaint(number) for number in range(3)], caught_up=False))
        await stage.process(batch(EVENTS, 0, [], caught_up=caught_up))
        assert held_back(stage, FEEDBACK)
        await stage.process(batch(EVENTS, 0, [event(number) for number in range(3)], caught_up=caught_up))
        assert not held_back(stage, FEEDBACK)

    asyncio.run(main())


def test_feedback_is_not_held_back_for_events_that_nobody_sends_any_more(stage: SketchStage) -> None:
    stage.draining = True

    async def main() -> None:
        await stage.on_assigned({FEEDBACK, EVENTS, TopicPartition("labels", 0)})
        stage._caught_up["inference", 0] = now_ms()
        await stage.process(batch(FEEDBACK, 0, [complaint(number) for number in range(3)], caught_up=False))
        assert not held_back(stage, FEEDBACK)

    asyncio.run(main())


def test_labels_of_a_past_that_come_first_are_read_as_long_as_half_the_room_for_them_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streams.join.fold.MAX_PENDING", 10)
    join = JoinFold(plan(), "labels", 0, MemoryStore(), now_ms())

    def labels(first: int, n: int, ts_ms: int) -> Records:
        rows = [{"event_id": f"e{at}", "label": 1, "label_ts": ts_ms} for at in range(first, first + n)]
        return Records(range(first, first + n), [now_ms()] * n, [json.dumps(row).encode() for row in rows])

    join.take_labels(labels(0, 4, START_MS), now_ms())
    assert not join.awaits_predictions
    join.take_labels(labels(4, 1, START_MS), now_ms())
    assert join.awaits_predictions and join.is_ahead
    live = JoinFold(plan(), "labels", 0, MemoryStore(), now_ms())
    live.take_labels(labels(0, 8, now_ms() - 3_600_000), now_ms())
    assert not live.awaits_predictions


def test_a_partition_that_is_held_back_is_none_that_a_restart_would_help() -> None:
    async def nothing(*_: object) -> Any:
        return {}

    intake = Intake(Connection(broker="none:1"), ["feedback"], "group", Mock(), on_assigned=nothing, on_revoked=nothing)
    intake._held, intake._consumer = frozenset({FEEDBACK}), Mock()
    assert intake.can_read(FEEDBACK)
    intake.hold_back(FEEDBACK, True)
    assert not intake.can_read(FEEDBACK)
    intake.hold_back(FEEDBACK, False)
    assert intake.can_read(FEEDBACK)
