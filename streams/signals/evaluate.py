"""Cells of a window → signals with value, baseline, threshold and verdict.

A verdict needs both: significance (the value lies beyond what a sample of this size of the reference shows, the model's
false-alarm budget shared over all its tests; where the reference's own blocks vary more than random draws would, a
sample counts for that much less) and size (a minimum effect). The threshold is the largest of what each asks for, so
`breached` is just `value > threshold`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from streams.arrays import CountVector, Floats
from streams.baseline import WHOLE, SegmentKey
from streams.config import OTHER
from streams.duration import DAY_MS
from streams.plan import ModelPlan
from streams.signals.budget import error_of_events
from streams.signals.estimate import Estimate, estimate_of
from streams.signals.measure import RATES, latency_ms, rate_columns, schema_change
from streams.signals.names import ESTIMATED, SIGNALS, Signal
from streams.signals.rate_limits import quantile_band, rate_threshold
from streams.signals.reference import DRIFTS, LATENCIES, MIN_EVENTS, Limits, Reference
from streams.signals.result import CellResult, Result, Window, effect_of, single
from streams.sketch.distinct import RELATIVE_ERROR
from streams.sketch.layout import requests
from streams.sketch.profile import Profile

Blocks = list[Limits | None]
"""Per cell what the reference's blocks say, None where they are too few."""

SHORT_REFERENCE = 0.1
"""Volume may fall to this share of what else would do, if the reference is shorter than two days."""

MIN_NEW_CATEGORIES = 5
"""A category explosion is more than this many new values, however small the reference."""


class Judge:
    """Evaluates the windows of one model.

    What depends on the reference alone is worked out at the first window, not when thousands of models are made.
    """

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan
        self.reference = Reference(plan)
        self.shape = self.reference.shape
        self.alpha = error_of_events(plan, self._tests_of_a_cell())

    @cached_property
    def estimate(self) -> Estimate | None:
        """What the scores lead to expect before labels come; None where the reference has none."""
        return estimate_of(self.reference)

    @cached_property
    def _limits(self) -> dict[tuple[int, SegmentKey], Limits | None]:
        segments = self.reference.segments
        lengths_ms = self.plan.window_lengths_ms
        limits = {
            (length_ms, key): self.reference.limits(length_ms, key) for length_ms in lengths_ms for key in segments
        }
        self.reference.close_blocks()
        return limits

    def _tests_of_a_cell(self) -> int:
        """Volume, two latencies and the estimated accuracy; and one for each column of the other signals."""
        rates = sum(max(1, len(rate_columns(self.shape, name))) for name in RATES)
        drifts = sum(len(bins.columns) for bins in self.reference.bins.values())
        return 4 + rates + drifts + len(self.shape.categorical)

    def evaluate(self, window: Window) -> list[CellResult]:
        """A result for the model as a whole and for each version, in total and by declared segment."""
        return [*self._volume(window), *self._versions(window)]

    # The model as a whole: volume and freshness

    def _volume(self, window: Window) -> Iterator[CellResult]:
        totals: dict[SegmentKey, Profile] = {}
        for (_, name, value), profile in window.cells.items():
            key = (name, value)
            totals[key] = totals[key].merged(profile) if key in totals else profile
        for key in self.reference.segments:
            profile = totals.get(key) or Profile.empty(self.plan.layout.length)
            results = [self._request_rate(window, key, profile)]
            if key == WHOLE:
                results.append(self._freshness(window))
            yield CellResult(None, key, profile, tuple(results), _events(profile))

    def _request_rate(self, window: Window, key: SegmentKey, profile: Profile) -> Result:
        limits = self._limits[window.over_ms, key]
        events = float(requests(profile.counts.dense()))
        usual = limits.usual_rate if limits else np.nan
        threshold = np.nan
        if limits and not window.partial:
            certain = poisson_floor(usual * window.seconds, self.alpha) / window.seconds
            threshold = max(0.0, min(limits.lowest_rate, usual * self._rate_effect(), certain))
        return single("request_rate", events / window.seconds, usual, threshold, events)

    def _rate_effect(self) -> float:
        """The share of the usual volume below which it is missing: a short reference does not know the night."""
        baseline = self.plan.baseline
        short = baseline is None or baseline.end_ms - baseline.start_ms < 2 * DAY_MS
        return effect_of(self.plan, "request_rate") * (SHORT_REFERENCE if short else 1.0)

    def _freshness(self, window: Window) -> Result:
        baseline = self.plan.baseline
        gap = baseline.longest_gap_ms / 1000 if baseline and baseline.pane_ms else np.nan
        pane = self.plan.config.pane_ms / 1000
        threshold = max(gap * effect_of(self.plan, "freshness"), 2 * pane) if gap == gap else np.nan
        return single("freshness", window.silent_ms / 1000, gap, threshold, np.nan)

    # Each version: everything else

    def _versions(self, window: Window) -> Iterator[CellResult]:
        keys = sorted(key for key in window.cells if key[2] != OTHER)
        if not keys:
            return
        vectors = np.array([window.cells[key].counts.dense() for key in keys])
        segments = [(name, value) for _, name, value in keys]
        reference = np.array([self.reference.counts[key] for key in segments])
        enough = (requests(vectors) >= MIN_EVENTS) & (requests(reference) >= MIN_EVENTS)
        limits = [self._limits[window.over_ms, key] for key in segments]
        tables = [
            *(self._rates(name, reference, vectors, limits) for name in RATES),
            *(self._latency(name, reference, vectors, limits) for name in LATENCIES),
            self._cardinality(reference, vectors, [window.cells[key] for key in keys]),
            self._schema(reference, vectors),
            *(self._drift(name, reference, vectors, limits) for name in DRIFTS),
            *self._estimated(vectors, segments),
        ]
        for row, key in enumerate(keys):
            profile = window.cells[key]
            results = [table.row(row, bool(enough[row])) for table in tables if table.columns]
            if segments[row] == WHOLE:
                results.append(self._new_fields(profile, bool(enough[row])))
            expected = self.estimate.expected(vectors[row]) if self.estimate else {}
            yield CellResult(key[0], segments[row], profile, tuple(results), _events(profile), expected)

    def _names(self, columns: Iterable[int]) -> tuple[str | None, ...]:
        return tuple(self.plan.layout.columns[i].name for i in columns)

    def _rates(self, name: str, reference: CountVector, vectors: CountVector, limits: Blocks) -> _Table:
        columns = rate_columns(self.shape, name)
        now, then = RATES[name](self.shape, vectors), RATES[name](self.shape, reference)
        hits = then.hits
        if name == "unseen_rate":  # none of the reference's own values is unseen: Good and Turing say how many will be
            hits = hits + np.array([self.reference.statistics[i].listed_singletons for i in columns], float)
        hits, certain = np.minimum(hits, then.n), np.full_like(now.n, np.nan)
        judged = (then.n > 0) & (now.n > 0)
        effects = _by_cell((None if cell is None else cell.design_effect[name] for cell in limits), 1.0, hits.shape)
        k0, m, n = ((part / effects)[judged] for part in (hits, then.n, now.n))  # as many independent events
        certain[judged] = rate_threshold(k0, m, n, self.alpha)
        base = np.divide(hits, then.n, out=np.full_like(hits, np.nan), where=then.n > 0)
        highest = (None if cell is None else cell.highest[name] for cell in limits)
        threshold = np.fmax(np.fmax(base + effect_of(self.plan, name), certain), _by_cell(highest, np.nan, base.shape))
        threshold[~judged] = np.nan
        names = self._names(columns) if name != "request_error_rate" else (None,)
        return _Table(SIGNALS[name], names, now.value, base, threshold, now.n)

    def _latency(self, name: str, reference: CountVector, vectors: CountVector, limits: Blocks) -> _Table:
        level = LATENCIES[name]
        counted = [self.shape.values(found, (self.shape.latency,))[:, 0] for found in (reference, vectors)]
        judged = (counted[0] > 0) & (counted[1] > 0)
        high = np.ones(len(vectors))
        high[judged] = quantile_band(level, counted[0][judged], counted[1][judged], self.alpha)[1]
        base = latency_ms(self.shape, reference, level)
        certain = np.where(high < 1, latency_ms(self.shape, reference, high), np.inf)
        blocks = np.array([found.latency_ms[name] if found else np.nan for found in limits])
        threshold = np.fmax(np.fmax(base * effect_of(self.plan, name), certain), blocks)
        value = latency_ms(self.shape, vectors, level)
        threshold = np.where(judged & (high < 1), threshold, np.nan)
        return _Table(SIGNALS[name], (None,), value[:, None], base[:, None], threshold[:, None], counted[1][:, None])

    def _cardinality(self, reference: CountVector, vectors: CountVector, profiles: list[Profile]) -> _Table:
        columns = self.shape.categorical
        statistics = [self.reference.statistics[i] for i in columns]
        n, m = self.shape.values(vectors, columns), self.shape.values(reference, columns)
        unseen = [[p.distinct[i].estimate() if i in p.distinct else 0.0 for i in columns] for p in profiles]
        value = self.shape.known_distinct(vectors) + np.array(unseen).reshape(n.shape)
        base = np.broadcast_to(np.array([float(s.distinct) for s in statistics]), n.shape)
        singles = np.array([float(s.singletons) for s in statistics])
        with np.errstate(invalid="ignore", divide="ignore"):
            fresh = poisson_ceiling(n * (singles + 1) / np.maximum(m, 1), self.alpha)
        effect = np.maximum(base * effect_of(self.plan, "cardinality"), base + MIN_NEW_CATEGORIES)
        threshold = np.maximum(effect, (base + fresh) * (1 + 3 * RELATIVE_ERROR))
        threshold = np.where((m > 0) & (base > 0), threshold, np.nan)
        return _Table(SIGNALS["cardinality"], self._names(columns), value, base, threshold, n)

    def _schema(self, reference: CountVector, vectors: CountVector) -> _Table:
        value = schema_change(self.shape, reference, vectors)
        n = np.broadcast_to(requests(vectors)[:, None].astype(float), value.shape)
        threshold = np.full_like(value, effect_of(self.plan, "schema_drift"))
        return _Table(
            SIGNALS["schema_drift"], self._names(self.shape.features), value, np.zeros_like(value), threshold, n
        )

    def _new_fields(self, profile: Profile, enough: bool) -> Result:
        """Fields that neither the configuration nor the reference knows, by the share of events that have them."""
        known = set(self.plan.baseline.fields) if self.plan.baseline else set()
        events = float(requests(profile.counts.dense()))
        names = sorted(name for name in profile.extras.counts if name not in known)
        share = np.array([profile.extras.counts[name] for name in names], float) / max(events, 1.0)
        limit = effect_of(self.plan, "schema_drift") if enough else np.nan
        columns = tuple(name.removeprefix("features.") for name in names)
        return Result(
            SIGNALS["schema_drift"],
            columns,
            share,
            np.zeros(len(names)),
            np.full(len(names), limit),
            np.full(len(names), events),
        )

    def _estimated(self, vectors: CountVector, segments: list[SegmentKey]) -> Iterator[_Table]:
        """The accuracy to be expected if only the inputs have moved."""
        if self.estimate is None:
            return
        found = self.estimate.accuracy(vectors)
        base = np.array([self.estimate.usual[key] for key in segments])
        lowest = np.array([self.estimate.lowest[key] for key in segments])
        with np.errstate(invalid="ignore", divide="ignore"):
            certain = -special.ndtri(self.alpha) * self.estimate.spread(vectors) / np.sqrt(found.n)
        threshold = np.fmin(base - np.fmax(certain, effect_of(self.plan, ESTIMATED)), lowest)
        threshold = np.where(found.n >= MIN_EVENTS, threshold, np.nan)
        columns = (part[:, None] for part in (found.value, base, threshold, found.n))
        yield _Table(SIGNALS[ESTIMATED], (None,), *columns)

    def _drift(self, name: str, reference: CountVector, vectors: CountVector, limits: Blocks) -> _Table:
        bins = self.reference.bins[name]
        value = self.reference.distances(name, reference, vectors)
        n, m = bins.counts(vectors).sum(axis=2), bins.counts(reference).sum(axis=2)
        judged = (n >= MIN_EVENTS) & (m >= MIN_EVENTS)
        if self.reference.preset is not None:
            blocks = [found.distances[name] if found else None for found in limits]
            threshold = self.reference.preset_thresholds(name, reference, n, blocks)
        else:
            certain = self.reference.null_quantiles(name, reference, np.maximum(n, 1), self.alpha)
            highest = (None if cell is None else cell.highest[name] for cell in limits)
            threshold = np.fmax(np.fmax(certain, effect_of(self.plan, name)), _by_cell(highest, np.nan, value.shape))
        threshold = np.where(judged, threshold, np.nan)
        return _Table(SIGNALS[name], self._names(bins.columns), value, np.zeros_like(value), threshold, n)


@dataclass(frozen=True, slots=True)
class _Table:
    """A signal over all cells: (cells, columns) arrays."""

    signal: Signal
    columns: tuple[str | None, ...]
    value: Floats
    baseline: Floats
    threshold: Floats
    n: Floats

    def row(self, row: int, enough: bool) -> Result:
        threshold = self.threshold[row] if enough else np.full_like(self.threshold[row], np.nan)
        return Result(self.signal, self.columns, self.value[row], self.baseline[row], threshold, self.n[row])


def _by_cell(rows: Iterable[Floats | None], without: float, shape: tuple[int, ...]) -> Floats:
    """(cells, columns) what the blocks of each cell say, and one number for all columns where they are too few."""
    return np.array([np.full(shape[1], without) if row is None else row for row in rows]).reshape(shape)


def _events(profile: Profile) -> int:
    return int(requests(profile.counts.dense()))


def poisson_floor(expected: float, alpha: float) -> float:
    """The largest count k with P(X < k) <= alpha for X ~ Poisson(expected), by the gamma relation; 0 if there is none.

    >>> poisson_floor(100, 1e-3) < 75
    True
    """
    return max(0.0, float(special.gammaincinv(max(expected, 1e-9), alpha))) if expected > 1 else 0.0


def poisson_ceiling(expected: Floats, alpha: float) -> Floats:
    """A count that X ~ Poisson(expected) exceeds with a probability of at most alpha, by the gamma relation."""
    found: Floats = special.gammainccinv(np.asarray(expected, float) + 1, alpha)
    return found
