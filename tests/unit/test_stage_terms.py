"""When the stages look again, begin anew, and where they keep what: against plain arithmetic."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka import TopicPartition

import agents.merge
from agents.clients import Connection
from agents.merge import MergeStage
from agents.publish import Outgoing
from agents.sketch import SketchStage
from streams.configure import load
from streams.errors import RecordTooLarge
from streams.plan import Facts, compile_plan
from streams.publication import BOOKS_KEY
from tests.unit.test_merge_stage import YAML
from tests.unit.test_sketch_stage import stage as sketch_stage

__all__ = ["sketch_stage"]

SIZES = [([], 10, False), ([10], 10, True), ([11], 10, False), ([3, 10, 4], 10, True), ([3, 4, 11], 10, False)]


def merge_stage() -> MergeStage:
    return MergeStage(compile_plan(load(YAML), {}), Connection(broker="none:1"), Mock(), 1, {})


@pytest.mark.parametrize(("sizes", "limit", "again"), SIZES)
def test_a_stage_begins_anew_when_nothing_is_larger_than_its_topic_takes(
    sizes: list[int], limit: int, again: bool, sketch_stage: SketchStage
) -> None:
    merge = merge_stage()
    merge.too_large = {str(size): RecordTooLarge("windows", size, 1) for size in sizes}
    sketch_stage.too_large = {("inference", 0): {str(size): size for size in sizes}}
    for stage in (merge, sketch_stage):
        stage.producer = Mock(**{"limit.return_value": limit})
        stage.intake = Mock()
        stage.retry()
        assert stage.intake.rejoin.called == again


def test_a_model_whose_share_of_a_partial_is_too_large_is_parked_and_reported_once(sketch_stage: SketchStage) -> None:
    asyncio.run(sketch_stage.on_assigned({TopicPartition("inference", 0)}))
    sketch_stage.producer = Mock(**{"limit.return_value": 5})
    for partition in (0, 7):  # of which one is not ours any more
        sketch_stage._park_too_large(("inference", partition), {"shop": 9})
    assert sketch_stage.too_large == {("inference", 0): {"shop": 9}, ("inference", 7): {"shop": 9}}
    fold = sketch_stage.folds[0]
    assert "shop" in fold.parking and not fold.parking.news()


@pytest.mark.parametrize("looked_s", [0.0, 0.1, 0.2, 0.25, 3.0])
@pytest.mark.parametrize("published_s", [0.0, 5.0])
def test_a_bucket_is_looked_at_again_after_four_times_what_looking_took_and_a_second_at_the_most(
    looked_s: float, published_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]

    def looking() -> Iterator[str]:
        now[0] += looked_s
        yield "an outcome"

    async def publishing(*arguments: Any) -> None:
        now[0] += published_s

    stage = merge_stage()
    monkeypatch.setattr(agents.merge, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(stage, "_publish", publishing)
    assert asyncio.run(stage._judge(3, Mock(advance=looking), lambda: True))
    assert stage._judge_from[3] == pytest.approx(now[0] + min(1.0, 4 * looked_s))


def test_books_are_kept_by_topic_and_those_of_the_events_by_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = compile_plan(
        load(YAML.replace("    rules", "    kpis: {k: {aggregate: sum, better: lower}}\n    rules")), {}
    )
    stage = MergeStage(plan, Connection(broker="none:1"), Mock(), 1, {Facts.OUTCOMES: 1})
    sent: list[Outgoing] = []

    async def publish(producer: Any, records: list[Outgoing], *rest: Any) -> None:
        sent.extend(records)

    async def read(*arguments: Any, **how: Any) -> dict[int, int]:
        return {0: 0}

    monkeypatch.setattr(agents.merge, "publish", publish)
    monkeypatch.setattr(agents.merge, "read_to_end", read)
    stage.intake = Mock(unbroken=False)
    asyncio.run(stage.on_assigned({TopicPartition("partials", 0)}))
    judge = stage.judges[0]
    monkeypatch.setattr(judge, "expire", lambda: [b"gone"])
    asyncio.run(stage._expire(0, judge, lambda: True))
    assert [(r.topic, r.key, r.partition) for r in sent] == [
        ("state", BOOKS_KEY, 0),
        ("state", BOOKS_KEY + b"outcomes", 0),
        ("partials", b"gone", 0),
    ]
