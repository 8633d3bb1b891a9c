"""Plan of a model → how its false alarms a week are shared out, down to the error of a single test.

    false_alarms_per_week
    └─ equal parts: events | labels, if they are joined | side inputs, if feedback, KPIs or requests served are declared
       ├─ events        tests of a cell × segments × window lengths × panes a week
       ├─ labels        half for windows: tests of a cell × segments × panes a week
       │                half for CUSUMs:  tests of a cell × segments; a CUSUM counts labels instead of panes
       └─ side inputs   feedback:         rates × segments × window lengths × panes a week
                        KPIs:             KPIs × two sides × segments × window lengths × panes a week
                        capture ratio:    panes a week; half of the part, as it has one side

Every division is a Bonferroni bound: what is realised is less. Three bounds are looser than they look. The families of
side inputs have one part between them, and each takes it as if it were alone. A rate of workflow steps is tested on two
sides and counts as one test. And the windows of labels that are longer than a pane are not counted as tests of their
own: they hold the labels of the panes that were tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from streams.duration import WEEK_MS
from streams.plan import ModelPlan

LABEL_TESTS = 8
"""Of a cell: AUC, log loss, accuracy and calibration error; calibration slope and intercept on two sides each."""
TESTS_OF_A_CLASS = 2
"""Of a critical class: recall and precision."""


class Family(StrEnum):
    """Tests that share a part of the budget, or a fraction of a part."""

    EVENTS = "events"
    LABEL_WINDOWS = "label windows"
    CUSUMS = "cusums"
    FEEDBACK = "feedback"
    KPIS = "kpis"
    CAPTURE = "capture ratio"


FRACTIONS = {
    Family.EVENTS: 1.0,
    Family.LABEL_WINDOWS: 0.5,
    Family.CUSUMS: 0.5,
    Family.FEEDBACK: 1.0,
    Family.KPIS: 1.0,
    Family.CAPTURE: 0.5,
}
"""Of its part, what a family takes."""


def families(plan: ModelPlan) -> Iterator[Family]:
    """The families of tests that a model runs."""
    yield Family.EVENTS
    if plan.outcomes is not None:
        yield from (Family.LABEL_WINDOWS, Family.CUSUMS)
    if plan.feedback is not None:
        yield Family.FEEDBACK
    if plan.config.kpis:
        yield Family.KPIS
    if plan.config.served:
        yield Family.CAPTURE


def share_of(plan: ModelPlan, family: Family) -> float:
    """False alarms a week that all tests of a family may raise together."""
    config = plan.config
    parts = (True, plan.outcomes is not None, bool(plan.feedback or config.kpis or config.served))
    return config.false_alarms_per_week / sum(parts) * FRACTIONS[family]


def panes_a_week(plan: ModelPlan) -> float:
    """So often a test of windows is repeated in a week."""
    return max(1.0, WEEK_MS / plan.config.pane_ms)


def error_of_events(plan: ModelPlan, tests: int) -> float:
    """False-alarm probability of one test of events, of so many in a cell."""
    return _error(plan, Family.EVENTS, tests * _cells_and_lengths(plan))


def error_of_label_windows(plan: ModelPlan) -> float:
    """False-alarm probability of one test of the labels in a window."""
    return share_of(plan, Family.LABEL_WINDOWS) / _label_tests(plan) / panes_a_week(plan)


def labels_between_alarms(plan: ModelPlan, labels_a_week: float) -> float:
    """So many labels lie between two false alarms of one CUSUM."""
    return max(1.0, labels_a_week) / (share_of(plan, Family.CUSUMS) / _label_tests(plan))


def error_of_feedback(plan: ModelPlan, rates: int) -> float:
    """False-alarm probability of one rate of feedback, of so many in a cell."""
    return _error(plan, Family.FEEDBACK, rates * _cells_and_lengths(plan))


def error_of_kpis(plan: ModelPlan) -> float:
    """False-alarm probability of one KPI on one side."""
    return _error(plan, Family.KPIS, 2 * len(plan.config.kpis) * _cells_and_lengths(plan))


def error_of_capture(plan: ModelPlan) -> float:
    """False-alarm probability of the capture ratio, which is tested on its low side alone."""
    return _error(plan, Family.CAPTURE, 1)


def _error(plan: ModelPlan, family: Family, tests: int) -> float:
    """Of one of so many tests that are repeated with every pane."""
    return share_of(plan, family) / (tests * panes_a_week(plan))


def _cells_and_lengths(plan: ModelPlan) -> int:
    return len(plan.segmentation.declared()) * len(plan.window_lengths_ms)


def _label_tests(plan: ModelPlan) -> int:
    assert plan.config.labels is not None
    tests = LABEL_TESTS + TESTS_OF_A_CLASS * len(plan.config.labels.critical)
    return tests * len(plan.segmentation.declared())
