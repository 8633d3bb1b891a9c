"""Counts of cells → the value of every signal, as arrays over cells and columns.

The same function measures a live window and the blocks of the reference, so what a window is held against is what the
reference shows when it is looked at in the same way. Arrays are (cells, columns) unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from streams.arrays import CountVector, Floats, Ints, Mask
from streams.baseline import Statistics
from streams.signals.distance import METHODS
from streams.sketch.layout import (
    ABSENT,
    BINS,
    ERROR_SLOT,
    NULL,
    WRONG,
    Column,
    Kind,
    Layout,
    Role,
    requests,
)

RARE = 0.01
"""Categories below this share of the reference are one bin of a distribution: rare values make distances noisy."""


@dataclass(frozen=True)
class Bins:
    """Distributions of some columns, padded to one width. A bin is a run of slots of a counts vector."""

    columns: tuple[int, ...]
    start: Ints
    stop: Ints
    """(columns, width) first slot of each bin, and the one after its last; equal where padded."""
    mask: Mask
    centres: Floats
    """(columns, width) mean value of each bin, NaN where unknown."""

    def counts(self, vectors: CountVector) -> Floats:
        """(cells, columns, width) counts, zero where padded."""
        summed = np.concatenate([np.zeros((len(vectors), 1), np.int64), vectors.cumsum(axis=1)], axis=1)
        counts: Floats = (summed[:, self.stop] - summed[:, self.start]).astype(float)
        return counts

    def usable(self, method: str) -> Mask:
        """The bins that a method can use: a null is no number, so Wasserstein's distance leaves its bin out."""
        return self.mask & np.isfinite(self.centres) if method == "wasserstein" else self.mask

    def only(self, chosen: Sequence[int]) -> Bins:
        """The bins of some of the columns."""
        at = list(chosen)
        columns = tuple(self.columns[i] for i in at)
        return Bins(columns, self.start[at], self.stop[at], self.mask[at], self.centres[at])


@dataclass(frozen=True)
class Shape:
    """What a model's signals are measured on: its layout, and the bins of its distributions."""

    layout: Layout
    statistics: Sequence[Statistics]

    @cached_property
    def features(self) -> tuple[int, ...]:
        return self.layout.indices(Role.FEATURE)

    @cached_property
    def numeric(self) -> tuple[int, ...]:
        return tuple(i for i in self.features if self.layout.columns[i].edges)

    @cached_property
    def categorical(self) -> tuple[int, ...]:
        return tuple(i for i in self.features if self.layout.columns[i].categories)

    @cached_property
    def binned(self) -> tuple[int, ...]:
        """Features that a baseline gives bins to."""
        return tuple(i for i in self.features if _has_bins(self.layout.columns[i]))

    @cached_property
    def scores(self) -> tuple[int, ...]:
        return tuple(i for i in self.layout.indices(Role.SCORE) if self.layout.columns[i].edges)

    @cached_property
    def predictions(self) -> tuple[int, ...]:
        return tuple(i for i in self.layout.indices(Role.PREDICTION) if _has_bins(self.layout.columns[i]))

    @cached_property
    def latency(self) -> int:
        return self.layout.indices(Role.LATENCY)[0]

    def bins(self, columns: Sequence[int], *, with_null: bool) -> Bins:
        """Bins of columns; a feature's missing values are a bin, as a masked feed must show."""
        runs = [self._runs(i, with_null) for i in columns]
        shape = (len(columns), max(map(len, runs), default=1))
        start, stop = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        mask, centres = np.zeros(shape, bool), np.full(shape, np.nan)
        for row, (i, found) in enumerate(zip(columns, runs, strict=True)):
            start[row, : len(found)], stop[row, : len(found)] = np.array(found).T
            mask[row, : len(found)] = True
            known = self.statistics[i].centres
            centres[row, len(found) - len(known) : len(found)] = known
        return Bins(tuple(columns), start, stop, mask, centres)

    def _runs(self, column: int, with_null: bool) -> list[tuple[int, int]]:
        """(first slot, slot after the last) of each bin; the rare categories and the unseen values are one."""
        first = self.layout.starts[column]
        bins, end = first + BINS, first + self.layout.columns[column].size
        runs = [(first, bins)] if with_null else []  # absent, null and wrong type
        if self.layout.columns[column].kind is Kind.NUMERIC:
            return runs + [(slot, slot + 1) for slot in range(bins, end)]
        rest = bins + min(self.statistics[column].common, end - 1 - bins)
        return [*runs, *((slot, slot + 1) for slot in range(bins, rest)), (rest, end)]

    def class_counts(self, vectors: CountVector, place: int) -> Floats:
        """(cells, features) counts of one class (absent, null, wrong type)."""
        return vectors[:, [self.layout.starts[i] + place for i in self.features]].astype(float)

    def values(self, vectors: CountVector, columns: Sequence[int]) -> Floats:
        """(cells, columns) numbers of usable values."""
        found = [self.layout.block(vectors, i)[:, BINS:].sum(axis=1) for i in columns]
        return np.array(found, float).reshape(len(columns), len(vectors)).T

    def out_of_range(self, vectors: CountVector) -> Floats:
        found = [self.layout.block(vectors, i)[:, [BINS, -1]].sum(axis=1) for i in self.numeric]
        return np.array(found, float).reshape(len(found), len(vectors)).T

    def unseen(self, vectors: CountVector) -> Floats:
        found = [self.layout.block(vectors, i)[:, -1] for i in self.categorical]
        return np.array(found, float).reshape(len(found), len(vectors)).T

    def known_distinct(self, vectors: CountVector) -> Floats:
        """(cells, categorical columns) numbers of declared categories that turned up."""
        found = [(self.layout.block(vectors, i)[:, BINS:-1] > 0).sum(axis=1) for i in self.categorical]
        return np.array(found, float).reshape(len(found), len(vectors)).T


def _has_bins(column: Column) -> bool:
    return bool(column.edges if column.kind is Kind.NUMERIC else column.categories)


@dataclass(frozen=True)
class Rate:
    """A share of events: `hits` of `n`."""

    hits: Floats
    n: Floats

    @property
    def value(self) -> Floats:
        return np.divide(self.hits, self.n, out=np.full_like(self.n, np.nan), where=self.n > 0)


RateOf = Callable[[Shape, CountVector], Rate]


def _of_requests(shape: Shape, vectors: CountVector, hits: Floats) -> Rate:
    return Rate(hits, np.broadcast_to(requests(vectors)[:, None].astype(float), hits.shape).copy())


def _class_rate(place: int) -> RateOf:
    return lambda shape, vectors: _of_requests(shape, vectors, shape.class_counts(vectors, place))


RATES: Mapping[str, RateOf] = {
    "request_error_rate": lambda shape, v: _of_requests(shape, v, v[:, [ERROR_SLOT]].astype(float)),
    "null_rate": _class_rate(NULL),
    "missing_rate": _class_rate(ABSENT),
    "type_mismatch_rate": _class_rate(WRONG),
    "unseen_rate": lambda shape, v: Rate(shape.unseen(v), shape.values(v, shape.categorical)),
    "out_of_range_rate": lambda shape, v: Rate(shape.out_of_range(v), shape.values(v, shape.numeric)),
}
"""Signals that are shares, by name."""


def rate_columns(shape: Shape, signal: str) -> tuple[int, ...]:
    """The columns of a rate signal, one an array column; empty for a signal of the whole model."""
    if signal == "request_error_rate":
        return ()
    return {"unseen_rate": shape.categorical, "out_of_range_rate": shape.numeric}.get(signal, shape.features)


def distances(method: str, bins: Bins, reference: CountVector, window: CountVector) -> Floats:
    """(cells, columns) distance of each cell's window (cells, length) from its reference (cells, length)."""
    cells, columns = len(window), len(bins.columns)
    if not columns or not cells:
        return np.zeros((cells, columns))
    flat = METHODS[method].distance(
        bins.counts(reference).reshape(cells * columns, -1),
        bins.counts(window).reshape(cells * columns, -1),
        np.tile(bins.usable(method), (cells, 1)),
        np.tile(bins.centres, (cells, 1)),
    )
    return np.asarray(flat).reshape(cells, columns)


def latency_ms(shape: Shape, vectors: CountVector, level: float | Floats) -> Floats:
    """(cells,) latency quantile: the upper edge of the bin that holds it; NaN without latencies."""
    bins = shape.layout.block(vectors, shape.latency)[:, BINS:]
    edges = np.array([*shape.layout.columns[shape.latency].edges, np.inf])
    total = bins.sum(axis=1)
    wanted = np.clip(np.broadcast_to(level, total.shape), 0, 1) * total
    at = (bins.cumsum(axis=1) < np.maximum(wanted, 1)[:, None]).sum(axis=1)
    found: Floats = np.where(total > 0, edges[np.minimum(at, len(edges) - 1)], np.nan)
    return found


def schema_change(shape: Shape, reference: CountVector, window: CountVector) -> Floats:
    """(cells, features) how much larger the share of events without the field, or with another type, has become."""
    now, then = requests(window)[:, None], requests(reference)[:, None]
    changes = []
    for place in (ABSENT, WRONG):
        with np.errstate(invalid="ignore", divide="ignore"):
            changes.append(shape.class_counts(window, place) / now - shape.class_counts(reference, place) / then)
    found: Floats = np.maximum(*changes)
    return found
