"""Closed panes of feedback or of a KPI → any window, and the same hours of earlier weeks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from streams.cells import Cells, Segmentation, opened, packed
from streams.duration import DAY_MS, HOUR_MS, WEEK_MS
from streams.panes import hour_ms
from streams.partial import Cell
from streams.rollup import Unit, UnitId, merged_cells

WEEKS, LEAST_WEEKS = 4, 2
DAYS, LEAST_DAYS = 7, 3
"""So many earlier ones are looked at, if there are at least so many; days while the weeks are too few."""
LEAST_RECENT, MOST_RECENT = 20, 60
PANES_KEPT_MS = 13 * HOUR_MS
"""Windows that are shorter begin at a pane, longer ones at an hour (`streams.rollup`)."""


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Cell]).decode


@dataclass(frozen=True, slots=True)
class Stretch:
    """The side inputs of an earlier span."""

    cells: Cells
    span_ms: int


@dataclass(slots=True)
class History:
    """On-time cells of closed panes, packed: the latest as panes, the last weeks as hours (or longer panes)."""

    pane_ms: int
    longest_ms: int
    """Of the windows that will be asked for."""
    late_ms: int
    """Panes are asked for as long as they may be revised."""
    segmentation: Segmentation
    panes: dict[int, bytes] = field(default_factory=dict)
    hours: dict[int, bytes] = field(default_factory=dict)
    stream: str = ""
    """What it is of."""
    since_ms: int | None = None
    """Nothing is known of what was before."""
    gaps: Sequence[tuple[int, int]] = ()
    """Stretches of which not all is known, after a change of the configuration."""

    @property
    def hour_ms(self) -> int:
        return hour_ms(self.pane_ms)

    def close(self, start_ms: int, cells: Cells) -> list[Unit]:
        """Takes a closed pane; gives the hour that ends with it."""
        self._know(start_ms)
        self.panes[start_ms] = _pack(packed(cells))
        end_ms = start_ms + self.pane_ms
        hour_start_ms = end_ms - self.hour_ms
        finished = []
        if end_ms % self.hour_ms == 0 and hour_start_ms not in self.hours:  # restored: its panes may be gone
            hour = self._union(self.panes, range(hour_start_ms, end_ms, self.pane_ms))
            self.hours[hour_start_ms] = _pack(packed(hour))
            finished.append(Unit(self.hour_ms, hour_start_ms, hour, self.stream))
        return finished

    def restore(self, unit: Unit) -> None:
        if unit.level_ms == self.hour_ms:
            self._know(unit.start_ms)
            self.hours[unit.start_ms] = _pack(packed(unit.cells))

    def drop_after(self, end_ms: int) -> None:
        """Drops the restored hours that end later: their panes will be closed again."""
        self.hours = {at: cells for at, cells in self.hours.items() if at + self.hour_ms <= end_ms}

    def forget(self, end_ms: int) -> list[UnitId]:
        """Lets go of what no window needs any more; gives the hours among it."""
        panes_from_ms = end_ms - max(PANES_KEPT_MS, self.late_ms + 2 * self.pane_ms) - self.hour_ms
        self.panes = {at: cells for at, cells in self.panes.items() if at >= panes_from_ms}
        hours_from_ms = end_ms - WEEKS * WEEK_MS - self.longest_ms - 2 * self.hour_ms
        gone = [at for at in self.hours if at < hours_from_ms]
        for at in gone:
            del self.hours[at]
        return [(self.stream, self.hour_ms, at) for at in gone]

    def window(self, start_ms: int, end_ms: int) -> Cells:
        """The union of the panes in a span."""
        hours: list[int] = []
        panes: list[int] = []
        at = start_ms
        while at < end_ms:
            whole = at in self.hours and at + self.hour_ms <= end_ms
            (hours if whole else panes).append(at)
            at += self.hour_ms if whole else self.pane_ms
        return merged_cells([self._union(self.hours, hours), self._union(self.panes, panes)], self.segmentation)

    def earlier(self, start_ms: int, end_ms: int) -> list[Stretch]:
        """The whole hours that hold the same span of earlier weeks; of earlier days, while there are too few weeks.

        None if there are too few of both.
        """
        weeks = self._shifted(start_ms, end_ms, WEEK_MS, WEEKS)
        if len(weeks) >= LEAST_WEEKS:
            return weeks
        days = self._shifted(start_ms, end_ms, DAY_MS, DAYS) if end_ms - start_ms <= DAY_MS else []
        return days if len(days) >= LEAST_DAYS else []

    def before(self, start_ms: int) -> list[Stretch]:
        """The panes of the hour before a time; where those are few, the last hours."""
        known = [at for at in self.panes if self._is_known(at, at + self.pane_ms)]
        panes = sorted(at for at in known if start_ms - HOUR_MS <= at < start_ms)
        if len(panes) >= LEAST_RECENT:
            return [Stretch(opened(_unpack(self.panes[at])), self.pane_ms) for at in panes]
        known = [at for at in self.hours if self._is_known(at, at + self.hour_ms)]
        hours = sorted(at for at in known if at + self.hour_ms <= start_ms)[-MOST_RECENT:]
        return [Stretch(opened(_unpack(self.hours[at])), self.hour_ms) for at in hours]

    def _shifted(self, start_ms: int, end_ms: int, step_ms: int, count: int) -> list[Stretch]:
        found = []
        for back_ms in range(step_ms, step_ms * count + 1, step_ms):
            first = (start_ms - back_ms) // self.hour_ms * self.hour_ms
            last = -((back_ms - end_ms) // self.hour_ms) * self.hour_ms
            if self.since_ms is not None and first >= self.since_ms and self._is_known(first, last):
                found.append(Stretch(self._union(self.hours, range(first, last, self.hour_ms)), last - first))
        return found

    def _is_known(self, start_ms: int, end_ms: int) -> bool:
        return not any(start_ms < until_ms and from_ms < end_ms for from_ms, until_ms in self.gaps)

    def _union(self, known: Mapping[int, bytes], starts: Iterable[int]) -> Cells:
        return merged_cells((opened(_unpack(known[at])) for at in starts if at in known), self.segmentation)

    def _know(self, start_ms: int) -> None:
        self.since_ms = start_ms if self.since_ms is None else min(self.since_ms, start_ms)
