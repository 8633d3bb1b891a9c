"""However far a reader is behind a log that is being compacted, it publishes what it publishes of the whole log."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.compaction import CompactedLog
from streams.partial import unpack
from tests.faults.stream import MODEL
from tests.laws.test_labels_behind import batches, plan
from tests.laws.test_stage_two import Topics

Log = dict[int, tuple[bytes, bytes]]
"""By offset."""


@functools.cache
def written() -> Log:
    """What stage 1 writes of a labelled stream that it reads in small portions: every pane again and again."""
    records = [record for batch in batches(0, [(90, 90)] * 18) for record in batch]
    return dict(enumerate(records))


def compacted(log: Log, before: int) -> Log:
    """The log after the broker has compacted it up to an offset."""
    last = {key: offset for offset, (key, _) in log.items() if offset < before}
    return {offset: (key, value) for offset, (key, value) in log.items() if offset >= before or last[key] == offset}


def followed(whole: Log, seed: int, *, cautious: bool = True) -> Topics:
    """What a reader publishes that falls behind at random, while the log grows and is compacted."""
    rng, topics = random.Random(seed), Topics(plan(), MODEL)
    judge, position, end, log = topics.rebuilt(), 0, 0, dict[int, tuple[bytes, bytes]]()
    state = CompactedLog(0)
    while position < len(whole):
        grown = min(len(whole), end + rng.randrange(0, 250))
        log |= {offset: whole[offset] for offset in range(end, grown)}
        end = grown
        log = compacted(log, rng.randint(position, end))
        ahead = [offset for offset in log if offset >= position][: rng.randrange(1, 60)]
        position = ahead[-1] + 1 if ahead else end
        for offset in ahead:
            judge.merge.apply(unpack(log[offset][1]), log[offset][0])
        state.read(ahead, position, end)
        if state.is_whole or not cautious:
            for outcome in judge.advance():
                topics.publish(outcome)
    return topics


@settings(max_examples=3)
@given(st.integers(0, 2**32))
def test_a_reader_behind_compaction_publishes_what_the_whole_log_says(seed: int) -> None:
    whole = written()
    reference, found = followed_whole(), followed(whole, seed)
    assert {action.id for action in found.actions} == {action.id for action in reference.actions}
    assert found.final_windows() == reference.final_windows()


@functools.cache
def followed_whole() -> Topics:
    topics = Topics(plan(), MODEL)
    judge = topics.rebuilt()
    for key, value in written().values():
        judge.merge.apply(unpack(value), key)
    for outcome in judge.advance():
        topics.publish(outcome)
    return topics


def test_without_that_care_it_does_not() -> None:
    """The law above is about something: panes are judged whose records are gone, and whose newer ones are to come."""
    found = followed(written(), 2, cautious=False)
    assert found.final_windows() != followed_whole().final_windows()


@pytest.mark.parametrize(
    ("fetches", "expected"),
    [
        ([([0, 1, 2], 3, 10)], False),
        ([([0, 1, 2], 3, 3)], True),
        ([([0, 1, 2], 3, 3), ([3, 4], 5, 90)], True),
        ([([0, 1, 2], 3, 3), ([4], 5, 90)], False),
        ([([0, 1, 2], 3, 3), ([4], 5, 7), ([5, 6], 7, 90)], True),
        ([([0, 1, 2], 3, 3), ([], 9, 9)], True),
        ([([0, 1, 2], 3, 3), ([5], 6, 9), ([7], 8, 20), (list(range(8, 20)), 20, 30)], True),
    ],
)
def test_a_gap_makes_it_wait_for_the_end_that_the_log_had_then(
    fetches: list[tuple[list[int], int, int]], expected: bool
) -> None:
    log = CompactedLog(0)
    for offsets, position, end in fetches:
        log.read(offsets, position, end)
    assert log.is_whole is expected
