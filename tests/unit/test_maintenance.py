"""Maintenance windows: once, daily, over midnight, on some weekdays."""

from __future__ import annotations

import pytest

from streams.maintenance import Maintenance
from streams.times import instant_ms

NIGHT = Maintenance(daily="23:30-01:00", days=("sat",))


@pytest.mark.parametrize(
    ("moment", "on"),
    [
        ("2026-01-10T23:29:59Z", False),
        ("2026-01-10T23:30:00Z", True),  # a Saturday
        ("2026-01-11T00:59:59Z", True),  # the night that began on it
        ("2026-01-11T01:00:00Z", False),
        ("2026-01-11T23:45:00Z", False),
        ("2026-01-10T00:30:00Z", False),
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(moment: str, on: bool) -> None:
    assert NIGHT.holds("any", instant_ms(moment)) == on


def test_every_day_is_the_default() -> None:
    daily = Maintenance(daily="02:00-03:00")
    days = [instant_ms(f"2026-01-{day:02}T02:30:00Z") for day in range(5, 12)]
    assert all(daily.holds("any", day) for day in days)
    assert not any(daily.holds("any", day + 3_600_000) for day in days)


def test_it_may_be_about_some_rules_alone() -> None:
    once = Maintenance(from_="2026-01-05T00:00:00Z", to="2026-01-06T00:00:00+01:00", rules=("a",))
    inside, after = instant_ms("2026-01-05T12:00:00Z"), instant_ms("2026-01-05T23:00:00Z")
    assert [once.holds("a", inside), once.holds("b", inside), once.holds("a", after)] == [True, False, False]
