"""Members of a consumer group on Apache Kafka, and what they read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from agents import topics
from agents.clients import Connection
from agents.replay import generate
from tests.embedded.conftest import Owner


async def produce(connection: Connection, topic: str, count: int, *, first: int = 0) -> None:
    await generate(connection, topic, ((b"k%d" % n, b"%d" % n) for n in range(first, first + count)))


async def delete_before(connection: Connection, tp: TopicPartition, offset: int) -> None:
    async with topics.admin(connection) as client:
        await client.delete_records({tp: RecordsToDelete(before_offset=offset)})


class Member(Owner):
    """Keeps its progress where the others find it, and goes on where the last owner of a partition was."""

    def __init__(self, *arguments: Any, progress: dict[TopicPartition, int], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.progress = progress

    async def on_assigned(self, tps: AbstractSet[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        await super().on_assigned(tps)
        return {tp: self.progress.get(tp) for tp in tps}

    async def _take(self) -> None:
        while True:
            batch = await self.queue.get()
            await asyncio.sleep(0.002)  # a rebalance may come between a batch and its processing
            if self.intake.current(batch):
                self.batches.append(batch)
                self.progress[TopicPartition(batch.topic, batch.partition)] = batch.position
            else:
                self.stale.append(batch)


@asynccontextmanager
async def producing(connection: Connection, topic: str) -> AsyncIterator[list[int]]:
    """A few hundred records a second; in the end, how many there are."""
    total = [0]
    ending = asyncio.Event()

    async def go_on() -> None:
        while not ending.is_set():
            await produce(connection, topic, 100, first=total[0])
            total[0] += 100

    task = asyncio.create_task(go_on())
    try:
        yield total
    finally:
        ending.set()
        await task


def processed(owners: list[Owner], topic: str) -> list[tuple[int, int]]:
    return sorted(
        (batch.partition, offset)
        for owner in owners
        for batch in owner.batches
        if batch.topic == topic
        for offset in batch.records.offsets
    )
