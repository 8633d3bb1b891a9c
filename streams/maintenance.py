"""Maintenance windows: spans in which no rule begins to fire."""

from __future__ import annotations

import re

import msgspec

from streams.duration import DAY_MS, HOUR_MS, UNITS_MS
from streams.times import instant_ms

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
THURSDAY = 3
"""Weekday of the first of January 1970."""
DAILY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Maintenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A span in which rules do not begin to fire: between two times, or daily between two times of UTC, on some
    weekdays.

    `rules`: the rules that it applies to; empty: all of the model.
    """

    from_: str | None = None
    to: str | None = None
    daily: str | None = None
    days: tuple[str, ...] = WEEKDAYS
    rules: tuple[str, ...] | None = None

    @property
    def span_ms(self) -> tuple[int, int] | None:
        return (instant_ms(self.from_), instant_ms(self.to)) if self.from_ and self.to else None

    @property
    def daily_ms(self) -> tuple[int, int] | None:
        """Beginning and end in ms since midnight; the end may be after the next midnight."""
        if self.daily is None:
            return None
        match = DAILY.fullmatch(self.daily)
        if match is None:
            raise ValueError(self.daily)
        start, end = (int(match[i]) * HOUR_MS + int(match[i + 1]) * UNITS_MS["m"] for i in (1, 3))
        return start, end if end > start else end + DAY_MS

    def holds(self, rule: str, time_ms: int) -> bool:
        """Whether a time is in maintenance for a rule."""
        if self.rules is not None and rule not in self.rules:
            return False
        if self.span_ms is not None:
            return self.span_ms[0] <= time_ms < self.span_ms[1]
        if self.daily_ms is None:
            return False
        start, end = self.daily_ms
        midnight = time_ms // DAY_MS * DAY_MS
        return any(
            day + start <= time_ms < day + end and WEEKDAYS[(day // DAY_MS + THURSDAY) % 7] in self.days
            for day in (midnight, midnight - DAY_MS)
        )
