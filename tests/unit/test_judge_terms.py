"""Terms of what a judge remembers and looks back to, against plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import NewerError
from streams.judge import BucketJudge
from streams.judge_model import ModelJudge
from streams.judge_outcomes import Arrival, LabelledJudge
from streams.merge import BucketMerge
from streams.outcome_panes import OutcomePane
from streams.partial import Cell, PanePart
from streams.signals.evaluate import Judge
from streams.signals.result import Window
from streams.sketch.counts import Counts
from streams.sketch.outcomes import DELAYS, FIRST_DELAY, PREDICTIONS, Prediction
from streams.sketch.profile import Profile
from streams.state import MAX_JUDGED, ModelState
from tests.faults.stream import MODEL
from tests.join_cases import PLAN as LABELLED
from tests.laws.test_labels_behind import plan as labelled_plan
from tests.strategies import MINUTE_MS, START_MS

M = MINUTE_MS
ALPHA = LABELLED.models["alpha"]
steps = st.integers(-5, 20)


def state_of(judged_until: int, last_event: int, judged_events: Sequence[int] = ()) -> ModelState:
    return ModelState(
        model="alpha",
        judged_until_ms=START_MS + judged_until * M,
        first_pane_ms=START_MS,
        last_event_pane_ms=START_MS + last_event * M,
        judged_events=list(judged_events),
    )


def labels_until(until_ms: int) -> ModelState:
    return msgspec.structs.replace(state_of(0, 0), labels_until_ms=until_ms)


@given(end=steps, last_event=steps, over=st.sampled_from([1, 5]))
def test_a_silence_lasts_from_the_end_of_the_last_pane_with_events(end: int, last_event: int, over: int) -> None:
    judge = ModelJudge(ALPHA, state_of(end, last_event))
    window = judge.events.window(START_MS + end * M, over * M, START_MS + last_event * M, partial=False)
    assert window.silent_ms == max(0, end - (last_event + 1)) * M
    assert window.partial == (end - over <= 0)


@given(st.lists(st.integers(-1, 9), max_size=MAX_JUDGED), st.integers(0, 20), steps)
def test_what_a_pane_was_judged_by_is_as_far_back_in_the_state_as_the_pane(
    events: list[int], until: int, pane: int
) -> None:
    state = state_of(until, until - 1, events)
    by_pane = {until - 1 - back: n for back, n in enumerate(events) if n >= 0}
    assert ModelJudge(ALPHA, state)._was_judged(START_MS + pane * M, state) == by_pane.get(pane)


@given(st.lists(st.lists(st.integers(0, 400), min_size=DELAYS, max_size=DELAYS), max_size=4))
def test_delays_of_the_first_labels_add_up_until_there_are_enough(panes: list[list[int]]) -> None:
    arrival, total = Arrival(START_MS), np.zeros(DELAYS, np.int64)
    for number, came in enumerate(panes, 1):
        vector = np.zeros(FIRST_DELAY + DELAYS, np.int64)
        vector[FIRST_DELAY:] = came
        profile = Profile(Counts.of(vector))
        end_ms = START_MS + number * 10**13
        arrival = arrival.with_pane({("v0", "", ""): profile, ("v0", "region", "north"): profile}, end_ms)
        total += came
        assert arrival.delays == total.tolist()
        assert (arrival.learned, arrival.learned_ms) == ((True, end_ms) if total.sum() >= 1_000 else (False, 0))


@pytest.mark.parametrize(("after_ms", "told"), [(-1, False), (0, True), (1, True)])
def test_truth_is_revised_from_when_it_is_settled(after_ms: int, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bool(revised(monkeypatch, ALPHA.horizon_ms + after_ms)) == told


@pytest.mark.parametrize(("after_ms", "told"), [(-1, True), (0, True), (1, False)])
def test_truth_is_revised_until_no_label_can_change_it(
    after_ms: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bool(revised(monkeypatch, 2 * ALPHA.horizon_ms + after_ms)) == told


def revised(monkeypatch: pytest.MonkeyPatch, after_ms: int) -> list[Any]:
    """What is told again of a span, as long after its end."""
    labelled = LabelledJudge(ALPHA, None, {}, {}, None)
    outcomes = BucketMerge(LABELLED, LABELLED.config.bucket("alpha"), "inference", 1).models["alpha"].outcomes
    start_ms = ALPHA.truth_start(START_MS)
    outcomes.progress.state = labels_until(start_ms + ALPHA.truth_ms + after_ms)
    monkeypatch.setattr(labelled, "_truth", lambda _, start_ms: [start_ms])
    return list(labelled.revise_truth(outcomes, [start_ms, start_ms + ALPHA.cohort_ms // 2]))


@given(first=steps, end=steps)
def test_a_state_without_predictions_takes_the_cohorts_that_lie_whole_in_what_was_judged(first: int, end: int) -> None:
    labelled, cohort_ms = LabelledJudge(ALPHA, None, {}, {}, None), ALPHA.cohort_ms
    outcomes = BucketMerge(LABELLED, LABELLED.config.bucket("alpha"), "inference", 1).models["alpha"].outcomes
    base_ms = ALPHA.cohort_start(START_MS)
    assert ALPHA.outcomes is not None
    vector = np.zeros(ALPHA.outcomes.length, np.int64)
    vector[PREDICTIONS] = 7
    cell = Cell("v0", "", "", Profile(Counts.of(vector)).to_bytes())
    for number in range(-5, 20):
        pane = OutcomePane(ALPHA.segmentation)
        pane.apply(0, (0, 0), PanePart("alpha", "", [], [cell]))
        outcomes.cohorts[base_ms + number * cohort_ms] = pane
    first_ms, end_ms = base_ms + first * cohort_ms + cohort_ms // 2, base_ms + end * cohort_ms + 1
    outcomes.progress.state = labels_until(first_ms)
    labelled.resume_cohorts(outcomes, first_ms, end_ms)
    found = {(at - base_ms) // cohort_ms for at in labelled.predictions.cohorts}
    assert found == set(range(max(first, -5), end))


def test_the_truth_says_what_the_scores_of_the_labelled_predictions_led_to_expect() -> None:
    compiled = labelled_plan()
    model = compiled.models[MODEL]
    assert model.outcomes is not None
    estimate = Judge(model).estimate
    labelled = LabelledJudge(model, estimate, {}, {}, None)
    layout, rows = labelled.judge.layout, 40
    predictions = [Prediction(MODEL, n, START_MS, True, "1", (), (n + 0.5) / rows, None) for n in range(rows)]
    slots, amounts = layout.contributions(predictions, ["1"] * rows, np.zeros(rows, np.int64))
    vector = np.zeros(layout.length, np.int64)
    np.add.at(vector, slots, amounts)
    cells = {("1", "", ""): Profile(Counts.of(vector))}
    window = Window(START_MS, START_MS + M, M, cells)
    scored = [labelled._as_scored(cell) for cell in labelled.judge.evaluate(window) if cell.events]
    assert estimate is not None and scored
    assert all(cell.expected == estimate.expected_of(layout.reliability(vector)[0]) != {} for cell in scored)
    unscored = LabelledJudge(model, None, {}, {}, None)
    assert all(not unscored._as_scored(cell).expected for cell in unscored.judge.evaluate(window))


def test_a_bucket_of_which_a_record_is_of_a_later_release_stands_still() -> None:
    bucket = LABELLED.config.bucket("alpha")
    judge = BucketJudge(LABELLED, bucket, "inference", 1)
    assert not judge.stands_still
    names = judge.stand_still(NewerError(seen="2", expected="1"))
    assert judge.stands_still
    assert set(names) == judge.parking.models.keys() == {m.name for m in LABELLED.in_bucket(bucket)}
    assert list(judge.advance()) == []
