"""The three reports of the flights' year, and the page of its backtest, in Debian's Chromium.

Not collected by itself, for it takes three minutes and installs Chromium:

    python -m pytest -s tests/deploy/report_check.py

Screenshots and PDFs are left in a temporary folder, or in $FORESHOCK_SHOTS.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agents import demo
from tests.deploy.browser import browser

PHONE, DESK, PAPER = 390, 1280, 718
"""Widths in CSS pixels; paper is A4 less its margins."""
REPORTS = {
    "daily": "2013-05-16",  # a column has another name
    "weekly": "2013-06-30",  # storms
    "monthly": "2013-04-30",  # the controllers' furlough
}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
EMPTY = """
[...document.querySelectorAll('svg[role=img]')].filter(svg => {
  const box = svg.getBoundingClientRect();
  return box.width < 20 || box.height < 5 || ![...svg.children].some(part => /^(path|rect)$/.test(part.tagName));
}).length
"""
UNTITLED = """
[...document.querySelectorAll('svg')].filter(svg => svg.getAttribute('aria-hidden') != 'true'
  && !svg.querySelector('title')?.textContent).length
"""
CUT_OFF = """
[...document.querySelectorAll('.wide')].filter(part => part.scrollWidth > part.clientWidth + 1).length
"""
HEADINGS = "[...document.querySelectorAll('h1,h2,h3,h4')].map(heading => +heading.tagName[1])"
LOADED = "performance.getEntriesByType('resource').length"
UNFIT = "[...document.body.innerText.matchAll(/\\b(nan|NaN|inf|None|undefined)\\b/g)].map(found => found[0])"


def foreshock(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "agents", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a backtest over the year, by name."""
    folder = tmp_path_factory.mktemp("year")
    demo.write(folder, lambda _: None)
    config, out = folder / "foreshock.yaml", folder / "out"
    events, labels = folder / "events.ndjson.gz", folder / "labels.ndjson.gz"
    foreshock("backtest", "-c", config, "--events", events, "--labels", labels, "-o", out)
    found = {"backtest": out / "report.html"}
    for cadence, day in REPORTS.items():
        foreshock("report", "--cadence", cadence, "--at", day, "-c", config, "--from", out, "-o", out)
        found[cadence] = out / f"flights-{cadence}-{day}.html"
    return found


@pytest.fixture(scope="module")
def shots() -> Path:
    folder = Path(os.environ.get("FORESHOCK_SHOTS") or tempfile.mkdtemp(prefix="foreshock-reports-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {folder}")
    return folder


async def look(page: Path, folder: Path, shot: Path, width: int, media: str, scheme: str) -> dict[str, Any]:
    async with browser(folder) as tab:
        await tab.open(page, width, media=media, scheme=scheme)
        await tab.screenshot(shot)
        if media == "print":
            await tab.pdf(shot.with_suffix(".pdf"))
        asked = (OVERFLOW, EMPTY, UNTITLED, CUT_OFF, HEADINGS, LOADED, UNFIT)
        found = dict(zip(asked, [await tab.ask(script) for script in asked], strict=True))
        return {**found, "axe": await tab.violations()}


@pytest.mark.parametrize(
    ("width", "media", "scheme"),
    [(PHONE, "screen", "light"), (DESK, "screen", "light"), (PHONE, "screen", "dark"), (PAPER, "print", "light")],
    ids=["phone", "desk", "dark", "paper"],
)
@pytest.mark.parametrize("name", ["daily", "weekly", "monthly", "backtest"])
def test_a_page_is_whole_and_accessible(
    pages: dict[str, Path], shots: Path, tmp_path: Path, name: str, width: int, media: str, scheme: str
) -> None:
    shot = shots / f"{name}-{media}-{scheme}-{width}.png"
    found = asyncio.run(look(pages[name], tmp_path, shot, width, media, scheme))
    assert found["axe"] == []
    assert found[OVERFLOW] <= 0, "the page scrolls sideways"
    assert found[EMPTY] == 0, "a figure is empty"
    assert found[UNTITLED] == 0, "a figure has no title"
    assert found[LOADED] == 0, "the page fetches something"
    assert found[UNFIT] == []
    headings = found[HEADINGS]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    if media == "print" and name != "backtest":
        assert found[CUT_OFF] == 0, "a table is cut off on paper"
