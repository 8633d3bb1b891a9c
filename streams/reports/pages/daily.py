"""The daily report → its sections: is the pipeline healthy?"""

from __future__ import annotations

from collections.abc import Iterator

from streams.reports.html import figure, paragraph, section
from streams.reports.pages.cells import day_names, days_meant, facts, iso_days
from streams.reports.pages.incidents import incident_tables
from streams.reports.pages.signals import other_families, signal_tables
from streams.reports.periods import Period
from streams.reports.report import Daily
from streams.reports.svg import Mark, Series


def daily_sections(report: Daily, period: Period) -> Iterator[str]:
    """In the order in which a morning goes through them."""
    yield from section("Traffic", _traffic(report, period))
    yield from section("Incidents", incident_tables(report.incidents, period, "on this day"))
    yield from section(
        "System", signal_tables(report.health, period, "No signal of the system was judged on this day.")
    )
    yield from section("Data", signal_tables(report.data, period, "No signal of the data was judged on this day."))
    yield from section("Labels", _label_flow(report, period))
    yield from other_families(report.other, period)
    yield from section("Records that were not counted", _books(report))


def _traffic(report: Daily, period: Period) -> Iterator[str]:
    if not report.traffic:
        yield paragraph("No request was counted, on this day or in the four weeks before it.")
        return
    by_day = {found.day: found for found in report.traffic}
    days = iso_days(period)
    today = by_day.get(report.head.first)
    if today is not None:
        share = today.errors / today.events if today.events else 0.0
        yield facts(
            [
                ("Requests", f"{today.events:,}"),
                ("Failed", f"{today.errors:,} ({100 * share:.2f}%)"),
                ("Labels that came", "none known" if today.labels is None else f"{today.labels:,}"),
            ]
        )
    usual = [found.events for found in report.traffic if found.day != report.head.first]
    said = (
        f"The days before had from {min(usual):,} to {max(usual):,} requests."
        if usual
        else "There is no day before this one in the log to hold it against."
    )
    requests = [float(by_day[day].events) if day in by_day else None for day in days]
    yield figure(
        "Requests a day",
        said,
        day_names(period),
        [Series("requests", requests, Mark.BARS)],
        marked=days_meant(period),
        format_=",.0f",
    )


def _label_flow(report: Daily, period: Period) -> Iterator[str]:
    if not report.labels and not any(found.labels for found in report.traffic):
        yield paragraph("No label is known: the model has none, or none has come in these four weeks.")
        return
    if report.labels:
        yield from signal_tables(report.labels, period, "")
    else:
        yield paragraph("No signal of the labels was judged on this day: none came, or too few were due.")


def _books(report: Daily) -> Iterator[str]:
    books = report.books
    if books is None:
        yield paragraph(
            "Not known here: the logs that this report was made from do not have them. A worker shows them as "
            "foreshock_books_records_total; rejected records are in the topic dead-letter, each with its reason."
        )
        return
    yield paragraph(
        f"Of the whole run, not of this day alone: {books.read:,} records were read = {books.counted:,} counted + "
        f"{books.late:,} late + {books.rejected:,} rejected + {books.duplicate:,} duplicate."
    )
