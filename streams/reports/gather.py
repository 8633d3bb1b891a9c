"""Records of windows, actions and acks, one by one → what a report of one model and period needs of them.

Memory is bounded by the signals times the days that are shown, and by the panes and cohorts of these days; it does not
grow with the log. Whatever a signal's family or clock, it is kept under its family: a new one needs nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from streams.ack import Ack
from streams.action import Action
from streams.duration import DAY_MS
from streams.reports.incidents import Incident, Incidents
from streams.reports.periods import Period
from streams.reports.pool import Point
from streams.times import NO_TIME, instant_ms
from streams.window import Clock, SignalRecord, WindowRecord

MATURED = (Clock.COHORT, Clock.TRUTH)
"""Clocks whose records hold outcomes of the predictions of a span."""
Segment = tuple[tuple[str, str], ...]


class Cell(NamedTuple):
    """A version (None: the model as a whole) and a segment (empty: not one)."""

    version: str | None
    segment: Segment = ()


class Track(NamedTuple):
    """A signal of a cell."""

    cell: Cell
    family: str
    name: str
    feature: str | None


class Day(msgspec.Struct):
    """What a signal's windows of one day said."""

    windows: int = 0
    breached: int = 0
    n: int = 0
    total: float = 0.0
    """Sum of the values, each as often as its n, or once where it has none."""
    weight: float = 0.0
    nearest: float = -math.inf
    """How far the worst went from its baseline to its threshold: 1 is at the limit."""
    value: float | None = None
    baseline: float | None = None
    threshold: float | None = None
    """All three of that window."""

    def take(self, signal: SignalRecord) -> None:
        self.windows += 1
        self.breached += signal.breached
        if signal.value is None:
            return
        self.n += signal.n or 0
        weight = float(signal.n or 1)
        self.total, self.weight = self.total + weight * signal.value, self.weight + weight
        reached = nearness(signal)
        self._keep(-math.inf if reached is None else reached, signal.value, signal.baseline, signal.threshold)

    def _keep(self, nearest: float, value: float, baseline: float | None, threshold: float | None) -> None:
        """The worst, whatever the order: of equal ones that with the tighter limit."""
        known = self.nearest, -abs(self.threshold or 0.0), self.value or 0.0
        if self.value is None or (nearest, -abs(threshold or 0.0), value) > known:
            self.nearest, self.value, self.baseline, self.threshold = nearest, value, baseline, threshold


class Labelled(NamedTuple):
    """Labelled performance of the predictions of one span, by the highest revision."""

    revision: int
    end_ms: int
    labels: int
    predictions: int
    signals: tuple[SignalRecord, ...]
    expected: dict[str, float]


class Gathered:
    """One model's fold."""

    def __init__(self, model: str, period: Period) -> None:
        self.model, self.period = model, period
        self.incidents = Incidents(period)
        self.tracks: dict[Track, dict[int, Day]] = {}
        """By signal and where a day begins."""
        self.online: tuple[int, dict[str, float | str | None]] = (NO_TIME, {})
        """The online recalibration at the end of the period, and when that was."""
        self._traffic: dict[int, tuple[int, int, int]] = {}
        self._pane_ms = 0
        self._arrived: dict[int, int] = {}
        self._labelled: dict[Clock, dict[tuple[Cell, int], Labelled]] = {clock: {} for clock in MATURED}

    # What comes in

    def take_action(self, action: Action, shadow: bool = False) -> None:
        self.incidents.take(action, shadow)

    def take_ack(self, ack: Ack) -> None:
        self.incidents.take_ack(ack)

    def take_window(self, record: WindowRecord) -> None:
        """A window of any clock; what lies outside of the days that are shown changes nothing."""
        start_ms, end_ms = instant_ms(record.start), instant_ms(record.end)
        at_ms = end_ms - 1
        if NO_TIME in (start_ms, end_ms) or not self.period.context_ms <= at_ms < self.period.end_ms:
            return
        cell = Cell(record.version, tuple(sorted((record.segment or {}).items())))
        if record.clock in MATURED:
            self._take_labelled(record, cell, start_ms, end_ms)
            return
        if record.clock is Clock.EVENT and cell == Cell(None):
            self._take_traffic(record, start_ms, end_ms)
        if record.revision == 0:
            self._take_judged(record, cell, at_ms)

    def _take_traffic(self, record: WindowRecord, start_ms: int, end_ms: int) -> None:
        """Of windows of several lengths the shortest are counted: they do not overlap."""
        length_ms = end_ms - start_ms
        if self._pane_ms and length_ms > self._pane_ms:
            return
        if length_ms < self._pane_ms:
            self._traffic.clear()
        self._pane_ms = length_ms
        known = self._traffic.get(start_ms)
        if known is None or record.revision >= known[0]:
            self._traffic[start_ms] = record.revision, record.counts.get("events", 0), record.counts.get("errors", 0)

    def _take_judged(self, record: WindowRecord, cell: Cell, at_ms: int) -> None:
        if record.clock is Clock.ARRIVAL:
            if cell == Cell(None):
                self._arrived[at_ms] = record.counts.get("labels", 0)
            if not cell.segment and cell.version is not None and record.online and at_ms >= self.online[0]:
                self.online = at_ms, record.online
        for signal in record.signals:
            if not cell.segment or signal.breached:
                days = self.tracks.setdefault(Track(cell, signal.family, signal.name, signal.feature), {})
                days.setdefault(at_ms // DAY_MS * DAY_MS, Day()).take(signal)

    def _take_labelled(self, record: WindowRecord, cell: Cell, start_ms: int, end_ms: int) -> None:
        known = self._labelled[record.clock].get((cell, start_ms))
        if cell.version is None or (known is not None and known.revision > record.revision):
            return
        labels = record.counts.get("labels", 0)
        self._labelled[record.clock][cell, start_ms] = Labelled(
            record.revision,
            end_ms,
            labels,
            record.counts.get("predictions", labels),
            record.signals,
            record.expected,
        )

    # What comes out

    def told(self) -> list[Incident]:
        return self.incidents.told()

    def traffic(self) -> dict[int, tuple[int, int]]:
        """Events and errors, by day."""
        return _by_day((start_ms, events, errors) for start_ms, (_, events, errors) in self._traffic.items())

    def arrived(self) -> dict[int, int]:
        """Labels that came, by day."""
        return {at: found for at, (found, _) in _by_day((at, n, 0) for at, n in self._arrived.items()).items()}

    def matured(self) -> dict[tuple[Cell, int], Labelled]:
        """What is known of predictions: spans that were judged when their labels had come, or else the cohorts."""
        return self._labelled[Clock.TRUTH] or self._labelled[Clock.COHORT]

    def points(self, cell: Cell, name: str, feature: str | None, since_ms: int, until_ms: int) -> list[Point]:
        """A labelled signal's numbers of the spans that end in a time, in their order."""
        found = []
        for (other, _), spans in sorted(self.matured().items(), key=lambda item: item[1].end_ms):
            if other == cell and since_ms < spans.end_ms <= until_ms:
                found += [point for signal in spans.signals if (point := point_of(signal, name, feature))]
        return found


def point_of(signal: SignalRecord, name: str, feature: str | None) -> Point | None:
    if (signal.name, signal.feature) != (name, feature) or signal.value is None:
        return None
    return Point(signal.value, signal.n or 0, *(signal.interval or (None, None)))


def nearness(signal: SignalRecord) -> float | None:
    """How far a value went from its baseline to its threshold: 0 is as the reference, 1 at the limit."""
    if signal.value is None or signal.threshold is None:
        return None
    room = signal.threshold - (signal.baseline or 0.0)
    return (signal.value - (signal.baseline or 0.0)) / room if room else None


def _by_day(found: Iterator[tuple[int, int, int]]) -> dict[int, tuple[int, int]]:
    days: dict[int, tuple[int, int]] = {}
    for at_ms, first, second in found:
        day = at_ms // DAY_MS * DAY_MS
        known = days.get(day, (0, 0))
        days[day] = known[0] + first, known[1] + second
    return days
