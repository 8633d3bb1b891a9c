"""The pane cursor skips no pane that holds something, evaluates a silence in bounded steps, and never goes back."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice, pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from streams.pane_cursor import MAX_EMPTY_PANES, PaneCursor

PANE_MS = 1_000
FAR = 10**9
"""A silence of this many panes must cost what a short one costs."""

gaps = st.lists(st.one_of(st.integers(1, 12), st.just(FAR)), min_size=1, max_size=8)
cursors = st.builds(PaneCursor, st.just(PANE_MS), st.integers(0, 6).map(lambda panes: panes * PANE_MS), st.booleans())


def held_by(gaps: list[int]) -> list[int]:
    """Starts of the panes that hold something, from their distances in panes."""
    return [PANE_MS * sum(gaps[:at]) for at in range(1, len(gaps) + 1)]


def closed(cursor: PaneCursor, held: Collection[int], position_ms: int, last_ms: int) -> Iterator[int]:
    """The panes that an evaluation closes when nothing holds it up."""
    while (start := cursor.next_start(position_ms, held, last_ms)) is not None:
        yield start
        position_ms = start + cursor.pane_ms


def all_closed(cursor: PaneCursor, gaps: list[int]) -> list[int]:
    held = held_by(gaps)
    return list(islice(closed(cursor, held, held[0], held[0]), 10_000))


@given(cursors, gaps)
def test_every_pane_that_holds_something_is_closed(cursor: PaneCursor, gaps: list[int]) -> None:
    assert set(held_by(gaps)) <= set(all_closed(cursor, gaps))


@given(cursors, gaps)
def test_no_step_goes_back(cursor: PaneCursor, gaps: list[int]) -> None:
    assert all(later - earlier >= PANE_MS for earlier, later in pairwise(all_closed(cursor, gaps)))


@given(cursors, gaps)
@example(PaneCursor(PANE_MS, 0), [1, FAR])
def test_a_silence_costs_as_many_panes_as_a_window_reaches_into_it(cursor: PaneCursor, gaps: list[int]) -> None:
    reach = cursor.longest_window_ms // PANE_MS + MAX_EMPTY_PANES
    silences = [min(gap - 1, reach) for gap in gaps[1:]] + [reach * cursor.evaluates_open_silence]
    assert len(all_closed(cursor, gaps)) == len(gaps) + sum(silences)


@given(cursors, gaps, st.data())
def test_from_any_position_it_goes_on_as_if_it_had_never_stopped(
    cursor: PaneCursor, gaps: list[int], data: st.DataObject
) -> None:
    held, whole = held_by(gaps), all_closed(cursor, gaps)
    stop = data.draw(st.integers(1, len(whole)))
    position_ms = whole[stop - 1] + PANE_MS
    assert list(closed(cursor, held, position_ms, held[0])) == whole[stop:]
    # A restart may hold no pane of before: the state says which of them was the last one that held something.
    last_ms = max(at for at in held if at < position_ms)
    kept = [at for at in held if at >= position_ms]
    assert list(closed(cursor, kept, position_ms, last_ms)) == whole[stop:]


@given(cursors, gaps, st.integers(0, 30))
def test_panes_that_come_later_are_closed_where_they_lie(cursor: PaneCursor, gaps: list[int], ahead: int) -> None:
    """Steps that were taken before anything was known of a later pane are those that are taken with it."""
    *known, _ = held = held_by([*gaps, ahead + 1])
    patient = replace(cursor, evaluates_open_silence=False)
    before = list(closed(patient, known, held[0], held[0]))
    after = list(islice(closed(patient, held, held[0], held[0]), 10_000))
    assert after[: len(before)] == before and after[-1] == held[-1]
