"""What the tests of a model may raise falsely in a week adds up to what its configuration allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.configure import load
from streams.plan import ModelPlan, compile_plan
from streams.signals.budget import (
    Family,
    error_of_capture,
    error_of_events,
    error_of_kpis,
    families,
    labels_between_alarms,
    panes_a_week,
    share_of,
)
from streams.signals.evaluate import Judge
from streams.signals.feedback import FeedbackJudge
from streams.signals.measure import RATES
from streams.signals.names import ESTIMATED
from streams.signals.outcome import OutcomeJudge
from streams.signals.reference import DRIFTS, LATENCIES
from streams.unjudged import judged_at_all
from tests import scenario

LABELS = "    labels: {task: binary, horizon: 2h, classes: [negative, positive], critical: [%s]}\n"
SIDE_INPUTS = {
    Family.FEEDBACK: "    feedback:\n      complaint: {usual: 0.01}\n      workflow_step: {values: [a, b]}\n",
    Family.KPIS: "    kpis:\n      a: {aggregate: sum, better: lower}\n      b: {aggregate: mean, better: near}\n",
    Family.CAPTURE: "    served: requests\n",
}


def planned(
    a_week: float = 1.0,
    pane: str = "5m",
    lengths: str = "",
    segments: int = 0,
    labelled: bool = False,
    side_inputs: frozenset[Family] = frozenset(),
) -> ModelPlan:
    values = ", ".join(f"r{number}" for number in range(segments))
    over = f", over: [{lengths}]" if lengths else ""
    text = (
        f"models:\n  m:\n    pane: {pane}\n    false_alarms_per_week: {a_week}\n    features: {{}}\n"
        + (f"    segments:\n      region: [{values}]\n" if segments else "")
        + (LABELS % "positive" if labelled else "")
        + "".join(SIDE_INPUTS[family] for family in sorted(side_inputs))
        + f"    rules:\n      - {{name: down, signals: [request_rate], response: data_incident{over}}}\n"
    )
    return compile_plan(load(text), {}).models["m"]


def spent(plan: ModelPlan) -> float:
    return sum(share_of(plan, family) for family in families(plan))


budgets = st.builds(
    planned,
    st.sampled_from([0.1, 1.0, 3.0]),
    st.sampled_from(["1m", "5m", "7m", "1d"]),
    segments=st.integers(0, 3),
    labelled=st.booleans(),
    side_inputs=st.sampled_from([frozenset(), *(frozenset({family}) for family in SIDE_INPUTS)]),
)


@given(budgets)
def test_the_shares_of_all_families_add_up_to_at_most_the_whole(plan: ModelPlan) -> None:
    allowed = plan.config.false_alarms_per_week
    assert spent(plan) <= allowed * (1 + 1e-12)
    if Family.CAPTURE not in families(plan):
        assert spent(plan) == pytest.approx(allowed), "nothing is lost"


@pytest.mark.parametrize("labelled", [False, True])
def test_several_families_of_side_inputs_take_their_part_once_each(labelled: bool) -> None:
    plan = planned(labelled=labelled, side_inputs=frozenset(SIDE_INPUTS))
    part = share_of(plan, Family.EVENTS)
    assert part == pytest.approx(1 / (3 if labelled else 2))
    assert spent(plan) == pytest.approx(1 + 1.5 * part), "feedback, KPIs, and the low side of the capture ratio"


def test_of_two_models_each_has_a_budget_of_its_own() -> None:
    one, other = planned(1.0), planned(0.25, segments=2)
    assert spent(one) + spent(other) == pytest.approx(1.25)


OF_EVENTS = {*RATES, *LATENCIES, *DRIFTS, "request_rate", "cardinality", ESTIMATED}
"""Signals of events that chance can breach."""


@pytest.mark.parametrize("over", ["", "over: [5m, 1h], "])
def test_the_tests_that_are_run_on_events_stay_within_their_share(over: str) -> None:
    text = scenario.text().replace("signals: [request_rate],", f"signals: [request_rate], {over}")
    plan = compile_plan(load(text), {scenario.MODEL: scenario.reference().baseline}).models[scenario.MODEL]
    tests = sum(name in OF_EVENTS for _, name, _, _ in judged_at_all(plan))
    raised = tests * panes_a_week(plan) * Judge(plan).alpha
    assert 0.3 * share_of(plan, Family.EVENTS) < raised <= share_of(plan, Family.EVENTS)


@given(st.integers(0, 3), st.sampled_from(["", "10m", "10m, 1h"]))
def test_the_rates_of_feedback_stay_within_their_share(segments: int, lengths: str) -> None:
    plan = planned(segments=segments, lengths=lengths, side_inputs=frozenset({Family.FEEDBACK}))
    assert plan.feedback is not None
    signals = FeedbackJudge(plan, plan.feedback)
    rates = sum(len(result.columns) for results in signals.evaluate({}, ()).values() for result in results)
    lengths_of_windows = len(plan.window_lengths_ms)
    assert lengths_of_windows == 1 + len(lengths.split(",")) if lengths else lengths_of_windows == 1
    raised = rates * lengths_of_windows * panes_a_week(plan) * signals.alpha
    assert 0.5 * share_of(plan, Family.FEEDBACK) < raised <= share_of(plan, Family.FEEDBACK)


def test_a_kpi_is_tested_on_two_sides_and_the_capture_ratio_on_one() -> None:
    plan = planned(segments=2, lengths="10m", side_inputs=frozenset({Family.KPIS, Family.CAPTURE}))
    sides, kpis, cells, lengths = 2, 2, 3, 2
    tests = sides * kpis * cells * lengths * panes_a_week(plan)
    assert error_of_kpis(plan) * tests == pytest.approx(share_of(plan, Family.KPIS))
    assert error_of_capture(plan) * panes_a_week(plan) == pytest.approx(share_of(plan, Family.CAPTURE))


def test_the_labels_of_a_week_hold_the_false_alarms_of_all_cusums() -> None:
    plan = planned(segments=2, labelled=True)
    tests_of_a_cell, cells, labels_a_week = 10, 3, 5_000.0
    alarms_a_week = tests_of_a_cell * cells * labels_a_week / labels_between_alarms(plan, labels_a_week)
    assert alarms_a_week == pytest.approx(share_of(plan, Family.CUSUMS))
    windows = OutcomeJudge(plan).alpha * tests_of_a_cell * cells * panes_a_week(plan)
    assert windows == pytest.approx(share_of(plan, Family.LABEL_WINDOWS))


def test_a_pane_longer_than_a_week_is_tested_once_a_week() -> None:
    plan = planned(pane="14d")
    assert panes_a_week(plan) == 1
    assert error_of_events(plan, 4) == pytest.approx(share_of(plan, Family.EVENTS) / 4)
