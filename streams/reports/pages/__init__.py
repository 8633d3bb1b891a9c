"""A report → its page. Every number is the record's own.

daily.py, weekly.py, monthly.py   the sections of a cadence
record.py                         the record of proxies and rules
signals.py, incidents.py          tables that several cadences have
cells.py                          the cells of tables
"""

from __future__ import annotations

from collections.abc import Iterator

from streams.reports.html import Markup, badge, page, paragraph, safe, slug, tag
from streams.reports.pages.daily import daily_sections
from streams.reports.pages.monthly import monthly_sections
from streams.reports.pages.weekly import weekly_sections
from streams.reports.periods import Cadence, Period, span_text
from streams.reports.report import Daily, Head, Monthly, Report, Weekly

TITLES = {
    Cadence.DAILY: "System and data check",
    Cadence.WEEKLY: "Segment review",
    Cadence.MONTHLY: "Retraining review",
}


def page_of(report: Report, period: Period, json_name: str) -> str:
    """The page, which names the file that has the same as JSON."""
    head = report.head
    title = f"{head.model}: {TITLES[head.cadence].lower()}, {span_text(period)}"
    return page(title, _body(report, period, json_name))


def _body(report: Report, period: Period, json_name: str) -> Iterator[str]:
    head = report.head
    yield "<main>"
    yield from _top(head, period, report.recommendation.advice if isinstance(report, Monthly) else "")
    if isinstance(report, Daily):
        yield from daily_sections(report, period)
    elif isinstance(report, Weekly):
        yield from weekly_sections(report, period)
    else:
        yield from monthly_sections(report, period)
    yield "</main>"
    yield Markup(
        f"<footer><p>Made by Foreshock. Days are days in UTC. The same as JSON: {safe(json_name)}. What the words mean "
        "and how the numbers are made is in docs/reports.md.</p></footer>"
    )


def _top(head: Head, period: Period, label: str) -> Iterator[Markup]:
    said = TITLES[head.cadence]
    yield paragraph(f"{head.cadence.capitalize()} report · {head.model}", "eyebrow")
    yield tag("h1", f"{said}, {span_text(period)}")
    yield paragraph(Markup(f"{badge(head.standing, label)} {safe(head.verdict)}"), f"lead {slug(head.standing)}")
