"""Reports: what is gathered in which period, how days are pooled, what is recommended, and what the pages say."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.ack import Ack, Status
from streams.action import Action
from streams.duration import DAY_MS
from streams.reports.gather import Cell, Gathered
from streams.reports.lines import measure_line, signal_lines
from streams.reports.pages import page_of
from streams.reports.periods import Cadence, day_of, period_of, span_text
from streams.reports.pool import Interval, Point, corrected_z, difference, pooled
from streams.reports.recommend import RULES, Advice, Facts, recommend
from streams.reports.report import report_of
from streams.signals.outcome import wilson
from streams.signals.result import CONFIDENT
from streams.times import rfc3339
from streams.window import Clock
from tests.actions import action as made_action
from tests.report_cases import DAILY, PERIODS, a_month, gathered, hours, outcome, signal, window

# Periods


@pytest.mark.parametrize(
    ("day", "first", "days", "before"),
    [
        (date(2024, 2, 29), date(2024, 2, 1), 29, date(2024, 1, 1)),
        (date(2023, 2, 10), date(2023, 2, 1), 28, date(2023, 1, 1)),
        (date(2024, 1, 1), date(2024, 1, 1), 31, date(2023, 12, 1)),
        (date(2024, 12, 31), date(2024, 12, 1), 31, date(2024, 11, 1)),
        (date(2024, 4, 30), date(2024, 4, 1), 30, date(2024, 3, 1)),
    ],
)
def test_a_month_is_the_calendar_month_that_holds_the_day(day: date, first: date, days: int, before: date) -> None:
    period = period_of(Cadence.MONTHLY, day)
    assert (day_of(period.start_ms), len(period.days_ms), day_of(period.before_ms)) == (first, days, before)


@given(st.dates(date(1971, 1, 1), date(2199, 1, 1)), st.sampled_from(Cadence))
def test_a_period_holds_its_day_and_touches_the_one_before(day: date, cadence: Cadence) -> None:
    period = period_of(cadence, day)
    assert period.holds((day - date(1970, 1, 1)).days * DAY_MS)
    assert period.context_ms <= period.before_ms < period.start_ms < period.end_ms
    assert period_of(cadence, day_of(period.start_ms) - timedelta(days=1)).start_ms == period.before_ms


@pytest.mark.parametrize(
    ("day", "said"),
    [
        (date(2024, 3, 15), "9 to 15 March 2024"),
        (date(2024, 3, 3), "26 February to 3 March 2024"),
        (date(2024, 1, 2), "27 December 2023 to 2 January 2024"),
    ],
)
def test_a_week_is_told_as_a_person_would(day: date, said: str) -> None:
    assert span_text(period_of(Cadence.WEEKLY, day)) == said


# Gathering


def test_of_one_span_the_highest_revision_counts_in_whatever_order() -> None:
    at = DAILY.start_ms
    records = [window(at, version=None, revision=n, counts={"events": 100 + n, "errors": n}) for n in range(4)]
    for seed in range(6):
        shuffled = random.Random(seed).sample(records, len(records))
        assert gathered(shuffled).traffic() == {at: (103, 3)}


def test_signals_are_told_as_they_were_judged_not_as_they_were_revised() -> None:
    records = [window(DAILY.start_ms, signal(value=0.02)), window(DAILY.start_ms, signal(value=0.5), revision=7)]
    (line,) = signal_lines(gathered(records), ["quality"])
    assert (line.worst, line.breached) == (0.02, 0)


def test_a_report_does_not_depend_on_the_order_of_the_windows() -> None:
    minute, drawn = DAY_MS // 1440, random.Random(3)
    records = [
        window(DAILY.start_ms + at * minute, signal(value=round(drawn.random(), 2)), length_ms=minute)
        for at in range(200)
    ]
    records += [window(DAILY.start_ms, signal(value=0.0, threshold=limit)) for limit in (0.3, 0.1, 0.2)]
    told = [msgspec.json.encode(report_of(gathered(drawn.sample(records, len(records))))) for _ in range(5)]
    assert len(set(told)) == 1


def test_overlapping_windows_are_not_counted_twice() -> None:
    hour = DAY_MS // 24
    short = [window(DAILY.start_ms + h * hour, length_ms=hour, version=None, counts={"events": 10}) for h in range(24)]
    long = [window(DAILY.start_ms + 2 * h * hour, length_ms=6 * hour, version=None) for h in range(8)]
    mixed = [record for pair in zip(long, short[:8], strict=True) for record in pair] + short[8:]
    assert gathered(mixed).traffic() == {DAILY.start_ms: (240, 0)}


def test_what_lies_outside_of_the_shown_days_is_left_out() -> None:
    found = gathered(
        [window(DAILY.end_ms, signal()), window(DAILY.context_ms - DAY_MS, signal()), window(DAILY.start_ms, signal())]
    )
    (days,) = found.tracks.values()
    assert list(days) == [DAILY.start_ms]


def test_the_truth_is_taken_where_there_is_any_and_else_the_cohorts() -> None:
    cohort = window(DAILY.start_ms, outcome("accuracy", 0.6, 0.7), clock=Clock.COHORT)
    truth = window(DAILY.start_ms, outcome("accuracy", 0.8, 0.7), clock=Clock.TRUTH)
    for records, value in (([cohort], 0.6), ([cohort, truth], 0.8), ([truth, cohort], 0.8)):
        line = measure_line(gathered(records), Cell("1"), "accuracy", None, CONFIDENT)
        assert line is not None and line.now.value == pytest.approx(value)


def test_a_signal_of_an_unknown_family_gets_a_section_of_its_own() -> None:
    kpi = signal("kpi", 12.5, family="business", feature="fraud_loss", baseline=10.0, threshold=15.0, breached=False)
    for period in PERIODS.values():
        found = gathered([window(DAILY.start_ms, kpi)], period)
        text = page_of(report_of(found), period, "x.json")
        assert ">Business</h2>" in text and "kpi of fraud_loss" in text


# Incidents


def told(period: Any, *actions: Action, acks: Sequence[Ack] = ()) -> list[Any]:
    found = Gathered("m", period)
    for action in actions:
        found.take_action(action)
    for ack in acks:
        found.take_ack(ack)
    return found.told()


def test_an_incident_is_open_until_it_is_resolved_and_carries_what_was_said_of_it() -> None:
    fired, resolved = made_action("f", hours(2)), made_action("r", hours(5))
    ack = Ack(action_id=fired.id, status=Status.ACTED, by="ann", ts=rfc3339(DAILY.start_ms), note="mended")
    (open_,) = told(DAILY, fired, acks=[ack])
    assert open_.is_open(DAILY) and DAILY.start_ms < open_.began_ms <= DAILY.end_ms
    assert [(said.status, said.by, said.note) for said in open_.acks] == [("acted", "ann", "mended")]
    (ended,) = told(DAILY, fired, resolved)
    assert not ended.is_open(DAILY) and ended.ended_in(DAILY)


def test_what_happened_outside_of_the_period_is_not_told() -> None:
    assert told(DAILY, made_action("f", hours(-60)), made_action("r", hours(-50))) == []
    assert told(DAILY, made_action("f", hours(30))) == []
    (lasting,) = told(DAILY, made_action("f", hours(-60)), made_action("r", hours(30)))
    assert lasting.is_open(DAILY) and lasting.began_ms <= DAILY.start_ms


def test_an_end_without_a_beginning_is_no_incident() -> None:
    """As where the topic has forgotten when it began."""
    assert told(DAILY, made_action("r", hours(5))) == []


def test_what_was_held_back_to_the_end_is_told_apart() -> None:
    (held,) = told(DAILY, made_action("s", hours(2)))
    assert held.only_held_back
    (released,) = told(DAILY, made_action("s", hours(2)), made_action("l", hours(4)))
    assert not released.only_held_back


# Pooling


def test_days_of_one_share_are_their_sum() -> None:
    found = pooled("accuracy", [Point(0.5, 100), Point(0.5, 300)])
    assert found is not None
    assert (found.value, found.n, found.spans) == (0.5, 400, 2)
    assert (found.low, found.high) == pytest.approx(wilson(200, 400))


def test_days_that_differ_more_than_chance_widen_the_interval() -> None:
    same = pooled("accuracy", [Point(0.7, 500)] * 4)
    spread = pooled("accuracy", [Point(0.5, 500), Point(0.9, 500)] * 2)
    assert same is not None and spread is not None
    assert same.value == pytest.approx(spread.value)
    assert spread.high - spread.low > 3 * (same.high - same.low)


def test_estimates_are_weighted_by_their_precision() -> None:
    found = pooled("calibration_intercept", [Point(0.0, 10, -0.1, 0.1), Point(1.0, 10, -9.0, 11.0)])
    assert found is not None and found.value == pytest.approx(1e-4, rel=0.01)


POINTS = st.lists(
    st.builds(
        lambda value, n, half: Point(value, n, value - half, value + half),
        st.floats(0, 1),
        st.integers(0, 10**6),
        st.floats(0, 2),
    ),
    max_size=8,
)


@given(POINTS, st.sampled_from(["accuracy", "log_loss", "calibration_slope"]), st.integers(1, 500))
def test_a_pooled_number_lies_in_its_interval_and_is_finite(points: list[Point], name: str, comparisons: int) -> None:
    found = pooled(name, points, corrected_z(comparisons))
    if found is not None:
        assert all(map(math.isfinite, (found.value, found.low, found.high)))
        assert found.low <= found.value <= found.high


def test_more_comparisons_make_wider_intervals() -> None:
    assert corrected_z(1) == pytest.approx(1.96, abs=0.001)
    assert corrected_z(20) > corrected_z(5) > corrected_z(1)


def test_a_difference_is_no_surer_than_its_parts() -> None:
    one, other = Interval(0.7, 0.6, 0.8, 100, 1), Interval(0.5, 0.4, 0.6, 100, 1)
    moved, low, high = difference(one, other, CONFIDENT)
    assert moved == pytest.approx(0.2)
    assert high - low == pytest.approx(math.hypot(0.2, 0.2))


# Recommendation


def facts(**said: Any) -> Facts:
    usual: dict[str, Any] = {
        "days": 30,
        "labels": 5_000,
        "maturity": 0.9,
        "broken_now": (),
        "broken_days": 0,
        "fell": (),
        "lasts": False,
        "retrain": (),
        "retrain_open": False,
        "drifted": (),
    }
    return Facts(**{**usual, **said})


WORSE = {"fell": ("accuracy",), "lasts": True}


@pytest.mark.parametrize(
    ("said", "advice", "rule"),
    [
        ({}, Advice.KEEP, "nothing moved"),
        ({"drifted": ("age",)}, Advice.KEEP, "moved, and no worse"),
        (WORSE, Advice.RETRAIN, "worse, and it lasts"),
        ({**WORSE, "lasts": False}, Advice.INVESTIGATE, "worse, and it passed"),
        ({**WORSE, "broken_now": ("values-missing",)}, Advice.INVESTIGATE, "data first"),
        ({**WORSE, "broken_days": 7}, Advice.INVESTIGATE, "data first"),
        ({**WORSE, "broken_days": 6}, Advice.RETRAIN, "worse, and it lasts"),
        ({**WORSE, "labels": 199, "drifted": ("age",)}, Advice.INVESTIGATE, "unknown, and something moved"),
        ({"maturity": 0.49}, Advice.KEEP, "unknown, and nothing moved"),
        ({"labels": 0, "maturity": None}, Advice.KEEP, "unknown, and nothing moved"),
        ({"retrain": ("calibration-off",), "retrain_open": True}, Advice.INVESTIGATE, "alarmed, and open"),
        ({"retrain": ("calibration-off",)}, Advice.KEEP, "moved, and no worse"),
    ],
)
def test_what_is_recommended(said: dict[str, Any], advice: Advice, rule: str) -> None:
    found = recommend(facts(**said))
    assert (found.advice, found.rule) == (advice, rule)
    assert all(found.evidence) and found.because


def test_every_rule_can_decide_and_is_in_the_documents() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    for name, *_ in RULES:
        assert f"| {name} |" in text


@pytest.mark.parametrize(("accuracy", "advice"), [(0.8, Advice.KEEP), (0.77, Advice.KEEP), (0.7, Advice.RETRAIN)])
def test_a_month_that_is_worse_by_enough_to_matter_asks_for_retraining(accuracy: float, advice: Advice) -> None:
    """0.77 is worse beyond chance at 12,000 labels, and by less than the 0.05 that is worth a decision."""
    report: Any = report_of(a_month(accuracy))
    assert report.recommendation.advice == advice


# Pages
