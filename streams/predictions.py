"""Closed panes of events → the predictions that labels may be of: how many were made on time, by cohort and segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from streams.baseline import SegmentKey
from streams.cells import Cells
from streams.duration import DAY_MS
from streams.rollup import Unit, UnitId
from streams.sketch.counts import Counts
from streams.sketch.layout import ERROR_SLOT, OK_SLOT
from streams.sketch.profile import Profile

Tally = Mapping[SegmentKey, int]
LABELS_BEHIND_MS = DAY_MS
"""Labels may be read so far behind events without any effect. Farther behind, their open cohort is assumed to be even,
and its expected performance is not published: panes of events are too large to be kept for a horizon."""


@dataclass(slots=True)
class Predictions:
    """Tallies of panes, until the clock of the labels has passed their cohort; from then on of cohorts.

    A cohort that the events have passed is a unit, and kept with the state: its panes may be forgotten before the last
    labels come. Only on-time events count, because late, admitted ones are read sooner in one run than in another.
    """

    pane_ms: int
    cohort_ms: int
    panes: dict[int, Tally] = field(default_factory=dict)
    cohorts: dict[int, Tally] = field(default_factory=dict)
    reach_ms: int = 0
    """So long before a time of the labels' clock predictions may have been made that its labels are of."""
    stream: ClassVar[str] = "predictions"
    _adopted: set[int] = field(default_factory=set)
    """Cohorts that are no units yet."""

    def close(self, start_ms: int, on_time: Cells) -> list[Unit]:
        """Takes a pane of events; gives the cohorts that have ended."""
        self.resume(start_ms, on_time)
        end_ms = start_ms + self.pane_ms
        oldest_ms = self.cohort_start(start_ms - LABELS_BEHIND_MS)
        self.panes = {at: tally for at, tally in self.panes.items() if at >= oldest_ms}
        ended = {at: tally for at, tally in self._from_panes() if at + self.cohort_ms <= end_ms}
        self.cohorts |= ended
        told, self._adopted = [*sorted(self._adopted), *ended], set()
        return [Unit(self.cohort_ms, at, cells_of(self.cohorts[at]), self.stream) for at in told if at in self.cohorts]

    def resume(self, start_ms: int, on_time: Cells) -> None:
        """Takes a pane that was judged before the restart."""
        self.panes[start_ms] = tally_of(on_time, OK_SLOT, ERROR_SLOT)

    def restore(self, unit: Unit) -> None:
        if unit.level_ms == self.cohort_ms:
            self.cohorts[unit.start_ms] = tally_of(unit.cells, 0)

    def adopt(self, cohorts: Mapping[int, Tally]) -> None:
        """After the panes: takes the cohorts of before them that are missing, as the join knows them. They become units
        with the next pane."""
        first_ms = min((self.cohort_start(at) for at in self.panes), default=None)
        found = {at: tally for at, tally in cohorts.items() if first_ms is None or at < first_ms}
        self.cohorts |= found
        self._adopted |= found.keys()

    def drop_after(self, end_ms: int) -> None:
        """Drops the restored cohorts that end later: their panes will be closed again."""
        self.cohorts = {at: tally for at, tally in self.cohorts.items() if at + self.cohort_ms <= end_ms}

    def between(self, start_ms: int, end_ms: int) -> Iterator[tuple[int, int, Tally]]:
        """Start, length and tally of spans that do not overlap: cohorts that were over at the end, then panes."""
        open_ms = self.cohort_start(end_ms)
        forgotten = not any(open_ms <= at < end_ms for at in self.panes)
        for at, tally in sorted((*self.cohorts.items(), *self._from_panes())):
            if start_ms <= at < (end_ms if forgotten else open_ms):
                yield at, self.cohort_ms, tally
        for at in sorted(self.panes):
            if max(start_ms, open_ms) <= at < end_ms:
                yield at, self.pane_ms, self.panes[at]

    def forget(self, end_ms: int) -> list[UnitId]:
        """Lets go of cohorts that `reach_ms` does not reach, and of the panes of those that were over at `end_ms`;
        gives the units among it."""
        start_ms, open_ms = end_ms - self.reach_ms, self.cohort_start(end_ms)
        self.panes = {
            at: tally
            for at, tally in self.panes.items()
            if at >= open_ms or (start_ms <= (cohort := self.cohort_start(at)) and cohort not in self.cohorts)
        }
        gone = [at for at in self.cohorts if at < start_ms]
        for at in gone:
            del self.cohorts[at]
        return [(self.stream, self.cohort_ms, at) for at in gone]

    def cohort_start(self, time_ms: int) -> int:
        return time_ms // self.cohort_ms * self.cohort_ms

    def _from_panes(self) -> Iterator[tuple[int, Tally]]:
        """The cohorts that have not ended, by the panes that there are of them."""
        found: dict[int, Counter[SegmentKey]] = {}
        for at, tally in self.panes.items():
            start_ms = self.cohort_start(at)
            if start_ms not in self.cohorts:
                found.setdefault(start_ms, Counter()).update(tally)
        yield from found.items()


def tally_of(cells: Cells, *slots: int) -> dict[SegmentKey, int]:
    """Of all versions, the sum of these slots by segment."""
    found: dict[SegmentKey, int] = {}
    for (_, name, value), profile in cells.items():
        found[name, value] = found.get((name, value), 0) + int(profile.counts.dense()[list(slots)].sum())
    return found


def cells_of(tally: Tally) -> Cells:
    """A tally as a unit holds it."""
    return {("", *segment): Profile(Counts.of(np.array([count]))) for segment, count in tally.items()}
