"""Stage 1 of the shell: where it begins with what it is given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka import TopicPartition

import agents.resuming
from agents.channel import NO_RECORDS, Batch
from agents.clients import Connection
from agents.clock import now_ms
from agents.flow import Flow
from agents.sketch import SketchStage
from agents.store import Stores
from streams.chunk import Step
from streams.configure import load
from streams.partial import BooksPartial, LabelBooksPartial
from streams.plan import compile_plan
from streams.progress import Progress

YAML = """
models:
  shop:
    labels: {task: binary, classes: ["0", "1"], horizon: 1d}
    rules:
      - {name: wrong, signals: [accuracy], response: retrain}
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SketchStage]:
    """One that finds no progress."""

    async def nothing(*arguments: Any, **how: Any) -> dict[int, int]:
        return {}

    monkeypatch.setattr(agents.resuming, "read_to_end", nothing)
    producer, stores = Mock(), Stores(tmp_path)
    producer.partitions_for = lambda topic: asyncio.sleep(0, {0})
    yield SketchStage(compile_plan(load(YAML), {}), Connection(broker="none:1"), producer, "a", stores)
    stores.close()


def test_labels_of_a_topic_that_was_deleted_are_left_until_it_is_there_again(stage: SketchStage) -> None:
    starts = asyncio.run(stage.on_assigned({TopicPartition("labels", 0)}))
    assert starts == {TopicPartition("labels", 0): None}


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_is_not_time_that_has_passed(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = now_ms()
    assert abs(before - time.time_ns() // 1_000_000) < 60_000
    set_ns = time.time_ns() + hours * 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: set_ns)
    assert 0 <= now_ms() - before < 60_000


def test_silence_is_known_of_until_the_last_question_however_long_the_process_stood_still_since(
    stage: SketchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be events by now: nobody has looked."""
    topics = [TopicPartition("inference", 0), TopicPartition("labels", 0)]
    published: list[Step] = []

    async def keep(step: Step, *_: object) -> None:
        published.append(step)

    monkeypatch.setattr(stage, "_execute", keep)
    monkeypatch.setattr(stage, "intake", Mock(logs={}))
    asked_ms = now_ms() - 3_600_000

    async def main() -> None:
        await stage.on_assigned(set(topics))
        for tp in topics:
            await stage.process(Batch(tp.topic, tp.partition, NO_RECORDS, 0, 0, True, asked_ms, 0))
        await stage.process(Batch("inference", 0, NO_RECORDS, 0, 1, False, now_ms(), 0))

    monkeypatch.setattr("agents.sketch.BEAT_MS", 0)
    asyncio.run(main())
    books = [
        (type(partial), partial.clock_ms == asked_ms, partial.caught_up)
        for step in published
        for partial in step.partials
        if isinstance(partial, BooksPartial | LabelBooksPartial) and partial.bucket == stage.plan.config.bucket("shop")
    ]
    assert books[-4:-2] == [(LabelBooksPartial, True, True), (BooksPartial, True, True)]
    assert books[-2:] == [(LabelBooksPartial, True, True), (BooksPartial, False, False)]


def test_an_answer_that_lay_unread_says_nothing_of_the_time_that_it_lay() -> None:
    flow = Flow()
    flow.hear(time.time() * 1000 - 20_000)
    assert now_ms() - flow.answered_ms >= 20_000
    # The process stands still here. What Kafka said meanwhile is read when it goes on.
    flow.hear(time.time() * 1000)
    assert now_ms() - flow.asked_ms >= 20_000
    flow.hear(time.time() * 1000 + 1)
    assert now_ms() - flow.asked_ms < 20_000


def test_progress_that_a_zombie_wrote_later_does_not_take_a_partition_back(
    stage: SketchStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def two(connection: Any, topic: str, partitions: Any, take: Any, **how: Any) -> dict[int, int]:
        for offset in (131_072, 65_536):
            take([Mock(key=b"0", value=Progress(offset, {}).to_bytes(), partition=0, offset=0)])
        return {}

    monkeypatch.setattr(agents.resuming, "read_to_end", two)
    found = asyncio.run(stage.resuming._progress({("inference", 0)}))
    assert found["inference", 0].next_offset == 131_072
