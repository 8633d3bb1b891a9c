"""Partitions of a topic → every record they hold at this moment, handed over in order: how state is rebuilt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import ConsumerRecord

from agents.clients import OUTAGE, Connection
from agents.refusals import words
from streams.errors import BrokerError

Records = list[ConsumerRecord]

POLL_MS = 200
RETRY_S = 0.5
SILENCE_S = 1.0


async def read_to_end(
    connection: Connection,
    topic: str,
    partitions: Iterable[int],
    take: Callable[[Records], None],
    *,
    deadline_s: float,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, int]:
    """Hand each partition's records to `take`, from its beginning to where it ended when this began.

    A list is of one partition, in the order of its offsets, which may have gaps (compaction). The answer is, per
    partition, the offset from which a reader goes on: beyond the end at the start, if more was fetched meanwhile.
    `progress` gets (offsets done, offsets in all). BrokerError, naming topic, partition and position, when the end is
    not reached in time.
    """
    tps = [TopicPartition(topic, partition) for partition in partitions]
    if not tps:
        return {}
    reading = _Reading(connection.consumer(), tps)  # no group: nothing to join, nothing to be thrown out of
    try:
        OUTAGE()  # what goes wrong is raised: aiokafka need not tell it too, at least not at once
        async with asyncio.timeout(deadline_s):
            await reading.start()
            while not reading.is_done():
                for records in (await reading.step()).values():
                    take(records)
                if progress is not None:
                    progress(*reading.progress())
                await asyncio.sleep(0)  # with much to read, no other await would let anyone else run
    except TimeoutError:
        raise reading.failure(f"its end was not reached within {deadline_s:g} s") from None
    except (KafkaError, OSError) as error:
        raise reading.failure(words(error, "READ")) from None
    finally:
        await reading.consumer.stop()
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # it may have come while aiokafka stopped, which swallows it
    return {tp.partition: position for tp, position in reading.positions.items()}


async def started(consumer: AIOKafkaConsumer) -> None:
    """Connects, however long that takes: a broker that restarts is worth waiting for."""
    while True:
        try:
            await consumer.start()
            return
        except KafkaConnectionError:
            await asyncio.sleep(RETRY_S)


class _Reading:
    """Where each partition began, stands, and ended when its first answer came."""

    def __init__(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> None:
        self.consumer = consumer
        self.tps = tps
        self.begins: dict[TopicPartition, int] = {}
        self.positions: dict[TopicPartition, int] = {}
        self.ends: dict[TopicPartition, int] = {}
        self._heard = time.monotonic()

    async def start(self) -> None:
        await started(self.consumer)
        self.consumer.assign(self.tps)

    async def step(self) -> dict[TopicPartition, Records]:
        """The next records, and what the answers that brought them say."""
        fetched: dict[TopicPartition, Records] = await self.consumer.getmany(timeout_ms=POLL_MS)
        for tp in self.tps:
            highwater = self.consumer.highwater(tp)  # not `end_offsets`: they are wrong on the embedded broker
            if highwater is not None and not self._has_ended(tp):
                await self._note(tp, highwater, fetched.get(tp))
        now = time.monotonic()
        self._heard = now if fetched else self._heard
        if now - self._heard > SILENCE_S:
            self._pass_over_emptied_tails()
        return fetched

    async def _note(self, tp: TopicPartition, highwater: int, records: Records | None) -> None:
        position = await self.consumer.position(tp)
        self.begins.setdefault(tp, records[0].offset if records else position)
        self.ends.setdefault(tp, highwater)
        self.positions[tp] = position
        if self._has_ended(tp):
            self.consumer.pause(tp)

    def _pass_over_emptied_tails(self) -> None:
        """Take a partition for read that is asked again and again, and has nothing more to give below its end."""
        # A log that was truncated to the start of its last segment lets compaction empty the segments before it: then
        # no record lies below the high-water mark, and no fetch brings the position there.
        lately_ms = (time.time() - SILENCE_S) * 1000
        for tp, end in self.ends.items():
            answered_ms = self.consumer.last_poll_timestamp(tp)
            if not self._has_ended(tp) and answered_ms is not None and answered_ms > lately_ms:
                self.positions[tp] = end

    def _has_ended(self, tp: TopicPartition) -> bool:
        return tp in self.ends and self.positions[tp] >= self.ends[tp]

    def is_done(self) -> bool:
        """Whether every partition was read to where it ended."""
        return all(self._has_ended(tp) for tp in self.tps)

    def progress(self) -> tuple[int, int]:
        """Offsets done, and offsets in all, of the partitions that have answered."""
        done = sum(min(self.positions[tp], end) - self.begins[tp] for tp, end in self.ends.items())
        return done, sum(end - self.begins[tp] for tp, end in self.ends.items())

    def failure(self, reason: str) -> BrokerError:
        """The error, with the place where reading stood."""
        tp = next((tp for tp in self.tps if not self._has_ended(tp)), self.tps[0])
        return BrokerError(
            place=f"topic {tp.topic}, partition {tp.partition}",
            seen=f"{reason}: position {self.positions.get(tp, 'unknown')}, end {self.ends.get(tp, 'unknown')}",
            mend="is the broker up, and does the topic exist?",
        )
