"""The actions topic → lines for a person, or for a program."""

from __future__ import annotations

from collections.abc import Callable

from aiokafka import TopicPartition

from agents import topics
from agents.clients import Connection
from agents.loader import Records, read_to_end
from streams.action import action_line
from streams.errors import BrokerError

READ_WITHIN_S = 60.0


async def actions(connection: Connection, say: Callable[[str], None], *, go_on: bool, as_json: bool) -> None:
    """Says every action that is on the topic, in the order of its partitions; with `go_on` those to come too."""
    topic = connection.topic("actions")
    partitions = await topics.find(connection, topic)
    if partitions is None:
        raise BrokerError(
            seen=f"no topic {topic} on {connection.broker}",
            expected="a worker to have made it",
            mend="start 'foreshock worker', or check --broker and the prefix",
        )

    def take(records: Records) -> None:
        for record in records:
            say(record.value.decode("utf-8", "replace") if as_json else action_line(record.value))

    ends = await read_to_end(connection, topic, range(partitions), take, deadline_s=READ_WITHIN_S)
    if not go_on:
        return
    consumer = connection.consumer()
    try:
        await consumer.start()
        consumer.assign([TopicPartition(topic, partition) for partition in ends])
        for partition, offset in ends.items():
            consumer.seek(TopicPartition(topic, partition), offset)
        async for record in consumer:
            take([record])
    finally:
        await consumer.stop()
