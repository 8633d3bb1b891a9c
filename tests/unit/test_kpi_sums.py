"""A sum is held against its target where both are of the same: all of a window, and all of a model."""

from __future__ import annotations

import numpy as np
import pytest

from streams.action import Reason
from streams.cells import Cells
from streams.configure import load
from streams.facts.layout import KPI_LENGTH, kpi_vector
from streams.facts.merge import KpiPane
from streams.inhibit import Incidents
from streams.judge_kpi import KpiClock
from streams.plan import ModelPlan, compile_plan
from streams.rule_state import RuleState
from streams.sketch.counts import Counts
from streams.sketch.profile import Profile

MINUTE_MS = 60_000
A_MINUTE = 10
"""Observations, of which each is 0.1: 1,440 a day."""
CELLS = (("1", "", ""), ("1", "channel", "web"), ("1", "channel", "app"))
"""Of the segments each has a half."""


def planned(kpi: str) -> ModelPlan:
    text = f"""
models:
  m:
    pane: 1m
    features: {{a: {{type: numeric}}}}
    segments: {{channel: [web, app]}}
    kpis: {{sales: {{{kpi}, better: higher, target: {1440 if "sum" in kpi else 0.1}, tolerance: 0.1}}}}
    rules: [{{name: falling, signals: [kpi], features: [sales], response: rollback, over: 1h}}]
"""
    return compile_plan(load(text), {}).models["m"]


def pane(minute: int, each: float) -> KpiPane:
    def cell(n: int) -> Profile:
        return Profile(Counts.of(sum((kpi_vector(each) for _ in range(n)), np.zeros(KPI_LENGTH, np.int64))))

    cells: Cells = {key: cell(A_MINUTE // 2 if key[1] else A_MINUTE) for key in CELLS}
    return KpiPane(minute * MINUTE_MS, [cells], [{}])


def fired(clock: KpiClock, panes: range, each: float) -> list[tuple[str | None, str]]:
    states: dict[str, RuleState] = {}
    found = []
    for minute in panes:
        clock.resume(pane(minute, each))
        _, decisions = clock.close(pane(minute, each), states, Incidents())
        found += [(d.version, d.segment[1]) for d in decisions if d.reason is Reason.FIRED]
    return found


@pytest.mark.parametrize("kpi", ["aggregate: sum", "aggregate: mean"])
def test_a_number_at_its_target_is_no_fall_from_the_first_pane_on(kpi: str) -> None:
    clock = KpiClock(planned(kpi), "sales")
    clock.first_ms = 600 * MINUTE_MS
    assert not fired(clock, range(600, 720), 0.1)


def test_a_fall_of_the_sum_is_told_of_the_whole_model() -> None:
    clock = KpiClock(planned("aggregate: sum"), "sales")
    clock.first_ms = 600 * MINUTE_MS
    assert not fired(clock, range(600, 660), 0.1)
    assert fired(clock, range(660, 720), 0.05) == [(None, "")]
