"""Reports: what is gathered in which period, how days are pooled, what is recommended, and what the pages say."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from datetime import date, timedelta
from html.parser import HTMLParser
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
from streams.reports.html import Column, page, table
from streams.reports.lines import measure_line, signal_lines
from streams.reports.pages import page_of
from streams.reports.periods import Cadence, day_of, period_of, span_text
from streams.reports.pool import Interval, Point, corrected_z, difference, pooled
from streams.reports.recommend import RULES, Advice, Facts, recommend
from streams.reports.report import Standing, report_of
from streams.reports.svg import Mark, Series, scale_of
from streams.signals.outcome import wilson
from streams.signals.result import CONFIDENT
from streams.times import rfc3339
from streams.window import Clock, SignalRecord, WindowRecord
from tests.actions import action as made_action

DAY = date(2024, 3, 15)
PERIODS = {cadence: period_of(cadence, DAY) for cadence in Cadence}
DAILY, WEEKLY, MONTHLY = (PERIODS[cadence] for cadence in Cadence)
HOSTILE = "<script>alert('x')</script>&\"'"


def signal(name: str = "null_rate", value: float | None = 0.02, **said: Any) -> SignalRecord:
    defaults: dict[str, Any] = {
        "family": "quality",
        "feature": "age",
        "baseline": 0.0,
        "threshold": 0.1,
        "n": 100,
        "breached": value is not None and value > 0.1,
    }
    return SignalRecord(name=name, value=value, **{**defaults, **said})


def outcome(name: str, value: float, baseline: float, half: float = 0.05, **said: Any) -> SignalRecord:
    family = "calibration" if name.startswith("calibration") else "performance"
    around = (value - half, value + half)
    more = {"family": family, "feature": None, "baseline": baseline, "interval": around, "breached": False, "n": 400}
    return signal(name, value, **{**more, **said})


def window(
    at_ms: int, *signals: SignalRecord, length_ms: int = DAY_MS, clock: Clock = Clock.EVENT, **said: Any
) -> WindowRecord:
    counts = {"labels": 400, "predictions": 500} if clock is not Clock.EVENT else {"events": 1_000, "errors": 10}
    defaults: dict[str, Any] = {
        "model": "m",
        "version": "1",
        "segment": None,
        "revision": 0,
        "counts": counts,
        "top_unseen": {},
        "quantiles": {},
    }
    times = {"start": rfc3339(at_ms), "end": rfc3339(at_ms + length_ms)}
    return WindowRecord(signals=signals, clock=clock, **times, **{**defaults, **said})


def gathered(records: Sequence[WindowRecord], period: Any = DAILY) -> Gathered:
    found = Gathered("m", period)
    for record in records:
        found.take_window(record)
    return found


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


def hours(hour: int) -> int:
    """tests.actions counts hours from 1970."""
    return DAILY.start_ms // 3_600_000 + hour


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


def a_month(accuracy: float) -> Gathered:
    days = [
        window(at, outcome("accuracy", accuracy, 0.8), outcome("calibration_intercept", 0.0, 0.0), clock=Clock.TRUTH)
        for at in MONTHLY.days_ms
    ]
    return gathered(days, MONTHLY)


@pytest.mark.parametrize(("accuracy", "advice"), [(0.8, Advice.KEEP), (0.77, Advice.KEEP), (0.7, Advice.RETRAIN)])
def test_a_month_that_is_worse_by_enough_to_matter_asks_for_retraining(accuracy: float, advice: Advice) -> None:
    """0.77 is worse beyond chance at 12,000 labels, and by less than the 0.05 that is worth a decision."""
    report: Any = report_of(a_month(accuracy))
    assert report.recommendation.advice == advice


# Pages


class Reader(HTMLParser):
    """Headings, cells, and whether all that was opened was closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.headings: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        """Of what closes itself there is nothing to remember."""

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.stack and self.stack[-1] in ("h1", "h2"):
            self.headings.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.stack == []
    return reader


SECTIONS = {
    Cadence.DAILY: ["Traffic", "Incidents", "System", "Data", "Labels", "Records that were not counted"],
    Cadence.WEEKLY: ["Segments", "What moved against the week before", "Inputs and scores", "What was done"],
    Cadence.MONTHLY: [
        "Recommendation",
        "Performance",
        "Calibration",
        "Drift since training",
        "Record of the proxies",
        "Rules, and what was done",
    ],
}


@pytest.mark.parametrize("cadence", Cadence)
def test_a_report_of_nothing_says_so_in_every_section(cadence: Cadence) -> None:
    period = PERIODS[cadence]
    report = report_of(Gathered("m", period))
    assert report.head.standing != Standing.ACT
    text = page_of(report, period, "x.json")
    assert read(text).headings[1:] == SECTIONS[cadence]
    assert "<svg" not in text, "there is nothing to draw"
    assert all(re.search(r"<(p|ul)", part) for part in text.split("<section")[1:])


@pytest.mark.parametrize("cadence", Cadence)
def test_what_comes_from_outside_is_escaped(cadence: Cadence) -> None:
    period = PERIODS[cadence]
    found = Gathered(HOSTILE, period)
    for at in period.shown_ms:
        segment = {HOSTILE: HOSTILE}
        drift = {"family": HOSTILE, "feature": HOSTILE}
        found.take_window(window(at, signal("null_rate", 0.5, **drift), segment=segment, version=HOSTILE))
        truth = outcome("segment_error_rate", 0.5, 0.1, feature=None)
        found.take_window(window(at, truth, clock=Clock.TRUTH, segment=segment, version=HOSTILE))
    fired = made_action("f", hours(1), HOSTILE, (HOSTILE, HOSTILE))
    found.take_action(msgspec.structs.replace(fired, data=msgspec.structs.replace(fired.data, runbook="javascript:x")))
    found.take_ack(Ack(action_id=fired.id, status=Status.SEEN, by=HOSTILE, ts=0, note=HOSTILE))
    text = page_of(report_of(found), period, HOSTILE)
    assert "<script" not in text and 'href="javascript' not in text
    read(text)


def test_numbers_that_are_none_are_a_dash() -> None:
    found = gathered([window(DAILY.start_ms, signal(value=None, threshold=None, baseline=None))])
    text = read(page_of(report_of(found), DAILY, "x.json")).text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_a_table_says_what_it_is_and_can_be_scrolled_by_the_keyboard() -> None:
    text = table("What <is>", ["a", Column("b", True)], [("<x>", "1")])
    assert 'tabindex="0"' in text and 'role="region"' in text and "<caption" in text
    assert '<th scope="row">&lt;x&gt;</th><td class="n">1</td>' in text


def test_a_page_stands_alone() -> None:
    text = page("t", ["<main></main>"])
    assert text.startswith('<!doctype html><html lang="en">')
    assert not re.search(r"(src|href)=|<script|url\(|@import", text)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.sampled_from(Mark))
def test_a_scale_holds_every_number_between_round_ticks(values: list[float], mark: Mark) -> None:
    scale = scale_of([Series("s", values, mark)])
    assert scale.low < scale.top
    slack = 1e-6 * max(abs(scale.low), abs(scale.top))
    assert all(scale.low - slack <= value <= scale.top + slack for value in values)
    assert 2 <= len(scale.ticks) <= 7


def test_the_page_tells_the_numbers_of_the_json() -> None:
    report: Any = report_of(a_month(0.7))
    said = json.loads(msgspec.json.encode(report))
    (accuracy,) = [line for line in said["performance"] if line["name"] == "accuracy"]
    text = read(page_of(report, MONTHLY, "x.json")).text
    assert f"{100 * accuracy['now']['value']:.1f}%" in text
    assert f"{accuracy['now']['n']:,}" in text
    assert said["recommendation"]["because"] in text
