"""Records → Kafka, acknowledged: in order, again and again while the broker is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber, UnknownProducerId

from agents.clients import MAX_RECORD_BYTES, OUTAGE
from agents.refusals import words
from streams.errors import BrokerError
from streams.fields import Damaged

log = logging.getLogger(__name__)

RETRY_S = 1.0
MAX_VALUE_BYTES = MAX_RECORD_BYTES - 8_192
"""A record's value at the most: its key and its headers need room too."""
POISONED = (OutOfOrderSequenceNumber, UnknownProducerId)
"""After these an idempotent producer never gets a record through again: the worker has to start anew."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to be sent. `partition` None leaves the choice to the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()


async def publish(
    producer: AIOKafkaProducer,
    records: Sequence[Outgoing],
    wanted: Callable[[], bool] = lambda: True,
    retried: Callable[[], None] = lambda: None,
) -> dict[tuple[str, int], int]:
    """Sends records and waits until Kafka has them all; per topic and partition the last offset.

    While the broker is away it tries again, as long as `wanted()`, and calls `retried()` each time. All records are
    replacements of older versions of themselves, so sending some of them twice does no harm. BrokerError for a record
    that no topic of ours takes, before any is sent: the producer would not survive it.
    """
    for record in records:
        if len(record.value or b"") > MAX_VALUE_BYTES:
            raise BrokerError(seen=f"a record of {len(record.value or b'')} bytes for {record.topic}")
    while wanted():
        try:
            futures = [await _send(producer, record) for record in records]
            last: dict[tuple[str, int], int] = {}
            for sent in await asyncio.gather(*futures):
                place = (sent.topic, sent.partition)
                last[place] = max(sent.offset, last.get(place, -1))
            return last
        except POISONED:
            raise
        except KafkaError as error:
            retried()
            if OUTAGE():
                log.warning("not sent: %s; trying again", words(error, "WRITE"))
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


def cut(record: Outgoing) -> Outgoing:
    """A dead letter as it can be sent: one that is too large is cut, and says in a header how long it was."""
    value = record.value
    size = value.size if isinstance(value, Damaged) else len(value or b"")
    if value is None or size == len(value) <= MAX_VALUE_BYTES:
        return record
    headers = (*record.headers, ("foreshock.cut", str(size).encode()))
    return Outgoing(record.topic, record.key, value[:MAX_VALUE_BYTES], record.partition, headers)
