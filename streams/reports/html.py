"""The one toolkit of all pages: page, table, figure, badge → HTML that stands alone, without scripts.

Text is escaped here: callers pass plain text, and `Markup` where they have HTML already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from streams.reports.style import STYLE
from streams.reports.svg import Mark, Scale, Series, plot, sample, scale_of, swatch
from streams.text import html_text

BADGES = {"act": "▲", "watch": "◆", "all well": "●", "no data": "○"}
"""A shape for each standing, beside its colour."""


class Markup(str):
    """HTML."""

    __slots__ = ()


def safe(text: str) -> Markup:
    """Text as HTML; HTML as it is."""
    return text if isinstance(text, Markup) else Markup(html_text(text))


def tag(name: str, content: str, **attributes: str) -> Markup:
    """An element; of attributes `_` is `-`, and `class_` is `class`."""
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{html_text(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{said}>{safe(content)}</{name}>")


def paragraph(text: str, class_: str = "") -> Markup:
    return tag("p", text, class_=class_) if class_ else tag("p", text)


def bullets(items: Iterable[str]) -> Markup:
    return Markup("<ul>" + "".join(tag("li", item) for item in items) + "</ul>")


def when(text: str) -> Markup:
    """Date and minute of an RFC 3339 text, on one line; midnight without the hour."""
    shown = text[:16].replace("T", " ").removesuffix(" 00:00")
    return tag("time", shown, datetime=text, class_="when")


def badge(standing: str, label: str = "") -> Markup:
    """A standing, or what follows from it."""
    shape = Markup(f'<span aria-hidden="true">{BADGES[standing]}</span> ')
    return tag("strong", Markup(shape + html_text((label or standing).capitalize())), class_=f"badge {slug(standing)}")


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def page(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html_text(title)}</title><style>{STYLE}</style></head><body>"
    )
    return "\n".join([head, *body, "</body></html>"]) + "\n"


def section(title: str, content: Iterable[str]) -> Iterator[Markup]:
    """A part of a page, under a heading of its own."""
    name = slug(title)
    yield Markup(f'<section aria-labelledby="{name}">')
    yield tag("h2", title, id=name)
    yield from map(safe, content)
    yield Markup("</section>")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: `number` is set flush right, `roomy` takes the room that a sentence needs."""

    title: str
    number: bool = False
    roomy: bool = False


def table(caption: str, columns: Sequence[Column | str], rows: Iterable[Sequence[str]]) -> Markup:
    """Scrolls by itself where it is too wide, by the keyboard too; the first cell of a row is its heading."""
    known = [column if isinstance(column, Column) else Column(column) for column in columns]
    name = "table-" + slug(caption)
    head = "".join(f'<th scope="col"{_flush(column)}>{safe(column.title)}</th>' for column in known)
    body = "".join("<tr>" + "".join(_cells(row, known)) + "</tr>" for row in rows)
    return Markup(
        f'<div class="wide" role="region" aria-labelledby="{name}" tabindex="0"><table>'
        f'<caption id="{name}">{safe(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _cells(row: Sequence[str], columns: Sequence[Column]) -> Iterator[str]:
    for number, (cell, column) in enumerate(zip(row, columns, strict=True)):
        name, scope = ("th", ' scope="row"') if number == 0 else ("td", "")
        yield f"<{name}{scope}{_flush(column)}>{safe(cell)}</{name}>"


def _flush(column: Column) -> str:
    return ' class="n"' if column.number else ' class="roomy"' if column.roomy else ""


def figure(
    title: str,
    description: str,
    days: Sequence[str],
    series: Sequence[Series],
    *,
    reference: tuple[str, float] | None = None,
    marked: tuple[int, int] | None = None,
    format_: str = ",.3g",
) -> Markup:
    """A plot of days with its scale and its key. `reference`: a line, with its name. `description`: what it shows."""
    scale = scale_of(series, reference[1] if reference else None)
    drawn = plot(
        "plot-" + slug(title),
        title,
        description,
        series,
        scale=scale,
        reference=reference[1] if reference else None,
        marked=marked,
    )
    middle = days[len(days) // 2] if len(days) > 2 else ""
    along = "".join(f"<span>{html_text(day)}</span>" for day in dict.fromkeys((days[0], middle, days[-1])) if day)
    return Markup(
        f'<figure class="chart"><figcaption>{safe(title)}</figcaption><div class="frame">'
        f'<div class="ys" aria-hidden="true">{_ticks(scale, format_)}</div>{drawn}'
        f'<div class="xs" aria-hidden="true">{along}</div></div>'
        f'<p class="key">{_key(series, reference, marked)}</p><p class="said">{safe(description)}</p></figure>'
    )


def _ticks(scale: Scale, format_: str) -> str:
    texts = (format(round(tick, 9) + 0.0, format_).replace("-", "−") for tick in scale.ticks)
    return "".join(f"<span>{html_text(text)}</span>" for text in texts)


def _key(series: Sequence[Series], reference: tuple[str, float] | None, marked: tuple[int, int] | None) -> str:
    items = [
        f"<span>{swatch(found, number)} {html_text(found.label)}"
        + (" with its 95% interval" if found.lows and found.mark is Mark.DOTS else "")
        + "</span>"
        for number, found in enumerate(series)
    ]
    if reference is not None:
        drawn = sample('<path class="reference" d="M1 6H23"/>')
        items.append(f"<span>{drawn} {html_text(reference[0])}</span>")
    if marked is not None:
        drawn = sample('<rect class="meant" width="24" height="12"/>')
        items.append(f"<span>{drawn} this report</span>")
    return "".join(items)
