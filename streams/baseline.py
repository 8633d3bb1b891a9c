"""The reference profile that a model was trained on ↔ bytes of its baseline file.

A baseline consists of the same sketches as the live stream: counts of the whole reference, and of its blocks (spans as
long as a pane), for the whole model and for every declared segment. A live window is compared with how the reference
differs from block to block.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise

import msgspec
import numpy as np

from streams.arrays import CountVector
from streams.errors import UNREADABLE, ConfigError, NewerError, SketchError
from streams.fields import MAX_TIME_MS, MIN_TIME_MS
from streams.seal import inflate, seal, unseal
from streams.sketch.counts import Counts
from streams.sketch.layout import ERROR_SLOT, OK_SLOT, Column, Kind, Layout, requests
from streams.sketch.outcomes import LABELLED, MAX_CLASSES, UNUSABLE, OutcomeLayout

SegmentKey = tuple[str, str]
"""Dimension and value; both empty for the whole model."""

WHOLE: SegmentKey = ("", "")


class Block(msgspec.Struct, frozen=True):
    """One span of the reference: packed counts by segment."""

    start_ms: int
    counts: dict[SegmentKey, bytes]


class Statistics(msgspec.Struct, frozen=True):
    """Statistics of a column that its bins do not hold.

    Attributes:
        centres: mean value of each bin, of a numeric column.
        common: how many of the categories, in falling order of their counts, are not rare.
        distinct: number of different values.
        singletons: how many values the reference holds just once. Their share estimates how often a new value turns up
            (Good 1953, Biometrika 40).
        listed_singletons: how many of these are categories.
    """

    distinct: int = 0
    singletons: int = 0
    listed_singletons: int = 0
    common: int = 0
    centres: tuple[float, ...] = ()


class OutcomeReference(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled performance of the reference: packed outcomes of the whole and of its blocks, by segment."""

    layout: OutcomeLayout
    total: dict[SegmentKey, bytes]
    blocks: tuple[Block, ...]
    timed: bool
    """Whether the labels have times, from which their delays follow."""
    arrivals: dict[int, int] = {}
    """Number of labels by the pane in which they arrived."""

    def opened(self) -> tuple[dict[SegmentKey, CountVector], list[dict[SegmentKey, CountVector]]]:
        """Vectors of the whole, and of each block, by segment."""
        whole = {key: Counts.from_bytes(data).dense() for key, data in self.total.items()}
        return whole, [{k: Counts.from_bytes(d).dense() for k, d in block.counts.items()} for block in self.blocks]


class Baseline(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything that `init` learned from reference data. `pane_ms` is 0 if the reference has no usable times."""

    model: str
    columns: tuple[Column, ...]
    statistics: tuple[Statistics, ...]
    events: int
    start_ms: int
    end_ms: int
    pane_ms: int
    longest_gap_ms: int
    fields: tuple[str, ...]
    """Names of unknown fields in the reference itself: these are not new in the stream."""
    total: dict[SegmentKey, bytes]
    blocks: tuple[Block, ...]
    thinning: int = 1
    """One in so many of the reference's blocks was kept."""
    outcomes: OutcomeReference | None = None

    @cached_property
    def totals(self) -> dict[SegmentKey, Counts]:
        return {key: Counts.from_bytes(data) for key, data in self.total.items()}

    def opened_blocks(self) -> list[dict[SegmentKey, Counts]]:
        return [{key: Counts.from_bytes(data) for key, data in block.counts.items()} for block in self.blocks]

    def to_bytes(self) -> bytes:
        return seal(zlib.compress(msgspec.msgpack.encode(self), 6))

    @classmethod
    def from_bytes(cls, data: bytes, place: str = "") -> Baseline:
        try:
            baseline = _DECODER.decode(inflate(unseal(data)))
            check_baseline(baseline)
        except NewerError as error:
            raise ConfigError(
                place=place, seen=error.seen, expected=error.expected, mend="upgrade, or run 'foreshock init' again"
            ) from None
        except (SketchError, *UNREADABLE, OverflowError) as error:
            raise ConfigError(
                place=place,
                seen=f"no baseline ({error})",
                expected="a file written by 'foreshock init'",
                mend="run it again",
            ) from None
        return baseline


MAX_CODE = 4_300
"""Digits of a category that is a whole number."""
_DECODER = msgspec.msgpack.Decoder(Baseline)


# What can be: a file may be well formed, and say what no reference can


def check_baseline(baseline: Baseline) -> None:
    """Raises SketchError for content that no reference can have: it would make windows breach wrongly, or never."""
    _check_times(baseline)
    if len(baseline.statistics) != len(baseline.columns):
        raise SketchError(seen="counts of another layout", expected="counts of its own columns")
    names = [column.name for column in baseline.columns]
    _demand(len(set(names)) == len(names), "columns of one name")
    for column, statistics in zip(baseline.columns, baseline.statistics, strict=True):
        _check_column(column, statistics)
    layout = Layout(baseline.columns)
    whole = _checked(baseline.total, layout.length)
    _demand(WHOLE in whole, "no counts of the whole")
    most = int(requests(whole[WHOLE]))
    _demand(most <= baseline.events, f"counts of {most:,} events of {baseline.events:,}")
    for vector in whole.values():
        _check_cell(layout, vector, most)
    last_ms, summed = None, {key: np.zeros_like(vector) for key, vector in whole.items()}
    for block in baseline.blocks:
        _demand(last_ms is None or last_ms < block.start_ms, "blocks out of order")
        _demand(baseline.start_ms - baseline.pane_ms <= block.start_ms <= baseline.end_ms, "a block of another time")
        last_ms = block.start_ms
        for key, vector in _checked(block.counts, layout.length).items():
            _demand(key in whole, "a block of a segment that the whole has not")
            summed[key] += vector
            _demand(bool((vector <= whole[key]).all()), "a block that holds more than the whole")
            _check_cell(layout, vector, most)
    _demand(all((summed[key] <= whole[key]).all() for key in whole), "blocks that hold more than the whole")
    if baseline.outcomes is not None:
        _check_outcomes(baseline.outcomes)


def _demand(holds: bool, seen: str) -> None:
    if not holds:
        raise SketchError(seen=seen, expected="what a reference can hold")


def _check_times(baseline: Baseline) -> None:
    times = (baseline.start_ms, baseline.end_ms)
    _demand(all(MIN_TIME_MS <= at <= MAX_TIME_MS for at in times), "times that are none")
    _demand(baseline.start_ms <= baseline.end_ms, "an end before the beginning")
    _demand(0 <= baseline.pane_ms <= MAX_TIME_MS and baseline.longest_gap_ms >= 0, "a negative time")
    _demand(baseline.thinning >= 1 and baseline.events >= 0, f"{baseline.events} events")


def _check_column(column: Column, statistics: Statistics) -> None:
    name = repr(column.name[:40])
    _check_edges(column.edges, name)
    _demand(column.kind is Kind.NUMERIC or not column.edges, f"edges of {name}, which is no number")
    _demand(column.kind is not Kind.NUMERIC or not column.categories, f"categories of {name}, which is a number")
    _demand(len(set(column.categories)) == len(column.categories), f"a category of {name} twice")
    if column.kind is Kind.CODE:
        _demand(all(map(_is_code, column.categories)), f"a category of {name} that is no whole number")
    centres = statistics.centres
    _demand(len(centres) in (0, column.bins) and all(map(math.isfinite, centres)), f"centres of {name}")
    counts = (statistics.distinct, statistics.singletons, statistics.listed_singletons, statistics.common)
    _demand(min(counts) >= 0, f"negative numbers of values of {name}")
    _demand(max(counts[2:]) <= len(column.categories), f"more common values of {name} than categories")


def _check_edges(edges: tuple[float, ...], name: str) -> None:
    _demand(all(map(math.isfinite, edges)), f"an edge of {name} that is no number")
    _demand(all(low < high for low, high in pairwise(edges)), f"edges of {name} that do not rise")


def _is_code(text: str) -> bool:
    return len(text) <= MAX_CODE and text.removeprefix("-").isdecimal()


def _checked(packed: Mapping[SegmentKey, bytes], length: int) -> dict[SegmentKey, CountVector]:
    """Vectors of this length without negative numbers."""
    found = {key: Counts.from_bytes(data) for key, data in packed.items()}
    if any(counts.length != length for counts in found.values()):
        raise SketchError(seen="counts of another layout", expected="counts of its own columns")
    vectors = {key: counts.dense() for key, counts in found.items()}
    _demand(all(int(vector.min(initial=0)) >= 0 for vector in vectors.values()), "negative counts")
    return vectors


def _check_cell(layout: Layout, vector: CountVector, most: int) -> None:
    """Each column counts every event once, at the most."""
    events = int(vector[OK_SLOT]) + int(vector[ERROR_SLOT])
    _demand(events <= most, f"a cell of {events:,} events of {most:,}")
    starts = np.array(layout.starts, np.int64)
    if len(starts) and int(vector.max(initial=0)) <= most:
        _demand(int(np.add.reduceat(vector, starts).max()) <= events, "a column that counts an event twice")
    else:
        _demand(int(vector.max(initial=0)) <= most, f"counts beyond {most:,} events")


def _check_outcomes(outcomes: OutcomeReference) -> None:
    layout = outcomes.layout
    _check_edges(layout.edges, "the score")
    _demand(len(set(layout.classes)) == len(layout.classes) <= MAX_CLASSES, "classes that are none")
    _demand(math.isfinite(layout.threshold) and 0 < layout.spread < math.inf, "a threshold or spread that is none")
    _demand(min(outcomes.arrivals.values(), default=0) >= 0, "negative numbers of labels")
    whole = _checked(outcomes.total, layout.length)
    _demand(WHOLE in whole, "no outcomes of the whole")
    for block in outcomes.blocks:
        found = _checked(block.counts, layout.length)
        _demand(whole.keys() >= found.keys(), "outcomes of a block that the whole has not")
    for vector in whole.values():
        _demand(int(vector[UNUSABLE]) <= int(vector[LABELLED]), "more unusable labels than labels")
