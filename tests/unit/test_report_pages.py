"""Reports as pages: every section, whatever is in it, and nothing that comes from outside as markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.ack import Ack, Status
from streams.reports.gather import Gathered
from streams.reports.html import Column, page, table
from streams.reports.pages import page_of
from streams.reports.periods import Cadence
from streams.reports.report import Standing, report_of
from streams.reports.svg import Mark, Series, scale_of
from streams.window import Clock
from tests.actions import action as made_action
from tests.report_cases import DAILY, MONTHLY, PERIODS, a_month, gathered, hours, outcome, signal, window

HOSTILE = "<script>alert('x')</script>&\"'"


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
