"""`agents/intake.py` on the embedded broker: what a single member of a group is promised."""

from __future__ import annotations

import asyncio
import logging
import time

import faust
import pytest
from aiokafka import TopicPartition
from aiokafka.record._crecords.default_records import DefaultRecord

from agents import topics
from agents.clients import Connection
from agents.intake import Batch, BatchChannel
from agents.replay import generate
from tests.embedded.conftest import Owner, until


async def fill(connection: Connection, topic: str, count: int, *, partitions: int = 2, first: int = 0) -> None:
    await topics.create(connection, topic, partitions)
    await generate(connection, topic, ((b"k%d" % n, b'{"n": %d}' % n) for n in range(first, first + count)))


def test_every_record_comes_once_in_the_order_of_its_partition(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 3_000)
        async with Owner(connection, [topic], topic, max_records=500).running() as owner:
            await until(lambda: owner.count() >= 3_000)
            for partition in range(2):
                offsets = owner.offsets(topic, partition)
                assert offsets == list(range(len(offsets)))
            assert owner.count() == 3_000
            assert all(len(batch.records) <= 500 for batch in owner.batches)

    asyncio.run(main())


def test_a_batch_says_where_it_ends_and_whether_there_is_more(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 1_000, partitions=1)
        async with Owner(connection, [topic], topic, max_records=400).running() as owner:
            await until(lambda: owner.count() >= 1_000)
            first, second, third = owner.batches[:3]
            assert [batch.position for batch in (first, second, third)] == [400, 800, 1_000]
            assert [batch.caught_up for batch in (first, second, third)] == [False, False, True]
            assert third.highwater == 1_000

    asyncio.run(main())


def test_records_are_those_of_the_parser_without_a_copy(connection: Connection, topic: str) -> None:
    """When this fails after an upgrade of aiokafka, intake still works, but a third slower."""

    async def main() -> None:
        await fill(connection, topic, 1, partitions=1)
        async with Owner(connection, [topic], topic).running() as owner:
            await until(owner.count)
            (record,) = owner.batches[0].records
            assert type(record) is DefaultRecord
            assert (record.offset, record.key, record.value, list(record.headers)) == (0, b"k0", b'{"n": 0}', [])
            assert abs(record.timestamp / 1000 - time.time()) < 60

    asyncio.run(main())


def test_a_partition_that_is_idle_says_so_once_a_second(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 2)
        async with Owner(connection, [topic], topic).running() as owner:
            await until(lambda: len(owner.batches) >= 2)
            begun = time.monotonic()
            await until(lambda: len(owner.batches) >= 6)
            assert 1.5 < time.monotonic() - begun < 15
            assert {batch.partition for batch in owner.batches} == {0, 1}
            assert all(batch.caught_up and not batch.records and batch.highwater == 0 for batch in owner.batches)

    asyncio.run(main())


def test_reading_begins_where_the_owner_says(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 100, partitions=1)
        starts = {TopicPartition(topic, 0): 60}
        async with Owner(connection, [topic], topic, starts=starts).running() as owner:
            await until(owner.count)
            assert owner.offsets(topic, 0) == list(range(60, 100))

    asyncio.run(main())


def test_nothing_is_handed_over_before_the_owner_has_said_where_to_begin(connection: Connection, topic: str) -> None:
    """And an owner that takes longer than the session (3 s here) is not thrown out of the group."""

    async def main() -> None:
        await fill(connection, topic, 100, partitions=1)
        starts = {TopicPartition(topic, 0): 90}
        async with Owner(connection, [topic], topic, starts=starts, settle_s=4.0).running() as owner:
            await until(lambda: owner.told)
            begun = time.monotonic()
            await until(owner.count)
            assert time.monotonic() - begun > 3.5
            assert owner.offsets(topic, 0) == list(range(90, 100))
            assert owner.told == [("assigned", {TopicPartition(topic, 0)})]

    asyncio.run(main())


def test_nothing_piles_up_while_nobody_takes_batches_and_the_group_is_kept(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 2_000)
        async with Owner(connection, [topic], topic, room=1, max_records=100).running(listening=False) as owner:
            await until(owner.queue.full)
            full_since = time.monotonic()
            await until(lambda: time.monotonic() - full_since > 4)  # longer than the session
            assert owner.queue.qsize() == 1
            owner.listen()
            await until(lambda: owner.count() >= 2_000)
            assert owner.count() == 2_000
            assert len(owner.told) == 1

    asyncio.run(main())


def test_flow_is_told_per_partition(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 500, partitions=1)
        tp = TopicPartition(topic, 0)
        async with Owner(connection, [topic], topic, room=1, max_records=100).running(listening=False) as owner:
            await until(owner.queue.full)
            waiting = owner.intake.snapshot()[tp]
            assert (waiting.records, waiting.position, waiting.highwater, waiting.lag) == (100, 100, 500, 400)
            owner.listen()
            await until(lambda: owner.intake.snapshot()[tp].lag == 0)
            flow = owner.intake.snapshot()[tp]
            assert flow.records == 500
            assert flow.bytes == sum(len(b'{"n": %d}' % n) for n in range(500))
        assert owner.intake.snapshot() == {}

    asyncio.run(main())


def test_at_a_stop_the_partitions_are_given_back_and_the_channel_is_stale(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 500, partitions=1)
        owner = Owner(connection, [topic], topic, room=1, max_records=100)
        async with owner.running(listening=False):
            await until(owner.queue.full)
            waiting = owner.queue.get_nowait()
            assert owner.intake.current(waiting)
        assert not owner.intake.current(waiting)
        assert [word for word, _ in owner.told] == ["assigned", "revoked"]
        assert owner.intake.assignment == frozenset()

    asyncio.run(main())


def test_the_owner_may_commit_as_long_as_a_partition_is_its(connection: Connection, topic: str) -> None:
    tp, other = TopicPartition(topic, 0), TopicPartition(topic, 7)

    class Committing(Owner):
        async def on_revoked(self, tps: object) -> None:
            assert await self.intake.commit({tp: 7})

    async def committed() -> int | None:
        consumer = connection.consumer(group_id=topic)
        await consumer.start()
        try:
            found: int | None = await consumer.committed(tp)
            return found
        finally:
            await consumer.stop()

    async def main() -> None:
        await fill(connection, topic, 10, partitions=1)
        owner = Committing(connection, [topic], topic)
        async with owner.running():
            await until(owner.count)
            assert await owner.intake.commit({tp: 5, other: 1})
            assert not await owner.intake.commit({other: 1})
            assert await committed() == 5
        assert await committed() == 7
        assert not await owner.intake.commit({tp: 9})

    asyncio.run(main())


def test_an_owner_that_fails_ends_the_service(connection: Connection, topic: str) -> None:
    class Failing(Owner):
        async def on_assigned(self, tps: object) -> dict[TopicPartition, int | None]:
            raise ValueError("no progress topic")

    async def main() -> None:
        await fill(connection, topic, 10, partitions=1)
        async with Failing(connection, [topic], topic).running() as owner:
            await until(lambda: owner.intake.crashed)
            assert str(owner.intake.crash_reason) == "no progress topic"
            assert owner.count() == 0

    asyncio.run(main())


def test_without_kafka_there_is_one_line_in_ten_seconds(caplog: pytest.LogCaptureFixture, topic: str) -> None:
    async def main() -> None:
        nowhere = Connection(broker="127.0.0.1:9")
        begun = time.monotonic()
        async with Owner(nowhere, [topic], topic).running():
            await until(lambda: time.monotonic() - begun > 3)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records if not record.name.startswith("asyncio")]
    assert len(lines) <= 1, lines
    assert "127.0.0.1:9" in " ".join(lines) or not lines  # none, when another test has just used up the ten seconds
    assert not any(record.exc_info for record in caplog.records)


def batch(number: int) -> Batch:
    return Batch("t", 0, [], number, number, True, 0)


def test_nothing_vanishes_from_the_channel_when_faust_rebalances() -> None:
    """Faust clears its own channels then, and cancels who waits to put something in (seen in 0.15.3)."""

    async def main() -> None:
        app = faust.App("channel-test", broker="kafka://127.0.0.1:9")
        channel = BatchChannel(app, maxsize=2)
        await channel.put(batch(0))  # before anyone listens, while Faust's flow is suspended
        await channel.put(batch(1))
        waiting = asyncio.create_task(channel.put(batch(2)))
        await asyncio.sleep(0)
        app.flow_control.suspend()
        app.flow_control.clear()
        app.flow_control.resume()
        listener = aiter(channel.clone(is_iterator=False))
        assert [(await anext(listener)).position for _ in range(3)] == [0, 1, 2]
        await waiting

    asyncio.run(main())


def test_an_agent_reads_the_channel(connection: Connection, topic: str) -> None:
    async def main() -> None:
        app = faust.App("agent-test", broker="kafka://127.0.0.1:9")
        seen: list[int] = []

        async def read(stream: faust.Stream[Batch]) -> None:
            async for item in stream:
                seen.append(item.position)

        channel = BatchChannel(app, maxsize=2)
        agent = app.agent(channel)(read)
        await agent.start()
        try:
            for number in range(10):
                await channel.put(batch(number))
            await until(lambda: seen == list(range(10)))
        finally:
            await agent.stop()

    asyncio.run(main())
