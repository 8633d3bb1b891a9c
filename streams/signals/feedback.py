"""Feedback of a window, compared with what is usual at that time → override, complaint and workflow-step rates.

A rate is by inference events of the same time. What is usual: the same hours of earlier weeks (of earlier days, while
there are too few weeks), else the rate that the configuration names. The threshold is the largest of: the smallest
effect that justifies a decision; what chance alone exceeds with a share of the false-alarm budget, a sample counting
for as much less as those earlier times differ more among themselves than chance would have it; and the highest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streams.arrays import CountVector
from streams.baseline import SegmentKey
from streams.cells import Cells
from streams.config import OTHER, Feedback
from streams.facts.history import Stretch
from streams.facts.layout import EVENTS, SCORE_BINS, FeedbackLayout
from streams.plan import ModelPlan
from streams.signals.budget import error_of_feedback
from streams.signals.names import SIGNALS
from streams.signals.rate_limits import rate_floor, rate_threshold
from streams.signals.reference import MIN_EVENTS
from streams.signals.result import Result, effect_of

RATES = {
    Feedback.OVERRIDE: "override_rate",
    Feedback.COMPLAINT: "complaint_rate",
    Feedback.WORKFLOW_STEP: "workflow_step_rate",
}
CERTAIN = 1e7
"""A rate that the configuration names counts as if so many events had shown it."""
CellId = tuple[str | None, SegmentKey]


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual: `hits` of `n` events, so many of which (`design_effect`) say as much as an independent one."""

    hits: float
    n: float
    design_effect: float = 1.0
    highest: float = -np.inf
    lowest: float = np.inf


class FeedbackJudge:
    """Evaluates the feedback of one model."""

    def __init__(self, plan: ModelPlan, layout: FeedbackLayout) -> None:
        self.plan, self.layout = plan, layout
        self.segments = plan.segmentation.declared()
        self.alpha = error_of_feedback(plan, len(layout.slots))

    def evaluate(self, cells: Cells, earlier: Sequence[Stretch]) -> dict[CellId, list[Result]]:
        """The rates of the model as a whole and of each version, in total and by declared segment.

        Only the model as a whole has a verdict: feedback need not say which version it is about.
        """
        past = [by_cell(stretch.cells) for stretch in earlier]
        nothing = np.zeros(self.layout.length, np.int64)
        found = by_cell(cells)
        places = dict.fromkeys([*((None, segment) for segment in self.segments), *found])
        return {
            place: [
                *self._rates(
                    found.get(place, nothing), [part.get(place, nothing) for part in past], judged=place[0] is None
                )
            ]
            for place in places
        }

    def measures(self, cells: Cells) -> dict[CellId, dict[str, float]]:
        """Of the predictions that were overridden, the mean score, and how many of them had one."""
        found = {}
        centres = (np.arange(SCORE_BINS) + 0.5) / SCORE_BINS
        for place, vector in by_cell(cells).items():
            bins = vector[self.layout.bins_at : self.layout.bins_at + SCORE_BINS]
            if bins.sum():
                found[place] = {
                    "overridden_score": float(bins @ centres / bins.sum()),
                    "overridden_scored": float(bins.sum()),
                }
        return found

    def _rates(self, now: CountVector, past: Sequence[CountVector], *, judged: bool) -> Iterator[Result]:
        for kind, values in self.layout.kinds:
            columns = (*values, OTHER) if values else (None,)
            rows = [self._rate(kind, column, now, past) for column in columns]
            value, base, threshold = (np.array(part, float) for part in zip(*rows, strict=True))
            n = np.full(len(columns), float(now[EVENTS]))
            limit = threshold if judged else np.full_like(threshold, np.nan)
            yield Result(SIGNALS[RATES[kind]], columns, value, base, limit, n)

    def _rate(
        self, kind: Feedback, column: str | None, now: CountVector, past: Sequence[CountVector]
    ) -> tuple[float, float, float]:
        slot, name = self.layout.slots[kind, column], RATES[kind]
        n, hits = float(now[EVENTS]), float(now[slot])
        value = hits / n if n else np.nan
        usual = self._usual(kind, column, [(float(part[slot]), float(part[EVENTS])) for part in past])
        if usual is None or n < MIN_EVENTS:
            return value, np.nan if usual is None else usual.hits / usual.n, np.nan
        base, factor = usual.hits / usual.n, effect_of(self.plan, name)
        k0, m, size = (part / usual.design_effect for part in (usual.hits, usual.n, n))
        above = max(base * factor, float(rate_threshold(k0, m, size, self.alpha)), usual.highest)
        if not SIGNALS[name].two_sided:
            return value, base, above
        below = min(base / factor, float(rate_floor(k0, m, size, self.alpha)), usual.lowest)
        return value, base, base + max(above - base, base - below) if value < base else above

    def _usual(self, kind: Feedback, column: str | None, past: Sequence[tuple[float, float]]) -> Usual | None:
        told = [(min(hits, n), n) for hits, n in past if n]
        named = self.plan.config.feedback[kind].usual if column is None else None
        if not told:
            return None if named is None else Usual(named * CERTAIN, CERTAIN)
        hits, n = (sum(part) for part in zip(*told, strict=True))
        rates = [k / events for k, events in told]
        return Usual(hits, n, _design_effect(told, hits / n), max(rates), min(rates))


def _design_effect(told: Sequence[tuple[float, float]], rate: float) -> float:
    """How much more the rates of several times differ than binomial ones would: Pearson's chi-square by its degrees of
    freedom (McCullagh and Nelder 1989, Generalized Linear Models, section 4.5), at least 1.

    >>> _design_effect([(10, 100), (10, 100)], 0.1)
    1.0
    """
    if len(told) < 2 or not 0 < rate < 1:
        return 1.0
    chi = sum((hits - n * rate) ** 2 / (n * rate * (1 - rate)) for hits, n in told)
    return max(1.0, chi / (len(told) - 1))


def by_cell(cells: Cells) -> Mapping[CellId, CountVector]:
    """Vectors of the model as a whole (version None) and of each named version."""
    found: dict[CellId, CountVector] = {}
    for (version, name, value), profile in cells.items():
        vector = profile.counts.dense()
        whole: CellId = (None, (name, value))
        found[whole] = found[whole] + vector if whole in found else vector
        if version:
            found[version, (name, value)] = vector
    return found
