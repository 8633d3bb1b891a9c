"""Observations of a KPI in a window → its value, what it should be, and whether it is worse than that.

Worse means: by more than the tolerance, and by more than chance: z standard errors, z from a share of the false-alarm
budget. Without a target, what it should be is what the same hours of earlier weeks were, and chance is at least as much
as they differ.

Every standard error is that of the window's own n. Of single cases: of a mean by the variance within times, of a ratio
by the delta method (Cochran 1977, Sampling Techniques, 6.4), of a sum as of a compound Poisson sum, whose variance the
sum of the squares estimates; each no smaller than what all that is known leads to expect of so many. Zeros and ones
follow the binomial law. A mean or ratio of fewer than 20 other cases is not tested. Numbers that come ready made, as
many in each minute or day, differ less than that: the spread of the panes before the window is taken, by the median
absolute deviation, which an incident of less than half of them does not move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from streams.arrays import CountVector
from streams.config import Aggregate, Better, Kpi
from streams.duration import DAY_MS
from streams.facts.layout import OBSERVED, squares, total
from streams.plan import ModelPlan
from streams.signals.budget import error_of_capture, error_of_kpis
from streams.signals.feedback import CERTAIN
from streams.signals.names import SIGNALS, Signal
from streams.signals.rate_limits import rate_floor, rate_threshold
from streams.signals.result import CONFIDENT, Result, single

LEAST_OBSERVED = 20
"""Observations, or panes before the window, below which a standard error means nothing."""
MAD_TO_SD = 1.4826
"""Of a normal law."""
REGULAR_SHARE = 0.9
"""Numbers come ready made if so large a share of the panes holds as many of them."""


@dataclass(frozen=True, slots=True)
class Estimated:
    """A number with its standard error, and how many observations it is of."""

    value: float
    error: float
    n: int


def estimated(kpi: Kpi, parts: Sequence[CountVector]) -> Estimated | None:
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

    parts: Sequence[CountVector]
    span_ms: int


@dataclass(frozen=True, slots=True)
class _Base:
    """What a number should be: of `n` observations in `times` earlier times, which differ by `spread`."""

    value: float
    n: float = CERTAIN
    spread: float = 0.0
    times: int = 0
    furthest: float | None = None
    """The worst of the earlier times."""


@dataclass(frozen=True, slots=True)
class _Regular:
    """Numbers that come ready made, `n` in every pane: the standard deviation of a pane's number."""

    spread: float
    n: float
    span_ms: int


class KpiJudge:
    """Evaluates one KPI of a model."""

    def __init__(self, plan: ModelPlan, name: str) -> None:
        self.plan, self.name = plan, name
        self.kpi: Kpi = plan.config.kpis[name]
        self.alpha = error_of_kpis(plan)

    @property
    def signal(self) -> Signal:
        lower, near = self.kpi.better is Better.HIGHER, self.kpi.better is Better.NEAR
        return replace(SIGNALS["kpi"], lower=lower, two_sided=near)

    def evaluate(
        self,
        parts: Sequence[CountVector],
        span_ms: int,
        past: Sequence[Past],
        before: Sequence[Past],
        *,
        of_part: bool = False,
    ) -> Result | None:
        """None: nothing was observed. A target is judged even while there is no past.

        Parameters:
            past: the same hours of earlier weeks.
            before: the time before the window.
            of_part: of a version or a segment: the target of a sum is the whole model's, and says nothing of it.
        """
        now = estimated(self.kpi, parts)
        if now is None:
            return None
        base, regular = self._base(span_ms, past, of_part), self._regular(before)
        groups = [parts, *(item.parts for item in (*past, *before))]
        mean, deviates = self.kpi.aggregate is Aggregate.MEAN, -float(special.ndtri(self.alpha))
        if regular is not None:
            share = span_ms / regular.span_ms if self.kpi.aggregate is Aggregate.SUM else regular.n / now.n
            now = replace(now, error=regular.spread * math.sqrt(share))
        else:
            now = replace(now, error=max(now.error, self._null_error(now, parts, groups, base.value)))
            if mean and (freedom := _within([group[0] for group in groups])[1]) > 0:
                deviates = -float(special.stdtrit(freedom, self.alpha))
        threshold = self._threshold(now, base, deviates)
        rate = mean and all(_is_rate(group[0]) for group in groups)
        if rate:
            threshold = self._beyond_binomial(threshold, now, base)
        if not (rate or regular or self._is_known(now, groups)):
            threshold = np.nan
        around = (now.value - CONFIDENT * now.error, now.value + CONFIDENT * now.error)
        found = single("kpi", now.value, base.value, threshold, now.n, around)
        return replace(found, signal=self.signal, columns=(self.name,))

    def _is_known(self, now: Estimated, groups: Sequence[Sequence[CountVector]]) -> bool:
        """Whether there are cases enough to say how much one differs from another."""
        n, _, square = _pooled([group[0] for group in groups])
        return n >= LEAST_OBSERVED and square > 0 if self.kpi.aggregate is Aggregate.SUM else now.n >= LEAST_OBSERVED

    def _base(self, span_ms: int, past: Sequence[Past], of_part: bool) -> _Base:
        """The target; without one what the same hours of earlier weeks were."""
        is_sum = self.kpi.aggregate is Aggregate.SUM
        if self.kpi.target is not None and not (is_sum and of_part):
            return _Base(self.kpi.target * (span_ms / DAY_MS if is_sum else 1.0))
        known = [found for item in past if (found := self._scaled(item, span_ms)) is not None]
        values = [item.value for item in known]
        if len(values) < 2:
            return _Base(np.nan)
        value, spread = float(np.mean(values)), float(np.std(values, ddof=1))
        signs = {Better.LOWER: max(values), Better.HIGHER: min(values)}
        furthest = signs.get(self.kpi.better, value + max(abs(each - value) for each in values))
        return _Base(value, max(1, sum(item.n for item in known)), spread, len(values), furthest)

    def _scaled(self, past: Past, span_ms: int) -> Estimated | None:
        """A sum as it would be in a time as long as the window; one of which nothing was observed is 0."""
        found = estimated(self.kpi, past.parts)
        if self.kpi.aggregate is not Aggregate.SUM:
            return found
        share = span_ms / past.span_ms
        return Estimated(found.value * share, found.error * math.sqrt(share), found.n) if found else Estimated(0, 0, 0)

    def _regular(self, before: Sequence[Past]) -> _Regular | None:
        """What the panes before show, if as many numbers come in nearly every one: single cases come irregularly."""
        found = [estimated(self.kpi, part.parts) for part in before]
        units = [item for item in found if item is not None]
        if len(units) < LEAST_OBSERVED:
            return None
        n = float(np.median([item.n for item in units]))
        if sum(item.n == n for item in units) < REGULAR_SHARE * len(found):
            return None
        values = np.array([item.value for item in units])
        spread = MAD_TO_SD * float(np.median(np.abs(values - np.median(values))))
        return _Regular(spread, n, before[0].span_ms) if spread > 0 else None

    def _null_error(
        self, now: Estimated, parts: Sequence[CountVector], groups: Sequence[Sequence[CountVector]], base: float
    ) -> float:
        """The standard error at this n if the number were as it should be, from all observations that are known."""
        if self.kpi.aggregate is Aggregate.MEAN:
            return math.sqrt(_within([group[0] for group in groups])[0] / now.n)
        (_, whole, square), *rest = (_pooled([group[i] for group in groups]) for i in range(len(parts)))
        if not math.isfinite(base):
            return 0.0
        size = square / abs(whole) if whole else 0.0  # of a compound Poisson sum, the variance of one unit
        if self.kpi.aggregate is Aggregate.SUM:
            return math.sqrt(abs(base) * size)
        ((m, _, below_squares),), below = rest, abs(total(parts[1]))
        variance = abs(base) * below * size + base**2 * below_squares * int(parts[1][OBSERVED]) / m
        return math.sqrt(variance) / below

    def _threshold(self, now: Estimated, base: _Base, deviates: float) -> float:
        """Beyond the tolerance, beyond chance in the number and in what it is held against, and beyond the past."""
        of_base = 0.0
        if base.times:
            shares = 1 / base.times if self.kpi.aggregate is Aggregate.SUM else now.n / base.n
            of_base = max(now.error * math.sqrt(shares), base.spread / math.sqrt(base.times))
        error = math.hypot(max(now.error, base.spread), of_base)
        margin = max(abs(base.value) * self.kpi.tolerance, deviates * error)
        sign = -1 if self.kpi.better is Better.HIGHER else 1
        threshold = base.value + sign * margin
        return threshold if base.furthest is None else sign * max(sign * threshold, sign * base.furthest)

    def _beyond_binomial(self, threshold: float, now: Estimated, base: _Base) -> float:
        """A rate's threshold, no nearer than chance reaches by the binomial law, for few of them are not normal."""
        if not 0 <= base.value <= 1:
            return threshold
        high = self.kpi.better is Better.LOWER or (self.kpi.better is Better.NEAR and now.value >= base.value)
        limit = float((rate_threshold if high else rate_floor)(base.value * base.n, base.n, now.n, self.alpha))
        if self.kpi.better is Better.NEAR:
            return max(threshold, base.value + abs(limit - base.value))
        return max(threshold, limit) if high else min(threshold, limit)


def _is_rate(vector: CountVector) -> bool:
    """Whether the observations can be noughts and ones: no others have one sum of values and of squares."""
    return total(vector) == squares(vector) <= int(vector[OBSERVED])


def _pooled(vectors: Sequence[CountVector]) -> tuple[int, float, float]:
    """Observations, their sum, and that of their squares."""
    return sum(int(v[OBSERVED]) for v in vectors), sum(map(total, vectors)), sum(map(squares, vectors))


def _within(vectors: Sequence[CountVector]) -> tuple[float, int]:
    """Variance of the observations around the means of their own times, and its degrees of freedom."""
    known = [(int(v[OBSERVED]), total(v), squares(v)) for v in vectors if v[OBSERVED]]
    freedom = sum(n - 1 for n, _, _ in known)
    return (max(0.0, sum(square - whole**2 / n for n, whole, square in known)) / freedom if freedom else 0.0), freedom


class CaptureJudge:
    """Holds the requests that the serving side counted against the events that came."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan
        self._z = -float(special.ndtri(error_of_capture(plan)))

    def evaluate(self, served: CountVector, seen: int, effect: float) -> Result | None:
        """None: nothing was counted. Events and the counters' reports fall on either side of a window's ends: chance is
        taken to be that of a Poisson count."""
        counted = total(served)
        if counted <= 0:
            return None
        certain = self._z * math.sqrt(counted) / counted
        return single("capture_ratio", seen / counted, 1.0, 1.0 - max(effect, certain), counted)
