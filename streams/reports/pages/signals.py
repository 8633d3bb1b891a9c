"""Lines of signals → tables of those nearest to their limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from streams.reports.html import Column, Markup, paragraph, safe, section, table, tag
from streams.reports.lines import SignalLine
from streams.reports.pages.cells import days_meant
from streams.reports.periods import Cadence, Period
from streams.reports.phrases import measure_title, number_text, segment_phrase
from streams.reports.svg import meter, spark

MOST_LINES, FEW_LINES = 15, 6
"""Lines of a table; the JSON has all. Few are shown even if nothing of them moved."""
ASTIR = 0.01
"""Of the way to the limit: what is nearer is shown."""


def other_families(lines: Sequence[SignalLine], period: Period) -> Iterator[str]:
    """A section for each family that has none of its own."""
    for family in sorted({line.family for line in lines}):
        yield from section(
            family.capitalize(), signal_tables([line for line in lines if line.family == family], period, "")
        )


def signal_tables(lines: Sequence[SignalLine], period: Period, nothing: str) -> Iterator[str]:
    """What went beyond its limit and what is nearest to its own; `nothing` is said where no signal was judged."""
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
    where = segment_phrase(line.segment)
    version = f"version {line.version}" if versions and line.version is not None else ""
    about = ", ".join(text for text in (where, version) if text)
    name = safe(measure_title(line.name, line.feature))
    yield Markup(f"{name} <small>in {safe(about)}</small>") if about else name
    yield Markup(meter(line.nearest) if period.cadence is Cadence.DAILY else spark(line.days, days_meant(period)))
    for value in (line.mean, line.before, line.baseline, line.worst, line.threshold):
        yield number_text(line.name, value)
    daily = period.cadence is Cadence.DAILY
    beyond, of = (line.breached, line.windows) if daily else (line.days_breached, len(period.days_ms))
    text = f"{beyond:,} of {of:,}"
    yield tag("span", f"▲ {text}", class_="worse") if beyond else text
