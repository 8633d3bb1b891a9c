"""Stage 1 of the shell: batches of the inference topic → one pure fold per partition → partials, progress, rejects."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial

import msgspec
from aiokafka import TopicPartition

from agents.channel import Batch
from agents.clients import Connection
from agents.clock import Turn, now_ms
from agents.dead_letter import dead_letter
from agents.fold_news import FoldNews
from agents.intake import Intake
from agents.joins import Joins
from agents.parked import report
from agents.publish import TOO_LARGE_S, Outgoing, Producer, TooLarge, cut, publish
from agents.resuming import Place, Resuming
from agents.store import Stores
from agents.work import Work
from streams.chunk import BEAT_MS, ChunkFold, Step
from streams.errors import NewerError, RecordTooLarge, StoreDamaged
from streams.facts.fold import FactFold, FeedbackFold, fact_fold
from streams.fit import fitted, is_divisible, is_sketches, without
from streams.join.fold import JoinFold
from streams.parking import Parked, Phase
from streams.partial import Partial, largest_models
from streams.plan import Facts, Plan, model_of
from streams.position import offset_of, position
from streams.progress import Progress
from streams.records import Records
from streams.resume import Resumption, SourceLog
from streams.source import SourceFold

log = logging.getLogger(__name__)

Wanted = Callable[[], bool]
PUBLISH_EVERY_MS = 1_000
LAST_WORDS_S = 5.0


class SketchStage:
    """Owns the folds of the partitions that are ours."""

    def __init__(
        self,
        plan: Plan,
        connection: Connection,
        producer: Producer,
        incarnation: str,
        stores: Stores | None,
        kinds: Iterable[Facts] = (),
    ) -> None:
        """`stores`: where predictions wait for their labels; None if no model has any. `kinds` of facts to read."""
        self.plan, self.connection, self.producer = plan, connection, producer
        self.incarnation, self.stores = incarnation, stores
        self.source = connection.topic(plan.config.kafka.inference)
        self.labels = connection.topic(plan.config.kafka.labels)
        self.told = {connection.topic(plan.topic_of(kind)): kind for kind in kinds}
        """The topics of facts."""
        names = {topic: str(kind) for topic, kind in self.told.items()} | {self.labels: "labels", self.source: ""}
        self.resuming = Resuming(connection, producer, names, plan.config.kafka.chunk_size)
        self._joins = Joins(plan, stores, self.resuming, self.source, self.labels) if stores is not None else None
        self.intake: Intake | None = None
        self.work = Work()
        self._logs: dict[Place, SourceLog] = {}
        self.too_large: dict[Place, dict[str, int]] = {}
        """By partition the models that are parked as their partials are larger than the topic takes, and the bytes."""
        self.later: dict[Place, NewerError] = {}
        """Partitions of which a later release has written what this one cannot read: nothing of them is counted."""
        self.lost_labels: dict[int, int] = {}
        """Per partition of ours, labels that were gone before they were read."""
        self.folds: dict[int, SourceFold] = {}
        self.facts: dict[Place, FactFold] = {}
        self.draining = False
        self.drained = asyncio.Event()
        """Set, when draining, once every partition has been read to its end and has said so."""
        self.sent: dict[int, int] = {}
        """Per bucket the offset of the last partial sent."""
        self._unsent: set[Place] = set()
        """Of folds that have filled chunks that are not all sent yet."""
        self._published_ms: dict[Place, int] = {}
        self._caught_up: dict[Place, int] = {}
        """Of which nothing was left to read, and when that was asked: it was so then, and is not known of later."""
        self._at_end: set[Place] = set()
        """The same, as they have said since the drain began."""
        self._ends: dict[TopicPartition, int] = {}
        """Where the topics ended when the drain began."""
        self._ended: set[Place] = set()
        self._damaged: set[int] = set()
        """Partitions whose store is damaged, until they are assigned again."""
        self._news = FoldNews()

    async def on_assigned(self, tps: AbstractSet[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """Folds go on from the progress of their partitions."""
        known = self.intake.logs if self.intake is not None else {}
        logs = {(tp.topic, tp.partition): found for tp, found in known.items()}
        resumed = await self.resuming.read({(tp.topic, tp.partition) for tp in tps}, logs, self.labels)
        self._close_stores()
        self._logs = {
            place: SourceLog.of(item.progress, logs[place]) for place, item in resumed.items() if place in logs
        }
        self._damaged.clear()
        self.too_large = {}
        places = {(tp.topic, tp.partition) for tp in tps}
        sources = {
            partition: item
            for (topic, partition), item in resumed.items()
            if topic == self.source and (topic, partition) not in self._left_alone(places)
        }
        joins = await self._joins.opened(sources, self._logs) if self._joins is not None else {}
        self.later = self._left_alone(places)
        self._report_later()
        await self._note_lost_labels(joins, resumed)
        for partition, item in sources.items():
            if (self.source, partition) in self.later:
                continue
            self.folds[partition] = self._fold(partition, item.progress, joins.get(partition))
            await asyncio.sleep(0)  # heartbeats go out in between
        self.facts = {
            place: self._fact_fold(place, item.progress)
            for place, item in resumed.items()
            if place[0] in self.told and place not in self.later
        }
        self._ended, self._unsent, self._at_end, self._caught_up, self._ends = set(), set(), set(), {}, {}
        return {tp: self._start(tp) for tp in tps}

    def _left_alone(self, places: AbstractSet[Place]) -> dict[Place, NewerError]:
        """Of these those that stand still: with the events of a partition its labels and its feedback do, and the
        other way round, for they are joined."""
        newer = self.resuming.newer
        joined = {self.source, self.labels} | {topic for topic, kind in self.told.items() if kind is Facts.FEEDBACK}
        by_number = {number: error for (topic, number), error in newer.items() if topic in joined}
        return {
            place: newer.get(place) or by_number[place[1]]
            for place in places
            if place in newer or (place[0] in joined and place[1] in by_number)
        }

    def _report_later(self) -> None:
        for place, error in sorted(self.later.items(), key=lambda item: item[0]):
            where = {"topic": place[0], "partition": place[1]}
            log.error("%s; nothing of %s partition %d is counted until then", error, *where.values(), extra=where)
            if self.intake is not None:
                self.intake.hold_back(TopicPartition(*place), True)
        if self.later and self.draining:
            raise next(iter(self.later.values()))  # it would wait for ever

    async def _note_lost_labels(self, joins: Mapping[int, JoinFold], resumed: Mapping[Place, Resumption]) -> None:
        """Labels that were gone before they were read are counted in the progress of their topic, and up to where:
        a worker that dies before its store is written finds them again, and must not count them twice."""
        self.lost_labels = {}
        for (topic, partition), item in resumed.items():
            if topic != self.labels:
                continue
            start = self._logs[topic, partition].start if (topic, partition) in self._logs else 0
            uncounted = max(0, start - item.progress.next_offset)
            new = min(joins[partition].lost_labels, uncounted) if partition in joins else 0
            self.lost_labels[partition] = item.progress.lost + new
            if new:
                where = {"topic": topic, "partition": partition}
                log.error(
                    "%s partition %d: %d labels were gone before they were read", *where.values(), new, extra=where
                )
                progress = msgspec.structs.replace(item.progress, next_offset=start, lost=item.progress.lost + new)
                await self.resuming.write((topic, partition), progress)

    def _fold(self, partition: int, progress: Progress, join: JoinFold | None) -> SourceFold:
        return SourceFold(self.plan, self.plan.config.kafka.inference, partition, progress, now_ms(), join=join)

    def _fact_fold(self, place: Place, progress: Progress) -> FactFold:
        topic, partition = place
        source = self.folds.get(partition)
        return fact_fold(
            self.told[topic], self.plan, partition, progress, now_ms(), source.join if source is not None else None
        )

    def _start(self, tp: TopicPartition) -> int | None:
        """Where to begin; None: at the beginning of what the log still has."""
        if (tp.topic, tp.partition) in self.later:
            return None
        if tp.topic in self.told:
            return offset_of(self.facts[tp.topic, tp.partition].resume_offset) or None
        fold = self.folds.get(tp.partition)
        if fold is None:
            log.warning("%s has no partition %d: its labels are left until it has", self.source, tp.partition)
            return None
        if tp.topic == self.labels and fold.covered_labels is not None:
            return offset_of(fold.covered_labels) or None
        return offset_of(fold.resume_offset) or None

    def _close_stores(self) -> None:
        self.folds, self.facts = {}, {}
        if self.stores is not None:
            self.stores.close()

    async def on_revoked(self, tps: AbstractSet[TopicPartition]) -> None:
        """A last publication, so that stage 2 need not wait for the next owner; nothing depends on it."""
        folds: dict[Place, ChunkFold] = {**self.facts, **{(self.source, at): fold for at, fold in self.folds.items()}}
        self.folds, self.facts = {}, {}
        deadline = time.monotonic() + LAST_WORDS_S
        for place, fold in folds.items():
            # To stage 2 a chunk is full when a later one has begun: none may be passed over.
            if fold.changed and place not in self._unsent and time.monotonic() < deadline:
                try:
                    step = fold.publish(now_ms(), caught_up=False)
                except StoreDamaged as error:
                    self._give_up(place[1], error)
                    continue
                await self._execute(step, lambda: time.monotonic() < deadline, place)
        self._close_stores()

    async def process(self, batch: Batch) -> None:
        """One batch of one partition. A store that turns out to be damaged is rebuilt, by a new assignment."""
        try:
            await self._process(batch)
        except StoreDamaged as error:
            self._give_up(batch.partition, error)
            if self.intake is not None:
                self.intake.rejoin()

    def _give_up(self, partition: int, error: StoreDamaged) -> None:
        """Lets go of a partition whose store is damaged: nothing of it is counted until it is assigned again."""
        log.error("partition %d: %s", partition, error, extra={"partition": partition})
        self._damaged.add(partition)
        self.folds.pop(partition, None)
        self.facts = {place: fold for place, fold in self.facts.items() if place[1] != partition}
        if self.stores is not None:
            self.stores.condemn(partition)

    async def _process(self, batch: Batch) -> None:
        place = (self.source if batch.topic == self.labels else batch.topic, batch.partition)
        fold = self.facts.get(place) if batch.topic in self.told else self.folds.get(batch.partition)
        if fold is None or not self._is_current(batch):
            return
        began = time.perf_counter()
        if batch.records:
            self._unsent.add(place)
            take = fold.take_labels if isinstance(fold, SourceFold) and batch.topic == self.labels else fold.take
            for step in take(self._positioned(batch), now_ms()):
                await self._execute(step, lambda: self._is_current(batch), place, batch.topic)
            if not self._is_current(batch):
                return
            self._unsent.discard(place)
        report(fold.parking.news())
        await self._note_lag(fold, batch)
        if isinstance(fold, SourceFold):
            self._news.report_rebuild(fold)
        if self._is_due(fold, place, batch):
            await self._publish(fold, place, batch)
        await self._look_at_feedback(place, batch)
        self.work.batches += 1
        self.work.seconds += time.perf_counter() - began

    async def _publish(self, fold: ChunkFold, place: Place, batch: Batch) -> None:
        """Publishes what a fold has counted, unless its partition is not ours any more."""
        is_over = Turn()
        for _ in fold.flushed():
            if is_over():
                await asyncio.sleep(0)  # or no heartbeat would be sent
                if not self._is_current(batch):
                    return
        self._published_ms[place] = now_ms()
        ended = self.draining and self._is_at_end(fold, place)
        caught_up_ms = self._caught_up.get(place)
        clock_ms = now_ms() if caught_up_ms is None else caught_up_ms
        step = fold.publish(clock_ms, caught_up=caught_up_ms is not None, final=ended)
        report(fold.parking.news())
        self._news.report_ahead(fold)
        await self._execute(step, lambda: self._is_current(batch), place)
        self._note_end(place, ended)

    async def _look_at_feedback(self, place: Place, batch: Batch) -> None:
        """Counts feedback that need not wait for its events any longer, where so much waits that no more of it is read:
        no batch of its own comes then. `place`: that of the batch."""
        for other, fold in list(self.facts.items()):
            if other == place or other[1] != batch.partition or not isinstance(fold, FeedbackFold) or not fold.is_full:
                continue
            self._pace_feedback(fold, other)
            if self._is_due(fold, other, batch) and self._is_current(batch):
                await self._publish(fold, other, batch)
                self._pace_feedback(fold, other)

    @property
    def parked(self) -> list[Parked]:
        """The models of which a partition of ours counts no record any more."""
        folds: tuple[ChunkFold, ...] = (*self.folds.values(), *self.facts.values())
        return [item for fold in folds for item in fold.parking.models.values()]

    def _positioned(self, batch: Batch) -> Records:
        """A batch's records, with positions in the place of offsets if the log was made anew."""
        records, found = _stamped(batch.records), self._logs.get((batch.topic, batch.partition))
        if found is None or not found.generation:
            return records
        return replace(records, offsets=[position(found.generation, offset) for offset in records.offsets])

    def _is_current(self, batch: Batch) -> bool:
        return self.intake is not None and self.intake.current(batch)

    async def _note_lag(self, fold: ChunkFold, batch: Batch) -> None:
        place = (batch.topic, batch.partition)
        if batch.caught_up:
            self._caught_up[place] = batch.asked_ms
        else:
            self._caught_up.pop(place, None)
        if self.draining and batch.caught_up and not batch.records and await self._is_drained(batch):
            self._at_end.add(place)
        else:
            self._at_end.discard(place)
        if isinstance(fold, SourceFold) and fold.join is not None:
            self._note_caught_up(fold)
            self._pace(fold.join)
        if isinstance(fold, FeedbackFold):
            self._pace_feedback(fold, place)

    def _note_caught_up(self, fold: SourceFold | FeedbackFold) -> None:
        labels, events = (self.labels, fold.partition), (self.source, fold.partition)
        fold.note_caught_up(labels_ms=self._caught_up.get(labels), events_ms=self._caught_up.get(events))

    async def _is_drained(self, batch: Batch) -> bool:
        """Whether all was read that was there when the drain began: what the last fetch said may be seconds old."""
        if not self._ends and self.intake is not None:
            self._ends = await self.intake.ends()
        end = self._ends.get(TopicPartition(batch.topic, batch.partition))
        return end is not None and batch.position >= end

    def _pace_feedback(self, fold: FeedbackFold, place: Place) -> None:
        """Feedback waits for the predictions that it is about: no more of it is read than may wait."""
        self._note_caught_up(fold)
        comes_first = fold.awaits_events and not self.draining
        if self.intake is not None:
            waits = fold.is_full and (comes_first or fold.events_caught_up_ms is None)
            self.intake.hold_back(TopicPartition(*place), waits)

    def _pace(self, join: JoinFold) -> None:
        """Labels wait for the predictions of their time, so that few have to be remembered without one."""
        come_first = join.awaits_predictions and not self.draining
        waits = join.is_ahead and (come_first or (self.source, join.partition) not in self._caught_up)
        if self.intake is not None:
            self.intake.hold_back(TopicPartition(self.labels, join.partition), waits)

    def _is_at_end(self, fold: ChunkFold, place: Place) -> bool:
        """Whether nothing is left of any topic that the fold reads."""
        places = {place}
        if isinstance(fold, SourceFold) and fold.join is not None:
            places.add((self.labels, fold.partition))
        if isinstance(fold, FeedbackFold) and fold.join is not None:
            places.add((self.source, fold.partition))
        return places <= self._at_end

    def _is_due(self, fold: ChunkFold, place: Place, batch: Batch) -> bool:
        since = now_ms() - self._published_ms.get(place, 0)
        if self.draining and self._is_at_end(fold, place) and not batch.records:
            return place not in self._ended
        return since >= (PUBLISH_EVERY_MS if fold.changed else BEAT_MS)

    def _note_end(self, place: Place, ended: bool) -> None:
        if ended:
            self._ended.add(place)
        else:
            self._ended.discard(place)
        held = {(self.source, partition) for partition in self.folds} | self.facts.keys()
        if self.draining and held and self._ended >= held and not self._damaged and not self.later:
            self.drained.set()

    async def _execute(self, step: Step, wanted: Wanted, place: Place, topic: str = "") -> None:
        """Rejects, partials, progress: in this order, each acknowledged before the next. `topic`: of the rejects."""
        if step.rejects:
            self.work.rejects.update(item.reject.reason for item in step.rejects)
            letters_topic = self.connection.topic("dead-letter")
            limit = self.producer.limit(letters_topic)
            letters = [cut(dead_letter(item, topic or place[0], letters_topic), limit) for item in step.rejects]
            await publish(self.producer, letters, wanted, self.work.retried)
        if step.partials:
            await self._publish_partials(step.partials, wanted, place)
        if step.progress and wanted():
            await self._note_progress(place, step.progress, wanted)
        fold = self.folds.get(step.partition) if place[0] == self.source else None
        covered = fold.covered_labels if step.partials and fold is not None else None
        if covered is not None and self.intake is not None and wanted():
            await self.intake.commit({TopicPartition(self.labels, step.partition): offset_of(covered)})

    async def _publish_partials(self, partials: Sequence[Partial], wanted: Wanted, place: Place) -> None:
        """Sends partials, divided as far as their topic's limit demands.

        A model whose share alone is too large is parked after a while, and the others go on.
        """
        topic, patience_s = self.connection.topic("partials"), 0.0
        while True:
            kept = without(partials, self.too_large.get(place, {}))
            limit = self.producer.limit(topic)
            found = [record for item in kept for record in fitted(item, self.incarnation, limit)]
            records = [
                Outgoing(topic, key, data, item.bucket, about=partial(largest_models, item))
                for key, data, item in found
            ]
            try:
                sent = await publish(self.producer, records, wanted, self.work.retried, patience_s)
            except TooLarge as error:
                large = {at: found[at][2] for at in error.at if is_sketches(found[at][2])}
                if any(map(is_divisible, large.values())):
                    continue  # the limit was lowered, and is known now
                if patience_s and large:
                    self._park_too_large(place, {item.models[0].model: records[at].bytes for at, item in large.items()})
                # At the end of a drain all panes are closed, whatever is in them.
                patience_s = TOO_LARGE_S if large and not self.draining else math.inf
                continue
            self.work.partials += len(records)
            self.sent |= {partition: offset for (_, partition), offset in sent.items()}
            return

    def _park_too_large(self, place: Place, sizes: Mapping[str, int]) -> None:
        """Parks the models whose share of a partial is too large: by the names of their books, the bytes."""
        topic = self.connection.topic("partials")
        fold = self.facts.get(place) or self.folds.get(place[1])
        for name, size in sizes.items():
            model = model_of(name)
            self.too_large.setdefault(place, {})[model] = size
            if fold is not None:
                fold.parking.park(model, Phase.PACK, RecordTooLarge(topic, size, self.producer.limit(topic)))
        if fold is not None:
            report(fold.parking.news())

    def retry(self) -> None:
        """Begins its partitions anew, from their open chunks, if what was too large is so no longer."""
        limit = self.producer.limit(self.connection.topic("partials"))
        sizes = [size for models in self.too_large.values() for size in models.values()]
        if sizes and max(sizes) <= limit and self.intake is not None:
            self.intake.rejoin()

    async def _note_progress(self, place: Place, progress: Progress, wanted: Wanted) -> None:
        await publish(self.producer, [await self.resuming.outgoing(place, progress)], wanted, self.work.retried)
        if self.intake is not None:
            await self.intake.commit({TopicPartition(*place): offset_of(progress.next_offset)})


def _stamped(records: Records) -> Records:
    """The same, the clock in the place of a time that the producer gave none."""
    if min(records.stamps_ms) >= 0:
        return records
    clock = now_ms()
    return replace(records, stamps_ms=[stamp if stamp >= 0 else clock for stamp in records.stamps_ms])
