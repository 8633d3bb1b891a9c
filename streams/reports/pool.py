"""Labelled numbers of single days → one number with its interval, and what moved between two periods.

Days differ by more than chance within a day (a storm hits all flights of a day), so the variance is multiplied by the
ratio of the days' spread to what chance explains, where that is above 1 (Birge 1932, Phys. Rev. 40). Intervals that
stand side by side are corrected for their number (Bonferroni; Dunn 1961, JASA 56): all of them hold together at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from scipy.special import ndtri

from streams.signals.outcome import wilson
from streams.signals.result import CONFIDENT

MISTAKES = 0.05
SHARES = frozenset({"accuracy", "error_rate", "segment_error_rate", "class_recall", "class_precision"})
MEANS = frozenset({"log_loss", "mae", "calibration_error"})


class Interval(msgspec.Struct, frozen=True):
    """A number, where the truth lies, the labels behind it, and from how many spans."""

    value: float
    low: float
    high: float
    n: int
    spans: int

    def error(self, z: float) -> float:
        """The standard error, of an interval that was made with `z`."""
        return (self.high - self.low) / (2 * z)


@dataclass(frozen=True, slots=True)
class Point:
    """A number of one span: its labels, and its interval at 95 % where it has one."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> float:
        """0 where it is not known."""
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / (2 * CONFIDENT)


def corrected_z(comparisons: int) -> float:
    """Standard errors on each side, for so many intervals that shall hold together.

    >>> round(corrected_z(1), 2), round(corrected_z(8), 2)
    (1.96, 2.73)
    """
    return float(-ndtri(MISTAKES / (2 * max(1, comparisons))))


def pooled(name: str, points: Sequence[Point], z: float = CONFIDENT) -> Interval | None:
    """One number of a signal's spans; None without labels.

    Shares and means are weighted by labels, all else by the inverse of the variance.
    """
    usable = [point for point in points if point.n > 0 and math.isfinite(point.value)]
    if name not in SHARES:
        usable = [point for point in usable if point.error > 0]
    if not usable:
        return None
    weights = [1 / point.error**2 if name not in SHARES | MEANS else float(point.n) for point in usable]
    value = sum(w * point.value for w, point in zip(weights, usable, strict=True)) / sum(weights)
    n = sum(point.n for point in usable)
    if name in SHARES:
        value = min(1.0, max(0.0, value))  # the sum of weights can be off by a rounding
        chance = value * (1 - value)
        excess = _excess([point.n * (point.value - value) ** 2 / chance for point in usable] if chance > 0 else [])
        low, high = wilson(value * n / excess, n / excess, z)
        return Interval(value, min(low, value), max(high, value), n, len(usable))
    excess = _excess([((point.value - value) / point.error) ** 2 for point in usable])
    variance = sum((w * point.error) ** 2 for w, point in zip(weights, usable, strict=True)) / sum(weights) ** 2
    half = z * math.sqrt(variance * excess)
    return Interval(value, value - half, value + half, n, len(usable))


def _excess(squares: Sequence[float]) -> float:
    """The spread of the spans over what chance explains, at least 1."""
    return max(1.0, sum(squares) / (len(squares) - 1)) if len(squares) > 1 else 1.0


def difference(now: Interval, before: Interval, z: float) -> tuple[float, float, float]:
    """now − before and its interval, of two that were pooled with the same `z`."""
    moved, half = now.value - before.value, z * math.hypot(now.error(z), before.error(z))
    return moved, moved - half, moved + half
