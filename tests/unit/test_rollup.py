"""Panes → hours, days and windows: a window is the union of its panes, whatever it was put together from."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.cells import Cells, Segmentation
from streams.duration import DAY_MS, HOUR_MS, parse_ms
from streams.rollup import Rollup, Unit, levels_ms, merged_cells
from streams.sketch.counts import Counts
from streams.sketch.profile import Profile

M = 60_000
START = 1_767_225_600_000  # midnight
SEGMENTATION = Segmentation.of({}, (), 2)


def cells(events: int, version: str = "1") -> Cells:
    return {(version, "", ""): Profile(Counts.of(np.array([events, 0, 0], np.int64)))} if events else {}


def events(found: Cells) -> int:
    return sum(int(profile.counts.dense()[0]) for profile in found.values())


def rollup_of(pane_ms: int, *overs: str) -> Rollup:
    return Rollup(pane_ms, tuple(parse_ms(over) for over in overs), SEGMENTATION)


def close(rollup: Rollup, start_ms: int, number: int) -> list[Unit]:
    """The units that end with a pane of so many events, when what no window needs is forgotten."""
    units = rollup.close(start_ms, cells(number))
    rollup.forget(start_ms + rollup.pane_ms)
    return units


def window(rollup: Rollup, end_ms: int, over: str) -> tuple[int, int, int]:
    """Start and end of the window that ends there, and its events."""
    start_ms, end_ms = rollup.span(end_ms, parse_ms(over))
    return start_ms, end_ms, events(rollup.window(start_ms, end_ms))


@pytest.mark.parametrize(
    ("pane_ms", "levels"),
    [
        (M, (M, HOUR_MS, DAY_MS)),
        (7 * M, (7 * M,)),
        (90 * M, (90 * M, DAY_MS)),
        (HOUR_MS, (HOUR_MS, DAY_MS)),
        (5 * HOUR_MS, (5 * HOUR_MS,)),
        (DAY_MS, (DAY_MS,)),
        (7 * DAY_MS, (7 * DAY_MS,)),
        (1_000, (1_000, HOUR_MS, DAY_MS)),
    ],
)
def test_panes_roll_up_where_they_divide(pane_ms: int, levels: tuple[int, ...]) -> None:
    assert levels_ms(pane_ms) == levels


@pytest.mark.parametrize(
    ("over", "ends", "starts"),
    [
        ("15m", "10:07", "09:52"),
        ("11h", "23:30", "12:30"),
        ("12h", "23:30", "11:00"),  # whole hours: 11:30 is rounded down
        ("12h", "23:00", "11:00"),
        ("13h", "23:59", "10:00"),
    ],
)
def test_a_windows_start_is_rounded_down_once_it_holds_twelve_of_a_larger_unit(
    over: str, ends: str, starts: str
) -> None:
    rollup = rollup_of(M, "13h")
    start_ms, end_ms = rollup.span(_at(ends), parse_ms(over))
    assert (start_ms, end_ms) == (_at(starts), _at(ends))


def _at(clock: str) -> int:
    hours, minutes = clock.split(":")
    return START + int(hours) * HOUR_MS + int(minutes) * M


CASES = {
    "minutes": (M, ("1m", "15m", "1h", "11h"), 14 * 60),
    "minutes, with hours": (M, ("5m", "12h", "13h"), 30 * 60),
    "quarters": (15 * M, ("15m", "1h", "12h", "1d", "3d"), 6 * 96),
    "quarters, with days": (15 * M, ("1h", "12d", "14d"), 17 * 96),
    "90 minutes": (90 * M, ("90m", "6h", "2d", "12d"), 18 * 16),
    "seven minutes": (7 * M, ("7m", "70m", "14h"), 260),
    "hours": (HOUR_MS, ("1h", "2h", "12h", "13d"), 18 * 24),
    "days": (DAY_MS, ("1d", "7d", "30d"), 70),
}


@pytest.mark.parametrize(("pane_ms", "overs", "panes"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("gaps", [False, True], ids=["busy", "with silences"])
def test_every_window_is_the_union_of_its_panes(pane_ms: int, overs: tuple[str, ...], panes: int, gaps: bool) -> None:
    rollup = rollup_of(pane_ms, *overs)
    counted = dict(_stream(pane_ms, panes, rollup.longest_ms if gaps else 0))
    for i, (start_ms, number) in enumerate(sorted(counted.items())):
        close(rollup, start_ms, number)
        for over in overs if i % 5 == 0 else ():
            first_ms, end_ms, found = window(rollup, start_ms + pane_ms, over)
            assert found == sum(counted.get(at, 0) for at in range(first_ms, end_ms, pane_ms))


def _stream(pane_ms: int, panes: int, longest_ms: int = 0) -> Iterator[tuple[int, int]]:
    """Pane by pane its events; with a length, two silences too, which are judged for that long and then skipped."""
    drawn, at = random.Random(panes), START + 17 * pane_ms
    for i in range(panes):
        yield at, drawn.choice((0, 1, 5, 30))
        at += pane_ms
        if longest_ms and i in (panes // 3, panes // 2):
            for _ in range(longest_ms // pane_ms + 4):
                yield at, 0
                at += pane_ms
            at += drawn.randrange(1, 60) * pane_ms


@pytest.mark.parametrize(("pane_ms", "overs", "panes"), CASES.values(), ids=CASES.keys())
def test_memory_is_a_matter_of_the_windows_not_of_the_stream(pane_ms: int, overs: tuple[str, ...], panes: int) -> None:
    rollup = rollup_of(pane_ms, *overs)
    largest = [
        (close(rollup, START + i * pane_ms, 1), sum(map(len, rollup.units.values())))[1] for i in range(3 * panes)
    ]
    assert max(largest[panes:]) <= max(largest[: 2 * panes])
    assert largest[-1] < panes * 1.2


def test_a_week_costs_no_more_than_its_roll_ups() -> None:
    """A week of minutes is 10,080 panes; of hours and the minutes that are open, a tenth."""
    rollup = rollup_of(M, "7d")
    for i in range(8 * 1_440):
        close(rollup, START + i * M, 1)
    assert sum(map(len, rollup.units.values())) < 1_100
    assert window(rollup, START + 8 * DAY_MS, "7d")[2] == 7 * 1_440


def test_hours_and_days_are_told_when_they_end() -> None:
    rollup = rollup_of(15 * M, "12d")
    found: list[Unit] = []
    for i in range(96):
        found += close(rollup, START + i * 15 * M, 1)
    assert [(unit.level_ms, unit.start_ms) for unit in found] == [
        *((HOUR_MS, START + hour * HOUR_MS) for hour in range(24)),
        (DAY_MS, START),
    ]
    assert [events(unit.cells) for unit in found] == [4] * 24 + [96]


def test_levels_that_no_window_is_made_of_are_not_kept() -> None:
    assert rollup_of(M, "15m").levels == (M,)
    assert rollup_of(M, "12h").levels == (M, HOUR_MS)
    assert rollup_of(M).levels == (M,)


@pytest.mark.parametrize(("pane_ms", "overs", "panes"), CASES.values(), ids=CASES.keys())
def test_a_restart_anywhere_gives_the_windows_of_before(pane_ms: int, overs: tuple[str, ...], panes: int) -> None:
    """What is restored: the units that were told of, and the panes that are as young as the longest window."""
    stream = list(_stream(pane_ms, panes))
    rollup, units = rollup_of(pane_ms, *overs), {}
    for i, (start_ms, number) in enumerate(stream):
        units |= {unit.id: unit for unit in close(rollup, start_ms, number)}
        if i % 197:
            continue
        kept = rollup.finished()
        units = {key: unit for key, unit in units.items() if key in kept}
        again = rollup_of(pane_ms, *overs)
        for unit in units.values():
            again.restore(unit)
        for at, young in stream[: i + 1]:
            if at >= start_ms - rollup.longest_ms - 4 * pane_ms:
                close(again, at, young)
        for over in overs:
            assert window(again, start_ms + pane_ms, over) == window(rollup, start_ms + pane_ms, over)


def test_units_of_panes_that_will_be_judged_again_are_made_again() -> None:
    """Units are published before the state: a restart may find one that is ahead of it."""
    rollup = rollup_of(15 * M, "12h")
    for hour in range(3):
        rollup.restore(Unit(HOUR_MS, START + hour * HOUR_MS, cells(9)))
    rollup.drop_after(START + 2 * HOUR_MS + 45 * M)
    assert rollup.finished() == {("", HOUR_MS, START), ("", HOUR_MS, START + HOUR_MS)}
    assert [events(unit.cells) for unit in rollup.close(START + 2 * HOUR_MS + 45 * M, cells(4))] == [4]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9)), max_size=12), st.randoms(use_true_random=False)
)
def test_a_union_is_the_same_in_any_order_and_keeps_every_event(
    parts: list[tuple[str, int]], drawn: random.Random
) -> None:
    made = [cells(number, version) for version, number in parts]
    before = [[(key, events({key: profile})) for key, profile in part.items()] for part in made]
    union = merged_cells(made, SEGMENTATION)
    shuffled = merged_cells(drawn.sample(made, len(made)), SEGMENTATION)
    assert {key: events({key: profile}) for key, profile in union.items()} == {
        key: events({key: profile}) for key, profile in shuffled.items()
    }
    assert events(union) == sum(number for _, number in parts)
    assert len({version for version, _, _ in union} - {"__other__"}) <= 2
    assert [[(key, events({key: profile})) for key, profile in part.items()] for part in made] == before
