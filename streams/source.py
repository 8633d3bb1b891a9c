"""Stage 1 of inference events: columns → sketches by pane, next to the join with the partition's labels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streams.arrays import Ints
from streams.batch import Gathered
from streams.cells import Cells, added, profiles
from streams.chunk import ChunkFold, Share, Step
from streams.codecs import columnizer_of, decoder_of
from streams.config import OTHER
from streams.decode import Rows
from streams.events import Reason, Reject
from streams.fingerprint import PartPrint, events_print
from streams.join.fold import JoinFold
from streams.panes import Timeliness, timeliness
from streams.parking import NOT_OF_ONE_MODEL, Phase, longest
from streams.partial import Partial
from streams.plan import ModelPlan, Plan
from streams.progress import Progress
from streams.records import Records, RejectedRecord
from streams.replaying import BEHIND_MS, pause_ms
from streams.stream_time import StreamTime

MAX_BUFFERED_ROWS = 8_192
"""Rows of a model are counted when there are this many, or at a publication."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """What rows of a model change: its books, its stream time, and the panes that they are in."""

    times_ms: Ints
    late: int
    time: StreamTime
    panes: dict[tuple[int, int], Cells]


class SourceFold(ChunkFold):
    """One partition of inference events, with its `join` if a model has labels."""

    def __init__(
        self,
        plan: Plan,
        topic: str,
        partition: int,
        progress: Progress | None,
        clock_ms: int,
        first_offset: int = 0,
        join: JoinFold | None = None,
    ) -> None:
        super().__init__(plan, topic, partition, progress, clock_ms, first_offset)
        self.join = join
        if join is not None:
            self.parking = join.parking
        self._joined_to = join.meta.covered.inference if join is not None else 0
        if join is not None and (self._joined_to < self.next_offset or join.is_behind):
            join.rebuilding = True
        self._decoder = decoder_of(plan)
        self._buffers: dict[str, Gathered] = {}

    @property
    def names(self) -> Collection[str]:
        return self.plan.models

    @property
    def _declared(self) -> Mapping[int, Sequence[str]]:
        return self.plan.by_bucket()

    def _may_move(self) -> Iterable[str]:
        """Those whose highest time is beyond their mark."""
        marks_ms = self.marks_ms
        return [name for name, reached_ms in self._reached_ms.items() if reached_ms > marks_ms[name]]

    def _print_of(self, name: str) -> PartPrint:
        return events_print(self.plan.models[name])

    def _lateness_ms(self, name: str) -> int:
        config = self.plan.models[name].config
        return config.lateness_ms + config.pane_ms

    def take(self, records: Records, clock_ms: int) -> list[Step]:
        at = bisect_left(records.offsets, self.counted_from) if records.offsets[0] < self.counted_from else 0
        if at and self.join is not None:
            self._join_only(records.part(0, at), clock_ms)
        return super().take(records, clock_ms)

    @property
    def resume_offset(self) -> int:
        return min(self._joined_to, self.next_offset) if self.join is not None else self.next_offset

    @property
    def to_rejoin(self) -> int:
        """Offsets that the join alone still has to read."""
        return max(0, self.counted_from - self._joined_to) if self.join is not None else 0

    @property
    def covered_labels(self) -> int | None:
        """The next offset of labels after those that the join's store holds; None without a join."""
        return self.join.meta.covered.labels if self.join is not None else None

    def note_caught_up(self, *, labels_ms: int | None, events_ms: int | None) -> None:
        """Notes when, by the clock, no label and no event of the partition was left to read. None: some are."""
        if self.join is not None:
            self.join.caught_up_ms = labels_ms

    def _join_only(self, records: Records, clock_ms: int) -> None:
        assert self.join is not None
        decoded = self._decoder.decode(records.values, records.stamps_ms, records.headers)
        for model, rows in decoded.models.items():
            if model in self.plan.models and model not in self.parking:
                with self.parking.guard(model, Phase.JOIN):
                    self.join.take_predictions(model, rows, _offsets(records, rows))
        self._joined_to = records.offsets[-1] + 1
        if self._joined_to - self.join.meta.covered.inference >= self.chunk_size:
            self.join.commit(self._joined_to, clock_ms)

    def take_labels(self, records: Records, clock_ms: int) -> list[Step]:
        """Joins labels of the co-partitioned topic to their predictions."""
        assert self.join is not None
        self._dirty = True
        rejects = self.join.take_labels(records, clock_ms)
        return [Step(self.partition, rejects)] if rejects else []

    def _count(self, records: Records, clock_ms: int) -> list[RejectedRecord]:
        self._joined_to = records.offsets[-1] + 1
        return super()._count(records, clock_ms)

    def _count_block(self, records: Records, clock_ms: int) -> Sequence[Reject]:
        decoded, parked = self._decoder.decode(records.values, records.stamps_ms, records.headers), list[Reject]()
        for model, rows in decoded.models.items():
            share = self._share(model, clock_ms)
            share.books.read += len(rows.rows)
            if model == OTHER:
                share.books.counted += len(rows.rows)
                continue
            plan = self.plan.models[model]
            before = self._buffers[model].n if model in self._buffers else 0
            if model in self.parking:
                share.reject(Reason.PARKED, len(rows.rows))
                continue
            try:
                self._gather(plan, records, rows, share)
            except NOT_OF_ONE_MODEL:
                raise
            except Exception as error:
                parked.append(self._park(plan, rows, before, error))
        for reject in decoded.rejects:
            self._reject(reject.model, reject.reason, clock_ms)
        return [*decoded.rejects, *parked]

    def _gather(self, plan: ModelPlan, records: Records, rows: Rows, share: Share) -> None:
        if self.join is not None:
            parts = self.join.take_predictions(plan.name, rows, _offsets(records, rows))
        else:
            parts = columnizer_of(plan).parts(rows)
        buffer = self._buffers.setdefault(plan.name, Gathered())
        if parts:
            columnizer_of(plan).gather(parts, buffer)
        share.books.duplicate += len(rows.rows) - (len(parts.rows.rows) if parts else 0)
        if buffer.n >= MAX_BUFFERED_ROWS:
            self._flush(plan)

    def _park(self, plan: ModelPlan, rows: Rows, before: int, error: Exception) -> Reject:
        """Parks a model of whose rows one raises: those before it are counted, it and those after it are rejected.

        `before`: so many rows were gathered before these. The same record ends the count in every run; with a join,
        which takes a block as a whole, the block that holds it.
        """
        self.parking.park(plan.name, Phase.COUNT, error)
        columnizer = columnizer_of(plan)

        def gather(n: int, into: Gathered) -> None:
            if n:
                columnizer.gather(columnizer.parts(rows.only(range(n))), into)

        good = longest(len(rows.rows), lambda n: gather(n, Gathered())) if self.join is None else 0
        self._buffers[plan.name] = self._buffers.get(plan.name, Gathered()).head(before)
        gather(good, self._buffers[plan.name])
        self._flush(plan)
        self.shares[plan.name].reject(Reason.PARKED, len(rows.rows) - good)
        return Reject(int(rows.indices[good]), Reason.PARKED, str(self.parking.models[plan.name]), plan.name)

    def _flush(self, plan: ModelPlan) -> None:
        """Buffered rows → profiles, the mark, and the books. If one raises, it and those after it are rejected."""
        buffer = self._buffers.pop(plan.name, None)
        if buffer is None or not buffer.n:
            return
        try:
            self._take_counted(plan, self._counted(plan, buffer))
        except NOT_OF_ONE_MODEL:
            raise
        except Exception as error:
            self.parking.park(plan.name, Phase.COUNT, error)
            good = longest(buffer.n, lambda n: self._counted(plan, buffer.head(n)))
            self._take_counted(plan, self._counted(plan, buffer.head(good)))
            self.shares[plan.name].reject(Reason.PARKED, buffer.n - good)

    def _counted(self, plan: ModelPlan, buffer: Gathered) -> _Counted | None:
        if not buffer.n:
            return None
        batch, known = columnizer_of(plan).columns(buffer), self.shares[plan.name].panes
        time, marks_ms = self._timed(plan.name, batch.ts_ms, plan.config.grace_ms)
        classes = timeliness(batch.ts_ms, marks_ms, plan.config.grace_ms, plan.config.lateness_ms)
        late = classes == Timeliness.LATE
        kept = np.where(late, -1, classes)
        panes: dict[tuple[int, int], Cells] = {}
        for group, key, profile in profiles(batch, plan.layout, plan.segmentation, plan.config.pane_ms, kept):
            place = group.pane_ms, group.timeliness
            if place not in panes:
                panes[place] = dict(known.get(place, {}))
            added(panes[place], key, profile, plan.segmentation)
        return _Counted(batch.ts_ms, int(late.sum()), time, panes)

    def _take_counted(self, plan: ModelPlan, counted: _Counted | None) -> None:
        if counted is not None:
            share, self._touched[plan.name] = self.shares[plan.name], None
            self._take_time(plan.name, counted.time, counted.times_ms)
            share.books.late += counted.late
            share.books.counted += len(counted.times_ms) - counted.late
            share.panes.update(counted.panes)
            share.changed.update(pane_ms for pane_ms, _ in counted.panes)

    def flushed(self) -> Iterator[None]:
        for model in list(self._buffers):
            self._flush(self.plan.models[model])
            yield

    def _partials(self, clock_ms: int, *, complete: bool, everywhere: bool) -> list[Partial]:
        for _ in self.flushed():
            pass
        joined: list[Partial] = []
        if self.join is not None:
            self.join.awaits_labels = not self.final and self._is_replay(self.join, clock_ms)
            # Before the books, whose marks say that everything up to them can be judged.
            self.join.commit(self._joined_to, clock_ms)
            self.join.rebuilding &= self.join.is_behind or not (self.caught_up and self.join.caught_up_ms is not None)
        if self.join is not None and not self.join.rebuilding:
            marks = {name: self._read_until_ms(name) for name in self.join.models}
            self.join.read_until_ms = {name: mark for name, mark in marks.items() if mark is not None}
            joined += self.join.partials(clock_ms, final=self.final, everywhere=everywhere)
        return [*joined, *super()._partials(clock_ms, complete=complete, everywhere=everywhere)]

    def _is_replay(self, join: JoinFold, clock_ms: int) -> bool:
        """Whether predictions of a past were read a while ago at the most, or labels."""
        # A model whose records were all rejected has been heard of, and has no mark.
        names = join.models.keys() & self.marks_ms.keys() & self._seen_at_ms.keys()
        heard_ms = max([join.seen_at_ms, *(self._seen_at_ms[name] for name in names)])
        return any(
            self._seen_at_ms[name] - self.marks_ms[name] >= BEHIND_MS
            and clock_ms - heard_ms < pause_ms(self.plan.models[name].config.idle_ms)
            for name in names
        )


def _offsets(records: Records, rows: Rows) -> Sequence[int]:
    if len(rows.indices) == len(records):
        return records.offsets
    return [records.offsets[index] for index in rows.indices.tolist()]
