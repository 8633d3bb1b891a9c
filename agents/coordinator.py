"""What a consumer knows of its group and its brokers, and aiokafka has no public name for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import aiokafka
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener

KNOWN_AIOKAFKA = "0.14."


def generation_of(consumer: AIOKafkaConsumer) -> int:
    """The generation of its group, which counts the assignments; -1 where aiokafka may keep it elsewhere."""
    return consumer._coordinator.generation if aiokafka.__version__.startswith(KNOWN_AIOKAFKA) else -1


def rejoin(consumer: AIOKafkaConsumer) -> None:
    """Asks the group for a new assignment."""
    if aiokafka.__version__.startswith(KNOWN_AIOKAFKA):
        consumer._coordinator.request_rejoin()


def leader_of(consumer: AIOKafkaConsumer, tp: TopicPartition) -> int | None:
    """The node that leads a partition, as Kafka said last; None: no broker does."""
    leader: int | None = consumer._client.cluster.leader_for_partition(tp)
    return leader if leader != -1 else None


def end_of(consumer: AIOKafkaConsumer, tp: TopicPartition, uncommitted: bool) -> int | None:
    """Where what can be read ends: at the last stable offset, unless open transactions are read too."""
    stable: int | None = consumer.last_stable_offset(tp)
    end: int | None = consumer.highwater(tp)
    return end if uncommitted or stable is None or stable < 0 else stable


@dataclass(frozen=True, slots=True)
class RebalanceListener:
    """What aiokafka calls around a rebalance. Of exceptions that came through here it would only keep a log.

    `is_current`: whether the consumer is not replaced by another one.
    """

    is_current: Callable[[], bool]
    release: Callable[[], Awaitable[None]]
    take: Callable[[Iterable[TopicPartition]], None]

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if self.is_current():
            await self.release()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        if self.is_current():
            self.take(assigned)


ConsumerRebalanceListener.register(RebalanceListener)
