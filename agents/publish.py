"""Records → Kafka, acknowledged: in order, again and again while the broker is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from agents.clients import OUTAGE

log = logging.getLogger(__name__)

RETRY_S = 1.0
KEPT_BYTES = 65_536
"""What is kept of a dead letter that the topic does not take whole."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to be sent. `partition` None leaves the choice to the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()


async def publish(
    producer: AIOKafkaProducer, records: Sequence[Outgoing], wanted: Callable[[], bool] = lambda: True
) -> dict[tuple[str, int], int]:
    """Sends records and waits until Kafka has them all; per topic and partition the last offset.

    While the broker is away it tries again, as long as `wanted()`. All records are replacements of older versions of
    themselves, so sending some of them twice does no harm.
    """
    while wanted():
        try:
            futures = [await _send(producer, record) for record in records]
            last: dict[tuple[str, int], int] = {}
            for sent in await asyncio.gather(*futures):
                place = (sent.topic, sent.partition)
                last[place] = max(sent.offset, last.get(place, -1))
            return last
        except MessageSizeTooLargeError:
            raise
        except KafkaError as error:
            if OUTAGE():
                log.warning("not sent: %s; trying again", error or type(error).__name__)
            await asyncio.sleep(RETRY_S)
    return {}


async def _send(producer: AIOKafkaProducer, record: Outgoing) -> Any:
    return await producer.send(
        record.topic,
        value=record.value,
        key=record.key,
        partition=record.partition,
        headers=list(record.headers),
    )


async def publish_dead_letters(
    producer: AIOKafkaProducer, records: Sequence[Outgoing], wanted: Callable[[], bool]
) -> None:
    """As `publish`; a record that is larger than the topic takes is cut, and says so in a header."""
    try:
        await publish(producer, records, wanted)
    except MessageSizeTooLargeError:
        for record in records:
            try:
                await publish(producer, [record], wanted)
            except MessageSizeTooLargeError:
                await publish(producer, [_cut(record)], wanted)


def _cut(record: Outgoing) -> Outgoing:
    value = record.value or b""
    headers = (*record.headers, ("foreshock.cut", str(len(value)).encode()))
    return Outgoing(record.topic, record.key, value[:KEPT_BYTES], record.partition, headers)
