"""Stage 2: partials of one topic → panes and books by model.

The state is a fold over the `partials` log: of each chunk and pane the publication with the highest end offset,
whatever the order and however often it comes; a full chunk is folded for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from streams.cells import checked_part
from streams.config import MAX_MODELS, OTHER
from streams.errors import SketchError
from streams.model_panes import (
    FINAL_MARK,
    HELD_MS,
    BooksState,
    ChunkPart,
    Marks,
    ModelBooks,
    ModelPanes,
    PaneState,
    Source,
)
from streams.panes import NO_MARK
from streams.parking import Parking, Phase
from streams.partial import Books, BooksPartial, PanePart, PanePartial, Partial
from streams.plan import Plan, model_of
from streams.replaying import Replay, is_silent

M = TypeVar("M", bound=ModelPanes)


class ChunkMerge(Generic[M]):
    """The models of one bucket, by the names of their books, as one topic tells of them."""

    def __init__(
        self,
        plan: Plan,
        bucket: int,
        topic: str,
        partitions: int,
        models: Mapping[str, M],
        parking: Parking | None = None,
    ) -> None:
        """`parking`: the models whose panes are neither folded nor deleted; their books go on."""
        self.plan, self.bucket, self.topic, self.partitions = plan, bucket, topic, partitions
        self.parking = Parking() if parking is None else parking
        self.models = dict(models)
        self.sources: dict[int, Source] = {}
        self.clock_ms = NO_MARK
        """The latest clock of stage 1 that came with books."""
        self._version = 0
        """Of the sources and the marks: what was worked out for one holds until the next."""
        self.others: dict[str, ModelBooks] = {}
        """Books of what is no declared model: undeclared ones, and records of which no model could be read."""
        self.keys: dict[int, set[bytes]] = {}
        """Record keys by pane, for the tombstones."""
        self.book_keys: dict[bytes, tuple[int, int]] = {}
        self._open_ends: dict[int, dict[ChunkPart, tuple[int, frozenset[str]]]] = {}
        """By source partition, of the books of open chunks, and the names that they have."""
        self._open_panes: dict[int, dict[ChunkPart, dict[int, set[str]]]] = {}
        """By source partition, for each open chunk the models that have something of it, by the pane's start."""
        self._declared: dict[tuple[int, int], frozenset[str]] = {}
        """By source partition and chunk, the names in the books that say that it is full: all that were declared."""
        self.lost: dict[int, int] = {}
        """Per source partition, records that were gone before they could be counted."""

    def apply(self, partial: Partial, key: bytes = b"", *, fresh: bool = True) -> None:
        """Takes a publication. `fresh` is false while rebuilding: an old claim to be idle is not believed then."""
        if not self._is_ours(partial):
            raise SketchError(seen=f"a partial of {partial.topic}, bucket {partial.bucket}", expected="this bucket's")
        if isinstance(partial, PanePartial):
            self._apply_pane(partial, key, fresh)
        elif isinstance(partial, BooksPartial):
            self._apply_books(partial, key, fresh)

    def _is_ours(self, partial: Partial) -> bool:
        return partial.topic == self.topic and partial.bucket == self.bucket

    def _apply_pane(self, partial: PanePartial, key: bytes, fresh: bool) -> None:
        parts = [self._checked(part, partial.pane_ms) for part in partial.models]
        if key:
            self.keys.setdefault(partial.pane_ms, set()).add(key)
        source = self.sources.setdefault(partial.partition, Source())
        place = (partial.partition, partial.chunk, partial.start_offset)
        for part in parts:
            model = self.models.get(part.model)
            if model is not None and not fresh:
                model.meet(place, partial, part)
        if partial.chunk <= source.folded_chunk:
            return
        for part in parts:
            model = self.models.get(part.model)
            if model is None or not model.fingerprint.fits(part, partial.pane_ms):
                if model is not None:
                    model.foreign += fresh  # what a rebuild meets was counted when it came
                continue
            if self.is_parked(part.model):
                continue
            model.note_named(partial, part)
            if partial.pane_ms < model.expired_before_ms:
                continue
            pane = model.panes.setdefault(partial.pane_ms, PaneState(model.plan.segmentation))
            if partial.end_offset >= pane.open.get(place, (-1,))[0]:
                pane.open[place] = (partial.end_offset, part)
                chunks = self._open_panes.setdefault(partial.partition, {})
                chunks.setdefault(place, {}).setdefault(partial.pane_ms, set()).add(part.model)
                if model.judged_until_ms is not None and partial.pane_ms < model.judged_until_ms:
                    model.changed.add(partial.pane_ms)

    def settle(self) -> dict[str, int]:
        """After a rebuild: per model, until when its events were counted under another configuration for good.

        A chunk that is not full is read and published again by stage 1. Until that has come as far as before, the marks
        that were published with the chunk speak of events that are in no pane: they are not believed.
        """
        until_ms: dict[str, int] = {}
        for name, model in self.models.items():
            for place, stranger in model.strangers.items():
                partition, chunk, _ = place
                own_end = model.own_ends.get(place)
                if own_end is not None and own_end >= stranger.end_offset:
                    continue
                if chunk > self.sources[partition].folded_chunk:
                    model.marks.pop(partition, None)
                elif stranger.until_ms > NO_MARK:  # what is there of our own, from before that, is not all of it
                    until_ms[name] = max(stranger.until_ms, until_ms.get(name, NO_MARK))
            model.strangers, model.own_ends = {}, {}
        return until_ms

    def _checked(self, part: PanePart, pane_ms: int) -> PanePart:
        model = self.models.get(part.model)
        if model is None or not model.fingerprint.fits(part, pane_ms):
            return part  # it will be left out
        return checked_part(part, model.length, model.takes, model.most)

    def _apply_books(self, partial: BooksPartial, key: bytes, fresh: bool) -> None:
        strange = {part.model for part in partial.models} - self.models.keys() - self.others.keys()
        if len(self.others) + len(strange) > MAX_MODELS:
            raise SketchError(seen="books of ever more models", expected=f"at most {MAX_MODELS} that are not declared")
        if key:
            self.book_keys[key] = (partial.partition, partial.chunk)
        if partial.lost:
            self.lost[partial.partition] = max(partial.lost, self.lost.get(partial.partition, 0))
        source = self.sources.setdefault(partial.partition, Source())
        self.partitions = max(self.partitions, partial.partition + 1)  # the topic may be given more
        if partial.chunk <= source.folded_chunk:
            return
        self._open_the_books(partial, source)
        if (partial.chunk, partial.end_offset) < (source.chunk, source.end_offset):
            return
        source.chunk, source.end_offset, source.clock_ms = partial.chunk, partial.end_offset, partial.clock_ms
        self._version += 1
        self.clock_ms = max(self.clock_ms, partial.clock_ms)
        source.caught_up = partial.caught_up and fresh
        source.final = partial.final
        for part in partial.models:
            model = self._model(part.model)
            model.marks[partial.partition] = part
            if part.mark_ms is not None and model.told_since_ms is None:
                model.told_since_ms = partial.clock_ms
        self._fold(partial.partition, partial.chunk if partial.complete else partial.chunk - 1)

    def _open_the_books(self, partial: BooksPartial, source: Source) -> None:
        """Keeps what the publication says of its part of an open chunk, if no later one has said it."""
        place = (partial.partition, partial.chunk, partial.start_offset)
        open_ends = self._open_ends.setdefault(partial.partition, {})
        end, names = open_ends.get(place, (-1, frozenset()))
        if not partial.models:
            return
        if partial.chunk <= source.booked_chunk or partial.end_offset < end:
            return
        told = frozenset(part.model for part in partial.models)
        open_ends[place] = partial.end_offset, told
        if partial.complete:
            self._declared[partial.partition, partial.chunk] = told
        for name in names - told:  # under another configuration its records are those of another name
            self._model(name).open_books.pop(place, None)
        for part in partial.models:
            self._model(part.model).open_books[place] = part.books

    def _model(self, name: str) -> ModelBooks:
        return self.models[name] if name in self.models else self.others.setdefault(name, ModelBooks())

    def _fold(self, partition: int, chunk: int) -> None:
        """A chunk is full when it says so, or when a later one has begun."""
        if chunk <= self.sources[partition].folded_chunk:
            return
        source = self.sources[partition]
        source.folded_chunk, source.folded_ms = chunk, source.clock_ms
        open_ends, open_panes = self._open_ends.get(partition, {}), self._open_panes.get(partition, {})
        for place in [place for place in open_ends if place[1] <= chunk]:
            for name in open_ends.pop(place)[1]:
                books = self._model(name)
                books.folded_books = books.folded_books.merged(books.open_books.pop(place, Books()))
        for place in [place for place in open_panes if place[1] <= chunk]:
            for start_ms, names in open_panes.pop(place).items():
                for name in names:
                    with self.parking.guard(model_of(name), Phase.FOLD):
                        if start_ms in self.models[name].panes:
                            self.models[name].panes[start_ms].fold(place)
        self._note_unnamed(partition, chunk)

    def _note_unnamed(self, partition: int, chunk: int) -> None:
        """Notes the full chunks up to this one for the models that were not declared when they were counted."""
        full = sorted(place for place in self._declared if place[0] == partition and place[1] <= chunk)
        once = {name: books for name, books in self.others.items() if name not in ("", OTHER)}
        known: dict[str, ModelBooks] = {**self.models, **once}
        for place in full:
            for name in known.keys() - self._declared.pop(place):
                known[name].note_unnamed(*place, self.sources[partition].clock_ms)

    def is_parked(self, name: str) -> bool:
        """Whether the model that books of this name are of is parked."""
        return bool(self.parking.models) and model_of(name) in self.parking

    def held_from_ms(self) -> int:
        """Panes from here on are still needed by a parked model; FINAL_MARK while there is none.

        The panes themselves are dropped from memory: a restart folds them again.
        """
        held_ms = FINAL_MARK
        for name, model in self.models.items():
            if self.is_parked(name):
                held_ms = min(held_ms, model.expired_before_ms)
                model.panes.clear()
        return max(held_ms, max(self.keys, default=0) - HELD_MS)

    def marks(
        self, model: ModelBooks, idle_after_ms: int, *, expected: bool = True, replay: Replay | None = None
    ) -> Marks | None:
        """Up to where each source partition has been read; None: unknown for some of them.

        A partition without a record of the model is waited for as an idle one is; not at all if it is not `expected`.
        `replay`: while it lasts, no silence counts.
        """
        key = self._version, self.partitions, idle_after_ms, expected, replay
        if model.known_marks is None or model.known_marks[0] != key:
            model.known_marks = key, self._marks(model, idle_after_ms, expected, replay)
        return model.known_marks[1]

    def is_held_up(self, model: ModelBooks, time_ms: int, idle_after_ms: int) -> bool:
        """Whether it is sure, at little cost, that not all has been read up to an event time.

        A partition that holds a model up does so for long. It is looked at first, and the others after it only when it
        does no more, so each is looked at once until all have reached the time, however often this is asked.
        """
        for at in range(self.partitions):
            partition = (model.holds_up + at) % self.partitions
            if self._holds_up(model, partition, time_ms, idle_after_ms):
                model.holds_up = partition
                return True
        return False

    def _holds_up(self, model: ModelBooks, partition: int, time_ms: int, idle_after_ms: int) -> bool:
        """Whether `marks` knows nothing of a partition, or has it as active and at an earlier time."""
        source, part = self.sources.get(partition), model.marks.get(partition)
        if source is None or part is None:
            return True
        if source.final:
            return False
        if source.caught_up and (part.mark_ms is None or source.clock_ms - part.seen_at_ms >= idle_after_ms):
            return False
        return part.mark_ms is None or part.mark_ms < time_ms

    def _marks(self, model: ModelBooks, idle_after_ms: int, expected: bool, replay: Replay | None) -> Marks | None:
        found = Marks([], [])
        for partition in range(self.partitions):
            source, part = self.sources.get(partition), model.marks.get(partition)
            if source is None or part is None:
                return None
            mark = NO_MARK if part.mark_ms is None else part.mark_ms
            silent_ms = source.clock_ms - part.seen_at_ms
            if source.final:
                found.idle.append((mark, FINAL_MARK))
            elif source.caught_up and (
                is_silent(source.clock_ms, part.seen_at_ms, idle_after_ms, replay)
                or (part.mark_ms is None and not expected and _is_other(model, source.clock_ms, idle_after_ms, replay))
            ):
                found.idle.append((mark, silent_ms))
            elif part.mark_ms is None:
                return None
            else:
                found.active.append(mark)
        return found

    def forgotten(self) -> list[bytes]:
        """Keys of the panes that no model needs, and of the books of folded chunks."""
        passed_ms = max((model.expired_before_ms for model in self.models.values()), default=NO_MARK)
        needed = {start for model in self.models.values() for start in model.panes}
        before_ms = min(passed_ms, self.held_from_ms())
        gone = [start for start in self.keys if start < before_ms and start not in needed]
        keys = [key for start in gone for key in self.keys.pop(start)]
        for starts in (starts for chunks in self._open_panes.values() for starts in chunks.values()):
            for start in starts.keys() - needed:
                del starts[start]
        for key, (partition, chunk) in list(self.book_keys.items()):
            if chunk < self.sources[partition].folded_chunk:
                keys.append(key)
                del self.book_keys[key]
        return keys

    def books_state(self) -> BooksState:
        """What must be kept when the books of folded chunks are deleted from the log."""
        models: dict[str, ModelBooks] = {**self.models, **self.others}
        folded = {at: max(source.folded_chunk, source.booked_chunk) for at, source in self.sources.items()}
        totals = {name: model.folded_books for name, model in models.items()}
        unnamed = {name: dict(model.unnamed) for name, model in models.items() if model.unnamed}
        unnamed_ms = {name: dict(model.unnamed_ms) for name, model in models.items() if model.unnamed_ms}
        folded_ms = {at: source.folded_ms for at, source in self.sources.items() if source.folded_ms is not None}
        return BooksState(folded, totals, dict(self.lost), unnamed, unnamed_ms, folded_ms)

    def restore_books(self, state: BooksState) -> None:
        """Must come before the first `apply`."""
        for partition, chunk in state.folded.items():
            self.sources[partition] = Source(booked_chunk=chunk, folded_ms=state.folded_ms.get(partition))
        self.lost = dict(state.lost)
        for name, books in state.totals.items():
            self._model(name).folded_books = books
            self._model(name).unnamed = dict(state.unnamed.get(name, {}))
            self._model(name).unnamed_ms = dict(state.unnamed_ms.get(name, {}))
        for name in self.models.keys() - state.totals.keys():
            self.models[name].unnamed, self.models[name].unnamed_ms = dict(state.folded), dict(state.folded_ms)


def _is_other(model: ModelBooks, clock_ms: int, idle_after_ms: int, replay: Replay | None) -> bool:
    """Whether a partition that has never had a record of the model need not be expected to have any.

    In a replay, the topic itself may be still to come: then only when another partition has had some for a while.
    """
    return replay is None or (model.told_since_ms is not None and clock_ms - model.told_since_ms >= idle_after_ms)
