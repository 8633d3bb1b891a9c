"""What a test does to a Kafka, one blocking call each: topics made, cut, deleted and read; records of any shape sent.

Topics are named without the connection's prefix. Nothing here uses the product's own readers and writers of logs: what
a test expects must not depend on the code that it tests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import ConsumerRecord

from agents.clients import MIB, Connection

PARTITIONS = 4
VISIBLE_WITHIN_S = 30.0
READ_WITHIN_S = 60.0
POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record to send. `timestamp_ms`: of the record, not of the event; None: the time of sending."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_ms: int | None = None
    partition: int | None = None


def wait_until(condition: Callable[[], object], within_s: float = 60.0, what: str = "") -> None:
    """Waits until it holds. AssertionError, which names `what`, when it does not hold in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what or condition}"
        time.sleep(POLL_S)


# --- Topics


def create_topic(
    connection: Connection, topic: str, partitions: int = PARTITIONS, configs: Mapping[str, str] | None = None
) -> None:
    """Creates it and waits until it can be used. AssertionError when Kafka refuses."""

    async def run(client: AIOKafkaAdminClient) -> None:
        name = connection.topic(topic)
        replicas = min(3, len((await client.describe_cluster())["brokers"]))
        answer = await client.create_topics([NewTopic(name, partitions, replicas, topic_configs=dict(configs or {}))])
        assert not answer.topic_errors[0][1], answer
        await _until_partitions(client, name, partitions)

    _administer(connection, run)


def delete_topic(connection: Connection, topic: str) -> None:
    """Deletes it and waits until it is gone."""

    async def run(client: AIOKafkaAdminClient) -> None:
        await client.delete_topics([connection.topic(topic)])
        await _until_partitions(client, connection.topic(topic), 0)

    _administer(connection, run)


def grow_topic(connection: Connection, topic: str, partitions: int) -> None:
    """Gives it so many partitions in all, and waits until they are visible."""

    async def run(client: AIOKafkaAdminClient) -> None:
        await client.create_partitions({connection.topic(topic): NewPartitions(partitions)})
        await _until_partitions(client, connection.topic(topic), partitions)

    _administer(connection, run)


def alter_topic(connection: Connection, topic: str, configs: Mapping[str, str]) -> None:
    """Replaces the topic's settings with these."""

    async def run(client: AIOKafkaAdminClient) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, connection.topic(topic), configs=dict(configs))
        await client.alter_configs([resource])

    _administer(connection, run)


def delete_records(connection: Connection, topic: str, before: Mapping[int, int]) -> None:
    """Moves the start of partitions to these offsets, as retention does."""

    async def run(client: AIOKafkaAdminClient) -> None:
        name = connection.topic(topic)
        await client.delete_records(
            {TopicPartition(name, partition): RecordsToDelete(before_offset=at) for partition, at in before.items()}
        )

    _administer(connection, run)


def partitions_of_topic(connection: Connection, topic: str) -> int:
    """How many it has; 0 when there is none of this name."""

    async def run(client: AIOKafkaAdminClient) -> int:
        return await _partitions(client, connection.topic(topic))

    return _administer(connection, run)


async def _until_partitions(client: AIOKafkaAdminClient, name: str, partitions: int) -> None:
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while await _partitions(client, name) != partitions:
        assert time.monotonic() < deadline, f"{name} has not {partitions} partitions after {VISIBLE_WITHIN_S:g} s"
        await asyncio.sleep(POLL_S)


async def _partitions(client: AIOKafkaAdminClient, name: str) -> int:
    described = await client.describe_topics()
    return sum(len(topic["partitions"]) for topic in described if topic["topic"] == name and not topic["error_code"])


# --- Records


def send_records(connection: Connection, topic: str, records: Iterable[Record], **producer: Any) -> list[int]:
    """Sends them in order; the offset of each. `producer`: settings of the client."""
    return asyncio.run(_send(connection, topic, records, **producer))


def send_transaction(connection: Connection, topic: str, records: Iterable[Record], *, commit: bool) -> list[int]:
    """Sends them in one transaction, which is committed or aborted; the offset of each."""

    async def main() -> list[int]:
        client = AIOKafkaProducer(
            bootstrap_servers=connection.servers, transactional_id=f"t-{time.time_ns()}", max_batch_size=MIB // 4
        )
        await client.start()
        try:
            await client.begin_transaction()
            sent = await _send_all(client, connection.topic(topic), records)
            await (client.commit_transaction() if commit else client.abort_transaction())
            return sent
        finally:
            await client.stop()

    return asyncio.run(main())


async def _send(connection: Connection, topic: str, records: Iterable[Record], **producer: Any) -> list[int]:
    settings = {"acks": "all", "linger_ms": 2, "max_batch_size": MIB // 4, "max_request_size": 16 * MIB, **producer}
    client = AIOKafkaProducer(bootstrap_servers=connection.servers, **settings)
    await client.start()
    try:
        return await _send_all(client, connection.topic(topic), records)
    finally:
        await client.stop()


async def _send_all(client: AIOKafkaProducer, topic: str, records: Iterable[Record]) -> list[int]:
    futures = [
        await client.send(
            topic,
            record.value,
            record.key,
            partition=record.partition,
            timestamp_ms=record.timestamp_ms,
            headers=[*record.headers],
        )
        for record in records
    ]
    return [sent.offset for sent in await asyncio.gather(*futures)]


def bounds(connection: Connection, topic: str, *, committed: bool = False) -> dict[int, tuple[int, int]]:
    """By partition its first offset and its end: the last stable offset if `committed`."""

    async def run(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> dict[int, tuple[int, int]]:
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        return {tp.partition: (starts[tp], ends[tp]) for tp in tps}

    return _consume(connection, topic, committed, run) or {}


def read_topic(connection: Connection, topic: str, *, committed: bool = False) -> list[ConsumerRecord]:
    """All records that it holds now, in order of offset per partition; none when there is no such topic.

    AssertionError when nothing more comes within READ_WITHIN_S, and the end that Kafka names is not reached.
    """

    async def run(consumer: AIOKafkaConsumer, tps: Sequence[TopicPartition]) -> list[ConsumerRecord]:
        records: list[ConsumerRecord] = []
        ends, deadline = await consumer.end_offsets(tps), time.monotonic() + READ_WITHIN_S
        while behind := [tp for tp in tps if await consumer.position(tp) < ends[tp]]:
            assert time.monotonic() < deadline, f"{behind} not read to {ends} within {READ_WITHIN_S:g} s"
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records += batch
                deadline = time.monotonic() + READ_WITHIN_S
        return sorted(records, key=lambda record: (record.partition, record.offset))

    return _consume(connection, topic, committed, run) or []


def _consume(connection: Connection, topic: str, committed: bool, work: Any) -> Any:
    """What `work` returns; None when there is no such topic."""
    count = partitions_of_topic(connection, topic)
    tps = [TopicPartition(connection.topic(topic), partition) for partition in range(count)]
    if not tps:
        return None

    async def main() -> Any:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=connection.servers,
            isolation_level="read_committed" if committed else "read_uncommitted",
            max_partition_fetch_bytes=16 * MIB,
            auto_offset_reset="earliest",  # a seek would race with the reset that an assignment begins
        )
        await consumer.start()
        try:
            consumer.assign(tps)
            return await work(consumer, tps)
        finally:
            await consumer.stop()

    return asyncio.run(main())


def _administer(connection: Connection, work: Any) -> Any:
    async def main() -> Any:
        async with _admin(connection) as client:
            return await work(client)

    return asyncio.run(main())


@asynccontextmanager
async def _admin(connection: Connection) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=connection.servers)
    await client.start()
    try:
        yield client
    finally:
        await client.close()
