"""Partitions of one topic by fetch requests of our own: each answer states what is there, and no timeout is a guess.

A fetch response states the last stable offset, and a request for one partition alone gets at least one batch if there
is any at its position or after it (KIP-74). So a position moves by the batches' own headers, and an empty answer to a
request for one partition alone means that its tail holds no batch, because compaction removed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    NoError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from agents.clients import CONSUMER, Connection
from agents.unpack import READ_COMMITTED, Unpacking
from streams.errors import BrokerError

log = logging.getLogger(__name__)

EARLIEST, LATEST = -2, -1
FETCH_BYTES = 16 << 20
MAX_WAIT_MS = 50
RETRY_S = 0.2


@dataclass(slots=True)
class Log:
    """One partition: where it began, the position of reading, and where it ended when its first answer came."""

    tp: TopicPartition
    begin: int | None = None
    position: int = 0
    end: int | None = None
    """The last stable offset: an open transaction begins there, or the log ends."""
    open_until: int = 0
    """The high-water mark: beyond `end` while a transaction is open."""
    in_doubt: bool = False
    """An answer to a request for several partitions had nothing of it: it has to be asked alone."""
    lost: list[tuple[int, int]] = field(default_factory=list)
    """Offsets (from, to) that were deleted before they could be read."""

    @property
    def is_done(self) -> bool:
        return self.end is not None and self.position >= self.end


@dataclass(slots=True)
class Answer:
    """One partition's part of a response."""

    log: Log
    unpacking: Unpacking | None


class LogReader:
    """Reads partitions with a client of its own, which belongs to no group."""

    def __init__(self, connection: Connection, topic: str, partitions: Sequence[int]) -> None:
        self.connection, self.topic = connection, topic
        self.logs = {partition: Log(TopicPartition(topic, partition)) for partition in partitions}
        self._client: AIOKafkaClient | None = None
        self.error: KafkaError | None = None
        """What the last round's answers said instead of bringing records of a partition."""
        self._turn = 0

    async def start(self) -> None:
        """Connects, and asks where the logs begin.

        Raises:
            KafkaError: which may be retriable.
        """
        if self._client is None:
            client = self.connection.client()
            try:
                await client.bootstrap()
            except BaseException:
                await client.close()
                raise
            self._client = client
            await client.set_topics([self.topic])
        for partition, offset in (await self._list_offsets(EARLIEST, self._unbegun())).items():
            found = self.logs[partition]
            found.begin = found.position = offset
        if self._unbegun():
            raise LeaderNotAvailableError(self.topic)

    async def stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _unbegun(self) -> list[Log]:
        return [found for found in self.logs.values() if found.begin is None]

    async def fetch(self) -> list[Answer]:
        """The answers of one round of requests, one to each leader, for the partitions that are not done.

        `error` is set if one of them is an error.

        Raises:
            KafkaError: which may be retriable.
        """
        by_leader = self._by_leader([found for found in self.logs.values() if not found.is_done])
        self._turn, self.error = self._turn + 1, None
        rounds = await asyncio.gather(*(self._ask(node, logs) for node, logs in by_leader.items()))
        return [answer for answers in rounds for answer in answers]

    def _by_leader(self, logs: Sequence[Log]) -> dict[int, list[Log]]:
        assert self._client is not None
        by_leader: dict[int, list[Log]] = defaultdict(list)
        for found in logs:
            node = self._client.cluster.leader_for_partition(found.tp)
            if node is not None and node >= 0:
                by_leader[node].append(found)
        if len(by_leader) == 0:
            self._refuse_unauthorized()
            raise LeaderNotAvailableError(self.topic)
        return by_leader

    async def _ask(self, node: int, logs: list[Log]) -> list[Answer]:
        assert self._client is not None
        doubted = next((found for found in logs if found.in_doubt), None)
        turn = self._turn % len(logs)
        asked = [doubted] if doubted is not None else logs[turn:] + logs[:turn]  # the first are answered first
        wanted = [(found.tp.partition, found.position, CONSUMER["max_partition_fetch_bytes"]) for found in asked]
        request = FetchRequest(MAX_WAIT_MS, 1, FETCH_BYTES, READ_COMMITTED, [(self.topic, wanted)])
        response = await self._client.send(node, request)
        answers = []
        for _, partitions in response.topics:
            for partition, code, highwater, *more in partitions:
                found = self.logs[partition]
                error = for_code(code)
                if error is OffsetOutOfRangeError:
                    await self._begin_again(found)
                elif error is not NoError:
                    self.error = error(self.topic)
                else:
                    answers.append(self._note(found, highwater, more, alone=len(asked) == 1))
        return answers

    def _note(self, found: Log, highwater: int, more: list[Any], *, alone: bool) -> Answer:
        """`more`: last stable offset, perhaps the log's start, aborted transactions, perhaps a replica, the records."""
        stable = more[0] if len(more) > 1 and 0 <= more[0] <= highwater else highwater
        if found.end is None:
            found.end, found.open_until = stable, highwater
        data = more[-1] or b""
        aborted = next((item for item in more[1:-1] if isinstance(item, list)), None) or ()
        if data:
            found.in_doubt = False
            return Answer(found, Unpacking(found.tp, data, aborted, found.position, highwater))
        if found.is_done:
            found.in_doubt = False
        elif alone and stable > found.position and not self.connection.embedded:  # the embedded broker compacts nothing
            found.position, found.in_doubt = max(found.position, found.end), False
        else:
            found.in_doubt = True
        return Answer(found, None)

    async def _begin_again(self, found: Log) -> None:
        """Go on at the log's start: records were deleted before they could be read."""
        starts, ends = await self._list_offsets(EARLIEST, [found]), await self._list_offsets(LATEST, [found])
        start, end = starts[found.tp.partition], ends[found.tp.partition]
        if found.position > end:
            raise BrokerError(
                place=f"topic {self.topic}, partition {found.tp.partition}",
                seen=f"a log that ends at offset {end}, and it was read up to {found.position}: it was made anew",
                expected="the log that was read",
                mend="start again",
            )
        if start > found.position:
            found.lost.append((found.position, start))
            place = {"topic": self.topic, "partition": found.tp.partition, "offset": found.position}
            log.warning(
                "%s partition %d: offsets %d to %d were deleted before they could be read; going on at %d",
                *(*found.tp, found.position, start - 1, start),
                extra=place,
            )
            found.position = start

    async def _list_offsets(self, when: int, logs: Sequence[Log]) -> dict[int, int]:
        assert self._client is not None
        offsets: dict[int, int] = {}
        for node, mine in (self._by_leader(logs) if logs else {}).items():
            asked = [(found.tp.partition, when) for found in mine]
            response = await self._client.send(node, OffsetRequest(-1, READ_COMMITTED, [(self.topic, asked)]))
            for _, partitions in response.topics:
                for partition, code, *_, offset in partitions:
                    error = for_code(code)
                    if error is not NoError:
                        raise error(self.topic)
                    offsets[partition] = offset
        return offsets

    async def retry(self, error: BaseException) -> None:
        """After an error that may pass: finds the leaders again, and waits a moment; raises any other.

        Raises:
            KafkaError: if trying again is of no use.
        """
        if isinstance(error, KafkaError) and not error.retriable:
            raise error
        if self._client is not None and not isinstance(error, KafkaConnectionError):
            await self._client.force_metadata_update()
            self._refuse_unauthorized()
        await asyncio.sleep(RETRY_S)

    def _refuse_unauthorized(self) -> None:
        assert self._client is not None
        if self.topic in self._client.cluster.unauthorized_topics:
            raise TopicAuthorizationFailedError(self.topic)


RETRIED = (KafkaError, KafkaTimeoutError, OSError)
