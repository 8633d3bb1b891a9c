"""Record batches as Kafka's documentation says, written without aiokafka: sound ones, and such as no client writes."""

from __future__ import annotations

import asyncio
import gzip
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cramjam
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

STAMP_MS = 1_760_000_000_000
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS: dict[int, Callable[[bytes], bytes]] = {
    NONE: lambda data: data,
    GZIP: gzip.compress,
    SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    LZ4: lambda data: bytes(cramjam.lz4.compress(data)),
    ZSTD: lambda data: bytes(cramjam.zstd.compress(data)),
}
NOT_LEADER, UNKNOWN_TOPIC = 6, 3
Header = tuple[bytes, bytes | None]


def varint(number: int) -> bytes:
    """Zigzag, seven bits an octet.

    >>> varint(-1), varint(300)
    (b'\\x01', b'\\xd8\\x04')
    """
    left, octets = (number << 1) ^ (number >> 63) if number < 0 else number << 1, bytearray()
    while left > 0x7F:
        octets.append(left & 0x7F | 0x80)
        left >>= 7
    octets.append(left)
    return bytes(octets)


def _sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


@dataclass(frozen=True)
class Item:
    """A record as its producer has it. `delta`: of its offset; None is its place in the batch."""

    value: bytes | None = b"v"
    key: bytes | None = b"k"
    headers: Sequence[Header] = ()
    delta: int | None = None
    body: bytes | None = None
    """Its bytes after the length, instead of all that."""

    def packed(self, index: int) -> bytes:
        if self.body is not None:
            return varint(len(self.body)) + self.body
        delta = index if self.delta is None else self.delta
        body = b"\0" + varint(index) + varint(delta) + _sized(self.key) + _sized(self.value)
        body += varint(len(self.headers)) + b"".join(_sized(name) + _sized(value) for name, value in self.headers)
        return varint(len(body)) + body


@dataclass(frozen=True)
class Batch:
    """A batch of format 2. `count` and `last_delta` are those of its records, unless said otherwise."""

    base: int
    items: Sequence[Item]
    codec: int = NONE
    producer: int = -1
    transactional: bool = False
    control: bool = False
    count: int | None = None
    last_delta: int | None = None
    wrong_crc: bool = False
    attributes: int = 0
    stamp_ms: int = STAMP_MS
    packed: bytes | None = field(default=None, repr=False)
    """Its compressed records, instead of those of `items`."""

    @property
    def last(self) -> int:
        return self.base + (len(self.items) - 1 if self.last_delta is None else self.last_delta)

    def to_bytes(self) -> bytes:
        body = self.packed
        if body is None:
            body = CODECS[self.codec](b"".join(item.packed(index) for index, item in enumerate(self.items)))
        attributes = self.attributes | self.codec | self.transactional << 4 | self.control << 5
        count = len(self.items) if self.count is None else self.count
        ends = (self.stamp_ms, self.stamp_ms + count, self.producer, 0, -1, count)
        checked = struct.pack(">hiqqqhii", attributes, self.last - self.base, *ends) + body
        crc = calc_crc32c(checked) ^ self.wrong_crc
        return struct.pack(">qiibI", self.base, len(checked) + 9, 0, 2, crc) + checked


def marker(base: int, producer: int, *, commit: bool) -> Batch:
    """What ends a transaction."""
    item = Item(value=b"\0\0\0\0\0\0", key=struct.pack(">hh", 0, int(commit)))
    return Batch(base, [item], producer=producer, transactional=True, control=True)


def bomb(codec: int, size: int) -> bytes:
    """The compressed records of a batch of two: one of `size` zeros (whole MiB), and a small one."""
    head = b"\0\0\0\1" + varint(size)
    first, second = varint(len(head) + size + 1) + head, b"\0" + Item(b"small").packed(1)
    if codec == GZIP:
        stream = zlib.compressobj(level=1, wbits=31)
        parts = [stream.compress(first), *(stream.compress(bytes(1 << 20)) for _ in range(size >> 20))]
        return b"".join(parts) + stream.compress(second) + stream.flush()
    makers = {LZ4: lambda: cramjam.lz4.Compressor(block_linked=False), ZSTD: cramjam.zstd.Compressor}
    compressor, packed = makers[codec](), bytearray()
    compressor.compress(first)
    for _ in range(size >> 20):
        compressor.compress(bytes(1 << 20))
        packed += bytes(compressor.flush())
    compressor.compress(second)
    return bytes(packed + bytes(compressor.finish()))


async def produce_batches(servers: list[str], topic: str, batches: Sequence[Batch], partition: int) -> None:
    client = AIOKafkaClient(bootstrap_servers=servers)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        for batch in batches:
            request = ProduceRequest(None, -1, 60_000, [(topic, [(partition, batch.to_bytes())])])
            code = NOT_LEADER
            while code in (NOT_LEADER, UNKNOWN_TOPIC):  # a topic that was made just now
                node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
                ((_, ((_, code, *_),)),) = (await client.send(node, request)).topics
                await client.force_metadata_update()
            assert code == 0, f"Kafka refuses the batch with {code}"
    finally:
        await client.close()


def produce(servers: list[str], topic: str, batches: Sequence[Batch], partition: int = 0) -> None:
    """Sends them as they are. AssertionError when Kafka refuses one."""
    asyncio.run(produce_batches(servers, topic, batches, partition))
