"""Kafka topics → whole batches of one partition each, over a channel: what lets Faust agents keep up with a partition.

    consumer group ─→ assigned ─→ on_assigned (where to begin) ─→ batches ─→ revoked ─→ on_revoked
                         ↑                                                      │
                         └──────────────── every rebalance ─────────────────────┘

Every rebalance revokes all partitions and assigns anew: that is how aiokafka does it. A batch carries the epoch in
which it was fetched; after the revocation it is not `current` any more, and must not be processed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from mode import Service

from agents.assignor import NO_CONFIGURATION, NOTHING, StickyAssignor
from agents.channel import NO_RECORDS, Batch, Sink
from agents.clients import OUTAGE, Connection
from agents.clock import Seldom
from agents.coordinator import RebalanceListener, end_of, generation_of, leader_of, rejoin
from agents.fetching import hand_out_columns, set_aside
from agents.flow import Flow, is_fresh
from agents.log_check import ANSWER_WITHIN_S, RETRY_S, LogCheck, shorter
from agents.patches import fenced, is_fenced
from agents.refusals import words
from streams.active import Configuration
from streams.errors import ForeshockError
from streams.records import Records
from streams.resume import Log

log = logging.getLogger(__name__)

MAX_RECORDS = 2_048
POLL_MS = 200
IDLE_EVERY_S = 0.25
COUNT_EVERY_S = 10.0
SILENCE_S = 60.0
STOP_WITHIN_S = 5.0

OnAssigned = Callable[[AbstractSet[TopicPartition]], Awaitable[Mapping[TopicPartition, int | None]]]
OnRevoked = Callable[[AbstractSet[TopicPartition]], Awaitable[None]]


class Intake(Service):
    """A member of a consumer group that hands over what it fetches, batch by batch, and waits while nobody takes it.

    `on_assigned(partitions)` says where to begin with each (None: at the beginning), before any batch of them; it may
    take its time, and is cancelled when the next rebalance comes first. `on_revoked(partitions)` is awaited before
    others get them, and at the stop, before the group is left: the last chance to commit. It follows every call of
    `on_assigned`, even a cancelled one. An exception out of a callback crashes the service.

    `logs` says, from before `on_assigned` is called, of which topic each partition is (by its id) and where its log
    begins and ends. No record is handed over before the leader of its partition has said, after the record was fetched,
    that the topic is still that one. When it is another one, or the offset to be read is gone, it releases all
    partitions and gets a new assignment: `on_assigned` decides where a log begins that is not what it was. `stored()`:
    the numbers of the partitions of which something is on the disk: better ours than another's.
    """

    def __init__(
        self,
        connection: Connection,
        topics: Sequence[str],
        group: str,
        sink: Sink,
        *,
        on_assigned: OnAssigned,
        on_revoked: OnRevoked,
        group_instance_id: str | None = None,
        stored: Callable[[], Iterable[int]] = NOTHING,
        configuration: Configuration = NO_CONFIGURATION,
        max_records: int = MAX_RECORDS,
        **service: Any,
    ) -> None:
        super().__init__(**service)
        self._assignor = StickyAssignor(stored, configuration)
        self.connection, self.topics = connection, tuple(topics)
        self._uncommitted = connection.reads_uncommitted
        self.group, self.group_instance_id = group, group_instance_id
        self.max_records = max_records
        self.epoch = 0
        self.unbroken = False
        """Whether nobody else can have had our partitions between the last assignment and the one before."""
        self._generation = -1
        self._sink, self._on_assigned, self._on_revoked = sink, on_assigned, on_revoked
        self._consumer: AIOKafkaConsumer | None = None
        self._held: frozenset[TopicPartition] = frozenset()
        self._log_check = LogCheck(connection)
        self._flows: dict[TopicPartition, Flow] = {}  # of those that are held
        self._waiting: set[TopicPartition] = set()
        self._set_aside: set[TopicPartition] = set()  # of those that wait: paused, for too much of them was fetched
        self._running: asyncio.Task[Any] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._settled = False  # every partition that is held was sought to its start
        self._releasing = asyncio.Lock()
        self._is_look_due, self._is_count_due = Seldom(IDLE_EVERY_S), Seldom(COUNT_EVERY_S)

    # What others may ask, and ask for

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that are ours, from the call of `on_assigned` to the end of `on_revoked`."""
        return self._held

    @property
    def logs(self) -> Mapping[TopicPartition, Log]:
        """The logs of the partitions that are held, as they were when they were assigned."""
        return self._log_check.logs

    @property
    def settled(self) -> bool:
        """Whether it has its assignment, and the state that these partitions begin with has been rebuilt."""
        return self._settled

    @property
    def waits(self) -> str:
        """Why its group gives it nothing: another configuration is active there. Empty while its own is."""
        return self._assignor.waits

    @property
    def releases(self) -> int:
        """How often it lost all partitions: at every rebalance, and whenever a consumer failed."""
        return self.epoch

    def current(self, batch: Batch) -> bool:
        """Whether its partition has been ours ever since it was fetched; otherwise nobody may process it."""
        return batch.epoch == self.epoch

    def snapshot(self) -> dict[TopicPartition, Flow]:
        """What came of each partition that is ours: copies."""
        return {tp: replace(flow, highwater=self._end(tp) or flow.highwater) for tp, flow in self._flows.items()}

    def _end(self, tp: TopicPartition) -> int | None:
        """Where the log ended at the last fetch: there may have been some since a batch was last taken."""
        consumer = self._consumer
        if consumer is None or tp not in consumer.assignment():
            return None
        return end_of(consumer, tp, self._uncommitted)

    def has_leader(self, tp: TopicPartition) -> bool:
        """Whether some broker leads the partition, as Kafka said last: without one it cannot be read."""
        return self._consumer is not None and leader_of(self._consumer, tp) is not None

    async def ends(self) -> dict[TopicPartition, int]:
        """The next offset of each partition that is ours, as Kafka says now; none while it does not answer."""
        if self._consumer is None or not self._held:
            return {}
        async with self._answering("nobody says where the topics end"):
            return dict(await self._consumer.end_offsets(list(self._held)))
        return {}

    @contextlib.asynccontextmanager
    async def _answering(self, failure: str) -> AsyncIterator[None]:
        """Gives Kafka a few seconds, for aiokafka would try for ever. A failure is a line in the log."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                yield
        except (KafkaError, TimeoutError) as error:
            log.info("group %s: %s: %s", self.group, failure, words(error, "READ"), extra={"group": self.group})

    def can_read(self, tp: TopicPartition) -> bool:
        """Whether records of a partition would be handed over: a broker leads it, and it is not held back."""
        return tp not in self._waiting and self.has_leader(tp)

    def hold_back(self, tp: TopicPartition, waits: bool) -> None:
        """Whether a partition has to wait: what is fetched of it stays here, and no more is. A rebalance ends it."""
        if waits and tp in self._held:
            self._waiting.add(tp)
        else:
            self._waiting.discard(tp)
            if tp in self._set_aside and self._consumer is not None:
                self._set_aside.discard(tp)
                self._consumer.resume(tp)

    def rejoin(self) -> None:
        """Asks for a new assignment: it releases all partitions, and `on_assigned` begins them again."""
        if self._consumer is not None:
            rejoin(self._consumer)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commits the next offset of each partition, for Kafka's lag tools. Whether Kafka accepted it.

        Nothing depends on it, so a failure is a line in the log.
        """
        ours = {tp: offset for tp, offset in offsets.items() if tp in self._held}
        if self._consumer is None or not ours:
            return False
        async with self._answering("offsets not committed"):
            await self._consumer.commit(ours)
            return True
        return False

    # The service

    @Service.task
    async def _run(self) -> None:
        """One consumer after another: whatever is wrong with one, the next may be spared."""
        self._running = asyncio.current_task()
        while not self.should_stop:
            try:
                await self._consume()
            except (KafkaError, ConsumerStoppedError, OSError, TimeoutError) as error:
                if is_fenced(error) and not self.should_stop:
                    await self.crash(fenced(self.group, self.group_instance_id))
                    return
                if OUTAGE():
                    seen = words(error, "READ")
                    log.warning("no records from Kafka at %s: %s; trying again", self.connection.broker, seen)
            await self._release()
            await self._close()
            await self.sleep(RETRY_S)

    async def on_stop(self) -> None:
        """Give back what is held, and leave the group. What is still in the channel is not current any more."""
        await self._release()
        if self._running is not None:
            # It may be starting a consumer, and one that is stopped meanwhile starts for good.
            self._running.cancel()
            await asyncio.wait([self._running])
        await self._close()

    async def crash(self, reason: BaseException) -> None:
        """Ends the service by an error. An error that its user can fix is logged without the stack."""
        if isinstance(reason, ForeshockError):
            self._crash(reason)
        else:
            await super().crash(reason)

    async def _consume(self) -> None:
        self._consumer = consumer = self.connection.consumer(
            group_id=self.group,
            group_instance_id=self.group_instance_id,
            partition_assignment_strategy=(self._assignor,),
            # With "earliest", aiokafka would pass over truncated records without a word to us.
            auto_offset_reset="none",
        )
        listener = RebalanceListener(
            is_current=lambda: self._consumer is consumer,
            release=self._release,
            take=lambda assigned: self._assigned(consumer, assigned),
        )
        consumer.subscribe(list(self.topics), listener=listener)
        await consumer.start()
        heard = time.monotonic()
        while not self.should_stop:
            if await self._poll(consumer):
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_S:
                # Neither records nor word that there are none: aiokafka's fetching task may have died unseen.
                raise TimeoutError(f"no answer for {SILENCE_S:.0f} s")

    async def _poll(self, consumer: AIOKafkaConsumer) -> bool:
        """Hand over what one poll brings; whether Kafka gave a sign of life."""
        wanted = self._held - self._waiting if self._waiting else ()
        self._set_aside |= set_aside(consumer, self._waiting)
        if self._waiting and not wanted:  # to aiokafka no partitions would mean all
            await self.sleep(POLL_MS / 1_000)
            return await self._look_for_idle(consumer, self.epoch, {})
        try:
            fetched = await consumer.getmany(*wanted, timeout_ms=POLL_MS, max_records=self.max_records)
        except OffsetOutOfRangeError as error:
            if self._settled:
                await self._look_again(consumer, error.args[0])
            return True
        except NoOffsetForPartitionError:  # this group has committed none; we are about to say where to begin
            return True
        # A rebalance may have come while we waited. What was fetched before the partitions were sought to their starts
        # is of no use, and will be fetched again; what was fetched after is of the new epoch. Between that fetch and
        # this line nothing else ran.
        if not self._settled:
            return True
        epoch = self.epoch
        if fetched and not await self._are_of_the_same_logs(consumer, fetched):
            return True
        self._look_for_partitions(consumer)
        alive = bool(fetched) or not self._held
        for tp, records in fetched.items():
            if epoch != self.epoch:
                return True
            await self._put(await self._batch(consumer, tp, records))
        return await self._look_for_idle(consumer, epoch, fetched) or alive

    async def _batch(self, consumer: AIOKafkaConsumer, tp: TopicPartition, records: Records) -> Batch:
        # Asked of the consumer, not counted from the records: after them there may be transaction markers. Neither
        # call waits: the partition was sought, so it has a position; it was fetched, so it has a high-water mark.
        position, highwater = await consumer.position(tp), end_of(consumer, tp, self._uncommitted)
        flow = self._flows[tp]
        flow.hear(consumer.last_poll_timestamp(tp))
        assert highwater is not None
        caught_up = position >= highwater
        return Batch(tp.topic, tp.partition, records, position, highwater, caught_up, flow.asked_ms, self.epoch)

    async def _put(self, batch: Batch) -> None:
        await self._sink.put(batch)
        if self.current(batch):
            flow = self._flows[TopicPartition(batch.topic, batch.partition)]
            flow.records += len(batch.records)
            flow.bytes += sum(map(len, filter(None, batch.records.values)))
            flow.position, flow.highwater = batch.position, batch.highwater
        await asyncio.sleep(0)  # neither fetched records nor a channel with room would let anyone else run

    async def _look_for_idle(
        self, consumer: AIOKafkaConsumer, epoch: int, fetched: Mapping[TopicPartition, object]
    ) -> bool:
        """Put an empty batch for every partition that is caught up; whether Kafka gave a sign of life of any."""
        if not self._is_look_due():
            return False
        alive = False
        for tp in self._held - fetched.keys():
            if epoch != self.epoch:
                break
            # A partition whose broker is away is not idle, though its last answer said that it was caught up.
            if not is_fresh(consumer.last_poll_timestamp(tp)):
                continue
            alive = True
            batch = await self._batch(consumer, tp, NO_RECORDS)
            self._flows[tp].highwater = batch.highwater
            if batch.caught_up:
                await self._put(batch)
        return alive

    def _look_for_partitions(self, consumer: AIOKafkaConsumer) -> None:
        """Ask for a new assignment where topics have more partitions than this one was made of.

        aiokafka's leader does that, but not one that came back under its name: Kafka does not tell it that it leads.
        """
        if not self._is_count_due():
            return
        made_of = self._assignor.made_of
        if any(len(consumer.partitions_for_topic(topic) or ()) > count for topic, count in made_of.items()):
            rejoin(consumer)

    # Logs that are not what they were

    async def _are_of_the_same_logs(self, consumer: AIOKafkaConsumer, fetched: Mapping[TopicPartition, object]) -> bool:
        """Whether what was fetched is of the topics that were assigned; otherwise they have been assigned again."""
        epoch = self.epoch
        answers = self._log_check.unproven(consumer, fetched)
        while answers:
            ids = await self._log_check.ids(consumer, answers)
            if epoch != self.epoch or self.should_stop:
                return False
            if changed := self._log_check.changed(ids):
                for topic in changed:
                    log.error("topic %s was deleted and made anew while it was read", topic, extra={"topic": topic})
                await self._assign_again(consumer)
                return False
            self._log_check.prove({tp: answers[tp] for tp in ids})
            answers = {tp: at for tp, at in answers.items() if tp not in ids}
            if answers:  # the topic is gone at the moment, or its partition has no leader
                await self.sleep(RETRY_S)
        return epoch == self.epoch

    async def _look_again(self, consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, int]) -> None:
        """After an offset that is not there: BrokerError if the log ends before it and seems to be the same."""
        epoch = self.epoch
        ends = await consumer.end_offsets(list(wanted))
        ids = await self._log_check.ids(consumer, wanted)
        if epoch != self.epoch:
            return
        for tp, offset in wanted.items():
            if ends[tp] < offset and self.connection.embedded and ids.get(tp) == self.logs[tp].id:
                raise shorter(tp, ends[tp], offset)
            log.warning("%s partition %d: offset %d is gone", *tp, offset, extra={"topic": tp.topic, "offset": offset})
        await self._assign_again(consumer)

    async def _assign_again(self, consumer: AIOKafkaConsumer) -> None:
        """Give all partitions back and take them again, as in a rebalance; of what was held nothing is gone on with."""
        held = self._held
        await self._release()
        epoch = self.epoch
        await self.sleep(RETRY_S)
        if epoch == self.epoch and held == consumer.assignment():
            self._assigned(consumer, held)

    # Rebalances

    def _assigned(self, consumer: AIOKafkaConsumer, tps: Iterable[TopicPartition]) -> None:
        if self.should_stop:
            return
        if self._assignor.is_stale:  # it came back under its name, with another configuration than the leader knows
            self._assignor.ask()
            rejoin(consumer)
        if self._assignor.waits:
            log.error("group %s: %s; this worker waits", self.group, self.waits, extra={"group": self.group})
            consumer.pause(*tps)
            tps = ()
        self._held = frozenset(tps)
        hand_out_columns(consumer, len(self._held))
        generation = generation_of(consumer)
        self.unbroken = 0 <= self._generation == generation - 1
        self._generation = generation if self._held else -1  # of what was not ours there is nothing to go on with
        self._flows, self._waiting, self._set_aside = {tp: Flow() for tp in self._held}, set(), set()
        for tp in self._held:  # with a position, aiokafka looks for no committed one; paused, it fetches nothing
            consumer.seek(tp, 0)
        consumer.pause(*self._held)
        # Not awaited here: until this returns, aiokafka sends no heartbeats.
        self._settling = asyncio.create_task(self._settle(consumer, self._held))

    async def _settle(self, consumer: AIOKafkaConsumer, tps: frozenset[TopicPartition]) -> None:
        """Ask where to begin, and begin there."""
        try:
            await self._log_check.look(consumer, tps)
            wanted = await self._on_assigned(tps) if tps else {}
            starts = {tp: max(wanted.get(tp) or 0, found.start) for tp, found in self.logs.items()}
            await self._log_check.refuse_what_is_not_there(consumer, starts)
        except Exception as error:
            await self.crash(error)
            return
        for tp, offset in starts.items():
            consumer.seek(tp, offset)
            self._flows[tp].position = offset
        consumer.resume(*tps)
        self._settled = True

    async def _release(self) -> None:
        """From here on nothing that was fetched before is current; tell the owner, and wait for its leave."""
        self.epoch += 1
        self._settled = False
        async with self._releasing:
            await self._stop_settling()
            try:
                if self._held:
                    await self._on_revoked(self._held)
            except Exception as error:
                await self.crash(error)
            finally:
                self._held, self._flows, self._set_aside = frozenset(), {}, set()

    async def _stop_settling(self) -> None:
        settling, self._settling = self._settling, None
        if settling is not None and not settling.done():
            settling.cancel()
            await asyncio.wait([settling])

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(STOP_WITHIN_S):
                    await consumer.stop()
