"""Windows and periods that the tests of reports share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from streams.duration import DAY_MS
from streams.reports.gather import Gathered
from streams.reports.periods import Cadence, period_of
from streams.times import rfc3339
from streams.window import Clock, SignalRecord, WindowRecord

DAY = date(2024, 3, 15)
PERIODS = {cadence: period_of(cadence, DAY) for cadence in Cadence}
DAILY, WEEKLY, MONTHLY = (PERIODS[cadence] for cadence in Cadence)


def signal(name: str = "null_rate", value: float | None = 0.02, **said: Any) -> SignalRecord:
    defaults: dict[str, Any] = {
        "family": "quality",
        "feature": "age",
        "baseline": 0.0,
        "threshold": 0.1,
        "n": 100,
        "breached": value is not None and value > 0.1,
    }
    return SignalRecord(name=name, value=value, **{**defaults, **said})


def outcome(name: str, value: float, baseline: float, half: float = 0.05, **said: Any) -> SignalRecord:
    family = "calibration" if name.startswith("calibration") else "performance"
    around = (value - half, value + half)
    more = {"family": family, "feature": None, "baseline": baseline, "interval": around, "breached": False, "n": 400}
    return signal(name, value, **{**more, **said})


def window(
    at_ms: int, *signals: SignalRecord, length_ms: int = DAY_MS, clock: Clock = Clock.EVENT, **said: Any
) -> WindowRecord:
    counts = {"labels": 400, "predictions": 500} if clock is not Clock.EVENT else {"events": 1_000, "errors": 10}
    defaults: dict[str, Any] = {
        "model": "m",
        "version": "1",
        "segment": None,
        "revision": 0,
        "counts": counts,
        "top_unseen": {},
        "quantiles": {},
    }
    times = {"start": rfc3339(at_ms), "end": rfc3339(at_ms + length_ms)}
    return WindowRecord(signals=signals, clock=clock, **times, **{**defaults, **said})


def gathered(records: Sequence[WindowRecord], period: Any = DAILY) -> Gathered:
    found = Gathered("m", period)
    for record in records:
        found.take_window(record)
    return found


def hours(hour: int) -> int:
    """tests.actions counts hours from 1970."""
    return DAILY.start_ms // 3_600_000 + hour


def a_month(accuracy: float) -> Gathered:
    days = [
        window(at, outcome("accuracy", accuracy, 0.8), outcome("calibration_intercept", 0.0, 0.0), clock=Clock.TRUTH)
        for at in MONTHLY.days_ms
    ]
    return gathered(days, MONTHLY)
