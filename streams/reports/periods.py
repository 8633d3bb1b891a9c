"""A cadence and a day → the time that its report is about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from streams.duration import DAY_MS, WEEK_MS
from streams.times import instant_ms

CONTEXT_MS = 4 * WEEK_MS
"""Days before the period that a daily and a weekly report show for comparison."""
_EPOCH = date(1970, 1, 1)


class Cadence(StrEnum):
    """How often a report is made."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True)
class Period:
    """Whole days in UTC, epoch milliseconds. `before_ms`: where the period before it begins; `context_ms`: where the
    figures begin."""

    cadence: Cadence
    start_ms: int
    end_ms: int
    before_ms: int
    context_ms: int

    def holds(self, time_ms: int) -> bool:
        return self.start_ms <= time_ms < self.end_ms

    def is_before(self, time_ms: int) -> bool:
        """Whether it lies in the period before."""
        return self.before_ms <= time_ms < self.start_ms

    @property
    def days_ms(self) -> range:
        """Where each of its days begins."""
        return range(self.start_ms, self.end_ms, DAY_MS)

    @property
    def shown_ms(self) -> range:
        """Where each day of its figures begins."""
        return range(self.context_ms, self.end_ms, DAY_MS)


def period_of(cadence: Cadence, day: date) -> Period:
    """The day, the seven days that end with it, or the calendar month that it is in.

    >>> period_of(Cadence.MONTHLY, date(2024, 2, 10)).days_ms.__len__()
    29
    """
    if cadence is Cadence.MONTHLY:
        first = day.replace(day=1)
        start, end = _day_ms(first), _day_ms((first + timedelta(days=31)).replace(day=1))
        before = _day_ms((first - timedelta(days=1)).replace(day=1))
        return Period(cadence, start, end, before, before)
    end = _day_ms(day) + DAY_MS
    length_ms = DAY_MS if cadence is Cadence.DAILY else WEEK_MS
    return Period(cadence, end - length_ms, end, end - 2 * length_ms, end - CONTEXT_MS)


def day_of(time_ms: int) -> date:
    """The day in UTC that a time is in."""
    return _EPOCH + timedelta(days=time_ms // DAY_MS)


def day_text(time_ms: int) -> str:
    """As 24 June 2013."""
    day = day_of(time_ms)
    return f"{day.day} {day:%B %Y}"


def span_text(period: Period) -> str:
    """As a person would say it.

    >>> span_text(period_of(Cadence.WEEKLY, date(2013, 6, 30)))
    '24 to 30 June 2013'
    """
    first, last = day_of(period.start_ms), day_of(period.end_ms - 1)
    if period.cadence is Cadence.MONTHLY:
        return f"{first:%B %Y}"
    if first == last:
        return f"{first:%A}, {day_text(period.start_ms)}"
    start = f"{first.day}" if (first.year, first.month) == (last.year, last.month) else f"{first.day} {first:%B}"
    start = f"{start} {first.year}" if first.year != last.year else start
    return f"{start} to {day_text(period.end_ms - 1)}"


def _day_ms(day: date) -> int:
    return (day - _EPOCH).days * DAY_MS


def day_ms(text: str) -> int:
    """Where the day of an RFC 3339 text begins; NO_TIME for what is none."""
    at = instant_ms(text)
    return at - at % DAY_MS
