"""Closed panes of events → how many requests came in each, for a serving side that tells its own count days later."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from streams.cells import Cells, count_events
from streams.duration import WEEK_MS
from streams.panes import hour_ms
from streams.predictions import cells_of, tally_of
from streams.rollup import Unit, UnitId

TOLD_WITHIN_MS = WEEK_MS
"""Observations that come later are not evaluated: the requests of their time have been evicted."""


@dataclass(slots=True)
class Seen:
    """Requests by pane. Hours of them are units: the panes that they are from may be forgotten before."""

    pane_ms: int
    longest_ms: int
    """Of the windows that will be asked for."""
    panes: dict[int, int] = field(default_factory=dict)
    stream: ClassVar[str] = "seen"

    @property
    def hour_ms(self) -> int:
        return hour_ms(self.pane_ms)

    def close(self, start_ms: int, on_time: Cells) -> list[Unit]:
        """Takes a closed pane; gives the hour that ends with it."""
        self.panes[start_ms] = count_events(on_time)
        end_ms = start_ms + self.pane_ms
        if end_ms % self.hour_ms:
            return []
        starts = range(end_ms - self.hour_ms, end_ms, self.pane_ms)
        tally = {("pane", str(at)): self.panes[at] for at in starts if at in self.panes}
        return [Unit(self.hour_ms, starts.start, cells_of(tally), self.stream)]

    def restore(self, unit: Unit) -> None:
        if unit.level_ms == self.hour_ms:
            tally = tally_of(unit.cells, 0)
            starts = range(unit.start_ms, unit.start_ms + unit.level_ms, self.pane_ms)
            self.panes |= {at: tally["pane", str(at)] for at in starts if ("pane", str(at)) in tally}

    def drop_after(self, end_ms: int) -> None:
        """Drops restored panes that end later: they will be closed again."""
        self.panes = {at: requests for at, requests in self.panes.items() if at + self.pane_ms <= end_ms}

    def forget(self, end_ms: int) -> list[UnitId]:
        """Lets go of what no window needs any more; gives the hours among it."""
        oldest_ms = (end_ms - TOLD_WITHIN_MS - self.longest_ms) // self.hour_ms * self.hour_ms
        gone = [at for at in self.panes if at < oldest_ms]
        for at in gone:
            del self.panes[at]
        return [(self.stream, self.hour_ms, at) for at in sorted({at // self.hour_ms * self.hour_ms for at in gone})]

    def between(self, start_ms: int, end_ms: int) -> int | None:
        """Requests of a span of panes; None: not all of them are known."""
        starts = range(start_ms, end_ms, self.pane_ms)
        return sum(self.panes[at] for at in starts) if all(at in self.panes for at in starts) else None
