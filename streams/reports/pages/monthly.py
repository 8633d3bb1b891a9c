"""The monthly report → its sections: retrain, keep, or investigate?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streams.reports.html import Column, Markup, bullets, figure, paragraph, safe, section, table
from streams.reports.lines import DayPoint, MeasureLine
from streams.reports.pages.cells import day_names, days_meant, iso_days, labels_known, verdict_text, with_interval
from streams.reports.pages.record import proxy_record, rule_record
from streams.reports.pages.signals import other_families, signal_tables
from streams.reports.periods import Period, day_of
from streams.reports.phrases import measure_title, number_text
from streams.reports.report import Monthly, Trend
from streams.reports.svg import Mark, Series
from streams.signals.result import CONFIDENT


def monthly_sections(report: Monthly, period: Period) -> Iterator[str]:
    """The recommendation first, then its evidence."""
    yield from section("Recommendation", _recommendation(report))
    yield from section("Performance", _performance(report, period))
    yield from section("Calibration", _calibration(report, period))
    yield from section(
        "Drift since training", signal_tables(report.drift, period, "No drift was judged in this month.")
    )
    yield from section("Record of the proxies", proxy_record(report))
    yield from section("Rules, and what was done", rule_record(report, period))
    yield from other_families(report.other, period)


def _recommendation(report: Monthly) -> Iterator[str]:
    found = report.recommendation
    yield paragraph(Markup(f"<strong>{safe(found.advice.capitalize())}.</strong> {safe(found.because)}"))
    yield bullets(found.evidence)
    yield paragraph(f"Decided by the rule “{found.rule}”, the first that held.", "note")


def _performance(report: Monthly, period: Period) -> Iterator[str]:
    if not report.performance:
        yield paragraph("Not known: no label of this month's predictions is in the log.")
        return
    yield labels_known(report.maturity)
    yield _wholes("Performance of the month", report.performance)
    yield from (_estimated(trend, period) for trend in report.estimated)
    if not report.estimated:
        yield paragraph("Estimated performance cannot be held against it: the model has no accuracy.")


def _estimated(trend: Trend, period: Period) -> Markup:
    both = [point for point in trend.points if point.expected is not None]
    inside = sum(point.low is not None and point.high is not None and point.low <= point.expected <= point.high
                 for point in both if point.expected is not None)  # fmt: skip
    said = (
        f"On {inside} of {len(both)} days the estimate lies within the interval of what the labels showed."
        if both
        else "No estimate was made for these days."
    )
    found = _by_day(trend, period)
    series = [_dots("realised, by the labels", found)]
    if both:
        estimates = [point.expected if point else None for point in found]
        series.append(Series("estimated, from the scores alone", estimates, Mark.LINE))
    return figure(
        f"Accuracy of version {trend.version}, estimated and realised",
        said,
        day_names(period),
        series,
        reference=None if trend.reference is None else ("the reference", trend.reference),
        marked=days_meant(period),
        format_=".0%",
    )


def _wholes(caption: str, lines: Sequence[MeasureLine]) -> Markup:
    versions = len({line.version for line in lines}) > 1
    return table(
        caption,
        [
            "number",
            Column("this month", True),
            Column("reference", True),
            Column("month before", True),
            Column("labels", True),
            "against the reference",
        ],
        (
            (
                measure_title(line.name, line.feature) + (f", version {line.version}" if versions else ""),
                with_interval(line.name, line.now.value, line.now.low, line.now.high),
                number_text(line.name, line.reference),
                number_text(line.name, line.before.value if line.before else None),
                f"{line.now.n:,}",
                verdict_text(line.verdict),
            )
            for line in lines
        ),
    )


def _calibration(report: Monthly, period: Period) -> Iterator[str]:
    if not report.calibration:
        yield paragraph("Not known: the model has no calibrated scores, or no label of this month has come.")
        return
    yield _wholes("Calibration of the month", report.calibration)
    yield paragraph(
        "Intercept: how far outcomes lie above (+) or below (−) what the scores say, in log-odds, beyond what the "
        "reference had; 0 is as then. Slope: 1 says that scores spread as outcomes do; what counts is the reference's. "
        "Calibration error: the mean of the single days', which is above that of a long span and so is not held "
        "against the reference.",
        "note",
    )
    for trend in report.intercepts:
        yield _intercepts(trend, period)
    if report.online:
        yield paragraph(
            f"By the recalibration that follows the labels online, at the end of the month: intercept "
            f"{_online(report.online, 'intercept')}, slope {_online(report.online, 'slope')}."
        )


def _online(found: dict[str, float | str | None], name: str) -> str:
    value, error = found.get(name), found.get(f"{name}_error")
    if not isinstance(value, float):
        return "not known"
    around = f" ± {CONFIDENT * error:.2f}" if isinstance(error, float) else ""
    return f"{value:.2f}{around}".replace("-", "−")


def _intercepts(trend: Trend, period: Period) -> Markup:
    found = _by_day(trend, period)
    level = trend.reference or 0.0
    first = day_of(period.start_ms).isoformat()
    inside = [
        point for point in trend.points if point.day >= first and point.low is not None and point.high is not None
    ]
    above = sum(point.low is not None and point.low > level for point in inside)
    below = sum(point.high is not None and point.high < level for point in inside)
    said = (
        f"Of {len(inside)} days of this month outcomes were more frequent than the scores say on {above}, and less "
        f"frequent on {below}, by the day's own interval."
    )
    return figure(
        f"Calibration intercept of version {trend.version}, day by day",
        said,
        day_names(period),
        [_dots("intercept", found)],
        reference=("the reference", level),
        marked=days_meant(period),
        format_=".1f",
    )


def _by_day(trend: Trend, period: Period) -> list[DayPoint | None]:
    """The points of the days that are shown."""
    known = {point.day: point for point in trend.points}
    return [known.get(day) for day in iso_days(period)]


def _dots(name: str, found: Sequence[DayPoint | None]) -> Series:
    """Values of days with their intervals."""
    return Series(
        name,
        [point.value if point else None for point in found],
        Mark.DOTS,
        [point.low if point else None for point in found],
        [point.high if point else None for point in found],
    )
