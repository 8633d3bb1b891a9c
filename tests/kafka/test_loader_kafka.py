"""`agents/loader.py` on Apache Kafka: the end of a log is known, whatever it ends with, however slow its reader is."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from agents import topics
from agents.clients import Connection
from agents.loader import Records, read_to_end
from agents.replay import generate


def spin(until: float) -> None:
    while time.time() < until:
        pass


@contextmanager
def busy(processes: int, seconds: float) -> Iterator[None]:
    """Other processes want the processor."""
    fork = multiprocessing.get_context("spawn")
    running = [fork.Process(target=spin, args=(time.time() + seconds,)) for _ in range(processes)]
    for process in running:
        process.start()
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.join()


async def transactional(connection: Connection, name: str) -> AIOKafkaProducer:
    producer = connection.producer(transactional_id=name)
    await producer.start()
    return producer


def test_a_slow_reader_on_a_busy_machine_gets_every_record(connection: Connection, topic: str) -> None:
    """Sixteen partitions whose lists take longer than any patience, and two processes beside."""

    async def main() -> None:
        await topics.create(connection, topic, 16)
        records = (b"%d" % n + bytes(60_000) for n in range(640))
        await generate(connection, topic, ((b"k%d" % n, value) for n, value in enumerate(records)))
        seen: set[bytes] = set()

        def take(records: Records) -> None:
            assert not seen & {record.key for record in records}
            seen.update(record.key for record in records)
            spin(time.time() + 0.12)

        with busy(2, 60):
            ends = await read_to_end(connection, topic, range(16), take, deadline_s=20)
        assert len(seen) == sum(ends.values()) == 640

    asyncio.run(main())


def test_a_reader_that_needs_longer_than_the_deadline_for_a_list_is_no_failure(
    connection: Connection, topic: str
) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1)
        await generate(connection, topic, [(b"k", bytes(300_000))] * 20)
        sizes: list[int] = []

        def take(records: Records) -> None:
            sizes.append(len(records))
            spin(time.time() + 1.2)

        assert await read_to_end(connection, topic, [0], take, deadline_s=1) == {0: 20}
        assert sum(sizes) == 20 and len(sizes) > 1

    asyncio.run(main())


@pytest.mark.parametrize("ending", ["committed", "aborted"])
def test_a_log_ends_behind_the_markers_of_its_last_transaction(connection: Connection, topic: str, ending: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 2)
        producer = await transactional(connection, topic)
        for partition in (0, 1):
            await producer.begin_transaction()
            for n in range(300):
                await producer.send(topic, b"%d" % n, partition=partition)
            if ending == "aborted":
                await producer.abort_transaction()
            else:
                await producer.commit_transaction()
        await producer.stop()
        seen: list[Any] = []
        ends = await read_to_end(connection, topic, [0, 1], seen.extend, deadline_s=20)
        assert ends == {0: 301, 1: 301}
        assert len(seen) == (0 if ending == "aborted" else 600)

    asyncio.run(main())


def test_aborted_transactions_between_others_are_left_out(connection: Connection, topic: str) -> None:
    """Two transactional producers and a plain one take turns in one partition."""

    async def main() -> None:
        await topics.create(connection, topic, 1)
        first, second = await transactional(connection, f"{topic}-1"), await transactional(connection, f"{topic}-2")
        plain = connection.producer()
        await plain.start()
        kept: list[bytes] = []
        for turn in range(12):
            await first.begin_transaction()
            await second.begin_transaction()
            for n in range(3):
                for name, producer in (("first", first), ("second", second), ("plain", plain)):
                    value = f"{name} {turn} {n}".encode()
                    await producer.send_and_wait(topic, value, partition=0)
                    if (name, turn % 3 == 0) != ("first", True) and (name, turn % 2 == 0) != ("second", True):
                        kept.append(value)
            await (first.abort_transaction() if turn % 3 == 0 else first.commit_transaction())
            await (second.abort_transaction() if turn % 2 == 0 else second.commit_transaction())
        for producer in (first, second, plain):
            await producer.stop()
        seen: list[Any] = []
        ends = await read_to_end(connection, topic, [0], seen.extend, deadline_s=20)
        assert [record.value for record in seen] == kept
        assert ends == {0: 12 * 9 + 24}

    asyncio.run(main())


def test_reading_ends_at_the_last_stable_offset_and_says_so(
    connection: Connection, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 1)
        await generate(connection, topic, [(b"k", b"%d" % n) for n in range(10)])
        producer = await transactional(connection, topic)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", partition=0)
        await generate(connection, topic, [(b"k", b"behind it")])
        seen: list[Any] = []
        with caplog.at_level(logging.INFO):
            assert await read_to_end(connection, topic, [0], seen.extend, deadline_s=20) == {0: 10}
        assert len(seen) == 10
        assert f"{topic} partition 0: read to the last stable offset, 10; a transaction is open" in caplog.text
        await producer.commit_transaction()
        await producer.stop()
        seen.clear()
        assert await read_to_end(connection, topic, [0], seen.extend, deadline_s=20) == {0: 13}
        assert [record.value for record in seen[10:]] == [b"open", b"behind it"]

    asyncio.run(main())


def test_what_is_deleted_while_it_is_read_is_told_and_the_rest_is_read(connection: Connection, topic: str) -> None:
    async def delete(before: int) -> None:
        async with topics.admin(connection) as client:
            await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=before)})

    async def main() -> None:
        await topics.create(connection, topic, 1)
        for begin in range(0, 80, 10):  # in batches of ten
            await generate(connection, topic, [(b"k", b"%d" % n + bytes(400_000)) for n in range(begin, begin + 10)])
        seen: list[int] = []
        lost: list[tuple[int, int, int]] = []

        def take(records: Records) -> None:
            if not seen:
                with_own_loop(delete(60))
            seen.extend(record.offset for record in records)

        ends = await read_to_end(connection, topic, [0], take, deadline_s=20, lost=lambda *place: lost.append(place))
        assert ends == {0: 80}
        ((partition, begin, end),) = lost
        assert (partition, end) == (0, 60) and begin < 60
        assert seen == [*range(begin), *range(60, 80)]

    asyncio.run(main())


def with_own_loop(work: Any) -> None:
    """Runs it to its end while this loop stands still."""
    import threading

    thread = threading.Thread(target=lambda: asyncio.run(work))
    thread.start()
    thread.join()
