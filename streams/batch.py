"""Rows → Columns: for every column of every row the slot that it counts in, whole batches at a time."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import NoneType
from typing import Any

import msgspec
import numpy as np
from msgspec import UnsetType
from msgspec.structs import astuple
from numpy.typing import NDArray

from streams.decode import (
    ABSENT_NUMBER,
    ABSENT_PAYLOAD,
    NULL_PAYLOAD,
    WRONG,
    WRONG_NUMBER,
    WRONG_PAYLOAD,
    Rows,
    text_of,
)
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

Index = NDArray[np.int64]

_CLASS_OF_PAYLOAD = np.array([NULL, ABSENT, WRONG_CLASS, WRONG_CLASS])
_TYPES: Mapping[Kind, set[type]] = {
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
    ts_ms: Index
    versions: list[str]
    segments: list[Index]
    """Per declared dimension: the position of the row's value, or the number of values for any other."""
    slots: NDArray[np.int64]
    """(columns + 1, n): the outcome's slot, then each column's."""
    unseen: dict[int, list[tuple[int, str]]]
    """Per categorical column: (row, text) of values outside its categories."""
    numbers: dict[int, NDArray[np.float64]]
    """Per numeric column without edges: the values, NaN where there is none."""
    extras: list[tuple[int, str]]

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Batches of one layout, one after the other; there is at least one."""
        if len(parts) == 1:
            return parts[0]
        first = [0, *accumulate(part.n for part in parts)]
        unseen: dict[int, list[tuple[int, str]]] = {}
        for start, part in zip(first, parts, strict=False):
            for column, pairs in part.unseen.items():
                unseen.setdefault(column, []).extend((row + start, text) for row, text in pairs)
        return cls(
            n=first[-1],
            ts_ms=np.concatenate([part.ts_ms for part in parts]),
            versions=[version for part in parts for version in part.versions],
            segments=[np.concatenate(codes) for codes in zip(*(part.segments for part in parts), strict=True)],
            slots=np.concatenate([part.slots for part in parts], axis=1),
            unseen=unseen,
            numbers={column: np.concatenate([part.numbers[column] for part in parts]) for column in parts[0].numbers},
            extras=[
                (row + start, name) for start, part in zip(first, parts, strict=False) for row, name in part.extras
            ],
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
    """Makes Columns of a model's rows, by its layout."""

    def __init__(self, layout: Layout, segments: Mapping[str, Sequence[str]]) -> None:
        self.layout = layout
        self._features = layout.indices(Role.FEATURE)
        self._scores = layout.indices(Role.SCORE)
        self._latencies = layout.indices(Role.LATENCY)
        self._predictions = layout.indices(Role.PREDICTION)
        self._edges = {i: np.array(c.edges) for i, c in enumerate(layout.columns) if c.kind is Kind.NUMERIC}
        self._codes = {i: _Codes(c) for i, c in enumerate(layout.columns) if c.kind is not Kind.NUMERIC}
        self._segments = [_Positions(values) for values in segments.values()]
        none = msgspec.defstruct("NoSegments", [(f"s{at}", str | None, None) for at in range(len(segments))])
        self._no_segments = none()

    def columns(self, rows: Rows) -> Columns:
        """Rows of one model. A thousand at a time is best: their objects stay in the processor's cache."""
        events, layout = rows.rows, self.layout
        n = len(events)
        fields = _transposed(events)
        batch = Columns(
            n=n,
            ts_ms=rows.times_ms,
            versions=list(fields["model_version"]),
            segments=self._segment_codes(fields["segments"]),
            slots=np.empty((len(layout.columns) + 1, n), np.int64),
            unseen={},
            numbers={},
            extras=rows.extras,
        )
        batch.slots[0] = OK_SLOT
        if fields["error"].count(None) < n:
            batch.slots[0, [error is not None for error in fields["error"]]] = ERROR_SLOT
        numbers: dict[int, NDArray[np.float64]] = {}
        for i, values in zip(self._features, _transposed(fields["features"]).values(), strict=False):
            if layout.columns[i].kind is Kind.NUMERIC:
                numbers[i] = _floats(values)
            else:
                self._text(batch, i, values)
        for i in self._scores:
            numbers[i] = _scores(fields["score"], layout.columns[i].name)
        for i in self._latencies:
            numbers[i] = _floats(fields["latency_ms"])
        for i in self._predictions:
            if layout.columns[i].kind is Kind.NUMERIC:
                given = fields["prediction"]
                numbers[i] = _floats([v if v.__class__ in (int, float, NoneType) else WRONG_NUMBER for v in given])
            else:
                self._prediction(batch, i, fields["prediction"])
        self._numeric(batch, numbers)
        return batch

    def _segment_codes(self, found: Sequence[Any]) -> list[Index]:
        if not self._segments:
            return []
        values = _transposed([self._no_segments if item is None else item for item in found]).values()
        return [
            np.fromiter(map(positions.__getitem__, column), np.int64, len(column))
            for positions, column in zip(self._segments, values, strict=False)
        ]

    def _numeric(self, batch: Columns, numbers: Mapping[int, NDArray[np.float64]]) -> None:
        """All numeric columns, by their edges."""
        starts, places = self.layout.starts, list(numbers)
        for column, values in numbers.items():
            edges = self._edges[column]
            np.add(edges.searchsorted(values, "right"), starts[column] + BINS, out=batch.slots[column + 1])
            if not len(edges):
                batch.numbers[column] = values + 0.0  # −0 becomes 0
        missing = np.isnan(list(numbers.values()))
        for at in np.flatnonzero(missing.any(axis=1)).tolist() if places else ():
            column, where = places[at], missing[at]
            payload = numbers[column][where].view(np.int64) & 3
            batch.slots[column + 1, where] = starts[column] + _CLASS_OF_PAYLOAD[payload]

    def _text(self, batch: Columns, column: int, values: Sequence[Any]) -> None:
        codes = self._codes[column]
        place = np.fromiter(map(codes.__getitem__, values), np.int64, batch.n)
        unseen = np.flatnonzero(place == codes.unseen)
        if len(unseen):
            batch.unseen[column] = [(row, text_of(values[row])) for row in unseen.tolist()]
        batch.slots[column + 1] = place + self.layout.starts[column]

    def _prediction(self, batch: Columns, column: int, values: Sequence[Any]) -> None:
        # msgspec reads 1 as 1.0 where a float may stand, so a code is a float without a fraction here; and to a
        # mapping 1, 1.0 and true are one key.
        kind = self.layout.columns[column].kind
        if not (set(map(type, values)) <= _TYPES[kind] and set(values) <= self._codes[column].keys()):
            values = [_as(kind, value) for value in values]
        self._text(batch, column, values)


def _as(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.CODE:
        whole = value.__class__ in (int, float) and value == value // 1
        return int(value) if whole else WRONG
    return value if value.__class__ in _TYPES[kind] else WRONG


def _scores(scores: Sequence[Any], name: str) -> NDArray[np.float64]:
    if name == SCORE:
        classes = set(map(type, scores))
        return _floats([WRONG_NUMBER if s.__class__ is dict else s for s in scores] if dict in classes else scores)
    key = name[len(SCORE) + 1 :]
    return _floats([s.get(key, ABSENT_NUMBER) if s.__class__ is dict else _missing(s) for s in scores])


def _missing(score: Any) -> float | None:
    return None if score is None else WRONG_NUMBER


def _transposed(structs: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """Fields of at least one struct, all of one class: name → values."""
    return dict(zip(structs[0].__struct_fields__, zip(*map(astuple, structs), strict=True), strict=True))


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    """As an array, None as NaN; numpy's own way is four times as slow."""
    try:
        return np.frombuffer(struct.pack(f"{len(values)}d", *values))
    except struct.error:
        return np.array(values, float)
