"""Records → Kafka, acknowledged: in order, and retried while the broker does not answer or does not accept them.

An idempotent producer of aiokafka gets no record through to a partition any more once Kafka has refused a batch of it.
So this module then makes a new producer, and sends again what was not acknowledged: all records replace older versions
of themselves. A record larger than its topic accepts is not sent: it waits until the limit of the topic is raised, as
long as its sender allows, and the log says which model it belongs to and what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    UnknownProducerId,
)

from agents.clients import MAX_RECORD_BYTES, OUTAGE, PRODUCER, Connection
from agents.clock import Seldom
from agents.refusals import words
from streams.errors import BrokerError
from streams.fields import Damaged
from streams.text import plain

log = logging.getLogger(__name__)

RETRY_S, MAX_RETRY_S = 1.0, 10.0
TOO_LARGE_S = 60.0
"""How long a model's record that is too large for its topic delays the others: its limit may be low by mistake."""
HEADROOM_BYTES = 1_024
"""Bytes of a batch's head and a record's own."""
STOP_WITHIN_S = 10.0
LOOK_WITHIN_S = 15.0
MIN_BATCH_BYTES = 16_384
POISONED = (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    UnknownProducerId,
)
"""After these errors an idempotent producer gets nothing through any more."""
Limits = Mapping[str, int]
"""By the full name of a topic the bytes that it accepts in one batch; missing topics accept `MAX_RECORD_BYTES`."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to be sent. With `partition` None the key decides. `about`: its model, for the log."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    about: Callable[[], str] | None = None

    @property
    def bytes(self) -> int:
        """Its size in a batch of its own, or slightly more."""
        headers = sum(len(name.encode()) + len(value) + 8 for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + HEADROOM_BYTES


class TooLarge(Exception):
    """Some of the records are larger than their topics accept, and have been for long. `at`: their indices in the
    list."""

    def __init__(self, at: Sequence[int]) -> None:
        self.at = tuple(at)
        super().__init__(f"{len(self.at)} records are too large")


class Producer:
    """One producer of aiokafka at a time, for all stages of a worker.

    `limits`: the limit of each topic; `look_up` asks Kafka for them again.
    """

    def __init__(
        self, connection: Connection, limits: Limits, look_up: Callable[[], Awaitable[Limits]] | None = None
    ) -> None:
        self.connection, self.limits = connection, limits
        self._look_up = look_up
        self._inner: AIOKafkaProducer | None = None
        self._replaced = asyncio.Event()
        """Of the present producer: nothing more comes of what it was given."""
        self._renewing = asyncio.Lock()
        self._is_stopped = False
        self.renewals = 0
        self.largest: dict[str, int] = {}
        """By topic the bytes of the largest record that was, or has to be, sent."""
        self.low_since: dict[str, float] = {}
        """By topic when a record was found to be too large for it (monotonic), until its limit is raised."""

    @property
    def client(self) -> Any:
        """aiokafka's client, of the current producer."""
        return self._inner.client if self._inner is not None else None

    async def start(self) -> None:
        """Connects.

        Raises:
            BrokerError: if Kafka does not answer or refuses the client.
        """
        self._inner = await self._connected()

    async def _connected(self) -> AIOKafkaProducer:
        smallest = min(self.limits.values(), default=MAX_RECORD_BYTES)
        batch = max(MIN_BATCH_BYTES, min(PRODUCER["max_batch_size"], smallest - HEADROOM_BYTES))
        inner = self.connection.producer(max_batch_size=batch)
        try:
            await inner.start()
        except KafkaConnectionError as error:
            await inner.stop()
            raise await self.connection.failure(error, "WRITE") from None
        return inner

    async def stop(self) -> None:
        """Sends what is in flight, for a few seconds at most."""
        self._is_stopped = True
        inner, self._inner = self._inner, None
        await _stopped(inner)

    def limit(self, topic: str) -> int:
        """The bytes of the largest record that a topic accepts, with its head."""
        return min(self.limits.get(topic, MAX_RECORD_BYTES), MAX_RECORD_BYTES)

    def take_limits(self, limits: Limits) -> None:
        """Updates the limits of these topics; others stay as they were."""
        for topic, limit in limits.items():
            if limit > self.limit(topic):
                self.low_since.pop(topic, None)
        self.limits = {**self.limits, **limits}

    async def partitions_for(self, topic: str) -> set[int]:
        """The partitions of a topic, as the client knows them; it waits while there is no client."""
        while self._inner is None:
            await asyncio.sleep(RETRY_S)
            await self._renew(None)
        return set(await self._inner.partitions_for(topic))

    async def send(self, records: Sequence[Outgoing]) -> list[Any]:
        """Partition and offset of each record.

        Raises:
            KafkaError: if Kafka did not accept one. The others may or may not be there.
        """
        if self._inner is None:
            await self._renew(None)
        inner = self._inner
        if inner is None:
            raise KafkaConnectionError("there is no connection to it")
        sent = asyncio.ensure_future(_sent(inner, records))
        gone = asyncio.ensure_future(self._replaced.wait())
        try:
            await asyncio.wait([sent, gone], return_when=asyncio.FIRST_COMPLETED)
            if not sent.done():
                raise KafkaConnectionError("the producer was made anew")
            return await sent
        except POISONED:
            await self._renew(inner)
            raise
        finally:
            for task in (sent, gone):
                task.cancel()
            await asyncio.gather(sent, gone, return_exceptions=True)

    async def _renew(self, failed: AIOKafkaProducer | None) -> None:
        """A new producer in the place of one that gets nothing through, with the limits as they are now.

        The old one is closed before, so that nothing of it comes after what the new one sends.
        """
        async with self._renewing:
            if self._inner is not failed or self._is_stopped:
                return
            self._inner = None
            self._replaced.set()
            self._replaced = asyncio.Event()
            await _stopped(failed, 0.0)
            await self.look_up()
            with contextlib.suppress(KafkaError, BrokerError, OSError, TimeoutError):
                self._inner = await self._connected()
                self.renewals += 1

    async def look_up(self) -> None:
        """Updates the limits of the topics from Kafka; they stay as they were if it does not answer."""
        if self._look_up is None:
            return
        with contextlib.suppress(KafkaError, BrokerError, OSError, TimeoutError):
            async with asyncio.timeout(LOOK_WITHIN_S):
                self.take_limits(await self._look_up())


async def _sent(inner: AIOKafkaProducer, records: Sequence[Outgoing]) -> list[Any]:
    futures = [
        await inner.send(
            record.topic,
            value=record.value,
            key=record.key,
            partition=record.partition,
            headers=list(record.headers),
        )
        for record in records
    ]
    return list(await asyncio.gather(*futures))


async def _stopped(inner: AIOKafkaProducer | None, within_s: float = STOP_WITHIN_S) -> None:
    if inner is None:
        return
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        try:
            async with asyncio.timeout(within_s):
                await inner.stop()
        except TimeoutError:
            await inner._sender.close()
            await inner.client.close()


async def publish(
    producer: Producer,
    records: Sequence[Outgoing],
    wanted: Callable[[], bool] = lambda: True,
    retried: Callable[[], None] = lambda: None,
    give_up_s: float = math.inf,
) -> dict[tuple[str, int], int]:
    """Sends records and waits until Kafka has them all; per topic and partition the last offset.

    While Kafka does not answer, or does not accept them, it tries again, as long as `wanted()`, and calls `retried()`
    each time. All records replace older versions of themselves, so sending some of them twice does no harm. While one
    is larger than its topic accepts, nothing is sent.

    Raises:
        TooLarge: when their topic has been too small for some of them, or for others before, for `give_up_s` seconds.
    """
    wait_s, say = RETRY_S, Seldom(MAX_RETRY_S)
    for record in records:
        producer.largest[record.topic] = max(record.bytes, producer.largest.get(record.topic, 0))
    while wanted():
        large = [at for at, record in enumerate(records) if record.bytes > producer.limit(record.topic)]
        if not large:
            try:
                last: dict[tuple[str, int], int] = {}
                for sent in await producer.send(records):
                    place = (sent.topic, sent.partition)
                    last[place] = max(sent.offset, last.get(place, -1))
                return last
            except KafkaError as error:
                if OUTAGE():
                    log.warning("not sent: %s; trying again", words(error, "WRITE"))
        else:
            first = records[large[0]]
            low_since = producer.low_since.setdefault(first.topic, time.monotonic())
            if say():
                log.error(*_too_large(first, producer.limit(first.topic)), extra={"topic": first.topic})
            if time.monotonic() - low_since >= give_up_s:
                raise TooLarge(large)
            await producer.look_up()
        retried()
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, MAX_RETRY_S)
    return {}


def _too_large(record: Outgoing, limit: int) -> tuple[str, object, object, object, object, object, object]:
    """The arguments of the line about a record that its topic does not take."""
    about = plain(record.about() if record.about else (record.key or b"").decode("utf-8", "replace"))[:200]
    return (
        "topic %s: a record of %d bytes (%s) and a limit of %d; it waits. Set max.message.bytes of %s to %d or more, "
        "or declare fewer features, segments or classes for that model, or more kafka.buckets",
        record.topic,
        record.bytes,
        about,
        limit,
        record.topic,
        record.bytes,
    )


def cut(record: Outgoing, limit: int = MAX_RECORD_BYTES) -> Outgoing:
    """A dead letter that can be sent: one larger than `limit` is cut, and a header says how long it was.

    The same header is set if the reader kept only the beginning of a record.
    """
    value = record.value
    if value is None:
        return record
    size = value.size if isinstance(value, Damaged) else len(value)
    if size <= len(value) and record.bytes <= limit:
        return record
    headers = (*record.headers, ("foreshock.cut", str(size).encode()))
    whole = Outgoing(record.topic, record.key, b"", record.partition, headers)
    return Outgoing(record.topic, record.key, value[: max(0, limit - whole.bytes)], record.partition, headers)
