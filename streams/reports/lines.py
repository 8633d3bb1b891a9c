"""What was gathered → lines of a report: signals against their limits, and labelled numbers with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from streams.duration import DAY_MS
from streams.reports.gather import Cell, Day, Gathered, Track, point_of
from streams.reports.periods import day_of
from streams.reports.pool import Interval, Point, difference, pooled
from streams.signals.names import SIGNALS

HEALTH, DATA, MODEL = ("health",), ("quality",), ("drift", "score")
LABEL_FLOW, OUTCOMES = ("labels",), ("performance", "calibration")
KNOWN = frozenset({*HEALTH, *DATA, *MODEL, *LABEL_FLOW, *OUTCOMES})
"""Families that have a section of their own; each other one gets a section under its own name."""
NOT_HELD = frozenset({"calibration_error"})
"""What is a number of single spans only: their mean says nothing against the reference's number, which is of one long
span, for what differs from day to day cancels there."""
ERROR_RATE = "error_rate"
"""One less the accuracy, so that segments and the whole can stand side by side."""


class SignalLine(msgspec.Struct, frozen=True, kw_only=True):
    """A signal over a period. `nearest`: how far its worst window went from the baseline (0) to the limit (1)."""

    family: str
    name: str
    feature: str | None
    version: str | None
    segment: dict[str, str] | None
    mean: float | None
    before: float | None
    """The mean of the period before."""
    worst: float | None
    baseline: float | None
    threshold: float | None
    nearest: float | None
    n: int
    windows: int
    breached: int
    days_breached: int
    days: tuple[float | None, ...]
    """`nearest` of every day that is shown."""


class MeasureLine(msgspec.Struct, frozen=True, kw_only=True):
    """A labelled number of a cell over a period, with the interval that the report's number of lines asks for."""

    name: str
    feature: str | None
    version: str | None
    segment: dict[str, str] | None
    now: Interval
    reference: float | None
    before: Interval | None = None
    moved: tuple[float, float, float] | None = None
    """now − before, and its interval."""

    @property
    def verdict(self) -> str:
        """Against its reference: worse, better or no different, beyond chance."""
        if self.reference is None:
            return "no reference"
        if self.now.low <= self.reference <= self.now.high:
            return "no different"
        return "worse" if self._is_worse(self.now.value - self.reference) else "better"

    @property
    def turned(self) -> str:
        """Against the period before."""
        if self.moved is None:
            return "nothing to compare with"
        moved, low, high = self.moved
        if low <= 0 <= high:
            return "no different"
        if self.before is not None and self.reference is not None and is_two_sided(self.name):
            further = abs(self.now.value - self.reference) > abs(self.before.value - self.reference)
            return "worse" if further else "better"
        return "worse" if self._is_worse(moved) else "better"

    @property
    def excess(self) -> float:
        """By how much it is certainly worse than its reference, in units of the smallest effect."""
        if self.reference is None:
            return -math.inf
        off, half = self.now.value - self.reference, (self.now.high - self.now.low) / 2
        worse = abs(off) if is_two_sided(self.name) else -off if is_lower(self.name) else off
        return (worse - half) / (effect_of(self.name, self.reference) or 1.0)

    def _is_worse(self, off: float) -> bool:
        return is_two_sided(self.name) or (off < 0) == is_lower(self.name)


def is_lower(name: str) -> bool:
    """Whether less of it is worse."""
    return name in SIGNALS and SIGNALS[name].lower


def is_two_sided(name: str) -> bool:
    return name in SIGNALS and SIGNALS[name].two_sided


def effect_of(name: str, reference: float) -> float:
    """The smallest effect that justifies a decision, in the signal's own unit."""
    signal = SIGNALS["accuracy" if name == ERROR_RATE else name]
    return abs(reference) * (signal.effect - 1) if signal.relative else signal.effect


# Signals


def signal_lines(gathered: Gathered, families: Iterable[str] | None) -> list[SignalLine]:
    """Those of some families, or of all that are in no list; the nearest to their limits first."""
    wanted = None if families is None else frozenset(families)
    lines = [
        line
        for track, days in gathered.tracks.items()
        if (track.family in wanted if wanted is not None else track.family not in KNOWN)
        if (line := _signal_line(gathered, track, days)) is not None
    ]
    return sorted(lines, key=_place)


def _place(line: SignalLine) -> tuple[float, float, str, str, str]:
    reached = -math.inf if line.nearest is None else line.nearest
    return -line.days_breached, -reached, line.name, line.feature or "", str(line.segment)


def _signal_line(gathered: Gathered, track: Track, days: dict[int, Day]) -> SignalLine | None:
    period = gathered.period
    inside = [day for at, day in days.items() if period.holds(at)]
    if not inside:
        return None
    worst = max(inside, key=lambda day: (day.nearest, day.windows))
    return SignalLine(
        family=track.family,
        name=track.name,
        feature=track.feature,
        version=track.cell.version,
        segment=dict(track.cell.segment) or None,
        mean=_mean(inside),
        before=_mean([day for at, day in days.items() if period.is_before(at)]),
        worst=worst.value,
        baseline=worst.baseline,
        threshold=worst.threshold,
        nearest=_finite(worst.nearest),
        n=sum(day.n for day in inside),
        windows=sum(day.windows for day in inside),
        breached=sum(day.breached for day in inside),
        days_breached=sum(day.breached > 0 for day in inside),
        days=tuple(_finite(days[at].nearest) if at in days else None for at in period.shown_ms),
    )


def _mean(days: Iterable[Day]) -> float | None:
    """Rounded, so that it does not depend on the order in which the windows were read."""
    found = list(days)
    weight = sum(day.weight for day in found)
    return float(f"{sum(day.total for day in found) / weight:.9g}") if weight else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# Labelled numbers


def cells(gathered: Gathered) -> list[Cell]:
    """Those of which predictions of the period are known: the whole of each version first."""
    inside = {cell for (cell, _), spans in gathered.matured().items() if gathered.period.holds(spans.end_ms - 1)}
    return sorted(inside, key=lambda cell: (cell.version or "", cell.segment))


def measures(gathered: Gathered, cell: Cell) -> list[tuple[str, str | None]]:
    """The labelled signals of a cell, of the families of outcomes."""
    found = dict.fromkeys(
        (signal.name, signal.feature)
        for (other, _), spans in gathered.matured().items()
        if other == cell and gathered.period.holds(spans.end_ms - 1)
        for signal in spans.signals
        if signal.family in OUTCOMES and signal.value is not None
    )
    return list(found)


def measure_line(gathered: Gathered, cell: Cell, name: str, feature: str | None, z: float) -> MeasureLine | None:
    """None without labels in the period."""
    period = gathered.period
    now = pooled(name, gathered.points(cell, name, feature, period.start_ms, period.end_ms), z)
    if now is None:
        return None
    before = pooled(name, gathered.points(cell, name, feature, period.before_ms, period.start_ms), z)
    return MeasureLine(
        name=name,
        feature=feature,
        version=cell.version,
        segment=dict(cell.segment) or None,
        now=now,
        reference=reference_of(gathered, cell, name, feature),
        before=before,
        moved=difference(now, before, z) if before else None,
    )


def reference_of(gathered: Gathered, cell: Cell, name: str, feature: str | None) -> float | None:
    """What the reference data had; None too for what cannot be held against it."""
    if name in NOT_HELD:
        return None
    for (other, _), spans in gathered.matured().items():
        if other == cell:
            for signal in spans.signals:
                if (signal.name, signal.feature) == (name, feature) and signal.baseline is not None:
                    return signal.baseline
    return None


def as_error_rate(line: MeasureLine) -> MeasureLine:
    """An accuracy as the rate of errors, which segments have."""
    return msgspec.structs.replace(
        line,
        name=ERROR_RATE,
        now=_flipped(line.now),
        reference=None if line.reference is None else 1 - line.reference,
        before=_flipped(line.before) if line.before else None,
        moved=(-line.moved[0], -line.moved[2], -line.moved[1]) if line.moved else None,
    )


def _flipped(found: Interval) -> Interval:
    return Interval(1 - found.value, 1 - found.high, 1 - found.low, found.n, found.spans)


# Days


class DayPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A labelled number of one day, with what the scores led to expect of it."""

    day: str
    value: float
    low: float | None
    high: float | None
    n: int
    expected: float | None = None


def day_points(gathered: Gathered, cell: Cell, name: str, feature: str | None = None) -> list[DayPoint]:
    """Of each day that is shown; several spans of a day are pooled."""
    from_day: dict[int, list[tuple[Point, float | None]]] = {}
    for (other, start_ms), spans in gathered.matured().items():
        for signal in spans.signals if other == cell else ():
            if point := point_of(signal, name, feature):
                from_day.setdefault(start_ms // DAY_MS * DAY_MS, []).append((point, spans.expected.get(name)))
    return [found for at in sorted(from_day) if (found := _day_point(at, name, from_day[at]))]


def _day_point(at: int, name: str, found: list[tuple[Point, float | None]]) -> DayPoint | None:
    whole = pooled(name, [point for point, _ in found])
    if whole is None:
        return None
    known = [(point.n, expected) for point, expected in found if expected is not None and point.n]
    labels = sum(n for n, _ in known)
    expected = sum(n * value for n, value in known) / labels if labels else None
    day = day_of(at).isoformat()
    return DayPoint(day=day, value=whole.value, low=whole.low, high=whole.high, n=whole.n, expected=expected)
