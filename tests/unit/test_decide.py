"""The state machine of a rule: what it remembers, what it says, and when it says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import config
from streams.action import PUBLISHED, Evidence
from streams.baseline import WHOLE
from streams.config import Match, Response, Rule
from streams.decide import decide
from streams.evidence import evidence_key, number
from streams.inhibit import Incidents
from streams.maintenance import Maintenance
from streams.rule_state import MOST_REVISIONS, NO_TRAFFIC_PANES, RuleCell, RuleState, states_by_text
from streams.signals.names import SIGNALS
from streams.signals.result import CellResult, Window
from streams.situation import Judged, Situation
from tests.decide_cases import (
    BREACH,
    FEW,
    LIMIT,
    NORTH,
    QUIET,
    SOUTH,
    M,
    Model,
    both,
    cell,
    found_of,
    rule_of,
    shift,
    story,
    worse,
)


@pytest.mark.parametrize(
    ("options", "panes", "told"),
    [
        ({}, "qbbqqq", "qFhhRq"),
        ({}, "bqbqbqq", "FhhhhhR"),  # one quiet pane is not the end of it
        ({"for_panes": 3}, "bbbqq", "ppFhR"),
        ({"for_panes": 3}, "bbqbbbq", "ppqppFh"),  # in a row
        ({"for_panes": 2}, "bfbbb", "ptFhh"),  # too few samples are neither breached nor quiet
        ({"clear_panes": 1}, "bqb", "FRF"),
        ({"clear_panes": 3}, "bqqfqb", "FhhhRF"),
        ({"clear_panes": 3}, "bqqbqqq", "FhhhhhR"),
        ({}, "fff.", "tttt"),
        ({}, "...", "---"),
        ({}, "q..b", "qttF"),
        ({}, "b" + "f" * (NO_TRAFFIC_PANES - 1) + "qq", "F" + "h" * NO_TRAFFIC_PANES + "R"),
        ({}, "b" + "." * NO_TRAFFIC_PANES + "..b", "F" + "h" * (NO_TRAFFIC_PANES - 1) + "Nt-F"),
        ({}, "b" + "f" * NO_TRAFFIC_PANES + "qb", "F" + "h" * (NO_TRAFFIC_PANES - 1) + "NqF"),
        ({"min_n": 49}, "f", "F"),
        ({"min_n": 101}, "bbb", "ttt"),
    ],
)
def test_a_rule_tells_its_story(options: dict[str, Any], panes: str, told: str) -> None:
    assert story(rule_of(**options), panes) == told


@given(st.text("qbf.", max_size=60), st.integers(1, 3), st.integers(1, 3))
def test_whatever_comes_it_resolves_only_what_fired_and_fires_only_what_is_not_firing(
    panes: str, for_panes: int, clear_panes: int
) -> None:
    told = story(rule_of(for_panes=for_panes, clear_panes=clear_panes), panes)
    published = [letter for letter in told if letter in "FRN"]
    assert published == [("F", "R")[i % 2] if letter != "N" else "N" for i, letter in enumerate(published)]
    for at, letter in enumerate(told):
        if letter == "F":
            counted = panes[: at + 1].replace("f", "").replace(".", "")
            assert counted.endswith("b" * for_panes)


class TestWhatIsPublished:
    def test_news_is_what_begins_grows_and_ends(self) -> None:
        assert {reason.value for reason in PUBLISHED} == {
            *("fired", "widened", "resolved", "no_traffic", "retired", "suppressed_by_layer", "released")
        }

    def test_the_evidence_is_what_is_breached_the_worst_first(self) -> None:
        (decision,) = Model(rule_of()).pane(cell({"a": 0.2, "b": 0.05, "c": 0.9}))
        assert [(item.feature, item.value) for item in decision.evidence] == [("c", 0.9), ("a", 0.2)]
        assert decision.evidence[0].threshold == LIMIT

    def test_of_equals_the_name_decides(self) -> None:
        (decision,) = Model(rule_of()).pane(cell({"z": 0.2, "a": 0.2}))
        assert [item.feature for item in decision.evidence] == ["a", "z"]

    def test_numbers_are_such_as_json_can_hold(self) -> None:
        assert [number(value) for value in (0.1 + 0.2, 1e300, float("nan"), float("inf"))] == [0.3, 1e300, None, None]

    def test_a_rule_may_look_at_some_features_only(self) -> None:
        model = Model(rule_of(features=("b",)))
        assert model.reasons([cell({"a": 0.9, "b": 0.05})], [cell({"a": 0.9, "b": 0.2})]) == [["quiet"], ["fired"]]
        (held,) = model.pane(cell({"a": 0.9, "b": 0.2}))
        assert [item.feature for item in held.evidence] == ["b"]

    def test_a_threshold_that_does_not_exist_gives_no_verdict(self) -> None:
        model = Model(rule_of())
        assert model.reasons([cell(0.9, limit=float("nan"))], [cell({"x": 0.9, "y": 0.0}, limit=float("nan"))]) == [
            ["too_few_samples"],
            ["too_few_samples"],
        ]

    def test_a_cell_without_the_rules_signals_is_none_of_its_business(self) -> None:
        assert Model(rule_of()).pane(cell(0.9, signal="unseen_rate")) == []

    def test_volume_is_judged_however_few_the_events(self) -> None:
        """That is the point of it."""
        rule = rule_of(signals=("request_rate",))
        (decision,) = Model(rule).pane(cell(0.0, n=0, signal="request_rate", limit=0.5, version=None))
        assert decision.reason == "fired"

    def test_versions_fire_on_their_own(self) -> None:
        model = Model(rule_of())
        assert model.reasons([cell(0.5, version="1"), cell(0.01, version="2")]) == [["fired", "quiet"]]
        assert model.reasons([cell(0.5, version="1"), cell(0.5, version="2")]) == [["holds", "fired"]]


class TestWidening:
    def test_a_column_that_joins_is_news(self) -> None:
        model = Model(rule_of())
        assert model.reasons([cell({"a": 0.5})], [cell({"a": 0.5, "b": 0.5})], [cell({"a": 0.5, "b": 0.5})]) == [
            ["fired"],
            ["widened"],
            ["holds"],
        ]
        assert model.states[RuleCell("nulls", "1", *WHOLE)].revision == 1

    def test_a_column_that_leaves_and_returns_is_no_news(self) -> None:
        model = Model(rule_of())
        assert model.reasons(
            [cell({"a": 0.5, "b": 0.5})], [cell({"a": 0.5, "b": 0.0})], [cell({"a": 0.5, "b": 0.5})]
        ) == [
            ["fired"],
            ["holds"],
            ["holds"],
        ]

    def test_where_a_rule_waits_a_joining_column_must_be_there_twice_too(self) -> None:
        model = Model(rule_of(for_panes=2))
        both, one = [cell({"a": 0.5, "b": 0.5})], [cell({"a": 0.5, "b": 0.0})]
        assert model.reasons(one, one, both, one, both, both) == [
            ["pending"],
            ["fired"],
            ["holds"],
            ["holds"],
            ["holds"],
            ["widened"],
        ]

    def test_news_of_one_incident_is_limited(self) -> None:
        model = Model(rule_of())
        told = []
        for columns in range(1, 12):
            told += model.reasons([cell({f"c{i}": 0.5 for i in range(columns)})])[0]
        assert told == ["fired", *["widened"] * MOST_REVISIONS, *["holds"] * (10 - MOST_REVISIONS)]

    def test_a_new_incident_starts_anew(self) -> None:
        model = Model(rule_of(clear_panes=1))
        wide = [cell({"a": 0.5, "b": 0.5})]
        model.reasons([cell({"a": 0.5})], wide, QUIET)
        (decision,) = model.pane(*wide)
        assert (decision.reason, decision.state.revision) == ("fired", 0)

    def test_a_segment_has_no_such_news(self) -> None:
        model = Model(rule_of())
        quiet = cell(0.0)
        assert model.reasons(
            [quiet, cell({"a": 0.5}, segment=NORTH)], [quiet, cell({"a": 0.5, "b": 0.5}, segment=NORTH)]
        ) == [["quiet", "fired"], ["quiet", "holds"]]


class TestSegments:
    def test_a_segment_fires_where_the_whole_is_quiet(self) -> None:
        (whole, north, south) = Model(rule_of()).pane(cell(0.05), cell(0.5, segment=NORTH), cell(0.0, segment=SOUTH))
        assert (whole.reason, north.reason, south.reason) == ("quiet", "fired", "quiet")
        assert north.segment == NORTH

    def test_it_is_covered_while_the_whole_fires_or_is_about_to(self) -> None:
        model = Model(rule_of(for_panes=2))
        both = [cell(0.5), cell(0.5, segment=NORTH)]
        assert model.reasons(both, both, both) == [
            ["pending", "pending"],
            ["fired", "covered_by_model"],
            ["holds", "covered_by_model"],
        ]

    def test_what_is_left_of_it_fires_when_the_whole_has_recovered(self) -> None:
        model = Model(rule_of(clear_panes=1))
        model.reasons([cell(0.5), cell(0.5, segment=NORTH)])
        assert model.reasons([cell(0.0), cell(0.5, segment=NORTH)]) == [["resolved", "fired"]]

    def test_a_segment_that_fired_first_goes_on_to_its_own_end(self) -> None:
        model = Model(rule_of(clear_panes=1))
        model.reasons([cell(0.05), cell(0.5, segment=NORTH)])
        assert model.reasons([cell(0.5), cell(0.5, segment=NORTH)], [cell(0.5), cell(0.0, segment=NORTH)]) == [
            ["fired", "holds"],
            ["holds", "resolved"],
        ]

    def test_a_version_does_not_cover_anothers_segments(self) -> None:
        model = Model(rule_of())
        assert model.reasons(
            [cell(0.5, version="1"), cell(0.0, version="2"), cell(0.5, version="2", segment=NORTH)]
        ) == [["fired", "quiet", "fired"]]

    def test_a_rule_may_leave_segments_out(self) -> None:
        assert Model(rule_of(segments=False)).reasons([cell(0.05), cell(0.5, segment=NORTH)]) == [["quiet"]]


class TestState:
    def test_states_are_replaced_and_never_changed_in_place(self) -> None:
        """The state that was published with an earlier pane must not change after it."""
        states: dict[RuleCell, RuleState] = {}
        kept = []
        situation = Situation("m", config.Model(), Incidents())
        for i, cells in enumerate((BREACH, BREACH, QUIET, [cell({"x": 0.5, "y": 0.5})], QUIET, QUIET)):
            judged = {M: Judged(Window(i * M, i * M + M, M, {}), cells)}
            list(decide([rule_of()], judged, states, situation))
            kept.append((states[RuleCell("nulls", "1", *WHOLE)], msgspec.json.encode(states_by_text(states))))
        for state, encoded in kept:
            (decoded,) = msgspec.json.decode(encoded, type=dict[str, RuleState]).values()
            assert state == decoded

    def test_the_incident_remembers_when_it_began(self) -> None:
        model = Model(rule_of(for_panes=2))
        model.reasons(QUIET, BREACH, BREACH, BREACH)
        assert model.states[RuleCell("nulls", "1", *WHOLE)].since_ms == 2 * M

    def test_two_incidents_in_a_long_window_are_told_apart(self) -> None:
        """A window of 12 hours starts at a whole hour: many of them have one start."""
        model = Model(rule_of(clear_panes=1), over_ms=720 * M)
        since = []
        for cells in (BREACH, QUIET, BREACH):
            (decision,) = model.pane(*cells, start_ms=-720 * M)
            since += [decision.state.since_ms] if decision.reason == "fired" else []
        assert len(set(since)) == 2

    def test_cells_that_are_gone_are_forgotten(self) -> None:
        """A version that was rolled back leaves no state behind."""
        model = Model(rule_of())
        model.reasons(QUIET)
        for _ in range(NO_TRAFFIC_PANES + 1):
            model.pane()
        assert model.states == {}

    def test_rules_do_not_mix_their_states(self) -> None:
        model = Model(rule_of(), rule_of(name="other", for_panes=2))
        assert model.reasons(BREACH, BREACH) == [["fired", "pending"], ["holds", "fired"]]

    @pytest.mark.parametrize("name", ['quo"te', "a/b", "\u6771", "[", "null"])
    def test_any_name_makes_a_key_of_its_own(self, name: str) -> None:
        keys = {
            RuleCell(name, version, *segment).text for version in (None, "", name) for segment in (WHOLE, (name, name))
        }
        assert len(keys) == 6


class TestConditions:
    def test_any_of_the_signals_or_all_of_them(self) -> None:
        names = ("null_rate", "score_drift")
        assert found_of(Model(rule_of(signals=names)).pane(*both(0.5, 0.0)))["nulls"] == "fired"
        strict = rule_of(signals=names, match=Match.ALL)
        assert found_of(Model(strict).pane(*both(0.5, 0.0)))["nulls"] == "quiet"
        assert found_of(Model(strict).pane(*both(0.5, 0.5)))["nulls"] == "fired"

    def test_a_fast_and_a_slow_window_must_both_be_breached(self) -> None:
        rule = rule_of(over=("1m", "1h"))
        assert found_of(Model(rule).pane(*BREACH, longer=QUIET))["nulls"] == "quiet"
        assert found_of(Model(rule).pane(*QUIET, longer=BREACH))["nulls"] == "quiet"
        (decision,) = Model(rule).pane(*BREACH, longer=BREACH)
        assert (decision.reason, decision.window.over_ms) == ("fired", M)
        assert found_of(Model(rule).pane(*BREACH))["nulls"] == "too_few_samples"

    def test_some_segments_alone(self) -> None:
        model = Model(rule_of(segments={"region": ("south",)}), segments={"region": ("north", "south")})
        decisions = model.pane(cell(0.0), cell(0.5, segment=NORTH), cell(0.5, segment=SOUTH))
        assert [(d.segment, d.reason) for d in decisions] == [(WHOLE, "quiet"), (SOUTH, "fired")]

    def test_in_a_maintenance_window_nothing_begins_and_after_it_what_still_holds_does(self) -> None:
        window = Maintenance(from_="1970-01-01T00:02:00Z", to="1970-01-01T00:04:00Z")
        model = Model(rule_of(), maintenance=(window,))
        reasons = [found_of(model.pane(*cells))["nulls"] for cells in (QUIET, BREACH, BREACH, BREACH)]
        assert reasons == ["quiet", "maintenance", "maintenance", "fired"]
        other = Model(rule_of(), rule_of(name="b"), maintenance=(msgspec.structs.replace(window, rules=("b",)),))
        other.pane(*QUIET)
        assert found_of(other.pane(*BREACH)) == {"nulls": "fired", "b": "maintenance"}


class TestCoolingDown:
    """After an incident: what is the same story, and what is news."""

    COOLS = rule_of(clear_panes=1, cool_down="3m")

    def after(self, *panes: Sequence[CellResult], rule: Rule = COOLS) -> list[str]:
        """The last decisions on panes that follow an incident that is over."""
        model = Model(rule)
        for _ in range(rule.for_panes):
            model.pane(*BREACH)
        assert [found_of(model.pane(*QUIET))["nulls"] for _ in range(rule.clear_panes)][-1] == "resolved"
        return [found_of(model.pane(*cells))["nulls"] for cells in panes]

    def test_what_comes_back_waits_until_the_time_is_over_and_is_told_if_it_still_holds(self) -> None:
        assert self.after(BREACH, BREACH, BREACH, BREACH) == ["cooling_down", "cooling_down", "fired", "holds"]
        assert self.after(BREACH, QUIET, BREACH) == ["cooling_down", "quiet", "fired"]

    def test_what_was_not_told_is_news_at_once(self) -> None:
        assert self.after([cell({"x": 0.5, "y": 0.5})]) == ["fired"]
        assert self.after(QUIET, [cell({"y": 0.2})]) == ["quiet", "fired"]

    def test_what_lies_more_than_twice_as_far_as_was_told_is_news_at_once(self) -> None:
        told = 0.5 - 0.01  # from the baseline
        assert self.after([cell(0.01 + 2 * told - 1e-9)]) == ["cooling_down"]
        assert self.after([cell(0.01 + 2 * told + 1e-9)]) == ["fired"]

    def test_what_has_turned_to_the_other_side_is_news_at_once(self) -> None:
        rule = rule_of(signals=("calibration_intercept",), clear_panes=1, cool_down="3m")
        model = Model(rule)
        shifts = [
            [cell(0.01 + shift, signal="calibration_intercept", limit=0.51 if shift >= 0 else -0.49)]
            for shift in (0.9, 0.0, 0.8, -0.8)
        ]
        told = [found_of(model.pane(*cells))["nulls"] for cells in shifts]
        assert told == ["fired", "resolved", "cooling_down", "fired"]

    def test_where_a_rule_waits_the_news_must_be_there_twice_too(self) -> None:
        rule = rule_of(for_panes=2, clear_panes=1, cool_down="9m")
        other = [cell({"y": 0.5})]
        assert self.after(BREACH, other, BREACH, rule=rule) == ["pending", "cooling_down", "cooling_down"]
        assert self.after(BREACH, other, other, rule=rule) == ["pending", "cooling_down", "fired"]

    def test_what_was_told_in_the_meantime_is_known_too(self) -> None:
        """One story that goes on: x, then y, then both again."""
        model = Model(self.COOLS)
        both = [cell({"x": 0.5, "y": 0.5})]
        assert model.reasons(BREACH, QUIET, [cell({"y": 0.5})], QUIET, both) == [
            ["fired"],
            ["resolved"],
            ["fired"],
            ["resolved"],
            ["cooling_down"],
        ]

    def test_an_incident_that_was_never_told_leaves_nothing_to_cool_down_from(self) -> None:
        """It was held back for a lower layer from its beginning to its end."""
        model = Model(shift(clear_panes=1, cool_down="9m"), rule_of(clear_panes=1))
        told = [found_of(model.pane(*cells))["scores"] for cells in (both(0.5, 0.5), both(0.5, 0), both(0, 0.5))]
        assert told == ["suppressed_by_layer", "resolved", "fired"]

    def test_a_cell_without_traffic_remembers_what_was_told_of_it(self) -> None:
        model = Model(rule_of(clear_panes=1, cool_down="2h"))
        model.reasons(BREACH, QUIET)
        for _ in range(NO_TRAFFIC_PANES + 1):
            model.pane()
        assert model.reasons(BREACH) == [["cooling_down"]]

    def test_the_same_of_a_segment_is_the_whole_models_story(self) -> None:
        model = Model(self.COOLS)
        model.reasons(BREACH, QUIET)
        segments = [cell(0.5, segment=NORTH), cell({"y": 0.5}, segment=SOUTH)]
        assert model.reasons([cell(0.0), *segments]) == [["quiet", "covered_by_model", "fired"]]
        model.pane(*QUIET)
        assert model.reasons([cell(0.0), *segments]) == [["quiet", "fired", "holds"]]

    @given(st.text("qbf.", max_size=40), st.integers(1, 3), st.integers(1, 9))
    def test_the_same_evidence_is_never_told_twice_within_the_time(self, panes: str, for_panes: int, wait: int) -> None:
        model = Model(rule_of(for_panes=for_panes, clear_panes=1, cool_down=f"{wait}m"))
        over = -wait
        for at, letter in enumerate(panes):
            for decision in model.pane(*{"q": QUIET, "b": BREACH, "f": FEW, ".": []}[letter]):
                assert decision.reason != "fired" or at >= over + wait
                over = at if decision.reason in ("resolved", "no_traffic") else over


def test_the_order_in_which_rules_are_listed_changes_nothing() -> None:
    rules = (
        rule_of(clear_panes=1),
        rule_of(name="scores", signals=("score_drift",), response=Response.HUMAN_REVIEW, clear_panes=1),
        rule_of(name="worse", signals=("accuracy", "segment_error_rate"), response=Response.RETRAIN, clear_panes=1),
        rule_of(name="segments", signals=("segment_error_rate",), response=Response.RETRAIN, clear_panes=1),
    )
    panes = [worse(0.3, 0.3), worse(0.3, 0.3), worse(0.0, 0.9), [*both(0.5, 0.5), *worse(0.3, 0.3)], [*both(0.0, 0.5)]]
    told = []
    for listed in permutations(rules):
        model = Model(*listed)
        told.append([{(d.rule.name, d.segment): d.reason for d in model.pane(*cells)} for cells in panes])
    assert all(story == told[0] for story in told)
    assert {reason for pane in told[0] for reason in pane.values()} >= {"fired", "covered_by_model"}


@pytest.mark.parametrize(
    ("value", "baseline", "side"),
    [(0.2, 0.3, ":-"), (0.3, 0.3, ":+"), (0.4, 0.3, ":+"), (-0.1, None, ":-"), (0.0, None, ":+"), (None, 0.3, ":+")],
)
def test_evidence_of_two_sides_is_named_by_its_side(value: float | None, baseline: float | None, side: str) -> None:
    """The names are in the state: another release reads them."""
    for name in ("request_rate", "workflow_step_rate", "null_rate"):
        item = Evidence("quality", name, "x", value, baseline, 0.1, None)
        assert evidence_key(item) == f"{name}:x" + (side if SIGNALS[name].two_sided else "")
    assert SIGNALS["workflow_step_rate"].two_sided and not SIGNALS["null_rate"].two_sided
