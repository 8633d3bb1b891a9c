"""How labels come → the signals that miss them: late, fewer than were due, or of no prediction.

What is due follows from the predictions and an arrival curve: the share of the labels that have come at an age of the
prediction. It is the reference's where its labels have times, and otherwise that of the stream's own first labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streams.arrays import Floats, Ints
from streams.baseline import WHOLE, OutcomeReference, SegmentKey
from streams.plan import MOST_MATURITY_PANES, ModelPlan
from streams.signals.evaluate import poisson_floor
from streams.signals.result import CellResult, Result, Window, effect_of, single
from streams.sketch.outcomes import DELAY_EDGES_MS, LABELLED, PREDICTIONS, delays
from streams.sketch.profile import Profile

MIN_LABELS = 30
"""Below this many labels of a cell, in the window or in the reference, nothing is judged."""
LATEST_SHARE = 0.98
MATURITY_PANES = 8
MOST_STRETCHES = 500
"""Of the reference, held against the arrival curve that was learned from it."""

UNKNOWN_BURSTS = {"label_rate": 0.0, "label_maturity": 1.0}
"""Where nobody knows how evenly labels come, long stretches alone are judged."""

Tallies = Mapping[int, Mapping[SegmentKey, int]]
"""By start of the span and by segment."""


@dataclass(frozen=True, slots=True)
class Made:
    """Predictions on time, by spans that do not overlap."""

    starts_ms: Floats
    spans_ms: Floats
    tallies: Sequence[Mapping[SegmentKey, int]]

    def of(self, segment: SegmentKey) -> Floats:
        return np.array([tally.get(segment, 0) for tally in self.tallies], float)


@dataclass(frozen=True, slots=True)
class LabelFlow:
    """Labels that came in a pane, and those of them that met a prediction."""

    received: int
    joined: int


@dataclass(frozen=True, slots=True)
class ArrivalCurve:
    """Share of the labels that have come at an age of the prediction, linear between the edges of the delays."""

    ages_ms: Floats
    shares: Floats

    @property
    def slowest_ms(self) -> float:
        return float(self.ages_ms[np.searchsorted(self.shares, LATEST_SHARE).clip(max=len(self.ages_ms) - 1)])

    def between(self, start_ms: int, end_ms: int, made: Made) -> Floats:
        """Of the labels of predictions made in each span the share that comes in a stretch."""
        moments = made.starts_ms[:, None] + (np.arange(8) + 0.5) / 8 * made.spans_ms[:, None]
        ends, starts = (np.interp(at - moments, self.ages_ms, self.shares) for at in (end_ms, start_ms))
        share: Floats = (ends - starts).mean(axis=1)
        return share


class FlowJudge:
    """Evaluates the flow of one model's labels. `reference`: its outcomes by segment; `known`: where they are from."""

    def __init__(
        self, plan: ModelPlan, reference: Mapping[SegmentKey, Ints], known: OutcomeReference | None, alpha: float
    ) -> None:
        self.plan, self.reference, self.alpha = plan, reference, alpha
        self.segments, self.length = list(reference), len(reference[WHOLE])
        self._take(arrival_curve(delays(reference[WHOLE])) if known and known.timed else None)
        self._lowest = dict(UNKNOWN_BURSTS)
        """Of the labels that were due, the smallest share that came in a stretch of the reference: there are bursts."""
        block_ms = plan.baseline.pane_ms if plan.baseline else 0
        if self.arrival is not None and known is not None and block_ms and plan.config.pane_ms % block_ms == 0:
            made = _made_of(known, block_ms)
            spans = {"label_rate": plan.config.pane_ms, "label_maturity": self.maturity_ms}
            for name, span_ms in spans.items():
                self._lowest[name] = self._lowest_share(known.arrivals, made, span_ms, block_ms)

    def follow(self, came: Sequence[int]) -> None:
        """Takes an arrival curve from labels by delay, where the reference has none."""
        self._take(arrival_curve(np.array(came)))

    def _take(self, arrival: ArrivalCurve | None) -> None:
        self.arrival = arrival
        self.slowest_ms = int(arrival.slowest_ms) if arrival else 0
        """The age at which nearly all labels have come."""
        self.maturity_ms = self._maturity_span()

    def _lowest_share(self, arrivals: Mapping[int, int], made: Made, span_ms: int, block_ms: int) -> float:
        assert self.arrival is not None
        first, end, found = int(made.starts_ms.min()), int(made.starts_ms.max()) + block_ms, 1.0
        for end_ms in range(first + span_ms, min(end, first + span_ms + MOST_STRETCHES * block_ms) + 1, block_ms):
            due = self._final(WHOLE) * float(self.arrival.between(end_ms - span_ms, end_ms, made) @ made.of(WHOLE))
            if due >= MIN_LABELS:
                found = min(found, sum(arrivals.get(at, 0) for at in range(end_ms - span_ms, end_ms, block_ms)) / due)
        return found

    def _final(self, key: SegmentKey) -> float:
        """The share of the reference's predictions that have a label."""
        whole = self.reference[key]
        return float(whole[LABELLED] / max(whole[PREDICTIONS], whole[LABELLED], 1))

    def _maturity_span(self) -> int:
        """The stretch over which labels are held against what should have come."""
        pane_ms = self.plan.config.pane_ms
        return min(MOST_MATURITY_PANES, max(MATURITY_PANES, math.ceil(self.slowest_ms / pane_ms))) * pane_ms

    def evaluate(self, window: Window, arrived: Tallies, made: Made, came: LabelFlow) -> list[CellResult]:
        """Label signals of the model as a whole and of its segments.

        `arrived`: labels by arrival pane and segment; `made`: the predictions that they may belong to.
        """
        found = []
        spans = {"label_rate": window.start_ms, "label_maturity": window.end_ms - self.maturity_ms}
        for key in self.segments:
            results = []
            for name, start_ms in spans.items():
                labels = sum(counts.get(key, 0) for at, counts in arrived.items() if start_ms <= at < window.end_ms)
                results.append(self._came(name, labels, start_ms, window.end_ms, made, key))
            if key == WHOLE:
                results.append(self._unmatched(window, came, made))
            found.append(CellResult(None, key, Profile.empty(self.length), tuple(results), int(results[0].n[0])))
        return found

    def _came(self, name: str, came: int, start_ms: int, end_ms: int, made: Made, key: SegmentKey) -> Result:
        """Labels that came in a stretch, against those that were due by the arrival curve of the reference."""
        due, threshold = math.nan, math.nan
        known = len(made.starts_ms) > 0 and made.starts_ms.min() <= start_ms
        if self.arrival is not None and known and self.reference[key][LABELLED] >= MIN_LABELS:
            due = self._final(key) * float(self.arrival.between(start_ms, end_ms, made) @ made.of(key))
            if due >= MIN_LABELS:
                threshold = min(
                    due * min(effect_of(self.plan, name), self._lowest[name]), poisson_floor(due, self.alpha)
                )
        if name == "label_rate":
            seconds = (end_ms - start_ms) / 1000
            return single(name, came / seconds, due / seconds, threshold / seconds, came)
        return single(name, came / due if due else math.nan, 1.0, threshold / due if due else math.nan, came)

    def _unmatched(self, window: Window, flow: LabelFlow, made: Made) -> Result:
        """Labels of no prediction. Those of predictions that were made before the first one that is known have none."""
        value = max(0.0, 1 - flow.joined / flow.received) if flow.received else math.nan
        known = len(made.starts_ms) > 0 and made.starts_ms.min() + self.slowest_ms <= window.start_ms
        threshold = effect_of(self.plan, "label_unmatched_rate") if known and flow.received >= MIN_LABELS else math.nan
        return single("label_unmatched_rate", value, 0.0, threshold, flow.received)


def _made_of(known: OutcomeReference, block_ms: int) -> Made:
    """The predictions of the reference."""
    starts = np.array([block.start_ms for block in known.blocks], float)
    tallies = [{key: int(vector[PREDICTIONS]) for key, vector in found.items()} for found in known.opened()[1]]
    return Made(starts, np.full(len(starts), float(block_ms)), tallies)


def arrival_curve(came: Ints) -> ArrivalCurve | None:
    """From labels by delay, (DELAYS,)."""
    if not came.sum():
        return None
    ages = np.concatenate([[0.0], DELAY_EDGES_MS, [2.0 * DELAY_EDGES_MS[-1]]])
    return ArrivalCurve(ages, np.concatenate([[0.0], np.cumsum(came) / came.sum()]))


def slowest_ms(came: Ints) -> float:
    """The age at which nearly all of these labels had come; 0 without any."""
    curve = arrival_curve(came)
    return curve.slowest_ms if curve else 0.0
