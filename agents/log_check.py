"""Which logs the partitions of a consumer are, and whether what was fetched is of the same logs still."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.clients import OUTAGE, Connection
from agents.coordinator import leader_of
from agents.identity import topic_ids
from agents.refusals import words
from streams.errors import BrokerError
from streams.resume import Log

log = logging.getLogger(__name__)

RETRY_S = 1.0
ANSWER_WITHIN_S = 5.0


class LogCheck:
    """The logs of the partitions that are held, as they were when they were assigned."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.logs: Mapping[TopicPartition, Log] = {}
        self._proven: dict[TopicPartition, int | None] = {}
        """When Kafka's answer came after which the partition was found to be of the same topic still."""

    async def look(self, consumer: AIOKafkaConsumer, tps: frozenset[TopicPartition]) -> None:
        """Finds out which logs these are, and where they begin and end. Asks until that is known of all."""
        self._proven = {}
        if not tps:
            self.logs = {}
            return
        while True:
            try:
                ids = await self.ids(consumer, tps)
                if ids.keys() == tps:
                    starts = await consumer.beginning_offsets(list(tps))
                    # On the embedded broker they are wrong.
                    ends = {} if self._connection.embedded else await consumer.end_offsets(list(tps))
                    self.logs = {tp: Log(ids[tp], starts[tp], ends.get(tp)) for tp in tps}
                    return
                reason = "some are not there"
            except (KafkaError, TimeoutError) as error:
                reason = words(error, "READ")
            if OUTAGE():
                log.warning("where do the partitions begin? %s; trying again", reason)
            await asyncio.sleep(RETRY_S)

    async def ids(self, consumer: AIOKafkaConsumer, tps: Iterable[TopicPartition]) -> dict[TopicPartition, str]:
        """The ids of the partitions' topics, as the leader of each partition knows them; none of what is not there."""
        by_leader: dict[int | None, list[TopicPartition]] = {}
        for tp in tps:
            by_leader.setdefault(leader_of(consumer, tp), []).append(tp)
        known: dict[TopicPartition, str] = {}
        for leader, led in by_leader.items():
            async with asyncio.timeout(ANSWER_WITHIN_S):
                ids = await topic_ids(consumer._client, leader, {tp.topic for tp in led})
            known |= {tp: "" if ids is None else ids[tp.topic] for tp in led if ids is None or tp.topic in ids}
        return known

    def unproven(
        self, consumer: AIOKafkaConsumer, fetched: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int | None]:
        """The partitions whose last answer may be of another topic of the same name, and when that answer came.

        Whoever leads a partition learns of a new topic before it serves the new log, so its word after the fetch holds.
        """
        answers = {tp: consumer.last_poll_timestamp(tp) for tp in fetched if self.logs[tp].id}
        return {tp: at for tp, at in answers.items() if at is None or self._proven.get(tp) != at}

    def changed(self, ids: Mapping[TopicPartition, str]) -> list[str]:
        """The topics that have another id than when they were assigned."""
        return sorted({tp.topic for tp, found in ids.items() if found != self.logs[tp].id})

    def prove(self, answers: Mapping[TopicPartition, int | None]) -> None:
        """Notes that these answers are of the logs that were assigned."""
        self._proven |= answers

    async def refuse_what_is_not_there(self, consumer: AIOKafkaConsumer, starts: Mapping[TopicPartition, int]) -> None:
        """BrokerError for a start beyond the log's end: it is the owner's part to know a log that was made anew."""
        beyond = [tp for tp, found in self.logs.items() if found.end is not None and starts[tp] > found.end]
        ends = await consumer.end_offsets(beyond) if beyond else {}  # while the owner made ready, more may have come
        for tp, end in ends.items():
            if starts[tp] > end:
                raise shorter(tp, end, starts[tp])


def shorter(tp: TopicPartition, end: int, offset: int) -> BrokerError:
    """The log ends before the offset up to which it was read."""
    return BrokerError(
        place=f"topic {tp.topic}, partition {tp.partition}",
        seen=f"a log that ends at offset {end}, and it was read up to {offset}: it was made anew",
        expected="the log that was read",
        mend="use another kafka.prefix, which begins with nothing",
    )
