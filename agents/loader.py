"""Partitions of a topic → every record they hold at this moment, handed over in order: how state is rebuilt."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import ConsumerRecord

from agents.clients import OUTAGE, Connection
from agents.log_reader import Answer, Log, LogReader
from agents.refusals import words
from agents.unpack import Budget, consumer_records
from streams.errors import BrokerError

log = logging.getLogger(__name__)

Records = list[ConsumerRecord]

RETRY_S = 0.5
MAX_RECORDS = 2_048
PIECE_BYTES = 1 << 20
"""What `take` gets at once is unpacked from not much more: it holds the event loop."""


async def read_to_end(
    connection: Connection,
    topic: str,
    partitions: Iterable[int],
    take: Callable[[Records], None],
    *,
    deadline_s: float,
    progress: Callable[[int, int], None] | None = None,
    lost: Callable[[int, int, int], None] | None = None,
) -> dict[int, int]:
    """Hand each partition's records to `take`, from its beginning to where it ended when this began.

    The end is the last stable offset that Kafka states: neither an open transaction nor what comes after its begin is
    read. It is reached for certain, however slow `take` is, or an error is raised.

    Parameters
    ----------
    take
        Gets lists of one partition's records each, in the order of their offsets, which may have gaps (compaction,
        transactions). The value of a record that cannot be read is `streams.fields.Damaged`.
    deadline_s
        Seconds without any progress of reading. What `take` needs does not count.
    progress
        Gets (offsets done, offsets in all).
    lost
        Gets (partition, from, to) of offsets that were deleted after this began and before they could be read.

    Returns
    -------
    Per partition the offset from which a reader goes on: beyond the end at the start, if more was fetched meanwhile.

    Raises
    ------
    BrokerError
        With topic, partition and position, when the end is not reached.
    """
    reader = LogReader(connection, topic, list(partitions))
    if not reader.logs:
        return {}
    reading = _Reading(reader, take, deadline_s, progress or (lambda done, of: None))
    try:
        OUTAGE()  # what goes wrong is raised: aiokafka need not tell it too, at least not at once
        await reading.run()
    except TimeoutError:
        raise reading.failure(f"its end was not reached: no progress within {deadline_s:g} s") from None
    except (KafkaError, OSError) as error:
        raise reading.failure(words(error, "READ")) from None
    except _TakeFailed as failed:
        raise failed.error from None
    finally:
        await reader.stop()
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # it may have come while aiokafka stopped, which swallows it
    for found in reader.logs.values():
        _tell(found, lost)
    return {partition: found.position for partition, found in reader.logs.items()}


async def started(consumer: AIOKafkaConsumer) -> None:
    """Connects, however long that takes: it waits for a broker that restarts."""
    while True:
        try:
            await consumer.start()
            return
        except KafkaConnectionError:
            await asyncio.sleep(RETRY_S)


class _TakeFailed(Exception):
    """What `take` raised, which is no outage of Kafka whatever its class: a closed pipe, a full disk."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Reading:
    """One run from the logs' beginnings to their ends."""

    def __init__(
        self,
        reader: LogReader,
        take: Callable[[Records], None],
        deadline_s: float,
        progress: Callable[[int, int], None],
    ) -> None:
        self.reader, self.take, self.deadline_s, self.progress = reader, take, deadline_s, progress
        self._moved_at = time.monotonic()
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Until every partition was read to where it ended."""
        while not all(found.begin is not None for found in self.reader.logs.values()):
            await self._try(self._start)
        while not all(found.is_done for found in self.reader.logs.values()):
            await self._try(self._step)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (KafkaError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            self._error = error
            async with self._deadline():
                await self.reader.retry(error)

    async def _start(self) -> None:
        async with self._deadline():
            await self.reader.start()
        self._moved_at = time.monotonic()

    async def _step(self) -> None:
        async with self._deadline():
            answers = await self.reader.fetch()
        for answer in answers:
            before = answer.log.position
            await self._hand_over(answer)
            if answer.log.is_done or answer.log.position > before:
                self._moved_at = time.monotonic()
        self.progress(*self._progress())
        if self.reader.error is not None:
            raise self.reader.error
        await asyncio.sleep(0)  # with much to read, no other await would let anyone else run

    async def _hand_over(self, answer: Answer) -> None:
        unpacking = answer.unpacking
        while unpacking is not None and not unpacking.is_done:
            columns = unpacking.take(MAX_RECORDS, Budget(PIECE_BYTES))
            if columns.offsets:
                try:
                    self.take(consumer_records(answer.log.tp, columns))
                except (KafkaError, OSError) as error:
                    raise _TakeFailed(error) from error
            answer.log.position = unpacking.next_fetch_offset
            await asyncio.sleep(0)

    def _deadline(self) -> asyncio.Timeout:
        left = self._moved_at + self.deadline_s - time.monotonic()
        return asyncio.timeout(max(0.0, left))

    def _progress(self) -> tuple[int, int]:
        """Offsets done, and offsets in all, of the partitions that have answered."""
        done = of = 0
        for found in self.reader.logs.values():
            if found.end is not None and found.begin is not None:
                done += max(0, min(found.position, found.end) - found.begin)
                of += max(0, found.end - found.begin)
        return done, of

    def failure(self, reason: str) -> BrokerError:
        """The error, with the place where reading stood."""
        logs = self.reader.logs.values()
        found = next((item for item in logs if item.begin is None), None)
        found = found or next((item for item in logs if not item.is_done), next(iter(logs)))
        position = "unknown" if found.begin is None else found.position
        said = f" ({words(self._error, 'READ')})" if self._error is not None and "READ" not in reason else ""
        return BrokerError(
            place=f"topic {found.tp.topic}, partition {found.tp.partition}",
            seen=f"{reason}: position {position}, end {'unknown' if found.end is None else found.end}{said}",
            mend="is the broker up, and does the topic exist?",
        )


def _tell(found: Log, lost: Callable[[int, int, int], None] | None) -> None:
    if found.end is not None and found.open_until > found.end:
        log.info(
            "%s partition %d: read to the last stable offset, %d; a transaction is open there (the log goes on to %d)",
            *(*found.tp, found.end, found.open_until),
            extra={"topic": found.tp.topic, "partition": found.tp.partition, "offset": found.end},
        )
    for begin, end in found.lost:
        if lost is not None:
            lost(found.tp.partition, begin, end)
