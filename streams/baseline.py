"""The reference profile a model was trained on ↔ bytes of its baseline file.

A baseline is made of the very sketches that the live stream is made of: the counts of the whole reference, and of its
blocks (stretches as long as a pane), for the whole model and for every declared segment. What the reference itself
shows from block to block is what a live window is held against.
"""

from __future__ import annotations

import zlib
from functools import cached_property

import msgspec

from streams.errors import UNREADABLE, ConfigError, NewerError, SketchError
from streams.partial import inflate, seal, unseal
from streams.sketch.counts import Counts
from streams.sketch.layout import Column, Counter, Layout
from streams.sketch.outcomes import OutcomeLayout

SegmentKey = tuple[str, str]
"""Dimension and value; both empty for the whole model."""

WHOLE: SegmentKey = ("", "")


class Block(msgspec.Struct, frozen=True):
    """One stretch of the reference: packed counts by segment."""

    start_ms: int
    counts: dict[SegmentKey, bytes]


class Statistics(msgspec.Struct, frozen=True):
    """What bins do not tell of a column.

    `centres`: the mean value of each bin, of a numeric column. `common`: how many of the categories, which stand in
    falling order of their counts, are not rare. `distinct`: values in all. `singletons`: how many of them the reference
    holds just once, and `listed_singletons` how many of those are categories: the share of values seen once estimates
    how often a new one turns up (Good 1953, Biometrika 40).
    """

    distinct: int = 0
    singletons: int = 0
    listed_singletons: int = 0
    common: int = 0
    centres: tuple[float, ...] = ()


class OutcomeReference(msgspec.Struct, frozen=True, kw_only=True):
    """What the reference's predictions were worth: packed outcomes of the whole and of its blocks, by segment."""

    layout: OutcomeLayout
    total: dict[SegmentKey, bytes]
    blocks: tuple[Block, ...]
    timed: bool
    """Whether the labels' times say how late they come."""
    arrivals: dict[int, int] = {}
    """Labels by the pane in which they came."""

    def opened(self) -> tuple[dict[SegmentKey, Counter], list[dict[SegmentKey, Counter]]]:
        """Vectors of the whole, and of each block, by segment."""
        whole = {key: Counts.from_bytes(data).dense() for key, data in self.total.items()}
        return whole, [{k: Counts.from_bytes(d).dense() for k, d in block.counts.items()} for block in self.blocks]

    def check(self) -> None:
        """Raises SketchError unless everything was counted by its own layout."""
        packed = [self.total, *(block.counts for block in self.blocks)]
        if any(Counts.from_bytes(data).length != self.layout.length for found in packed for data in found.values()):
            raise SketchError(seen="outcomes of another layout", expected="outcomes of its own classes and bins")


class Baseline(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything learned from reference data. `pane_ms` is 0 when the reference has no usable times."""

    model: str
    columns: tuple[Column, ...]
    statistics: tuple[Statistics, ...]
    events: int
    start_ms: int
    end_ms: int
    pane_ms: int
    longest_gap_ms: int
    fields: tuple[str, ...]
    """Names of unknown fields that the reference itself holds: no news when the stream has them."""
    total: dict[SegmentKey, bytes]
    blocks: tuple[Block, ...]
    thinning: int = 1
    """Of so many blocks that the reference has, one was kept."""
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
            length = Layout(baseline.columns).length
            if len(baseline.statistics) != len(baseline.columns) or any(
                counts.length != length for counts in baseline.totals.values()
            ):
                raise SketchError(seen="counts of another layout", expected="counts of its own columns")
            if baseline.outcomes is not None:
                baseline.outcomes.check()
        except NewerError as error:
            raise ConfigError(
                place=place, seen=error.seen, expected=error.expected, mend="upgrade, or run 'foreshock init' again"
            ) from None
        except (SketchError, *UNREADABLE) as error:
            raise ConfigError(
                place=place,
                seen=f"no baseline ({error})",
                expected="a file written by 'foreshock init'",
                mend="run it again",
            ) from None
        return baseline


_DECODER = msgspec.msgpack.Decoder(Baseline)
