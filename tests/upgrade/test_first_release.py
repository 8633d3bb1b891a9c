"""What is written in the first format opens in release 0.1, whose layouts are written down here, and says all here."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.model_panes import BooksState
from streams.partial import Books, BooksPart, BooksPartial, Cell, PanePart, PanePartial, key_of, pack, unpack
from streams.rollup import Unit
from streams.seal import unseal
from streams.sketch.counts import Counts
from streams.sketch.profile import Profile
from streams.state import pack_state, pack_unit, unpack_state, unpack_unit

HOUR_MS = 3_600_000


class Books1(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    read: int = 0
    counted: int = 0
    late: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = {}


class BooksPart1(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    model: str
    books: Books1
    mark_ms: int | None
    seen_at_ms: int


class BooksPartial1(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag="books"):
    topic: str
    partition: int
    chunk: int
    end_offset: int
    bucket: int
    clock_ms: int
    complete: bool
    caught_up: bool
    final: bool
    models: list[BooksPart1]


class PanePartial1(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag="pane"):
    topic: str
    partition: int
    chunk: int
    end_offset: int
    bucket: int
    pane_ms: int
    models: list[PanePart]
    lap: int = 0


class BooksState1(msgspec.Struct):
    folded: dict[int, int] = {}
    totals: dict[str, Books1] = {}


class Unit1(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    model: str
    level_ms: int
    start_ms: int
    cells: list[Cell]
    stream: str = ""


NUMBERS = st.integers(0, 1 << 50)
BOOKS = st.builds(
    Books,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.dictionaries(st.text(max_size=9), NUMBERS.map(lambda n: n + 1)),
    NUMBERS,
)


def first(books: Books) -> Books1:
    """As that release shows them once they are added up: it drops reasons without a count."""
    return Books1(books.read, books.counted, books.late, books.duplicate, books.rejected)


def without_noughts(books: Books1) -> Books1:
    return msgspec.structs.replace(books, rejected={reason: n for reason, n in books.rejected.items() if n})


@given(BOOKS)
def test_books_open_there_and_are_whole_here(books: Books) -> None:
    partial = BooksPartial("t", 0, 1, 9, 0, 7, False, True, False, [BooksPart("m", books, 5, 6)])
    opened = msgspec.msgpack.decode(unseal(pack(partial)), type=BooksPartial1)
    assert without_noughts(opened.models[0].books) == first(books)
    assert unpack(pack(partial)) == partial
    assert key_of(unpack(pack(partial)), "w") == key_of(partial, "w")
    state = BooksState({0: 1}, {"m": books}, {})
    there = msgspec.json.decode(pack_state(state), type=BooksState1)
    assert without_noughts(there.totals["m"]) == first(books)
    assert unpack_state(pack_state(state), BooksState) == state


@pytest.mark.parametrize("reason", ["ahead=", "ahead=x", "ahead=-1", "ahead=01", "ahead=" + "9" * 40, "ahead=7"])
def test_a_reason_that_only_looks_like_it_stays_one(reason: str) -> None:
    rejected = {reason: 2, "json": 1}
    books = msgspec.msgpack.decode(msgspec.msgpack.encode([3, 0, 0, 0, rejected]), type=Books)
    assert (books.rejected, books.ahead) == (rejected, 0)


def test_a_part_of_a_pane_opens_there() -> None:
    part = PanePart("m", "layout", [], [Cell("", "\0made", "print", b"profile")])
    partial = PanePartial("t", 0, 1, 9, 0, 60_000, [part], 2)
    opened = msgspec.msgpack.decode(unseal(pack(partial)), type=PanePartial1)
    assert (opened.models, opened.lap) == ([part], 2)


@pytest.mark.parametrize("keys", [[], [("1", "", "")], [("1", "", ""), ("2", "region", "south")]])
@pytest.mark.parametrize("made", ["", "0f3a"])
def test_a_roll_up_opens_there_with_the_same_cells(keys: list[tuple[str, str, str]], made: str) -> None:
    def profile(n: int) -> Profile:
        return Profile(Counts.of(np.full(4, n, np.int64)))

    unit = Unit(HOUR_MS, 2 * HOUR_MS, {key: profile(n + 1) for n, key in enumerate(keys)}, "feedback", made)
    packed = pack_unit("m", unit)
    there = msgspec.msgpack.decode(unseal(packed), type=Unit1)
    cells: dict[Any, bytes] = {cell.key: Profile.from_bytes(cell.profile).to_bytes() for cell in there.cells}
    assert cells == {key: profile.to_bytes() for key, profile in unit.cells.items()}
    name, here = unpack_unit(packed)
    assert (name, here.id, here.made) == ("m", unit.id, made if keys else "")
    assert list(here.cells) == keys
    assert pack_unit(name, here) == packed
