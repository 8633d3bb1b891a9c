"""Partials that their topic does not take: divided by models, or one model is held back and the others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.fit import HEAD_BYTES, fitted, is_divisible, without
from streams.judge_model import Outcome
from streams.partial import BooksPartial, PanePartial, Partial, pack, unpack
from streams.records import Records
from streams.source import SourceFold
from tests.unit.test_parking import BAD, GOOD, MINUTE_MS, MINUTES, START_MS, judge, plan, published, stream


@cache
def steps() -> list[list[Partial]]:
    """What stage 1 publishes of a stream of two models in one bucket, publication by publication."""
    fold, found = SourceFold(plan(), "inference", 0, None, START_MS), list[list[Partial]]()
    values = stream()["events"]
    for at in range(0, len(values), 60):
        part = values[at : at + 60]
        records = Records(range(at, at + len(part)), [START_MS + MINUTES * MINUTE_MS] * len(part), part)
        for step in (*fold.take(records, START_MS), fold.publish(START_MS, caught_up=False)):
            found.append(list(step.partials))
    return found


def judged(publications: Iterable[Iterable[tuple[bytes, bytes]]]) -> list[Outcome]:
    ours, outcomes = judge(), list[Outcome]()
    for publication in publications:
        for key, value in publication:
            ours.apply(unpack(value, key), key)
        outcomes += ours.advance()
    assert not ours.parking.models
    return outcomes


def divided(limits: Sequence[int], change: Callable[[list[Partial]], list[Partial]] = list) -> list[Any]:
    """The publications, each under the next of the limits."""
    found = []
    for number, partials in enumerate(steps()):
        limit = limits[number % len(limits)]
        found.append([record[:2] for item in change(partials) for record in fitted(item, "w", limit)])
    return found


def whole() -> list[Outcome]:
    return judged(divided([1 << 30]))


def test_what_fits_is_one_record_as_it_always_was() -> None:
    for partial in (item for partials in steps() for item in partials):
        ((key, data, same),) = fitted(partial, "w", 1 << 30)
        assert same is partial and data == pack(partial, key)


@given(limit=st.integers(0, 20_000))
def test_a_divided_partial_holds_each_model_once_under_keys_of_their_own(limit: int) -> None:
    for partial in max(steps(), key=len):
        records = list(fitted(partial, "w", limit))
        assert len({key for key, _, _ in records}) == len(records)
        parts = [part for _, _, item in records for part in item.models]
        assert parts == partial.models
        for key, data, item in records:
            assert unpack(data, key) == item
            assert not is_divisible(item) or len(key) + len(data) + HEAD_BYTES <= limit


@pytest.mark.parametrize("limits", [[0], [1 << 30, 0], [0, 1 << 30, 0]], ids=["always", "later", "now and then"])
def test_divided_or_not_the_windows_and_actions_are_the_same(limits: list[int]) -> None:
    """Also where the limit changes in the midst of a chunk, so that a model moves from one record to another."""
    found = judged(divided(limits))
    for model in (BAD, GOOD):
        assert published(found, model) == published(whole(), model)
    assert sum(map(len, divided([0]))) > sum(map(len, divided([1 << 30])))


def test_a_model_that_is_held_back_is_not_judged_and_the_other_is_as_exact() -> None:
    found = judged(divided([1 << 30], lambda partials: without(partials, {BAD})))
    assert published(found, GOOD) == published(whole(), GOOD)
    assert not published(found, BAD)


def test_its_books_balance_and_say_that_nothing_was_counted() -> None:
    for partials in steps():
        for item in without(partials, {BAD}):
            if isinstance(item, BooksPartial):
                for part in item.models:
                    assert part.books.balanced()
                    if part.model == BAD:
                        assert part.books.counted == 0 and part.mark_ms is None
            assert not isinstance(item, PanePartial) or BAD not in {part.model for part in item.models}


def test_its_partition_is_not_taken_for_idle_however_long_it_is_silent() -> None:
    ours, day_ms = judge(), 86_400_000
    fold = SourceFold(plan(), "inference", 0, None, START_MS)
    values = stream()["events"]
    fold.take(Records(range(len(values)), [START_MS + MINUTES * MINUTE_MS] * len(values), values), START_MS)
    for clock_ms in (START_MS, START_MS + day_ms, START_MS + 2 * day_ms):
        for item in without(fold.publish(clock_ms, caught_up=True).partials, {BAD}):
            ours.apply(item)
    list(ours.advance())
    models = ours.merge.models
    assert ours.merge.watermark_ms(models[BAD]) is None and models[BAD].judged_until_ms is None
    assert models[GOOD].judged_until_ms is not None
