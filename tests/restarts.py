"""Topics in memory and a worker over them that reads events, labels and side inputs, stops, and is started again.

Everything goes through its bytes, as on Kafka: partials, progress, state, and the store of the label join.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from streams.action import Action, State
from streams.backtest import TOPIC
from streams.chunk import ChunkFold, Step
from streams.facts.fold import FactFold, FeedbackFold, fact_fold, fact_time_ms
from streams.join.fold import JoinFold
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.kept import restore_record
from streams.labels import label_time_ms
from streams.parking import Parked
from streams.partial import key_of, pack, unpack
from streams.plan import Facts, Plan
from streams.progress import Progress
from streams.publication import BOOKS_KEY, UNIT_KEY, publications
from streams.records import Records
from streams.restore import Restart
from streams.source import SourceFold
from streams.state import pack_state
from streams.store import MemoryStore
from streams.window import WindowRecord

EVENTS, LABELS = "events", "labels"
BATCH = 199
"""Events between two publications: no divisor of a chunk."""


@dataclass(frozen=True)
class Logs:
    """What producers wrote to each topic, of one partition each, with the time of every record; in order of time."""

    values: Mapping[str, Sequence[bytes]]
    times_ms: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, events: Sequence[bytes], times_ms: Sequence[int], labels: Sequence[bytes], side: Side) -> Logs:
        return cls(
            {EVENTS: events, LABELS: labels, **side},
            {
                EVENTS: times_ms,
                LABELS: [label_time_ms(value) for value in labels],
                **{kind: [fact_time_ms(kind, value) for value in values] for kind, values in side.items()},
            },
        )

    @property
    def kinds(self) -> list[Facts]:
        return [kind for kind in Facts if kind in self.values]

    def end(self, topic: str, until_ms: int | None) -> int:
        """The number of records of a topic before a time; None: of all."""
        return len(self.values[topic]) if until_ms is None else bisect_left(self.times_ms[topic], until_ms)


Side = Mapping[Facts, Sequence[bytes]]


@dataclass
class Topics:
    """What workers keep, and what they publish. Each record of a compacted topic replaces the one of its key."""

    partials: dict[bytes, bytes] = field(default_factory=dict)
    state: dict[bytes, bytes] = field(default_factory=dict)
    progress: dict[str, bytes] = field(default_factory=dict)
    store: MemoryStore = field(default_factory=MemoryStore)
    windows: list[WindowRecord] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    restarts: list[tuple[str, Restart]] = field(default_factory=list)
    workers: int = 0

    def copy(self) -> Topics:
        store = MemoryStore()
        store.write(dict(self.store.scan(b"")))
        return Topics(
            dict(self.partials),
            dict(self.state),
            dict(self.progress),
            store,
            list(self.windows),
            list(self.actions),
            list(self.restarts),
            self.workers,
        )

    def open(self) -> dict[tuple[str, str, str | None, str], Action]:
        """Incidents that a consumer of `actions` takes for open, by model, rule, version and segment."""
        found: dict[tuple[str, str, str | None, str], Action] = {}
        for action in self.actions:
            data = action.data
            key = (data.model, data.rule, data.model_version, str(data.segment))
            if data.state is State.FIRING:
                found[key] = action
            elif data.state is State.RESOLVED:
                found.pop(key, None)
        return found

    def final_windows(self, since: int = 0) -> dict[bytes, WindowRecord]:
        """The last revision of each window, of those that were published after the first `since`."""
        found: dict[bytes, WindowRecord] = {}
        for window in self.windows[since:]:
            if window.key not in found or window.revision >= found[window.key].revision:
                found[window.key] = window
        return found


class Worker:
    """Goes on from what is on the topics, under a plan."""

    def __init__(self, plan: Plan, topics: Topics, logs: Logs, now_ms: int) -> None:
        topics.workers += 1
        self.plan, self.topics, self.logs, self.now_ms = plan, topics, logs, now_ms
        self.name = str(topics.workers)
        labelled = any(model.outcomes is not None for model in plan.models.values())
        self.join = JoinFold(plan, plan.config.kafka.labels, 0, topics.store, now_ms) if labelled else None
        self.source = SourceFold(plan, TOPIC, 0, self._progress(EVENTS), now_ms, join=self.join)
        kinds = [kind for kind in logs.kinds if plan.facts[kind]]
        self.facts = {kind: fact_fold(kind, plan, 0, self._progress(kind), now_ms, self.join) for kind in kinds}
        self.read = {EVENTS: self.source.resume_offset, **{kind: fold.next_offset for kind, fold in self.facts.items()}}
        self.read[LABELS] = self.join.meta.covered.labels if self.join else 0
        self.judges = {bucket: self._rebuilt(bucket) for bucket in range(plan.config.kafka.buckets)}
        for judge in self.judges.values():
            self._publish(judge)

    def _progress(self, topic: str) -> Progress | None:
        return Progress.from_bytes(self.topics.progress[topic]) if topic in self.topics.progress else None

    def _rebuilt(self, bucket: int) -> BucketJudge:
        judge = BucketJudge(self.plan, bucket, TOPIC, 1, dict.fromkeys(self.facts, 1))
        for key, value in sorted(self.topics.state.items(), key=lambda item: item[0].startswith(UNIT_KEY)):
            of_books = key.startswith(BOOKS_KEY)
            if not of_books or key.endswith(f"@{bucket}".encode()):
                restore_record(judge, key.rpartition(b"@")[0] if of_books else key, value)
        for key, value in self.topics.partials.items():
            partial = unpack(value)
            if partial.bucket == bucket:
                judge.apply(partial, key, fresh=False)
        for _ in judge.resume():
            pass
        self.topics.restarts += judge.restarts
        return judge

    # Reading

    def run(self, until_ms: int | None, *, whole: bool = True) -> None:
        """Reads all topics up to a time, in its order; None: to their end, which is final.

        `whole`: what was read last is published before the worker stops.
        """
        ends = {topic: self.logs.end(topic, until_ms) for topic in self.read}
        while self.read[EVENTS] < ends[EVENTS]:
            self.read_batch(ends)
        for topic in (LABELS, *self.facts):
            self._execute(topic, self._take(topic, ends[topic]))
        if whole or until_ms is None:
            self._end(final=until_ms is None)
        for judge in self.judges.values():
            self._publish(judge)
            self._expire(judge)

    def read_batch(self, ends: Mapping[str, int]) -> None:
        """Some events, and what came on the other topics up to their time."""
        first = self.read[EVENTS]
        last = min(first + BATCH, ends[EVENTS])
        steps = self._take(EVENTS, last)
        reached_ms = self.logs.times_ms[EVENTS][last - 1]
        steps += self._take(LABELS, min(ends[LABELS], self.logs.end(LABELS, reached_ms)))
        if self.join is not None:
            self.join.unread_until_ms = reached_ms
        self._execute(EVENTS, [*steps, self.source.publish(self.now_ms, caught_up=False)])
        for kind, fold in self.facts.items():
            steps = self._take(kind, min(ends[kind], self.logs.end(kind, reached_ms)))
            fold.unread_until_ms = reached_ms
            self._execute(kind, [*steps, fold.publish(self.now_ms, caught_up=False)])
        for judge in self.judges.values():
            self._publish(judge)

    def _end(self, *, final: bool) -> None:
        if self.join is not None:
            self.join.caught_up_ms = self.now_ms
        for fold in self.facts.values():
            if isinstance(fold, FeedbackFold):
                fold.events_caught_up_ms = self.now_ms
        # The join's labels and the events first: feedback asks for predictions.
        for topic, fold in ((EVENTS, self.source), *self.facts.items()):
            self._execute(topic, [fold.publish(self.now_ms, caught_up=True, final=final)])

    def _take(self, topic: str, until: int) -> list[Step]:
        steps: list[Step] = []
        while self.read[topic] < until:
            at = self.read[topic]
            end = min(until, at + BATCH)
            records = Records(range(at, end), [self.now_ms] * (end - at), self.logs.values[topic][at:end])
            steps += self._folded(topic, records)
            self.read[topic] = end
        return steps

    def _folded(self, topic: str, records: Records) -> list[Step]:
        if topic == LABELS:
            return self.source.take_labels(records, self.now_ms) if self.join is not None else []
        return (self.source if topic == EVENTS else self.facts[Facts(topic)]).take(records, self.now_ms)

    def _execute(self, topic: str, steps: Iterable[Step]) -> None:
        for step in steps:
            for partial in step.partials:
                key, data = key_of(partial, self.name), pack(partial)
                self.topics.partials.pop(key, None)  # a record has the place of the last one of its key
                self.topics.partials[key] = data
                self.judges[partial.bucket].apply(unpack(data), key)
            if step.progress is not None:
                self.topics.progress[topic] = step.progress.to_bytes()

    # Publishing

    def _publish(self, judge: BucketJudge) -> None:
        for outcome in judge.advance():
            self._publish_outcome(outcome)

    def _publish_outcome(self, outcome: Outcome) -> None:
        assert outcome.parked is None, outcome.parked
        self.topics.windows += outcome.windows
        self.topics.actions += outcome.actions
        for record in chain.from_iterable(publications(outcome)):
            if record.topic != "state":
                continue
            if record.value is None:
                self.topics.state.pop(record.key, None)
            else:
                self.topics.state[record.key] = record.value

    def _expire(self, judge: BucketJudge) -> None:
        for topic, books in judge.books_states().items():
            name = b"" if topic == judge.merge.topic else topic.encode()
            self.topics.state[BOOKS_KEY + name + f"@{judge.merge.bucket}".encode()] = pack_state(books)
        for key in judge.expire():
            self.topics.partials.pop(key, None)

    @property
    def parked(self) -> list[Parked]:
        folds: list[ChunkFold | FactFold] = [self.source, *self.facts.values()]
        found = [fold.parking for fold in folds] + [judge.parking for judge in self.judges.values()]
        return [parked for parking in found for parked in parking.models.values()]
