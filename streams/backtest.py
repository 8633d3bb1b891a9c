"""Events of a file → windows and actions: the live pipeline, stage 1 to stage 2, without a broker.

The file is one source partition, its lines are records; partials go through their bytes as they would over Kafka.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from streams.chunk import Records, SourceFold, Step
from streams.config import OTHER
from streams.judge import BucketJudge, Outcome
from streams.partial import Books, key_of, pack, unpack
from streams.plan import Plan

TOPIC, PARTITION, INCARNATION = "file", 0, "backtest"
BATCH = 8_192


class ModelSummary(msgspec.Struct, kw_only=True):
    """The books of a model, its windows, and its incidents by response. Labels come with the label join."""

    read: int = 0
    counted: int = 0
    late: int = 0
    rejected: int = 0
    duplicate: int = 0
    labels: dict[str, int] = {}
    windows: int = 0
    actions: dict[str, int] = {}


class Summary(msgspec.Struct, kw_only=True):
    """`rejected`: records of which no model could be read."""

    read: int
    rejected: int
    models: dict[str, ModelSummary]


class Backtest:
    """One run over one file."""

    def __init__(self, plan: Plan, now_ms: int) -> None:
        self.plan = plan
        self.now_ms = now_ms
        self.fold = SourceFold(plan, TOPIC, PARTITION, None, now_ms)
        self.reject_reasons: Counter[str] = Counter()
        self._buckets = {bucket: BucketJudge(plan, bucket, TOPIC, 1) for bucket in range(plan.config.kafka.buckets)}

    def run(self, values: Iterable[bytes]) -> Iterator[Outcome]:
        """Outcomes as the watermark moves, and at the end those of the panes that are still open."""
        lines = iter(values)
        offset = 0
        while batch := list(islice(lines, BATCH)):
            steps = self.fold.take(self._records(offset, batch), self.now_ms)
            offset += len(batch)
            yield from self._fold([*steps, self.fold.publish(self.now_ms, caught_up=False)])
        yield from self._fold([self.fold.publish(self.now_ms, caught_up=True, final=True)])

    def _records(self, offset: int, values: Sequence[bytes]) -> Records:
        return Records(range(offset, offset + len(values)), [self.now_ms] * len(values), values)

    def _fold(self, steps: Iterable[Step]) -> Iterator[Outcome]:
        touched = set()
        for step in steps:
            self.reject_reasons.update(f"{item.reject.reason} ({item.reject.detail})" for item in step.rejects)
            for partial in step.partials:
                # The step over bytes is the live one: what cannot be written and read again must not pass here either.
                self._buckets[partial.bucket].merge.apply(unpack(pack(partial)), key_of(partial, INCARNATION))
                touched.add(partial.bucket)
        for bucket in sorted(touched):
            yield from self._buckets[bucket].advance()
            self._buckets[bucket].merge.expire()

    def summary(self) -> Summary:
        models: dict[str, ModelSummary] = {}
        unread = Books()
        for bucket in self._buckets.values():
            for name, model in bucket.merge.models.items():
                models[name] = _summary(model.books)
                state = bucket.judges[name].state
                if state:
                    models[name].windows, models[name].actions = state.windows, dict(state.actions)
            for name, other in bucket.merge.others.items():
                if name == OTHER:
                    models[OTHER] = _summary(other.books)
                else:
                    unread = unread.merged(other.books)
        read = unread.read + sum(model.read for model in models.values())
        return Summary(read=read, rejected=sum(unread.rejected.values()), models=models)


def _summary(books: Books) -> ModelSummary:
    return ModelSummary(
        read=books.read,
        counted=books.counted,
        late=books.late,
        rejected=sum(books.rejected.values()),
        duplicate=books.duplicate,
    )
