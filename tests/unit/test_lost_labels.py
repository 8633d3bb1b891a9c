"""Labels that were gone before they were read: each is counted once, whenever the worker that finds it dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from agents.clients import Connection
from agents.sketch import SketchStage
from agents.store import Stores
from streams.progress import Progress
from streams.resume import Change, Resumption, SourceLog
from tests.strategies import plan_of

PLACE = ("labels", 0)
PLAN = plan_of(
    """
models:
  alpha:
    pane: 1m
    labels: {task: binary, classes: ["0", "1"], horizon: 1h}
    features: {amount: {type: numeric}}
"""
)


@pytest.mark.parametrize("read", [0, 2, 6])
def test_a_worker_that_dies_before_its_store_is_written_counts_no_lost_label_twice(tmp_path: Path, read: int) -> None:
    """The store has read labels up to `read`, and the log moves its start; each life finds the store as it was."""
    written = [Progress(0, {})]
    for start in (7, 7, 10, 10, 12):
        stage = SketchStage(PLAN, Connection(broker="none:1"), Mock(), "a", Stores(tmp_path), [])

        async def write(place: object, progress: Progress) -> None:
            written.append(progress)

        stage.resuming.write = write  # type: ignore[method-assign]
        stage._logs = {PLACE: SourceLog(("b",), start, None, 0)}
        joins = {0: SimpleNamespace(lost_labels=start - read)}
        resumed = {PLACE: Resumption(written[-1], Change.NONE)}
        asyncio.run(stage._note_lost_labels(joins, resumed))  # type: ignore[arg-type]
        assert stage.lost_labels == {0: start - read} == {0: written[-1].lost}
    assert len(written) == 4
