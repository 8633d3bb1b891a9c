"""Rows → Columns: for every column of every row the slot in which it counts, whole batches at a time."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from types import NoneType
from typing import Any

import numpy as np
from msgspec import UnsetType
from msgspec.structs import astuple
from numpy.typing import NDArray

from streams.arrays import Floats, Ints
from streams.decode import (
    ABSENT_NUMBER,
    ABSENT_PAYLOAD,
    NULL_PAYLOAD,
    WRONG,
    WRONG_NUMBER,
    WRONG_PAYLOAD,
    Rows,
)
from streams.fields import text_of
from streams.sketch.layout import (
    ABSENT,
    BINS,
    ERROR_SLOT,
    NULL,
    OK_SLOT,
    SCORE,
    Column,
    Kind,
    Layout,
    Role,
)
from streams.sketch.layout import WRONG as WRONG_CLASS

_FEW_EDGES, _MANY_VALUES = 64, 1_024
"""Up to so many edges, and from so many values on, a comparison with every edge is faster than a binary search."""
_MOST_BYTE = 255
_CLASS_OF_PAYLOAD = np.array([NULL, ABSENT, WRONG_CLASS, WRONG_CLASS])
_TYPES: Mapping[Kind, set[type]] = {
    Kind.NUMERIC: {int, float, NoneType},
    Kind.CATEGORICAL: {str, NoneType},
    Kind.BOOLEAN: {bool, NoneType},
    Kind.CODE: {int, float, NoneType},
}
"""What a prediction of this kind may be."""
assert (NULL_PAYLOAD, ABSENT_PAYLOAD, WRONG_PAYLOAD) == (0, 1, 2)


@dataclass(slots=True)
class Columns:
    """A batch of one model as arrays over its `n` rows, in record order."""

    n: int
    ts_ms: Ints
    versions: list[str]
    segments: list[Ints]
    """Per declared dimension: the position of the row's value, or the number of values for any other."""
    slots: Ints
    """(columns + 1, n): the outcome's slot, then each column's."""
    unseen: dict[int, list[tuple[int, str]]]
    """Per categorical column: (row, text) of values outside its categories."""
    numbers: dict[int, Floats]
    """Per numeric column without edges: the values, NaN where there is none."""
    extras: list[tuple[int, str]]


@dataclass(slots=True)
class Parts:
    """Rows split into the parts that several readers need."""

    rows: Rows
    fields: dict[str, tuple[Any, ...]]
    """By the name in `decode.Row` the values."""
    segments: list[Ints]
    """Per declared dimension: the position of the row's value, or the number of values for any other."""


@dataclass(slots=True)
class Gathered:
    """Columns of rows, collected block by block until they become `Columns`; so the rows themselves can be freed."""

    n: int = 0
    ts_ms: list[Ints] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    segments: list[list[Ints]] = field(default_factory=list)
    places: dict[int, list[Ints]] = field(default_factory=dict)
    """Per column of categories: the slots in its block."""
    floats: dict[int, bytearray] = field(default_factory=dict)
    """Per numeric column: the values, eight bytes each."""
    unseen: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    extras: list[tuple[int, str]] = field(default_factory=list)

    def head(self, n: int) -> Gathered:
        """The first `n` rows, even if an exception left the last rows incomplete."""
        if not n:
            return Gathered()
        return Gathered(
            n,
            [np.concatenate(self.ts_ms)[:n]],
            self.versions[:n],
            [row for row in self.failed if row < n],
            [[np.concatenate(parts)[:n]] for parts in self.segments],
            {column: [np.concatenate(parts)[:n]] for column, parts in self.places.items()},
            {column: packed[: 8 * n] for column, packed in self.floats.items()},
            {column: [pair for pair in pairs if pair[0] < n] for column, pairs in self.unseen.items()},
            [pair for pair in self.extras if pair[0] < n],
        )


class _Codes(dict[Any, int]):
    """Value → slot in the column's block; a value that is no category gets the last bin."""

    def __init__(self, column: Column) -> None:
        keys = [_key(column.kind, category) for category in column.categories]
        super().__init__({key: BINS + i for i, key in enumerate(keys)})
        self.update({None: NULL, WRONG: WRONG_CLASS})
        self.unseen = BINS + len(keys)

    def __missing__(self, value: Any) -> int:
        return self.unseen if value.__class__ is not UnsetType else ABSENT


class _Positions(dict[Any, int]):
    """Value of a segment → its position; any other value gets the one after the last."""

    def __init__(self, values: Sequence[str]) -> None:
        super().__init__({value: i for i, value in enumerate(values)})
        self.other = len(values)

    def __missing__(self, value: Any) -> int:
        return self.other


def _key(kind: Kind, category: str) -> Any:
    if kind is Kind.BOOLEAN:
        return category == "true"
    return int(category) if kind is Kind.CODE else category


class Columnizer:
    """Turns rows of one model into Columns, by the model's layout."""

    def __init__(self, layout: Layout, segments: Mapping[str, Sequence[str]]) -> None:
        self.layout = layout
        self._features = layout.indices(Role.FEATURE)
        self._scores = layout.indices(Role.SCORE)
        self._latencies = layout.indices(Role.LATENCY)
        self._predictions = layout.indices(Role.PREDICTION)
        self._edges = {i: np.array(c.edges) for i, c in enumerate(layout.columns) if c.kind is Kind.NUMERIC}
        self._codes = {i: _Codes(c) for i, c in enumerate(layout.columns) if c.kind is not Kind.NUMERIC}
        self._segments = [_Positions(values) for values in segments.values()]
        self._segment_of = [attrgetter(f"s{i}") for i in range(len(segments))]

    def parts(self, rows: Rows) -> Parts:
        """Splits rows into parts. Blocks of a few hundred rows are fastest: they stay in the processor's cache."""
        fields = _transposed(rows.rows)
        return Parts(rows, fields, self._segments_of(fields["segments"]))

    def gather(self, parts: Parts, into: Gathered) -> None:
        """Takes what is counted of rows."""
        fields, first, n = parts.fields, into.n, len(parts.rows.rows)
        into.n += n
        into.ts_ms.append(parts.rows.times_ms)
        into.versions += fields["model_version"]
        into.extras += [(first + at, name) for at, name in parts.rows.extras]
        if fields["error"].count(None) < n:
            into.failed += [first + at for at, error in enumerate(fields["error"]) if error is not None]
        into.segments = into.segments or [[] for _ in parts.segments]
        for gathered, positions in zip(into.segments, parts.segments, strict=True):
            gathered.append(positions)
        for i, values in zip(self._features, _transposed(fields["features"]).values(), strict=False):
            if self.layout.columns[i].kind is Kind.NUMERIC:
                _add_floats(into, i, values)
            else:
                self._gather_texts(i, values, into)
        for i in self._scores:
            _add_floats(into, i, _scores(fields["score"], self.layout.columns[i].name))
        for i in self._latencies:
            _add_floats(into, i, fields["latency_ms"])
        for i in self._predictions:
            self._gather_predictions(i, fields["prediction"], into)

    def columns(self, gathered: Gathered) -> Columns:
        n, starts = gathered.n, self.layout.starts
        slots = np.empty((len(starts) + 1, n), np.int64)
        slots[0] = OK_SLOT
        slots[0, gathered.failed] = ERROR_SLOT
        for column, parts in gathered.places.items():
            np.add(np.concatenate(parts), starts[column], out=slots[column + 1])
        numbers = {}
        for column, packed in gathered.floats.items():
            values, edges = np.frombuffer(packed), self._edges[column]
            np.add(bins_of(values, edges), starts[column] + BINS, out=slots[column + 1], dtype=np.int64)
            missing = np.isnan(values)
            if missing.any():
                payload = values[missing].view(np.int64) & 3
                slots[column + 1, missing] = starts[column] + _CLASS_OF_PAYLOAD[payload]
            if not len(edges):
                numbers[column] = values + 0.0  # −0 becomes 0
        return Columns(
            n=n,
            ts_ms=np.concatenate(gathered.ts_ms),
            versions=gathered.versions,
            segments=[np.concatenate(parts) for parts in gathered.segments],
            slots=slots,
            unseen=gathered.unseen,
            numbers=numbers,
            extras=gathered.extras,
        )

    def _segments_of(self, found: Sequence[Any]) -> list[Ints]:
        places = []
        for get, positions in zip(self._segment_of, self._segments, strict=True):
            try:
                values = list(map(get, found))
            except AttributeError:
                values = [None if item is None else get(item) for item in found]
            places.append(_looked_up(positions, positions.other, values))
        return places

    def _gather_texts(self, column: int, values: Sequence[Any], into: Gathered) -> None:
        codes = self._codes[column]
        places = _looked_up(codes, codes.unseen, values)
        into.places.setdefault(column, []).append(places)
        unseen = np.flatnonzero(places == codes.unseen)
        if len(unseen):
            first = into.n - len(values)
            into.unseen.setdefault(column, []).extend((first + row, text_of(values[row])) for row in unseen.tolist())

    def _gather_predictions(self, column: int, values: Sequence[Any], into: Gathered) -> None:
        kind = self.layout.columns[column].kind
        if kind is Kind.NUMERIC:
            _add_floats(into, column, [v if v.__class__ in _TYPES[kind] else WRONG_NUMBER for v in values])
            return
        # msgspec reads 1 as 1.0 where a float may stand, so a code is a float without a fraction here; and to a
        # mapping 1, 1.0 and true are one key.
        if not (set(map(type, values)) <= _TYPES[kind] and set(values) <= self._codes[column].keys()):
            values = [_as(kind, value) for value in values]
        self._gather_texts(column, values, into)


def _looked_up(numbers: Mapping[Any, int], highest: int, values: Sequence[Any]) -> Ints:
    """(n,) the number of each value; as bytes, where they fit, they come faster than by numpy's own iteration."""
    found = map(numbers.__getitem__, values)
    if highest > _MOST_BYTE:
        return np.fromiter(found, np.int64, len(values))
    return np.frombuffer(bytes(found), np.uint8).astype(np.int64)


def bins_of(values: Floats, edges: Floats) -> NDArray[Any]:
    """(n,) how many of the rising edges are no greater than each value; of a NaN it is any number.

    >>> bins_of(np.array([0.5, 1.0, 7.0]), np.array([1.0, 2.0]))
    array([0, 1, 2])
    """
    if len(edges) > _FEW_EDGES or len(values) < _MANY_VALUES:
        return edges.searchsorted(values, "right")
    # A binary search mispredicts a branch at every turn; comparing with all edges, a whole column at a time, has none.
    bins, reached = np.zeros(len(values), np.uint8), np.empty(len(values), bool)
    for edge in edges.tolist():
        np.greater_equal(values, edge, out=reached)
        np.add(bins, reached.view(np.uint8), out=bins)
    return bins


def _as(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.CODE:
        whole = value.__class__ in (int, float) and value == value // 1
        return int(value) if whole else WRONG
    return value if value.__class__ in _TYPES[kind] else WRONG


def _scores(scores: Sequence[Any], name: str) -> Sequence[Any]:
    if name == SCORE:
        classes = set(map(type, scores))
        return [WRONG_NUMBER if s.__class__ is dict else s for s in scores] if dict in classes else scores
    key = name[len(SCORE) + 1 :]
    return [s.get(key, ABSENT_NUMBER) if s.__class__ is dict else _missing(s) for s in scores]


def _missing(score: Any) -> float | None:
    return None if score is None else WRONG_NUMBER


def _transposed(structs: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """Fields of at least one struct, all of one class: name → values."""
    return dict(zip(structs[0].__struct_fields__, zip(*map(astuple, structs), strict=True), strict=True))


@cache
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f"{count}d")


def _add_floats(into: Gathered, column: int, values: Sequence[Any]) -> None:
    """None as NaN. Packing is four times as fast as numpy's conversion, which is for the columns that have a None."""
    try:
        packed = _doubles(len(values)).pack(*values)
    except struct.error:
        packed = np.array(values, float).tobytes()
    into.floats.setdefault(column, bytearray()).extend(packed)
