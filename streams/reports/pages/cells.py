"""What the pages of several cadences say alike: numbers with intervals, verdicts, days."""

from __future__ import annotations

from collections.abc import Iterable

from streams.reports.html import Markup, safe, tag
from streams.reports.incidents import Incident
from streams.reports.lines import MeasureLine, SignalLine
from streams.reports.periods import Period, day_of
from streams.reports.phrases import number_text, segment_phrase
from streams.reports.report import Maturity

NOT_JUDGED = "–"
VERDICTS = {
    "worse": "▲ worse",
    "better": "✓ better",
    "no different": "no different beyond chance",
    "no reference": "not held against it",
    "nothing to compare with": NOT_JUDGED,
}


def facts(items: Iterable[tuple[str, str]]) -> Markup:
    """A row of numbers with their names."""
    found = "".join(f"<div>{tag('dt', name)}{tag('dd', value)}</div>" for name, value in items)
    return Markup(f'<dl class="facts">{found}</dl>')


def labels_known(maturity: Maturity) -> Markup:
    """How much of the truth is known."""
    share = "–" if maturity.share is None else f"{maturity.share:.0%}"
    return facts(
        [
            ("Predictions", f"{maturity.predictions:,}"),
            ("Labels known", f"{maturity.labels:,}"),
            ("Maturity", share),
        ]
    )


def cell_name(line: MeasureLine | SignalLine | Incident, versions: bool = True) -> str:
    """The segment, and the version where there are several."""
    where = segment_phrase(line.segment) or "whole model"
    return where + (f", version {line.version}" if versions and line.version is not None else "")


def with_interval(name: str, value: float, low: float, high: float) -> Markup:
    """A value and its interval."""
    low_text, high_text = (number_text(name, x).removesuffix("%") for x in (low, high))
    return Markup(f"{number_text(name, value)} <small>[{low_text}, {high_text}]</small>")


def verdict_text(text: str) -> Markup:
    """One of VERDICTS as it stands in a table."""
    return tag("span", VERDICTS[text], class_=text) if text in ("worse", "better") else safe(VERDICTS[text])


def iso_days(period: Period) -> list[str]:
    """The days that are shown, as records name them."""
    return [day_of(at).isoformat() for at in period.shown_ms]


def day_names(period: Period) -> list[str]:
    """As they stand under a figure."""
    return [f"{day.day} {day:%b %Y}" for day in map(day_of, period.shown_ms)]


def days_meant(period: Period) -> tuple[int, int]:
    """The days of the report among those that are shown."""
    days = period.shown_ms
    return len(days) - len(period.days_ms), len(days)
