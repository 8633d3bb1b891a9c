"""Scores without labels → the performance to be expected of them, if the scores mean what they meant in the reference.

Confidence-based performance estimation (CBPE; Kivimäki et al. 2024, "Performance estimation in binary classification
using calibrated confidence"): a score, recalibrated, says how likely its prediction is right, and the expected
confusion matrix is the sum of that. It holds under covariate shift only: when the inputs move, and not what the target
means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from streams.arrays import CountVector, Floats
from streams.baseline import WHOLE, SegmentKey
from streams.signals.reference import MIN_BLOCKS, Reference, upper_limit
from streams.signals.worth import Measured, logits
from streams.sketch.layout import BINS, SCORE, Layout
from streams.sketch.outcomes import OutcomeLayout, Task


@dataclass(frozen=True, slots=True)
class Estimate:
    """Score bins → how likely the prediction made there is right."""

    layout: Layout
    column: int
    likely: Floats
    """(bins,) probability of the positive class, by the reference's labels."""
    positive: Floats
    """(bins,) 1 where the model decides for the positive class."""
    logit: Floats
    """(bins,) of the mean score."""
    usual: Mapping[SegmentKey, float]
    """The estimate for the reference itself, by segment."""
    lowest: Mapping[SegmentKey, float]
    """The lower prediction limit for one more of its blocks."""

    def recalibrated(self, intercept: float, slope: float, usual: tuple[float, float]) -> Estimate:
        """With the reference's curve moved as far as a recalibration lies from the reference's `usual` one."""
        moved = special.logit(self.likely) + (intercept - usual[0]) + (slope - usual[1]) * self.logit
        return replace(self, likely=special.expit(moved))

    def accuracy(self, vectors: CountVector) -> Measured:
        """(cells, length) counts → expected accuracy; (cells,)."""
        counts = self._counts(vectors)
        n = counts.sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = (counts * self._right).sum(axis=-1) / n
            return Measured(value, self.spread(vectors) / np.sqrt(n), n)

    def expected(self, vector: CountVector) -> dict[str, float]:
        """Of one cell: expected accuracy, precision, recall and F1; those that are undefined are left out."""
        return _shares(self.confusion(vector[None, :])[0])

    def expected_of(self, by_bin: Floats) -> dict[str, float]:
        """The same of predictions by score bin; (bins,)."""
        return _shares(self._confusion(by_bin))

    def confusion(self, vectors: CountVector) -> Floats:
        """(cells, 4): expected true positives, false positives, false negatives, true negatives."""
        return self._confusion(self._counts(vectors))

    def _confusion(self, counts: Floats) -> Floats:
        chosen, likely = self.positive, self.likely
        shares = (chosen * likely, chosen * (1 - likely), (1 - chosen) * likely, (1 - chosen) * (1 - likely))
        return np.stack([(counts * share).sum(axis=-1) for share in shares], axis=-1)

    def spread(self, vectors: CountVector) -> Floats:
        """(cells,) standard deviation of the probability of being right among the scores."""
        counts = self._counts(vectors)
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = counts / counts.sum(axis=-1, keepdims=True)
            mean = (weight * self._right).sum(axis=-1, keepdims=True)
            found: Floats = np.sqrt((weight * (self._right - mean) ** 2).sum(axis=-1))
            return found

    @property
    def _right(self) -> Floats:
        return np.where(self.positive == 1, self.likely, 1 - self.likely)

    def _counts(self, vectors: CountVector) -> Floats:
        return self.layout.block(vectors, self.column)[..., BINS:].astype(float)


def estimate_of(reference: Reference) -> Estimate | None:
    """None for a model that is no binary classifier, or whose reference has no labels."""
    known = reference.baseline.outcomes if reference.baseline else None
    outcomes = reference.plan.outcomes
    names = [column.name for column in reference.plan.layout.columns]
    if known is None or outcomes is None or outcomes.task is not Task.BINARY or SCORE not in names:
        return None
    column = names.index(SCORE)
    if reference.plan.layout.columns[column].edges != outcomes.edges or known.layout.edges != outcomes.edges:
        return None
    bare = Estimate(reference.plan.layout, column, *_by_bin(outcomes, known.opened()[0][WHOLE]), {}, {})
    usual = {key: float(bare.accuracy(counts[None, :]).value[0]) for key, counts in reference.counts.items()}
    lowest = {}
    for key in reference.segments:
        blocks = reference.blocks(reference.plan.config.pane_ms, key)
        enough = len(blocks) >= MIN_BLOCKS
        lowest[key] = -float(upper_limit(-bare.accuracy(blocks).value[:, None])[0]) if enough else np.inf
    return replace(bare, usual=usual, lowest=lowest)


def _by_bin(outcomes: OutcomeLayout, vector: CountVector) -> tuple[Floats, Floats, Floats]:
    """Probability of the positive class in each score bin, where the model decides for it, and the score's logit."""
    n, positive, score = outcomes.reliability(vector)
    share = positive.sum() / max(n.sum(), 1.0)
    starts = np.array([-np.inf, *outcomes.edges])
    return (positive + share) / (n + 1), (starts >= outcomes.threshold).astype(float), logits(n, score)


def _shares(confusion: Floats) -> dict[str, float]:
    """Of expected true positives, false positives, false negatives, true negatives; what is undefined is left out."""
    hit, alarm, miss, right = confusion.tolist()
    pairs = {
        "accuracy": (hit + right, hit + alarm + miss + right),
        "precision": (hit, hit + alarm),
        "recall": (hit, hit + miss),
        "f1": (2 * hit, 2 * hit + alarm + miss),
    }
    return {name: part / whole for name, (part, whole) in pairs.items() if whole > 0}
