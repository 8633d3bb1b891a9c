"""Outcome vectors → performance metrics of the predictions, and their standard errors.

Everything here is a function of summed outcomes, (cells, length) → (cells,), NaN where there is no outcome. A standard
error is that of independent labels; `outcome.py` widens it by what the reference's blocks show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from streams.arrays import Floats, Ints
from streams.sketch.outcomes import OutcomeLayout, Task

RIDGE = 1e-3
NEWTON_STEPS, CONVERGED = 25, 1e-9
FLAT = 1e-4
"""Scores are taken from so near to 0 and 1 at most: their logit is finite."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number of every cell: its value, its standard error, and the labels that it rests on."""

    value: Floats
    error: Floats
    n: Floats


def rate(hits: Floats, n: Floats) -> Measured:
    with np.errstate(invalid="ignore", divide="ignore"):
        share = hits / n
        return Measured(share, np.sqrt(share * (1 - share) / n), n)


def wrong(layout: OutcomeLayout, vectors: Ints) -> tuple[Floats, Floats]:
    """Labelled predictions of a classifier that were wrong, and all of them."""
    confusion = layout.confusion(vectors)[..., : len(layout.classes)]  # by true class
    n = confusion.sum(axis=(-2, -1)).astype(float)
    return n - np.trace(confusion, axis1=-2, axis2=-1), n


def missed(layout: OutcomeLayout, vectors: Ints, name: str) -> tuple[Floats, Floats]:
    """Predictions that missed a class, and all that were of it: one less the recall."""
    at = layout.classes.index(name)
    true = layout.confusion(vectors)[..., at].astype(float)
    return true.sum(axis=-1) - true[..., at], true.sum(axis=-1)


def mistaken(layout: OutcomeLayout, vectors: Ints, name: str) -> tuple[Floats, Floats]:
    """Predictions of a class that were of another, and all of them: one less the precision."""
    at = layout.classes.index(name)
    predicted = layout.confusion(vectors)[..., at, : len(layout.classes)].astype(float)
    return predicted.sum(axis=-1) - predicted[..., at], predicted.sum(axis=-1)


def log_loss(layout: OutcomeLayout, vectors: Ints) -> Measured:
    """Mean of −ln of the probability of the true class."""
    n = layout.reliability(vectors)[0].sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = layout.sums(vectors)[..., 0] / n
        # The spread is not kept; that of an exponential law is the mean, and losses are no wider than that by far.
        return Measured(mean, mean / np.sqrt(n), n)


@dataclass(frozen=True, slots=True)
class Brier:
    """The mean squared error of probabilities, and what it is made of (Murphy 1973, J. Appl. Meteorol. 12): (cells,).

    score = reliability - resolution + uncertainty, but for the spread of the scores within a bin.
    """

    score: Floats
    reliability: Floats
    """How far the outcomes lie from the scores."""
    resolution: Floats
    """How far the bins' outcomes lie apart."""
    uncertainty: Floats
    """That of the outcomes themselves."""


def brier(layout: OutcomeLayout, vectors: Ints) -> Brier:
    """For more than two classes the score is half the sum over classes, the parts those of the predicted class."""
    n, positive, score = layout.reliability(vectors)
    total = n.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight, share = n / total[..., None], positive / n
        base = positive.sum(axis=-1) / total
        return Brier(
            layout.sums(vectors)[..., 1] / total,
            np.nansum(weight * (share - score / n) ** 2, axis=-1),
            np.nansum(weight * (share - base[..., None]) ** 2, axis=-1),
            base * (1 - base),
        )


def auc(layout: OutcomeLayout, vectors: Ints) -> Measured:
    """Area under the ROC curve over the score's bins, ties counted half; its error by Hanley and McNeil 1982."""
    n, positive, _ = layout.reliability(vectors)
    negative = n - positive
    total = positive.sum(axis=-1), negative.sum(axis=-1)
    below = np.cumsum(negative, axis=-1) - negative
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (positive * (below + negative / 2)).sum(axis=-1) / (total[0] * total[1])
        first, second = area / (2 - area), 2 * area**2 / (1 + area)
        square = area * (1 - area) + (total[0] - 1) * (first - area**2) + (total[1] - 1) * (second - area**2)
        return Measured(area, np.sqrt(np.maximum(square, 0) / (total[0] * total[1])), np.minimum(*total))


def calibration_error(layout: OutcomeLayout, vectors: Ints) -> Measured:
    """Expected calibration error; of each bin the squared gap loses its sampling variance before the root is taken.

    The plain estimate is above 0 for a calibrated model. The correction is that of Kumar, Liang and Ma 2019 ("Verified
    uncertainty calibration", NeurIPS, section 5), bin by bin.
    """
    n, positive, score = layout.reliability(vectors)
    total = n.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = positive / n
        noise = share * (1 - share) / np.maximum(n - 1, 1)
        gap = np.sqrt(np.maximum((share - score / n) ** 2 - noise, 0))
        weight = n / total[..., None]
        value = np.nansum(weight * gap, axis=-1)
        error = np.sqrt(np.nansum(weight**2 * share * (1 - share) / n, axis=-1))
    return Measured(np.where(total > 0, value, np.nan), error, total)


def recalibration(layout: OutcomeLayout, vectors: Ints) -> tuple[Measured, Measured]:
    """Intercept and slope of the outcome on the logit of the score (Cox 1958, Biometrika 45): 0 and 1 if calibrated.

    By Newton's method on the bins, with a weak pull to (0, 1), which keeps them finite where the classes are apart.
    """
    n, positive, score = layout.reliability(vectors)
    logit = logits(n, score)
    beta = np.zeros((*n.shape[:-1], 2))
    beta[..., 1] = 1.0
    design = np.stack([np.ones_like(logit), logit], axis=-1)
    for _ in range(NEWTON_STEPS):
        p = special.expit((design * beta[..., None, :]).sum(axis=-1))
        gradient = ((positive - n * p)[..., None] * design).sum(axis=-2) - RIDGE * (beta - [0.0, 1.0])
        weight = (n * p * (1 - p))[..., None, None] * design[..., :, None] * design[..., None, :]
        information = weight.sum(axis=-3) + RIDGE * np.eye(2)
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max(initial=0) < CONVERGED:
            break
    error = np.sqrt(np.diagonal(np.linalg.inv(information), axis1=-2, axis2=-1))
    total = n.sum(axis=-1)
    beta = np.where(total[..., None] > 0, beta, np.nan)
    return Measured(beta[..., 0], error[..., 0], total), Measured(beta[..., 1], error[..., 1], total)


def logits(n: Floats, score: Floats) -> Floats:
    """(…, bins) of the mean score of each bin; 0 for an empty one."""
    mean = np.divide(score, n, out=np.full_like(score, 0.5), where=n > 0)
    found: Floats = special.logit(np.clip(mean, FLAT, 1 - FLAT))
    return found


def shift(layout: OutcomeLayout, vectors: Ints, intercept: Floats, slope: Floats) -> Measured:
    """By how much the outcomes lie above what a recalibration by (cells,) `intercept` and `slope` expects, as a logit.

    Calibration in the large, by Newton's method on the one parameter.
    """
    n, positive, score = layout.reliability(vectors)
    offset = intercept[..., None] + slope[..., None] * logits(n, score)
    value = np.zeros(n.shape[:-1])
    information = np.ones_like(value)
    for _ in range(NEWTON_STEPS):
        p = special.expit(offset + value[..., None])
        information = (n * p * (1 - p)).sum(axis=-1) + RIDGE
        step = ((positive - n * p).sum(axis=-1) - RIDGE * value) / information
        value = value + np.clip(step, -2, 2)
        if np.abs(step).max(initial=0) < CONVERGED:
            break
    total = n.sum(axis=-1)
    return Measured(np.where(total > 0, value, np.nan), 1 / np.sqrt(information), total)


def residual(layout: OutcomeLayout, vectors: Ints, intercept: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """Outcomes less what the recalibration expects, summed, and the variance of that sum."""
    n, positive, score = layout.reliability(vectors)
    p = special.expit(intercept[..., None] + slope[..., None] * logits(n, score))
    return (positive - n * p).sum(axis=-1), (n * p * (1 - p)).sum(axis=-1)


def errors(layout: OutcomeLayout, vectors: Ints) -> tuple[Measured, Measured, Floats]:
    """Mean absolute error, root mean squared error, and bias of a regression."""
    above, below, square = np.moveaxis(layout.sums(vectors), -1, 0)
    n = layout.usable(vectors)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, second = (above + below) / n, square / n
        error = np.sqrt(np.maximum(second - mean**2, 0) / n)
        root = np.sqrt(second)
        # The fourth moment is not kept; errors of a normal law have three times their squared variance.
        return Measured(mean, error, n), Measured(root, root / np.sqrt(2 * n) * np.sqrt(3), n), (above - below) / n


def is_classifier(layout: OutcomeLayout) -> bool:
    return layout.task is not Task.REGRESSION
