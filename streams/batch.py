"""Rows → Columns: for every column of every row the slot that it counts in, whole batches at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import NoneType, SimpleNamespace
from typing import Any

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

BLOCK_ROWS = 512
"""Rows become columns so many at a time: transposed at once, they would not stay in the processor's cache."""

_CLASS_OF_PAYLOAD = np.array([NULL, ABSENT, WRONG_CLASS, WRONG_CLASS])
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
        features = layout.indices(Role.FEATURE)
        self.numeric = [i for i in features if layout.columns[i].kind is Kind.NUMERIC]
        self.texts = [i for i in features if layout.columns[i].kind is not Kind.NUMERIC]
        self._field = {column: at for at, column in enumerate(features)}
        self._edges = {i: np.array(c.edges) for i, c in enumerate(layout.columns) if c.kind is Kind.NUMERIC}
        self._codes = {i: _Codes(c) for i, c in enumerate(layout.columns) if c.kind is not Kind.NUMERIC}
        self._segments = [(attrgetter(f"s{at}"), _Positions(values)) for at, values in enumerate(segments.values())]
        self._no_segments = SimpleNamespace(**{f"s{at}": None for at in range(len(segments))})

    def columns(self, rows: Rows) -> Columns:
        events, layout = rows.rows, self.layout
        n = len(events)
        batch = Columns(
            n=n,
            ts_ms=np.array(rows.times_ms, np.int64),
            versions=[event.model_version for event in events],
            segments=self._segment_codes(events),
            slots=np.empty((len(layout.columns) + 1, n), np.int64),
            unseen={},
            numbers={},
            extras=rows.extras,
        )
        failed = np.fromiter([event.error is not None for event in events], bool, n)
        batch.slots[0] = np.where(failed, ERROR_SLOT, OK_SLOT)
        self._features(batch, events)
        for i in layout.indices(Role.SCORE):
            self._numeric(batch, i, _scores(events, layout.columns[i].name))
        for i in layout.indices(Role.LATENCY):
            self._numeric(batch, i, np.array([event.latency_ms for event in events], float))
        for i in layout.indices(Role.PREDICTION):
            self._prediction(batch, i, [event.prediction for event in events])
        return batch

    def _segment_codes(self, events: Sequence[Any]) -> list[Index]:
        found = [event.segments or self._no_segments for event in events]
        return [
            np.fromiter(map(positions.__getitem__, map(get, found)), np.int64, len(found))
            for get, positions in self._segments
        ]

    def _features(self, batch: Columns, events: Sequence[Any]) -> None:
        numbers: list[NDArray[np.float64]] = []
        texts: list[list[Any]] = [[] for _ in self.texts]
        for first in range(0, batch.n, BLOCK_ROWS):
            block = [astuple(event.features) for event in events[first : first + BLOCK_ROWS]]
            # One row may have more fields than another: those that the decoder learned, which stand last.
            columns = list(zip(*block, strict=False))
            if self.numeric:
                numbers.append(np.array([columns[self._field[i]] for i in self.numeric], float))
            for values, i in zip(texts, self.texts, strict=True):
                values += columns[self._field[i]]
        if self.numeric:
            for i, column in zip(self.numeric, np.concatenate(numbers, axis=1), strict=True):
                self._numeric(batch, i, column)
        for i, values in zip(self.texts, texts, strict=True):
            self._text(batch, i, values)

    def _numeric(self, batch: Columns, column: int, values: NDArray[np.float64]) -> None:
        edges = self._edges[column]
        place = edges.searchsorted(values, "right") + BINS
        missing = np.isnan(values)
        if missing.any():
            payload = values[missing].view(np.int64) & 3
            place[missing] = _CLASS_OF_PAYLOAD[payload]
        if not len(edges):
            batch.numbers[column] = values + 0.0  # −0 becomes 0
        batch.slots[column + 1] = place + self.layout.starts[column]

    def _text(self, batch: Columns, column: int, values: Sequence[Any]) -> None:
        codes = self._codes[column]
        place = np.fromiter(map(codes.__getitem__, values), np.int64, batch.n)
        unseen = np.flatnonzero(place == codes.unseen)
        if len(unseen):
            batch.unseen[column] = [(row, text_of(values[row])) for row in unseen.tolist()]
        batch.slots[column + 1] = place + self.layout.starts[column]

    def _prediction(self, batch: Columns, column: int, values: list[Any]) -> None:
        kind = self.layout.columns[column].kind
        if kind is Kind.NUMERIC:
            numbers = [value if value.__class__ in (int, float, NoneType) else WRONG_NUMBER for value in values]
            self._numeric(batch, column, np.array(numbers, float))
            return
        # msgspec reads 1 as 1.0 where a float may stand, so a code is a float without a fraction here.
        classes = set(map(type, values))
        if bool in classes and classes & {int, float}:  # true and 1 are one key
            self._text(batch, column, [_as(kind, value) for value in values])
            return
        known = {value: _as(kind, value) for value in set(values)}
        self._text(batch, column, [known[value] for value in values])


def _as(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.CODE:
        whole = value.__class__ in (int, float) and value == value // 1
        return int(value) if whole else WRONG
    return value if value.__class__ is (bool if kind is Kind.BOOLEAN else str) else WRONG


def _scores(events: Sequence[Any], name: str) -> NDArray[np.float64]:
    scores = [event.score for event in events]
    if name == SCORE:
        return np.array([s if s.__class__ is not dict else WRONG_NUMBER for s in scores], float)
    key = name[len(SCORE) + 1 :]
    return np.array([s.get(key, ABSENT_NUMBER) if s.__class__ is dict else _missing(s) for s in scores], float)


def _missing(score: Any) -> float | None:
    return None if score is None else WRONG_NUMBER
