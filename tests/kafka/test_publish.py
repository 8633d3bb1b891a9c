"""What Kafka does not take is published as soon as it does, by the same worker; smaller limits are used as they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from agents import topics
from agents.clients import MAX_RECORD_BYTES, MIB, OUTAGE, Connection
from agents.follow import read_all
from agents.loader import Records
from agents.publish import Outgoing, Producer, cut, publish
from deploy.kafka import Broker


@pytest.fixture
def connection(kafka: Broker) -> Connection:
    return Connection(broker=kafka.bootstrap, prefix=f"p-{uuid4().hex[:8]}-")


async def alter(connection: Connection, topic: str, limit: int) -> None:
    async with topics.admin(connection) as client:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(limit)})
        await client.alter_configs([resource])


async def values(connection: Connection, name: str) -> list[bytes]:
    found: list[bytes] = []

    def take(records: Records) -> None:
        found.extend(record.value or b"" for record in records)

    await read_all(connection, take, name)
    return found


@asynccontextmanager
async def producing(connection: Connection, limits: dict[str, int], topic: str) -> AsyncIterator[Producer]:
    async def look_up() -> dict[str, int]:
        async with topics.admin(connection) as client:
            return {topic: await topics.max_message_bytes(client, topic) or MAX_RECORD_BYTES}

    producer = Producer(connection, limits, look_up)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@pytest.mark.parametrize("known", [True, False], ids=["its limit is known", "its limit was lowered while it ran"])
def test_a_topic_whose_limit_is_raised_is_published_to_again(
    connection: Connection, known: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, and by two who share the producer, of whom neither waits for the other's answer for ever."""
    monkeypatch.setattr(OUTAGE, "_next", float("inf"))
    topic = connection.topic("partials")
    small, large = [b"%d" % number for number in range(3)], b"x" * 20_000

    async def main() -> list[bytes]:
        await topics.create(connection, topic, 1, {"max.message.bytes": "5000"})
        tried = asyncio.Event()
        async with producing(connection, {topic: 5_000} if known else {}, topic) as producer:
            record = Outgoing(topic, b"k", large, about=lambda: "model churn: 19000 bytes")
            await publish(producer, [Outgoing(topic, b"k", small[0])])
            waiting = asyncio.create_task(publish(producer, [record], retried=tried.set))
            async with asyncio.timeout(30):
                await tried.wait()
                await publish(producer, [Outgoing(topic, b"k", small[1])])
                assert not waiting.done()
                await alter(connection, topic, MIB)
                assert (await waiting)[topic, 0] > 0
                await publish(producer, [Outgoing(topic, b"k", small[2])])
            assert bool(producer.renewals) is not known
        return await values(connection, "partials")

    with caplog.at_level(logging.WARNING, "agents.publish"):
        found = asyncio.run(main())
    assert [value for value in found if value in small] == small and large in found
    if known:
        assert any("model churn" in line and "max.message.bytes" in line for line in caplog.messages)


def test_a_worker_takes_topics_of_a_smaller_limit(connection: Connection) -> None:
    """Those of a service that takes no more than 8 MiB or 1 MiB."""

    async def main() -> dict[str, int]:
        for name, partitions in (("partials", 2), ("state", 2)):
            configs = {"cleanup.policy": "compact", "max.message.bytes": str(8 * MIB)}
            await topics.create(connection, connection.topic(name), partitions, configs)
        for name in ("windows", "dead-letter"):
            await topics.create(connection, connection.topic(name), 1, {"max.message.bytes": str(MIB)})
        return await topics.ensure(connection, inference_partitions=1, buckets=2)

    limits = asyncio.run(main())
    known = {name.removeprefix(connection.prefix): limit for name, limit in limits.items()}
    assert (known["partials"], known["windows"], known["actions"]) == (8 * MIB, MIB, 16 * MIB)
    assert known == {
        name.removeprefix(connection.prefix): limit for name, limit in asyncio.run(topics.limits(connection)).items()
    }


def test_dead_letters_are_cut_to_what_their_topic_takes(connection: Connection) -> None:
    topic = connection.topic("dead-letter")
    letter = Outgoing(topic, b"in-0", b"x" * 3_000_000, headers=(("foreshock.reason", b"too_large"),))

    async def main() -> list[bytes]:
        await topics.create(connection, topic, 1, {"max.message.bytes": str(MIB)})
        async with producing(connection, {topic: MIB}, topic) as producer:
            async with asyncio.timeout(20):
                await publish(producer, [cut(letter, producer.limit(topic))])
        return await values(connection, "dead-letter")

    (value,) = asyncio.run(main())
    assert MIB - 4_096 < len(value) < MIB


def test_many_records_are_cut_into_batches_that_the_smallest_topic_takes(connection: Connection) -> None:
    topic = connection.topic("state")

    async def main() -> list[bytes]:
        await topics.create(connection, topic, 1, {"max.message.bytes": "100000"})
        async with producing(connection, {topic: 100_000}, topic) as producer:
            async with asyncio.timeout(20):
                await publish(producer, [Outgoing(topic, b"%d" % number, b"y" * 9_000) for number in range(100)])
            assert not producer.renewals
        return await values(connection, "state")

    assert len(asyncio.run(main())) == 100
