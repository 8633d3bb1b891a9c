"""Baseline → what the reference shows: its counts, its blocks, and the limits that its blocks set, by segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from streams.arrays import CountVector, Floats
from streams.baseline import SegmentKey, Statistics
from streams.plan import ModelPlan
from streams.signals.distance import METHODS
from streams.signals.measure import RATES, Bins, Rate, Shape, distances, latency_ms
from streams.signals.presets import PRESETS, Fixed, preset_threshold
from streams.sketch.layout import Kind, requests

MIN_EVENTS = 30
"""Below this many events of a cell, in the window or in the reference, nothing is judged."""
MIN_BLOCKS = 3
DESIGN_CONFIDENCE = 0.99
BLOCK_ALPHA = 0.001
"""Level of the prediction limit over the reference's blocks."""

DRIFTS = ("feature_drift", "score_drift", "prediction_drift")


class Reference:
    """The reference of one model in the order of its plan's layout."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan
        self.baseline = plan.baseline
        known = {column.name: i for i, column in enumerate(plan.baseline.columns)} if plan.baseline else {}
        self._source = [known.get(column.name) for column in plan.layout.columns]
        self.statistics = tuple(
            self.baseline.statistics[i] if self.baseline and i is not None else Statistics() for i in self._source
        )
        self.shape = Shape(plan.layout, self.statistics)
        self.bins: Mapping[str, Bins] = {
            "feature_drift": self.shape.bins(self.shape.binned, with_null=True),
            "score_drift": self.shape.bins(self.shape.scores, with_null=False),
            "prediction_drift": self.shape.bins(self.shape.predictions, with_null=False),
        }
        self.segments: list[SegmentKey] = plan.segmentation.declared()
        self.preset = PRESETS[plan.config.preset] if plan.config.preset else None

    @cached_property
    def counts(self) -> dict[SegmentKey, CountVector]:
        """Counts of the whole reference by segment; a segment that it does not hold has zeros."""
        totals = self.baseline.totals if self.baseline else {}
        nothing = np.zeros(self.plan.layout.length, np.int64)
        return {key: self._aligned(totals[key].dense()) if key in totals else nothing for key in self.segments}

    def _aligned(self, vector: CountVector) -> CountVector:
        """A vector of the baseline's layout in the plan's; columns that the baseline does not know stay zero."""
        assert self.baseline is not None
        aligned = np.zeros(self.plan.layout.length, np.int64)
        aligned[:2] = vector[:2]
        starts = np.cumsum([2, *(column.size for column in self.baseline.columns)])
        for i, source in enumerate(self._source):
            if source is not None:
                block = vector[starts[source] : starts[source + 1]]
                self.plan.layout.block(aligned, i)[: len(block)] = block
        return aligned

    @cached_property
    def _opened(self) -> list[tuple[int, dict[SegmentKey, CountVector]]]:
        if self.baseline is None or not self.baseline.pane_ms:
            return []
        blocks = zip(self.baseline.blocks, self.baseline.opened_blocks(), strict=True)
        return [
            (block.start_ms, {key: self._aligned(counts.dense()) for key, counts in opened.items()})
            for block, opened in blocks
        ]

    def close_blocks(self) -> None:
        """Frees the memory of the opened blocks; they are opened again when they are asked for."""
        self.__dict__.pop("_opened", None)

    def blocks(self, over_ms: int, key: SegmentKey) -> CountVector:
        """(blocks, length): stretches of the reference as long as a window that hold enough events to speak."""
        groups: dict[int, CountVector] = {}
        for start_ms, opened in self._opened:
            if key in opened:
                at = start_ms // over_ms
                groups[at] = groups[at] + opened[key] if at in groups else opened[key]
        if not groups or self.baseline is None or over_ms % self.baseline.pane_ms:
            return np.zeros((0, self.plan.layout.length), np.int64)
        blocks = np.array(list(groups.values()))
        events = requests(blocks)
        return blocks[events >= max(MIN_EVENTS, np.median(events) / 2)]

    def limits(self, over_ms: int, key: SegmentKey) -> Limits | None:
        """What the blocks allow for; None where they are too few to tell."""
        blocks = self.blocks(over_ms, key)
        if len(blocks) < MIN_BLOCKS:
            return None
        rates = {name: rate(self.shape, blocks) for name, rate in RATES.items()}
        latencies = {name: latency_ms(self.shape, blocks, level) for name, level in LATENCIES.items()}
        whole = np.broadcast_to(self.counts[key], blocks.shape)
        drifts = {name: self.distances(name, whole, blocks) for name in DRIFTS}
        per_second = requests(blocks).astype(float) * self._thinning(over_ms) / (over_ms / 1000)
        return Limits(
            highest={
                **{name: _highest(rate.value) for name, rate in rates.items()},
                **{name: upper_limit(values) for name, values in drifts.items()},
            },
            design_effect={name: design_effect(rate) for name, rate in rates.items()},
            distances=drifts,
            latency_ms={name: float(upper_limit(values[:, None])[0]) for name, values in latencies.items()},
            usual_rate=float(np.median(per_second)),
            lowest_rate=-float(upper_limit(-per_second[:, None])[0]),
        )

    def _thinning(self, over_ms: int) -> float:
        """How many times as many blocks as are kept a stretch of this length had."""
        assert self.baseline is not None
        return min(over_ms / self.baseline.pane_ms, self.baseline.thinning)

    def fixed(self, column: int) -> Fixed | None:
        """The default of the tool whose preset the configuration names; None without a preset."""
        if self.preset is None:
            return None
        categorical = self.plan.layout.columns[column].kind is not Kind.NUMERIC
        return self.preset.fixed(self.baseline.events if self.baseline else 0, categorical=categorical)

    def method(self, signal: str, column: int) -> str:
        """The distance that a drift signal uses for a column."""
        fixed = self.fixed(column)
        if fixed is not None:
            return fixed.method
        categorical = self.plan.layout.columns[column].kind is not Kind.NUMERIC
        tuning = self.plan.config.signals.get(signal)
        chosen = tuning and (tuning.categorical_method if categorical else tuning.method)
        return str(chosen or DEFAULT_METHOD)

    def preset_thresholds(
        self, name: str, reference: CountVector, n: Floats, blocks: Sequence[Floats | None]
    ) -> Floats:
        """(cells, columns) what the preset's tool would take for a threshold; `blocks` as in `Limits.distances`."""
        bins = self.bins[name]
        thresholds = np.full(n.shape, np.nan)
        defaults = [self.fixed(column) for column in bins.columns]
        for default in dict.fromkeys(defaults):
            assert default is not None
            chosen = [i for i, found in enumerate(defaults) if found == default]
            part = bins.only(chosen)
            for row, counts in enumerate(part.counts(reference)):
                found = blocks[row]
                chunks = None if found is None else found[:, chosen].T
                mask = part.usable(default.method)
                thresholds[row, chosen] = preset_threshold(default, counts, n[row, chosen], mask, chunks)
        return thresholds

    def distances(self, signal: str, reference: CountVector, window: CountVector) -> Floats:
        """(cells, columns) distances of windows from references, each column by its method."""
        bins = self.bins[signal]
        methods = [self.method(signal, column) for column in bins.columns]
        found = np.full((len(window), len(methods)), np.nan)
        for method in sorted(set(methods)):
            chosen = [i for i, name in enumerate(methods) if name == method]
            found[:, chosen] = distances(method, bins.only(chosen), reference, window)
        return found

    def null_quantiles(self, name: str, reference: CountVector, n: Floats, alpha: float) -> Floats:
        """(cells, columns) the distance that samples of `n` events of `reference` exceed by chance only.

        `reference` (cells, length), `n` (cells, columns); the probability is at most `alpha`. NaN without a reference.
        """
        bins = self.bins[name]
        methods = [self.method(name, column) for column in bins.columns]
        quantiles = np.full(n.shape, np.nan)
        for method in sorted(set(methods)):
            chosen = [i for i, found in enumerate(methods) if found == method]
            part = bins.only(chosen)
            counts = part.counts(reference)
            cell, column = np.nonzero(counts.sum(axis=2) > 0)
            place = (cell, np.array(chosen)[column])
            mask, centres = part.usable(method)[column], part.centres[column]
            quantiles[place] = METHODS[method].null_quantile(counts[cell, column], n[place], alpha, mask, centres)
        return quantiles


@dataclass(frozen=True, slots=True)
class Limits:
    """What the blocks of the reference say of windows of one length, per signal and column.

    `highest`: of a rate the highest value of a block, of a distance the upper prediction limit. `design_effect`: how
    much more the rates of blocks vary than random draws would; a window's sample counts for that much less.
    """

    highest: Mapping[str, Floats]
    design_effect: Mapping[str, Floats]
    distances: Mapping[str, Floats]
    """(blocks, columns) how far the blocks are from the whole."""
    latency_ms: Mapping[str, float]
    usual_rate: float
    lowest_rate: float


DEFAULT_METHOD = "psi"
LATENCIES = {"latency_p50": 0.5, "latency_p99": 0.99}


def design_effect(rate: Rate) -> Floats:
    """(columns,) how many times the variance of the blocks' rates may be the binomial one; at least 1.

    Clustered events say less than independent ones: a sample with design effect d says as much as a random one of n / d
    (Kish, Survey Sampling, 1965, section 8.2). It is estimated from few blocks, so this is its upper confidence limit.
    """
    blocks = len(rate.n)
    unsure = (blocks - 1) / special.chdtri(blocks - 1, DESIGN_CONFIDENCE)
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = rate.hits.sum(axis=0) / rate.n.sum(axis=0)
        binomial = pooled * (1 - pooled) * np.mean(1 / rate.n, axis=0)
        effect = unsure * np.var(rate.value, axis=0, ddof=1) / binomial
    return np.where(np.isfinite(effect), np.maximum(effect, 1.0), 1.0)


def _highest(blocks: Floats) -> Floats:
    return np.max(blocks, axis=0) if blocks.size else np.zeros(blocks.shape[1])


def upper_limit(blocks: Floats) -> Floats:
    """(blocks, columns) → the upper prediction limit of one more block, and no less than the highest one.

    Normal theory: mean + t(K - 1) s sqrt(1 + 1/K), as in Hahn and Meeker, Statistical Intervals (1991), section 4.
    """
    k = len(blocks)
    with np.errstate(invalid="ignore"):
        spread = special.stdtrit(k - 1, 1 - BLOCK_ALPHA) * np.std(blocks, axis=0, ddof=1) * np.sqrt(1 + 1 / k)
        limit: Floats = np.maximum(np.mean(blocks, axis=0) + spread, np.max(blocks, axis=0))
    return limit
