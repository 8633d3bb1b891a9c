"""A file of events, or pairs from memory → a Kafka topic: at their own pace, at a rate, or as fast as possible.

Records are put into whole batches per partition, because aiokafka's `send` costs too much for each. Keys go to the
partitions to which Kafka's own clients send them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents.clients import MAX_RECORD_BYTES, OUTAGE, PRODUCER, Connection
from agents.reading import line_blocks
from agents.topics import admin, max_message_bytes, partition_counts
from streams.errors import BrokerError, ConfigError

BLOCK_RECORDS = 4_096
OVERHEAD_BYTES = 128
"""Upper bound of what a batch of one record has beside its key and value."""
TICK_S = 0.05
"""Resolution of a pace: records that are due within it are sent at once."""
TELL_EVERY_S = 1.0
STOP_WITHIN_S = 5.0

Pair = tuple[bytes | None, bytes]
P = TypeVar("P", bound=tuple[Any, bytes])


@dataclass(slots=True)
class Sent:
    """Result: `unkeyed` of the `records` have no key. `refused`: those too large for the topic, and not sent."""

    records: int = 0
    bytes: int = 0
    unkeyed: int = 0
    refused: int = 0


Progress = Callable[[Sent], None]


async def replay(
    connection: Connection,
    topic: str,
    file: str | Path,
    *,
    speed: float | None = None,
    rate: float | None = None,
    on_progress: Progress | None = None,
) -> Sent:
    """Sends a file's lines as they are, each with its event_id as the key, and waits until Kafka has them.

    Blank lines are left out; a line that is no event is sent without a key. DataError if the file cannot be read;
    BrokerError if there is no such topic, or Kafka does not answer.

    Parameters:
        file: .ndjson or .ndjson.gz.
        speed: event time passes so many times as fast as real time, by `ts`.
        rate: records a second. Without speed and rate: as fast as Kafka accepts them.
    """
    blocks = ([(event_key(line), line) for line in block] for block in read_lines(Path(file)))
    return await _send(connection, topic, blocks, pace(speed, rate), on_progress)


async def generate(
    connection: Connection,
    topic: str,
    values: Iterable[Pair],
    *,
    rate: float | None = None,
    on_progress: Progress | None = None,
) -> Sent:
    """Sends (key, value) pairs from memory, and waits until Kafka has them; errors as in `replay`.

    On the embedded broker only one call at a time may write to a topic: it mixes up two producers of one partition.
    """
    pairs = iter(values)
    blocks = iter(lambda: list(itertools.islice(pairs, BLOCK_RECORDS)), [])
    return await _send(connection, topic, blocks, pace(None, rate), on_progress)


# --- Reading


class _Job(msgspec.Struct):
    name: str | None = None


class _Event(msgspec.Struct):
    event_id: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    job: _Job | None = None
    kind: str | None = None
    kpi: str | None = None
    model: str | None = None

    @property
    def key(self) -> str | None:
        """The event's id; of a run its job, of feedback or a KPI without an id its model."""
        if self.event_id is not None or self.job is not None:
            return self.event_id or (self.job.name if self.job else None)
        return self.model if self.kind or self.kpi else None


class _Time(msgspec.Struct):
    ts: str | int | float | None = None
    label_ts: str | int | float | None = None
    eventTime: str | int | float | None = None


NO_EVENT = (msgspec.DecodeError, UnicodeError, RecursionError)
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_time = msgspec.json.Decoder(_Time).decode


def event_key(line: bytes) -> bytes | None:
    """The key of a record, inside a CloudEvent too; None if it has none, or the line is no event."""
    try:
        event = _decode_event(line)
        if event.key is None and len(event.data):
            event = _decode_event(event.data)
        return event.key.encode() if event.key is not None else None
    except NO_EVENT:
        return None


def event_time_s(line: bytes) -> float | None:
    """An event's `ts`, a label's `label_ts` or a run's `eventTime`, in seconds since 1970, without a zone in UTC; None
    without one."""
    try:
        found = _decode_time(line)
        ts = next((at for at in (found.ts, found.label_ts, found.eventTime) if at is not None), None)
        if isinstance(ts, str):
            at = datetime.fromisoformat(ts)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        return ts / 1000 if ts is not None else None
    except (*NO_EVENT, ValueError, OverflowError):
        return None


def read_lines(file: Path) -> Iterator[list[bytes]]:
    """Blocks of about a MiB of lines, without their ends and without blank ones; errors as of `line_blocks`."""
    return line_blocks(file)


# --- Pacing

Due = Callable[[int, bytes], float]
"""(number of the record, its value) → when it is to be sent, in seconds after the first."""


def pace(speed: float | None, rate: float | None) -> Due | None:
    for name, value in (("speed", speed), ("rate", rate)):
        if value is not None and not value > 0:
            raise ConfigError(place=name, seen=f"{value:g}", expected="a number above 0")
    if speed is not None and rate is not None:
        raise ConfigError(seen="speed and rate", expected="one of them")
    if rate is not None:
        return lambda number, value: number / rate
    return _EventTime(speed) if speed is not None else None


class _EventTime:
    """Due by its own `ts`; one without it, or of an earlier time, is due with its predecessor."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: float | None = None
        self._due = 0.0

    def __call__(self, number: int, value: bytes) -> float:
        at = event_time_s(value)
        if at is not None:
            self._first = at if self._first is None else self._first
            self._due = max(self._due, (at - self._first) / self._speed)
        return self._due


async def paced(blocks: Iterable[Sequence[P]], due: Due | None) -> AsyncIterator[Sequence[P]]:
    """The same pairs, whose second part is the record's value, in blocks of what is due; None: all is at once."""
    if due is None:
        for block in blocks:
            yield block
        return
    begun = time.monotonic()
    ready: list[P] = []
    for number, pair in enumerate(itertools.chain.from_iterable(blocks)):
        at = begun + due(number, pair[1])
        if ready and (len(ready) >= BLOCK_RECORDS or at - time.monotonic() > TICK_S):
            yield ready
            ready = []
        if (wait_s := at - time.monotonic()) > TICK_S:
            await asyncio.sleep(wait_s)
        ready.append(pair)
    if ready:
        yield ready


# --- Partitions, as Kafka's own clients choose them


def partitions_of(keys: Sequence[bytes | None], partitions: int) -> npt.NDArray[np.int64]:
    """The partition of each key, by Kafka's default; -1 where there is no key."""
    numbers = np.full(len(keys), -1, dtype=np.int64)
    by_length: dict[int, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            by_length.setdefault(len(key), []).append(index)
    for length, indices in by_length.items():
        joined = b"".join([keys[index] or b"" for index in indices])
        hashes = murmur2(np.frombuffer(joined, dtype=np.uint8).reshape(len(indices), length))
        numbers[indices] = (hashes & 0x7FFFFFFF).astype(np.int64) % partitions
    return numbers


def murmur2(keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """The 32-bit MurmurHash2 of each row, with the seed that Kafka's Java client has (`Utils.murmur2`).

    keys: (number of keys, bytes of a key) → (number of keys,).
    """
    count, length = keys.shape
    factor = np.uint32(0x5BD1E995)
    hashes = np.full(count, 0x9747B28C ^ length, dtype=np.uint32)
    whole = length & ~3
    for word in np.ascontiguousarray(keys[:, :whole]).view("<u4").T:
        mixed = word * factor
        hashes = (hashes * factor) ^ ((mixed ^ (mixed >> np.uint32(24))) * factor)
    if whole < length:
        rest = np.zeros((count, 4), dtype=np.uint8)
        rest[:, : length - whole] = keys[:, whole:]
        hashes = (hashes ^ rest.view("<u4")[:, 0]) * factor
    hashes = (hashes ^ (hashes >> np.uint32(13))) * factor
    return np.asarray(hashes ^ (hashes >> np.uint32(15)), dtype=np.uint32)


# --- Sending


async def _send(
    connection: Connection, topic: str, blocks: Iterable[Sequence[Pair]], due: Due | None, on_progress: Progress | None
) -> Sent:
    sent, told = Sent(), time.monotonic()
    async with lanes_of(connection, topic, sent) as lanes:
        async for block in paced(blocks, due):
            await lanes.send(block)
            if on_progress is not None and time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                on_progress(sent)
        await lanes.drain()
    if on_progress is not None:
        on_progress(sent)
    return sent


@asynccontextmanager
async def lanes_of(connection: Connection, topic: str, sent: Sent) -> AsyncIterator[Lanes]:
    """Sends to a topic, and counts in `sent`."""
    partitions, limit = await _look_up(connection, topic)
    async with _producer(connection, topic, limit) as producer:
        yield Lanes(producer, topic, partitions, limit, sent)


async def _look_up(connection: Connection, topic: str) -> tuple[int, int]:
    """The topic's partitions, and the bytes that it takes in one batch."""
    async with admin(connection) as client:
        partitions = (await partition_counts(client)).get(topic)
        if partitions is None:
            raise BrokerError(
                place=f"topic {topic}",
                seen=f"it does not exist on {connection.broker}, or DESCRIBE on it is not allowed to us",
                mend="create it first, or check the name, the prefix and the ACLs",
            )
        limit = await max_message_bytes(client, topic)
    return partitions, min(limit or MAX_RECORD_BYTES, MAX_RECORD_BYTES)


@asynccontextmanager
async def _producer(connection: Connection, topic: str, limit: int) -> AsyncIterator[AIOKafkaProducer]:
    producer = connection.producer(max_batch_size=min(PRODUCER["max_batch_size"], limit))
    OUTAGE()  # what goes wrong is raised: aiokafka need not tell it too
    try:
        await producer.start()
        yield producer
    except (KafkaError, OSError) as error:
        failure = await connection.failure(error, "WRITE")
        failure.place = f"topic {topic}, {failure.place}"
        failure.mend += "; sending again repeats what was sent already"
        raise failure from None
    finally:
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await producer.stop()  # all has arrived, or something went wrong
        except TimeoutError:
            await producer.client.close()


class Lanes:
    """The batches of each partition: filled, sent one after the other, and acknowledged."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partitions: int, limit: int, sent: Sent) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._limit = limit - OVERHEAD_BYTES
        self._sent = sent
        self._under_way: list[asyncio.Future[Any]] = []
        self._unkeyed_to = 0

    async def send(self, block: Sequence[Pair]) -> None:
        """Sends these, and waits while a partition has as many batches in flight as allowed."""
        for partition, pairs in enumerate(self._split(block)):
            rest = iter(pairs)
            pair = next(rest, None)
            while pair is not None:
                pair = await self._send_batch(partition, pair, rest)

    async def drain(self) -> None:
        """Waits until Kafka has all."""
        await asyncio.gather(*self._under_way)

    def _split(self, block: Sequence[Pair]) -> list[list[Pair]]:
        """Those of each partition; the ones without a key go together, to one partition after the other."""
        fitting = [pair for pair in block if len(pair[0] or b"") + len(pair[1]) <= self._limit]
        numbers = partitions_of([key for key, _ in fitting], self._partitions)
        unkeyed = numbers < 0
        numbers[unkeyed] = self._unkeyed_to
        self._unkeyed_to = (self._unkeyed_to + 1) % self._partitions
        self._sent.refused += len(block) - len(fitting)
        self._sent.unkeyed += int(np.count_nonzero(unkeyed))
        self._sent.records += len(fitting)
        self._sent.bytes += sum(len(value) for _, value in fitting)
        return [[fitting[index] for index in np.flatnonzero(numbers == lane)] for lane in range(self._partitions)]

    async def _send_batch(self, partition: int, pair: Pair, rest: Iterator[Pair]) -> Pair | None:
        """Send as many as one batch takes, at least the first; the one that it did not take."""
        batch, now_ms = self._producer.create_batch(), int(time.time() * 1000)
        left: Pair | None = pair
        while left is not None and batch.append(timestamp=now_ms, key=left[0], value=left[1]) is not None:
            left = next(rest, None)
        batch.close()
        # This waits until the partition's last batch left the queue: so one is on its way, and one is queued, at most.
        future = await self._producer.send_batch(batch, self._topic, partition=partition)
        future.add_done_callback(_seen)
        self._under_way.append(future)
        self._check()
        return left

    def _check(self) -> None:
        """Forget what has arrived; raise what went wrong."""
        done = [future for future in self._under_way if future.done()]
        self._under_way = [future for future in self._under_way if not future.done()]
        for future in done:
            future.result()


def _seen(future: asyncio.Future[Any]) -> None:
    """Only the first error is raised; asyncio shall not complain of the others."""
    if not future.cancelled():
        future.exception()
