"""How late a record is: told by its own partition's order, the same in every run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.panes import NO_MARK, Timeliness, pane_start, timeliness

GRACE_MS, LATENESS_MS = 60, 600
ON_TIME, WELCOME, LATE = Timeliness


def classes(times: list[int], mark: int = NO_MARK) -> tuple[list[int], int]:
    found, after = timeliness(np.array(times, np.int64), mark, GRACE_MS, LATENESS_MS)
    return found.tolist(), after


@pytest.mark.parametrize(
    ("time_ms", "start_ms"),
    [(0, 0), (59_999, 0), (60_000, 60_000), (-1, -60_000), (-60_000, -60_000), (2**47, 140_737_488_300_000)],
)
def test_panes_are_aligned_to_the_epoch(time_ms: int, start_ms: int) -> None:
    assert pane_start(time_ms, 60_000) == start_ms


@pytest.mark.parametrize(
    ("behind", "expected"), [(0, ON_TIME), (60, ON_TIME), (61, WELCOME), (600, WELCOME), (601, LATE), (10**9, LATE)]
)
def test_the_grace_and_the_lateness_are_still_within(behind: int, expected: Timeliness) -> None:
    assert classes([1_000_000, 1_000_000 - behind])[0] == [ON_TIME, expected]


def test_the_first_record_of_a_model_is_on_time_whatever_its_date() -> None:
    assert classes([0]) == ([ON_TIME], 0)
    assert classes([-(2**45)]) == ([ON_TIME], -(2**45))


def test_a_record_moves_the_mark_before_it_is_held_against_it() -> None:
    # times   1000   2000   1939   1940   3000   2000
    # mark    1000   2000   2000   2000   3000   3000
    assert classes([1_000, 2_000, 1_939, 1_940, 3_000, 2_000]) == (
        [ON_TIME, ON_TIME, WELCOME, ON_TIME, ON_TIME, LATE],
        3_000,
    )


def test_a_late_record_does_not_move_the_mark_back() -> None:
    assert classes([5, 4, 3], mark=10_000) == ([LATE] * 3, 10_000)


def test_nothing_leaves_the_mark_where_it_was() -> None:
    assert classes([], mark=7) == ([], 7)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=40), st.integers(0, 40), st.integers(-(10**6), 10**6))
def test_a_batch_may_be_cut_anywhere(times: list[int], cut: int, mark: int) -> None:
    whole, after = classes(times, mark)
    first, between = classes(times[:cut], mark)
    second, last = classes(times[cut:], between)
    assert (first + second, last) == (whole, after)


@given(st.lists(st.integers(-1_000, 1_000), min_size=1, max_size=40))
def test_it_is_what_a_plain_loop_says(times: list[int]) -> None:
    mark, expected = NO_MARK, []
    for time in times:
        mark = max(mark, time)
        expected.append(ON_TIME if mark - time <= GRACE_MS else WELCOME if mark - time <= LATENESS_MS else LATE)
    assert classes(times) == (expected, mark)
