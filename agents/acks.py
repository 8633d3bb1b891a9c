"""The topic `acks`: every worker reads it from its beginning and follows it; `foreshock ack` writes it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from mode import Service

from agents.clients import Connection
from agents.follow import going_on, read_all
from agents.replay import generate
from agents.topics import until_answered
from streams.ack import Ack, read_ack
from streams.action import read_action
from streams.errors import BrokerAway, ConfigError, TopicMissing
from streams.events import Invalid

log = logging.getLogger(__name__)

TOPIC, ACTIONS = "acks", "actions"
MAX_SHOWN = 64
POLL_MS = 500


class AckReader(Service):
    """Passes every ack to `take`: first those that are on the topic, then those that come.

    A record that is no ack is counted and logged, and not sent to the dead letters: every worker reads the whole topic
    again at every start.
    """

    def __init__(self, connection: Connection, take: Callable[[Ack], None]) -> None:
        super().__init__()
        self.connection, self.take = connection, take
        self.rejected = 0
        self._ends: dict[TopicPartition, int] = {}

    async def on_start(self) -> None:
        self._ends = await until_answered(self._read)

    async def _read(self) -> dict[TopicPartition, int]:
        self.rejected = 0
        try:
            return await read_all(self.connection, self._take, TOPIC)
        except TopicMissing as error:  # the worker created it: a broker that has just come back may not know it yet
            raise BrokerAway(seen=str(error)) from None

    @Service.task
    async def _follow(self) -> None:
        async with going_on(self.connection, self._ends) as consumer:
            while not self.should_stop:
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    self._take(records)

    def _take(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            try:
                self.take(read_ack(record.value))
            except Invalid as invalid:
                self.rejected += 1
                log.error(
                    "acks, partition %d, offset %d: %s; left out",
                    record.partition,
                    record.offset,
                    invalid.reason,
                    extra={
                        "topic": record.topic,
                        "partition": record.partition,
                        "offset": record.offset,
                        "reason": str(invalid.reason),
                    },
                )


async def send(connection: Connection, ack: Ack, *, force: bool = False) -> None:
    """Publishes one ack, and waits until Kafka has it.

    Parameters:
        force: publish even if no action of its id is known.

    Raises:
        ConfigError: if it is larger than an ack may be, or of no known action.
        BrokerError: if there is no topic, or Kafka does not answer.
    """
    try:
        value = msgspec.json.encode(ack)
        read_ack(value)
    except (Invalid, UnicodeEncodeError) as error:
        raise ConfigError(seen=str(error), expected="an ack", mend="see 'foreshock ack -h'") from None
    if not force and not await _is_action(connection, ack.action_id):
        raise ConfigError(
            seen=f"no action {ack.action_id[:MAX_SHOWN]!r} on {connection.topic(ACTIONS)}",
            expected="an id as 'foreshock actions' shows it",
            mend="correct it, or say --force if retention has deleted the action",
        )
    await generate(connection, connection.topic(TOPIC), [(ack.action_id.encode(), value)])


async def _is_action(connection: Connection, action_id: str) -> bool:
    """Whether the topic of actions holds one of this id."""
    found = False

    def look(records: list[ConsumerRecord]) -> None:
        nonlocal found
        for record in records:
            action = read_action(record.value or b"")
            found = found or (action is not None and action.id == action_id)

    await read_all(connection, look, ACTIONS)
    return found
