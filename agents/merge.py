"""Stage 2 of the shell: batches of the partials topic → one pure judge per bucket → windows, actions, state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from aiokafka import TopicPartition

from agents.channel import Batch
from agents.clients import Connection, Seldom
from agents.clock import Turn
from agents.follow import read_all
from agents.intake import Intake
from agents.loader import Records as Loaded
from agents.loader import read_to_end
from agents.parked import MAX_NAMED, report
from agents.publish import TOO_LARGE_S, Outgoing, Producer, TooLarge, publish
from agents.topics import until_answered
from agents.unpack import taken_apart
from agents.work import Work
from streams.ack import Ack, Acks
from streams.action import action_line, advice, read_action
from streams.compaction import CompactedLog
from streams.errors import BrokerError, NewerError, RecordTooLarge, SketchError
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.kept import park_for, restore_record
from streams.parking import Parked, Phase, printable
from streams.partial import unpack
from streams.plan import Facts, Plan
from streams.publication import BOOKS_KEY, UNIT_KEY, Record, publications
from streams.records import Records
from streams.replaying import waiting_text
from streams.restore import Kind
from streams.state import pack_state
from streams.text import plain

log = logging.getLogger(__name__)

LOAD_WITHIN_S = 600.0
EXPIRE_EVERY_S = 30.0
TELL_EVERY_S = 10.0
LOOKING, MAX_WAIT_S = 0.25, 1.0
"""So small a part of the time goes into looking for panes to close, about; a batch waits no longer to be judged."""

FINISH_WITHIN_S = 3.0
"""How long a half-sent publication is waited for when its bucket moves to another worker."""

Wanted = Callable[[], bool]


class MergeStage:
    """Owns the judges of the buckets that are ours."""

    def __init__(
        self,
        plan: Plan,
        connection: Connection,
        producer: Producer,
        partitions: int,
        told: Mapping[Facts, int],
    ) -> None:
        """`partitions` of the inference topic; `told`: the kinds of facts that are read, with those of their topics."""
        self.plan, self.connection, self.producer, self.partitions = plan, connection, producer, partitions
        self.told = told
        self.intake: Intake | None = None
        self.work = Work()
        self.acks = Acks()
        self.judges: dict[int, BucketJudge] = {}
        self.positions: dict[int, int] = {}
        """Per bucket the offset after the last partial that was folded and whose outcomes are published."""
        self._kept: dict[int, tuple[BucketJudge, int]] = {}
        """Judges of buckets that were given back, whole, and the offsets from which they go on."""
        self._logs: dict[int, CompactedLog] = {}
        """Per bucket, whether the partials that were folded are all that were written up to some moment."""
        self._at_work: set[int] = set()
        """Buckets with a batch that is not done: what came of it may not be published."""
        self.rebuild_seconds = 0.0
        self.to_rebuild = 0
        """Records of `state`, then of `partials`, that are still to be read until the judges are rebuilt."""
        self.restarted: Counter[Kind] = Counter()
        """What of the kept state did not go on, and was left out or begun anew."""
        self.too_large: dict[str, RecordTooLarge] = {}
        """Models that are parked as a record of theirs is larger than its topic takes."""
        self.later: Counter[str] = Counter({"state": 0, "partials": 0})
        """By topic, records of a later release: what they are of is parked."""
        self._reported: dict[str, tuple[str, ...]] = {}
        """By model, the topics that were last reported to be waited for."""
        self._tell_rebuild = Seldom(TELL_EVERY_S)
        self._expired_at: dict[int, float] = {}
        self._unjudged: set[int] = set()
        """Buckets of which something may be there to be judged since it was looked for."""
        self._judge_from: dict[int, float] = {}
        """Per bucket, by the monotonic clock, the earliest time of the next look."""
        self._is_whole = asyncio.Event()
        """No publication is half out."""
        self._is_whole.set()
        self._finish_by = 0.0

    async def on_assigned(self, tps: AbstractSet[TopicPartition]) -> Mapping[TopicPartition, int | None]:
        """Continues buckets that it had; rebuilds others from state and partials before they are evaluated.

        A bucket that another worker had meanwhile is rebuilt too: that worker may have deleted partials that our
        evaluator has not read.
        """
        began = time.monotonic()
        buckets = sorted(tp.partition for tp in tps)
        ours = self._kept if self.intake is not None and self.intake.unbroken else {}
        kept, self._kept = {bucket: ours[bucket] for bucket in buckets if bucket in ours}, {}
        source = self.plan.config.kafka.inference
        judges: dict[int, BucketJudge] = {}
        for bucket in buckets:
            if bucket not in kept:
                judges[bucket] = BucketJudge(self.plan, bucket, source, self.partitions, self.told, self.acks)
                await asyncio.sleep(0)
        await self._load_state(judges)
        starts = await self._load_partials(judges)
        await self._close_unknown(judges)
        for judge in judges.values():
            for _ in judge.resume():
                await asyncio.sleep(0)  # or no heartbeat would be sent, and the group would give our buckets away
            self._report_restarts(judge)
        for judge, _ in kept.values():
            for ack in self.acks:
                judge.take_ack(ack)
        self.judges = judges | {bucket: judge for bucket, (judge, _) in kept.items()}
        self._unjudged, self._judge_from = set(self.judges), {}
        self.positions = {bucket: position for bucket, (_, position) in kept.items()}
        self._logs = {bucket: CompactedLog((starts | self.positions)[bucket]) for bucket in buckets}
        self.rebuild_seconds = time.monotonic() - began
        return {tp: (starts | self.positions)[tp.partition] for tp in tps}

    async def _load_state(self, judges: Mapping[int, BucketJudge]) -> None:
        latest: dict[tuple[int, bytes], bytes | None] = {}

        def keep(records: Loaded) -> None:
            latest.update(
                {(record.partition, record.key): record.value for record in records if record.key is not None}
            )

        await self._read("state", judges, keep)
        # What is kept of a model comes after its state, which begins it anew.
        for (bucket, key), value in sorted(latest.items(), key=lambda item: item[0][1].startswith(UNIT_KEY)):
            if value is not None:
                self._restore(judges[bucket], key, value)
                await asyncio.sleep(0)

    async def _load_partials(self, judges: Mapping[int, BucketJudge]) -> dict[int, int]:
        def fold(records: Loaded) -> None:
            for _ in self._fold(judges[records[0].partition], taken_apart(records), fresh=False):
                pass

        return await self._read("partials", judges, fold)

    async def _close_unknown(self, judges: Mapping[int, BucketJudge]) -> None:
        """Closes what is open on the actions topic, and neither known to a state nor named by the configuration."""
        logged = {bucket: found for bucket, judge in judges.items() if (found := judge.logged_incidents()) is not None}
        if not logged:
            return

        def take(records: Loaded) -> None:
            for record in records:
                action = read_action(record.value) if isinstance(record.value, bytes) else None
                if action is not None and (found := logged.get(self.plan.config.bucket(action.subject))) is not None:
                    found.take(action)

        try:
            await until_answered(partial(read_all, self.connection, take))
        except BrokerError as error:
            log.warning("%s; incidents stay open that no state knows and no rule judges", plain(str(error)))
            return
        for bucket, found in logged.items():
            if found.left_out:
                log.warning("actions, bucket %d: too many incidents: %d actions left out", bucket, found.left_out)
            judges[bucket].close_unknown(found)

    async def _read(
        self, name: str, judges: Mapping[int, BucketJudge], take: Callable[[Loaded], None]
    ) -> dict[int, int]:
        def progress(done: int, total: int) -> None:
            self.to_rebuild = total - done
            if self.to_rebuild and self._tell_rebuild():
                log.info("%s: %d records to read until %d buckets are rebuilt", name, self.to_rebuild, len(judges))

        topic = self.connection.topic(name)
        return await read_to_end(self.connection, topic, judges, take, deadline_s=LOAD_WITHIN_S, progress=progress)

    def _restore(self, judge: BucketJudge, key: bytes, value: bytes) -> None:
        try:
            restore_record(judge, key, value)
        except NewerError as error:
            self._park("state", error.at(f"state {key[:80]!r}"), park_for(judge, key, error))
        except SketchError as error:
            self.restarted[Kind.UNSOUND] += 1
            log.error("state %r: %s; left out", key[:80], plain(str(error)))

    def _park(self, topic: str, error: NewerError, names: Sequence[str]) -> None:
        """Reports a record of a later release, and the models that are parked for it."""
        self.later[topic] += 1
        parked = ", ".join(map(printable, names[:MAX_NAMED])) + (" …" if len(names) > MAX_NAMED else "")
        said = f"{len(names)} models are parked until then: {parked}" if names else "it is of no declared model"
        log.error("%s; %s", plain(str(error)), said, extra={"topic": topic, "code": error.code})

    def _report_restarts(self, judge: BucketJudge) -> None:
        """Logs and counts what of the state did not go on, once."""
        for model, restart in judge.restarts:
            self.restarted[restart.kind] += 1
            log.warning("model %s: %s", plain(model), plain(restart.text), extra={"model": model})
        judge.restarts = []

    def _fold(self, judge: BucketJudge, records: Records, *, fresh: bool) -> Iterator[None]:
        """Folds partials; it stops after each."""
        for offset, key, value in zip(records.offsets, records.keys, records.values, strict=True):
            if judge.stands_still:
                return
            if value is None:
                continue  # a tombstone
            try:
                judge.apply(unpack(value, key or b""), key or b"", fresh=fresh)
            except NewerError as error:
                error.at(f"partials, bucket {judge.merge.bucket}, offset {offset}")
                self._park("partials", error, judge.stand_still(error))
            except SketchError as error:
                self.work.rejects["bad_partial"] += 1
                bucket = judge.merge.bucket
                place = {"topic": "partials", "partition": bucket, "offset": offset}
                log.error("partials, bucket %d, offset %d: %s; left out", bucket, offset, error, extra=place)
            yield

    async def on_revoked(self, tps: AbstractSet[TopicPartition]) -> None:
        """Nothing is lost: the next owner rebuilds from the log. If that is us, what is whole is gone on with.

        A publication that is half out is finished: else the next owner, who may have another configuration, would not
        find in `state` what is open on `actions`.
        """
        self._finish_by = time.monotonic() + FINISH_WITHIN_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_WITHIN_S):
                await self._is_whole.wait()
        cut_off = {bucket for bucket, judge in self.judges.items() if self.too_large.keys() & judge.parking.models}
        whole = self.positions.keys() & self.judges.keys() - self._at_work - cut_off
        self._kept = {bucket: (self.judges[bucket], self.positions[bucket]) for bucket in whole}
        self.judges, self.positions, self._at_work, self.to_rebuild = {}, {}, set(), 0
        self.too_large = {}

    @property
    def parked(self) -> list[Parked]:
        """The models of our buckets that are parked."""
        return [item for judge in self.judges.values() for item in judge.parking.models.values()]

    @property
    def awaited(self) -> dict[str, tuple[str, ...]]:
        """By model of our buckets whose past is replayed, the topics whose silence is not judged."""
        return {name: topics for judge in self.judges.values() for name, topics in judge.awaited.items()}

    def _report_awaited(self, judge: BucketJudge) -> None:
        """Logs when topics of a replay begin or cease to be waited for."""
        for name in judge.merge.models:
            topics, before = judge.awaited.get(name, ()), self._reported.get(name, ())
            if topics and topics != before:
                log.warning("model %s: %s", plain(name), waiting_text(topics), extra={"model": name})
            elif before and not topics:
                log.info("model %s: no topic of the replay is waited for any more", plain(name), extra={"model": name})
            self._reported[name] = topics

    def take_ack(self, ack: Ack) -> None:
        """An ack, of whichever model's action."""
        self.acks.take(ack)
        for judge in self.judges.values():
            judge.take_ack(ack)

    async def process(self, batch: Batch) -> None:
        """One batch of one bucket."""
        judge = self.judges.get(batch.partition)
        if judge is None or not self._is_current(batch):
            return
        began = time.perf_counter()
        self._at_work.add(batch.partition)
        wanted = partial(self._is_current, batch)
        is_over = Turn()
        for _ in self._fold(judge, batch.records, fresh=True):
            if is_over():
                await asyncio.sleep(0)  # or no heartbeat would be sent
                if not wanted():
                    return  # the bucket was taken away
        self.work.partials += len(batch.records)
        if batch.records:
            self._unjudged.add(batch.partition)
        log_read = self._logs[batch.partition]
        log_read.read(batch.records.offsets, batch.position, batch.highwater)
        if not log_read.is_whole and not judge.stands_still:
            return  # compaction has removed records whose replacements are still to come
        if not judge.stands_still:
            if batch.records and time.monotonic() < self._judge_from.get(batch.partition, 0.0):
                return  # soon, with what has come until then; at the latest with the batch that says that none is left
            if batch.partition in self._unjudged and not await self._judge(batch.partition, judge, wanted):
                return  # the bucket was taken away: its next owner judges from what has been published
        self._report_awaited(judge)
        if not judge.stands_still and time.monotonic() - self._expired_at.get(batch.partition, 0.0) >= EXPIRE_EVERY_S:
            self._expired_at[batch.partition] = time.monotonic()
            await self._expire(batch.partition, judge, wanted)
        if wanted():
            self.positions[batch.partition] = batch.position
            self._at_work.discard(batch.partition)
        self.work.batches += 1
        self.work.seconds += time.perf_counter() - began

    async def _judge(self, bucket: int, judge: BucketJudge, wanted: Wanted) -> bool:
        """Judges and publishes what the watermarks allow; whether the bucket is ours still.

        To find that there is nothing costs time by the number of models: no more of it than `LOOKING` is spent on that.
        """
        began, busy_s = time.monotonic(), 0.0
        for outcome in judge.advance():
            await asyncio.sleep(0)  # or no heartbeat would be sent
            if not wanted():
                return False
            published = time.monotonic()
            await self._publish(bucket, judge, outcome, wanted)
            busy_s += time.monotonic() - published
        looked_s = time.monotonic() - began - busy_s
        self._judge_from[bucket] = time.monotonic() + min(MAX_WAIT_S, looked_s / LOOKING)
        self._unjudged.discard(bucket)
        return True

    def _is_current(self, batch: Batch) -> bool:
        return self.intake is not None and self.intake.current(batch)

    async def _publish(self, bucket: int, judge: BucketJudge, outcome: Outcome, wanted: Wanted) -> None:
        """One group of records after the other, each acknowledged before the next.

        All of them are packed before any is sent: what does not pack parks its model, and nothing of it is sent.
        """
        groups: list[Sequence[Record]] = []
        with judge.parking.guard(outcome.model, Phase.PACK):
            groups = list(publications(outcome))
        report(judge.parking.news() if outcome.parked is None else [outcome.parked])
        self._is_whole.clear()
        try:
            await self._send(bucket, judge, outcome, groups, wanted)
        finally:
            self._is_whole.set()

    async def _send(
        self, bucket: int, judge: BucketJudge, outcome: Outcome, groups: Sequence[Sequence[Record]], wanted: Wanted
    ) -> None:
        for number, group in enumerate(groups):
            is_begun = number > 0
            records = [
                Outgoing(
                    self.connection.topic(item.topic), item.key, item.value, bucket if item.topic == "state" else None
                )
                for item in group
            ]
            going_on = partial(self._goes_on, wanted) if is_begun else wanted
            try:
                sent = await publish(self.producer, records, going_on, self.work.retried, TOO_LARGE_S)
            except TooLarge as error:
                self._park_too_large(judge, outcome.model, max((records[at] for at in error.at), key=lambda r: r.bytes))
                return
            if not sent:
                return
            if not is_begun:
                _tell(outcome)

    def _goes_on(self, wanted: Wanted) -> bool:
        """Whether a publication that is half out is still to be finished."""
        return wanted() or time.monotonic() < self._finish_by

    def _park_too_large(self, judge: BucketJudge, model: str, record: Outgoing) -> None:
        """Parks a model of which a record is larger than its topic takes: the others go on."""
        limit = self.producer.limit(record.topic)
        self.too_large[model] = RecordTooLarge(record.topic, record.bytes, limit)
        judge.parking.park(model, Phase.PACK, self.too_large[model])
        report(judge.parking.news())

    def retry(self) -> None:
        """Has its buckets assigned anew, and so evaluated from where they stopped, if nothing is too large any more."""
        fits = [error.size <= self.producer.limit(error.topic) for error in self.too_large.values()]
        if fits and all(fits) and self.intake is not None:
            self.intake.rejoin()

    async def _expire(self, bucket: int, judge: BucketJudge, wanted: Wanted) -> None:
        """Deletes the partials that nothing needs; the books that they carried are kept first."""
        state, events = self.connection.topic("state"), self.plan.config.kafka.inference
        books = {
            BOOKS_KEY + (b"" if topic == events else topic.encode()): kept
            for topic, kept in judge.books_states().items()
        }
        records = [Outgoing(state, key, pack_state(kept, key), bucket) for key, kept in books.items()]
        keys = judge.expire()
        if not keys:
            return
        await publish(self.producer, records, wanted, self.work.retried)
        partials = self.connection.topic("partials")
        await publish(self.producer, [Outgoing(partials, key, None, bucket) for key in keys], wanted, self.work.retried)


def _tell(outcome: Outcome) -> None:
    for action in outcome.shadows:
        log.info("shadow: %s", action_line(action), extra={"model": action.subject})
    for action in outcome.actions:
        log.info("%s", action_line(action), extra={"model": action.subject, "action_id": action.id})
        for said in advice(action):
            log.error("%s: %s", action.subject, said, extra={"model": action.subject})
