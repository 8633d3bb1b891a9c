"""Stage 1 of the shell: batches of the inference topic → one pure fold per partition → partials, progress, rejects."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer, TopicPartition

from agents.clients import Connection
from agents.intake import Batch, Intake
from agents.loader import Records as Loaded
from agents.loader import read_to_end
from agents.publish import Outgoing, cut, publish
from streams.chunk import BEAT_MS, Progress, SourceFold, Step
from streams.errors import SketchError
from streams.partial import key_of, pack
from streams.plan import Plan
from streams.records import Records, RejectedRecord

log = logging.getLogger(__name__)

Wanted = Callable[[], bool]

PUBLISH_EVERY_MS = 1_000
LOAD_WITHIN_S = 120.0
LAST_WORDS_S = 5.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Work:
    """What a stage has done, for the metrics."""

    batches: int = 0
    seconds: float = 0.0
    partials: int = 0
    rejects: Counter[str] = field(default_factory=Counter)


class SketchStage:
    """Owns the folds of the partitions that are ours."""

    def __init__(self, plan: Plan, connection: Connection, producer: AIOKafkaProducer, incarnation: str) -> None:
        self.plan, self.connection, self.producer = plan, connection, producer
        self.incarnation = incarnation
        self.source = connection.topic(plan.config.kafka.inference)
        self.intake: Intake | None = None
        self.work = Work()
        self.folds: dict[int, SourceFold] = {}
        self.draining = False
        self.drained = asyncio.Event()
        """Set, when draining, once every partition has been read to its end and has said so."""
        self.sent: dict[int, int] = {}
        """Per bucket the offset of the last partial sent."""
        self._unsent: set[int] = set()
        """Partitions whose fold has filled chunks that are not all sent yet."""
        self._published_ms: dict[int, int] = {}
        self._ended: set[int] = set()

    async def on_assigned(self, tps: AbstractSet[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """Folds go on from the progress of their partitions."""
        found = await self._progress({tp.partition for tp in tps})
        self.folds = {
            tp.partition: SourceFold(
                self.plan, self.plan.config.kafka.inference, tp.partition, found.get(tp.partition), now_ms()
            )
            for tp in tps
        }
        self._ended, self._unsent = set(), set()
        return {tp: found[tp.partition].next_offset if tp.partition in found else None for tp in tps}

    async def _progress(self, partitions: set[int]) -> dict[int, Progress]:
        """Of each partition the progress with the highest offset: an older one may have been written by a zombie."""
        found: dict[int, Progress] = {}

        def take(records: Loaded) -> None:
            for record in records:
                try:
                    partition, progress = int(record.key), Progress.from_bytes(record.value)
                except (SketchError, TypeError, ValueError) as error:
                    log.error("progress, offset %d: %s; left out", record.offset, error)
                    continue
                known = found.get(partition)
                if partition in partitions and (known is None or known.next_offset <= progress.next_offset):
                    found[partition] = progress

        topic = self.connection.topic("progress")
        count = await self._partitions_of(topic)
        places = {partition % count for partition in partitions}
        await read_to_end(self.connection, topic, places, take, deadline_s=LOAD_WITHIN_S)
        return found

    async def _partitions_of(self, topic: str) -> int:
        return len(await self.producer.partitions_for(topic))

    async def on_revoked(self, tps: AbstractSet[TopicPartition]) -> None:
        """A last publication, so that stage 2 need not wait for the next owner; nothing depends on it."""
        folds, self.folds = self.folds, {}
        deadline = time.monotonic() + LAST_WORDS_S
        for partition, fold in folds.items():
            # To stage 2 a chunk is full when a later one has begun: none may be passed over.
            if fold.changed and partition not in self._unsent and time.monotonic() < deadline:
                step = fold.publish(now_ms(), caught_up=False)
                await self._execute(step, lambda: time.monotonic() < deadline)

    async def process(self, batch: Batch) -> None:
        """One batch of one partition."""
        fold = self.folds.get(batch.partition)
        if fold is None or not self._is_current(batch):
            return
        began = time.perf_counter()
        if batch.records:
            self._unsent.add(batch.partition)
            for step in fold.take(_records(batch), now_ms()):
                await self._execute(step, lambda: self._is_current(batch))
            if not self._is_current(batch):
                return
            self._unsent.discard(batch.partition)
        if self._is_due(fold, batch):
            self._published_ms[batch.partition] = now_ms()
            ended = self.draining and batch.caught_up
            step = fold.publish(now_ms(), caught_up=batch.caught_up, final=ended)
            await self._execute(step, lambda: self._is_current(batch))
            self._note_end(batch.partition, ended)
        self.work.batches += 1
        self.work.seconds += time.perf_counter() - began

    def _is_current(self, batch: Batch) -> bool:
        return self.intake is not None and self.intake.current(batch)

    def _is_due(self, fold: SourceFold, batch: Batch) -> bool:
        since = now_ms() - self._published_ms.get(batch.partition, 0)
        if self.draining and batch.caught_up and not batch.records:
            return batch.partition not in self._ended
        return since >= (PUBLISH_EVERY_MS if fold.changed else BEAT_MS)

    def _note_end(self, partition: int, ended: bool) -> None:
        if ended:
            self._ended.add(partition)
        else:
            self._ended.discard(partition)
        if self.draining and self.folds and self._ended >= self.folds.keys():
            self.drained.set()

    async def _execute(self, step: Step, wanted: Wanted) -> None:
        """Rejects, partials, progress: in this order, each acknowledged before the next."""
        if step.rejects:
            self.work.rejects.update(item.reject.reason for item in step.rejects)
            await publish(self.producer, [cut(self._dead_letter(item)) for item in step.rejects], wanted)
        partials = [
            Outgoing(self.connection.topic("partials"), key_of(item, self.incarnation), pack(item), item.bucket)
            for item in step.partials
        ]
        if partials:
            self.work.partials += len(partials)
            sent = await publish(self.producer, partials, wanted)
            self.sent |= {partition: offset for (_, partition), offset in sent.items()}
        if step.progress and wanted():
            await self._note_progress(step.partition, step.progress, wanted)

    async def _note_progress(self, partition: int, progress: Progress, wanted: Wanted) -> None:
        topic = self.connection.topic("progress")
        place = partition % await self._partitions_of(topic)
        await publish(self.producer, [Outgoing(topic, str(partition).encode(), progress.to_bytes(), place)], wanted)
        if self.intake is not None:
            await self.intake.commit({TopicPartition(self.source, partition): progress.next_offset})

    def _dead_letter(self, item: RejectedRecord) -> Outgoing:
        headers = (
            ("foreshock.topic", self.source.encode()),
            ("foreshock.partition", str(item.partition).encode()),
            ("foreshock.offset", str(item.offset).encode()),
            ("foreshock.reason", item.reject.reason.encode()),
            ("foreshock.detail", item.reject.detail.encode("utf-8", "replace")),
            ("foreshock.model", item.reject.model.encode("utf-8", "replace")),
        )
        key = f"{self.source}-{item.partition}".encode()
        return Outgoing(self.connection.topic("dead-letter"), key, item.value, headers=headers)


def _records(batch: Batch) -> Records:
    records = batch.records
    stamps = [record.timestamp for record in records]
    if min(stamps) < 0:  # a producer that gave none
        clock = now_ms()
        stamps = [stamp if stamp >= 0 else clock for stamp in stamps]
    headers = [record.headers for record in records]
    first, last = records[0].offset, records[-1].offset
    return Records(
        # They rise, so without a gap the bounds tell them all.
        offsets=range(first, last + 1) if last - first + 1 == len(records) else [record.offset for record in records],
        stamps_ms=stamps,
        values=batch.values,
        headers=[[(name, value or b"") for name, value in item] for item in headers] if any(headers) else (),
    )
