"""What is told beside events and labels: what is read, exact sums, states of jobs, histories, verdicts."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.cells import Cells, Segmentation
from streams.config import Feedback, Kpi, Model
from streams.configure import load
from streams.events import Invalid, Reason
from streams.facts.history import History, Stretch
from streams.facts.layout import EVENTS, KPI_LENGTH, OBSERVED, FeedbackLayout, kpi_vector, squares, total
from streams.facts.read import MOST, Turn, read_feedback, read_outcome, read_run
from streams.plan import ModelPlan, compile_plan
from streams.signals.business import KpiJudge, Past
from streams.signals.feedback import FeedbackJudge
from streams.signals.jobs import JobState, job_results
from streams.sketch.counts import Counts
from streams.sketch.profile import Profile

M, H, D, W = 60_000, 3_600_000, 86_400_000, 7 * 86_400_000
LIMIT = 1_000_000
FEEDBACK = {"model": "m", "ts": 0, "kind": "override", "event_id": "a", "value": 1, "segments": {"country": "DE"}}
OUTCOME = {"model": "m", "ts": 0, "kpi": "loss", "value": 12.5}
RUN = {
    "eventType": "COMPLETE",
    "eventTime": "1970-01-01T00:00:01Z",
    "run": {"runId": "r"},
    "job": {"namespace": "n", "name": "features"},
}


def encoded(row: object) -> bytes:
    return json.dumps(row).encode()


class TestReading:
    def test_what_is_told_is_read(self) -> None:
        told = read_feedback(encoded(FEEDBACK), (), LIMIT)
        assert (told.kind, told.value, told.event_id, told.segments) == (Feedback.OVERRIDE, "1", "a", {"country": "DE"})
        assert read_outcome(encoded(OUTCOME), (), LIMIT).value == 12.5
        run = read_run(encoded(RUN), (), LIMIT)
        assert (run.namespace, run.job, run.ts_ms, run.turn, run.run_id) == ("n", "features", 1_000, Turn.COMPLETE, "r")
        assert read_run(encoded(RUN | {"eventType": "RUNNING"}), (), LIMIT).turn is None

    def test_a_cloud_event_holds_the_same(self) -> None:
        wrapped = {"specversion": "1.0", "id": "1", "type": "t", "source": "s", "data": OUTCOME}
        assert read_outcome(encoded(wrapped), (), LIMIT) == read_outcome(encoded(OUTCOME), (), LIMIT)

    @pytest.mark.parametrize(
        ("read", "row", "change", "reason", "detail"),
        [
            (read_feedback, FEEDBACK, {"kind": "applause"}, Reason.WRONG_TYPE, "kind: expected one of override"),
            (read_feedback, FEEDBACK, {"kind": None}, Reason.MISSING_FIELD, "kind"),
            (read_feedback, FEEDBACK, {"model": 7}, Reason.WRONG_TYPE, "model: expected a text"),
            (read_feedback, FEEDBACK, {"segments": [1]}, Reason.WRONG_TYPE, "segments: expected an object"),
            (read_feedback, FEEDBACK, {"value": {"a": 1}}, Reason.WRONG_TYPE, "value: expected a text"),
            (read_outcome, OUTCOME, {"value": True}, Reason.WRONG_TYPE, "value: expected a number"),
            (read_outcome, OUTCOME, {"value": 2 * MOST}, Reason.WRONG_TYPE, "value: expected a number within"),
            (read_outcome, OUTCOME, {"ts": None}, Reason.MISSING_FIELD, "ts"),
            (read_outcome, OUTCOME, {"kpi": "x" * 300}, Reason.WRONG_TYPE, "kpi: expected a text of 1 to 256"),
            (read_run, RUN, {"run": None}, Reason.MISSING_FIELD, "run"),
            (read_run, RUN, {"job": {"namespace": "n"}}, Reason.MISSING_FIELD, "job.name"),
            (read_run, RUN, {"eventTime": "yesterday"}, Reason.WRONG_TYPE, "eventTime: expected RFC 3339"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, read: Any, row: dict[str, Any], change: dict[str, Any], reason: Reason, detail: str
    ) -> None:
        with pytest.raises(Invalid) as caught:
            read(encoded(row | change), (), LIMIT)
        assert caught.value.reason is reason and str(caught.value).startswith(detail)

    @settings(max_examples=200)
    @given(
        st.sampled_from([(read_feedback, FEEDBACK), (read_outcome, OUTCOME), (read_run, RUN)]),
        st.dictionaries(
            st.sampled_from([*FEEDBACK, *OUTCOME, *RUN]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                max_leaves=6,
            ),
        ),
    )
    def test_nothing_but_a_reason_comes_of_what_cannot_be_read(self, known: Any, change: dict[str, Any]) -> None:
        read, row = known
        try:
            read(encoded(row | change), (), LIMIT)
        except Invalid as invalid:
            assert invalid.reason in list(Reason)


class TestSums:
    @settings(max_examples=200)
    @given(st.lists(st.floats(-MOST, MOST), min_size=1, max_size=40), st.randoms())
    def test_they_are_exact_whatever_the_order(self, values: list[float], drawn: random.Random) -> None:
        shuffled = drawn.sample(values, len(values))
        whole = sum((kpi_vector(value) for value in values), np.zeros(KPI_LENGTH, np.int64))
        again = sum((kpi_vector(value) for value in shuffled), np.zeros(KPI_LENGTH, np.int64))
        assert (whole == again).all() and whole[OBSERVED] == len(values) and whole.min() >= 0
        exact = sum((Fraction(round(Fraction(value) * 2**30), 2**30) for value in values), Fraction())
        assert total(whole) == pytest.approx(float(exact), rel=1e-15, abs=0)
        roots = (Fraction(round(abs(Fraction(value)) * 2**20), 2**20) for value in values)
        assert squares(whole) == pytest.approx(float(sum(root**2 for root in roots)), rel=1e-15, abs=0)

    def test_they_hold_a_billion_of_the_largest(self) -> None:
        vector = kpi_vector(-MOST) * 10**9
        assert total(vector) == -1e21 and squares(vector) == 1e33
        assert Counts.from_bytes(Counts.of(vector).to_bytes()) == Counts.of(vector)


events_of_runs = st.lists(
    st.tuples(st.integers(0, 50), st.sampled_from(list(Turn)), st.sampled_from("abcd")), max_size=12
)


class TestJobs:
    @given(events_of_runs, st.randoms(), st.integers(0, 12))
    def test_a_state_is_a_function_of_the_set_of_events(self, events: Any, drawn: random.Random, cut: int) -> None:
        again = drawn.sample(events, len(events)) + events[:cut]
        assert JobState().after(again[:cut]).after(again[cut:]) == JobState().after(events)

    @pytest.mark.parametrize(
        ("events", "age_s", "wrong"),
        [
            ([], 3_600, 0),
            ([(0, Turn.START, "a"), (5 * M, Turn.COMPLETE, "a")], 3_300, 0),
            ([(0, Turn.COMPLETE, "a"), (30 * M, Turn.FAIL, "b")], 3_600, 1),
            ([(0, Turn.FAIL, "a"), (30 * M, Turn.COMPLETE, "b")], 1_800, 0),
            ([(0, Turn.FAIL, "a"), (M, Turn.COMPLETE, "a")], 3_540, 0),
            ([(0, Turn.COMPLETE, "a"), (10 * M, Turn.START, "b")], 3_600, 1),
            ([(0, Turn.COMPLETE, "a"), (50 * M, Turn.START, "b")], 3_600, 0),
            ([(0, Turn.ABORT, "a"), (M, Turn.FAIL, "b"), (10 * M, Turn.START, "c")], 3_600, 3),
        ],
    )
    def test_what_went_wrong_since_the_last_success_is_counted(self, events: Any, age_s: int, wrong: int) -> None:
        plan = planned("    jobs: {features: {every: 1h, longest: 30m}}")
        freshness, failures = job_results(plan, {"features": JobState().after(events)}, 0, H)
        assert (freshness.value.tolist(), freshness.threshold.tolist()) == ([age_s], [5_400])
        assert failures.value.tolist() == [wrong] and failures.breached.tolist() == [wrong > 0]


def planned(declared: str) -> ModelPlan:
    return compile_plan(load(f"models:\n  m:\n{declared}\n"), {}).models["m"]


def cells(number: int) -> Cells:
    return {("", "", ""): Profile(Counts.of(np.array([0, number, 1], np.int64)))}


def number(found: Cells) -> int:
    return int(found[("", "", "")].counts.dense()[1]) if found else 0


class TestHistory:
    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from([15 * M, H, D]), st.integers(0, 2**32), st.integers(1, 40))
    def test_windows_and_earlier_times_equal_a_plain_sum(self, pane_ms: int, seed: int, back: int) -> None:
        """Also after a restart, from the hours that were told of and the panes of the last day."""
        drawn = random.Random(seed)
        history = History(pane_ms, 2 * D, D, Segmentation((), (), 8))
        panes: dict[int, int] = {}
        units = {}
        start, count = 100 * W, drawn.randrange(1, 30 * D // pane_ms)
        for at in range(start, start + count * pane_ms, pane_ms):
            panes[at] = drawn.randrange(1, 100)
            units |= {unit.id: unit for unit in history.close(at, cells(panes[at]))}
            for gone in history.forget(at + pane_ms):
                del units[gone]
        end = start + count * pane_ms
        again = History(pane_ms, 2 * D, D, Segmentation((), (), 8))
        for unit in units.values():
            again.restore(unit)
        for at in range(max(start, (end - D - H) // pane_ms * pane_ms), end, pane_ms):
            again.close(at, cells(panes[at]))
        first = max(start, end - back * pane_ms, end - 12 * H) if pane_ms < D else end - pane_ms
        expected = earlier(panes, first, end, history.hour_ms)
        for found in (history, again):
            assert number(found.window(first, end)) == sum(n for at, n in panes.items() if first <= at < end)
            assert [number(past.cells) for past in found.earlier(first, end)] == expected


def earlier(panes: dict[int, int], first: int, end: int, hour: int) -> list[int]:
    for step, most, least in ((W, 4, 2), (D, 7, 3)):
        spans = [((first - k * step) // hour * hour, -(-(end - k * step) // hour) * hour) for k in range(1, most + 1)]
        sums = [sum(n for at, n in panes.items() if low <= at < high) for low, high in spans if low >= min(panes)]
        if len(sums) >= least and (step == W or end - first <= D):
            return sums
    return []


LAYOUT = FeedbackLayout(((Feedback.COMPLAINT, ()), (Feedback.WORKFLOW_STEP, ("call",))))


def feedback(events: int, complaints: int = 0, calls: int = 0) -> Cells:
    vector = np.zeros(LAYOUT.length, np.int64)
    vector[EVENTS], vector[LAYOUT.slots[Feedback.COMPLAINT, None]] = events, complaints
    vector[LAYOUT.slots[Feedback.WORKFLOW_STEP, "call"]] = calls
    return {("", "", ""): Profile(Counts.of(vector))}


class TestFeedback:
    PLAN = planned("    pane: 15m\n    feedback: {complaint: {usual: 0.01}, workflow_step: {values: [call]}}")

    def breached(self, now: Cells, past: Sequence[Cells] = ()) -> dict[str, bool]:
        judge = FeedbackJudge(self.PLAN, LAYOUT)
        results = judge.evaluate(now, [Stretch(part, H) for part in past])[None, ("", "")]
        return {result.signal.name: bool(result.breached[0]) for result in results}

    def test_chance_is_silent_and_a_doubling_is_told(self) -> None:
        drawn = np.random.default_rng(1)
        for rate, loud in ((0.01, False), (0.03, True)):
            found = [self.breached(feedback(5_000, int(drawn.binomial(5_000, rate)))) for _ in range(200)]
            assert {window["complaint_rate"] for window in found} == {loud}

    def test_what_earlier_weeks_had_at_that_hour_is_usual(self) -> None:
        past = [feedback(5_000, 200), feedback(5_000, 240), feedback(5_000, 220)]
        assert not self.breached(feedback(5_000, 250), past)["complaint_rate"]
        assert self.breached(feedback(5_000, 500), past)["complaint_rate"]

    def test_steps_may_change_either_way_and_nothing_is_judged_without_a_past(self) -> None:
        past = [feedback(5_000, calls=500), feedback(5_000, calls=520)]
        said = [self.breached(feedback(5_000, calls=calls), past)["workflow_step_rate"] for calls in (100, 510, 1_100)]
        assert said == [True, False, True]
        assert not self.breached(feedback(5_000, calls=5_000))["workflow_step_rate"]


def told(*values: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    return sum((kpi_vector(value) for value in values), np.zeros(KPI_LENGTH, np.int64))


class TestKpis:
    def judge(self, **kpi: Any) -> KpiJudge:
        plan = planned("    pane: 1h\n    kpis: {k: {aggregate: sum, better: lower}}")
        model: Model = plan.config
        return KpiJudge(replace(plan, config=with_kpi(model, **kpi)), "k")

    @pytest.mark.parametrize(
        ("kpi", "values", "bad"),
        [
            ({"aggregate": "mean", "better": "higher", "target": 0.3}, [1] * 300 + [0] * 700, False),
            ({"aggregate": "mean", "better": "higher", "target": 0.3}, [1] * 150 + [0] * 850, True),
            ({"aggregate": "mean", "better": "lower", "target": 0.3}, [1] * 150 + [0] * 850, False),
            ({"aggregate": "mean", "better": "near", "target": 0.3}, [1] * 600 + [0] * 400, True),
            ({"aggregate": "mean", "better": "higher", "target": 0.3}, [0] * 10, False),
            ({"aggregate": "sum", "better": "lower", "target": 24_000}, [1.0] * 1_000, False),
            ({"aggregate": "sum", "better": "lower", "target": 24_000}, [1.0] * 2_000, True),
        ],
    )
    def test_it_is_held_against_its_target(self, kpi: dict[str, Any], values: list[float], bad: bool) -> None:
        result = self.judge(**kpi).evaluate([told(*values)], H, [], [])
        assert result is not None and bool(result.breached[0]) is bad

    def test_numbers_that_come_ready_made_are_held_against_what_is_usual(self) -> None:
        drawn = random.Random(3)
        judge = self.judge(aggregate="sum", better="higher")
        day = [Past([told(drawn.gauss(1_000, 20))], H) for _ in range(60)]
        weeks = [Past([told(drawn.gauss(1_000, 20))], H) for _ in range(4)]
        said = [judge.evaluate([told(value)], H, weeks, day) for value in (980.0, 700.0)]
        assert [bool(result.breached[0]) for result in said if result] == [False, True]

    def test_an_interval_covers_the_truth_about_as_often_as_it_says(self) -> None:
        drawn = random.Random(4)
        judge, covered = self.judge(aggregate="mean", better="higher", target=1.0), 0
        for _ in range(400):
            result = judge.evaluate([told(*(drawn.expovariate(1.0) for _ in range(200)))], H, [], [])
            assert result is not None and result.interval is not None
            covered += result.interval[0] <= 1.0 <= result.interval[1]
        assert 0.92 <= covered / 400 <= 0.98

    def test_a_ratio_without_a_denominator_says_nothing(self) -> None:
        judge = self.judge(aggregate="ratio", better="lower", of=("k", "sales"), target=1.0)
        assert judge.evaluate([told(5.0), told(0.0)], H, [], []) is None
        result = judge.evaluate([told(*[6.0] * 100), told(*[2.0] * 100)], H, [], [])
        assert result is not None and (result.value[0], bool(result.breached[0])) == (3.0, True)


def with_kpi(model: Model, **kpi: Any) -> Model:
    return msgspec.structs.replace(model, kpis={"k": msgspec.convert(kpi, Kpi)})
