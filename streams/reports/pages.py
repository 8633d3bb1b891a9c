"""A report → its page. Every number is the record's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from streams.duration import format_ms
from streams.ledger import ENOUGH, ProxyRow, RuleRow
from streams.reports.html import (
    Column,
    Markup,
    badge,
    bullets,
    figure,
    page,
    paragraph,
    safe,
    section,
    slug,
    table,
    tag,
    when,
)
from streams.reports.incidents import Incident
from streams.reports.lines import MeasureLine, SignalLine
from streams.reports.periods import Cadence, Period, day_of, span_text
from streams.reports.report import (
    Daily,
    Head,
    Maturity,
    Monthly,
    Report,
    Trend,
    Weekly,
    measure_title,
    number_text,
    segment_text,
)
from streams.reports.svg import Mark, Scale, Series, meter, spark, whisker

TITLES = {
    Cadence.DAILY: "System and data check",
    Cadence.WEEKLY: "Segment review",
    Cadence.MONTHLY: "Retraining review",
}
MOST_LINES, FEW_LINES = 15, 6
"""Lines of a table; the JSON has all. Few are shown even if nothing of them moved."""
ASTIR = 0.01
"""Of the way to the limit: what is nearer is shown."""
NOT_JUDGED = "–"


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
        yield from _daily(report, period)
    elif isinstance(report, Weekly):
        yield from _weekly(report, period)
    else:
        yield from _monthly(report, period)
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


def facts(items: Iterable[tuple[str, str]]) -> Markup:
    """A row of numbers with their names."""
    found = "".join(f"<div>{tag('dt', name)}{tag('dd', value)}</div>" for name, value in items)
    return Markup(f'<dl class="facts">{found}</dl>')


# Daily


def _daily(report: Daily, period: Period) -> Iterator[str]:
    yield from section("Traffic", _traffic(report, period))
    yield from section("Incidents", _incidents(report.incidents, period, "on this day"))
    yield from section("System", _signals(report.health, period, "No signal of the system was judged on this day."))
    yield from section("Data", _data(report, period))
    yield from section("Labels", _label_flow(report, period))
    yield from _others(report.other, period)
    yield from section("Records that were not counted", _books(report))


def _traffic(report: Daily, period: Period) -> Iterator[str]:
    if not report.traffic:
        yield paragraph("No request was counted, on this day or in the four weeks before it.")
        return
    by_day = {found.day: found for found in report.traffic}
    days = _iso_days(period)
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
        _day_names(period),
        [Series("requests", requests, Mark.BARS)],
        marked=_meant(period),
        format_=",.0f",
    )


def _data(report: Daily, period: Period) -> Iterator[str]:
    yield from _signals(report.data, period, "No signal of the data was judged on this day.")


def _label_flow(report: Daily, period: Period) -> Iterator[str]:
    if not report.labels and not any(found.labels for found in report.traffic):
        yield paragraph("No label is known: the model has none, or none has come in these four weeks.")
        return
    if report.labels:
        yield from _signals(report.labels, period, "")
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


# Weekly


def _weekly(report: Weekly, period: Period) -> Iterator[str]:
    yield from section("Segments", _segments(report))
    yield from section("What moved against the week before", _moves(report))
    yield from section("Inputs and scores", _signals(report.drift, period, "No drift was judged in this week."))
    yield from _others(report.other, period)
    yield from section("What was done", _incidents(report.incidents, period, "in this week"))


def _known(maturity: Maturity) -> Markup:
    share = "–" if maturity.share is None else f"{maturity.share:.0%}"
    return facts(
        [
            ("Predictions", f"{maturity.predictions:,}"),
            ("Labels known", f"{maturity.labels:,}"),
            ("Maturity", share),
        ]
    )


def _segments(report: Weekly) -> Iterator[str]:
    if not report.segments:
        yield paragraph(
            "No segment can be judged: no label of this week's predictions is in the log. Labels may still be on "
            "their way, or the model has none."
        )
        return
    yield _known(report.maturity)
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
                _cell_name(line, versions),
                Markup(whisker(line.now.low, line.now.value, line.now.high, line.reference, scale)),
                _with_interval(line.name, line.now.value, line.now.low, line.now.high),
                number_text(line.name, line.reference),
                f"{line.now.n:,}",
                _verdict(line.verdict),
            )
            for line in lines
        ),
    )


def _interval_scale(lines: Sequence[MeasureLine]) -> Scale:
    numbers = [x for line in lines for x in (line.now.low, line.now.high, line.reference) if x is not None]
    room = (max(numbers) - min(numbers)) * 0.05 or 1.0
    return Scale(min(numbers) - room, max(numbers) + room)


def _cell_name(line: MeasureLine | SignalLine | Incident, versions: bool = True) -> str:
    where = segment_text(line.segment) or "whole model"
    return where + (f", version {line.version}" if versions and line.version is not None else "")


def _with_interval(name: str, value: float, low: float, high: float) -> Markup:
    low_text, high_text = (number_text(name, x).removesuffix("%") for x in (low, high))
    return Markup(f"{number_text(name, value)} <small>[{low_text}, {high_text}]</small>")


VERDICTS = {
    "worse": "▲ worse",
    "better": "✓ better",
    "no different": "no different beyond chance",
    "no reference": "not held against it",
    "nothing to compare with": NOT_JUDGED,
}


def _verdict(text: str) -> Markup:
    return tag("span", VERDICTS[text], class_=text) if text in ("worse", "better") else safe(VERDICTS[text])


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
                _cell_name(line, False),
                number_text(line.name, line.before.value if line.before else None),
                number_text(line.name, line.now.value),
                _with_interval(line.name, *line.moved) if line.moved else NOT_JUDGED,
                _verdict(line.turned),
            )
            for line in report.moved
        ),
    )
    yield paragraph(
        f"{len(report.moved)} of {report.moves_compared} labelled numbers moved, by intervals that are corrected for "
        "their number.",
        "note",
    )


# Monthly


def _monthly(report: Monthly, period: Period) -> Iterator[str]:
    yield from section("Recommendation", _recommendation(report))
    yield from section("Performance", _performance(report, period))
    yield from section("Calibration", _calibration(report, period))
    yield from section("Drift since training", _signals(report.drift, period, "No drift was judged in this month."))
    yield from section("Record of the proxies", _proxies(report))
    yield from section("Rules, and what was done", _rules(report, period))
    yield from _others(report.other, period)


def _recommendation(report: Monthly) -> Iterator[str]:
    found = report.recommendation
    yield paragraph(Markup(f"<strong>{safe(found.advice.capitalize())}.</strong> {safe(found.because)}"))
    yield bullets(found.evidence)
    yield paragraph(f"Decided by the rule “{found.rule}”, the first that held.", "note")


def _performance(report: Monthly, period: Period) -> Iterator[str]:
    if not report.performance:
        yield paragraph("Not known: no label of this month's predictions is in the log.")
        return
    yield _known(report.maturity)
    yield _wholes("Performance of the month", report.performance)
    yield from (_estimated(trend, period) for trend in report.estimated)
    if not report.estimated:
        yield paragraph("Estimated performance cannot be held against it: the model has no accuracy.")


def _estimated(trend: Trend, period: Period) -> Markup:
    days = _iso_days(period)
    known = {point.day: point for point in trend.points}
    both = [point for point in trend.points if point.expected is not None]
    inside = sum(point.low is not None and point.high is not None and point.low <= point.expected <= point.high
                 for point in both if point.expected is not None)  # fmt: skip
    said = (
        f"On {inside} of {len(both)} days the estimate lies within the interval of what the labels showed."
        if both
        else "No estimate was made for these days."
    )
    found = [known.get(day) for day in days]
    series = [
        Series(
            "realised, by the labels",
            [point.value if point else None for point in found],
            Mark.DOTS,
            [point.low if point else None for point in found],
            [point.high if point else None for point in found],
        )
    ]
    if both:
        estimates = [point.expected if point else None for point in found]
        series.append(Series("estimated, from the scores alone", estimates, Mark.LINE))
    return figure(
        f"Accuracy of version {trend.version}, estimated and realised",
        said,
        _day_names(period),
        series,
        reference=None if trend.reference is None else ("the reference", trend.reference),
        marked=_meant(period),
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
                _with_interval(line.name, line.now.value, line.now.low, line.now.high),
                number_text(line.name, line.reference),
                number_text(line.name, line.before.value if line.before else None),
                f"{line.now.n:,}",
                _verdict(line.verdict),
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
    around = f" ± {1.96 * error:.2f}" if isinstance(error, float) else ""
    return f"{value:.2f}{around}".replace("-", "−")


def _intercepts(trend: Trend, period: Period) -> Markup:
    days = _iso_days(period)
    known = {point.day: point for point in trend.points}
    found = [known.get(day) for day in days]
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
        _day_names(period),
        [
            Series(
                "intercept",
                [point.value if point else None for point in found],
                Mark.DOTS,
                [point.low if point else None for point in found],
                [point.high if point else None for point in found],
            )
        ],
        reference=("the reference", level),
        marked=_meant(period),
        format_=".1f",
    )


def _proxies(report: Monthly) -> Iterator[str]:
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


def _rules(report: Monthly, period: Period) -> Iterator[str]:
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
    yield from _incidents(report.incidents, period, "in this month")


def _remark(row: RuleRow) -> str:
    return "decoration: nobody acts on it" if row.decoration else ""


# What several have


def _others(lines: Sequence[SignalLine], period: Period) -> Iterator[str]:
    """A section for each family that has none of its own."""
    for family in sorted({line.family for line in lines}):
        yield from section(family.capitalize(), _signals([line for line in lines if line.family == family], period, ""))


def _signals(lines: Sequence[SignalLine], period: Period, nothing: str) -> Iterator[str]:
    if not lines:
        yield paragraph(nothing)
        return
    breached = [line for line in lines if line.breached]
    unit = "window" if period.cadence is Cadence.DAILY else "day"
    yield paragraph(
        f"{_beyond(breached)} {len(lines) - len(breached)} of {len(lines)} stayed within their limits."
        if breached
        else f"All {len(lines)} signals stayed within their limits."
        if len(lines) > 1
        else "The one signal stayed within its limit."
    )
    before = {Cadence.DAILY: "day before", Cadence.WEEKLY: "week before", Cadence.MONTHLY: "month before"}
    several = len({line.version for line in lines if line.version is not None}) > 1
    head: list[Column | str] = [
        "signal",
        "way to the limit" if period.cadence is Cadence.DAILY else "day by day",
        Column("mean", True),
        Column(before[period.cadence], True),
        Column("baseline", True),
        Column("worst", True),
        Column("its limit", True),
        Column(f"{unit}s beyond", True),
    ]
    told = {(line.name, line.feature) for line in breached if line.segment is None}
    rows = [line for line in lines if line.segment is None or (line.name, line.feature) not in told]
    shown = rows if len(rows) <= FEW_LINES else [line for line in rows if line.breached or (line.nearest or 0) > ASTIR]
    shown = shown[:MOST_LINES] or rows[:FEW_LINES]
    yield table(
        f"{' and '.join(dict.fromkeys(line.family for line in lines)).capitalize()}: the nearest to their limits",
        head,
        (tuple(_signal_cells(line, period, several)) for line in shown),
    )
    rest = len(lines) - len(shown)
    way = (
        "The bar ends at the limit's upright stroke when a signal is about to alarm."
        if period.cadence is Cadence.DAILY
        else "The line is how near each day came to its limit, the horizontal stroke; shaded is this report."
    )
    more = f" {rest} more, of single segments or further from their limits, are in the JSON." if rest else ""
    yield paragraph(way + more, "note")


def _beyond(breached: Sequence[SignalLine]) -> str:
    names = list(dict.fromkeys(measure_title(line.name, line.feature) for line in breached))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"Beyond the limit: {', '.join(names[:4])}{more}."


def _signal_cells(line: SignalLine, period: Period, versions: bool) -> Iterator[str]:
    where = segment_text(line.segment)
    version = f"version {line.version}" if versions and line.version is not None else ""
    about = ", ".join(text for text in (where, version) if text)
    name = safe(measure_title(line.name, line.feature))
    yield Markup(f"{name} <small>in {safe(about)}</small>") if about else name
    yield Markup(meter(line.nearest) if period.cadence is Cadence.DAILY else spark(line.days, _meant(period)))
    for value in (line.mean, line.before, line.baseline, line.worst, line.threshold):
        yield number_text(line.name, value)
    daily = period.cadence is Cadence.DAILY
    beyond, of = (line.breached, line.windows) if daily else (line.days_breached, len(period.days_ms))
    text = f"{beyond:,} of {of:,}"
    yield tag("span", f"▲ {text}", class_="worse") if beyond else text


def _incidents(incidents: Sequence[Incident], period: Period, when_: str) -> Iterator[str]:
    due = [found for found in incidents if not found.only_held_back and not found.shadow]
    held = [found for found in incidents if found.only_held_back and not found.shadow]
    shadows = [found for found in incidents if found.shadow]
    if due:
        yield _incident_table(f"Incidents open {when_}", due, period)
        answered = sum(bool(found.acks) for found in due)
        yield paragraph(
            f"{answered} of {len(due)} were answered by an ack."
            if answered
            else "Nobody has sent an ack for any of them: what was done is not known here.",
            "note",
        )
    else:
        yield paragraph(f"No incident was open {when_}.")
    if held:
        yield _incident_table("Held back, because a lower layer explains them", held, period)
    if shadows:
        yield paragraph(
            f"{len(shadows)} more of rules in shadow, which try themselves out: "
            + ", ".join(dict.fromkeys(found.rule for found in shadows))
            + "."
        )


def _incident_table(caption: str, incidents: Sequence[Incident], period: Period) -> Markup:
    return table(
        caption,
        [
            "rule",
            "where",
            "response",
            Column("state", roomy=True),
            Column("evidence, when told last", roomy=True),
            "owner",
            "answer",
        ],
        (
            (
                found.rule,
                _cell_name(found, False),
                Markup(f"{safe(found.response)} <small>{safe(found.severity)}</small>"),
                _state(found, period),
                _evidence(found),
                _owner(found),
                _answers(found),
            )
            for found in incidents
        ),
    )


def _state(found: Incident, period: Period) -> Markup:
    began = when(found.fired or found.held_back or "")
    if found.only_held_back:
        text = Markup(f'<span class="suppressed">◆ held back</span> since {began}')
        text = Markup(f"{text} by {safe(found.cause)}") if found.cause else text
    elif found.is_open(period):
        text = Markup(f'<span class="firing">▲ open</span> since {began}')
    else:
        text = Markup(f'<span class="resolved">● ended</span>, from {began}')
    if found.ended is None or found.is_open(period):
        return text
    return Markup(f"{text} to {when(found.ended)}")


def _evidence(found: Incident) -> Markup:
    items = [
        f"{measure_title(item.name, item.feature)} {number_text(item.name, item.value)} "
        f"(limit {number_text(item.name, item.threshold)}, n {'–' if item.n is None else f'{item.n:,}'})"
        for item in found.evidence[:3]
    ]
    more = len(found.evidence) - 3
    return Markup("<br>".join(map(safe, items)) + (f"<br>and {more} more" if more > 0 else ""))


def _owner(found: Incident) -> Markup:
    owner = safe(found.owner or "nobody is named")
    if not found.runbook:
        return owner
    if found.runbook.startswith(("https://", "http://")):
        return Markup(f"{owner}<br>{tag('a', 'runbook', href=found.runbook)}")
    return Markup(f"{owner}<br>{safe(found.runbook)}")


def _answers(found: Incident) -> Markup:
    if not found.acks:
        return safe("none")
    return Markup("<br>".join(safe(f"{said.status} by {said.by}" + (f": {said.note}" if said.note else ""))
                              for said in found.acks))  # fmt: skip


def _iso_days(period: Period) -> list[str]:
    return [day_of(at).isoformat() for at in period.shown_ms]


def _day_names(period: Period) -> list[str]:
    """As they stand under a figure."""
    return [f"{day.day} {day:%b %Y}" for day in map(day_of, period.shown_ms)]


def _meant(period: Period) -> tuple[int, int]:
    """The days of the report among those that are shown."""
    days = period.shown_ms
    return len(days) - len(period.days_ms), len(days)
