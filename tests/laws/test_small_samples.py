"""Few observations at the null give no verdict: every standard error scales with its own n."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from streams.config import Feedback, Kpi
from streams.configure import load
from streams.duration import UNITS_MS
from streams.facts.layout import EVENTS, KPI_LENGTH, FeedbackLayout, kpi_vector
from streams.learn import learn
from streams.plan import ModelPlan, compile_plan
from streams.scaffold import foreshock_yaml
from streams.signals.business import KpiJudge, Past
from streams.signals.cusum import Sums
from streams.signals.feedback import FeedbackJudge
from streams.signals.label_flow import MIN_LABELS
from streams.signals.outcome import OutcomeJudge
from streams.signals.result import Window
from streams.sketch.counts import Counts
from streams.sketch.outcomes import Prediction
from streams.sketch.profile import Profile

MINUTE_MS, HOUR_MS = UNITS_MS["m"], UNITS_MS["h"]
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
SMALL = (1, 2, 3, 5, 8, 12, 19, 20, 30)
CASES: dict[str, Draw] = {
    "rare noughts and ones": lambda drawn, n: (drawn.random(n) < 0.02).astype(float),
    "noughts and ones": lambda drawn, n: (drawn.random(n) < 0.3).astype(float),
    "nearly all ones": lambda drawn, n: (drawn.random(n) < 0.98).astype(float),
    "amounts": lambda drawn, n: drawn.exponential(1.0, n),
    "normal numbers": lambda drawn, n: drawn.normal(10.0, 1.0, n),
}
MEANS = {
    "rare noughts and ones": 0.02,
    "noughts and ones": 0.3,
    "nearly all ones": 0.98,
    "amounts": 1.0,
    "normal numbers": 10.0,
}
USUAL = (1.0, 3.0, 30.0)
"""Observations of a pane before, in the mean."""


def judge(**kpi: Any) -> KpiJudge:
    text = "models: {m: {pane: 1m, kpis: {k: {aggregate: sum, better: lower}}}}"
    plan: ModelPlan = compile_plan(load(text), {}).models["m"]
    model = msgspec.structs.replace(plan.config, kpis={"k": msgspec.convert(kpi, Kpi)})
    return KpiJudge(replace(plan, config=model), "k")


def vector(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    return sum((kpi_vector(float(value)) for value in values), np.zeros(KPI_LENGTH, np.int64))


def stretches(drawn: np.random.Generator, case: Draw, parts: int, usual: float, count: int, span_ms: int) -> list[Past]:
    """Earlier times, each of a number of cases that chance has drawn."""
    sizes = drawn.poisson(usual, count).tolist()
    return [Past([vector(case(drawn, n)) for _ in range(parts)], span_ms) for n in sizes]


@pytest.mark.parametrize("better", ["near", "lower", "higher"])
@pytest.mark.parametrize("aggregate", ["mean", "ratio", "sum"])
@pytest.mark.parametrize("what", CASES)
def test_no_kpi_at_the_null_is_breached(what: str, aggregate: str, better: str) -> None:
    """With and without a target, with and without a time before, whatever the usual number of cases was."""
    drawn, case, mean, parts = np.random.default_rng(1), CASES[what], MEANS[what], 2 if aggregate == "ratio" else 1
    for usual in USUAL:
        before = stretches(drawn, case, parts, usual, 60, MINUTE_MS)
        weeks = stretches(drawn, case, parts, 60 * usual, 4, HOUR_MS)
        for n in SMALL:
            target = {"mean": mean, "ratio": 1.0, "sum": mean * n * 1_440}[aggregate]
            told = {"aggregate": aggregate, "better": better} | ({"of": ["k", "l"]} if parts > 1 else {})
            targeted, free = judge(**told, target=target), judge(**told)
            for _ in range(2):
                now = [vector(case(drawn, n)) for _ in range(parts)]
                for past, recent in ((before, weeks), (before, []), ([], weeks), ([], [])):
                    found = targeted.evaluate(now, MINUTE_MS, recent, past)
                    assert found is None or not found.breached.any(), (n, usual, found)
                if aggregate != "sum":
                    found = free.evaluate(now, MINUTE_MS, weeks, before)
                    assert found is None or not found.breached.any(), (n, usual, found)


@pytest.mark.parametrize("better", ["near", "lower", "higher"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 1e6, -1e6])
@pytest.mark.parametrize("usual", USUAL)
def test_one_case_is_never_a_breach_where_cases_vary(usual: float, value: float, better: str) -> None:
    """A trickle at the end of a day, held against means of many."""
    drawn = np.random.default_rng(2)
    for what in ("noughts and ones", "amounts"):
        for share in (False, True):
            told = {"aggregate": "ratio" if share else "mean", "better": better, "target": MEANS[what]}
            held = judge(**told, of=["k", "l"] if share else [])
            before = stretches(drawn, CASES[what], 1 + share, usual, 60, MINUTE_MS)
            found = held.evaluate([vector([value]), vector([1.0])][: 1 + share], MINUTE_MS, [], before)
            assert found is not None
            assert not found.breached.any()


def test_the_error_of_a_mean_scales_with_its_own_n() -> None:
    drawn = np.random.default_rng(3)
    held = judge(aggregate="mean", better="higher", target=1.0)
    before = stretches(drawn, CASES["amounts"], 1, 30, 60, MINUTE_MS)
    widths = []
    for n in (1, 100):
        found = held.evaluate([vector([1.0] * n)], MINUTE_MS, [], before)
        assert found is not None and found.interval is not None
        widths.append(found.interval[1] - found.interval[0])
    assert widths[0] == pytest.approx(10 * widths[1], rel=0.05)
    assert widths[0] == pytest.approx(2 * 1.96, rel=0.2)


@pytest.mark.parametrize(
    ("aggregate", "values", "target"),
    [("mean", [0.0] * 100, 0.3), ("mean", [0.0] * 40, 0.5), ("sum", [1.0] * 100, 43_200), ("mean", [7.0] * 30, 10.0)],
)
def test_what_is_certain_is_still_breached(aggregate: str, values: list[float], target: float) -> None:
    drawn = np.random.default_rng(4)
    held = judge(aggregate=aggregate, better="near", target=target)
    noise = drawn.normal(0.0, 0.5, len(values)) if values[0] == 7.0 else np.zeros(len(values))
    found = held.evaluate([vector(np.array(values) + noise)], MINUTE_MS, [], [])
    assert found is not None
    assert found.breached.all()


def test_numbers_that_come_ready_made_need_no_more_than_one_in_a_pane() -> None:
    drawn = np.random.default_rng(5)
    held = judge(aggregate="mean", better="higher", target=100.0)
    before = [Past([vector([drawn.normal(100.0, 1.0)])], MINUTE_MS) for _ in range(60)]
    said = [held.evaluate([vector([value])], MINUTE_MS, [], before) for value in (98.0, 88.0)]
    assert [bool(found.breached[0]) for found in said if found] == [False, True]


@cache
def labelled() -> ModelPlan:
    """A regression, with a reference of 4,000 labels."""
    drawn = random.Random(6)
    start_ms, rows, known = 1_767_225_600_000, [], []
    for at in range(4_000):
        event = {"event_id": f"e{at}", "ts": start_ms + at * 1_000, "model": "m", "features": {"x": at % 7}}
        rows.append(json.dumps(event | {"prediction": drawn.gauss(50.0, 10.0)}).encode())
        label = {"event_id": f"e{at}", "label": 50.0 + drawn.gauss(0.0, 3.0), "label_ts": start_ms + at * 1_000 + 500}
        known.append(json.dumps(label).encode())
    found = learn("m", lambda: rows, labels=known)
    plan = compile_plan(load(foreshock_yaml(found, "reference.ndjson", "m.baseline")), {"m": found.baseline})
    return plan.models["m"]


def outcomes_of(answers: Sequence[float], truth: float) -> Profile:
    layout = labelled().outcomes
    assert layout is not None
    given = [Prediction("m", 0, 0, True, "", (), None, answer) for answer in answers]
    slots, amounts = layout.contributions(given, [truth] * len(given), np.zeros(len(given), np.int64))
    counted = np.zeros(layout.length, np.int64)
    np.add.at(counted, slots, amounts)
    return Profile(Counts.of(counted))


def breaches(held: OutcomeJudge, answers: Sequence[float], truth: float, sums: Sums) -> list[str]:
    window = Window(0, MINUTE_MS, MINUTE_MS, {("", "", ""): outcomes_of(answers, truth)})
    (cell,) = held.evaluate(window, sums)
    return [result.signal.name for result in cell.results if result.breached.any()]


@pytest.mark.parametrize("answer", [80.0, 1e3, 1e300, -1e300])
def test_a_few_labels_are_no_trend_however_wrong_their_predictions_are(answer: float) -> None:
    held = OutcomeJudge(labelled())
    sums: Sums = {}
    said = [breaches(held, [answer], 50.0, sums) for _ in range(MIN_LABELS - 1)]
    assert not any(said)
    assert any(breaches(held, [answer] * MIN_LABELS, 50.0, sums) for _ in range(2))


def test_feedback_of_a_handful_of_events_has_no_verdict() -> None:
    """It may be about more events than the window holds."""
    layout = FeedbackLayout(((Feedback.COMPLAINT, ()),))
    plan = compile_plan(load("models: {m: {pane: 1m, feedback: {complaint: {usual: 0.01}}}}"), {}).models["m"]
    for events, complaints, bad in ((1, 1, False), (1, 5, False), (29, 29, False), (30, 30, True), (500, 5, False)):
        counted = np.zeros(layout.length, np.int64)
        counted[EVENTS], counted[layout.slots[Feedback.COMPLAINT, None]] = events, complaints
        found = FeedbackJudge(plan, layout).evaluate({("", "", ""): Profile(Counts.of(counted))}, [])
        assert [bool(result.breached.any()) for result in found[None, ("", "")]] == [bad]
