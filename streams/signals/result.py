"""What signals are evaluated on, and what comes of it: a window of cells → results of one cell, signal by signal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from streams.arrays import Floats, Mask
from streams.baseline import SegmentKey
from streams.cells import Cells
from streams.plan import ModelPlan
from streams.signals.names import SIGNALS, Signal
from streams.sketch.profile import Profile

CONFIDENT = 1.96
"""Standard errors to either side of an interval at 95 %."""


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window. `silent_ms`: time without events at its end.

    A `partial` window does not hold its whole time, so its volume is not judged.
    """

    start_ms: int
    end_ms: int
    over_ms: int
    cells: Cells
    silent_ms: int = 0
    partial: bool = False

    @property
    def seconds(self) -> float:
        return (self.end_ms - self.start_ms) / 1000


@dataclass(frozen=True, slots=True)
class Result:
    """One signal of one cell, over its columns. A threshold that does not exist is NaN: no verdict."""

    signal: Signal
    columns: tuple[str | None, ...]
    value: Floats
    baseline: Floats
    threshold: Floats
    n: Floats
    interval: tuple[float, float] | None = None
    """Of a single labelled number: where the truth lies, at 95 %."""

    @property
    def breached(self) -> Mask:
        with np.errstate(invalid="ignore"):
            if self.signal.two_sided:
                return np.abs(self.value - self.baseline) > np.abs(self.threshold - self.baseline)
            return self.value < self.threshold if self.signal.lower else self.value > self.threshold


@dataclass(frozen=True, slots=True)
class CellResult:
    """All signals of one cell. `version` is None for the model as a whole."""

    version: str | None
    segment: SegmentKey
    profile: Profile
    results: tuple[Result, ...]
    events: int
    """The sample that the rules' `min_n` is about."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """What the scores lead to expect of the labels: valid under covariate shift only."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Of labelled outcomes, numbers without a verdict."""


def effect_of(plan: ModelPlan, name: str) -> float:
    """The smallest effect that a signal speaks of, as it is configured."""
    tuning = plan.config.signals.get(name)
    return SIGNALS[name].effect if tuning is None or tuning.effect is None else float(tuning.effect)


def single(
    name: str,
    value: float,
    baseline: float,
    threshold: float,
    n: float,
    interval: tuple[float, float] | None = None,
) -> Result:
    """A signal that is one number."""
    value_, baseline_, threshold_, n_ = (np.array([number], float) for number in (value, baseline, threshold, n))
    return Result(SIGNALS[name], (None,), value_, baseline_, threshold_, n_, interval)
