"""Incidents that others explain: lower layers, and the parts of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import config
from streams.action_of import action_of
from streams.baseline import WHOLE
from streams.config import Response, Rule
from streams.decide import decide
from streams.inhibit import EVENTS, LABELS, Incident, Incidents
from streams.rule_state import RuleCell
from streams.signals.result import CellResult, Window
from streams.situation import Judged, Situation
from tests.decide_cases import NORTH, SOUTH, M, Model, both, cell, found_of, rule_of, shift, worse


class TestInhibition:
    def test_what_a_lower_layer_explains_is_suppressed_and_released_when_it_is_over_and_still_holds(self) -> None:
        model = Model(shift(), rule_of(clear_panes=1))
        told = [
            found_of(model.pane(*cells)) for cells in (both(0.5, 0.5), both(0.5, 0.5), both(0.0, 0.5), both(0, 0.5))
        ]
        assert told == [
            {"nulls": "fired", "scores": "suppressed_by_layer"},
            {"nulls": "holds", "scores": "holds"},
            {"nulls": "resolved", "scores": "released"},
            {"nulls": "quiet", "scores": "holds"},
        ]

    def test_the_cause_is_named_by_the_id_of_its_action(self) -> None:
        low, high = Model(shift(), rule_of()).pane(*both(0.5, 0.5))
        assert high.state.suppressed_by == action_of("m", config.Model(), low).id
        action = action_of("m", config.Model(), high)
        assert (action.data.state, action.data.suppressed_by) == ("suppressed", high.state.suppressed_by)

    def test_it_is_never_the_other_way_round(self) -> None:
        model = Model(shift(inhibits=True), rule_of())
        assert found_of(model.pane(*both(0.0, 0.5))) == {"nulls": "quiet", "scores": "fired"}
        assert found_of(model.pane(*both(0.5, 0.5))) == {"nulls": "fired", "scores": "holds"}

    def test_it_waits_while_a_lower_rule_is_about_to_fire(self) -> None:
        model = Model(shift(), rule_of(for_panes=2))
        assert found_of(model.pane(*both(0.5, 0.5))) == {"nulls": "pending", "scores": "waiting_for_layer"}
        assert found_of(model.pane(*both(0.5, 0.5)))["scores"] == "suppressed_by_layer"
        other = Model(shift(), rule_of(for_panes=2))
        other.pane(*both(0.5, 0.5))
        assert found_of(other.pane(*both(0.0, 0.5)))["scores"] == "fired"

    def test_what_was_over_with_its_cause_is_resolved_without_having_fired(self) -> None:
        model = Model(shift(clear_panes=1), rule_of(clear_panes=1))
        model.pane(*both(0.5, 0.5))
        found = model.pane(*both(0.5, 0.0))
        assert found_of(found) == {"nulls": "holds", "scores": "resolved"}
        assert found[1].state.suppressed_by

    @pytest.mark.parametrize(
        ("lower", "held_back"),
        [
            ({"response": Response.HUMAN_REVIEW}, False),  # a drift that somebody looks at is no broken pipeline
            ({"response": Response.HUMAN_REVIEW, "inhibits": True}, True),
            ({"inhibits": False}, False),
            ({"shadow": True}, False),
        ],
    )
    def test_a_rule_says_whether_what_it_finds_is_broken(self, lower: dict[str, Any], held_back: bool) -> None:
        found = found_of(Model(shift(), rule_of(**lower)).pane(*both(0.5, 0.5)))
        assert found["scores"] == ("suppressed_by_layer" if held_back else "fired")

    def test_another_version_or_segment_explains_nothing(self) -> None:
        one, other = both(0.5, 0.0, version="1"), both(0.0, 0.5, version="2")
        assert [d.reason for d in Model(shift(), rule_of()).pane(*one, *other) if d.version == "2"] == [
            "quiet",
            "fired",
        ]
        whole, south, north = both(0.0, 0.0), both(0.5, 0.5, segment=SOUTH), both(0.0, 0.5, segment=NORTH)
        told = {(d.rule.name, d.segment): d.reason for d in Model(shift(), rule_of()).pane(*whole, *south, *north)}
        assert told["scores", SOUTH] == "suppressed_by_layer"
        assert told["scores", NORTH] == "fired"

    def test_drift_of_the_broken_feature_is_explained_and_that_of_another_is_not(self) -> None:
        drift = rule_of(name="drift", signals=("feature_drift",), response=Response.HUMAN_REVIEW)

        def drifting(*features: str) -> list[CellResult]:
            low = cell({"age": 0.5, "plan": 0.0})
            high = cell({name: 0.5 for name in features}, signal="feature_drift")
            return [replace(low, results=(*low.results, *high.results))]

        assert found_of(Model(drift, rule_of()).pane(*drifting("age")))["drift"] == "suppressed_by_layer"
        assert found_of(Model(drift, rule_of()).pane(*drifting("plan")))["drift"] == "fired"
        assert found_of(Model(drift, rule_of()).pane(*drifting("age", "plan")))["drift"] == "fired"

    def test_it_waits_for_what_would_explain_it_alone(self) -> None:
        drift = rule_of(name="drift", signals=("feature_drift",), response=Response.HUMAN_REVIEW)
        low, high = cell({"age": 0.5}), cell({"plan": 0.5}, signal="feature_drift")
        found = Model(drift, rule_of(for_panes=2)).pane(replace(low, results=(*low.results, *high.results)))
        assert found_of(found) == {"nulls": "pending", "drift": "fired"}

    def test_an_incident_that_is_open_is_remembered_however_many_have_come_since(self) -> None:
        def known(name: str, over_ms: int | None) -> Incident:
            return Incident(
                id=name, key=name, rank=20, version="1", segment=WHOLE, features=(), clock=EVENTS,
                began_ms=0, over_ms=over_ms,
            )  # fmt: skip

        incidents = Incidents([known("open", None), *(known(str(i), 5 * M) for i in range(1_000))])
        incidents.forget(0)
        assert "open" in {found.id for found in incidents.kept()} and len(incidents.kept()) < 300
        incidents.forget(6 * M)
        assert [found.id for found in incidents.kept()] == ["open"]

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40), st.integers(1, 3), st.integers(1, 3))
    def test_whatever_comes_no_action_of_a_higher_layer_begins_while_a_lower_one_fires(
        self, panes: list[tuple[bool, bool]], for_panes: int, clear_panes: int
    ) -> None:
        model = Model(shift(clear_panes=1), rule_of(for_panes=for_panes, clear_panes=clear_panes))
        for low, high in panes:
            told = {decision.rule.name: decision for decision in model.pane(*both(0.5 * low, 0.5 * high))}
            if told["nulls"].state.firing:
                assert told["scores"].reason not in ("fired", "released")
            if told["scores"].state.suppressed_by and told["scores"].state.firing:
                assert told["nulls"].state.firing or not high

    def test_a_rule_of_labels_looks_back_as_far_as_its_labels_reach(self) -> None:
        known = Incident(
            id="i", key="k", rank=20, version="1", segment=WHOLE, features=("age",), clock=EVENTS,
            began_ms=10 * M, over_ms=20 * M,
        )  # fmt: skip
        rule = rule_of(name="worse", signals=("accuracy",), response=Response.RETRAIN)
        told = {}
        for end in (15, 25, 40):
            situation = Situation("m", config.Model(), Incidents([known]), reach_ms=10 * M, clock=LABELS)
            wrong = cell({"": 0.5}, signal="accuracy", limit=0.8)
            judged = {M: Judged(Window((end - 1) * M, end * M, M, {}), [wrong])}
            (decision,) = decide([rule], judged, {}, situation)
            told[end] = decision.reason
        assert told == {15: "suppressed_by_layer", 25: "suppressed_by_layer", 40: "fired"}


class TestPartsOfTheWhole:
    RULES = (
        rule_of(name="segments", signals=("segment_error_rate",), clear_panes=1),
        rule_of(name="performance", signals=("accuracy",), clear_panes=1, cool_down="3m"),
    )

    def told(self, *rules: Rule, panes: Sequence[tuple[float, float]]) -> list[str]:
        """What is said of the segment's error rate."""
        model = Model(*rules)
        return [found_of(model.pane(*worse(*errors)))["segments"] for errors in panes]

    def test_a_segments_errors_are_covered_while_the_models_accuracy_is_told_to_have_fallen(self) -> None:
        assert self.told(*self.RULES, panes=[(0.3, 0.9)]) == ["covered_by_model"]
        assert self.told(*self.RULES, panes=[(0.01, 0.3)]) == ["fired"]

    def test_and_for_as_long_as_that_cools_down_unless_they_are_much_worse(self) -> None:
        panes = [(0.3, 0.3), (0.01, 0.5), (0.01, 0.7)]
        assert self.told(*self.RULES, panes=panes) == ["covered_by_model", "covered_by_model", "fired"]

    def test_a_shadow_rule_tells_nobody(self) -> None:
        segments, performance = self.RULES
        shadow = msgspec.structs.replace(performance, shadow=True)
        assert self.told(segments, shadow, panes=[(0.3, 0.3)]) == ["fired"]

    def test_what_is_held_back_covers_until_it_is_released(self) -> None:
        """A segment that was held back for a lower layer is not released while the whole model's incident says it."""
        model = Model(shift(clear_panes=1, for_panes=2), rule_of(clear_panes=1, segments=False))
        north = both(0.0, 0.5, segment=NORTH)
        model.pane(*both(0.5, 0.0), *north)
        model.pane(*both(0.5, 0.0), *north)
        assert model.states[RuleCell("scores", "1", *NORTH)].suppressed_by
        model.pane(*both(0.5, 0.5), *north)
        whole, segment = [d for d in model.pane(*both(0.0, 0.5), *north) if d.rule.name == "scores"]
        assert (whole.reason, segment.reason) == ("fired", "holds")


def test_what_a_lower_layer_explains_does_not_join_an_incident_and_joins_it_when_that_is_over() -> None:
    drift = rule_of(name="drift", signals=("feature_drift",), response=Response.HUMAN_REVIEW)
    model = Model(drift, rule_of(clear_panes=1))

    def pane(nulls: float, other: float, same: float) -> dict[str, str]:
        low = cell({"age": nulls})
        high = cell({"age": same, "fare": other}, signal="feature_drift")
        return found_of(model.pane(replace(low, results=(*low.results, *high.results))))

    assert pane(0.0, 0.5, 0.0)["drift"] == "fired"
    assert pane(0.5, 0.5, 0.5) == {"nulls": "fired", "drift": "holds"}
    assert pane(0.0, 0.5, 0.5) == {"nulls": "resolved", "drift": "widened"}
