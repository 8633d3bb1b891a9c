"""Stage 1 of inference events: columns → sketches by pane, next to the join with the partition's labels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np

from streams.batch import Gathered
from streams.cells import added, profiles
from streams.chunk import ChunkFold, Progress, Step
from streams.config import OTHER
from streams.decode import Rows
from streams.events import Reject
from streams.join.fold import JoinFold
from streams.panes import NO_MARK, Timeliness, timeliness
from streams.partial import Partial
from streams.plan import ModelPlan, Plan
from streams.records import Records, RejectedRecord

MAX_BUFFERED_ROWS = 8_192
"""Rows of a model are counted when there are this many, or at a publication."""


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
        self._joined_to = join.meta.covered.inference if join is not None else 0
        if join is not None and self._joined_to < self.next_offset:
            join.rebuilding = True
        self._decoder = plan.decoder()
        self._buffers: dict[str, Gathered] = {}

    @property
    def names(self) -> Iterable[str]:
        return self.plan.models

    def _layout_of(self, name: str) -> str:
        return self.plan.models[name].layout.digest

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
        """Offsets that are still to be read for the join alone."""
        return max(0, self.counted_from - self._joined_to) if self.join is not None else 0

    def _join_only(self, records: Records, clock_ms: int) -> None:
        assert self.join is not None
        decoded = self._decoder.decode(records.values, records.stamps_ms, records.headers)
        for model, rows in decoded.models.items():
            if model in self.plan.models:
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
        decoded = self._decoder.decode(records.values, records.stamps_ms, records.headers)
        for model, rows in decoded.models.items():
            share = self._share(model, clock_ms)
            share.books.read += len(rows.rows)
            if model == OTHER:
                share.books.counted += len(rows.rows)
                continue
            plan = self.plan.models[model]
            parts = (
                self.join.take_predictions(model, rows, _offsets(records, rows))
                if self.join is not None
                else plan.columnizer.parts(rows)
            )
            kept = len(parts.rows.rows) if parts else 0
            share.books.duplicate += len(rows.rows) - kept
            buffer = self._buffers.setdefault(model, Gathered())
            if parts:
                plan.columnizer.gather(parts, buffer)
            if buffer.n >= MAX_BUFFERED_ROWS:
                self._flush(plan)
        for reject in decoded.rejects:
            self._reject(reject.model, reject.reason, clock_ms)
        return decoded.rejects

    def _flush(self, plan: ModelPlan) -> None:
        """Buffered rows → profiles, the mark, and the books."""
        buffer = self._buffers.pop(plan.name, None)
        if buffer is None or not buffer.n:
            return
        batch, share = plan.columnizer.columns(buffer), self.shares[plan.name]
        mark = self.marks_ms.get(plan.name, NO_MARK)
        classes, self.marks_ms[plan.name] = timeliness(batch.ts_ms, mark, plan.config.grace_ms, plan.config.lateness_ms)
        late = classes == Timeliness.LATE
        lost = int(late.sum())
        share.books.late += lost
        share.books.counted += batch.n - lost
        kept = np.where(late, -1, classes)
        for group, key, profile in profiles(batch, plan.layout, plan.segmentation, plan.config.pane_ms, kept):
            added(share.cells(group.pane_ms, group.timeliness), key, profile, plan.segmentation)

    def _partials(self, clock_ms: int, *, complete: bool, everywhere: bool) -> list[Partial]:
        for model in list(self._buffers):
            self._flush(self.plan.models[model])
        joined: list[Partial] = []
        if self.join is not None:
            # Before the books, whose marks say that everything up to them can be judged.
            self.join.commit(self._joined_to, clock_ms)
            self.join.rebuilding &= not (self.caught_up and self.join.caught_up_ms is not None)
        if self.join is not None and not self.join.rebuilding:
            joined += self.join.partials(clock_ms, final=self.final)
        return [*joined, *super()._partials(clock_ms, complete=complete, everywhere=everywhere)]


def _offsets(records: Records, rows: Rows) -> Sequence[int]:
    if len(rows.indices) == len(records):
        return records.offsets
    return [records.offsets[index] for index in rows.indices.tolist()]
