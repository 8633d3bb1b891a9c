"""Stage 1, one source partition: (state, batch of records, clock) → partials, rejects, progress.

A chunk is an aligned block of offsets, so its bounds depend on nothing but the log. What is published is cumulative
from the chunk's start and carries its end offset; a full chunk ends with one progress record. Resuming at that record
and reading the chunk again gives the same publications, so restarts and zombies replace equals by equals.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from streams.batch import Gathered
from streams.cells import Cells, added, profiles
from streams.config import OTHER, bucket_of
from streams.decode import Rows
from streams.errors import UNREADABLE, SketchError
from streams.events import Reject
from streams.join.fold import JoinFold
from streams.panes import NO_MARK, Timeliness, timeliness
from streams.partial import Books, BooksPart, BooksPartial, Cell, PanePart, PanePartial, Partial, seal, unseal
from streams.plan import ModelPlan, Plan
from streams.records import Records, RejectedRecord

BEAT_MS = 5_000
"""How often the books of every bucket are published, so that a silent model can be told from a lagging partition."""

BLOCK_RECORDS = 512
"""So many records are decoded and taken apart at a time: their objects stay in the processor's cache."""
MAX_BUFFERED_ROWS = 8_192
"""Rows of a model are counted when there are this many, or at a publication."""

_KEPT = (Timeliness.ON_TIME, Timeliness.WELCOME)


class Progress(msgspec.Struct, frozen=True):
    """Where a source partition resumes: its next offset, always at a chunk's bound, and every model's mark."""

    next_offset: int
    marks_ms: dict[str, int]

    def to_bytes(self) -> bytes:
        return seal(msgspec.msgpack.encode(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Progress:
        try:
            return msgspec.msgpack.decode(unseal(data), type=cls)
        except UNREADABLE as error:
            raise SketchError(seen=f"progress that does not open ({error})", expected="packed progress") from None


@dataclass(frozen=True, slots=True)
class Step:
    """What the shell has to do, in this order: send the rejects, send the partials, then (if any) the progress."""

    partition: int
    rejects: Sequence[RejectedRecord] = ()
    partials: Sequence[Partial] = ()
    progress: Progress | None = None


@dataclass(slots=True)
class _ModelChunk:
    """One model's share of the open chunk."""

    books: Books = field(default_factory=Books)
    seen_at_ms: int = 0
    buffer: Gathered = field(default_factory=Gathered)
    panes: dict[tuple[int, int], Cells] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)


class SourceFold:
    """The state of one source partition."""

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
        self.plan, self.topic, self.partition, self.join = plan, topic, partition, join
        self.chunk_size = plan.config.kafka.chunk_size
        self.next_offset = progress.next_offset if progress else first_offset
        self.counted_from = self.next_offset
        """Records before this one are counted already: they are read for the join alone, where it has to be rebuilt."""
        self._joined_to = join.meta.covered.inference if join is not None else 0
        if join is not None and self._joined_to < self.next_offset:
            join.rebuilding = True
        self.marks_ms: dict[str, int] = dict(progress.marks_ms) if progress else {}
        self.chunk = self.next_offset // self.chunk_size
        self.caught_up = False
        self.final = False
        self._decoder = plan.decoder()
        self._started_at_ms = clock_ms
        self._seen_at_ms: dict[str, int] = {}
        self._models: dict[str, _ModelChunk] = {}
        self._laps: dict[tuple[int, int], int] = {}
        """Per bucket and pane how often the open chunk has let go of it."""
        self._dirty = False
        self._beat_at_ms = clock_ms

    def take(self, records: Records, clock_ms: int) -> list[Step]:
        """Counts records; a step for each chunk that they fill, and one more if anything was rejected."""
        steps: list[Step] = []
        at = bisect_left(records.offsets, self.counted_from) if records.offsets[0] < self.counted_from else 0
        if at and self.join is not None:
            self._join_only(records.part(0, at), clock_ms)
        while at < len(records):
            stop = bisect_left(records.offsets, self._chunk_end, at)
            rejects = self._count(records.part(at, stop), clock_ms) if stop > at else []
            if stop < len(records) or (stop and records.offsets[stop - 1] == self._chunk_end - 1):
                self.next_offset = self._chunk_end
                steps.append(self._complete(rejects, clock_ms))
                if stop < len(records):
                    self._open(records.offsets[stop])
            elif rejects:
                steps.append(Step(self.partition, rejects))
            at = stop
        return steps

    @property
    def resume_offset(self) -> int:
        """Where reading must begin."""
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

    def publish(self, clock_ms: int, *, caught_up: bool, final: bool = False) -> Step:
        """All changed sketches so far, and books. `final` says that the stream has ended here, for now."""
        self.caught_up, self.final = caught_up, final
        everywhere = final or not self._dirty or clock_ms - self._beat_at_ms >= BEAT_MS
        if everywhere:
            self._beat_at_ms = clock_ms
        self._dirty = False
        return Step(self.partition, partials=self._partials(clock_ms, complete=False, everywhere=everywhere))

    @property
    def changed(self) -> bool:
        """Whether anything was counted since the last publication."""
        return self._dirty

    @property
    def _chunk_end(self) -> int:
        return (self.chunk + 1) * self.chunk_size

    def _open(self, offset: int) -> None:
        """Begins the chunk of an offset; chunks that the log skips do not exist."""
        self.chunk = offset // self.chunk_size
        self.next_offset = offset

    def _complete(self, rejects: Sequence[RejectedRecord], clock_ms: int) -> Step:
        # A chunk of which the log kept nothing says nothing: what was published of it before stands.
        partials = self._partials(clock_ms, complete=True, everywhere=True) if self._models else []
        self._models, self._laps = {}, {}
        self._dirty = False
        self.chunk += 1
        return Step(self.partition, rejects, partials, Progress(self.next_offset, dict(self.marks_ms)))

    def _count(self, records: Records, clock_ms: int) -> list[RejectedRecord]:
        self.next_offset = self._joined_to = records.offsets[-1] + 1
        self._dirty = True
        rejects: list[RejectedRecord] = []
        for start in range(0, len(records), BLOCK_RECORDS):
            block = records.part(start, start + BLOCK_RECORDS)
            for reject in self._count_block(block, clock_ms):
                offset, value = block.offsets[reject.index], block.values[reject.index]
                rejects.append(RejectedRecord(self.partition, offset, value, reject))
        return rejects

    def _count_block(self, records: Records, clock_ms: int) -> Sequence[Reject]:
        decoded = self._decoder.decode(records.values, records.stamps_ms, records.headers)
        for model, rows in decoded.models.items():
            part = self._model(model, clock_ms)
            part.books.read += len(rows.rows)
            if model == OTHER:
                part.books.counted += len(rows.rows)
                continue
            plan = self.plan.models[model]
            parts = (
                self.join.take_predictions(model, rows, _offsets(records, rows))
                if self.join is not None
                else plan.columnizer.parts(rows)
            )
            kept = len(parts.rows.rows) if parts else 0
            part.books.duplicate += len(rows.rows) - kept
            if parts:
                plan.columnizer.gather(parts, part.buffer)
            if part.buffer.n >= MAX_BUFFERED_ROWS:
                self._flush(plan, part)
        for reject in decoded.rejects:
            books = self._model(reject.model, clock_ms).books
            books.read += 1
            books.rejected[reject.reason] = books.rejected.get(reject.reason, 0) + 1
        return decoded.rejects

    def _model(self, model: str, clock_ms: int) -> _ModelChunk:
        part = self._models.setdefault(model, _ModelChunk())
        self._seen_at_ms[model] = clock_ms
        return part

    def _flush(self, plan: ModelPlan, part: _ModelChunk) -> None:
        """Buffered rows → profiles, the mark, and the books."""
        if not part.buffer.n:
            return
        batch = plan.columnizer.columns(part.buffer)
        part.buffer = Gathered()
        mark = self.marks_ms.get(plan.name, NO_MARK)
        classes, self.marks_ms[plan.name] = timeliness(batch.ts_ms, mark, plan.config.grace_ms, plan.config.lateness_ms)
        late = classes == Timeliness.LATE
        lost = int(late.sum())
        part.books.late += lost
        part.books.counted += batch.n - lost
        panes_ms = batch.ts_ms // plan.config.pane_ms * plan.config.pane_ms
        kept = np.where(late, -1, classes)
        for group, key, profile in profiles(batch, plan.layout, plan.segmentation, panes_ms, kept):
            cells = part.panes.setdefault((group.pane_ms, group.timeliness), {})
            added(cells, key, profile, plan.segmentation)
            part.changed.add(group.pane_ms)

    def _partials(self, clock_ms: int, *, complete: bool, everywhere: bool) -> list[Partial]:
        for model, part in self._models.items():
            if model in self.plan.models:
                self._flush(self.plan.models[model], part)
        joined: list[Partial] = []
        if self.join is not None:
            # Before the books, whose marks say that everything up to them can be judged.
            self.join.commit(self._joined_to, clock_ms)
            self.join.rebuilding &= not (self.caught_up and self.join.caught_up)
        if self.join is not None and not self.join.rebuilding:
            joined += self.join.partials(clock_ms, final=self.final)
        partials: list[Partial] = [*joined, *self._pane_partials(), *self._books(clock_ms, complete, everywhere)]
        self._forget()
        return partials

    def _pane_partials(self) -> list[Partial]:
        """Of every changed pane and bucket, all models: the record replaces the one before as a whole."""
        changed = {(pane_ms, self._bucket(model)) for model, part in self._models.items() for pane_ms in part.changed}
        partials: list[Partial] = []
        for pane_ms, bucket in sorted(changed):
            parts = [
                self._pane_part(model, part, pane_ms)
                for model, part in self._models.items()
                if self._bucket(model) == bucket and any((pane_ms, status) in part.panes for status in _KEPT)
            ]
            lap = self._laps.get((bucket, pane_ms), 0)
            partials.append(
                PanePartial(self.topic, self.partition, self.chunk, self.next_offset, bucket, pane_ms, parts, lap)
            )
        return partials

    def _pane_part(self, model: str, part: _ModelChunk, pane_ms: int) -> PanePart:
        cells = [
            [Cell(*key, profile.to_bytes()) for key, profile in part.panes.get((pane_ms, status), {}).items()]
            for status in _KEPT
        ]
        return PanePart(model, self.plan.models[model].layout.digest, *cells)

    def _books(self, clock_ms: int, complete: bool, everywhere: bool) -> list[Partial]:
        """Books of the buckets that the chunk touched; on a beat without news, of every bucket with a model."""
        models = dict.fromkeys([*self._models, *(self.plan.models if everywhere else ())])
        buckets: dict[int, list[BooksPart]] = {}
        for model in models:
            part = self._models.get(model)
            buckets.setdefault(self._bucket(model), []).append(
                BooksPart(
                    model,
                    part.books if part else Books(),
                    self.marks_ms.get(model),
                    self._seen_at_ms.get(model, self._started_at_ms),
                )
            )
        return [
            BooksPartial(
                self.topic,
                self.partition,
                self.chunk,
                self.next_offset,
                bucket,
                clock_ms,
                complete,
                self.caught_up and not complete,
                self.final,
                parts,
            )
            for bucket, parts in buckets.items()
        ]

    def _bucket(self, model: str) -> int:
        return bucket_of(model, self.plan.config.kafka.buckets)

    def _forget(self) -> None:
        """Drops the panes that no welcome record of any model in them can change; they are published."""
        held: set[tuple[int, int]] = set()
        alive: set[tuple[int, int]] = set()
        for model, part in self._models.items():
            part.changed.clear()
            horizon, bucket = self._horizon_ms(model), self._bucket(model)
            held |= {(bucket, pane_ms) for pane_ms, _ in part.panes}
            alive |= {(bucket, pane_ms) for pane_ms, _ in part.panes if pane_ms > horizon}
        for place in held - alive:
            self._laps[place] = self._laps.get(place, 0) + 1
        for model, part in self._models.items():
            bucket = self._bucket(model)
            part.panes = {key: cells for key, cells in part.panes.items() if (bucket, key[0]) in alive}

    def _horizon_ms(self, model: str) -> int:
        """No record that still counts falls into a pane that starts here or earlier."""
        plan = self.plan.models.get(model)
        if plan is None:
            return NO_MARK
        return self.marks_ms.get(model, NO_MARK) - plan.config.lateness_ms - plan.config.pane_ms


def _offsets(records: Records, rows: Rows) -> Sequence[int]:
    if len(rows.indices) == len(records):
        return records.offsets
    return [records.offsets[index] for index in rows.indices.tolist()]
