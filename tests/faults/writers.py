"""Writers of a stream that are no ordinary clients: in transactions, some of them aborted, or in odd batches."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

from agents.clients import Connection
from tests.batches import GZIP, NONE, ZSTD, Batch, Item
from tests.faults.harness import create
from tests.faults.payloads import changed, is_event
from tests.faults.stream import Pair, partition_of

BLOCK = 400
GHOSTS = 120
"""Records of a transaction that is aborted."""
ODD_HEADERS = ((b"\xff\xfe\x00", b"v"), (b"", None), ("naïve".encode("latin-1"), b"\x00"), (b"x" * 5_000, b""))
STAMPS_AT = 27
"""Where a batch has its first and its last timestamp."""


def fill_in_transactions(connection: Connection, pairs: Sequence[Pair], seed: int, *, rate: float, topic: str) -> None:
    """Writes all pairs in order, some in transactions; between and beside them, transactions that are aborted.

    An aborted one holds copies with other ids, all failing; some stay open while others write on.
    """
    create(connection, topic=topic)
    asyncio.run(_fill_in_transactions(connection, pairs, random.Random(f"transactions {seed}"), rate, topic))


async def _fill_in_transactions(
    connection: Connection, pairs: Sequence[Pair], rng: random.Random, rate: float, topic: str
) -> None:
    name = connection.topic(topic)
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(_producer(connection))
        committing = await stack.enter_async_context(_producer(connection, f"{name}-c"))
        aborting = await stack.enter_async_context(_producer(connection, f"{name}-a"))
        left_open = 0
        begun = time.monotonic()
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK]
            if left_open == 0 and rng.random() < 0.4:
                await aborting.begin_transaction()
                left_open = rng.randint(1, 6)
                await _send_all(aborting, name, ghosts(block, rng))
            if rng.random() < 0.4:
                async with committing.transaction():
                    await _send_all(committing, name, block)
            else:
                await _send_all(plain, name, block)
            if left_open:
                await _send_all(aborting, name, ghosts(block, rng)[:10])
                left_open -= 1
                if left_open == 0:
                    await aborting.abort_transaction()
            await asyncio.sleep(max(0.0, begun + (start + BLOCK) / rate - time.monotonic()))
        if left_open:
            await aborting.abort_transaction()


def ghosts(block: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """Events, or labels, that never were: they look like those of the block."""
    sound = [(key, value) for key, value in block if key is not None and is_event(value)]
    return [
        (key, changed(value, event_id=f"ghost-{rng.randrange(10**9)}", error="timeout", label=0))
        for key, value in rng.sample(sound, min(GHOSTS, len(sound)))
    ]


@asynccontextmanager
async def _producer(connection: Connection, transactional_id: str | None = None) -> AsyncIterator[AIOKafkaProducer]:
    settings = {"transactional_id": transactional_id} if transactional_id else {"acks": "all"}
    client = AIOKafkaProducer(bootstrap_servers=connection.servers, linger_ms=2, **settings)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def _send_all(client: AIOKafkaProducer, topic: str, pairs: Iterable[Pair]) -> None:
    await asyncio.gather(
        *[await client.send(topic, value, key, partition=partition_of(key or b"")) for key, value in pairs]
    )


def fill_in_odd_batches(connection: Connection, pairs: Sequence[Pair], seed: int, *, rate: float, topic: str) -> None:
    """Writes all pairs in order, in batches of several codecs, whose headers have names that are no text."""
    create(connection, topic=topic)
    asyncio.run(_fill_in_odd_batches(connection, pairs, random.Random(f"batches {seed}"), rate, topic))


async def _fill_in_odd_batches(
    connection: Connection, pairs: Sequence[Pair], rng: random.Random, rate: float, topic: str
) -> None:
    begun = time.monotonic()
    async with raw_sender(connection, connection.topic(topic)) as sender:
        for start in range(0, len(pairs), BLOCK):
            by_partition: dict[int, list[Item]] = {}
            for key, value in pairs[start : start + BLOCK]:
                headers = tuple(rng.sample(ODD_HEADERS, 2)) if rng.random() < 0.1 else ()
                item = Item(value=value, key=key, headers=headers)
                by_partition.setdefault(partition_of(key or b""), []).append(item)
            for partition, items in by_partition.items():
                await sender.send(partition, Batch(0, items, codec=rng.choice((NONE, GZIP, ZSTD))))
            await asyncio.sleep(max(0.0, begun + (start + BLOCK) / rate - time.monotonic()))


class RawSender:
    """Sends batches as they are, byte for byte, but for their timestamps, which become those of now."""

    def __init__(self, client: AIOKafkaClient, topic: str) -> None:
        self._client, self._topic = client, topic

    async def send(self, partition: int, batch: Batch) -> None:
        """AssertionError when the broker refuses it."""
        data = stamped(batch.to_bytes(), time.time_ns() // 1_000_000)
        node = self._client.cluster.leader_for_partition(TopicPartition(self._topic, partition))
        response = await self._client.send(node, ProduceRequest(None, -1, 30_000, [(self._topic, [(partition, data)])]))
        ((_, ((_, code, *_),)),) = response.topics
        assert code == 0, f"the broker refuses a batch with error {code}"


@asynccontextmanager
async def raw_sender(connection: Connection, topic: str) -> AsyncIterator[RawSender]:
    """`topic`: by its full name."""
    client = AIOKafkaClient(bootstrap_servers=connection.servers)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        await client.force_metadata_update()
        yield RawSender(client, topic)
    finally:
        await client.close()


def stamped(batch: bytes, now_ms: int) -> bytes:
    """The batch with this first and last timestamp, and its checksum."""
    checked = bytearray(batch[21:])
    first, last = struct.unpack_from(">qq", checked, STAMPS_AT - 21)
    struct.pack_into(">qq", checked, STAMPS_AT - 21, now_ms - (last - first), now_ms)
    return batch[:17] + struct.pack(">I", calc_crc32c(bytes(checked))) + bytes(checked)
