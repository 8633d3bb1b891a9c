"""What a bucket knows of a model, as one topic reports it: its panes, its books, and how far partitions were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from streams.cells import MOST_COUNT, Cells, Segmentation, Takes, opened
from streams.duration import DAY_MS
from streams.evaluation_progress import EvaluationProgress
from streams.fingerprint import PartPrint, span_of
from streams.panes import NO_MARK
from streams.partial import Books, BooksPart, PanePart, PanePartial, sum_of
from streams.plan import ModelPlan
from streams.replaying import Replay
from streams.rollup import merged_cells

FINAL_MARK = 2**62
HELD_MS = 7 * DAY_MS
"""So long, by event time, the partials of a parked model stay on the topic at the most."""


@dataclass(slots=True)
class Source:
    """What is known of one source partition: the latest publication of its books."""

    chunk: int = -1
    end_offset: int = -1
    clock_ms: int = 0
    caught_up: bool = False
    final: bool = False
    folded_ms: int | None = None
    """The clock at the publication by which the last folded chunk was full."""
    folded_chunk: int = -1
    """Chunks up to this one are full and folded: what else comes of them is a repeat."""
    booked_chunk: int = -1
    """The books of chunks up to this one came from the state; their records may be gone from the log."""


ChunkPart = tuple[int, int, int]
"""Source partition, chunk, and the offset at which counting of it began: parts of one chunk add up."""


class BooksState(msgspec.Struct):
    """Folded books of a bucket: per source partition the last folded chunk, per model the sums up to it.

    `lost`: per source partition the records that were gone before they could be counted. `unnamed`: per model and
    source partition the last folded chunk in which the model was not declared, until it is judged after that.
    `unnamed_ms`: the clock of stage 1 when that chunk was full. `folded_ms`: the same of `folded`.
    """

    folded: dict[int, int] = {}
    totals: dict[str, Books] = {}
    lost: dict[int, int] = {}
    unnamed: dict[str, dict[int, int]] = {}
    unnamed_ms: dict[str, dict[int, int]] = {}
    folded_ms: dict[int, int] = {}


@dataclass(slots=True)
class PaneState:
    """One pane of one model: what full chunks gave it, and the latest publication of each open one."""

    segmentation: Segmentation
    on_time: Cells = field(default_factory=dict)
    welcome: Cells = field(default_factory=dict)
    open: dict[ChunkPart, tuple[int, PanePart]] = field(default_factory=dict)

    def cells(self) -> tuple[Cells, Cells]:
        """Cells of all chunks: of what came on time, and of what was late and admitted."""
        parts = [open_cells(part) for _, part in self.open.values()]
        return (
            merged_cells([self.on_time, *(on_time for on_time, _ in parts)], self.segmentation),
            merged_cells([self.welcome, *(welcome for _, welcome in parts)], self.segmentation),
        )

    def fold(self, place: ChunkPart) -> None:
        """Folds a full chunk's publication."""
        found = self.open.pop(place, None)
        if found:
            on_time, welcome = open_cells(found[1])
            self.on_time = merged_cells([self.on_time, on_time], self.segmentation)
            self.welcome = merged_cells([self.welcome, welcome], self.segmentation)


def open_cells(part: PanePart) -> tuple[Cells, Cells]:
    return opened(part.on_time), opened(part.welcome)


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks of the source partitions that are read, and of idle ones, with how long those have been silent."""

    active: list[int]
    idle: list[tuple[int, int]]


@dataclass(slots=True)
class ModelBooks:
    """Books and marks of a model, declared or not."""

    marks: dict[int, BooksPart] = field(default_factory=dict)
    """Per source partition: the books part of its latest publication."""
    open_books: dict[ChunkPart, Books] = field(default_factory=dict)
    folded_books: Books = field(default_factory=Books)
    told_since_ms: int | None = None
    """Stage 1's clock at the first publication with a mark, of whichever partition, since the rebuild."""
    known_marks: tuple[tuple[int, int, int, bool, Replay | None], Marks | None] | None = None
    """What was worked out last, and of which version of the sources, partitions, and arguments."""
    holds_up: int = 0
    """The source partition that was last the one that everything waits for."""
    unnamed: dict[int, int] = field(default_factory=dict)
    """Per source partition the last folded chunk that was counted while the model was not declared."""

    unnamed_ms: dict[int, int] = field(default_factory=dict)
    """The clock when each of these chunks was full: no record of it is of a later time, but for the limit of that."""

    def note_unnamed(self, partition: int, chunk: int, clock_ms: int) -> None:
        """Takes a folded chunk that was counted while the model was not declared."""
        self.unnamed[partition], self.unnamed_ms[partition] = chunk, clock_ms

    @property
    def books(self) -> Books:
        return sum_of([self.folded_books, *self.open_books.values()])


class Stranger(NamedTuple):
    """What a chunk holds of a model that was counted under another configuration."""

    end_offset: int
    until_ms: int
    """End of the last pane that has on-time events."""


@dataclass(slots=True, kw_only=True)
class ModelPanes(ModelBooks):
    """The panes of one declared model."""

    plan: ModelPlan
    fingerprint: PartPrint
    """That of its panes."""
    length: int
    """Its slots."""
    takes: Takes
    """The cells that are counted."""
    most: int = MOST_COUNT
    """So high a slot may be."""
    progress: EvaluationProgress = field(default_factory=EvaluationProgress)
    """How far the model has been evaluated: its evaluator moves it."""
    kpis: tuple[str, ...] | None = None
    """The KPIs whose clocks evaluate the panes; None: the clock of events does."""
    panes: dict[int, PaneState] = field(default_factory=dict)
    expired_before_ms: int = NO_MARK
    """Panes before this one are forgotten."""
    changed: set[int] = field(default_factory=set)
    """Panes that changed after they were judged."""
    foreign: int = 0
    """Publications of another layout: made under another baseline or configuration, left out of the sketches."""
    strangers: dict[ChunkPart, Stranger] = field(default_factory=dict)
    """By source partition and chunk, the foreign publications that a rebuild has met; `settle` forgets them."""
    own_ends: dict[ChunkPart, int] = field(default_factory=dict)
    """End offsets of the publications that fit, while a rebuild meets them."""
    named_from_ms: dict[int, int] = field(default_factory=dict)
    """Of the partitions in `unnamed` the first pane with on-time events in a later chunk."""

    @property
    def judged_until_ms(self) -> int | None:
        """Panes up to here have been evaluated by some clock; None: none has."""
        if self.kpis is None:
            return self.progress.events_until_ms
        untils_ms = (self.progress.kpi_until_ms(kpi) for kpi in self.kpis)
        return max((until_ms for until_ms in untils_ms if until_ms is not None), default=None)

    def note_unnamed(self, partition: int, chunk: int, clock_ms: int) -> None:
        ModelBooks.note_unnamed(self, partition, chunk, clock_ms)
        self.named_from_ms.pop(partition, None)

    def note_named(self, partial: PanePartial, part: PanePart) -> None:
        """Takes a part of a pane of the model, of a chunk that is not folded."""
        at = partial.partition
        if at in self.unnamed and partial.chunk > self.unnamed[at] and part.on_time:
            self.named_from_ms[at] = min(partial.pane_ms, self.named_from_ms.get(at, partial.pane_ms))

    def whole_from_ms(self) -> int:
        """From here on a pane holds the events of all partitions; earlier ones may lack those of folded chunks in which
        the model was not declared. NO_MARK: no pane lacks any.

        Events are out of order by the grace at the most: those of the chunk before may be as much later than the mark
        at its end as the first ones of the next chunk are earlier.
        """
        config = self.plan.config
        return max((at + config.pane_ms + 2 * config.grace_ms for at in self.named_from_ms.values()), default=NO_MARK)

    def known_whole_from_ms(self, future_ms: int) -> int:
        """The same where no partition is waited for: one that has no event since then may have some at any time, but
        those of its folded chunks are at the most so far in the future of the clock of then."""
        config = self.plan.config
        bounds_ms: dict[int, list[int]] = {at: [] for at in self.unnamed}
        for at, known in bounds_ms.items():
            if at in self.named_from_ms:
                known.append(self.named_from_ms[at] + config.pane_ms + 2 * config.grace_ms)
            if at in self.unnamed_ms:
                known.append(self.unnamed_ms[at] + future_ms)
        return max((min(known, default=NO_MARK) for known in bounds_ms.values()), default=NO_MARK)

    def forget_unnamed(self) -> None:
        """What is judged from here on is whole, and its state says so."""
        for known in (self.unnamed, self.unnamed_ms, self.named_from_ms):
            known.clear()

    def meet(self, place: ChunkPart, partial: PanePartial, part: PanePart) -> None:
        """Notes a publication that a rebuild reads, whether it fits or not."""
        if self.fingerprint.fits(part, partial.pane_ms):
            self.own_ends[place] = max(partial.end_offset, self.own_ends.get(place, -1))
        else:
            span_ms = span_of(part) or self.fingerprint.span_ms
            known = self.strangers.get(place, Stranger(-1, NO_MARK))
            until_ms = partial.pane_ms + span_ms if part.on_time else NO_MARK
            self.strangers[place] = Stranger(max(known.end_offset, partial.end_offset), max(known.until_ms, until_ms))

    def begin_at(self, start_ms: int) -> None:
        """Leaves out the panes of before, whole or not, whenever they come."""
        self.expired_before_ms = max(start_ms, self.expired_before_ms)
        self.panes = {at: pane for at, pane in self.panes.items() if at >= start_ms}
        self.changed = {at for at in self.changed if at >= start_ms}

    def forget(self, before_ms: int) -> None:
        """Drops old panes, but for the newest: from it a silence is measured."""
        self.expired_before_ms = max(before_ms, self.expired_before_ms)
        newest_ms = max(self.panes, default=before_ms)
        for start_ms in [start_ms for start_ms in self.panes if start_ms < min(before_ms, newest_ms)]:
            del self.panes[start_ms]
