"""A group of workers over topics in memory, one after the other, each under a configuration of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from streams.chunk import ChunkFold
from streams.judge import BucketJudge
from streams.kept import restore_record
from streams.partial import key_of, pack, unpack
from streams.plan import Plan
from streams.progress import Progress
from streams.publication import BOOKS_KEY, publications
from streams.records import Records
from streams.state import pack_state
from streams.times import instant_ms
from streams.window import WindowRecord
from tests.laws.test_changed_config import NOW_MS
from tests.synthetic import MINUTE_MS


@dataclass
class Group(ABC):
    """What is on the topics, and the workers that wrote it.

    `batch`: records of a partition between two publications. `others`: partials that somebody else has published.
    `eager`: stage 2 looks after each batch, and not only when one of every partition is read.
    """

    logs: list[list[bytes]]
    batch: int
    others: Sequence[tuple[bytes, bytes]] = ()
    eager: bool = False
    partials: dict[bytes, bytes] = field(default_factory=dict)
    state: dict[bytes, bytes] = field(default_factory=dict)
    progress: dict[int, Progress] = field(default_factory=dict)
    windows: list[WindowRecord] = field(default_factory=list)
    workers: int = 0

    @abstractmethod
    def judge(self, plan: Plan) -> BucketJudge:
        """Stage 2 of a worker that has read nothing."""

    @abstractmethod
    def folds(self, plan: Plan) -> Sequence[ChunkFold]:
        """Stage 1 of a worker, of each partition."""

    @abstractmethod
    def books(self, judge: BucketJudge) -> tuple[bytes, object]:
        """The books of what is deleted, and the end of their key."""

    def run(self, plan: Plan, ends: Sequence[int], *, cleans: bool) -> None:
        """A worker reads the partitions up to these offsets, and is gone. `cleans`: it deletes what nothing needs."""
        self.workers += 1
        judge = self.rebuilt(plan)
        for key, data in self.others:
            judge.apply(unpack(data), key)
        self._publish(judge)
        folds = self.folds(plan)
        reached = [fold.next_offset for fold in folds]
        while any(at < end for at, end in zip(reached, ends, strict=True)):
            for fold, end in zip(folds, ends, strict=True):
                first, last = reached[fold.partition], min(reached[fold.partition] + self.batch, end)
                if first < last:
                    self._count(judge, fold, first, last)
                    reached[fold.partition] = last
                    if self.eager:
                        self._publish(judge)
            self._publish(judge)
            if cleans:
                self._clean(judge)

    def _count(self, judge: BucketJudge, fold: ChunkFold, first: int, last: int) -> None:
        values = self.logs[fold.partition]
        steps = fold.take(Records(range(first, last), [NOW_MS] * (last - first), values[first:last]), NOW_MS)
        for step in [*steps, fold.publish(NOW_MS, caught_up=False, final=last == len(values))]:
            for partial in step.partials:
                key, data = key_of(partial, str(self.workers)), pack(partial)
                self.partials.pop(key, None)
                self.partials[key] = data
                judge.apply(unpack(data), key)
            if step.progress is not None:
                self.progress[fold.partition] = step.progress

    def rebuilt(self, plan: Plan) -> BucketJudge:
        """Stage 2 of a worker that has read what is on the topics."""
        judge = self.judge(plan)
        for key, value in sorted(self.state.items(), key=lambda item: item[0].startswith(b"\0")):
            restore_record(judge, key, value)
        for key, value in [*self.others, *self.partials.items()]:
            judge.apply(unpack(value), key, fresh=False)
        for _ in judge.resume():
            pass
        return judge

    def _publish(self, judge: BucketJudge) -> None:
        for outcome in judge.advance():
            assert outcome.parked is None, outcome.parked
            self.windows += outcome.windows
            for record in chain.from_iterable(publications(outcome)):
                if record.topic == "state" and record.value is not None:
                    self.state[record.key] = record.value
                elif record.topic == "state":
                    self.state.pop(record.key, None)

    def _clean(self, judge: BucketJudge) -> None:
        end, books = self.books(judge)
        packed = pack_state(books)
        if keys := judge.expire():
            self.state[BOOKS_KEY + end] = packed
            for key in keys:
                self.partials.pop(key, None)


def lasts_a_minute(window: WindowRecord) -> bool:
    """Whether a window is a pane."""
    return instant_ms(window.end) - instant_ms(window.start) == MINUTE_MS


def minute_of(window: WindowRecord) -> int:
    return instant_ms(window.start) // MINUTE_MS
