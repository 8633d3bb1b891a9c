"""How much of what labels say is of an incident's time, and what an incident holds back as it widens."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import config
from streams.baseline import WHOLE
from streams.config import Response
from streams.decide import Decision, decide
from streams.duration import DAY_MS, HOUR_MS
from streams.inhibit import EVENTS, LABELS, MIN_SHARE, Incident, Incidents, share_made_in
from streams.rule_state import RuleState
from streams.signals.result import CellResult, Window
from streams.situation import Judged, Situation
from streams.sketch.counts import Counts
from streams.sketch.outcomes import DELAY_EDGES_MS, DELAYS, FIRST_DELAY
from streams.sketch.profile import Profile
from tests.decide_cases import Model, cell, found_of, rule_of

counts = st.lists(st.integers(0, 50), min_size=DELAYS, max_size=DELAYS).map(np.array)
moments = st.integers(-60 * DAY_MS, 10 * DAY_MS)


class TestShare:
    @given(counts, st.integers(1, 10 * DAY_MS), st.lists(moments, min_size=3, max_size=3).map(sorted))
    def test_shares_of_stretches_add_up(self, came: np.ndarray, end_ms: int, bounds: list[int]) -> None:
        first, second, third = bounds
        parts = [share_made_in(came, 0, end_ms, *span) for span in ((first, second), (second, third), (first, third))]
        if not came.sum():
            assert parts == [None] * 3
            return
        assert parts[0] is not None and parts[1] is not None and parts[2] is not None
        assert parts[0] + parts[1] == pytest.approx(parts[2], abs=1e-9)
        assert min(parts[:2]) >= 0 and parts[2] <= 1 + 1e-9
        assert share_made_in(came, 0, end_ms, -(10**13), end_ms) == pytest.approx(1.0)

    @pytest.mark.parametrize("typical_ms", [HOUR_MS, DAY_MS, 7 * DAY_MS])
    def test_it_is_the_share_of_the_labels_themselves(self, typical_ms: int) -> None:
        drawn = np.random.default_rng(1)
        for since_ms, over_ms in ((0, DAY_MS), (20 * DAY_MS, DAY_MS), (40 * DAY_MS, 7 * DAY_MS)):
            delay = drawn.lognormal(np.log(typical_ms), 1.0, 50_000)
            made = since_ms + drawn.random(50_000) * over_ms - delay
            came = np.bincount(np.searchsorted(DELAY_EDGES_MS, delay, "right"), minlength=DELAYS)
            for back in (0, typical_ms // 2, typical_ms, 3 * typical_ms):
                span = since_ms - back - 10 * HOUR_MS, since_ms - back
                share = share_made_in(came, since_ms, since_ms + over_ms, *span)
                true = float(np.mean((span[0] <= made) & (made < span[1])))
                assert share == pytest.approx(true, abs=0.01)

    def test_the_slowest_labels_are_taken_to_be_spread_up_to_twice_the_last_edge(self) -> None:
        came = np.zeros(DELAYS, np.int64)
        came[-1] = 10
        last = int(DELAY_EDGES_MS[-1])
        made_from = (-last, -3 * last // 2, -2 * last, -3 * last)
        shares = [share_made_in(came, 0, 1, from_ms, 10 * last) for from_ms in made_from]
        assert shares == pytest.approx([0.0, 0.5, 1.0, 1.0], abs=1e-6)


def labelled(delays: dict[int, int]) -> CellResult:
    """A cell that is wrong, with labels by delay."""
    vector = np.zeros(FIRST_DELAY + DELAYS, np.int64)
    for delay_ms, count in delays.items():
        vector[FIRST_DELAY + int(np.searchsorted(DELAY_EDGES_MS, delay_ms, "right"))] += count
    found = cell({"": 0.5}, signal="accuracy", limit=0.8, n=sum(delays.values()))
    return replace(found, profile=Profile(Counts.of(vector)))


NULLS = Incident(
    id="i",
    key="k",
    rank=20,
    version="1",
    segment=WHOLE,
    features=("age",),
    clock=EVENTS,
    began_ms=15 * DAY_MS + HOUR_MS,
    over_ms=15 * DAY_MS + 10 * HOUR_MS,
    from_ms=15 * DAY_MS,
)
WORSE = rule_of(name="worse", signals=("accuracy",), response=Response.RETRAIN)


def judged_on(
    day: int, delays: dict[int, int], states: dict[str, RuleState] | None = None, known: Incident = NULLS
) -> Decision:
    """What the rule of labels says of the labels of a day."""
    situation = Situation("m", config.Model(pane="1d"), Incidents([known]), reach_ms=31 * DAY_MS, clock=LABELS)
    window = Window((day - 1) * DAY_MS, day * DAY_MS, DAY_MS, {})
    (decision,) = decide(
        [WORSE], {DAY_MS: Judged(window, [labelled(delays)])}, {} if states is None else states, situation
    )
    return decision


class TestRepaired:
    def test_a_few_labels_of_its_hours_hold_nothing_back(self) -> None:
        """Four of 2,820, weeks later."""
        assert judged_on(36, {HOUR_MS: 2_700, 20 * DAY_MS: 120}).reason == "fired"

    def test_many_labels_of_its_hours_do(self) -> None:
        assert judged_on(16, {HOUR_MS: 2_820}).reason == "suppressed_by_layer"
        assert judged_on(17, {30 * HOUR_MS: 1_000, HOUR_MS: 500}).reason == "suppressed_by_layer"

    def test_it_is_released_as_soon_as_their_share_is_small(self) -> None:
        states: dict[str, RuleState] = {}
        told = [judged_on(day, {HOUR_MS: 2_700, 3 * DAY_MS: 40}, states).reason for day in range(16, 20)]
        assert told == ["suppressed_by_layer", "released", "holds", "holds"]

    @given(
        st.integers(16, 60), st.dictionaries(st.integers(0, 40 * DAY_MS), st.integers(1, 500), min_size=1, max_size=4)
    )
    def test_it_is_held_back_if_and_only_if_the_share_is_not_small(self, day: int, delays: dict[int, int]) -> None:
        delays = {at: 50 + count for at, count in delays.items()}
        came = labelled(delays).profile.counts.dense()[FIRST_DELAY:]
        share = share_made_in(came, (day - 1) * DAY_MS, day * DAY_MS, 15 * DAY_MS, 15 * DAY_MS + 10 * HOUR_MS)
        assert share is not None
        assert judged_on(day, delays).reason == ("suppressed_by_layer" if share >= MIN_SHARE else "fired")

    def test_of_an_incident_that_is_open_labels_of_before_it_say_nothing(self) -> None:
        still = msgspec.structs.replace(NULLS, over_ms=None)
        assert judged_on(17, {10 * DAY_MS: 1_000}, known=still).reason == "fired"
        assert judged_on(17, {HOUR_MS: 1_000}, known=still).reason == "suppressed_by_layer"

    @pytest.mark.parametrize(("over_ms", "reason"), [(16 * DAY_MS, "fired"), (16 * DAY_MS + 1, "suppressed_by_layer")])
    def test_one_of_the_flow_of_labels_is_about_the_time_in_which_they_come(self, over_ms: int, reason: str) -> None:
        flow = msgspec.structs.replace(NULLS, clock=LABELS, over_ms=over_ms, features=())
        assert judged_on(17, {20 * DAY_MS: 1_000}, known=flow).reason == reason

    def test_a_state_of_an_earlier_release_is_read(self) -> None:
        old = {name: value for name, value in msgspec.to_builtins(NULLS).items() if name != "from_ms"}
        assert msgspec.convert(old, Incident).start_ms == NULLS.began_ms


def test_an_incident_that_widens_to_a_feature_holds_its_drift_back_too() -> None:
    """From the window on in which the feature is first seen to be broken, and after a restart."""
    drift = rule_of(name="drift", signals=("feature_drift",), response=Response.HUMAN_REVIEW)
    for for_panes in (1, 2):
        model = Model(drift, rule_of(for_panes=for_panes))
        for _ in range(for_panes):
            model.pane(cell({"age": 0.5, "plan": 0.0}))
        told = []
        for _ in range(3):
            low, high = cell({"age": 0.5, "plan": 0.5}), cell({"plan": 0.5}, signal="feature_drift")
            told.append(found_of(model.pane(replace(low, results=(*low.results, *high.results)))))
        widens = {"nulls": "widened", "drift": "suppressed_by_layer"}
        waits = [{"nulls": "holds", "drift": "waiting_for_layer"}] * (for_panes - 1)
        rest = {"nulls": "holds", "drift": "holds"}
        assert told == [*waits, widens, *[rest] * (3 - for_panes)]
        assert [incident.features for incident in model.incidents] == [("age", "plan")]
