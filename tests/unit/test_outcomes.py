"""What predictions were worth: the sums against plain computations, and what `init` makes of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.arrays import Ints
from streams.baseline import WHOLE
from streams.errors import DataError
from streams.learn import Learned, learn
from streams.signals import worth
from streams.signals.cusum import cusum_limit
from streams.signals.outcome import persistence
from streams.sketch.outcomes import OutcomeLayout, Prediction, Task, class_text

GRID = tuple(i / 50 for i in range(1, 50))
BINARY = OutcomeLayout(task=Task.BINARY, classes=("0", "1"), edges=GRID)
REGRESSION = OutcomeLayout(task=Task.REGRESSION, spread=2.0)
MULTI = OutcomeLayout(task=Task.MULTICLASS, classes=("a", "b", "c"), edges=GRID)


def prediction(score: Any = None, value: Any = None) -> Prediction:
    return Prediction("m", 0, 0, True, "1", (), score, value)


def summed(layout: OutcomeLayout, given: Sequence[Prediction], labels: Sequence[Any], sign: int = 1) -> Ints:
    slots, amounts = layout.contributions(given, labels, np.zeros(len(given), np.int64))
    vector = np.zeros(layout.length, np.int64)
    np.add.at(vector, slots, amounts * sign)
    return vector


def drawn(n: int = 20_000, seed: int = 1, intercept: float = 0.0, slope: float = 1.0) -> tuple[Any, Any]:
    """Scores, and outcomes whose logit is a line of the score's."""
    rng = np.random.default_rng(seed)
    score = rng.beta(2, 3, n).clip(0.01, 0.99)
    p = 1 / (1 + np.exp(-(intercept + slope * np.log(score / (1 - score)))))
    return score, (rng.random(n) < p).astype(float)


class TestNumbers:
    def test_rates_of_a_binary_model_are_counts(self) -> None:
        score, label = drawn(2_000)
        vector = summed(BINARY, [prediction(float(s), int(s > 0.6)) for s in score], label.tolist())[None, :]
        answer = score > 0.6
        wrong, n = worth.wrong(BINARY, vector)
        assert (wrong[0], n[0]) == ((answer != label).sum(), 2_000)
        missed, of = worth.missed(BINARY, vector, "1")
        assert (missed[0], of[0]) == ((label.astype(bool) & ~answer).sum(), label.sum())
        mistaken, told = worth.mistaken(BINARY, vector, "1")
        assert (mistaken[0], told[0]) == ((answer & (label == 0)).sum(), answer.sum())

    def test_log_loss_is_its_definition(self) -> None:
        score, label = drawn(500)
        vector = summed(BINARY, [prediction(float(s)) for s in score], label.tolist())[None, :]
        expected = -np.mean(np.where(label == 1, np.log(score), np.log(1 - score)))
        assert worth.log_loss(BINARY, vector).value[0] == pytest.approx(expected, abs=1e-6)

    def test_auc_is_the_share_of_pairs_in_order(self) -> None:
        score, label = drawn(400)
        score = np.round(score * 50 - 0.5) / 50 + 0.001  # one value a bin: ties are ties
        vector = summed(BINARY, [prediction(float(s)) for s in score], label.tolist())[None, :]
        up, down = score[label == 1][:, None], score[label == 0][None, :]
        expected = ((up > down) + (up == down) / 2).mean()
        assert worth.auc(BINARY, vector).value[0] == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(("intercept", "slope"), [(0.0, 1.0), (0.8, 1.0), (-0.5, 0.6)])
    def test_recalibration_finds_the_line_that_the_outcomes_follow(self, intercept: float, slope: float) -> None:
        score, label = drawn(intercept=intercept, slope=slope)
        vector = summed(BINARY, [prediction(float(s)) for s in score], label.tolist())[None, :]
        for found, true in zip(worth.recalibration(BINARY, vector), (intercept, slope), strict=True):
            assert abs(found.value[0] - true) < 5 * found.error[0] < 0.3

    def test_a_calibrated_model_has_hardly_any_calibration_error(self) -> None:
        """The plain estimate would be some 0.02 at this size."""
        score, label = drawn(2_000)
        calibrated = summed(BINARY, [prediction(float(s)) for s in score], label.tolist())[None, :]
        assert worth.calibration_error(BINARY, calibrated).value[0] < 0.015
        off = summed(BINARY, [prediction(float(s) / 2) for s in score], label.tolist())[None, :]
        assert worth.calibration_error(BINARY, off).value[0] == pytest.approx(np.mean(score / 2), abs=0.03)

    def test_a_shift_is_measured_from_the_recalibrated_scores(self) -> None:
        score, label = drawn(intercept=1.5)
        vector = summed(BINARY, [prediction(float(s)) for s in score], label.tolist())[None, :]
        ones = np.ones(1)
        assert worth.shift(BINARY, vector, 0 * ones, ones).value[0] == pytest.approx(1.5, abs=0.1)
        assert worth.shift(BINARY, vector, 1.5 * ones, ones).value[0] == pytest.approx(0, abs=0.1)

    def test_errors_of_a_regression_are_their_definitions(self) -> None:
        rng = np.random.default_rng(3)
        answer, truth = rng.normal(10, 3, 300), rng.normal(9, 3, 300)
        vector = summed(REGRESSION, [prediction(value=float(a)) for a in answer], truth.tolist())[None, :]
        mae, rmse, bias = worth.errors(REGRESSION, vector)
        assert mae.value[0] == pytest.approx(np.abs(answer - truth).mean(), rel=1e-4)
        assert rmse.value[0] == pytest.approx(math.sqrt(((answer - truth) ** 2).mean()), rel=1e-3)
        assert bias[0] == pytest.approx((answer - truth).mean(), abs=1e-4)

    def test_of_many_classes_the_score_is_that_of_the_answer(self) -> None:
        given = [prediction({"a": 0.7, "b": 0.2, "c": 0.1}), prediction({"a": 0.7, "b": 0.2, "c": 0.1}, "b")]
        vector = summed(MULTI, given, ["a", "a"])[None, :]
        n, right, score = MULTI.reliability(vector)
        assert (n.sum(), right.sum(), score.sum()) == (2, 1, pytest.approx(0.9))
        assert worth.log_loss(MULTI, vector).value[0] == pytest.approx(-math.log(0.7), abs=1e-6)

    def test_a_label_that_fits_nothing_is_counted_as_unusable(self) -> None:
        for layout, label in ((BINARY, "maybe"), (REGRESSION, "tall"), (MULTI, "z")):
            vector = summed(layout, [prediction(0.5, 1)], [label])
            assert (layout.usable(vector), vector.sum()) == (0, 3)  # labelled, unusable, and the delay


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.3, 0.5, 1.0, None]), st.sampled_from([0, 1, True, "x", None]), st.booleans()),
        max_size=12,
    )
)
def test_what_is_added_can_be_taken_back(rows: list[tuple[Any, Any, bool]]) -> None:
    given_, labels = [prediction(score, value) for score, value, _ in rows], [float(label) for *_, label in rows]
    assert not (summed(BINARY, given_, labels) + summed(BINARY, given_, labels, -1)).any()


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (True, 1), (0.0, False), ("1", 1)])
def test_a_class_is_known_by_any_of_its_forms(one: Any, other: Any) -> None:
    assert class_text(one) == class_text(other)
    assert BINARY.class_of(one) == BINARY.class_of(other) < 2


def test_the_cusum_alarms_as_seldom_as_it_says() -> None:
    """Mean time between false alarms, and how soon it finds the step that it is tuned to."""
    rng, drift, variance, wanted = np.random.default_rng(5), 0.02, 0.15, 20_000.0
    limit = cusum_limit(drift, variance, wanted)

    def run_length(step: float) -> float:
        lengths = []
        for _ in range(60):
            moves = rng.normal(step - drift, math.sqrt(variance), 200_000)
            path = np.cumsum(moves)
            over = np.flatnonzero(path - np.minimum.accumulate(np.minimum(path, 0)) > limit)
            lengths.append(over[0] if len(over) else len(moves))
        return float(np.mean(lengths))

    assert run_length(0.0) > 0.7 * wanted
    assert run_length(2 * drift) < wanted / 15


class TestPersistence:
    """By how much the sum of blocks varies more than that of independent ones."""

    def test_independent_blocks_have_none(self) -> None:
        drawn = np.random.default_rng(3).normal(size=(500, 60))
        assert 1.0 <= np.mean([persistence(blocks) for blocks in drawn]) < 1.25

    def test_of_an_autoregression_it_is_what_sums_show(self) -> None:
        """Against the variance of sums of 60 blocks, less what Bartlett's weights leave out at few lags."""
        rng, share = np.random.default_rng(4), 0.4
        series = np.zeros((2_000, 160))
        for at in range(1, 160):
            series[:, at] = share * series[:, at - 1] + rng.normal(size=2_000)
        sums = series[:, 100:].sum(axis=1)
        shown = float(np.var(sums) / (60 * np.var(series[:, 100:])))
        found = float(np.mean([persistence(blocks) for blocks in series[:, 100:]]))
        assert 0.6 * shown < found < shown

    @given(st.lists(st.floats(-1e3, 1e3), max_size=40), st.floats(0.1, 10), st.floats(-100, 100))
    def test_it_is_at_least_one_and_has_no_unit(self, values: list[float], scale: float, shift: float) -> None:
        blocks = np.array(values)
        found = persistence(blocks)
        assert found >= 1.0
        if len(values) and np.std(blocks) > 1e-3:
            assert persistence(blocks * scale + shift) == pytest.approx(found, rel=1e-6)

    @pytest.mark.parametrize("blocks", [np.zeros(0), np.arange(7.0), np.ones(50)])
    def test_few_blocks_or_equal_ones_tell_nothing(self, blocks: Ints) -> None:
        assert persistence(blocks) == 1.0


# --- Learning


def events(n: int, score: Any, value: Any, **more: Any) -> list[bytes]:
    return [
        json.dumps(
            {"event_id": f"e{i}", "ts": 1_767_225_600_000 + i * 1000, "model": "m", "features": {"x": i % 7}}
            | {"score": score(i), "prediction": value(i)}
            | more
        ).encode()
        for i in range(n)
    ]


def labels(n: int, label: Any) -> list[bytes]:
    times = (1_767_225_660_000 + i * 1000 for i in range(n))
    return [json.dumps({"event_id": f"e{i}", "label": label(i), "label_ts": t}).encode() for i, t in enumerate(times)]


def learned(rows: list[bytes], told: list[bytes]) -> Learned:
    return learn("m", lambda: rows, labels=told)


class TestLearning:
    def test_two_classes_with_a_score(self) -> None:
        found = learned(
            events(400, lambda i: (i % 100) / 100, lambda i: int(i % 100 >= 30)), labels(400, lambda i: i % 2)
        )
        outcomes = found.baseline.outcomes
        assert outcomes is not None
        assert (outcomes.layout.task, outcomes.layout.classes) == (Task.BINARY, ("0", "1"))
        assert 0.29 < outcomes.layout.threshold <= 0.30
        assert outcomes.layout.threshold in outcomes.layout.edges  # no bin is of both answers
        assert outcomes.opened()[0][WHOLE][:3].tolist() == [400, 0, 400]

    def test_the_positive_class_is_the_one_with_the_higher_scores(self) -> None:
        found = learned(
            events(400, lambda i: 0.9 if i % 2 else 0.2, lambda i: "fraud" if i % 2 else "ok"),
            labels(400, lambda i: "fraud" if i % 2 else "ok"),
        )
        assert found.baseline.outcomes is not None
        assert found.baseline.outcomes.layout.classes == ("ok", "fraud")

    def test_several_classes(self) -> None:
        found = learned(
            events(300, lambda i: {"a": 0.5, "b": 0.3, "c": 0.2}, lambda i: "abc"[i % 3]),
            labels(300, lambda i: "aab"[i % 3]),
        )
        assert found.baseline.outcomes is not None
        assert (found.baseline.outcomes.layout.task, set(found.baseline.outcomes.layout.classes)) == (
            Task.MULTICLASS,
            {"a", "b", "c"},
        )

    def test_quantities(self) -> None:
        found = learned(events(300, lambda i: None, lambda i: i * 0.37), labels(300, lambda i: i * 0.4))
        assert found.baseline.outcomes is not None
        assert found.baseline.outcomes.layout.task is Task.REGRESSION

    @pytest.mark.parametrize(
        ("told", "complaint"),
        [
            ([b'{"event_id": "other", "label": 1, "label_ts": 0}'], "0 labels that belong to an event"),
            ([b"{"], "no usable label"),
            ([], "no usable label (no lines)"),
        ],
    )
    def test_labels_of_nothing_are_one_line(self, told: list[bytes], complaint: str) -> None:
        with pytest.raises(DataError) as error:
            learned(events(300, lambda i: 0.5, lambda i: 1), told)
        assert complaint in str(error.value) and "\n" not in str(error.value)
