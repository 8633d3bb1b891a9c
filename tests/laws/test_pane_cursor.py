"""The pane cursor skips no pane that holds something, evaluates a silence in bounded steps, and never goes back."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice, pairwise

import pytest
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
    assert list(islice(closed(cursor, held, position_ms, held[0]), 10_000)) == whole[stop:]
    # A restart may hold no pane of before: the state says which of them was the last one that held something.
    last_ms = max(at for at in held if at < position_ms)
    kept = [at for at in held if at >= position_ms]
    assert list(islice(closed(cursor, kept, position_ms, last_ms), 10_000)) == whole[stop:]


@given(cursors, gaps, st.integers(0, 30))
def test_panes_that_come_later_are_closed_where_they_lie(cursor: PaneCursor, gaps: list[int], ahead: int) -> None:
    """Steps that were taken before anything was known of a later pane are those that are taken with it."""
    *known, _ = held = held_by([*gaps, ahead + 1])
    patient = replace(cursor, evaluates_open_silence=False)
    before = list(islice(closed(patient, known, held[0], held[0]), 10_000))
    after = list(islice(closed(patient, held, held[0], held[0]), 10_000))
    assert after[: len(before)] == before and after[-1] == held[-1]


@given(cursors, gaps, st.integers(1, 40))
def test_panes_are_given_as_far_as_they_have_ended(cursor: PaneCursor, gaps: list[int], panes: int) -> None:
    held = held_by(gaps)
    until_ms, position = held[0] + panes * PANE_MS - 1, [held[0]]
    given_starts = []
    for start_ms in cursor.starts(until_ms, lambda: position[0], lambda: held, held[0]):
        given_starts.append(start_ms)
        position[0] = start_ms + PANE_MS
    assert given_starts == [start for start in all_closed(cursor, gaps) if start + PANE_MS <= until_ms]


@given(cursors, gaps)
def test_a_pane_that_was_taken_and_not_evaluated_is_an_error(cursor: PaneCursor, gaps: list[int]) -> None:
    held = held_by(gaps)
    starts = cursor.starts(held[-1] + PANE_MS, lambda: held[0], lambda: held, held[0])
    assert next(starts) == held[0]
    with pytest.raises(RuntimeError, match=f"the pane at {held[0]} was taken and not evaluated"):
        next(starts)


def test_nothing_is_given_before_anything_is_known() -> None:
    assert list(PaneCursor(PANE_MS, 0).starts(FAR, lambda: None, lambda: (), 0)) == []
