"""The label joins of the partitions that a worker owns, each over its store on the disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

from agents.clock import now_ms
from agents.resuming import Place, Resuming
from agents.store import RocksStore, Stores
from streams.errors import StoreDamaged, StoreHeld
from streams.join.fold import JoinFold
from streams.plan import Plan
from streams.resume import SourceLog

PATIENCE_MS = 600_000
"""So long predictions stay in the join by the clock, however fast a past is replayed."""
HELD_S, HELD_LOOK_S = 10.0, 0.5
"""So long a store that another process holds is waited for."""


class Joins:
    """Opens label joins. `source`, `labels`: the topics, with their prefix."""

    def __init__(self, plan: Plan, stores: Stores, resuming: Resuming, source: str, labels: str) -> None:
        self._plan, self._stores, self._resuming = plan, stores, resuming
        self._source, self._labels = source, labels

    async def opened(self, partitions: Iterable[int], logs: Mapping[Place, SourceLog]) -> dict[int, JoinFold]:
        """The joins of these partitions, none of which begins with less than was published of it."""
        joins: dict[int, JoinFold] = {}
        for partition in partitions:
            joins[partition] = await self._join(partition, logs)
            await asyncio.sleep(0)  # heartbeats go out in between
        lacking = {partition for partition, join in joins.items() if join.lacks_published}
        published = await self._resuming.outcomes(self._labels, lacking) if lacking else {}
        for partition, partials in published.items():
            joins[partition].go_on_from(partials)
        return joins

    async def _join(self, partition: int, logs: Mapping[Place, SourceLog]) -> JoinFold:
        """The label join as its store has it; if that is damaged, an empty one, to be rebuilt."""
        try:
            return await self._over_store(partition, logs)
        except StoreDamaged:
            self._stores.condemn(partition)
            return await self._over_store(partition, logs)

    async def _over_store(self, partition: int, logs: Mapping[Place, SourceLog]) -> JoinFold:
        both = logs.get((self._source, partition)), logs.get((self._labels, partition))
        store, topic = await self._store(partition), self._plan.config.kafka.labels
        return JoinFold(self._plan, topic, partition, store, now_ms(), PATIENCE_MS, both)

    async def _store(self, partition: int) -> RocksStore:
        """The partition's store. One that another process holds, which may be about to end, is waited for a while."""
        deadline = time.monotonic() + HELD_S
        while time.monotonic() < deadline:
            try:
                return self._stores.open(self._source, partition)
            except StoreHeld:
                await asyncio.sleep(HELD_LOOK_S)
        return self._stores.open_beside(self._source, partition)
