"""An incident of a rule that was edited to look at something else is closed: nothing would ever judge it."""

from __future__ import annotations

import msgspec
import pytest

from streams.configure import load
from streams.fingerprint import made_of
from streams.plan import ModelPlan, compile_plan
from streams.restore import restored
from streams.rule_state import RuleCell, RuleState
from streams.state import ModelState, pack_state, unpack_state

MINUTE_MS = 60_000
KEY = RuleCell("falling", None, "", "").text


def planned(rule: str, more: str = "") -> ModelPlan:
    kpis = "\n".join(f"      {name}: {{aggregate: mean, better: higher, target: 0.3}}" for name in ("conv", "sold"))
    text = f"models:\n  m:\n    features: {{a: {{type: numeric}}}}\n    kpis:\n{kpis}\n    served: requests\n{more}"
    plan = compile_plan(load(f"{text}    rules:\n      - {{name: falling, {rule}, response: rollback}}\n"), {})
    return plan.models["m"]


def state(plan: ModelPlan, told: dict[str, float], *, suppressed_by: str = "") -> ModelState:
    opened = RuleState(breached=1, firing=True, since_ms=MINUTE_MS, told=told, suppressed_by=suppressed_by)
    return ModelState(
        model="m",
        judged_until_ms=10 * MINUTE_MS,
        first_pane_ms=0,
        last_event_pane_ms=9 * MINUTE_MS,
        kpis_until_ms={"conv": 9 * MINUTE_MS},
        rules={KEY: opened},
        made=made_of(plan),
    )


@pytest.mark.parametrize(("suppressed_by", "told"), [("", {"kpi:conv": 1.0}), ("0" * 32, {})])
def test_an_incident_of_another_kpi_is_closed(suppressed_by: str, told: dict[str, float]) -> None:
    before = state(planned("signals: [kpi], features: [conv]"), told, suppressed_by=suppressed_by)
    kept = unpack_state(pack_state(before), ModelState)
    found = restored(kept, planned("signals: [kpi], features: [sold]"))
    assert [action.data.reason for action in found.retired] == ["retired"]
    assert KEY not in found.state.rules
    assert any("another KPI" in restart.text for restart in found.restarts)


def test_an_incident_that_an_earlier_release_kept_is_closed_by_what_was_told_of_it() -> None:
    before = state(planned("signals: [kpi], features: [conv]"), {"kpi:conv:+": 1.0})
    assert before.made is not None
    rules = {name: msgspec.structs.replace(rule, kpi=None) for name, rule in before.made.rules.items()}
    old = msgspec.structs.replace(before, made=msgspec.structs.replace(before.made, rules=rules))
    assert restored(old, planned("signals: [kpi], features: [sold]")).retired
    assert not restored(old, planned("signals: [kpi], features: [conv]")).retired


@pytest.mark.parametrize("rule", ["signals: [kpi], features: [conv]", "signals: [kpi], features: [conv], min_n: 3"])
def test_an_incident_of_the_same_kpi_goes_on(rule: str) -> None:
    before = state(planned("signals: [kpi], features: [conv]"), {"kpi:conv": 1.0})
    found = restored(before, planned(rule))
    assert not found.retired and found.state.rules[KEY].firing
