"""A topic that Foreshock writes, read from its beginning and followed; actions as lines for a person, or for a
program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition

from agents import topics
from agents.clients import Connection
from agents.loader import Records, read_to_end, started
from streams.action import line_of
from streams.errors import TopicMissing
from streams.text import plain_json

READ_WITHIN_S = 120.0


async def read_all(
    connection: Connection, take: Callable[[Records], None], name: str = "actions"
) -> dict[TopicPartition, int]:
    """Passes every record on a topic to `take`, in the order of each partition; returns the ends of the partitions.

    Raises:
        TopicMissing: if there is no topic.
        BrokerAway: if Kafka does not answer.
    """
    topic = connection.topic(name)
    partitions = await topics.find(connection, topic)
    if partitions is None:
        raise TopicMissing(
            seen=f"no topic {topic} on {connection.broker}, or DESCRIBE on it is not allowed to us",
            expected="a worker to have made it",
            mend="start 'foreshock worker', or check --broker, the prefix and the ACLs",
        )
    ends = await read_to_end(connection, topic, range(partitions), take, deadline_s=READ_WITHIN_S)
    return {TopicPartition(topic, partition): offset for partition, offset in ends.items()}


@asynccontextmanager
async def going_on(connection: Connection, offsets: dict[TopicPartition, int]) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of the records after these offsets."""
    consumer = connection.consumer()
    try:
        await started(consumer)
        consumer.assign(list(offsets))
        for tp, offset in offsets.items():
            consumer.seek(tp, offset)
        yield consumer
    finally:
        await consumer.stop()


async def actions(connection: Connection, say: Callable[[str], None], *, go_on: bool, as_json: bool) -> None:
    """Prints every action on the topic, in the order of its partitions; with `go_on` those to come too."""

    ends = await read_all(connection, lambda records: say_all(records, say, as_json=as_json))
    if go_on:
        async with going_on(connection, ends) as consumer:
            async for record in consumer:
                say_all([record], say, as_json=as_json)


def say_all(records: Records, say: Callable[[str], None], *, as_json: bool) -> None:
    """Prints each record on a line of its own, without control characters."""
    for record in records:
        value = record.value or b""
        say(plain_json(value.decode("utf-8", "replace")) if as_json else line_of(value))
