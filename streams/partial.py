"""Partials ↔ bytes: what stage 1 writes to the `partials` log and stage 2 folds.

Two kinds of record, each cumulative from its chunk's start and replaced by the one with the highest end offset:
`PanePartial`, the sketches of one chunk, pane and bucket of models; and `BooksPartial`, the chunk's books and marks for
a bucket. The join's two, `OutcomePartial` and `LabelBooksPartial`, are cumulative over all that it has covered.

Bytes are sealed: `streams/seal.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from streams.errors import UNREADABLE, SketchError
from streams.events import MAX_TIME_MS, MIN_TIME_MS
from streams.seal import CONTINUED, seal, unseal

Natural = Annotated[int, Meta(ge=0, le=1 << 62)]
"""Offsets, chunks and counts."""
Place = Annotated[int, Meta(ge=0, lt=1 << 20)]
"""Partitions and buckets."""
Start = Annotated[int, Meta(ge=MIN_TIME_MS - (1 << 40), le=MAX_TIME_MS)]
"""Where a pane or a roll-up begins; of the earliest event's, that is before the event."""
Mark = Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]
"""Marks and clocks, with those that stand for none and for the end."""
Covered = tuple[Natural, Natural]
"""Next offsets of inference and of labels. Of what the join publishes the greater one stands, compared in this order: a
join that begins anew may have read more labels than the one before, and fewer of the predictions that the marks of the
events speak of."""
CellKey = tuple[str, str, str]
"""Version, segment dimension, segment value; the last two are empty for the whole."""


class Cell(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """One cell's packed profile."""

    version: str
    dimension: str
    value: str
    profile: bytes

    @property
    def key(self) -> CellKey:
        return self.version, self.dimension, self.value


class PanePart(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """A model's share of a pane: on-time cells, and late, admitted cells."""

    model: str
    layout: str
    on_time: list[Cell]
    welcome: list[Cell]


class PanePartial(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True, tag="pane"):
    """`lap`: how many epochs of this pane of the chunk stage 1 has evicted before. A later epoch is of other models.

    `start_offset`: where counting began, if not at the chunk's start; parts of a chunk that begin at different offsets
    add up.
    """

    topic: str
    partition: Place
    chunk: Natural
    end_offset: Natural
    bucket: Place
    pane_ms: Start
    models: list[PanePart]
    lap: Natural = 0
    start_offset: Natural = 0


def _both(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    return dict(Counter(left) + Counter(right)) if left or right else {}


class Books(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """read = counted + late + rejected + duplicate, of one model in one chunk."""

    read: Natural = 0
    counted: Natural = 0
    late: Natural = 0
    duplicate: Natural = 0
    rejected: dict[str, Natural] = {}
    ahead: Natural = 0
    """Of the read ones those that were ahead of stream time, and turned out not to be the rule. On a topic it is a
    reason's name with the count nought, for release 0.1 reads no sixth field."""

    def __post_init__(self) -> None:
        """Takes `ahead` from where `first_books` put it."""
        if any(reason.startswith(_AHEAD) for reason in self.rejected):
            carried = {reason for reason, n in self.rejected.items() if n == 0 and _AHEAD_COUNT.fullmatch(reason)}
            self.ahead += sum(int(reason[len(_AHEAD) :]) for reason in carried)
            self.rejected = {reason: n for reason, n in self.rejected.items() if reason not in carried}

    def balanced(self) -> bool:
        return self.read == self.counted + self.late + self.duplicate + sum(self.rejected.values())

    def merged(self, other: Books) -> Books:
        return Books(
            self.read + other.read,
            self.counted + other.counted,
            self.late + other.late,
            self.duplicate + other.duplicate,
            _both(self.rejected, other.rejected),
            self.ahead + other.ahead,
        )


def sum_of(books: Iterable[Books]) -> Books:
    """The sum: as `merged` over all, without an object for each step."""
    read = counted = late = duplicate = ahead = 0
    rejected: Counter[str] = Counter()
    for each in books:
        read, counted, late = read + each.read, counted + each.counted, late + each.late
        duplicate, ahead = duplicate + each.duplicate, ahead + each.ahead
        if each.rejected:
            rejected.update(each.rejected)
    return Books(read, counted, late, duplicate, dict(+rejected), ahead)


_AHEAD, _AHEAD_COUNT = "ahead=", re.compile(r"ahead=[1-9][0-9]{0,17}")


class _Books1(msgspec.Struct, array_like=True, gc=False):
    read: int
    counted: int
    late: int
    duplicate: int
    rejected: dict[str, int]


def first_books(books: Books) -> _Books1:
    """The books as every release reads them: equal to `books` once they are decoded."""
    rejected = books.rejected if not books.ahead else {**books.rejected, f"{_AHEAD}{books.ahead}": 0}
    return _Books1(books.read, books.counted, books.late, books.duplicate, rejected)


class BooksPart(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """A model's books in a chunk, its mark, and stage 1's clock when it last saw the model there."""

    model: str
    books: Books
    mark_ms: Mark | None
    seen_at_ms: Mark


class BooksPartial(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True, tag="books"):
    """`complete`: the chunk is full. `caught_up`: nothing was left to read at `clock_ms`. `final`: the stream ended.

    Without models it is a heartbeat: what was published of the models stands.

    `start_offset`: as of a PanePartial. `lost`: how many records of the partition, of whichever models, were gone
    before they could be counted, over all its chunks; in the bucket of no model alone.
    """

    topic: str
    partition: Place
    chunk: Natural
    end_offset: Natural
    bucket: Place
    clock_ms: Mark
    complete: bool
    caught_up: bool
    final: bool
    models: list[BooksPart]
    start_offset: Natural = 0
    lost: Natural = 0


class OutcomePartial(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True, tag="outcome"):
    """Outcomes of one cohort or arrival pane and bucket, cumulative over all that the join has covered.

    `covered`: the next offsets of inference and of labels. Of a cohort both lists of cells are what stands; of an
    arrival pane the on-time cells are what is evaluated, the others what stands.
    """

    topic: str
    partition: Place
    cohort: bool
    covered: Covered
    bucket: Place
    pane_ms: Start
    models: list[PanePart]


class LabelBooks(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """read = matched + pending + duplicate + orphan + rejected, of one model. Corrections are among the matched."""

    read: int = 0
    matched: int = 0
    pending: int = 0
    duplicate: int = 0
    orphan: int = 0
    corrected: int = 0
    rejected: dict[str, int] = {}

    def balanced(self) -> bool:
        return self.read == self.matched + self.pending + self.duplicate + self.orphan + sum(self.rejected.values())

    def reject(self, reason: str) -> None:
        self.read += 1
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def forget_pending(self) -> None:
        """A label that waited is read once more, by the model whose prediction it met."""
        self.read -= 1
        self.pending -= 1

    def merged(self, other: LabelBooks) -> LabelBooks:
        return LabelBooks(
            self.read + other.read,
            self.matched + other.matched,
            self.pending + other.pending,
            self.duplicate + other.duplicate,
            self.orphan + other.orphan,
            self.corrected + other.corrected,
            _both(self.rejected, other.rejected),
        )


class LabelBooksPart(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """A model's label books, and the mark of its predictions that are covered."""

    model: str
    books: LabelBooks
    mark_ms: Mark | None


class LabelBooksPartial(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True, tag="labels"):
    """Label books of a bucket. `mark_ms`: the highest label time; `seen_at_ms`: stage 1's clock when a label came."""

    topic: str
    partition: Place
    covered: Covered
    bucket: Place
    clock_ms: Mark
    seen_at_ms: Mark
    mark_ms: Mark | None
    caught_up: bool
    final: bool
    models: list[LabelBooksPart]


Partial = PanePartial | BooksPartial | OutcomePartial | LabelBooksPartial
_DECODER = msgspec.msgpack.Decoder(Partial)


def key_of(partial: Partial, incarnation: str) -> bytes:
    """The key of a partial's record: its identity, then the writer's incarnation.

    Compaction keeps the latest record of a key, not the one with the highest end offset. With the incarnation in the
    key, a zombie that writes an older state of a chunk after its successor cannot make compaction drop the newer one.
    """
    if isinstance(partial, PanePartial):
        place = f"{_chunk_of(partial)}/{partial.pane_ms}.{partial.lap}"
    elif isinstance(partial, BooksPartial):
        place = f"{_chunk_of(partial)}/{_books_kind(partial)}"
    elif isinstance(partial, OutcomePartial):
        place = f"{'cohort' if partial.cohort else 'arrival'}/{partial.pane_ms}"
    else:
        place = "books" if partial.models else "beat"
    return f"{partial.topic}/{partial.partition}/{place}/{partial.bucket}/{incarnation}".encode()


def _books_kind(partial: BooksPartial) -> str:
    """Records that say nothing of declared models do not replace those that do."""
    if not partial.models:
        return "beat"
    return "rest" if len(partial.models) == 1 and not partial.models[0].model else "books"


def _chunk_of(partial: PanePartial | BooksPartial) -> str:
    return f"{partial.chunk}@{partial.start_offset}" if partial.start_offset else str(partial.chunk)


def pack(partial: Partial, key: bytes = b"") -> bytes:
    """Sealed bytes: in the first format, byte for byte, unless the partial says more than that can hold.

    `key`: of the record, which formats from `KEYED` on are sealed with.
    """
    if isinstance(partial, PanePartial) and not partial.start_offset:
        return seal(msgspec.msgpack.encode(_first_format(_PanePartial1, partial)), key=key)
    if isinstance(partial, BooksPartial) and not partial.start_offset and not partial.lost:
        found = _first_format(_BooksPartial1, partial)
        found.models = [_BooksPart1(p.model, first_books(p.books), p.mark_ms, p.seen_at_ms) for p in partial.models]
        return seal(msgspec.msgpack.encode(found), key=key)
    plain = not isinstance(partial, PanePartial | BooksPartial)
    return seal(msgspec.msgpack.encode(partial), 0 if plain else CONTINUED, key)


class _PanePartial1(msgspec.Struct, array_like=True, tag="pane"):
    topic: str
    partition: int
    chunk: int
    end_offset: int
    bucket: int
    pane_ms: int
    models: list[PanePart]
    lap: int


class _BooksPart1(msgspec.Struct, array_like=True):
    model: str
    books: _Books1
    mark_ms: int | None
    seen_at_ms: int


class _BooksPartial1(msgspec.Struct, array_like=True, tag="books"):
    topic: str
    partition: int
    chunk: int
    end_offset: int
    bucket: int
    clock_ms: int
    complete: bool
    caught_up: bool
    final: bool
    models: list[BooksPart] | list[_BooksPart1]


_First = TypeVar("_First", _PanePartial1, _BooksPartial1)


def _first_format(kind: type[_First], partial: Partial) -> _First:
    return kind(*(getattr(partial, name) for name in kind.__struct_fields__))


def unpack(data: bytes, key: bytes = b"") -> Partial:
    """Raises SketchError for anything that `pack` did not write, NewerError for what a later release wrote."""
    try:
        partial: Partial = _DECODER.decode(unseal(data, key))
    except UNREADABLE as error:
        raise SketchError(seen=f"a partial that does not open ({error})", expected="a packed partial") from None
    return partial


def largest_models(partial: Partial, most: int = 3) -> str:
    """The names of the models that take most of the bytes of a partial, the largest first."""
    sizes = sorted(((len(msgspec.msgpack.encode(part)), part.model) for part in partial.models), reverse=True)
    return ", ".join(f"model {name}: {size} bytes" for size, name in sizes[:most])
