"""Events and labels of files → windows and actions: the live pipeline, stage 1 to stage 2, without a broker.

Each file is one source partition, and its lines are records; partials are packed to bytes as they would be for Kafka.
Labels are read up to the time that the events have reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from types import MappingProxyType

import msgspec

from streams.ack import Acks
from streams.chunk import Step
from streams.config import OTHER
from streams.facts.fold import FactFold, fact_fold, fact_time_ms
from streams.join.fold import JoinFold
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.labels import label_time_ms
from streams.ledger import Ledger
from streams.panes import NO_MARK
from streams.parking import Parked, Phase
from streams.partial import Books, LabelBooks, key_of, pack, unpack
from streams.plan import Facts, Plan, model_of
from streams.publication import check_publication
from streams.records import Records
from streams.source import SourceFold
from streams.store import MemoryStore

TOPIC, PARTITION, INCARNATION = "file", 0, "backtest"
BATCH = 8_192
BOOKED = ("read", "counted", "late", "rejected", "duplicate")


class ModelSummary(msgspec.Struct, kw_only=True):
    """The books of a model and of its labels, its windows, and its incidents by response."""

    read: int = 0
    counted: int = 0
    late: int = 0
    rejected: int = 0
    duplicate: int = 0
    labels: dict[str, int] = {}
    told: dict[str, dict[str, int]] = {}
    """Books of feedback, run events and observations of KPIs, by kind."""
    windows: int = 0
    actions: dict[str, int] = {}
    parked: str = ""
    """The exception that ended the evaluation of the model, and where; empty if none did."""


class Summary(msgspec.Struct, kw_only=True):
    """Summary of a run. `rejected`: records without a readable model."""

    read: int
    rejected: int
    models: dict[str, ModelSummary]


class Backtest:
    """One run over one file of events; `labelled` if a file of labels comes with it."""

    def __init__(
        self,
        plan: Plan,
        now_ms: int,
        *,
        labelled: bool = False,
        told: Iterable[Facts] = (),
        acks: Acks | None = None,
    ) -> None:
        """A run at `now_ms` by the clock.

        Parameters:
            told: kinds of side inputs that come with the events; others are not evaluated.
            acks: acks of the actions of this past, if they are known.
        """
        self.plan = plan
        self.now_ms = now_ms
        self.join = JoinFold(plan, plan.config.kafka.labels, PARTITION, MemoryStore(), now_ms) if labelled else None
        self.fold = SourceFold(plan, TOPIC, PARTITION, None, now_ms, join=self.join)
        self.reject_reasons: Counter[str] = Counter()
        kinds = frozenset(told)
        self.facts = {
            kind: fact_fold(kind, plan, PARTITION, None, now_ms, self.join) for kind in Facts if kind in kinds
        }
        buckets, partitions = range(plan.config.kafka.buckets), dict.fromkeys(self.facts, 1)
        self._buckets = {bucket: BucketJudge(plan, bucket, TOPIC, 1, partitions, acks) for bucket in buckets}

    def run(
        self,
        values: Iterable[bytes],
        labels: Iterable[bytes] = (),
        told: Mapping[Facts, Iterable[bytes]] = MappingProxyType({}),
    ) -> Iterator[Outcome]:
        """Yields results as the watermark advances, and at the end those of the panes that are still open."""
        lines, later = iter(values), _Later(labels, label_time_ms)
        facts = {kind: _Later(told.get(kind, ()), partial(fact_time_ms, kind)) for kind in self.facts}
        offset = 0
        while batch := list(islice(lines, BATCH)):
            steps = self.fold.take(self._records(offset, batch), self.now_ms)
            offset += len(batch)
            steps += self._labels(later, self.join.reached_ms if self.join else NO_MARK)
            publication = self.fold.publish(self.now_ms, caught_up=False)
            for kind, rest in facts.items():
                steps += self._facts(self.facts[kind], rest, max(self.fold.marks_ms.values(), default=NO_MARK))
            yield from self._fold([*steps, publication])
        while more := self._labels(later, None):
            yield from self._fold(more)
        for kind, rest in facts.items():
            yield from self._fold(self._facts(self.facts[kind], rest, None))
        yield from self._fold([self.fold.publish(self.now_ms, caught_up=True, final=True)])

    def _facts(self, fold: FactFold, later: _Later, until_ms: int | None) -> list[Step]:
        """Reads facts up to a time; None: all that are left."""
        steps: list[Step] = []
        while batch := later.take(until_ms):
            steps += fold.take(self._records(later.offset - len(batch), batch), self.now_ms)
        if until_ms is not None:
            fold.unread_until_ms = until_ms
        return [*steps, fold.publish(self.now_ms, caught_up=until_ms is None, final=until_ms is None)]

    def _labels(self, later: _Later, until_ms: int | None) -> list[Step]:
        """Reads labels up to a time, or a batch of those that are left."""
        if self.join is None:
            return []
        steps: list[Step] = []
        while batch := later.take(until_ms):
            steps += self.fold.take_labels(self._records(later.offset - len(batch), batch), self.now_ms)
            if until_ms is None:
                return [*steps, self.fold.publish(self.now_ms, caught_up=False)]
        if until_ms is not None:
            self.join.unread_until_ms = until_ms
        return steps

    def _records(self, offset: int, values: Sequence[bytes]) -> Records:
        return Records(range(offset, offset + len(values)), [self.now_ms] * len(values), values)

    def _fold(self, steps: Iterable[Step]) -> Iterator[Outcome]:
        touched = set()
        for step in steps:
            self.reject_reasons.update(f"{found.reject.reason} ({found.reject.detail})" for found in step.rejects)
            for item in step.partials:
                # The step over bytes is the live one: what cannot be written and read again must not pass here either.
                key = key_of(item, INCARNATION)
                self._buckets[item.bucket].apply(unpack(pack(item, key), key), key)
                touched.add(item.bucket)
        for bucket in sorted(touched):
            for outcome in self._buckets[bucket].advance():
                with self._buckets[bucket].parking.guard(outcome.model, Phase.PACK):
                    check_publication(outcome)
                if outcome.parked is not None or outcome.model not in self._buckets[bucket].parking:
                    yield outcome
            self._buckets[bucket].expire()

    @property
    def parked(self) -> dict[str, Parked]:
        """The models whose evaluation an exception ended, and where."""
        folds = (self.fold, *self.facts.values())
        return {
            model: found
            for parking in (*(fold.parking for fold in folds), *(bucket.parking for bucket in self._buckets.values()))
            for model, found in parking.models.items()
        }

    def ledgers(self) -> dict[str, Ledger]:
        """The ledgers of the models, by name."""
        return {name: book for bucket in self._buckets.values() for name, book in sorted(bucket.ledgers.items())}

    def summary(self) -> Summary:
        models: dict[str, ModelSummary] = {}
        unread = Books()
        for bucket in self._buckets.values():
            for name, model in bucket.merge.models.items():
                models[name] = _summary(model.books)
                if self.join is not None and model.plan.outcomes is not None:
                    models[name].labels = label_summary(model.outcomes.total())
                state = bucket.judges[name].state
                if state:
                    models[name].windows, models[name].actions = state.windows, dict(state.actions)
            for kind, merge in bucket.facts.topics.items():
                for name, panes in merge.models.items():
                    told = models[model_of(name)].told
                    told[kind] = _booked(panes.books, told.get(kind))
            for name, other in bucket.merge.others.items():
                if name == OTHER:
                    models[OTHER] = _summary(other.books)
                else:
                    unread = unread.merged(other.books)
        for name, parked in self.parked.items():
            models[name].parked = str(parked)
        read = unread.read + sum(model.read for model in models.values())
        return Summary(read=read, rejected=sum(unread.rejected.values()), models=models)


class _Later:
    """Lines of a file that is read next to the events, as far as their times allow."""

    def __init__(self, values: Iterable[bytes], time_ms: Callable[[bytes], int]) -> None:
        self._lines, self._time_ms = iter(values), time_ms
        self._next: bytes | None = next(self._lines, None)
        self.offset = 0

    def take(self, until_ms: int | None) -> list[bytes]:
        """At most a batch; None: whatever their times."""
        batch: list[bytes] = []
        while self._next is not None and len(batch) < BATCH:
            if until_ms is not None and self._time_ms(self._next) > until_ms:
                break
            batch.append(self._next)
            self._next = next(self._lines, None)
        self.offset += len(batch)
        return batch


def label_summary(books: LabelBooks) -> dict[str, int]:
    return {
        "read": books.read,
        "matched": books.matched,
        "pending": books.pending,
        "duplicate": books.duplicate,
        "orphan": books.orphan,
        "rejected": sum(books.rejected.values()),
        "corrected": books.corrected,
    }


def _booked(books: Books, before: Mapping[str, int] | None) -> dict[str, int]:
    found = msgspec.to_builtins(_summary(books))
    return {name: found[name] + (before[name] if before else 0) for name in BOOKED}


def _summary(books: Books) -> ModelSummary:
    return ModelSummary(
        read=books.read,
        counted=books.counted,
        late=books.late,
        rejected=sum(books.rejected.values()),
        duplicate=books.duplicate,
    )
