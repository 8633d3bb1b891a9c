"""`agents/fetching.py` on Apache Kafka: what lies fetched is bounded by bytes, and holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka import TopicPartition

from agents import fetching, topics
from agents.clients import Connection
from agents.intake import Intake
from agents.replay import generate
from tests.batches import ZSTD, Batch, Item, produce_batches
from tests.embedded.conftest import Owner, until

MIB = 1 << 20
PARTITIONS = 12
ROOM = {"max.message.bytes": str(8 * MIB)}


def store_of(intake: Intake) -> Any:
    consumer = intake._consumer
    return consumer._fetcher._records if consumer is not None else fetching.Fetched()


async def fill(connection: Connection, topic: str, partitions: Iterable[int] = range(PARTITIONS)) -> None:
    """Two batches of 2 MB in each partition: larger than a fetch of it may be, so that each comes as it is."""
    await topics.create(connection, topic, PARTITIONS, ROOM)
    for partition in partitions:
        batch = Batch(0, [Item(b"%d" % n + bytes(MIB)) for n in range(2)])
        await produce_batches(connection.servers, topic, [batch, batch], partition)


def test_what_lies_fetched_is_bounded_however_many_partitions_there_are(
    connection: Connection, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FETCHED_BYTES", 4 * MIB)

    async def main() -> None:
        await fill(connection, topic)
        async with Owner(connection, [topic], topic, room=1).running(listening=False) as owner:
            await until(owner.queue.full)
            most = 0
            for _ in range(100):
                await asyncio.sleep(0.02)
                most = max(most, store_of(owner.intake).bytes)
            assert 0 < most <= 4 * MIB + 3 * MIB
            owner.listen()
            await until(lambda: owner.count() == 4 * PARTITIONS)
            assert store_of(owner.intake).bytes == 0
            assert all(owner.offsets(topic, p) == [0, 1, 2, 3] for p in range(PARTITIONS))

    asyncio.run(main())


def test_partitions_that_wait_with_much_fetched_do_not_hold_up_the_others(
    connection: Connection, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FETCHED_BYTES", 2 * MIB)

    async def main() -> None:
        last = PARTITIONS - 1
        waiting = [TopicPartition(topic, p) for p in range(last)]
        await fill(connection, topic, range(last))
        async with Owner(connection, [topic], topic, room=1).running(listening=False) as owner:
            await until(owner.queue.full)
            for tp in waiting:
                owner.intake.hold_back(tp, True)
            owner.listen()
            await asyncio.sleep(1)  # for more to be fetched of those that wait, if that is not kept in bounds
            await fill(connection, topic, [last])
            await until(lambda: owner.offsets(topic, PARTITIONS - 1) == [0, 1, 2, 3])
            assert store_of(owner.intake).bytes < 8 * MIB
            for tp in waiting:
                owner.intake.hold_back(tp, False)
            await until(lambda: owner.count() == 4 * PARTITIONS)
            assert all(owner.offsets(topic, p) == [0, 1, 2, 3] for p in range(PARTITIONS))

    asyncio.run(main())


def test_one_poll_unpacks_no_more_than_its_budget_over_all_partitions(
    connection: Connection, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred records of a megabyte in each of four partitions are a few hundred kilobytes on the broker."""
    monkeypatch.setattr(fetching, "POLL_BYTES", 8 * MIB)

    async def main() -> None:
        await topics.create(connection, topic, 4, ROOM)
        for partition in range(4):
            batch = Batch(0, [Item(b"%d" % n + b"a" * MIB) for n in range(60)], ZSTD)
            await produce_batches(connection.servers, topic, [batch], partition)
        async with Owner(connection, [topic], topic, room=1).running(listening=False) as owner:
            sizes, seen = [], 0
            while seen < 240:
                batch = await owner.queue.get()
                sizes.append(sum(map(len, batch.records.values)))
                seen += len(batch.records)
            assert max(sizes) <= 8 * MIB + 4 * MIB

    asyncio.run(main())


def test_every_consumer_reads_on_behind_what_it_cannot_read(connection: Connection, topic: str) -> None:
    """Also one that asks for records one by one."""

    async def main() -> None:
        await topics.create(connection, topic, 1)
        named = Item(b"named", headers=[(b"\xff", b"x")])
        await produce_batches(connection.servers, topic, [Batch(0, [Item(b"first"), named])], 0)
        await generate(connection, topic, [(b"k", b"last")])
        consumer = connection.consumer()
        await consumer.start()
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(20):
            found = [(await consumer.getone()).value for _ in range(3)]
        await consumer.stop()
        assert found == [b"first", b"named", b"last"]

    asyncio.run(main())
