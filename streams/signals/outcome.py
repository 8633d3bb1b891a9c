"""Labelled outcomes of a window → calibration, performance and label-flow signals with thresholds and verdicts.

A verdict needs significance and size, as everywhere: chance in a sample of this size, and what the reference's own
blocks show, must both be exceeded. Two tests share a signal: that of the window alone, and a CUSUM over the windows
(Page 1954, Biometrika 41), which finds a small step that lasts. The CUSUM adds up, label by label, what lies beyond
half of the step it is tuned to; its limit follows from the mean time between false alarms that the budget
allows (Siegmund 1985, Sequential Analysis, section 2.6, for Brownian motion), labels counting for less, the more the
blocks vary. When it speaks, the signal shows the labels that it has added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from scipy import special

from streams.arrays import Floats, Ints
from streams.baseline import WHOLE, SegmentKey
from streams.config import OTHER
from streams.duration import WEEK_MS
from streams.plan import ModelPlan
from streams.signals import worth
from streams.signals.budget import error_of_label_windows, labels_between_alarms
from streams.signals.cusum import Cusums, Step, Sums
from streams.signals.label_flow import MIN_LABELS, FlowJudge
from streams.signals.names import SIGNALS
from streams.signals.rate_limits import rate_threshold
from streams.signals.reference import DESIGN_CONFIDENCE, MIN_BLOCKS, upper_limit
from streams.signals.result import CONFIDENT, CellResult, Result, Window, effect_of, single
from streams.signals.worth import Measured
from streams.sketch.outcomes import LABELLED
from streams.sketch.profile import Profile

MIN_BLOCK_LABELS = 20
ENOUGH_BLOCKS, CHANCE = 8, 0.05
"""So many blocks that vary no more than chance allows (at this level) are taken for independent labels."""
CALIBRATED = (0.0, 1.0)


class OutcomeJudge:
    """Evaluates the arrival windows of one model. Made once: what depends on the reference alone is worked out here."""

    def __init__(self, plan: ModelPlan) -> None:
        assert plan.outcomes is not None and plan.config.labels is not None
        self.plan, self.layout, self.labels = plan, plan.outcomes, plan.config.labels
        self.segments: list[SegmentKey] = plan.segmentation.declared()
        nothing = np.zeros(self.layout.length, np.int64)
        known = plan.baseline.outcomes if plan.baseline else None
        if (
            known
            and known.layout.digest != msgspec.structs.replace(self.layout, threshold=known.layout.threshold).digest
        ):
            known = None
        self.reference = {key: nothing for key in self.segments}
        self.blocks: dict[SegmentKey, Ints] = {}
        if known:
            opened = known.opened()
            self.reference |= {key: vector for key, vector in opened[0].items() if key in self.reference}
            for key in self.segments:
                vectors = [found[key] for found in opened[1] if key in found]
                self.blocks[key] = np.array([v for v in vectors if v[LABELLED] >= MIN_BLOCK_LABELS]).reshape(
                    -1, self.layout.length
                )
        self.alpha = error_of_label_windows(plan)
        self.cusums = Cusums(plan, labels_between_alarms(plan, self._labels_a_week()))
        self.flow = FlowJudge(plan, self.reference, known, self.alpha)
        self._baselines = {key: self._baseline(key) for key in self.segments}

    def _labels_a_week(self) -> float:
        """As many came in the reference."""
        base = self.plan.baseline
        span_ms = max(1, base.end_ms - base.start_ms) if base else WEEK_MS
        return float(self.reference[WHOLE][LABELLED]) * WEEK_MS / span_ms

    # Numbers

    def _metrics(self) -> dict[str, Callable[[Ints], Measured]]:
        """Name → number of (cells, length) vectors that a normal law describes."""
        layout = self.layout
        if not worth.is_classifier(layout):
            return {"mae": lambda v: worth.errors(layout, v)[0], "rmse": lambda v: worth.errors(layout, v)[1]}
        found: dict[str, Callable[[Ints], Measured]] = {
            "log_loss": lambda v: worth.log_loss(layout, v),
            "calibration_error": lambda v: worth.calibration_error(layout, v),
            "calibration_slope": lambda v: worth.recalibration(layout, v)[1],
        }
        if layout.task == "binary":
            found["auc"] = lambda v: worth.auc(layout, v)
        return found

    def _rates(self) -> Iterator[tuple[str, str | None, Callable[[Ints], tuple[Floats, Floats]]]]:
        """Signal, class, and (cells, length) → what went wrong, of how many."""
        if not worth.is_classifier(self.layout):
            return
        yield "accuracy", None, lambda v: worth.wrong(self.layout, v)
        for name in self.labels.critical:
            yield "class_recall", name, lambda v, name=name: worth.missed(self.layout, v, name)  # type: ignore[misc]
            yield "class_precision", name, lambda v, name=name: worth.mistaken(self.layout, v, name)  # type: ignore[misc]

    def _baseline(self, key: SegmentKey) -> _Baseline:
        vector, blocks = self.reference[key][None, :], self.blocks.get(key, np.zeros((0, self.layout.length), np.int64))
        numbers: dict[str, _Number] = {}
        among: dict[tuple[str, str | None], _Blocks] = {}
        for name, measure in self._metrics().items():
            numbers[name], among[name, None] = _first(measure(vector)), _among(measure(blocks))
        hits = {}
        for name, column, count in self._rates():
            wrong, n = count(vector)
            hits[name, column], among[name, column] = (float(wrong[0]), float(n[0])), _among(worth.rate(*count(blocks)))
        recalibrated = CALIBRATED
        if worth.is_classifier(self.layout):
            intercept, slope = worth.recalibration(self.layout, vector)
            if intercept.n[0] > 0:
                recalibrated = float(intercept.value[0]), float(slope.value[0])
            numbers["calibration_intercept"] = _first(self._shift(vector, recalibrated))
            among["calibration_intercept", None] = _among(self._shift(blocks, recalibrated))
        return _Baseline(int(vector[0, LABELLED]), numbers, hits, among, recalibrated)

    def _shift(self, vectors: Ints, recalibrated: tuple[float, float]) -> Measured:
        ones = np.ones(len(vectors))
        return worth.shift(self.layout, vectors, recalibrated[0] * ones, recalibrated[1] * ones)

    # A window

    def evaluate(self, window: Window, sums: Sums | None = None) -> list[CellResult]:
        """Every version, in total and by declared segment. With `sums`, the CUSUMs take the window."""
        found = []
        for key in sorted(key for key in window.cells if key[2] != OTHER):
            profile = window.cells[key]
            results = tuple(self._cell(key[0], (key[1], key[2]), profile, sums))
            vector = profile.counts.dense()
            measures = self._measures(vector[None, :])
            found.append(
                CellResult(key[0], (key[1], key[2]), profile, results, int(vector[LABELLED]), measures=measures)
            )
        return found

    def _measures(self, vector: Ints) -> dict[str, float]:
        if not worth.is_classifier(self.layout):
            found = {"bias": worth.errors(self.layout, vector)[2]}
        else:
            brier = worth.brier(self.layout, vector)
            found = {"brier": brier.score, "brier_reliability": brier.reliability}
            found |= {"brier_resolution": brier.resolution, "brier_uncertainty": brier.uncertainty}
        return {name: float(value[0]) for name, value in found.items() if np.isfinite(value[0])}

    def _cell(self, version: str, segment: SegmentKey, profile: Profile, sums: Sums | None) -> Iterator[Result]:
        vector, base = profile.counts.dense()[None, :], self._baselines[segment]
        enough = vector[0, LABELLED] >= MIN_LABELS and base.labelled >= MIN_LABELS
        sums = sums if base.labelled >= MIN_LABELS else None
        for name, measure in self._metrics().items():
            found = self._number(name, _first(measure(vector)), base, enough)
            if name == "mae":
                step = self._absolute_errors(vector, base)
                found = self.cusums.result(
                    name, found, version, segment, step, sums, base.among[name, None].design_effect
                )
            yield found
        if worth.is_classifier(self.layout):
            name = "calibration_intercept"
            found = self._number(name, _first(self._shift(vector, base.recalibrated)), base, enough)
            ones = np.ones(1)
            excess, variance = worth.residual(
                self.layout, vector, base.recalibrated[0] * ones, base.recalibrated[1] * ones
            )
            n = float(self.layout.reliability(vector)[0].sum())
            step = Step(float(excess[0]), float(variance[0]), n)
            yield self.cusums.result(name, found, version, segment, step, sums, base.among[name, None].design_effect)
        for name, column, count in self._rates():
            wrong, n_wrong = count(vector)
            yield self._rate(name, column, float(wrong[0]), float(n_wrong[0]), version, segment, base, sums)

    def _number(self, name: str, now: _Number, base: _Baseline, enough: bool) -> Result:
        signal, then = SIGNALS[name], base.numbers[name]
        threshold = math.nan
        if enough and then.n >= MIN_LABELS and now.n >= MIN_LABELS:
            # Under the null a label of the window says as much as one of the reference.
            spread = max(then.error * math.sqrt(then.n / now.n), now.error if signal.two_sided else 0.0)
            certain = self._deviates * math.hypot(spread, then.error)
            effect = (effect_of(self.plan, name) - 1) * then.value if signal.relative else effect_of(self.plan, name)
            limit, blocks = max(certain, effect), base.among[name, None]
            if signal.lower or (signal.two_sided and now.value < then.value):
                threshold = min(then.value - limit, blocks.lowest)
            else:
                threshold = max(then.value + limit, blocks.highest)
        around = (now.value - CONFIDENT * now.error, now.value + CONFIDENT * now.error)
        return single(name, now.value, then.value, threshold, now.n, around if now.n else None)

    @property
    def _deviates(self) -> float:
        return float(-special.ndtri(self.alpha))

    def _rate(
        self,
        name: str,
        column: str | None,
        wrong: float,
        n: float,
        version: str,
        segment: SegmentKey,
        base: _Baseline,
        sums: Sums | None,
    ) -> Result:
        """A rate of what went wrong; for the whole model as the share that went right."""
        hits, m = base.hits[name, column]
        threshold = math.nan
        blocks = base.among[name, column]
        share = hits / m if m else math.nan
        enough = n >= MIN_LABELS and m >= MIN_LABELS
        segmental = name == "accuracy" and segment != WHOLE
        signal = "segment_error_rate" if segmental else name
        if enough:
            certain = float(rate_threshold(hits, m, n, self.alpha))
            threshold = max(certain, share + effect_of(self.plan, signal), blocks.highest)
        value = wrong / n if n else math.nan
        found = single("segment_error_rate", value, share, threshold, n, wilson(wrong, n) if n else None)
        if name == "accuracy":
            variance = max(share * (1 - share), 1 / max(m, 1.0)) * n if m else 0.0
            step = Step(wrong - n * share, variance, n)
            found = self.cusums.result(signal, found, version, segment, step, sums, blocks.design_effect)
        if segmental:
            return found
        right = (1 - found.interval[1], 1 - found.interval[0]) if found.interval else None
        return Result(
            SIGNALS[name], (column,), 1 - found.value, 1 - found.baseline, 1 - found.threshold, found.n, right
        )

    def _absolute_errors(self, vector: Ints, base: _Baseline) -> Step:
        then, n = base.numbers["mae"], float(self.layout.usable(vector)[0])
        total = float(self.layout.sums(vector)[0, :2].sum())
        variance = then.error**2 * then.n * n
        return Step(total - n * then.value, variance, n)

    @property
    def recalibrated(self) -> tuple[float, float]:
        """Intercept and slope that make the scores of the reference right."""
        return self._baselines[WHOLE].recalibrated

    def residual(self, cell: CellResult) -> tuple[float, float] | None:
        """Outcomes less what the reference leads to expect, in sum, and its variance; None without scored labels."""
        if not worth.is_classifier(self.layout):
            return None
        vector, ones = cell.profile.counts.dense()[None, :], np.ones(1)
        intercept, slope = self.recalibrated
        excess, variance = worth.residual(self.layout, vector, intercept * ones, slope * ones)
        return (float(excess[0]), float(variance[0])) if variance[0] > 0 else None


@dataclass(frozen=True, slots=True)
class _Number:
    value: float
    error: float
    n: float


@dataclass(frozen=True, slots=True)
class _Blocks:
    """What the reference's blocks say of a number: between which limits one more of them would lie, and the design
    effect: by how much more they, and what follows one upon another, vary than independent labels would."""

    lowest: float = math.inf
    highest: float = -math.inf
    design_effect: float = 1.0


@dataclass(frozen=True, slots=True)
class _Baseline:
    labelled: int
    numbers: Mapping[str, _Number]
    hits: Mapping[tuple[str, str | None], tuple[float, float]]
    among: Mapping[tuple[str, str | None], _Blocks]
    """Per signal and class."""
    recalibrated: tuple[float, float]
    """Intercept and slope that make the reference's own scores right."""


def wilson(hits: float, n: float, z: float = CONFIDENT) -> tuple[float, float]:
    """The score interval of a share, at 95 % (Wilson 1927, JASA 22): sound for few events, and within 0 and 1."""
    share, square = hits / n, z**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def persistence(blocks: Floats) -> float:
    """(blocks,) in order of time → by how much their sum varies more than that of independent blocks; at least 1.

    The long-run variance over the variance, with Bartlett's weights (Newey and West 1987, Econometrica 55) up to the
    lag 4 (k/100)^(2/9) (Newey and West 1994, Review of Economic Studies 61). It is what a CUSUM of correlated numbers
    has to reckon with (Johnson and Bagshaw 1974, Technometrics 16). Few blocks do not tell.
    """
    if (k := len(blocks)) < ENOUGH_BLOCKS:
        return 1.0
    centred = blocks - np.mean(blocks)
    if not (square := float(centred @ centred)) > 0:
        return 1.0
    lags = int(4 * (k / 100) ** (2 / 9))
    follows = [(1 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag]) / square for lag in range(1, lags + 1)]
    return max(1.0, 1 + 2 * sum(follows))


def _among(blocks: Measured) -> _Blocks:
    usable = np.isfinite(blocks.value) & (blocks.n >= MIN_BLOCK_LABELS)
    k = int(usable.sum())
    if k < MIN_BLOCKS:
        return _Blocks()
    value, error = blocks.value[usable], blocks.error[usable]
    own = float(np.mean(error**2))
    ratio = float(np.var(value, ddof=1)) / own if own > 0 else 1.0
    chance = float(special.chdtri(k - 1, CHANCE)) / (k - 1)
    alike = k >= ENOUGH_BLOCKS and ratio <= chance
    unsure = (k - 1) / float(special.chdtri(k - 1, DESIGN_CONFIDENCE))  # at its upper confidence limit
    effect = 1.0 if alike else max(1.0, unsure * ratio * persistence(value))
    return _Blocks(-float(upper_limit(-value[:, None])[0]), float(upper_limit(value[:, None])[0]), effect)


def _first(measured: Measured) -> _Number:
    return _Number(float(measured.value[0]), float(measured.error[0]), float(measured.n[0]))
