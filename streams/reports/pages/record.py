"""The record of proxies and rules → the monthly report's sections about them."""

from __future__ import annotations

from collections.abc import Iterator

from streams.duration import format_ms
from streams.ledger_rows import ENOUGH, ProxyRow, RuleRow
from streams.reports.html import Column, Markup, paragraph, safe, table
from streams.reports.pages.cells import NOT_JUDGED
from streams.reports.pages.incidents import incident_tables
from streams.reports.periods import Period
from streams.reports.phrases import measure_title
from streams.reports.report import Monthly


def proxy_record(report: Monthly) -> Iterator[str]:
    """Alarms that came before the labels, held against the labels."""
    rows = [row for row in report.proxies if row.alarms or row.missed or row.late]
    if not rows:
        yield paragraph(
            "Nothing to show: the log has no ledger, or no proxy has alarmed and no bad stretch was missed so far."
        )
        return
    yield table(
        "Each proxy held against the truth, over the whole log",
        [
            "proxy",
            Column("alarms", True),
            Column("confirmed", True),
            Column("refuted", True),
            Column("precision", True),
            Column("recall", True),
            Column("missed", True),
            Column("lead", True),
        ],
        (
            (
                measure_title(row.proxy),
                f"{row.alarms:,}",
                f"{row.confirmed:,}",
                f"{row.refuted:,}",
                _share(row.precision),
                _share(row.recall),
                f"{row.missed:,}",
                _lead(row),
            )
            for row in rows
        ),
    )
    few = [row for row in rows if not row.enough]
    note = (
        f"Precision of those with fewer than {ENOUGH} verdicts ({len(few)} of {len(rows)}) is shown, not built on. "
        if few
        else ""
    )
    yield paragraph(
        f"{note}Alarms that are neither confirmed nor refuted are open, unknown for want of labels, or censored "
        "because the model was rolled back. Lead: from the alarm to when the labels showed it (median).",
        "note",
    )
    if report.realised is not None:
        found = report.realised
        yield paragraph(
            f"False alarms over {found.weeks:.1f} weeks: {found.false_alarms:,}, which is {found.per_week:.2f} a week, "
            f"against a budget of {found.budget:g}."
        )


def _share(found: tuple[float, float, float] | None) -> Markup:
    if found is None:
        return safe(NOT_JUDGED)
    value, low, high = (100 * x for x in found)
    return Markup(f"{value:.0f}% <small>[{low:.0f}, {high:.0f}]</small>")


def _lead(row: ProxyRow) -> str:
    if row.lead_s is None:
        return NOT_JUDGED
    minutes = round(row.lead_s[0] / 60) * 60_000
    sign = "−" if minutes < 0 else ""
    size = abs(minutes)
    text = f"{size / 86_400_000:.1f} d" if size >= 86_400_000 else format_ms(size) if size else "0 m"
    return sign + text


def rule_record(report: Monthly, period: Period) -> Iterator[str]:
    """Which rules fired, and what people did."""
    fired = [row for row in report.rules if row.published]
    if fired:
        yield table(
            "Rules that fired, over the whole log",
            [
                "rule",
                Column("incidents", True),
                Column("acted on", True),
                Column("dismissed", True),
                Column("done", True),
                "remark",
            ],
            (
                (
                    row.rule + (" (shadow)" if row.shadow else ""),
                    f"{row.published:,}",
                    f"{row.acted:,}" + ("" if row.share is None else f" ({row.share:.0%})"),
                    f"{row.dismissed:,}",
                    f"{row.done:,}",
                    _remark(row),
                )
                for row in fired
            ),
        )
    yield from incident_tables(report.incidents, period, "in this month")


def _remark(row: RuleRow) -> str:
    return "decoration: nobody acts on it" if row.decoration else ""
