"""Stage 1, one source partition: (state, batch of records, clock) → partials, rejects, progress.

A chunk is an aligned block of offsets, so its bounds depend on nothing but the log. What is published is cumulative
from the chunk's start and carries its end offset; a full chunk ends with one progress record. Resuming at that record
and reading the chunk again gives the same publications, so restarts and zombies replace equals by equals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from streams.arrays import Ints
from streams.cells import Cells, packed
from streams.config import bucket_of
from streams.events import Reject
from streams.fingerprint import PartPrint
from streams.panes import NO_MARK, Timeliness
from streams.parking import Parking, Phase
from streams.partial import Books, BooksPart, BooksPartial, PanePart, PanePartial, Partial
from streams.plan import Plan
from streams.progress import Progress
from streams.records import Records, RejectedRecord
from streams.stream_time import LIVE_MS, PAUSE_MS, StreamTime

BEAT_MS = 5_000
"""How often the books of every bucket are published, so that a silent model differs from a lagging partition."""

INTRODUCTIONS = 12
"""How many times after a start the books of all buckets are published, at intervals of BEAT_MS."""

FULL_BEATS = 12
"""Of so many heartbeats one repeats the books of all models, the others only those of buckets with news."""

BLOCK_RECORDS = 512
"""So many records are decoded and taken apart at a time: their objects stay in the processor's cache."""

_KEPT = (Timeliness.ON_TIME, Timeliness.WELCOME)


@dataclass(frozen=True, slots=True)
class Step:
    """What the shell has to do, in this order: send the rejects, send the partials, then (if any) the progress."""

    partition: int
    rejects: Sequence[RejectedRecord] = ()
    partials: Sequence[Partial] = ()
    progress: Progress | None = None


@dataclass(slots=True)
class Share:
    """One model's share of the open chunk."""

    books: Books = field(default_factory=Books)
    number: int = 0
    """In the order in which the chunk met its models."""
    panes: dict[tuple[int, int], Cells] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    placed: set[int] = field(default_factory=set)
    """The panes under which it is in `ChunkFold._places`."""

    def drop(self, pane_ms: int) -> None:
        """Lets go of a pane that is published."""
        self.placed.discard(pane_ms)
        for timeliness in _KEPT:
            self.panes.pop((pane_ms, timeliness), None)

    def reject(self, reason: str, records: int) -> None:
        """Books records that were read as rejected."""
        if records:
            self.books.rejected[reason] = self.books.rejected.get(reason, 0) + records

    def cells(self, pane_ms: int, status: int) -> Cells:
        """The cells of a pane, to be added to."""
        self.changed.add(pane_ms)
        return self.panes.setdefault((pane_ms, status), {})


class ChunkFold(ABC):
    """The state of one source partition: what all topics that are counted in chunks have in common.

    What is counted, and for whom, is the subclass's: it fills the panes of `Share`s, by the name that their books have.
    """

    def __init__(
        self,
        plan: Plan,
        topic: str,
        partition: int,
        progress: Progress | None,
        clock_ms: int,
        first_offset: int = 0,
    ) -> None:
        self.plan, self.topic, self.partition = plan, topic, partition
        self.chunk_size = plan.config.kafka.chunk_size
        self.progress = progress or Progress(first_offset, {})
        """What it began with."""
        self.next_offset = self.progress.next_offset
        self.start_offset = self.next_offset if self.next_offset % self.chunk_size else 0
        """Where counting of the open chunk began, if that was not the chunk's start."""
        self.lost = self.progress.lost
        """Records of the partition that were gone before they could be counted, ever."""
        self.counted_from = self.next_offset
        """Records before this one are counted already."""
        self.marks_ms: dict[str, int] = dict(self.progress.marks_ms)
        known = self.progress.times
        self.times = {
            name: known[name].copy() if name in known else StreamTime.at(mark) for name, mark in self.marks_ms.items()
        }
        self._reached_ms: dict[str, int] = {}
        """Per name the highest time that stage 1's clock had reached when it was counted, beyond the mark."""
        self._clock_ms = clock_ms
        self.ahead: Counter[str] = Counter()
        """Records that turned out to be ahead, until somebody reports them."""
        self.chunk = self.next_offset // self.chunk_size
        self.caught_up = False
        self.final = False
        self.shares: dict[str, Share] = {}
        self._started_at_ms = clock_ms
        self._seen_at_ms: dict[str, int] = {}
        self._laps: dict[tuple[int, int], int] = {}
        """Per bucket and pane how often the open chunk has let go of it."""
        self._introductions = INTRODUCTIONS
        self._dirty = False
        self._beat_at_ms = clock_ms
        self._beats = 0
        self._published_marks: dict[str, int | None] = {}
        self._touched: dict[str, None] = {}
        """Names of which the books or the panes have changed since they were published."""
        self._in_bucket: dict[int, list[str]] = {}
        """Names that have a share, by bucket."""
        self._places: dict[int, dict[int, list[str]]] = {}
        """Names that have something of a pane, by pane and bucket."""
        self._highest_horizon_ms = NO_MARK
        """Panes that start later are all still needed."""
        self.parking = Parking()
        """The models of which no record is counted any more: one of theirs raised."""
        self._prints: dict[str, PartPrint] = {}

    @property
    @abstractmethod
    def names(self) -> Collection[str]:
        """Those that are declared."""

    @property
    @abstractmethod
    def _declared(self) -> Mapping[int, Sequence[str]]:
        """The same, by bucket."""

    @abstractmethod
    def _count_block(self, records: Records, clock_ms: int) -> Sequence[Reject]:
        """Counts records, at most BLOCK_RECORDS."""

    @abstractmethod
    def _print_of(self, name: str) -> PartPrint:
        """The fingerprint of the panes of a declared name."""

    @abstractmethod
    def _lateness_ms(self, name: str) -> int:
        """A record that is later than this, and its pane, changes nothing of a declared name."""

    def _idle_ms(self, name: str) -> int:
        """So long a declared name is silent until its partition is idle."""
        return self.plan.models[self._model_of(name)].config.idle_ms

    def _model_of(self, name: str) -> str:
        """The model whose bucket a name is in."""
        return name

    def _read_until_ms(self, name: str) -> int | None:
        """The event time up to which everything of a name has been read.

        That is the mark; and in a slow stream, of which nothing is left to read, what has come so far: it would take
        hours until enough records agree.
        """
        mark_ms, reached_ms = self.marks_ms.get(name), self._reached_ms.get(name, NO_MARK)
        if mark_ms is None or reached_ms <= mark_ms or not self.caught_up:
            return mark_ms
        silent_ms = self._clock_ms - self._seen_at_ms.get(name, self._started_at_ms)
        is_live = self._clock_ms - reached_ms <= LIVE_MS
        return reached_ms if silent_ms >= (PAUSE_MS if is_live else self._idle_ms(name)) else mark_ms

    def _advance(self, name: str, times_ms: Ints, grace_ms: int) -> Ints:
        """Takes event times in the partition's order; gives the marks after each."""
        time, marks_ms = self._timed(name, times_ms, grace_ms)
        self._take_time(name, time, times_ms)
        return marks_ms

    def _timed(self, name: str, times_ms: Ints, grace_ms: int) -> tuple[StreamTime, Ints]:
        """Stream time after these event times, and the marks after each of them; changes nothing."""
        time = self.times[name].copy() if name in self.times else StreamTime()
        return time, time.take(times_ms, grace_ms)

    def _take_time(self, name: str, time: StreamTime, times_ms: Ints) -> None:
        """Takes the stream time after these event times, and counts what was ahead."""
        ahead = time.ahead - (self.times[name].ahead if name in self.times else 0)
        self.times[name], self.marks_ms[name] = time, time.mark_ms
        if int(times_ms.max(initial=NO_MARK)) > time.mark_ms:
            reached_ms = times_ms[times_ms <= self._clock_ms].max(initial=NO_MARK)
            self._reached_ms[name] = max(self._reached_ms.get(name, NO_MARK), int(reached_ms))
        if ahead:
            self.shares[name].books.ahead += ahead
            self.ahead[name] += ahead

    def take(self, records: Records, clock_ms: int) -> list[Step]:
        """Counts records; a step for each chunk that they fill, and one more if anything was rejected."""
        steps: list[Step] = []
        at = bisect_left(records.offsets, self.counted_from) if records.offsets[0] < self.counted_from else 0
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
        return self.next_offset

    def flushed(self) -> Iterator[None]:
        """Does what a publication would do first, a model at a time: it stops after each, and may be left off."""
        yield from ()

    def publish(self, clock_ms: int, *, caught_up: bool, final: bool = False) -> Step:
        """All changed sketches so far, and books. `final` says that the stream has ended here, for now."""
        self._clock_ms = clock_ms
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
        partials = self._partials(clock_ms, complete=True, everywhere=True) if self.shares else []
        self.shares, self._laps, self._in_bucket, self._places = {}, {}, {}, {}
        self._dirty = False
        self.chunk += 1
        self.start_offset = 0
        progress = msgspec.structs.replace(
            self.progress,
            next_offset=self.next_offset,
            marks_ms=dict(self.marks_ms),
            times={name: time.copy() for name, time in self.times.items()},
        )
        return Step(self.partition, rejects, partials, progress)

    def _count(self, records: Records, clock_ms: int) -> list[RejectedRecord]:
        self.next_offset = records.offsets[-1] + 1
        self._dirty, self._clock_ms = True, clock_ms
        rejects: list[RejectedRecord] = []
        for start in range(0, len(records), BLOCK_RECORDS):
            block = records.part(start, start + BLOCK_RECORDS)
            for reject in self._count_block(block, clock_ms):
                offset, value = block.offsets[reject.index], block.values[reject.index]
                rejects.append(RejectedRecord(self.partition, offset, value, reject))
        return rejects

    def _reject(self, name: str, reason: str, clock_ms: int) -> None:
        share = self._share(name, clock_ms)
        share.books.read += 1
        share.reject(reason, 1)

    def _share(self, name: str, clock_ms: int) -> Share:
        share = self.shares.get(name)
        if share is None:
            share = self.shares[name] = Share(number=len(self.shares))
            self._in_bucket.setdefault(self._bucket(name), []).append(name)
        self._seen_at_ms[name] = clock_ms
        self._touched[name] = None
        return share

    def cells(self, name: str, pane_ms: int, timeliness: int) -> Cells:
        """The cells of a pane of a name that has a share, to be added to."""
        self._touched[name] = None
        return self.shares[name].cells(pane_ms, timeliness)

    def _partials(self, clock_ms: int, *, complete: bool, everywhere: bool) -> list[Partial]:
        """What is published: its cost is that of what has changed, whatever else is declared."""
        partials: list[Partial] = [*self._pane_partials(), *self._books(clock_ms, complete, everywhere)]
        self._forget()
        return partials

    def _pane_partials(self) -> list[Partial]:
        """Of every changed pane and bucket, all models: the record replaces the one before as a whole."""
        partials: list[Partial] = []
        for pane_ms, bucket in sorted(self._changed_places()):
            parts: list[PanePart] = []
            for name in sorted(self._places[pane_ms][bucket], key=lambda name: self.shares[name].number):
                with self.parking.guard(self._model_of(name), Phase.PACK):
                    parts.append(self._pane_part(name, self.shares[name], pane_ms))
            lap = self._laps.get((bucket, pane_ms), 0)
            at = self.topic, self.partition, self.chunk, self.next_offset
            partials.append(PanePartial(*at, bucket, pane_ms, parts, lap, self.start_offset))
        return partials

    def _changed_places(self) -> set[tuple[int, int]]:
        """Panes and buckets in which something was counted since the last publication."""
        changed: set[tuple[int, int]] = set()
        for name in self._touched:
            share, bucket = self.shares[name], self._bucket(name)
            for pane_ms in share.changed:
                names = self._places.setdefault(pane_ms, {}).setdefault(bucket, [])
                if pane_ms not in share.placed:
                    share.placed.add(pane_ms)
                    names.append(name)
                changed.add((pane_ms, bucket))
            share.changed.clear()
            if name in self.names:
                self._highest_horizon_ms = max(self._highest_horizon_ms, self._horizon_ms(name))
        return changed

    def _pane_part(self, name: str, share: Share, pane_ms: int) -> PanePart:
        on_time, welcome = (packed(share.panes.get((pane_ms, status), {})) for status in _KEPT)
        if name not in self._prints:
            self._prints[name] = self._print_of(name)
        return self._prints[name].part(name, on_time, welcome)

    def _books(self, clock_ms: int, complete: bool, everywhere: bool) -> list[Partial]:
        """Books of the buckets in which something is new; on a beat of every bucket with a model.

        On most beats a bucket without news gets a record without models, of a key of its own: it moves the clock, and
        what was published of the models stands.
        """
        buckets = self._books_parts(complete, everywhere)
        lost_in = self._bucket("")
        if self.lost:
            buckets.setdefault(lost_in, [])
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
                self.start_offset,
                self.lost if bucket == lost_in else 0,
            )
            for bucket, parts in buckets.items()
        ]

    def _books_parts(self, complete: bool, everywhere: bool) -> dict[int, list[BooksPart]]:
        """By bucket what is published of its models.

        When the chunk is full, and for a while after a start, something of every bucket: whoever counted the chunk
        before, under another configuration, may have published books there that this one has under another name.
        """
        full = complete or self.final or (everywhere and self._beats % FULL_BEATS == 0)
        introduces = complete or (everywhere and self._introductions > 0)
        if everywhere:
            self._beats, self._introductions = self._beats + 1, max(0, self._introductions - 1)
        news, buckets = {self._bucket(name) for name in self._news(everywhere)}, dict[int, list[BooksPart]]()
        declared = self._declared if everywhere else {}
        for bucket in dict.fromkeys([*self._in_bucket, *declared]):
            names = dict.fromkeys(self._in_bucket.get(bucket, ()))
            if full or bucket in news:
                names |= dict.fromkeys(declared.get(bucket, ()))
            elif not introduces:
                names = {}
            if names or everywhere:
                buckets[bucket] = [self._books_part(name) for name in names]
        for bucket in range(self.plan.config.kafka.buckets) if introduces else ():
            if not buckets.get(bucket):
                buckets[bucket] = [self._books_part("") if bucket == self._bucket("") else self._no_books()]
        return buckets

    def _books_part(self, name: str) -> BooksPart:
        share = self.shares.get(name)
        seen_at_ms = self._seen_at_ms.get(name, self._started_at_ms)
        return BooksPart(name, share.books if share else Books(), self._read_until_ms(name), seen_at_ms)

    def _no_books(self) -> BooksPart:
        """What a bucket gets that has no model's: the books of no model are in one bucket alone."""
        return msgspec.structs.replace(self._books_part(""), books=Books())

    def _news(self, everywhere: bool) -> set[str]:
        """Those of which the books or the mark have changed since they were published."""
        may_move = self._may_move()
        looked_at = may_move if everywhere else [name for name in may_move if name in self.shares]
        marks = {name: self._read_until_ms(name) for name in (*looked_at, *self._touched)}
        moved = {name for name, mark_ms in marks.items() if mark_ms != self._published_marks.get(name)}
        self._published_marks.update(marks)
        touched, self._touched = self._touched, {}
        return touched.keys() | moved

    def _may_move(self) -> Iterable[str]:
        """Those of which `_read_until_ms` may change although no record of theirs is counted."""
        return dict.fromkeys([*self.shares, *self.names])

    def _bucket(self, name: str) -> int:
        return bucket_of(self._model_of(name), self.plan.config.kafka.buckets)

    def _forget(self) -> None:
        """Drops the panes that no welcome record of any model in them can change; they are published."""
        for pane_ms in [pane_ms for pane_ms in self._places if pane_ms <= self._highest_horizon_ms]:
            buckets = self._places[pane_ms]
            for bucket, names in list(buckets.items()):
                if any(pane_ms > self._horizon_ms(name) for name in names):
                    continue
                self._laps[bucket, pane_ms] = self._laps.get((bucket, pane_ms), 0) + 1
                for name in buckets.pop(bucket):
                    self.shares[name].drop(pane_ms)
            if not buckets:
                del self._places[pane_ms]

    def _horizon_ms(self, name: str) -> int:
        """No record that still counts falls into a pane that starts here or earlier."""
        return self.marks_ms.get(name, NO_MARK) - self._lateness_ms(name)
