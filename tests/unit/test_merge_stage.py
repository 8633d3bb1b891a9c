"""Stage 2 of the shell: what it reads back from the state topic, in whatever order compaction has left it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from aiokafka import TopicPartition

import agents.merge
from agents.channel import NO_RECORDS, Batch
from agents.clients import Connection
from agents.merge import MergeStage
from streams.configure import load
from streams.fingerprint import made_of
from streams.judge import BucketJudge
from streams.plan import compile_plan
from streams.publication import UNIT_KEY
from streams.rollup import Unit
from streams.state import ModelState, pack_unit

HOUR_MS = 3_600_000
YAML = """
kafka: {buckets: 1}
models:
  shop:
    rules:
      - {name: slow, signals: [null_rate], response: data_incident, over: 12h}
"""


@pytest.mark.parametrize("units_first", [True, False])
def test_what_is_kept_of_a_model_outlives_the_order_of_the_log(
    units_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is written anew with every pane: compaction leaves it behind the units that were written before."""
    state = ModelState(model="shop", judged_until_ms=5 * HOUR_MS, first_pane_ms=0, last_event_pane_ms=0)
    unit = pack_unit("shop", Unit(HOUR_MS, 2 * HOUR_MS, {}))
    pairs = [(UNIT_KEY + b"shop/1h/7200000", unit), (b"shop", msgspec.json.encode(state))]
    records = [
        SimpleNamespace(partition=0, key=key, value=value) for key, value in (pairs if units_first else pairs[::-1])
    ]

    async def read(
        connection: Any, topic: str, partitions: Any, take: Callable[[Sequence[Any]], None], **how: Any
    ) -> Any:
        take(records)
        return {0: len(records)}

    monkeypatch.setattr(agents.merge, "read_to_end", read)
    plan = compile_plan(load(YAML), {})
    judge = BucketJudge(plan, 0, plan.config.kafka.inference, 1)
    asyncio.run(MergeStage(plan, Connection(broker="none:1"), Mock(), 1, {})._load_state({0: judge}))
    found = judge.judges["shop"]
    assert found.state == msgspec.structs.replace(state, made=made_of(plan.models["shop"]))
    assert found.events.rollup.finished() == {("", HOUR_MS, 2 * HOUR_MS)}


@pytest.mark.parametrize("unbroken", [True, False])
def test_after_a_rebalance_only_what_was_not_ours_is_rebuilt(unbroken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two buckets come back, one of them cut off in the middle of its work, and one is new."""
    rebuilt: list[tuple[str, list[int]]] = []

    async def read(connection: Any, topic: str, partitions: Any, take: Any, **how: Any) -> Any:
        rebuilt.append((topic, sorted(partitions)))
        return {bucket: 100 for bucket in partitions}

    monkeypatch.setattr(agents.merge, "read_to_end", read)
    stage = MergeStage(compile_plan(load(YAML.replace("1}", "4}")), {}), Connection(broker="none:1"), Mock(), 1, {})
    stage.intake = Mock(unbroken=False, **{"current.return_value": True})

    def assigned(*buckets: int) -> dict[TopicPartition, int | None]:
        return dict(asyncio.run(stage.on_assigned({TopicPartition("partials", bucket) for bucket in buckets})))

    def process(bucket: int, position: int) -> None:
        asyncio.run(stage.process(Batch("partials", bucket, NO_RECORDS, position, position, True, 0, 0)))

    assigned(0, 1)
    process(0, 120)
    process(1, 130)
    whole = stage.judges[0]
    stage.intake.current.side_effect = [True, False, False]  # given back in the middle of the next batch
    process(1, 140)
    rebuilt.clear()

    asyncio.run(stage.on_revoked(set()))
    assert not stage.judges, "nothing is told of models that may be another's"
    stage.intake.unbroken = unbroken
    starts = assigned(0, 1, 2)
    read_again = [1, 2] if unbroken else [0, 1, 2]
    assert rebuilt == [("state", read_again), ("partials", read_again)]
    assert (stage.judges[0] is whole) == unbroken
    assert {tp.partition: start for tp, start in starts.items()} == {0: 120 if unbroken else 100, 1: 100, 2: 100}
    assert stage.judges.keys() == {0, 1, 2}


def test_how_much_of_a_rebuild_is_left_is_known_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []

    async def read(connection: Any, topic: str, partitions: Any, take: Any, **how: Any) -> Any:
        for done in (0, 60, 100):
            how["progress"](done, 100)
            left.append(stage.to_rebuild)
        return {bucket: 100 for bucket in partitions}

    monkeypatch.setattr(agents.merge, "read_to_end", read)
    stage = MergeStage(compile_plan(load(YAML), {}), Connection(broker="none:1"), Mock(), 1, {})
    asyncio.run(stage.on_assigned({TopicPartition("partials", 0)}))
    assert left == [100, 40, 0] * 2, "of the state, then of the partials"
