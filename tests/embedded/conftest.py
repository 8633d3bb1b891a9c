"""One embedded broker for the whole session: give topics and groups names of their own."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition

sys.path.insert(0, str(Path(__file__).parents[2]))

from agents.broker import EmbeddedBroker
from agents.channel import Batch
from agents.clients import Connection
from agents.intake import Intake


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedBroker]:
    """A started broker."""
    started = EmbeddedBroker()
    asyncio.run(started.start())
    yield started
    asyncio.run(started.stop())


@pytest.fixture
def connection(broker: EmbeddedBroker) -> Connection:
    """How to reach it."""
    return broker.connection()


@pytest.fixture
def topic() -> str:
    """A name that no other test has."""
    return f"t-{uuid4().hex[:8]}"


async def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait until it holds; AssertionError when it doesn't in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        await asyncio.sleep(0.01)


class Owner:
    """An intake with all that was asked of its owner, and the batches that it may process."""

    def __init__(
        self,
        connection: Connection,
        topics: list[str],
        group: str,
        *,
        starts: Mapping[TopicPartition, int | None] | None = None,
        room: int = 8,
        settle_s: float = 0.0,
        **intake: Any,
    ) -> None:
        self.queue: asyncio.Queue[Batch] = asyncio.Queue(room)
        self.starts = dict(starts or {})
        self.settle_s = settle_s
        self.told: list[tuple[str, set[TopicPartition]]] = []
        self.batches: list[Batch] = []
        self.stale: list[Batch] = []
        self.intake = Intake(
            connection,
            topics,
            group,
            self.queue,
            on_assigned=self.on_assigned,
            on_revoked=self.on_revoked,
            **intake,
        )
        self._agent: asyncio.Task[None] | None = None

    async def on_assigned(self, tps: AbstractSet[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        self.told.append(("assigned", set(tps)))
        await asyncio.sleep(self.settle_s)
        return self.starts

    async def on_revoked(self, tps: AbstractSet[TopicPartition]) -> None:
        self.told.append(("revoked", set(tps)))

    def listen(self) -> None:
        """Begin to take batches out of the channel."""
        self._agent = asyncio.create_task(self._take())

    async def _take(self) -> None:
        while True:
            batch = await self.queue.get()
            (self.batches if self.intake.current(batch) else self.stale).append(batch)

    def offsets(self, topic: str, partition: int) -> list[int]:
        """Of the records that were processed, in their order."""
        ours = (batch for batch in self.batches if (batch.topic, batch.partition) == (topic, partition))
        return [offset for batch in ours for offset in batch.records.offsets]

    def count(self) -> int:
        """Records processed."""
        return sum(len(batch.records) for batch in self.batches)

    @asynccontextmanager
    async def running(self, *, listening: bool = True) -> AsyncIterator[Owner]:
        """Start it, and stop it in the end."""
        if listening:
            self.listen()
        await self.intake.start()
        try:
            yield self
        finally:
            await self.intake.stop()
            if self._agent is not None:
                self._agent.cancel()
