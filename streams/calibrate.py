"""Online calibration of one model version, after the merge: a state of plain numbers, and river's learners over it.

A logistic recalibration on the logit of the score (Cox intercept and slope) follows the labels as they arrive. Two
detectors watch the residuals that the reference's own recalibration leaves: ADWIN (Bifet and Gavaldà 2007) and
Page–Hinkley. They date the change; only signals are ever breached. Nothing is pickled: the learner is rebuilt from its
two weights for each pane, and the detectors run over the residuals in the state.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from scipy import special

from streams.arrays import Ints
from streams.signals.worth import logits
from streams.sketch.outcomes import OutcomeLayout

LEARNING_RATE = 0.05
KEPT = 0.8
"""The weight that a pane's labels keep one pane later: no more than the learner keeps, so that errors are not
underestimated."""
SMALLEST = 1e-9
MOST_RESIDUALS = 256
"""Panes that the detectors look back."""
FEWEST_PANES, TOLERATED, PAGE_HINKLEY_LIMIT = 8, 0.25, 12.0
"""Of the Page-Hinkley test, in standard errors of a pane's residual."""
ADWIN_DELTA = 0.002


Information = tuple[float, float, float]
"""Information of intercept, of both, and of slope: the negated second derivatives of the log-likelihood."""


class Calibration(msgspec.Struct):
    """Calibration state of one version."""

    intercept: float
    slope: float
    information: Information = (0.0, 0.0, 0.0)
    """Information of the labels, which fades pane by pane as the learner forgets them."""
    residuals: list[tuple[int, float]] = []
    """Start of the pane, and by how many standard errors its outcomes exceeded the expected ones."""


class Online(msgspec.Struct, frozen=True):
    """Result of the online calibration after a pane: the recalibration, and since when the residuals differ."""

    intercept: float
    slope: float
    errors: tuple[float, float] | None
    """Standard errors of intercept and slope; None while the labels do not determine them."""
    adwin_since_ms: int | None
    page_hinkley_since_ms: int | None


def prepare() -> None:
    """Loads the learners, which takes a second: call it before there is anything to evaluate."""
    from river import drift, linear_model, optim  # noqa: F401


def learned(
    state: Calibration, layout: OutcomeLayout, vector: Ints, start_ms: int, residual: float, variance: float
) -> Calibration:
    """The state after an arrival pane.

    Parameters:
        residual: sum of outcomes less their expectation.
        variance: variance of that sum.
    """
    from river import linear_model, optim  # here, so that only models with labels wait for it

    model = linear_model.LogisticRegression(
        optim.SGD(LEARNING_RATE),
        l2=0.0,
        intercept_init=state.intercept,
        intercept_lr=LEARNING_RATE,
        initializer=optim.initializers.Constant(state.slope),
    )
    n, positive, score = layout.reliability(vector)
    logit, total = logits(n, score), float(n.sum())
    for at in n.nonzero()[0].tolist():
        for outcome, count in ((True, positive[at]), (False, n[at] - positive[at])):
            if count:
                model.learn_one({"logit": float(logit[at])}, outcome, w=float(count / total) * len(n))
    residuals = state.residuals
    if variance > 0:
        residuals = [*residuals, (start_ms, residual / math.sqrt(variance))][-MOST_RESIDUALS:]
    weight = (
        n * special.expit(state.intercept + state.slope * logit) * special.expit(-state.intercept - state.slope * logit)
    )
    now = (weight.sum(), (weight * logit).sum(), (weight * logit**2).sum())
    kept = [KEPT * old + float(new) for old, new in zip(state.information, now, strict=True)]
    slope = float(model.weights.get("logit", state.slope))
    return Calibration(float(model.intercept), slope, (kept[0], kept[1], kept[2]), residuals)


def standard_errors(information: Information) -> tuple[float, float] | None:
    """Standard errors of intercept and slope, from the inverse of the information."""
    one, both, two = information
    determinant = one * two - both * both
    if not determinant > SMALLEST * one * two:
        return None
    return math.sqrt(two / determinant), math.sqrt(one / determinant)


def told(state: Calibration) -> Online:
    """Runs both detectors over the residuals in the state."""
    from river import drift

    detectors: dict[str, Any] = {
        "adwin": drift.ADWIN(delta=ADWIN_DELTA, clock=1),  # type: ignore[no-untyped-call]
        "page_hinkley": drift.PageHinkley(FEWEST_PANES, TOLERATED, PAGE_HINKLEY_LIMIT),
    }
    since: dict[str, int | None] = {"adwin": None, "page_hinkley": None}
    for start_ms, residual in state.residuals:
        for name, detector in detectors.items():
            detector.update(residual)
            if detector.drift_detected:
                since[name] = start_ms
    errors = standard_errors(state.information)
    return Online(state.intercept, state.slope, errors, since["adwin"], since["page_hinkley"])
