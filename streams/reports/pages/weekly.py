"""The weekly report → its sections: which segments are worse than they were?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streams.reports.html import Column, Markup, paragraph, section, table
from streams.reports.lines import MeasureLine
from streams.reports.pages.cells import NOT_JUDGED, cell_name, labels_known, verdict_text, with_interval
from streams.reports.pages.incidents import incident_tables
from streams.reports.pages.signals import other_families, signal_tables
from streams.reports.periods import Period
from streams.reports.phrases import measure_title, number_text
from streams.reports.report import Weekly
from streams.reports.svg import Scale, whisker


def weekly_sections(report: Weekly, period: Period) -> Iterator[str]:
    """Segments first: they are what the week is for."""
    yield from section("Segments", _segments(report))
    yield from section("What moved against the week before", _moves(report))
    yield from section("Inputs and scores", signal_tables(report.drift, period, "No drift was judged in this week."))
    yield from other_families(report.other, period)
    yield from section("What was done", incident_tables(report.incidents, period, "in this week"))


def _segments(report: Weekly) -> Iterator[str]:
    if not report.segments:
        yield paragraph(
            "No segment can be judged: no label of this week's predictions is in the log. Labels may still be on "
            "their way, or the model has none."
        )
        return
    yield labels_known(report.maturity)
    for name in dict.fromkeys(line.name for line in report.segments):
        yield _measure_table(
            f"{measure_title(name).capitalize()} by segment", [line for line in report.segments if line.name == name]
        )
    yield paragraph(
        f"The worst first. {report.compared} comparisons were made, so each interval is widened (Bonferroni) until all "
        "of them hold together at 95%. Dashed: what the reference data had.",
        "note",
    )


def _measure_table(caption: str, lines: Sequence[MeasureLine]) -> Markup:
    scale = _interval_scale(lines)
    versions = len({line.version for line in lines}) > 1
    head: list[Column | str] = [
        "segment",
        "interval",
        Column("value", True),
        Column("reference", True),
        Column("labels", True),
        "against the reference",
    ]
    return table(
        caption,
        head,
        (
            (
                cell_name(line, versions),
                Markup(whisker(line.now.low, line.now.value, line.now.high, line.reference, scale)),
                with_interval(line.name, line.now.value, line.now.low, line.now.high),
                number_text(line.name, line.reference),
                f"{line.now.n:,}",
                verdict_text(line.verdict),
            )
            for line in lines
        ),
    )


def _interval_scale(lines: Sequence[MeasureLine]) -> Scale:
    numbers = [x for line in lines for x in (line.now.low, line.now.high, line.reference) if x is not None]
    room = (max(numbers) - min(numbers)) * 0.05 or 1.0
    return Scale(min(numbers) - room, max(numbers) + room)


def _moves(report: Weekly) -> Iterator[str]:
    if not report.moves_compared:
        yield paragraph("There is nothing to compare with: the log has no labels of the week before, or of this one.")
        return
    if not report.moved:
        yield paragraph(
            f"Nothing moved beyond chance: of {report.moves_compared} labelled numbers, held against the week before, "
            "every corrected 95% interval of the difference holds 0."
        )
        return
    yield table(
        "Moved beyond chance",
        [
            "number",
            "segment",
            Column("week before", True),
            Column("this week", True),
            Column("difference", True),
            "which is",
        ],
        (
            (
                measure_title(line.name, line.feature),
                cell_name(line, False),
                number_text(line.name, line.before.value if line.before else None),
                number_text(line.name, line.now.value),
                with_interval(line.name, *line.moved) if line.moved else NOT_JUDGED,
                verdict_text(line.turned),
            )
            for line in report.moved
        ),
    )
    yield paragraph(
        f"{len(report.moved)} of {report.moves_compared} labelled numbers moved, by intervals that are corrected for "
        "their number.",
        "note",
    )
