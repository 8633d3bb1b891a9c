"""How long the event loop is held at a time by many partitions of many models, in processor time of its thread."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry

import agents.merge
import agents.resuming
from agents.channel import NO_RECORDS, Batch
from agents.clients import Connection
from agents.exporter import Exporter
from agents.merge import MergeStage
from agents.page import MetricsPage
from agents.publish import Outgoing
from agents.sketch import SketchStage
from streams.codecs import decoder_of
from streams.configure import load
from streams.plan import Plan, compile_plan
from streams.records import Records

PARTITIONS, MODELS, BUCKETS, RECORDS = 6, 800, 2, 2_048
BOUND_S = 0.25
"""Of processor time. What grows with partitions times models takes a second and more here."""
MODEL = """
    pane: 1m
    features: {age: {type: numeric}, country: {type: categorical}}
    rules:
      - {name: nulls, signals: [null_rate], response: data_incident}
"""


class Log:
    """Takes the place of the producer: what is sent to `partials` lies here, by bucket."""

    client = None

    def __init__(self) -> None:
        self.records: dict[int, list[Outgoing]] = {bucket: [] for bucket in range(BUCKETS)}
        self.taken = dict.fromkeys(range(BUCKETS), 0)
        self.largest: dict[str, int] = {}
        self.low_since: dict[str, float] = {}

    def limit(self, topic: str) -> int:
        return 1 << 24

    async def partitions_for(self, topic: str) -> set[int]:
        return {0}

    async def send(self, records: Sequence[Outgoing]) -> list[Any]:
        await asyncio.sleep(0)
        found = []
        for record in records:
            log = self.records[record.partition or 0] if record.topic == "partials" else []
            log.append(record)
            found.append(SimpleNamespace(topic=record.topic, partition=record.partition or 0, offset=len(log) - 1))
        return found

    def batch(self, bucket: int) -> Batch:
        """What nobody has taken."""
        first, log = self.taken[bucket], self.records[bucket]
        self.taken[bucket] = end = len(log)
        keys, values = [item.key for item in log[first:]], [item.value for item in log[first:]]
        records = Records(range(first, end), [0] * len(keys), values, keys=keys) if keys else NO_RECORDS
        return Batch("partials", bucket, records, end, end, True, 0, 0)


def events(partition: int, round_: int, at_ms: int) -> Records:
    values = [
        json.dumps(
            {
                "event_id": f"e{partition}-{round_}-{n}",
                "ts": at_ms + n % 50_000,
                "model": f"m{(partition + n) % MODELS}",
                "features": {"age": n % 90, "country": "DE"},
            }
        ).encode()
        for n in range(RECORDS)
    ]
    return Records(range(round_ * RECORDS, (round_ + 1) * RECORDS), [at_ms + 60_000] * RECORDS, values)


async def worked(plan: Plan) -> dict[str, Any]:
    """Both stages read two rounds of all partitions, while their metrics are asked for."""
    connection, log = Connection(broker="none:1"), Log()
    sketch = SketchStage(plan, connection, cast(Any, log), "a", None)
    merge = MergeStage(plan, connection, cast(Any, log), PARTITIONS, {})
    sketch.intake = merge.intake = cast(
        Any,
        SimpleNamespace(
            logs={},
            current=lambda batch: True,
            unbroken=False,
            commit=lambda offsets: asyncio.sleep(0, True),
            snapshot=dict,
            hold_back=lambda tp, waits: None,
            releases=0,
            waits="",
        ),
    )
    registry = CollectorRegistry()
    registry.register(Exporter(sketch, merge, cast(Any, SimpleNamespace(rejected=0)), 20_000))
    page = MetricsPage(registry)
    await sketch.on_assigned({TopicPartition("inference", partition) for partition in range(PARTITIONS)})
    await merge.on_assigned({TopicPartition("partials", bucket) for bucket in range(BUCKETS)})
    for round_ in range(2):
        for partition in range(PARTITIONS):
            sketch._published_ms.clear()  # as if a second had passed
            records = events(partition, round_, int(time.time() * 1000) - 600_000 + 120_000 * round_)
            await sketch.process(Batch("inference", partition, records, (round_ + 1) * RECORDS, 1 << 30, False, 0, 0))
            for bucket in range(BUCKETS):
                await merge.process(log.batch(bucket))
        await page.get()
    for bucket in range(BUCKETS):
        await merge.process(Batch("partials", bucket, NO_RECORDS, log.taken[bucket], log.taken[bucket], True, 0, 0))
    page.close()
    return {name: model.books.read for judge in merge.judges.values() for name, model in judge.merge.models.items()}


def longest_turn(run: Callable[[], Coroutine[Any, Any, Any]], monkeypatch: pytest.MonkeyPatch) -> tuple[float, Any]:
    """Processor seconds of the callback that held the loop longest, and the result."""
    plain, longest = asyncio.events.Handle._run, [0.0]

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        plain(handle)
        longest[0] = max(longest[0], time.thread_time() - began)

    monkeypatch.setattr(asyncio.events.Handle, "_run", timed)
    result = asyncio.run(run())
    return longest[0], result


def test_the_loop_is_never_held_for_long(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    async def nothing(connection: Any, topic: str, partitions: Any, *arguments: Any, **how: Any) -> dict[int, int]:
        return dict.fromkeys(partitions, 0)

    monkeypatch.setattr(agents.resuming, "read_to_end", nothing)
    monkeypatch.setattr(agents.merge, "read_to_end", nothing)
    text = f"kafka: {{buckets: {BUCKETS}}}\nmodels:\n" + "".join(f"  m{n}:{MODEL}" for n in range(MODELS))
    plan = compile_plan(load(text), {})
    decoder_of(plan)
    gc.freeze()  # as the worker does
    request.addfinalizer(gc.unfreeze)
    held_s, read = longest_turn(lambda: worked(plan), monkeypatch)
    assert sum(read.values()) == 2 * PARTITIONS * RECORDS
    assert held_s < BOUND_S
