"""What is retained as units comes through a restart: restored, cut at what was evaluated, and closed again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.baseline import WHOLE
from streams.cells import Cells, Segmentation
from streams.duration import HOUR_MS
from streams.facts.history import History
from streams.predictions import Predictions
from streams.rollup import Retained, Rollup, Unit, UnitId
from streams.seen import Seen
from streams.sketch.counts import Counts
from streams.sketch.layout import ERROR_SLOT, OK_SLOT
from streams.sketch.profile import Profile
from streams.state import pack_unit

PANE_MS = 15 * 60_000
PER_HOUR = HOUR_MS // PANE_MS
SEGMENTATION = Segmentation((), (), 8)
KINDS: dict[str, Callable[[], Retained]] = {
    "": lambda: Rollup(PANE_MS, (12 * HOUR_MS,), SEGMENTATION),
    "feedback": lambda: History(PANE_MS, 12 * HOUR_MS, HOUR_MS, SEGMENTATION, stream="feedback"),
    "predictions": lambda: Predictions(PANE_MS, HOUR_MS, reach_ms=3 * HOUR_MS),
    "seen": lambda: Seen(PANE_MS, 12 * HOUR_MS),
}
kinds = pytest.mark.parametrize("kind", KINDS)
counts = st.lists(st.integers(0, 9), min_size=1, max_size=12 * PER_HOUR)


def cells(events: int) -> Cells:
    vector = np.zeros(max(OK_SLOT, ERROR_SLOT) + 1, np.int64)
    vector[OK_SLOT] = events
    return {("1", *WHOLE): Profile(Counts.of(vector))}


def closed(retained: Retained, panes: list[int], first: int = 0) -> list[Unit]:
    """The units that end with the panes from number `first` on."""
    return [unit for at in range(first, len(panes)) for unit in retained.close(at * PANE_MS, cells(panes[at]))]


def written(units: list[Unit]) -> list[bytes]:
    return [pack_unit("m", unit) for unit in units]


@kinds
@settings(max_examples=30)
@given(counts, st.data())
def test_units_that_end_after_what_was_evaluated_are_made_again_byte_for_byte(
    kind: str, panes: list[int], data: st.DataObject
) -> None:
    units = closed(KINDS[kind](), panes)
    evaluated = data.draw(st.integers(0, len(panes)))
    again = KINDS[kind]()
    for unit in units:
        again.restore(unit)
    again.drop_after(evaluated * PANE_MS)
    first = evaluated // PER_HOUR * PER_HOUR  # the panes of the hour that has not ended come from the log
    remade = [unit for unit in closed(again, panes, first) if unit.start_ms + unit.level_ms > evaluated * PANE_MS]
    assert written(remade) == written([u for u in units if u.start_ms + u.level_ms > evaluated * PANE_MS])


@kinds
def test_what_is_forgotten_is_said_once_and_was_a_unit(kind: str) -> None:
    retained, units, gone = KINDS[kind](), set[UnitId](), list[UnitId]()
    for at in range(60 * 24 * PER_HOUR):
        units |= {unit.id for unit in retained.close(at * PANE_MS, cells(1))}
        gone += retained.forget((at + 1) * PANE_MS)
    assert gone and len(gone) == len(set(gone)) and set(gone) < units
    assert {stream for stream, _, _ in units} == {retained.stream} == {kind}
