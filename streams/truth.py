"""Records of windows → the truth of each cell, span by span, and when the labels showed it.

A fold over the records that are published, idempotent and independent of their order: of a span the highest revision
stands, of arrival windows revision 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import pairwise
from typing import TypeVar

import msgspec

from streams.action import segment_id
from streams.panes import NO_MARK
from streams.signals.names import ESTIMATED
from streams.times import NO_TIME, instant_ms
from streams.window import Clock, SignalRecord, WindowRecord

TRUE_FAMILIES = frozenset({"performance", "calibration"})
"""What labels say of a model."""

Item = TypeVar("Item")
Cell = tuple[str, str]
"""Version and segment, as texts; the segment is empty for the whole model."""


class Standing(StrEnum):
    """What the labels say of a cell in a span. `unknown`: too few of them for a verdict."""

    UNKNOWN = "unknown"
    GOOD = "good"
    BAD = "bad"


class TruthSpan(msgspec.Struct, frozen=True, array_like=True):
    """The truth of one cell and span; a higher revision replaces it."""

    start_ms: int
    end_ms: int
    revision: int
    standing: Standing
    settled_ms: int
    """When its labels had come."""


class Episode(msgspec.Struct, frozen=True):
    """A run of adjacent bad spans of one cell."""

    cell: Cell
    start_ms: int
    end_ms: int

    def overlaps(self, start_ms: int, end_ms: int | None) -> bool:
        return start_ms < self.end_ms and (end_ms is None or self.start_ms < end_ms)


class TruthState(msgspec.Struct, kw_only=True):
    """What is remembered, as plain fields."""

    spans: list[tuple[Cell, TruthSpan]] = []
    breaches: list[tuple[Cell, int]] = []
    settled_until_ms: int | None = None
    before_ms: int = NO_MARK
    carried: list[Cell] = []


class Truth:
    """What the labels have said of one model's cells."""

    def __init__(self, truth_ms: int, state: TruthState | None = None) -> None:
        """`truth_ms`: the length of a span."""
        state = state or TruthState()
        self.truth_ms = truth_ms
        self.settled_until_ms = state.settled_until_ms
        self._spans: dict[Cell, dict[int, TruthSpan]] = {}
        for cell, span in state.spans:
            self._spans.setdefault(cell, {})[span.start_ms] = span
        self._breaches: dict[Cell, dict[int, int]] = {}
        """By span, the end of the first arrival window in it whose labels were bad."""
        for cell, end_ms in state.breaches:
            self._breaches.setdefault(cell, {}).setdefault(self._span_of(end_ms), end_ms)  # the first, if spans grew
        self.size = len(state.spans) + len(state.breaches)
        self.before_ms = state.before_ms
        """Spans that began earlier are forgotten."""
        self._carried = set(state.carried)
        """Cells that were bad just before: what goes on there is no new episode."""

    def to_state(self) -> TruthState:
        return TruthState(
            spans=[(cell, spans[at]) for cell, spans in sorted(self._spans.items()) for at in sorted(spans)],
            breaches=[(cell, found[at]) for cell, found in sorted(self._breaches.items()) for at in sorted(found)],
            settled_until_ms=self.settled_until_ms,
            before_ms=self.before_ms,
            carried=sorted(self._carried),
        )

    @property
    def starts_ms(self) -> list[int]:
        """Of every span that is remembered, in order."""
        of_spans = [at for spans in self._spans.values() for at in spans]
        return sorted(of_spans + [at for found in self._breaches.values() for at in found])

    def take(self, record: WindowRecord) -> bool:
        """Whether it says something new that matters: that a span is bad, or no longer, or bad labels that came."""
        if record.version is None or record.clock not in (Clock.TRUTH, Clock.ARRIVAL):
            return False
        cell, standing = cell_of(record), standing_of(record.signals)
        start_ms, end_ms = instant_ms(record.start), instant_ms(record.end)
        if NO_TIME in (start_ms, end_ms):
            return False
        if record.clock is Clock.TRUTH:
            settled_ms = end_ms if record.settled is None else instant_ms(record.settled)
            return self._take_span(cell, TruthSpan(start_ms, end_ms, record.revision, standing, settled_ms))
        # What was judged: a revision tells of later labels too.
        return record.revision == 0 and standing is Standing.BAD and self._take_breach(cell, end_ms)

    def _take_span(self, cell: Cell, span: TruthSpan) -> bool:
        self.settled_until_ms = max(span.end_ms, self.settled_until_ms or span.end_ms)
        if span.start_ms < self.before_ms:
            return False
        spans = self._spans.setdefault(cell, {})
        known = spans.get(span.start_ms)
        if known is not None and _rank(known) >= _rank(span):
            return False
        spans[span.start_ms] = span
        self.size += known is None
        before = known.standing if known is not None else Standing.UNKNOWN
        return before is not span.standing and Standing.BAD in (before, span.standing)

    def _take_breach(self, cell: Cell, end_ms: int) -> bool:
        found, at = self._breaches.setdefault(cell, {}), self._span_of(end_ms)
        if at < self.before_ms or found.get(at, end_ms + 1) <= end_ms:
            return False
        self.size += at not in found
        found[at] = end_ms
        return True

    def _span_of(self, end_ms: int) -> int:
        """Start of the span in which a window ends; one that ends with it is in it."""
        return (end_ms - 1) // self.truth_ms * self.truth_ms

    def last_end_ms(self, end_ms: int) -> int:
        """End of the last span that something which ended then speaks of."""
        return -(-end_ms // self.truth_ms) * self.truth_ms

    def within(self, version: str | None, segment: str, start_ms: int, end_ms: int | None) -> list[tuple[Cell, int]]:
        """Cell and start of the spans that overlap a stretch, of a version or (None) of all."""
        return [
            (cell, span.start_ms)
            for cell in self._cells(version, segment)
            for span in self._spans[cell].values()
            if start_ms < span.end_ms and (end_ms is None or span.start_ms < end_ms)
        ]

    def _cells(self, version: str | None, segment: str) -> list[Cell]:
        """Those that have spans."""
        if version is None:
            return [cell for cell in self._spans if cell[1] == segment]
        return [(version, segment)] if (version, segment) in self._spans else []

    def at(self, cell: Cell, start_ms: int) -> TruthSpan:
        return self._spans[cell][start_ms]

    def told_ms(self, version: str | None, segment: str, at_ms: int) -> int | None:
        """When the labels of the span that ended with a time, or holds it, had come; None: they have not. Of a span
        without a record: its end."""
        start_ms = self._span_of(at_ms)
        if self.settled_until_ms is None or self.settled_until_ms < start_ms + self.truth_ms:
            return None
        found = [span.settled_ms for cell in self._cells(version, segment) if (span := self._spans[cell].get(start_ms))]
        return max(found, default=start_ms + self.truth_ms)

    def seen_ms(self, cell: Cell, start_ms: int) -> int:
        """When the labels showed that this bad span is bad: by the first bad labels that came since its start, at the
        latest when it was settled."""
        settled_ms = self._spans[cell][start_ms].settled_ms
        ends_ms = (end_ms for end_ms in self._breaches.get(cell, {}).values() if end_ms > start_ms)
        return min(ends_ms, default=settled_ms)

    def episodes(self) -> list[Episode]:
        """Runs of bad spans. Those of a segment that overlap one of the whole version are a part of it."""
        runs = {cell: list(_runs(cell, spans)) for cell, spans in self._spans.items()}
        found = []
        for cell, episodes in sorted(runs.items()):
            whole = [] if cell[1] == "" else runs.get((cell[0], ""), [])
            found += [
                one
                for one in episodes
                if not (one.start_ms == self.before_ms and cell in self._carried)
                and not any(one.overlaps(other.start_ms, other.end_ms) for other in whole)
            ]
        return found

    def forget(self, before_ms: int) -> None:
        """Drops the spans that began earlier."""
        runs = (run for cell, spans in self._spans.items() for run in _runs(cell, spans))
        self._carried = {run.cell for run in runs if run.start_ms < before_ms <= run.end_ms}
        self.before_ms = before_ms
        self._spans = _since(self._spans, before_ms)
        self._breaches = _since(self._breaches, before_ms)
        self.size = len(self.starts_ms)


def _since(found: Mapping[Cell, Mapping[int, Item]], before_ms: int) -> dict[Cell, dict[int, Item]]:
    kept = {cell: {at: item for at, item in items.items() if at >= before_ms} for cell, items in found.items()}
    return {cell: items for cell, items in kept.items() if items}


def _runs(cell: Cell, spans: Mapping[int, TruthSpan]) -> Iterator[Episode]:
    bad = [spans[at] for at in sorted(spans) if spans[at].standing is Standing.BAD]
    if not bad:
        return
    start_ms = bad[0].start_ms
    for span, later in pairwise(bad):
        if span.end_ms != later.start_ms:
            yield Episode(cell, start_ms, span.end_ms)
            start_ms = later.start_ms
    yield Episode(cell, start_ms, bad[-1].end_ms)


def _rank(span: TruthSpan) -> tuple[int, str, int, int]:
    """Which of two records of one span stands; beyond the revision only so that their order does not matter."""
    return span.revision, span.standing, span.end_ms, span.settled_ms


def cell_of(record: WindowRecord) -> Cell:
    return record.version or "", segment_id(record.segment)


def standing_of(signals: tuple[SignalRecord, ...]) -> Standing:
    """Bad if any signal of the truth is breached, good if any could have been."""
    true = [signal for signal in signals if signal.family in TRUE_FAMILIES and signal.name != ESTIMATED]
    if any(signal.breached for signal in true):
        return Standing.BAD
    return Standing.GOOD if any(signal.threshold is not None for signal in true) else Standing.UNKNOWN
