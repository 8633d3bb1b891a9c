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
from agents.store import Stores
from streams.chunk import BEAT_MS, Progress, Step
from streams.errors import SketchError
from streams.join.fold import JoinFold
from streams.partial import key_of, pack
from streams.plan import Plan
from streams.records import Records, RejectedRecord
from streams.source import SourceFold

log = logging.getLogger(__name__)

Wanted = Callable[[], bool]

PUBLISH_EVERY_MS = 1_000
TELL_EVERY_MS = 10_000
PATIENCE_MS = 600_000
"""So long predictions stay in the join by the clock, however fast a past is replayed."""
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

    def __init__(
        self, plan: Plan, connection: Connection, producer: AIOKafkaProducer, incarnation: str, stores: Stores | None
    ) -> None:
        """`stores`: where predictions wait for their labels; None if no model has any."""
        self.plan, self.connection, self.producer = plan, connection, producer
        self.incarnation, self.stores = incarnation, stores
        self.source = connection.topic(plan.config.kafka.inference)
        self.labels = connection.topic(plan.config.kafka.labels)
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
        self._caught_up: set[tuple[str, int]] = set()
        """Topics and partitions of which nothing was left to read."""
        self._at_end: set[tuple[str, int]] = set()
        """The same, as they have said since the drain began."""
        self._ends: dict[TopicPartition, int] = {}
        """Where the topics ended when the drain began."""
        self._ended: set[int] = set()
        self._told_ms: dict[int, int] = {}
        """When a rebuild's progress was last told; 0: at its end."""

    async def on_assigned(self, tps: AbstractSet[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """Folds go on from the progress of their partitions."""
        partitions = {tp.partition for tp in tps}
        found = await self._progress(partitions)
        self._close_stores()
        self.folds = {partition: self._fold(partition, found.get(partition)) for partition in partitions}
        self._ended, self._unsent, self._caught_up, self._at_end = set(), set(), set(), set()
        self._ends = {}
        return {tp: self._start(tp) for tp in tps}

    def _fold(self, partition: int, progress: Progress | None) -> SourceFold:
        kafka, join = self.plan.config.kafka, None
        if self.stores is not None:
            store = self.stores.open(self.source, partition)
            join = JoinFold(self.plan, kafka.labels, partition, store, now_ms(), PATIENCE_MS)
        fold = SourceFold(self.plan, kafka.inference, partition, progress, now_ms(), join=join)
        return fold

    def _start(self, tp: TopicPartition) -> int | None:
        """Where to begin; None: at the beginning of what the log still has."""
        fold = self.folds[tp.partition]
        if tp.topic == self.labels and fold.join is not None:
            return fold.join.meta.covered.labels or None
        return fold.resume_offset or None

    def _close_stores(self) -> None:
        self.folds = {}
        if self.stores is not None:
            self.stores.close()

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
        self._close_stores()

    async def process(self, batch: Batch) -> None:
        """One batch of one partition."""
        fold = self.folds.get(batch.partition)
        if fold is None or not self._is_current(batch):
            return
        began = time.perf_counter()
        labels = batch.topic == self.labels
        if batch.records:
            self._unsent.add(batch.partition)
            take = fold.take_labels if labels else fold.take
            for step in take(_records(batch), now_ms()):
                await self._execute(step, lambda: self._is_current(batch), batch.topic)
            if not self._is_current(batch):
                return
            self._unsent.discard(batch.partition)
        await self._note_lag(fold, batch)
        self._tell_rebuild(fold)
        if self._is_due(fold, batch):
            self._published_ms[batch.partition] = now_ms()
            caught_up = (self.source, batch.partition) in self._caught_up
            ended = self.draining and self._is_at_end(fold)
            step = fold.publish(now_ms(), caught_up=caught_up, final=ended)
            await self._execute(step, lambda: self._is_current(batch))
            self._note_end(batch.partition, ended)
        self.work.batches += 1
        self.work.seconds += time.perf_counter() - began

    def _is_current(self, batch: Batch) -> bool:
        return self.intake is not None and self.intake.current(batch)

    async def _note_lag(self, fold: SourceFold, batch: Batch) -> None:
        place = (batch.topic, batch.partition)
        if batch.caught_up:
            self._caught_up.add(place)
        else:
            self._caught_up.discard(place)
        if self.draining and batch.caught_up and not batch.records and await self._is_drained(batch):
            self._at_end.add(place)
        else:
            self._at_end.discard(place)
        if fold.join is not None:
            self._pace(fold.join)
            fold.join.caught_up = (self.labels, batch.partition) in self._caught_up

    async def _is_drained(self, batch: Batch) -> bool:
        """Whether all was read that was there when the drain began: what the last fetch said may be seconds old."""
        if not self._ends and self.intake is not None:
            self._ends = await self.intake.ends()
        end = self._ends.get(TopicPartition(batch.topic, batch.partition))
        return end is not None and batch.position >= end

    def _pace(self, join: JoinFold) -> None:
        """Labels wait for the predictions of their time, so that few have to be remembered without one."""
        if self.intake is None:
            return
        place = (self.labels, join.partition)
        waits = join.is_ahead and (self.source, join.partition) not in self._caught_up
        self.intake.hold_back(TopicPartition(*place), waits)
        if waits:  # and nobody knows how many have come meanwhile
            self._caught_up.discard(place)
            self._at_end.discard(place)

    def _tell_rebuild(self, fold: SourceFold) -> None:
        left, told_ms = fold.to_rejoin, self._told_ms.get(fold.partition, 0)
        if (left and now_ms() - told_ms >= TELL_EVERY_MS) or (not left and told_ms):
            self._told_ms[fold.partition] = now_ms() if left else 0
            log.info("partition %d: %d records to read again until the label join is rebuilt", fold.partition, left)

    def _is_at_end(self, fold: SourceFold) -> bool:
        """Whether nothing is left of any topic of the partition."""
        topics = {self.source, self.labels} if fold.join is not None else {self.source}
        return {(topic, fold.partition) for topic in topics} <= self._at_end

    def _is_due(self, fold: SourceFold, batch: Batch) -> bool:
        since = now_ms() - self._published_ms.get(batch.partition, 0)
        if self.draining and self._is_at_end(fold) and not batch.records:
            return batch.partition not in self._ended
        return since >= (PUBLISH_EVERY_MS if fold.changed else BEAT_MS)

    def _note_end(self, partition: int, ended: bool) -> None:
        if ended:
            self._ended.add(partition)
        else:
            self._ended.discard(partition)
        if self.draining and self.folds and self._ended >= self.folds.keys():
            self.drained.set()

    async def _execute(self, step: Step, wanted: Wanted, topic: str | None = None) -> None:
        """Rejects, partials, progress: in this order, each acknowledged before the next. `topic`: of the rejects."""
        if step.rejects:
            self.work.rejects.update(item.reject.reason for item in step.rejects)
            letters = [cut(self._dead_letter(item, topic or self.source)) for item in step.rejects]
            await publish(self.producer, letters, wanted)
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
        fold = self.folds.get(step.partition)
        if partials and fold is not None and fold.join is not None and self.intake is not None and wanted():
            await self.intake.commit({TopicPartition(self.labels, step.partition): fold.join.meta.covered.labels})

    async def _note_progress(self, partition: int, progress: Progress, wanted: Wanted) -> None:
        topic = self.connection.topic("progress")
        place = partition % await self._partitions_of(topic)
        await publish(self.producer, [Outgoing(topic, str(partition).encode(), progress.to_bytes(), place)], wanted)
        if self.intake is not None:
            await self.intake.commit({TopicPartition(self.source, partition): progress.next_offset})

    def _dead_letter(self, item: RejectedRecord, topic: str) -> Outgoing:
        headers = (
            ("foreshock.topic", topic.encode()),
            ("foreshock.partition", str(item.partition).encode()),
            ("foreshock.offset", str(item.offset).encode()),
            ("foreshock.reason", item.reject.reason.encode()),
            ("foreshock.detail", item.reject.detail.encode("utf-8", "replace")),
            ("foreshock.model", item.reject.model.encode("utf-8", "replace")),
        )
        key = f"{topic}-{item.partition}".encode()
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
