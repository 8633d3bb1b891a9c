"""Numbers → inline SVG. Plots are stretched to their box, so all text is outside of them, in HTML.

Colours are classes of the page's style, which knows light, dark and paper. What a colour says, a shape says too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from streams.text import html_text

MOST_STEPS, SLACK = 4, 1e-9
MOST_REACH = 2.0
"""Meters end at twice the way to the limit."""
Values = Sequence[float | None]


class Mark(StrEnum):
    """How a series is drawn."""

    BARS = "bars"
    LINE = "line"
    DASHED = "dashed"
    DOTS = "dots"


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers of a row of days, with an interval each where there is one."""

    label: str
    values: Values
    mark: Mark = Mark.LINE
    lows: Values = ()
    highs: Values = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers → heights of a picture that is 100 by 100, with so many equal steps."""

    low: float
    top: float
    steps: int = 2

    @property
    def ticks(self) -> list[float]:
        """From the top down."""
        return [self.top - (self.top - self.low) * step / self.steps for step in range(self.steps + 1)]

    def y(self, value: float) -> float:
        return 100 - 100 * (min(self.top, max(self.low, value)) - self.low) / (self.top - self.low)


def scale_of(series: Sequence[Series], reference: float | None = None) -> Scale:
    """Round numbers around the lowest and the highest; bars stand on 0."""
    numbers = [x for found in series for values in (found.values, found.lows, found.highs) for x in _known(values)]
    numbers += [] if reference is None else [reference]
    numbers += [0.0] if any(found.mark is Mark.BARS for found in series) else []
    low, top = min(numbers, default=0.0), max(numbers, default=1.0)
    step = _round_step((top - low or abs(top) or 1.0) / MOST_STEPS)
    first, last = math.floor(low / step + SLACK), math.ceil(top / step - SLACK)
    last = max(last, first + 1)
    return Scale(first * step, last * step, last - first)


def _round_step(least: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - SLACK))


def _known(values: Values) -> list[float]:
    return [x for x in values if x is not None and math.isfinite(x)]


def plot(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    *,
    scale: Scale,
    reference: float | None = None,
    marked: tuple[int, int] | None = None,
) -> str:
    """A picture of series over the same days. `marked`: the days that are meant, from and until."""
    days = max(len(found.values) for found in series)
    parts: list[str] = []
    if marked is not None:
        left, right = 100 * marked[0] / days, 100 * marked[1] / days
        parts.append(f'<rect class="meant" x="{left:.2f}" y="0" width="{right - left:.2f}" height="100"/>')
    parts += [f'<path class="grid" d="M0 {scale.y(tick):.2f}H100"/>' for tick in scale.ticks]
    if reference is not None:
        y = scale.y(reference)
        parts.append(f'<path class="reference" d="M0 {y:.2f}H100"/>')
    for number, found in enumerate(series):
        parts += _drawn(found, number, days, scale, marked or (0, days))
    return (
        f'<svg class="plot" role="img" aria-labelledby="{name}-title {name}-desc" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none"><title id="{name}-title">{html_text(title)}</title>'
        f'<desc id="{name}-desc">{html_text(description)}</desc>{"".join(parts)}</svg>'
    )


def _drawn(series: Series, number: int, days: int, scale: Scale, meant: tuple[int, int]) -> Iterator[str]:
    place = [100 * (day + 0.5) / days for day in range(days)]
    for x, low, high in zip(place, series.lows, series.highs, strict=False):
        if low is not None and high is not None:
            yield f'<path class="whisker s{number}" d="M{x:.2f} {scale.y(low):.2f}V{scale.y(high):.2f}"/>'
    known = [
        (day, x, scale.y(v)) for day, (x, v) in enumerate(zip(place, series.values, strict=False)) if v is not None
    ]
    if series.mark is Mark.BARS:
        half, foot = 38 / days, scale.y(0)
        for day, x, y in known:
            kind = f"bar s{number}" + ("" if meant[0] <= day < meant[1] else " past")
            size = f'width="{2 * half:.2f}" height="{max(0.0, foot - y):.2f}"'
            yield f'<rect class="{kind}" x="{x - half:.2f}" y="{y:.2f}" {size}/>'
    elif series.mark is Mark.DOTS:
        yield from (f'<path class="dot s{number}" d="M{x:.2f} {y:.2f}h0"/>' for _, x, y in known)
    else:
        for _, run in groupby(enumerate(known), key=lambda item: item[1][0] - item[0]):
            points = [(x, y) for _, (_, x, y) in run]
            d = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + ("h0" if len(points) == 1 else "")
            yield f'<path class="{series.mark} s{number}" d="{d}"/>'


def swatch(series: Series, number: int) -> str:
    """How a series looks, for the key under a plot."""
    shape = {
        Mark.BARS: f'<rect class="bar s{number}" x="6" y="2" width="12" height="8"/>',
        Mark.DOTS: f'<path class="whisker s{number}" d="M12 1V11"/><path class="dot s{number}" d="M12 6h0"/>',
    }.get(series.mark, f'<path class="{series.mark} s{number}" d="M1 6H23"/>')
    return sample(shape)


def sample(shape: str) -> str:
    """A shape of 24 by 12 in a key."""
    return f'<svg class="swatch" aria-hidden="true" viewBox="0 0 24 12">{shape}</svg>'


def meter(reached: float | None) -> str:
    """How far a signal went from its baseline to its limit, which is the upright stroke."""
    if reached is None:
        return '<span class="muted">no limit</span>'
    width = 100 * max(0.0, min(reached, MOST_REACH)) / MOST_REACH
    beyond = reached >= 1
    arrow = '<path class="over" d="M93 2l6 4l-6 4z"/>' if reached > MOST_REACH else ""
    said = f"{max(0.0, reached):.2f} of the way to the limit"
    return (
        f'<svg class="meter" role="img" viewBox="0 0 100 12" preserveAspectRatio="none"><title>{said}</title>'
        f'<rect class="rail" x="0" y="4" width="100" height="4"/>'
        f'<rect class="{"beyond" if beyond else "within"}" x="0" y="{2 if beyond else 4}" width="{width:.1f}" '
        f'height="{8 if beyond else 4}"/>{arrow}<path class="limit" d="M50 0V12"/></svg>'
    )


def whisker(low: float, value: float, high: float, reference: float | None, scale: Scale) -> str:
    """An interval on a scale that the whole column shares; the upright dashes are the reference."""
    left, at, right = (100 - scale.y(x) for x in (low, value, high))
    away = reference is not None and not low <= reference <= high
    kind = " away" if away else ""
    mark = "" if reference is None else f'<path class="reference" d="M{100 - scale.y(reference):.2f} 0V12"/>'
    said = (
        "no reference" if reference is None else "the reference lies outside" if away else "the reference lies within"
    )
    return (
        f'<svg class="interval" role="img" viewBox="0 0 100 12" preserveAspectRatio="none"><title>{said}</title>{mark}'
        f'<path class="whisker{kind}" d="M{left:.2f} 6H{right:.2f}"/>'
        f'<path class="dot{kind}" d="M{at:.2f} 6h0"/></svg>'
    )


def spark(days: Values, meant: tuple[int, int]) -> str:
    """Day by day how near a signal came to its limit, the horizontal stroke; shaded is what the report is about."""
    series = Series("", [None if x is None else max(0.0, min(x, MOST_REACH)) for x in days])
    scale, count = Scale(0, MOST_REACH), max(1, len(days))
    left, right = 100 * meant[0] / count, 100 * meant[1] / count
    over = sum(x is not None and x >= 1 for x in days[meant[0] : meant[1]])
    return (
        '<svg class="spark" role="img" viewBox="0 0 100 100" preserveAspectRatio="none">'
        f"<title>beyond the limit on {over} of {meant[1] - meant[0]} days</title>"
        f'<rect class="meant" x="{left:.2f}" y="0" width="{right - left:.2f}" height="100"/>'
        f'<path class="limit" d="M0 50H100"/>{"".join(_drawn(series, 0, count, scale, meant))}</svg>'
    )
