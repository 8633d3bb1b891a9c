"""Terms of a formula, or of a bound, that change an answer only in a case of their own: that case."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from streams.baseline import WHOLE
from streams.cells import cap_versions
from streams.duration import HOUR_MS
from streams.facts.layout import kpi_vector
from streams.facts.merge import FactsMerge, KpiPane
from streams.inhibit import Incidents
from streams.join.cells import View
from streams.judge_facts import FEEDBACK_STREAM
from streams.judge_model import ModelJudge
from streams.judge_outcomes import LabelledJudge
from streams.merge import BucketMerge
from streams.model_panes import BooksState, PaneState
from streams.outcome_panes import OutcomePane
from streams.parking import Phase
from streams.partial import Books, BooksPart
from streams.plan import Facts
from streams.rollup import Unit
from streams.signals.evaluate import Judge
from streams.signals.feedback import _design_effect
from streams.signals.label_flow import FlowJudge, LabelFlow, Made
from streams.signals.reference import BLOCK_ALPHA, upper_limit
from streams.signals.result import Window, effect_of
from streams.sketch.counts import Counts
from streams.sketch.outcomes import DELAY_EDGES_MS, DELAYS
from streams.sketch.profile import Profile
from streams.state import ModelState
from tests.closing import evaluated
from tests.join_cases import PLAN as LABELLED
from tests.strategies import MINUTE_MS, START_MS, plan_of
from tests.synthetic import MODEL, learned, plan
from tests.unit.test_facts import cells

M = MINUTE_MS


class TestStatistics:
    def test_the_upper_limit_is_that_of_one_more_block(self) -> None:
        blocks = [2.0, 3.0, 5.0, 4.0]
        t = float(stats.t.ppf(1 - BLOCK_ALPHA, len(blocks) - 1))
        expected = statistics.mean(blocks) + t * statistics.stdev(blocks) * math.sqrt(1 + 1 / len(blocks))
        assert expected > max(blocks)
        assert upper_limit(np.array(blocks)[:, None]) == pytest.approx([expected])

    def test_the_design_effect_is_chi_square_by_its_degrees_of_freedom(self) -> None:
        told = [(10.0, 100.0), (20.0, 100.0), (30.0, 100.0)]
        chi = sum((hits - 20) ** 2 / (100 * 0.2 * 0.8) for hits, _ in told)
        assert _design_effect(told, 0.2) == pytest.approx(chi / 2)

    @pytest.mark.parametrize("gap_s", [15, 2_400])
    def test_silence_is_held_against_the_longest_gap_and_two_panes_at_the_least(self, gap_s: int) -> None:
        model = plan(learned()).models[MODEL]
        assert model.baseline is not None
        known = msgspec.structs.replace(model.baseline, longest_gap_ms=gap_s * 1_000)
        judge = Judge(replace(model, baseline=known))
        result = judge._freshness(Window(START_MS, START_MS + M, M, {}))
        longest_s, panes_s = gap_s * effect_of(model, "freshness"), 2 * model.config.pane_ms / 1_000
        assert (longest_s < panes_s) == (gap_s == 15)
        assert result.threshold.tolist() == [max(longest_s, panes_s)]

    @pytest.mark.parametrize("late_ms", [-1, 0])
    def test_labels_without_a_prediction_are_no_news_until_the_slowest_label_of_the_first_has_come(
        self, late_ms: int
    ) -> None:
        model = LABELLED.models["alpha"]
        assert model.outcomes is not None
        flow = FlowJudge(model, {WHOLE: np.zeros(model.outcomes.length, np.int64)}, None, 0.01)
        came = np.zeros(DELAYS, np.int64)
        came[np.searchsorted(DELAY_EDGES_MS, HOUR_MS)] = 1_000
        flow.follow(came.tolist())
        assert flow.slowest_ms >= HOUR_MS
        made = Made(np.array([START_MS], float), np.array([M], float), [{WHOLE: 1_000}])
        start_ms = START_MS + flow.slowest_ms + late_ms
        found = flow._unmatched(Window(start_ms, start_ms + M, M, {}), LabelFlow(1_000, 10), made)
        assert bool(found.breached[0]) == (late_ms == 0)


class TestCells:
    def test_declared_versions_are_kept_before_any_other(self) -> None:
        config = "models:\n  m:\n    versions: [z1, z2]\n    max_versions: 3\n    features: {}\n"
        segmentation = plan_of(config).models["m"].segmentation
        one = cells(1)["", "", ""]
        for other in "abcdefgh":
            found = {(version, "", ""): one for version in (other, "x", "y", "z1", "z2")}
            cap_versions(found, segmentation)
            assert len(found) == 4 and {("z1", "", ""), ("z2", "", "")} < found.keys()


SERVED = "    served: requests\n"
CONFIG = """
models:
  m:
    pane: 1m
    grace: 1m
    lateness: 2m
    features: {{}}
{}    rules:
      - {{name: slow, signals: [request_rate], response: data_incident, over: 5m}}
"""


class TestHorizons:
    def merge(self, served: str = "", *marks_ms: int) -> BucketMerge:
        compiled = plan_of(CONFIG.format(served))
        merge = BucketMerge(compiled, compiled.config.bucket("m"), "inference", max(1, len(marks_ms)))
        evaluated(merge.models["m"], judged_until_ms=START_MS)
        merge.models["m"].marks = {at: BooksPart("m", Books(), ms, 0) for at, ms in enumerate(marks_ms)}
        return merge

    def test_panes_stay_as_long_as_the_partition_that_is_furthest_behind_may_change_them(self) -> None:
        behind, level = self.merge("", START_MS, START_MS - HOUR_MS), self.merge("", START_MS, START_MS)
        ends = []
        for merge in (behind, level):
            merge.expire()
            ends.append(merge.models["m"].expired_before_ms)
        assert ends == [START_MS - HOUR_MS - 10 * M, START_MS - 10 * M], "the window, and five empty panes"

    @pytest.mark.parametrize(("versions", "values", "panes"), [(0, 0, 1), (1, 0, 3), (2, 1, 3), (3, 2, 7)])
    def test_what_waits_is_a_vector_for_every_version_segment_and_pane_that_is_to_be_judged(
        self, versions: int, values: int, panes: int
    ) -> None:
        names, regions = [f"v{at}" for at in range(versions)], [f"r{at}" for at in range(values)]
        segments = f"{{region: {regions}}}" if values else "{}"
        text = f"models:\n  m: {{pane: 1m, versions: {names}, segments: {segments}, features: {{}}}}\n"
        compiled = plan_of(text)
        merge = BucketMerge(compiled, compiled.config.bucket("m"), "inference", 1)
        model = merge.models["m"]
        model.panes = {START_MS + at * M: PaneState(model.plan.segmentation) for at in range(-2, panes)}
        cells = max(1, versions) * (1 + (values + 1 if values else 0))
        assert merge.held_bytes(model) == (panes + 2) * cells * model.length * 8
        evaluated(model, judged_until_ms=START_MS)
        assert merge.held_bytes(model) == panes * cells * model.length * 8

    @pytest.mark.parametrize("name", ["alpha", "beta"])
    @pytest.mark.parametrize("behind_ms", [0, 3 * HOUR_MS, 40 * HOUR_MS])
    @pytest.mark.parametrize("parked", [False, True])
    def test_outcomes_stay_as_long_as_a_label_may_change_what_is_told_of_them(
        self, name: str, behind_ms: int, parked: bool
    ) -> None:
        """Of cohorts two horizons before the events that are needed for the labels to come, and the truth of their
        span; of panes of arrival those that the flow of labels is looked at over. Of a parked model, for a week."""
        merge = BucketMerge(LABELLED, LABELLED.config.bucket(name), "inference", 1)
        model, pane_ms = merge.models[name], LABELLED.models[name].config.pane_ms
        lateness_ms, cohort_ms, truth_ms = model.plan.config.lateness_ms, model.plan.cohort_ms, model.plan.truth_ms
        evaluated(model, judged_until_ms=START_MS, labels_until_ms=START_MS - behind_ms)
        starts = range(START_MS - 24 * 24 * HOUR_MS, START_MS + M, 10 * M)
        views = (View.COHORT, View.ARRIVED)
        merge.outcome_keys = {(view, at): {b"%d %d" % (view, at)} for view in views for at in starts}
        if parked:
            merge.parking.park(name, Phase.FOLD, ValueError())
        gone = merge.expire()
        open_ms = (START_MS - min(behind_ms, 24 * HOUR_MS)) // cohort_ms * cohort_ms
        needed_ms = min(START_MS - max(lateness_ms, pane_ms) - 5 * pane_ms, open_ms, START_MS - behind_ms)
        reach_ms = 2 * HOUR_MS + cohort_ms + truth_ms
        from_ms = {View.COHORT: needed_ms - reach_ms, View.ARRIVED: needed_ms - 2 * lateness_ms - 200 * pane_ms}
        if parked:
            from_ms = dict.fromkeys(views, starts[-1] - 7 * 24 * HOUR_MS - reach_ms)
        assert {view: min(at for kept, at in merge.outcome_keys if kept == view) for view in from_ms} == {
            view: min(at for at in starts if at >= from_ms[view]) for view in from_ms
        }
        assert len(gone) + len(merge.outcome_keys) == 2 * len(starts)
        assert all(at < from_ms[View(view)] for view, at in (map(int, key.split()) for key in gone))

    def test_panes_of_an_hour_stay_where_requests_are_counted_by_the_hour(self) -> None:
        ends = []
        for served in ("", SERVED):
            merge = self.merge(served, START_MS)
            merge.expire()
            ends.append(merge.models["m"].expired_before_ms)
        assert ends[1] == ends[0] - HOUR_MS + 5 * M, "instead of the longest window, of five minutes"

    def test_books_that_came_from_the_state_stay_folded_when_it_is_written_again(self) -> None:
        merge = self.merge()
        state = BooksState({0: 7}, {"m": Books(read=5, counted=5)}, {0: 2})
        merge.restore_books(state)
        assert merge.books_state() == state

    def test_hours_that_end_after_what_was_judged_are_dropped_from_every_history(self) -> None:
        """Their panes will be closed again."""
        model = plan_of(CONFIG.format("    feedback: {complaint: {}}\n")).models["m"]
        judged_ms = START_MS + HOUR_MS
        state = ModelState(model="m", judged_until_ms=judged_ms, first_pane_ms=START_MS, last_event_pane_ms=START_MS)
        judge = ModelJudge(model, state, {Facts.FEEDBACK})
        for hour in range(3):
            judge.events.facts.history.restore(Unit(HOUR_MS, START_MS + hour * HOUR_MS, cells(1), FEEDBACK_STREAM))
        judge.drop_units()
        assert list(judge.events.facts.history.hours) == [START_MS]

    def test_a_pane_of_runs_that_changes_after_it_was_judged_counts_with_the_next_one_that_closes(self) -> None:
        compiled = plan_of(CONFIG.format("    jobs: {features: {every: 1h}}\n"))
        merge = FactsMerge(compiled, compiled.config.bucket("m"), {Facts.RUNS: 1})
        runs = merge.topics[Facts.RUNS].models["m"]
        runs.panes[START_MS] = PaneState(runs.plan.segmentation, on_time=cells(3))

        def taken(minute: int) -> int:
            found = merge.take("m", START_MS + minute * M).runs
            evaluated(runs, judged_until_ms=START_MS + (minute + 1) * M)
            return len(found)

        assert [taken(0), taken(1)] == [1, 0]
        runs.changed.add(START_MS)
        assert [taken(2), taken(3)] == [1, 0]

    @pytest.mark.parametrize("behind_ms", [0, HOUR_MS])
    def test_runs_are_kept_for_an_hour_and_the_panes_that_are_judged_in_a_silence(self, behind_ms: int) -> None:
        compiled = plan_of(CONFIG.format("    jobs: {features: {every: 1h}}\n"))
        facts = FactsMerge(compiled, compiled.config.bucket("m"), {Facts.RUNS: 1})
        runs, events = facts.topics[Facts.RUNS].models["m"], self.merge().models
        evaluated(runs, judged_until_ms=START_MS)
        runs.marks[0] = BooksPart("m", Books(), START_MS - behind_ms, 0)
        facts.expire(events)
        assert runs.expired_before_ms == START_MS - behind_ms - HOUR_MS - 5 * M


def test_the_figure_of_a_kpi_for_the_metrics_is_that_of_its_last_pane() -> None:
    rules = "    rules:\n      - {name: r, signals: [kpi], features: [loss], over: [1m, 5m], response: human_review}\n"
    kpis = "    kpis: {loss: {aggregate: sum, better: lower, target: 100}}\n"
    text = f"models:\n  m:\n    pane: 1m\n    features: {{}}\n{kpis}{rules}"
    judge = ModelJudge(plan_of(text).models["m"], kinds={Facts.OUTCOMES})
    clock = judge.kpis["loss"]
    for number in range(1, 8):
        whole = {("", "", ""): Profile(Counts.of(kpi_vector(float(number))))}
        pane = KpiPane(START_MS + number * M, [whole], [{}])
        clock.resume(pane)
        clock.close(pane, {}, Incidents())
        assert [float(cell.results[0].value[0]) for cell in clock.latest] == [float(number)]


def test_a_span_of_truth_is_told_when_the_horizon_after_its_end_is_reached_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = LABELLED.models["alpha"]
    labelled = LabelledJudge(model, None, {}, {}, None)
    outcomes = BucketMerge(LABELLED, LABELLED.config.bucket("alpha"), "inference", 1).models["alpha"].outcomes
    starts = [model.truth_start(START_MS) + number * model.truth_ms for number in range(3)]
    outcomes.cohorts = {at: OutcomePane(model.segmentation) for at in starts}
    monkeypatch.setattr(labelled, "_truth", lambda _, start_ms: [start_ms])
    ends = [at + model.truth_ms + model.horizon_ms for at in starts]
    spans = [(ends[0] - 2, ends[0] - 1), (ends[0] - 1, ends[0]), (ends[0], ends[0] + 1), (ends[0], ends[2])]
    told: list[Any] = [labelled.settle(outcomes, *span) for span in spans]
    assert told == [[], starts[:1], [], starts[1:]]


@pytest.mark.parametrize(("until_ms", "needed_ms"), [(START_MS, 5 * M), (START_MS - HOUR_MS, HOUR_MS + 5 * M)])
def test_incidents_are_remembered_as_long_as_the_longest_window_of_a_kpi_may_be_about_them(
    until_ms: int, needed_ms: int
) -> None:
    rules = "    rules:\n      - {name: r, signals: [kpi], features: [loss], over: [1m, 5m], response: human_review}\n"
    kpis = "    kpis: {loss: {aggregate: sum, better: lower, target: 100}}\n"
    model = plan_of(f"models:\n  m:\n    pane: 1m\n    features: {{}}\n{kpis}{rules}").models["m"]
    state = ModelState(model="m", judged_until_ms=START_MS, first_pane_ms=0, last_event_pane_ms=START_MS - M)
    state.kpis_until_ms = {"loss": until_ms}
    assert ModelJudge(model, state, {Facts.OUTCOMES})._needed_from_ms(state) == START_MS - needed_ms
