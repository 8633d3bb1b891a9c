"""`agents/intake.py` and what it stands on, on Apache Kafka: rebalances, broker restarts, truncated topics."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions

from agents import clients, flow, intake, topics
from agents.channel import Batch
from agents.clients import Connection
from agents.loader import read_to_end
from deploy.kafka import Broker
from streams.errors import BrokerError
from tests.embedded.conftest import Owner, until
from tests.kafka.members import Member, delete_before, processed, produce, producing


def test_while_members_come_and_go_every_record_is_processed_once(connection: Connection, topic: str) -> None:
    """Exactly once even: here progress is kept in the same step in which a batch is processed."""

    async def main() -> None:
        await topics.create(connection, topic, 4)
        progress: dict[TopicPartition, int] = {}

        def member() -> Member:
            return Member(connection, [topic], topic, progress=progress, max_records=50)

        first, second, third = owners = [member(), member(), member()]
        async with producing(connection, topic) as total, first.running():
            await until(lambda: first.count() > 300)
            async with second.running():
                await until(lambda: len(first.intake.assignment) == len(second.intake.assignment) == 2)
                await until(lambda: second.count() > 300)
                async with third.running():
                    await until(lambda: third.count() > 100)
            await until(lambda: len(first.intake.assignment) == 4)
        async with member().running() as last:
            seen = [*owners, last]
            await until(lambda: len(processed(seen, topic)) >= total[0])
        found = processed(seen, topic)
        assert len(found) == len(set(found)) == total[0]
        assert found == [(p, n) for p in range(4) for n in range(progress[TopicPartition(topic, p)])]

    asyncio.run(main())


def test_what_was_fetched_before_a_revocation_is_not_current_after_it(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 2)
        await produce(connection, topic, 1_000)
        first = Owner(connection, [topic], topic, room=1, max_records=10)
        second = Owner(connection, [topic], topic)
        async with first.running(listening=False):
            await until(first.queue.full)
            waiting = first.queue.get_nowait()
            await until(first.queue.full)
            assert first.intake.current(waiting)
            async with second.running():
                await until(lambda: len(second.intake.assignment) == 1)
                assert not first.intake.current(waiting)
                fresh: list[Batch] = []
                while not fresh:  # the queue still holds what was put there before
                    batch = await asyncio.wait_for(first.queue.get(), 20)
                    fresh += [batch] if first.intake.current(batch) else []
                assert TopicPartition(topic, fresh[0].partition) in first.intake.assignment
                assert fresh[0].records.offsets[0] == 0
        both = {TopicPartition(topic, 0), TopicPartition(topic, 1)}
        assert first.told[:2] == [("assigned", both), ("revoked", both)]

    asyncio.run(main())


def test_of_one_fetch_nothing_that_waited_is_taken_for_new_after_a_rebalance(
    connection: Connection, topic: str
) -> None:
    """Of six partitions fetched at once, one batch is in the channel, one waits for room, four are not made yet."""

    async def main() -> None:
        await topics.create(connection, topic, 6)
        await produce(connection, topic, 600)
        first = Owner(connection, [topic], topic, room=1)
        second = Owner(connection, [topic], topic)
        async with first.running(listening=False):
            await until(first.queue.full)
            async with second.running():
                await until(lambda: len(second.intake.assignment) == 3)
                first.listen()
                await until(lambda: len(processed([first, second], topic)) >= 600)
                assert processed([first, second], topic) == sorted(set(processed([first, second], topic)))
                assert {(batch.topic, batch.partition) for batch in first.batches} == set(first.intake.assignment)
                assert not first.intake.crashed

    asyncio.run(main())


def test_co_partitioned_topics_come_to_the_same_member(connection: Connection, topic: str) -> None:
    async def main() -> None:
        names = [topic, f"{topic}-labels"]
        for name in names:
            await topics.create(connection, name, 4)
        owners = [Owner(connection, names, topic) for _ in range(2)]
        async with owners[0].running(), owners[1].running():
            await until(lambda: all(len(owner.intake.assignment) == 4 for owner in owners))
            for owner in owners:
                of = {name: {tp.partition for tp in owner.intake.assignment if tp.topic == name} for name in names}
                assert of[names[0]] == of[names[1]]

    asyncio.run(main())


def test_who_joins_and_leaves_moves_no_more_than_has_to(connection: Connection, topic: str) -> None:
    """Partitions of both topics go from three members to four, to three, together; the rest stays where it was."""

    async def main() -> None:
        names = [topic, f"{topic}-labels"]
        for name in names:
            await topics.create(connection, name, 12)
        owners = [Owner(connection, names, topic) for _ in range(4)]
        old, guest = owners[:3], owners[3]

        def evenly(among: list[Owner]) -> bool:
            return all(len(owner.intake.assignment) == 24 // len(among) and owner.intake.settled for owner in among)

        async with old[0].running(), old[1].running(), old[2].running():
            await until(lambda: evenly(old))
            before = [owner.intake.assignment for owner in old]
            async with guest.running():
                await until(lambda: evenly(owners))
                assert all(owner.intake.assignment < had for owner, had in zip(old, before, strict=True))
                assert all(owner.intake.unbroken for owner in old)
                fewer = [owner.intake.assignment for owner in old]
            await until(lambda: evenly(old))
            assert all(owner.intake.assignment > had for owner, had in zip(old, fewer, strict=True))
            for owner in old:
                of = {name: {tp.partition for tp in owner.intake.assignment if tp.topic == name} for name in names}
                assert of[names[0]] == of[names[1]]

    asyncio.run(main())


def test_a_static_member_that_restarts_disturbs_nobody(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 2)
        one, two, again = (Owner(connection, [topic], topic, group_instance_id=name) for name in ("a", "b", "b"))
        async with one.running():
            async with two.running():
                await until(lambda: len(one.intake.assignment) == len(two.intake.assignment) == 1)
                await until(lambda: one.intake.settled and two.intake.settled)  # the last assignment has been told
                told = len(one.told)
                had = two.intake.assignment
            async with again.running():
                await until(lambda: again.intake.assignment == had and again.intake.settled)
                assert len(one.told) == told

    asyncio.run(main())


def test_added_partitions_are_taken_up(connection: Connection, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clients.CONSUMER, "metadata_max_age_ms", 500)

    async def main() -> None:
        await topics.create(connection, topic, 1)
        async with Owner(connection, [topic], topic).running() as owner:
            await until(lambda: len(owner.intake.assignment) == 1)
            async with topics.admin(connection) as client:
                await client.create_partitions({topic: NewPartitions(3)})
            await until(lambda: len(owner.intake.assignment) == 3)
            await produce(connection, topic, 300)
            await until(lambda: len(processed([owner], topic)) >= 300)

    asyncio.run(main())


@pytest.mark.parametrize("down", [True, False], ids=["while it is down", "after it is back"])
def test_a_leader_that_came_back_under_its_name_takes_up_added_partitions(
    connection: Connection, topic: str, down: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka gives it back what it had, without a rebalance, and does not tell it that it leads."""
    monkeypatch.setitem(clients.CONSUMER, "metadata_max_age_ms", 500)
    monkeypatch.setattr(intake, "COUNT_EVERY_S", 0.5)

    async def add() -> None:
        async with topics.admin(connection) as client:
            await client.create_partitions({topic: NewPartitions(3)})

    async def main() -> None:
        await topics.create(connection, topic, 1)
        one, again = (Owner(connection, [topic], topic, group_instance_id="a") for _ in range(2))
        async with one.running():
            await until(lambda: len(one.intake.assignment) == 1)
        if down:
            await add()
        async with again.running():
            await until(lambda: again.intake.assignment)
            if not down:
                await add()
            await until(lambda: len(again.intake.assignment) == 3)

    asyncio.run(main())


def test_a_broker_that_restarts_is_waited_for(tmp_path: Path, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main(kafka: Broker) -> None:
        connection = Connection(broker=kafka.bootstrap)
        await topics.create(connection, topic, 2)
        await produce(connection, topic, 1_000)
        progress: dict[TopicPartition, int] = {}
        async with Member(connection, [topic], topic, progress=progress).running() as owner:
            await until(lambda: len(processed([owner], topic)) == 1_000)
            await asyncio.to_thread(kafka.stop)
            idle_before = len(owner.batches)
            loop = asyncio.get_running_loop()
            down_since = loop.time()
            await until(lambda: loop.time() - down_since > 5)
            fresh = flow.FRESH_MS / 1000 / intake.IDLE_EVERY_S
            assert len(owner.batches) <= idle_before + 2 * (fresh + 1)  # who does not answer is not idle
            await asyncio.to_thread(kafka.restart)
            await produce(connection, topic, 1_000, first=1_000)
            await until(lambda: len(processed([owner], topic)) >= 2_000, 60)
            assert len(set(processed([owner], topic))) == len(processed([owner], topic)) == 2_000
            assert not owner.intake.crashed

    with caplog.at_level(logging.WARNING), Broker.start(tmp_path) as kafka:
        begun = asyncio.run(_timed(main(kafka)))
    lines = [record for record in caplog.records if record.name.startswith(("aiokafka", "agents"))]
    assert len(lines) <= begun / 10 + 1, [record.getMessage() for record in lines]
    assert not any(record.exc_info for record in caplog.records)


async def _timed(coroutine: Any) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await coroutine
    return loop.time() - begun


def test_a_start_that_is_gone_is_seen_and_reading_goes_on_at_the_earliest(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1)
        await produce(connection, topic, 100)
        tp = TopicPartition(topic, 0)
        await delete_before(connection, tp, 50)
        async with Owner(connection, [topic], topic, starts={tp: 10}).running() as owner:
            await until(owner.count)
            assert owner.intake.logs[tp].start == 50
            assert owner.offsets(topic, 0) == list(range(50, 100))

    asyncio.run(main())


def test_a_topic_that_was_made_anew_is_not_read_as_the_one_before(connection: Connection, topic: str) -> None:
    """Its offsets begin again: they were counted, and its records were not."""

    async def main() -> None:
        await topics.create(connection, topic, 1)
        await produce(connection, topic, 100)
        async with Owner(connection, [topic], topic, starts={TopicPartition(topic, 0): 101}).running() as owner:
            await until(lambda: owner.intake.crashed)
            assert isinstance(owner.intake.crash_reason, BrokerError)
            assert "made anew" in str(owner.intake.crash_reason)
            assert not owner.batches

    asyncio.run(main())


def test_when_records_go_while_they_wait_the_partition_is_assigned_again(
    connection: Connection, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(clients.CONSUMER, "max_partition_fetch_bytes", 2_000)

    async def main() -> None:
        await topics.create(connection, topic, 1)
        tp = TopicPartition(topic, 0)
        for first in range(0, 1_000, 10):
            await produce(connection, topic, 10, first=first)
        progress: dict[TopicPartition, int] = {}
        member = Member(connection, [topic], topic, progress=progress, room=1, max_records=10)
        async with member.running(listening=False) as owner:
            await until(owner.queue.full)
            await delete_before(connection, tp, 900)
            owner.listen()
            await until(lambda: 999 in owner.offsets(topic, 0))
            assert owner.told[:2] == [("assigned", {tp}), ("revoked", {tp})] and owner.intake.logs[tp].start == 900
            read = len(owner.offsets(topic, 0)) - 100
            assert read < 900 and owner.offsets(topic, 0) == [*range(read), *range(900, 1_000)]
            assert owner.intake.snapshot()[tp].lag == 0

    asyncio.run(main())


def test_a_topic_that_was_emptied_is_begun_at_its_end(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1)
        await produce(connection, topic, 100)
        tp = TopicPartition(topic, 0)
        await delete_before(connection, tp, 100)
        async with Owner(connection, [topic], topic).running() as owner:
            await until(lambda: owner.batches)
            assert owner.batches[0].caught_up and owner.batches[0].position == 100
        assert await read_to_end(connection, topic, [0], lambda records: None, deadline_s=20) == {0: 100}

    asyncio.run(main())


def test_behind_a_transactions_marker_a_partition_is_caught_up(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1)
        producer = connection.producer(transactional_id=topic)
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"value")
        await producer.stop()
        async with Owner(connection, [topic], topic).running() as owner:
            await until(lambda: owner.batches and owner.batches[-1].position == 2)  # Kafka writes it a little later
            assert owner.offsets(topic, 0) == [0]
            assert owner.batches[-1].caught_up and owner.batches[-1].highwater == 2
        seen: list[Any] = []
        assert await read_to_end(connection, topic, [0], seen.extend, deadline_s=20) == {0: 2}
        assert len(seen) == 1

    asyncio.run(main())


# --- Topics


# --- Security
