"""The table of the topics that Foreshock writes → those topics, as they must be; and the wait for the ones it reads.

These functions take and return full names; only the table's own get the connection's prefix here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidConfigurationError,
    InvalidReplicationFactorError,
    KafkaError,
    PolicyViolationError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from agents.clients import MAX_MESSAGE_BYTES, MIB, OUTAGE, Connection, Seldom
from streams.errors import BrokerAway, BrokerError

log = logging.getLogger(__name__)
T = TypeVar("T")

HOUR_MS = 3_600_000
FEW = 4
MAX_REPLICAS = 3
VISIBLE_WITHIN_S = 30.0
LOOK_EVERY_S = 0.5


class Partitions(StrEnum):
    """The number of partitions of one of our topics."""

    AS_INFERENCE = "as inference"
    BUCKETS = "buckets"
    FEW = "few"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One row: the required settings of a topic of ours."""

    name: str
    partitions: Partitions
    compacted: bool = False
    max_message_bytes: int = MAX_MESSAGE_BYTES
    extra: Mapping[str, str] = field(default_factory=dict)

    def configs(self) -> dict[str, str]:
        """The topic's settings, by Kafka's names."""
        size = {"max.message.bytes": str(self.max_message_bytes)}
        return {**(COMPACTED if self.compacted else DELETED), **size, **self.extra}


REPORTS_KEPT_MS = 35 * 24 * HOUR_MS
"""Retention of the topics that the monthly report is made from."""
SIZES = (8 * MIB, MIB, None, None)
"""Limits to ask for, one after the other, where Kafka refuses larger ones; None: Kafka's own."""
TOO_MUCH = (InvalidConfigurationError, PolicyViolationError)
DELETED = {"cleanup.policy": "delete"}
COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.1",  # cumulative publications replace each other: most of the log is waste
    "segment.ms": str(HOUR_MS),  # the open segment is never compacted
    "segment.bytes": str(64 * MIB),
    "delete.retention.ms": str(24 * HOUR_MS),
}
TOPICS = (
    Topic(name="partials", partitions=Partitions.BUCKETS, compacted=True),
    Topic(name="progress", partitions=Partitions.AS_INFERENCE, compacted=True),
    Topic(name="state", partitions=Partitions.BUCKETS, compacted=True),
    Topic(name="windows", partitions=Partitions.FEW, extra={"retention.ms": str(REPORTS_KEPT_MS)}),
    Topic(name="actions", partitions=Partitions.FEW, extra={"retention.ms": str(REPORTS_KEPT_MS)}),
    Topic(name="acks", partitions=Partitions.FEW),
    Topic(name="dead-letter", partitions=Partitions.FEW),
)


async def ensure(connection: Connection, *, inference_partitions: int, buckets: int) -> dict[str, int]:
    """Creates those of TOPICS that are missing, and waits until they can be used; the bytes that each accepts in a
    batch.

    Leaves out topics whose limit Kafka does not state. BrokerError if one exists that would lose data or give wrong
    counts: with other partitions than `buckets`, or not compacted.
    """
    wanted = {Partitions.AS_INFERENCE: inference_partitions, Partitions.BUCKETS: buckets, Partitions.FEW: FEW}
    table = {connection.topic(topic.name): (topic, wanted[topic.partitions]) for topic in TOPICS}
    async with admin(connection) as client:
        there = await partition_counts(client)
        missing = {name: row for name, row in table.items() if name not in there}
        await _create(client, {name: (count, topic.configs()) for name, (topic, count) in missing.items()})
        there = await _wait_until_visible(client, dict.fromkeys(table, 1))
        # The new ones too: another worker may have been faster, with other numbers.
        for name, (topic, count) in table.items():
            await _adapt(client, name, topic, there[name], count)
        limits = await _limits(client, table)
    for name, limit in limits.items():
        if limit < table[name][0].max_message_bytes:
            log.warning("topic %s takes records of up to %d bytes only (max.message.bytes)", name, limit)
    return limits


async def limits(connection: Connection) -> dict[str, int]:
    """The bytes that each of TOPICS accepts in one batch, without those whose limit Kafka does not state."""
    async with admin(connection) as client:
        return await _limits(client, [connection.topic(topic.name) for topic in TOPICS])


async def _limits(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    found = {name: await max_message_bytes(client, name) for name in names}
    return {name: limit for name, limit in found.items() if limit is not None}


async def create(connection: Connection, name: str, partitions: int, configs: Mapping[str, str] | None = None) -> None:
    """Creates one topic, by its full name, and waits until it can be used; one that exists stays as it is."""
    async with admin(connection) as client:
        if name not in await partition_counts(client):
            await _create(client, {name: (partitions, configs or {})})
            await _wait_until_visible(client, {name: 1})  # another may have been faster, with another number


async def find(connection: Connection, topic: str) -> int | None:
    """Returns how many partitions a topic has; None if it does not exist.

    Raises:
        BrokerAway: if Kafka does not answer, or has no leader of some partition: a broker that has just come back.
    """
    async with admin(connection) as client:
        described = [item for item in await client.describe_topics() if item["topic"] == topic]
    if described and not is_usable(described[0]):
        raise no_leader(topic)
    return len(described[0]["partitions"]) if described else None


async def wait_for(connection: Connection, topic: str, on_wait: Callable[[str], None] = log.warning) -> int:
    """Waits until this topic exists, and returns the number of its partitions.

    Kafka may be down meanwhile.

    Parameters:
        on_wait: called with one line every ten seconds.
    """
    again = Seldom(10.0)
    while True:
        try:
            found = await find(connection, topic)
        except BrokerError as error:
            reason = str(error)
        else:
            if found is not None:
                return found
            reason = (
                f"waiting for topic {topic}: it does not exist on {connection.broker}, or DESCRIBE on it is not "
                "allowed to us; create it, or start its writer"
            )
        if again():
            on_wait(reason)
        await asyncio.sleep(LOOK_EVERY_S)


async def until_answered(work: Callable[[], Awaitable[T]], on_wait: Callable[[str], None] = log.warning) -> T:
    """The result of `work` as soon as Kafka answers: until then it is started again, so it must be repeatable."""
    again = Seldom(10.0)
    while True:
        try:
            return await work()
        except BrokerAway as error:
            if again():
                on_wait(f"{error}; trying again")
        await asyncio.sleep(LOOK_EVERY_S)


async def co_partitioned(connection: Connection, name: str, source: str) -> str:
    """The name of a topic whose keys go to the partitions of `source`: created if it is missing, and grown if it has
    fewer partitions, as a running worker does.

    BrokerError if it has more, or may not be altered: labels would look for their predictions in the wrong partition.
    """
    async with admin(connection) as client:
        there = await partition_counts(client)
    if source not in there:
        raise no_leader(source)
    if name not in there:
        await create(connection, name, there[source])
        log.info("created topic %s with %d partitions, as %s has", name, there[source], source)
    elif there[name] < there[source]:
        await _grow(connection, name, there, source)
    elif there[name] > there[source]:
        raise BrokerError(
            place=f"topic {name}",
            seen=f"{there[name]} partitions",
            expected=f"{there[source]}, as {source} has: a label must be where its prediction is",
            mend=f"alter {name}, and write both with the same key and partitioner",
        )
    return name


async def _grow(connection: Connection, name: str, there: Mapping[str, int], source: str) -> None:
    """Adds partitions to a topic until it has those of `source`."""
    async with admin(connection) as client:
        answer = await client.create_partitions({name: NewPartitions(there[source])})
        if for_code(answer.topic_errors[0][1]) is TopicAuthorizationFailedError:
            raise BrokerError(
                place=f"topic {name}",
                seen=f"ALTER on it is not allowed to us, and it has {there[name]} partitions",
                expected=f"{there[source]}, as {source} has: a label must be where its prediction is",
                mend="add partitions to it by hand, or allow ALTER: see the ACLs of docs/security.md",
            )
        await _wait_until_visible(client, {name: there[source]})
    log.warning(
        "topic %s now has %d partitions, as %s has; records whose key is in another partition now do not find "
        "predictions that were written before",
        name,
        there[source],
        source,
        extra={"topic": name},
    )


@asynccontextmanager
async def admin(connection: Connection) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client; a refusal by Kafka becomes a BrokerError of one line, no answer a BrokerAway."""
    client = connection.admin()
    OUTAGE()  # what goes wrong is raised: aiokafka need not tell it too
    try:
        await client.start()
        yield client
    except (KafkaError, OSError, TimeoutError) as error:
        raise await connection.failure(error) from None
    finally:
        await client.close()


async def partition_counts(client: AIOKafkaAdminClient) -> dict[str, int]:
    """The partitions of every topic of the cluster that can be used."""
    # Of all topics: asking for one by name creates it, on the embedded broker and on Kafka's own default.
    return {topic["topic"]: len(topic["partitions"]) for topic in await client.describe_topics() if is_usable(topic)}


def is_usable(described: Mapping[str, Any]) -> bool:
    """Whether every partition of a topic, as an admin client describes it, has a leader."""
    return not described["error_code"] and all(partition["leader"] >= 0 for partition in described["partitions"])


def no_leader(topic: str) -> BrokerAway:
    return BrokerAway(place=f"topic {topic}", seen="no leader of all its partitions", mend="are enough brokers up?")


async def max_message_bytes(client: AIOKafkaAdminClient, name: str) -> int | None:
    """The bytes that a topic accepts in one batch of records; None if Kafka does not state it."""
    value = await _config(client, name, "max.message.bytes")
    return int(value) if value else None


# --- Parts


async def _adapt(client: AIOKafkaAdminClient, name: str, topic: Topic, found: int, count: int) -> None:
    """Refuse what cannot be mended, mend what can."""
    if topic.partitions is Partitions.BUCKETS and found != count:
        raise BrokerError(
            place=f"topic {name}",
            seen=f"{found} partitions",
            expected=f"{count}, one for each bucket of models",
            mend=f"set kafka.buckets to {found}, or use another prefix",
        )
    if topic.compacted and await _config(client, name, "cleanup.policy") == "delete":
        raise BrokerError(
            place=f"topic {name}",
            seen="cleanup.policy=delete, which forgets state with time",
            expected="cleanup.policy=compact",
            mend="alter the topic's configuration, or delete the topic and let Foreshock create it",
        )
    if topic.partitions is Partitions.AS_INFERENCE and found < count:
        # Its records are put by number, so none moves.
        answer = await client.create_partitions({name: NewPartitions(count)})
        if for_code(answer.topic_errors[0][1]) is TopicAuthorizationFailedError:
            raise BrokerError(
                place=f"topic {name}",
                seen=f"ALTER on it is not allowed to us, and it has {found} partitions of {count}",
                mend="add partitions to it by hand, or allow ALTER: see the ACLs of docs/security.md",
            )
        await _wait_until_visible(client, {name: count})


async def _config(client: AIOKafkaAdminClient, name: str, key: str) -> str | None:
    """One setting of a topic; None where the broker has no such thing, or where we may not ask."""
    # All of them are asked for: at a question for one, the embedded broker hangs up.
    for answer in await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)]):
        for error_code, _, _, _, entries, *_ in answer.resources:
            if for_code(error_code) is TopicAuthorizationFailedError:
                log.warning("topic %s: its settings are not checked: DESCRIBE_CONFIGS on it is not allowed to us", name)
            for entry in () if error_code else entries:
                if entry[0] == key:
                    return str(entry[1])
    return None


async def settings(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """All settings of topics, in one request; empty for a topic that is gone or may not be read."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, str]] = {}
    for answer in await client.describe_configs(asked) if asked else ():
        for error_code, _, _, name, entries, *_ in answer.resources:
            found[name] = {} if error_code else {entry[0]: str(entry[1]) for entry in entries if entry[1] is not None}
    return found


async def _create(client: AIOKafkaAdminClient, wanted: Mapping[str, tuple[int, Mapping[str, str]]]) -> None:
    if not wanted:
        return
    brokers = len((await client.describe_cluster())["brokers"])
    replicas = max(1, min(MAX_REPLICAS, brokers))
    rows = [NewTopic(name, count, replicas, topic_configs=dict(configs)) for name, (count, configs) in wanted.items()]
    for name, code, message in await _created(client, rows):
        if code and for_code(code) is not TopicAlreadyExistsError:  # another worker was faster
            kind = for_code(code)
            if kind is TopicAuthorizationFailedError:  # as Kafka answers for one that is there, but not for us to see
                raise BrokerError(
                    place=f"topic {name}",
                    seen="neither DESCRIBE nor CREATE on it is allowed to us",
                    mend="create it by hand and allow DESCRIBE, or allow CREATE: see the ACLs of docs/security.md",
                )
            # So many brokers as there were a moment ago: one has gone since, and may come back.
            passing = kind.retriable or kind is InvalidReplicationFactorError
            raise (BrokerAway if passing else BrokerError)(
                place=f"topic {name}",
                seen=f"Kafka would not create it: {kind.__name__} {message or ''}".strip(),
                mend="are all brokers up? Or create it by hand" if passing else "create it by hand",
            )


async def _created(client: AIOKafkaAdminClient, rows: list[NewTopic]) -> list[tuple[str, int, str | None]]:
    """Kafka's answer for each topic: some services take no `max.message.bytes` of ours, and get smaller ones."""
    answers: dict[str, tuple[str, int, str | None]] = {}
    for size in SIZES:
        answers |= {answer[0]: answer for answer in (await client.create_topics(rows)).topic_errors}
        refused = {name for name, code, _ in answers.values() if code and for_code(code) in TOO_MUCH}
        rows = [row for row in rows if row.name in refused]
        if not rows:
            break
        for row in rows:
            row.topic_configs.pop("max.message.bytes", None)
            if size is not None:
                row.topic_configs["max.message.bytes"] = str(size)
    return list(answers.values())


async def _wait_until_visible(client: AIOKafkaAdminClient, wanted: Mapping[str, int]) -> dict[str, int]:
    """Wait until each of these topics has at least so many partitions, with leaders; how many all have then."""
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while True:
        there = await partition_counts(client)
        missing = sorted(name for name, count in wanted.items() if there.get(name, 0) < count)
        if not missing:
            return there
        if time.monotonic() > deadline:
            raise BrokerAway(
                place=f"topics {', '.join(missing)}",
                seen=f"not fit for use {VISIBLE_WITHIN_S:.0f} s after they were created",
                mend="are enough brokers up, and is DESCRIBE on them allowed to us (READ and WRITE include it)?",
            )
        await asyncio.sleep(0.05)
