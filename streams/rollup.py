"""Closed panes → windows: panes roll up to hours and days, and a window is a union of the largest units that fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from streams.cells import Cells, Segmentation, cap_versions
from streams.panes import levels_ms

UNITS_PER_WINDOW = 12
"""A window is made of whole hours (days) once it holds at least this many of them: its start is rounded down."""


def merged_cells(parts: Iterable[Cells], segmentation: Segmentation) -> Cells:
    """Union of cells, with no more versions than the cap; no operand is changed."""
    union: Cells = {}
    for part in parts:
        for key, profile in part.items():
            union[key] = union[key].merged(profile) if key in union else profile
    cap_versions(union, segmentation)
    return union


UnitId = tuple[str, int, int]
"""Stream, level and start."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A finished hour or day of a model: `level_ms` long, from `start_ms`. `stream`: what it is of, if not events.
    `made`: the fingerprint of what its counts depend on; empty where it was not written down."""

    level_ms: int
    start_ms: int
    cells: Cells
    stream: str = ""
    made: str = ""

    @property
    def id(self) -> UnitId:
        return self.stream, self.level_ms, self.start_ms


class Retained(Protocol):
    """What outlives the panes that it is made of: history that is kept with the state as units of one stream.

    An evaluator closes panes in event-time order, and then forgets. A restart restores the units, drops those that
    end after what was evaluated, and closes the panes of after that again: the units are made again, byte for byte.
    """

    @property
    def stream(self) -> str:
        """What the units are of; empty for events."""

    def close(self, start_ms: int, cells: Cells, /) -> list[Unit]:
        """Takes a closed pane; returns the units that end with it."""

    def restore(self, unit: Unit) -> None:
        """Takes a unit of the stream."""

    def drop_after(self, end_ms: int) -> None:
        """Drops what was restored and ends later: its panes will be closed again."""

    def forget(self, end_ms: int) -> list[UnitId]:
        """Evicts what no window that ends at `end_ms` or later needs; returns the units among it."""


@dataclass(slots=True)
class Rollup:
    """The on-time cells of a model's closed panes, at every level, as far back as its longest window needs."""

    pane_ms: int
    overs_ms: tuple[int, ...]
    """Lengths of the windows that will be asked for: only the levels that one of them is made of are kept."""
    segmentation: Segmentation
    units: dict[int, dict[int, Cells]] = field(default_factory=dict)
    stream: ClassVar[str] = ""

    def __post_init__(self) -> None:
        levels = levels_ms(self.pane_ms)
        largest = max(level for level in levels if level == self.pane_ms or level * UNITS_PER_WINDOW <= self.longest_ms)
        self.units = {level: {} for level in levels if level <= largest}

    @property
    def longest_ms(self) -> int:
        return max(self.overs_ms, default=self.pane_ms)

    def close(self, start_ms: int, cells: Cells) -> list[Unit]:
        """Takes a closed pane; gives the hours and days that end with it."""
        self.units[self.pane_ms][start_ms] = cells
        finished = []
        end_ms = start_ms + self.pane_ms
        for below, level in zip(self.levels, self.levels[1:], strict=False):
            if end_ms % level:
                break
            if end_ms - level in self.units[level]:
                continue  # restored: some of its panes may be gone
            parts = self._between(below, end_ms - level, end_ms)
            unit = Unit(level, end_ms - level, merged_cells(parts, self.segmentation))
            self.units[level][unit.start_ms] = unit.cells
            finished.append(unit)
        return finished

    def finished(self) -> set[UnitId]:
        """The units above the pane."""
        return {("", level, start) for level in self.levels[1:] for start in self.units[level]}

    def restore(self, unit: Unit) -> None:
        if unit.level_ms in self.units:
            self.units[unit.level_ms][unit.start_ms] = unit.cells

    def drop_after(self, end_ms: int) -> None:
        """Drops the restored units that end later: their panes will be closed again."""
        for level in self.levels[1:]:
            self.units[level] = {at: cells for at, cells in self.units[level].items() if at + level <= end_ms}

    def span(self, end_ms: int, over_ms: int) -> tuple[int, int]:
        """Start and end of the window of about `over_ms` that ends there."""
        unit = self._unit(over_ms)
        return (end_ms - over_ms) // unit * unit, end_ms

    def window(self, start_ms: int, end_ms: int) -> Cells:
        """The union of the panes in a span, made of the largest finished units."""
        return merged_cells(self._pieces(start_ms, end_ms), self.segmentation)

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(self.units)

    def _unit(self, over_ms: int) -> int:
        return max((level for level in self.levels if level * UNITS_PER_WINDOW <= over_ms), default=self.pane_ms)

    def _pieces(self, start_ms: int, end_ms: int) -> Iterator[Cells]:
        at = start_ms
        while at < end_ms:
            for level in reversed(self.levels):
                cells = self.units[level].get(at) if at % level == 0 and at + level <= end_ms else None
                if cells is not None:
                    yield cells
                    at += level
                    break
            else:
                at += self.pane_ms

    def _between(self, level: int, start_ms: int, end_ms: int) -> Iterator[Cells]:
        units = self.units[level]
        return (units[at] for at in range(start_ms, end_ms, level) if at in units)

    def forget(self, end_ms: int) -> list[UnitId]:
        """Keeps of each level what a window that starts in units of it, or the next level's open unit, can need.

        Returns the hours and days that are evicted, the shortest and oldest first.
        """
        evicted: list[UnitId] = []
        for level, above in zip(self.levels, (*self.levels[1:], 0), strict=True):
            reach = min(self.longest_ms, level * UNITS_PER_WINDOW * (above // level)) if above else self.longest_ms
            oldest = end_ms - reach - 2 * max(above, level)
            units = self.units[level]
            for start_ms in sorted(start_ms for start_ms in units if start_ms < oldest):
                del units[start_ms]
                if level > self.pane_ms:
                    evicted.append((self.stream, level, start_ms))
        return evicted
