"""Our numbers, from sums over bins, against scikit-learn's from the rows themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from streams.arrays import Ints
from streams.signals import worth
from streams.sketch.outcomes import OutcomeLayout, Prediction, Task

TENTHS = tuple(i / 10 for i in range(1, 10))
LAWS = {"even": (1.0, 1.0), "rare": (1.2, 9.0), "sure": (0.4, 0.5), "narrow": (30.0, 40.0)}
WORLDS = [(0.0, 1.0), (0.7, 1.0), (-0.3, 0.5), (0.2, 1.6)]
"""Intercept and slope that the outcomes follow."""


class Drawn:
    """Scores of a law and outcomes that follow them, as rows and as sums over bins: 20 of equal counts, or others."""

    def __init__(self, law: str, world: tuple[float, float], n: int = 20_000, edges: tuple[float, ...] = ()) -> None:
        rng = np.random.default_rng([len(law), n, int(world[0] * 10 + 50)])
        self.score = rng.beta(*LAWS[law], n).clip(1e-4, 1 - 1e-4)
        logit = np.log(self.score / (1 - self.score))
        self.label = (rng.random(n) < 1 / (1 + np.exp(-(world[0] + world[1] * logit)))).astype(int)
        self.logit = logit
        quantiles = np.quantile(rng.beta(*LAWS[law], n), np.arange(1, 20) / 20)
        self.layout = OutcomeLayout(task=Task.BINARY, classes=("0", "1"), edges=edges or tuple(quantiles.tolist()))
        self.vector = summed(self.layout, self.score.tolist(), self.label.tolist())


def summed(layout: OutcomeLayout, scores: list[Any], labels: list[Any]) -> Ints:
    given = [Prediction("m", 0, 0, True, "1", (), score, None) for score in scores]
    slots, amounts = layout.contributions(given, labels, np.zeros(len(given), np.int64))
    vector = np.zeros(layout.length, np.int64)
    np.add.at(vector, slots, amounts)
    return vector[None, :]


@pytest.fixture(params=[(law, world) for law in LAWS for world in WORLDS], ids=str)
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return Drawn(*request.param)


def test_rates_are_the_same(drawn: Drawn) -> None:
    answer = (drawn.score >= 0.5).astype(int)
    wrong, n = worth.wrong(drawn.layout, drawn.vector)
    assert 1 - wrong[0] / n[0] == pytest.approx(metrics.accuracy_score(drawn.label, answer))
    missed, of = worth.missed(drawn.layout, drawn.vector, "1")
    assert 1 - missed[0] / of[0] == pytest.approx(metrics.recall_score(drawn.label, answer))
    mistaken, told = worth.mistaken(drawn.layout, drawn.vector, "1")
    if told[0]:
        assert 1 - mistaken[0] / told[0] == pytest.approx(metrics.precision_score(drawn.label, answer))


def test_brier_and_log_loss_are_the_same_to_the_fixed_point(drawn: Drawn) -> None:
    assert worth.brier(drawn.layout, drawn.vector).score[0] == pytest.approx(
        metrics.brier_score_loss(drawn.label, drawn.score), abs=2**-30
    )
    assert worth.log_loss(drawn.layout, drawn.vector).value[0] == pytest.approx(
        metrics.log_loss(drawn.label, drawn.score), abs=2**-24
    )


def test_the_parts_of_the_brier_score_add_up_to_it(drawn: Drawn) -> None:
    found = worth.brier(drawn.layout, drawn.vector)
    within = _mean_within(drawn)
    whole = found.reliability - found.resolution + found.uncertainty + within
    assert whole[0] == pytest.approx(found.score[0], abs=1e-8)


def _mean_within(drawn: Drawn) -> float:
    """What the scores' spread within a bin adds (Stephenson, Coelho and Jolliffe 2008, Weather and Forecasting 23)."""
    place = np.searchsorted(drawn.layout.edges, drawn.score, "right")
    total = 0.0
    for at in np.unique(place):
        score, label = drawn.score[place == at], drawn.label[place == at]
        total += len(score) * (score.var() - 2 * np.mean((score - score.mean()) * (label - label.mean())))
    return total / len(place)


def test_auc_is_that_of_the_binned_scores_and_within_a_bins_ties_of_the_rows(drawn: Drawn) -> None:
    found = worth.auc(drawn.layout, drawn.vector).value[0]
    place = np.searchsorted(drawn.layout.edges, drawn.score, "right")
    assert found == pytest.approx(metrics.roc_auc_score(drawn.label, place), abs=1e-12)
    n, positive, _ = drawn.layout.reliability(drawn.vector)
    ties = (positive * (n - positive)).sum() / (positive.sum() * (n - positive).sum()) / 2
    assert abs(found - metrics.roc_auc_score(drawn.label, drawn.score)) <= ties


@pytest.mark.parametrize("law", LAWS)
def test_the_reliability_curve_is_the_same_and_the_calibration_error_is_at_most_its_plain_one(law: str) -> None:
    drawn = Drawn(law, (0.7, 1.0), edges=TENTHS)
    n, positive, score = (part[0] for part in drawn.layout.reliability(drawn.vector))
    true, predicted = calibration_curve(drawn.label, drawn.score, n_bins=10)
    kept = n > 0
    assert positive[kept] / n[kept] == pytest.approx(true)
    assert score[kept] / n[kept] == pytest.approx(predicted, abs=1e-8)
    plain = float((n[kept] / n.sum()) @ np.abs(true - predicted))
    noise = float((n[kept] / n.sum()) @ np.sqrt(true * (1 - true) / np.maximum(n[kept] - 1, 1)))
    found = worth.calibration_error(drawn.layout, drawn.vector).value[0]
    assert plain - noise <= found <= plain + 1e-9


def test_the_recalibration_is_that_of_a_logistic_regression_on_the_rows(drawn: Drawn) -> None:
    """To a quarter of a standard error of 20,000 labels, or 0.015: what the bins' means leave out."""
    rows = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1_000).fit(drawn.logit[:, None], drawn.label)
    intercept, slope = worth.recalibration(drawn.layout, drawn.vector)
    for ours, theirs in ((intercept, rows.intercept_[0]), (slope, rows.coef_[0, 0])):
        assert abs(ours.value[0] - theirs) <= max(0.25 * ours.error[0], 0.015)


@pytest.mark.parametrize("n", [3, 5])
def test_a_model_of_several_classes(n: int) -> None:
    rng = np.random.default_rng(n)
    names = tuple("abcde"[:n])
    table = rng.dirichlet(np.full(n, 0.7), 5_000)
    truth = [names[i] for i in (rng.random(5_000)[:, None] > table.cumsum(axis=1)).sum(axis=1).clip(max=n - 1)]
    layout = OutcomeLayout(task=Task.MULTICLASS, classes=names, edges=TENTHS)
    vector = summed(layout, [dict(zip(names, row.tolist(), strict=True)) for row in table], truth)
    answer = [names[i] for i in table.argmax(axis=1)]
    wrong, total = worth.wrong(layout, vector)
    assert 1 - wrong[0] / total[0] == pytest.approx(metrics.accuracy_score(truth, answer))
    assert worth.log_loss(layout, vector).value[0] == pytest.approx(
        metrics.log_loss(truth, table.clip(1e-12), labels=names), abs=1e-6
    )
    theirs = np.mean(((table - (np.array(truth)[:, None] == np.array(names))) ** 2).sum(axis=1)) / 2
    assert worth.brier(layout, vector).score[0] == pytest.approx(theirs, abs=1e-8)
    assert layout.confusion(vector)[0, :-1, :-1].T.tolist() == metrics.confusion_matrix(truth, answer).tolist()


def test_errors_of_a_regression() -> None:
    rng = np.random.default_rng(3)
    label = rng.normal(100, 20, 3_000)
    answer = label + rng.normal(1, 5, 3_000)
    layout = OutcomeLayout(task=Task.REGRESSION, spread=5.0)
    vector = summed(layout, answer.tolist(), label.tolist())
    mae, rmse, bias = worth.errors(layout, vector)
    assert mae.value[0] == pytest.approx(metrics.mean_absolute_error(label, answer), abs=1e-5)
    assert rmse.value[0] == pytest.approx(metrics.root_mean_squared_error(label, answer), abs=1e-3)
    assert bias[0] == pytest.approx(np.mean(answer - label), abs=1e-5)
