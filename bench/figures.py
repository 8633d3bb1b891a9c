"""Points of curves → a picture of its own: an SVG file with axes and names, on white or black as the reader has it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from streams.reports.svg import Series, scale_of

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 36, 66
COLOURS = ("#0969da", "#bc4c00")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.grid{stroke:#d1d9e0}"
    "path{fill:none}@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.grid{stroke:#3d444d}}"
)


def figure(title: str, across: str, upward: str, places: Sequence[str], series: Sequence[Series]) -> str:
    """Series over places that stand at equal distances; the upright axis begins at 0."""
    scale = scale_of(series, reference=0.0)
    plot_height = HEIGHT - TOP - BOTTOM
    step = (WIDTH - LEFT - RIGHT) / len(places)
    x = [LEFT + step * (number + 0.5) for number in range(len(places))]

    def y(value: float) -> float:
        return TOP + plot_height * scale.y(value) / 100

    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>']
    for tick in scale.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [
        f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(place)}</text>'
        for at, place in zip(x, places, strict=True)
    ]
    for number, found in enumerate(series):
        parts += _drawn(found, number, x, [y(value) for value in found.values if value is not None])
    middle = TOP + plot_height / 2
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - BOTTOM + 36}">{escape(across)}</text>')
    parts.append(f'<text transform="translate(16 {middle})rotate(-90)" text-anchor="middle">{escape(upward)}</text>')
    said = "; ".join(f"{found.label}: {', '.join(f'{value:.3g}' for value in found.values)}" for found in series)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}"><title>{escape(title)}</title><desc>{escape(said)}</desc><style>{STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )


def _drawn(series: Series, number: int, x: Sequence[float], y: Sequence[float]) -> list[str]:
    """A line with a dot at each place, and its name under the plot; lines after the first are dashed."""
    colour, dashes = COLOURS[number], "" if number == 0 else ' stroke-dasharray="6 4"'
    stroke = f'stroke="{colour}" stroke-width="2"'
    points = "L".join(f"{at:.1f} {height:.1f}" for at, height in zip(x, y, strict=True))
    dots = "".join(f"M{at:.1f} {height:.1f}h0" for at, height in zip(x, y, strict=True))
    key_x, key_y = LEFT + 180 * number, HEIGHT - 10
    return [
        f'<path {stroke}{dashes} d="M{points}"/>',
        f'<path stroke="{colour}" stroke-width="6" stroke-linecap="round" d="{dots}"/>',
        f'<path {stroke}{dashes} d="M{key_x} {key_y - 4}h24"/>',
        f'<text x="{key_x + 30}" y="{key_y}">{escape(series.label)}</text>',
    ]
