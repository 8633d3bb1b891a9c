"""The state machine of a rule: what it remembers, what it says, and when it says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import config
from streams.action import PUBLISHED, Evidence, Reason
from streams.action_of import action_of
from streams.baseline import WHOLE, SegmentKey
from streams.config import Match, Response, Rule
from streams.decide import Decision, decide
from streams.evidence import evidence_key, number
from streams.inhibit import EVENTS, LABELS, Incident, Incidents
from streams.maintenance import Maintenance
from streams.rule_state import MOST_REVISIONS, NO_TRAFFIC_PANES, RuleCell, RuleState, states_by_cell, states_by_text
from streams.signals.names import SIGNALS
from streams.signals.result import CellResult, Result, Window
from streams.situation import Judged, Situation
from streams.sketch.counts import Counts
from streams.sketch.layout import OK_SLOT
from streams.sketch.profile import Profile

M = 60_000
LIMIT = 0.1
NORTH: SegmentKey = ("region", "north")
SOUTH: SegmentKey = ("region", "south")


def rule_of(**options: Any) -> Rule:
    return Rule(
        **{"name": "nulls", "signals": ("null_rate",), "response": Response.DATA_INCIDENT, "min_n": 50, **options}
    )


def cell(
    values: dict[str, float] | float,
    *,
    n: int = 100,
    segment: SegmentKey = WHOLE,
    version: str | None = "1",
    signal: str = "null_rate",
    limit: float = LIMIT,
) -> CellResult:
    """A cell with one signal: its values by column."""
    by_column: dict[Any, float] = values if isinstance(values, dict) else {"x": values}
    dense = np.zeros(3, np.int64)
    dense[OK_SLOT] = n
    size = len(by_column)
    result = Result(
        SIGNALS[signal],
        tuple(by_column),
        np.array(list(by_column.values()), float),
        np.full(size, 0.01),
        np.full(size, limit),
        np.full(size, float(n)),
    )
    return CellResult(version, segment, Profile(Counts.of(dense)), (result,), n)


class Model:
    """Runs rules over one pane after another, through the state's own JSON, as a restart would."""

    def __init__(self, *rules: Rule, over_ms: int = M, **options: Any) -> None:
        self.rules, self.over_ms = rules, over_ms
        self.config = config.Model(pane=f"{over_ms // M}m", rules=rules, **options)
        self.states: dict[RuleCell, RuleState] = {}
        self.incidents: tuple[Incident, ...] = ()
        self.panes = 0

    def pane(
        self, *cells: CellResult, start_ms: int | None = None, longer: Sequence[CellResult] = ()
    ) -> list[Decision]:
        """`longer`: the cells of the window of an hour."""
        self.panes += 1
        end_ms = self.panes * M
        window = Window(end_ms - self.over_ms if start_ms is None else start_ms, end_ms, self.over_ms, {})
        hour = Judged(Window(end_ms - 60 * M, end_ms, 60 * M, {}), longer)
        situation = Situation("m", self.config, Incidents(self.incidents))
        found = list(decide(self.rules, {self.over_ms: Judged(window, cells), 60 * M: hour}, self.states, situation))
        kept_states = msgspec.json.encode(states_by_text(self.states))
        self.states = states_by_cell(msgspec.json.decode(kept_states, type=dict[str, RuleState]))
        kept = msgspec.json.encode(situation.incidents.kept())
        self.incidents = msgspec.json.decode(kept, type=tuple[Incident, ...])
        return found

    def reasons(self, *panes: Sequence[CellResult]) -> list[list[str]]:
        return [[decision.reason for decision in self.pane(*cells)] for cells in panes]


QUIET, BREACH, FEW = [cell(0.05)], [cell(0.5)], [cell(0.5, n=49)]


def story(rule: Rule, panes: str) -> str:
    """Panes as letters (q quiet, b breached, f too few, . no cell) → the reasons' initials, capitals if published."""
    letters = {
        Reason.QUIET: "q",
        Reason.PENDING: "p",
        Reason.FIRED: "F",
        Reason.HOLDS: "h",
        Reason.RESOLVED: "R",
        Reason.NO_TRAFFIC: "N",
        Reason.TOO_FEW: "t",
        Reason.WIDENED: "W",
        Reason.COVERED: "c",
    }
    model = Model(rule)
    told = []
    for letter in panes:
        found = model.pane(*{"q": QUIET, "b": BREACH, "f": FEW, ".": []}[letter])
        assert len(found) <= 1
        told += [letters[decision.reason] for decision in found] or ["-"]
        assert all(decision.published == letters[decision.reason].isupper() for decision in found)
    return "".join(told)


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


def found_of(decisions: Sequence[Decision]) -> dict[str, str]:
    """Reasons by rule."""
    return {decision.rule.name: str(decision.reason) for decision in decisions}


def both(nulls: float, scores: float, **options: Any) -> list[CellResult]:
    """A cell with a signal of layer 2 and one of layer 3."""
    low, high = cell({"age": nulls}, **options), cell({"score": scores}, signal="score_drift", **options)
    return [replace(low, results=(*low.results, *high.results))]


def shift(**options: Any) -> Rule:
    return rule_of(**{"name": "scores", "signals": ("score_drift",), "response": Response.RETRAIN, **options})


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


def worse(errors: float, segment_errors: float) -> list[CellResult]:
    """The whole model's accuracy and a segment's error rate; usual is an error rate of 0.01."""
    whole = cell({"": 1 - errors}, signal="accuracy", limit=0.9)
    (result,) = whole.results
    right = replace(whole, results=(replace(result, baseline=np.array([0.99])),))
    return [right, cell({"": segment_errors}, signal="segment_error_rate", segment=NORTH)]


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


class Plain:
    """A rule of one cell whose evidence is always the same, stated once more."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.known = self.firing = False
        self.run = self.quiet = self.starved = self.since = 0
        self.ended: int | None = None

    def pane(self, number: int, letter: str) -> str | None:
        """What is said of a pane; `number`: its end, in minutes."""
        if letter == "." and not self.known:
            return None
        self.known = True
        cools = self.ended is not None and number * M < self.ended * M + self.rule.cool_down_ms
        if letter in "f.":
            self.starved += 1
            if self.firing and self.starved >= NO_TRAFFIC_PANES:
                return self.end(number, "no_traffic", quiet=0)
            if letter == "." and not self.firing and self.starved > NO_TRAFFIC_PANES and not cools:
                self.__init__(self.rule)  # type: ignore[misc]
            return "holds" if self.firing else "too_few_samples"
        self.starved = 0
        if letter == "q":
            self.quiet, self.run = self.quiet + 1, 0
            if not self.firing:
                return "quiet"
            return self.end(number, "resolved", self.quiet) if self.quiet >= self.rule.clear_panes else "holds"
        self.run, self.quiet = self.run + 1, 0
        if self.firing:
            return "holds"
        if self.run < self.rule.for_panes:
            return "pending"
        if cools:
            return "cooling_down"
        self.firing, self.since = True, (number - 1) * M
        return "fired"

    def end(self, number: int, reason: str, quiet: int) -> str:
        self.firing, self.ended, self.run, self.quiet = False, number, 0, quiet
        return reason


stretches = st.tuples(st.sampled_from("qbf."), st.one_of(st.integers(1, 4), st.integers(22, 27)))


@given(
    st.lists(stretches, max_size=9), st.integers(1, 3), st.integers(1, 3), st.sampled_from([None, "2m", "7m", "30m"])
)
def test_a_rule_does_what_is_stated_of_it(
    drawn: list[tuple[str, int]], for_panes: int, clear_panes: int, cool_down: str | None
) -> None:
    rule = rule_of(for_panes=for_panes, clear_panes=clear_panes, **({"cool_down": cool_down} if cool_down else {}))
    model, plain = Model(rule), Plain(rule)
    for end, letter in enumerate("".join(letter * count for letter, count in drawn), 1):
        found = model.pane(*{"q": QUIET, "b": BREACH, "f": FEW, ".": []}[letter])
        expected = plain.pane(end, letter)
        assert [decision.reason for decision in found] == ([expected] if expected else []), end
        assert bool(model.states) == plain.known
        for decision in found:
            state = decision.state
            assert state.firing == plain.firing
            assert not plain.known or state.resolved_ms == (plain.ended and plain.ended * M)
            if expected in ("fired", "holds", "resolved", "no_traffic") and plain.since:
                assert (state.since_ms, state.revision, state.suppressed_by) == (plain.since, 0, "")
            assert decision.published == (expected in ("fired", "resolved", "no_traffic"))
