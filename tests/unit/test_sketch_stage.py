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

import agents.sketch
from agents.clients import Connection
from agents.sketch import SketchStage, now_ms
from agents.store import Stores
from streams.configure import load
from streams.plan import compile_plan

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

    monkeypatch.setattr(agents.sketch, "read_to_end", nothing)
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
