"""Stream time is what the records of a partition agree on: no record, and no clock that is ahead, moves it."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.arrays import Ints
from streams.panes import NO_MARK, Timeliness, timeliness
from streams.stream_time import MAX_VOTES, MIN_VOTES, SKEW_MS, StreamTime
from tests.plain_time import PlainTime

MINUTE_MS = 60_000
GRACE_MS, LATENESS_MS = MINUTE_MS, 30 * MINUTE_MS
START_MS = 1_767_225_600_000
MOST_AHEAD_MS = 59 * MINUTE_MS


def taken(times_ms: list[int] | Ints, batches: list[int] | None = None) -> tuple[list[int], StreamTime]:
    """The marks, in batches of these sizes, and what is kept; between batches it goes through its bytes."""
    state, marks, rest = StreamTime(), [], np.array(times_ms, np.int64)
    for size in [*(batches or []), len(rest)]:
        marks += state.take(rest[:size], GRACE_MS).tolist()
        state, rest = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=StreamTime), rest[size:]
    return marks, state


def classes(times_ms: Ints) -> Ints:
    return timeliness(times_ms, np.array(taken(times_ms)[0], np.int64), GRACE_MS, LATENESS_MS)


@st.composite
def honest(draw: st.DrawFn, least: int = 2_000, most: int = 6_000) -> Ints:
    """A stream of 1 to 100 records a second, in order but for some that are late, with a pause."""
    drawn = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, gap_ms = draw(st.integers(least, most)), draw(st.sampled_from((10, 50, 200, 1_000)))
    times = START_MS + np.cumsum(drawn.integers(0, 2 * gap_ms, n))
    if draw(st.booleans()):
        times[draw(st.integers(0, n)) :] += draw(st.sampled_from((90_000, 3_600_000, 8 * 3_600_000)))
    if draw(st.booleans()):
        late = drawn.random(n) < 0.05
        late[:500] = False
        times[late] -= drawn.integers(5 * MINUTE_MS, 40 * MINUTE_MS, int(late.sum()))
    return times


@settings(max_examples=60)
@given(honest(), st.floats(0, 0.4), st.integers(2, MOST_AHEAD_MS // MINUTE_MS), st.booleans(), st.data())
def test_records_that_are_ahead_change_the_class_of_no_other(
    times: Ints, share: float, most_min: int, as_one: bool, data: st.DataObject
) -> None:
    """One replica's clock, or each record by itself; from the start, from some point, in runs as a producer sends."""
    drawn = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    since = data.draw(st.sampled_from((0, 0, len(times) // 2)))
    dense = since > 0 and times[since] - times[0] < since * 30 and times[-1] - times[since] < since * 30
    run = data.draw(st.sampled_from((1, 3, 20 if dense else 1)))
    ahead = np.repeat(drawn.random(len(times) // run + 1) < share, run)[: len(times)]
    ahead[:since] = False
    shift = most_min * MINUTE_MS if as_one else drawn.integers(0, most_min * MINUTE_MS, len(times))
    shifted = np.where(ahead, times + shift, times)
    highest = np.maximum.accumulate(times)
    assert (np.array(taken(shifted)[0]) <= highest + GRACE_MS).all()
    found, alone = classes(shifted)[~ahead], classes(times[~ahead])
    behind = (highest - times)[~ahead]
    assert (found[behind == 0] == 0).all() and (alone[behind == 0] == 0).all()
    assert (found <= timeliness(times, highest + GRACE_MS, GRACE_MS, LATENESS_MS)[~ahead]).all()


@given(honest(100, 1_500), st.lists(st.integers(0, 700), max_size=12), st.integers(0, 10**6))
def test_batches_and_restarts_change_nothing(times: Ints, batches: list[int], seed: int) -> None:
    drawn = np.random.default_rng(seed)
    times = np.where(drawn.random(len(times)) < 0.1, times + drawn.integers(0, MOST_AHEAD_MS, len(times)), times)
    assert taken(times, batches) == taken(times)
    steps, state = [], StreamTime()
    for time_ms in times.tolist():
        steps.append(state.step(time_ms, GRACE_MS))
    assert (steps, state) == taken(times)
    plain = PlainTime(GRACE_MS)
    assert [plain.after(time_ms) for time_ms in times.tolist()] == steps


@settings(max_examples=60)
@given(honest(), st.integers(1, 2_000), st.integers(0, 10**6))
def test_in_a_dense_stream_the_mark_is_the_highest_time(times: Ints, at: int, seed: int) -> None:
    times = START_MS + (times - START_MS) // 100  # a hundred times as dense
    marks = taken(times)[0]
    highest = np.maximum.accumulate(times)
    assert (np.array(marks) <= highest).all()
    gap = np.flatnonzero(np.diff(highest) > GRACE_MS)
    if not len(gap):
        assert (np.array(marks)[200:] == highest[200:]).all()


@pytest.mark.parametrize("ahead_ms", [2 * MINUTE_MS, MOST_AHEAD_MS, 10**12])
@pytest.mark.parametrize("at", [0, 1, 47, 48, 5_000])
def test_one_record_moves_nothing(at: int, ahead_ms: int) -> None:
    """At the very start an hour is the most that it may be ahead."""
    if at < MIN_VOTES and ahead_ms > SKEW_MS:
        return
    times = START_MS + 100 * np.arange(10_000)
    marks = taken(np.insert(times, at, times[at] + ahead_ms))[0]
    expected = taken(times)[0]
    assert marks[at + 1 + 2 * MIN_VOTES :] == expected[at + 2 * MIN_VOTES :]


def test_after_a_pause_the_mark_follows_when_enough_records_agree() -> None:
    times = np.concatenate([START_MS + 100 * np.arange(3_000), START_MS + 10**8 + 100 * np.arange(1_000)])
    marks = taken(times)[0]
    assert marks[2_999] == times[2_999] and marks[3_040] == times[2_999]
    assert marks[3_100] == times[3_100] and marks[-1] == times[-1]


def test_a_slow_stream_follows_within_so_many_records() -> None:
    times = START_MS + 5 * MINUTE_MS * np.arange(500)
    marks = np.array(taken(times)[0])
    assert (marks[200:] >= times[200:] - 5 * MINUTE_MS * (2 * MIN_VOTES + 1)).all()
    assert (classes(times) == 0).all()


def test_what_is_much_older_than_the_first_records_is_late() -> None:
    marks, state = taken([START_MS, 0, START_MS + 1])
    assert marks == [START_MS - SKEW_MS, START_MS - SKEW_MS, START_MS + 1 - SKEW_MS]
    assert state.base_ms == NO_MARK and state.candidate_ms == START_MS


def test_a_mark_of_an_older_release_goes_on() -> None:
    state = StreamTime.at(START_MS)
    assert state.take(np.array([START_MS - 5, START_MS + 5]), GRACE_MS).tolist() == [START_MS, START_MS + 5]
    assert StreamTime.at(NO_MARK) == StreamTime()


def test_those_that_were_ahead_are_counted_and_those_that_were_right_are_not() -> None:
    drawn = random.Random(1)
    times = [START_MS + 100 * number for number in range(5_000)]
    ahead = [at for at in range(1_000, 4_900) if drawn.random() < 0.1]
    for at in ahead:
        times[at] += MOST_AHEAD_MS
    assert taken(times)[1].ahead == pytest.approx(len(ahead), rel=0.01)
    assert taken([START_MS + MINUTE_MS * 10 * number for number in range(200)])[1].ahead == 0


@pytest.mark.parametrize("a_minute", [*range(6, 120, 6), 600])
def test_no_record_of_a_stream_in_order_is_ahead_however_slow_it_is(a_minute: int) -> None:
    """Of those that wait for votes at the end of a grace, all turn out to be right."""
    times = [START_MS + MINUTE_MS * number // a_minute for number in range(3_000)]
    assert taken(times, [700, 700])[1].ahead == 0
    times[2_000] += MOST_AHEAD_MS
    assert taken(times, [700, 700])[1].ahead == (1 if a_minute > 100 else pytest.approx(0, abs=1))


def with_slow_clocks(records: int, share: float, behind_ms: int, seed: int) -> tuple[Ints, Ints]:
    """Twenty graces of so many records each: their times, and which of them have a slow clock."""
    n = 20 * records
    slow = np.random.default_rng(seed).random(n) < share
    slow[: n // 4] = False
    return START_MS + np.arange(n, dtype=np.int64) * GRACE_MS // records - np.where(slow, behind_ms, 0), slow


@pytest.mark.parametrize(("records", "share"), [(100, 0.05), (300, 0.15), (600, 0.2), (2_000, 0.2), (8_000, 0.25)])
@pytest.mark.parametrize("behind_min", [3, 11, 59])
def test_clocks_that_are_behind_hold_nothing_up_while_they_write_few_records(
    records: int, share: float, behind_min: int
) -> None:
    for seed in range(5):
        times, slow = with_slow_clocks(records, share, behind_min * MINUTE_MS, seed)
        found = classes(times)
        assert (found[~slow] == Timeliness.ON_TIME).all() and (found[slow] != Timeliness.ON_TIME).all()


@pytest.mark.parametrize("records", [100, 600, 2_000])
@pytest.mark.parametrize("share", [0.3, 0.4, 0.6])
def test_stream_time_may_go_with_clocks_that_are_behind_but_the_other_records_are_on_time(
    records: int, share: float
) -> None:
    """No further back than they are and the votes take, and as plain arithmetic has it, one record after the other."""
    behind_ms, voting_ms = 11 * MINUTE_MS, 2 * MAX_VOTES * GRACE_MS // records
    times, slow = with_slow_clocks(records, share, behind_ms, 1)
    marks, plain = np.array(taken(times)[0]), PlainTime(GRACE_MS)
    assert marks.tolist() == [plain.after(time_ms) for time_ms in times.tolist()]
    assert (classes(times)[~slow] == Timeliness.ON_TIME).all()
    highest = np.maximum.accumulate(times)
    assert (marks <= highest).all() and (np.diff(marks) >= 0).all()
    assert (marks >= highest - behind_ms - GRACE_MS - voting_ms)[len(times) // 4 :].all()
    assert share < 1 / 3 or (classes(times)[slow][-10:] == Timeliness.ON_TIME).all()
