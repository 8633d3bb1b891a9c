"""Baseline → what the reference shows: its counts, its blocks, and the limits that its blocks set, by segment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from scipy import special

from streams.baseline import WHOLE, SegmentKey, Statistics
from streams.plan import ModelPlan
from streams.signals.measure import RATES, Bins, Shape, Values, distances, latency_ms
from streams.signals.presets import PRESETS
from streams.sketch.layout import Counter, Kind, requests

MIN_EVENTS = 30
"""Below this many events of a cell, in the window or in the reference, nothing is judged."""
MIN_BLOCKS = 3
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
        self.segments: list[SegmentKey] = [WHOLE]
        self.segments += [(name, value) for name, values in plan.segmentation.dimensions for value in values]
        self.preset = PRESETS[plan.config.preset] if plan.config.preset else None

    @cached_property
    def counts(self) -> dict[SegmentKey, Counter]:
        """Counts of the whole reference by segment; a segment that it does not hold has zeros."""
        totals = self.baseline.totals if self.baseline else {}
        nothing = np.zeros(self.plan.layout.length, np.int64)
        return {key: self._aligned(totals[key].dense()) if key in totals else nothing for key in self.segments}

    def _aligned(self, vector: Counter) -> Counter:
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
    def _opened(self) -> list[tuple[int, dict[SegmentKey, Counter]]]:
        if self.baseline is None or not self.baseline.pane_ms:
            return []
        blocks = zip(self.baseline.blocks, self.baseline.opened_blocks(), strict=True)
        return [
            (block.start_ms, {key: self._aligned(counts.dense()) for key, counts in opened.items()})
            for block, opened in blocks
        ]

    def blocks(self, over_ms: int, key: SegmentKey) -> Counter:
        """(blocks, length): stretches of the reference as long as a window that hold enough events to speak."""
        groups: dict[int, Counter] = {}
        for start_ms, opened in self._opened:
            if key in opened:
                at = start_ms // over_ms
                groups[at] = groups[at] + opened[key] if at in groups else opened[key]
        if not groups:
            return np.zeros((0, self.plan.layout.length), np.int64)
        blocks = np.array(list(groups.values()))
        events = requests(blocks)
        return blocks[events >= max(MIN_EVENTS, np.median(events) / 2)]

    def limits(self, over_ms: int, key: SegmentKey) -> Mapping[str, Values]:
        """Per signal and column what the blocks allow for; empty where they are too few to tell."""
        blocks = self.blocks(over_ms, key)
        if len(blocks) < MIN_BLOCKS:
            return {}
        limits = {name: upper_limit(rate(self.shape, blocks).value) for name, rate in RATES.items()}
        reference = np.broadcast_to(self.counts[key], blocks.shape)
        for name in DRIFTS:
            limits[name] = upper_limit(self.distances(name, reference, blocks))
        for name, level in LATENCIES.items():
            limits[name] = upper_limit(latency_ms(self.shape, blocks, level)[:, None])
        per_second = requests(blocks)[:, None] / (over_ms / 1000)
        limits["request_rate"] = -upper_limit(-per_second)
        limits["usual_rate"] = np.median(per_second, axis=0)
        return limits

    def method(self, signal: str, column: int) -> str:
        """The distance that a drift signal uses for a column."""
        categorical = self.plan.layout.columns[column].kind is not Kind.NUMERIC
        tuning = self.plan.config.signals.get(signal)
        chosen = tuning and (tuning.categorical_method if categorical else tuning.method)
        return str(chosen or DEFAULT_METHOD)

    def distances(self, signal: str, reference: Counter, window: Counter) -> Values:
        """(cells, columns) distances of windows from references, each column by its method."""
        bins = self.bins[signal]
        methods = [self.method(signal, column) for column in bins.columns]
        found = np.full((len(window), len(methods)), np.nan)
        for method in sorted(set(methods)):
            chosen = [i for i, name in enumerate(methods) if name == method]
            found[:, chosen] = distances(method, bins.only(chosen), reference, window)
        return found


DEFAULT_METHOD = "psi"
LATENCIES = {"latency_p50": 0.5, "latency_p99": 0.99}


def upper_limit(blocks: Values) -> Values:
    """(blocks, columns) → the upper prediction limit of one more block, and no less than the highest one seen.

    Normal theory: mean + t(K - 1) s sqrt(1 + 1/K), as in Hahn and Meeker, Statistical Intervals (1991), section 4.
    """
    k = len(blocks)
    with np.errstate(invalid="ignore"):
        spread = special.stdtrit(k - 1, 1 - BLOCK_ALPHA) * np.std(blocks, axis=0, ddof=1) * np.sqrt(1 + 1 / k)
        limit: Values = np.maximum(np.mean(blocks, axis=0) + spread, np.max(blocks, axis=0))
    return limit
