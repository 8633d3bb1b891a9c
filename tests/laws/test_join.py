"""The label join under every interleaving, repeat, correction, crash and rebuild: the same outcomes, to the count."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.chunk import Step
from streams.config import bucket_of
from streams.join import recovery
from streams.join.cells import View
from streams.join.fold import JoinFold
from streams.join.recovery import META_KEY, unpack_meta
from streams.judge import BucketJudge
from streams.merge import BucketMerge
from streams.partial import CellKey, LabelBooks, Partial
from streams.progress import Progress
from streams.signals.evaluate import Judge
from streams.signals.outcome import OutcomeJudge
from streams.signals.result import Window
from streams.sketch.outcomes import CHANGES, JOINED, PREDICTIONS, RECEIVED
from streams.source import SourceFold
from streams.state import ModelState
from streams.store import Changes, MemoryStore
from tests.closing import closed_events, closed_labels
from tests.join_cases import (
    DECODER,
    HORIZON_MS,
    PLAN,
    TOPIC,
    Event,
    Reader,
    Told,
    actions,
    cohorts_of,
    labels_taken_back,
    logs,
    perform,
    records,
    simply,
)
from tests.plain_time import without_votes
from tests.strategies import CLOCK_MS, MINUTE_MS, START_MS


@pytest.fixture(autouse=True, scope="module")
def _few_records() -> Iterator[None]:
    """The drawn streams are short, and hold late records all the same."""
    with without_votes():
        yield


@settings(max_examples=300)
@given(logs(), actions)
def test_the_order_of_the_two_topics_and_crashes_leave_no_trace(
    both: tuple[list[Event], list[Told]], schedule: list[tuple[str, int]]
) -> None:
    plain, other = Reader(*both), Reader(*both)
    plain.finish()
    perform(other, schedule)
    assert other.found() == plain.found()


@settings(max_examples=200)
@given(logs(), actions, actions)
def test_a_join_that_goes_on_from_what_was_published_leaves_no_trace(
    both: tuple[list[Event], list[Told]], before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    """The store is lost, and all records that the publications cover are still there: none of them counts again."""
    plain, other = Reader(*both), Reader(*both)
    plain.finish()
    perform(other, before, finish=False)
    other.lose()
    perform(other, after)
    assert other.found() == plain.found()
    assert all(books.balanced() for books in other.fold.meta.books.values())


@settings(max_examples=200)
@given(logs(), actions, actions, st.floats(0, 1), st.floats(0, 1))
def test_what_was_published_is_not_replaced_by_less_when_the_logs_forgot_what_a_lost_store_held(
    both: tuple[list[Event], list[Told]],
    before: list[tuple[str, int]],
    after: list[tuple[str, int]],
    events_gone: float,
    labels_gone: float,
) -> None:
    plain, other = Reader(*both), Reader(*both)
    plain.finish()
    perform(other, before, finish=False)
    stood = cohorts_of(other)
    covered = max((item.covered for item in other.sent), default=(0, 0))
    other.lose((int(events_gone * covered[0]), int(labels_gone * covered[1])))
    perform(other, after)
    whole, found = cohorts_of(plain), cohorts_of(other)
    for place, vector in stood.items():
        assert vector[PREDICTIONS] <= found[place][PREDICTIONS] == whole[place][PREDICTIONS]
    assert all(vector.min() >= 0 for vector in found.values())
    assert all(books.balanced() for books in other.fold.meta.books.values())


@settings(max_examples=200)
@given(logs(), actions, actions, actions, st.floats(0, 1), st.floats(0, 1))
def test_what_was_published_is_not_replaced_by_less_when_the_logs_forgot_what_an_old_store_did_not_hold(
    both: tuple[list[Event], list[Told]],
    before: list[tuple[str, int]],
    elsewhere: list[tuple[str, int]],
    after: list[tuple[str, int]],
    events_gone: float,
    labels_gone: float,
) -> None:
    """The partition was with another worker for a while, and comes back to the store that it was left with."""
    plain, other = Reader(*both), Reader(*both)
    plain.finish()
    perform(other, before, finish=False)
    other.commit()
    store = copy.deepcopy(other.store)
    perform(other, elsewhere, finish=False)
    other.commit()
    stood, covered = cohorts_of(other), other.fold.covered
    other.move_back(store, (int(events_gone * covered[0]), int(labels_gone * covered[1])))
    perform(other, after)
    whole, found = cohorts_of(plain), cohorts_of(other)
    for place, vector in stood.items():
        assert vector[PREDICTIONS] <= found[place][PREDICTIONS] == whole[place][PREDICTIONS]
        assert vector[JOINED] <= found[place][JOINED] or labels_taken_back(both[1])
    assert all(vector.min() >= 0 for vector in found.values())
    assert all(books.balanced() for books in other.fold.meta.books.values())
    assert other.fold.lost_labels == 0


@settings(max_examples=200)
@given(logs(), actions, st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_labels_that_were_gone_before_they_were_read_are_lost_and_no_others(
    both: tuple[list[Event], list[Told]],
    before: list[tuple[str, int]],
    events_gone: float,
    labels_gone: float,
    store_lost: bool,
) -> None:
    reader = Reader(*both)
    perform(reader, before, finish=False)
    store, read = reader.store, reader.store.get_many([META_KEY])[0]
    covered = unpack_meta(read).covered.labels if read else 0
    if store_lost:  # then what was published says what was read
        store, covered = MemoryStore(), max((item.covered for item in reader.sent), default=(0, 0))[1]
    starts = int(events_gone * len(both[0])), int(labels_gone * len(both[1]))
    reader.move_back(store, starts)
    assert reader.fold.lost_labels == max(0, starts[1] - covered)


@settings(max_examples=300)
@given(logs(), actions)
def test_cohorts_are_those_of_the_batch_computation(
    both: tuple[list[Event], list[Told]], schedule: list[tuple[str, int]]
) -> None:
    reader = Reader(*both)
    perform(reader, schedule)
    found = {}
    for (place, key), vector in reader.found()[0].items():
        if place[0] is View.COHORT:
            vector[CHANGES] = 0
            if any(vector):
                found[place, key] = vector
    assert found == simply(*both)


@given(logs())
def test_the_label_books_balance(both: tuple[list[Event], list[Told]]) -> None:
    reader = Reader(*both)
    reader.finish()
    total = LabelBooks()
    for books in reader.fold.meta.books.values():
        assert books.balanced()
        total = total.merged(books)
    shared = sum(
        max(0, len({e.model for e in both[0] if e.event_id == told.event_id}) - 1) for told in both[1] if not told.model
    )
    assert len(both[1]) <= total.read <= len(both[1]) + shared


@given(logs())
def test_what_arrived_and_what_stands_agree_where_nothing_was_corrected(both: tuple[list[Event], list[Told]]) -> None:
    events = [event for event in both[0] if event.model == "alpha"]
    once = {told.event_id: told for told in reversed(both[1]) if told.label is not None}
    reader = Reader(sorted(events, key=lambda event: event.ts_ms), sorted(once.values(), key=lambda told: told.ts_ms))
    reader.finish()
    for (view, model, start_ms), cells in reader.fold.cells.vectors.items():
        if view is View.ARRIVED:
            standing = reader.fold.cells.vectors.get((View.STANDING, model, start_ms), {})
            for key, vector in cells.items():
                vector[[RECEIVED, JOINED, CHANGES]] = 0
                assert not vector.any() or (vector <= standing[key]).all()


def test_a_store_of_another_plan_is_cleared_and_a_crash_in_between_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = [Event(str(i), "alpha", START_MS + i * 1_000, "north", 0.5) for i in range(8)]
    reader = Reader(events, [Told(str(i), 1.0, START_MS + i * 2_000) for i in range(4)])
    reader.finish()
    other = replace(PLAN, models={"alpha": replace(PLAN.models["alpha"], horizon_ms=2 * HORIZON_MS)})
    monkeypatch.setattr(recovery, "MAX_CLEARED", 3)
    write, left = reader.store.write, [2]

    def dying(changes: Changes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError
        write(changes)

    monkeypatch.setattr(reader.store, "write", dying)
    with pytest.raises(OSError):
        JoinFold(other, TOPIC, 0, reader.store, CLOCK_MS)
    monkeypatch.setattr(reader.store, "write", write)
    opened = JoinFold(other, TOPIC, 0, reader.store, CLOCK_MS)
    assert opened.covered == (0, 0) and not opened.cells.vectors
    opened.commit(0, CLOCK_MS)
    assert len(list(reader.store.scan(b""))) == 1


def test_a_past_that_is_replayed_in_minutes_has_its_labels_minutes_later() -> None:
    """Predictions stay for a while by the clock, though the events have long passed their horizon."""
    minutes = 10 * MINUTE_MS
    events = [
        Event("old", "alpha", START_MS, "north", 0.5),
        Event("new", "alpha", START_MS + 9 * HORIZON_MS, None, 0.5),
    ]
    told = Told("old", 1.0, START_MS + MINUTE_MS)
    matched = {}
    for later_ms in (minutes - 1, minutes):
        join = JoinFold(PLAN, TOPIC, 0, MemoryStore(), CLOCK_MS, patience_ms=minutes)
        join.caught_up_ms = CLOCK_MS
        given = records(events, 0)
        join.take_predictions("alpha", DECODER.decode(given.values, given.stamps_ms).models["alpha"], given.offsets)
        join.commit(2, CLOCK_MS)
        join.commit(2, CLOCK_MS + later_ms)
        join.take_labels(records([told], 0), CLOCK_MS + later_ms)
        matched[later_ms] = join.meta.books["alpha"].matched if "alpha" in join.meta.books else 0
    assert matched == {minutes - 1: 1, minutes: 0}


# --- What is judged, while joins lose their stores


class Judged:
    """Stage 2: what every arrival pane of a model holds when it closes."""

    def __init__(self, model: str) -> None:
        self.merge = BucketMerge(PLAN, bucket_of(model, PLAN.config.kafka.buckets), "inference", 1)
        self.model = self.merge.models[model]
        self.panes: dict[int, dict[CellKey, list[int]]] = {}

    def take(self, partials: Sequence[Partial]) -> None:
        for partial in partials:
            if partial.bucket != self.merge.bucket:
                continue
            self.merge.apply(partial)
            list(closed_events(self.merge, self.model))
            for pane in closed_labels(self.merge, self.model, 0):
                cells = {key: profile.counts.dense().tolist() for key, profile in pane.on_time.items()}
                self.panes[pane.start_ms] = {key: counts for key, counts in cells.items() if any(counts)}


class Worker:
    """Stage 1 of one life: it begins where a chunk was full, and without a store."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.join = JoinFold(PLAN, TOPIC, 0, MemoryStore(), CLOCK_MS)
        self.fold = SourceFold(PLAN, "inference", 0, progress, CLOCK_MS, join=self.join)
        self.at = [self.fold.resume_offset, 0]

    def read(self, events: Sequence[Event], labels: Sequence[Told], *, final: bool = False) -> list[Partial]:
        """So many more of both, and what is published of them."""
        steps: list[Step] = []
        for items, at, take in ((events, 0, self.fold.take), (labels, 1, self.fold.take_labels)):
            if items:
                steps += take(records(items, self.at[at]), CLOCK_MS)
                self.at[at] += len(items)
        self.fold.caught_up, self.join.caught_up_ms = final, CLOCK_MS if final else None
        steps.append(self.fold.publish(CLOCK_MS, caught_up=final, final=final))
        self.progress = next((step.progress for step in reversed(steps) if step.progress), self.progress)
        return [partial for step in steps for partial in step.partials]


portions = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=4)


@given(st.lists(portions, min_size=1, max_size=3))
def test_lost_stores_change_nothing_of_what_is_judged(lives: list[list[tuple[int, int]]]) -> None:
    """A life without a store may have read more labels than the one before, and fewer predictions."""
    events = [Event(str(i), "alpha", START_MS + i * 20_000, "north", 0.5) for i in range(30)]
    labels = [Told(str(i), float(i % 3 == 0), event.ts_ms + MINUTE_MS) for i, event in enumerate(events)]

    def judged(lives: Sequence[Sequence[tuple[int, int]]]) -> Any:
        stage, progress = Judged("alpha"), None
        for life in [*lives, [(len(events), len(labels))]]:
            worker = Worker(progress)
            for some, told in life:
                stage.take(worker.read(events[worker.at[0] :][:some], labels[worker.at[1] :][:told]))
            progress = worker.progress
        stage.take(worker.read([], [], final=True))
        return stage.panes

    assert judged(lives) == judged([])


def test_no_step_of_stage_two_is_more_than_a_pane_or_a_cohort_even_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Heartbeats are sent between steps: a worker that sends none for seconds is taken for dead, and begins anew."""
    events = [Event(str(i), "alpha", START_MS + i * 30_000, "north", 0.5) for i in range(400)]
    labels = [Told(str(i), float(i % 3 == 0), event.ts_ms + MINUTE_MS) for i, event in enumerate(events)]
    bucket = bucket_of("alpha", PLAN.config.kafka.buckets)
    worker = Worker(None)
    partials = [one for one in worker.read(events, labels, final=True) if one.bucket == bucket]
    evaluated: list[Window] = []
    for judge in (Judge, OutcomeJudge):
        monkeypatch.setattr(judge, "evaluate", noting(evaluated, judge.evaluate))
    state: ModelState | None = None
    for _ in range(2):
        stage = BucketJudge(PLAN, bucket, "inference", 1)
        if state is not None:
            stage.restore(state)
        for one in partials:
            stage.apply(one)
        list(stage.resume())
        evaluated.clear()
        steps, most = 0, 0
        for outcome in stage.advance():
            state, steps, most = outcome.state or state, steps + 1, max(most, len(evaluated))
            evaluated.clear()
        assert steps > 200 and 0 < most <= 3


def noting(evaluated: list[Window], evaluate: Any) -> Any:
    def run(self: Any, window: Window, *rest: Any) -> Any:
        evaluated.append(window)
        return evaluate(self, window, *rest)

    return run
