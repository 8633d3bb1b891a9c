"""Observations of a KPI in a window → its value, what it should be, and whether it is worse than that.

Worse means: by more than the tolerance, and by more than chance: z standard errors, z from a share of the false-alarm
budget. Without a target, what it should be is what the same hours of earlier weeks were, and chance is at least as much
as they differ.

Standard errors. Of many observations: of a mean by the sample's variance, of a ratio by the delta method (Cochran 1977,
Sampling Techniques, 6.4), of a sum as of a compound Poisson sum, whose variance the sum of the squares estimates.
Numbers that are told ready made, one for each minute or day, differ less than that: where there are enough of them, the
spread of the panes before the window is taken, by the median absolute deviation, which an incident of less than half of
them does not move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from streams.config import Aggregate, Better, Kpi
from streams.duration import DAY_MS, WEEK_MS
from streams.facts.layout import OBSERVED, Counter, squares, total
from streams.plan import ModelPlan
from streams.signals.evaluate import Result, single
from streams.signals.names import SIGNALS, Signal

TWO_SIDED_95 = 1.96
LEAST_OBSERVED = 20
"""Observations, or panes before the window, below which a standard error means nothing."""
MAD_TO_SD = 1.4826
"""Of a normal law."""


@dataclass(frozen=True, slots=True)
class Estimated:
    """A number with its standard error, and how many observations it is of."""

    value: float
    error: float
    n: int


def estimated(kpi: Kpi, parts: Sequence[Counter]) -> Estimated | None:
    """A KPI's number from the vectors of what it is made of; None: there is nothing to make it of."""
    n = min(int(part[OBSERVED]) for part in parts)
    if not n:
        return None
    sums = [(total(part), squares(part)) for part in parts]
    if kpi.aggregate is Aggregate.SUM:
        return Estimated(sums[0][0], math.sqrt(sums[0][1]), n)
    if kpi.aggregate is Aggregate.MEAN:
        mean = sums[0][0] / n
        return Estimated(mean, math.sqrt(max(0.0, sums[0][1] / n - mean**2) / n), n)
    (above, above_squares), (below, below_squares) = sums
    if not below:
        return None
    ratio = above / below
    return Estimated(ratio, math.sqrt(above_squares + ratio**2 * below_squares) / abs(below), n)


@dataclass(frozen=True, slots=True)
class Past:
    """The vectors of an earlier time, and how long that was."""

    parts: Sequence[Counter]
    span_ms: int


class KpiJudge:
    """Evaluates one KPI of a model."""

    def __init__(self, plan: ModelPlan, name: str) -> None:
        self.plan, self.name = plan, name
        self.kpi: Kpi = plan.config.kpis[name]
        cells = len(plan.segmentation.declared())
        overs = {plan.config.pane_ms, *(ms for rule in plan.config.rules for ms in plan.config.overs_ms(rule))}
        tests = len(plan.config.kpis) * cells * len(overs) * max(1.0, WEEK_MS / plan.config.pane_ms)
        self._z = -float(special.ndtri(plan.budget / tests / 2))

    @property
    def signal(self) -> Signal:
        lower, near = self.kpi.better is Better.HIGHER, self.kpi.better is Better.NEAR
        return replace(SIGNALS["kpi"], lower=lower, two_sided=near)

    def evaluate(
        self, parts: Sequence[Counter], span_ms: int, past: Sequence[Past], before: Sequence[Past]
    ) -> Result | None:
        """None: nothing was observed. `past`: the same hours of earlier weeks; `before`: the time before the window. A
        target is judged even while there is no past."""
        now = estimated(self.kpi, parts)
        if now is None:
            return None
        now, known = self._surer(now, span_ms, before)
        base, error, furthest = self._base(now, span_ms, past)
        margin = max(abs(base) * self.kpi.tolerance, self._z * error)
        sign = -1 if self.kpi.better is Better.HIGHER else 1
        threshold = base + sign * margin
        if furthest is not None:
            threshold = sign * max(sign * threshold, sign * furthest)
        if not known and now.n < LEAST_OBSERVED:
            threshold = np.nan
        around = (now.value - TWO_SIDED_95 * now.error, now.value + TWO_SIDED_95 * now.error)
        found = single("kpi", now.value, base, threshold, now.n, around)
        return replace(found, signal=self.signal, columns=(self.name,))

    def _surer(self, now: Estimated, span_ms: int, before: Sequence[Past]) -> tuple[Estimated, bool]:
        """With the standard error that the time before shows, and whether it shows one."""
        units = [(found.value, part.span_ms) for part in before if (found := estimated(self.kpi, part.parts))]
        if len(units) < LEAST_OBSERVED:
            return now, False
        values = np.array([value for value, _ in units])
        spread = MAD_TO_SD * float(np.median(np.abs(values - np.median(values))))
        share = span_ms / units[0][1]
        if self.kpi.aggregate is Aggregate.SUM:
            return replace(now, error=spread * math.sqrt(share)), True
        return (now if now.n >= LEAST_OBSERVED * share else replace(now, error=spread / math.sqrt(share))), True

    def _base(self, now: Estimated, span_ms: int, past: Sequence[Past]) -> tuple[float, float, float | None]:
        """What it should be, the standard error of the difference, and the worst of earlier times."""
        if self.kpi.target is not None:
            days = span_ms / DAY_MS if self.kpi.aggregate is Aggregate.SUM else 1.0
            return self.kpi.target * days, now.error, None
        known = [self._scaled(item, span_ms) for item in past]
        values = [item.value for item in known if item is not None]
        if len(values) < 2:
            return np.nan, np.nan, None
        base, spread = float(np.mean(values)), float(np.std(values, ddof=1))
        chance = max(now.error, spread)
        error = chance * math.sqrt(1 + 1 / len(values))
        signs = {Better.LOWER: max(values), Better.HIGHER: min(values)}
        furthest = signs.get(self.kpi.better, base + max(abs(value - base) for value in values))
        return base, error, furthest

    def _scaled(self, past: Past, span_ms: int) -> Estimated | None:
        """A sum as it would be in a time as long as the window; one of which nothing was observed is 0."""
        found = estimated(self.kpi, past.parts)
        if self.kpi.aggregate is not Aggregate.SUM:
            return found
        share = span_ms / past.span_ms
        return Estimated(found.value * share, found.error * math.sqrt(share), found.n) if found else Estimated(0, 0, 0)


class CaptureJudge:
    """Holds the requests that the serving side counted against the events that came."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan
        panes = max(1.0, WEEK_MS / plan.config.pane_ms)
        self._z = -float(special.ndtri(plan.budget / panes / 2))

    def evaluate(self, served: Counter, seen: int, effect: float) -> Result | None:
        """None: nothing was counted. Events and the counters' reports fall on either side of a window's ends: chance is
        taken to be that of a Poisson count."""
        counted = total(served)
        if counted <= 0:
            return None
        certain = self._z * math.sqrt(counted) / counted
        return single("capture_ratio", seen / counted, 1.0, 1.0 - max(effect, certain), counted)
