"""Stream time in the folds: kept in `progress`, published for slow streams, counted, the same in the join."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.backtest import Backtest
from streams.facts.fold import OutcomeFold
from streams.join.fold import JoinFold
from streams.panes import NO_MARK
from streams.partial import BooksPartial, LabelBooksPartial
from streams.progress import Progress
from streams.records import Records
from streams.source import SourceFold
from streams.store import MemoryStore
from streams.stream_time import LIVE_MS, PAUSE_MS, SKEW_MS, StreamTime
from tests.strategies import plan_of

MINUTE_MS, START_MS = 60_000, 1_767_225_600_000
PLAN = plan_of(
    """
limits: {future: 1h}
models:
  shop:
    labels: {task: binary, classes: ["0", "1"], horizon: 2h}
    kpis: {sales: {aggregate: sum, better: higher}}
    served: requests
    features: {amount: {type: numeric}}
    rules: [{name: lost, signals: [capture_ratio], response: data_incident}]
""",
    chunk_size=1_024,
)
AHEAD_MS = 59 * MINUTE_MS


def events(times_ms: list[int]) -> list[bytes]:
    rows = [{"event_id": str(n), "ts": ts, "model": "shop", "features": {}} for n, ts in enumerate(times_ms)]
    return [json.dumps(row).encode() for row in rows]


def records(values: list[bytes], first: int = 0) -> Records:
    return Records(range(first, first + len(values)), [START_MS + 10 * MINUTE_MS] * len(values), values)


def skewed() -> list[int]:
    """An event a tenth of a second; each tenth of them is almost an hour ahead, from the first one on."""
    return [START_MS + 100 * n + (AHEAD_MS if n % 10 == 0 else 0) for n in range(5_000)]


def test_one_clock_that_is_ahead_leaves_all_others_on_time() -> None:
    run = Backtest(PLAN, START_MS + 2 * AHEAD_MS)
    judged = [
        window
        for outcome in run.run(events(skewed()))
        for window in outcome.windows
        if window.revision == 0 and window.version == "" and window.kpi is None
    ]
    assert sum(window.counts["events"] for window in judged) == 5_000
    books = next(model.books for judge in run._buckets.values() for model in judge.merge.models.values())
    assert (books.read, books.counted, books.late) == (5_000, 5_000, 0)
    assert 450 <= books.ahead <= 500


def test_a_restart_at_a_chunks_bound_goes_on_from_what_progress_holds() -> None:
    values = events(skewed())
    whole = SourceFold(PLAN, "t", 0, None, START_MS)
    steps = whole.take(records(values), START_MS)
    kept = [step.progress for step in steps if step.progress]
    assert len(kept) == 4
    for progress in kept:
        again = SourceFold(PLAN, "t", 0, Progress.from_bytes(progress.to_bytes()), START_MS)
        rest = again.take(records(values[progress.next_offset :], progress.next_offset), START_MS)
        whole.publish(START_MS, caught_up=False)
        again.publish(START_MS, caught_up=False)
        assert again.times == whole.times
        assert [step.progress for step in rest] == [step.progress for step in steps if step.progress][4 - len(rest) :]


def test_the_join_has_the_stream_time_of_the_events() -> None:
    join = JoinFold(PLAN, "labels", 0, MemoryStore(), START_MS)
    fold = SourceFold(PLAN, "t", 0, None, START_MS, join=join)
    fold.take(records(events(skewed())), START_MS)
    fold.publish(START_MS, caught_up=False)
    assert join.meta.times == fold.times and join.meta.marks_ms == fold.marks_ms


def test_progress_of_an_older_release_has_marks_alone() -> None:
    old = Progress(1_024, {"shop": START_MS})
    fold = SourceFold(PLAN, "t", 0, Progress.from_bytes(old.to_bytes()), START_MS)
    assert fold.times == {"shop": StreamTime.at(START_MS)} and fold.marks_ms == {"shop": START_MS}


def published(fold: SourceFold | OutcomeFold, clock_ms: int, *, caught_up: bool = True) -> dict[str, int | None]:
    step = fold.publish(clock_ms, caught_up=caught_up)
    return {
        part.model: part.mark_ms for item in step.partials if isinstance(item, BooksPartial) for part in item.models
    }


def test_a_slow_stream_is_read_up_to_what_has_come_when_it_pauses() -> None:
    """And up to nothing that the clock has not reached, and to nothing of a backlog."""
    fold = SourceFold(PLAN, "t", 0, None, START_MS)
    for number in range(10):
        now_ms = START_MS + 5 * number * MINUTE_MS
        ahead_ms = 3 * MINUTE_MS if number == 9 else 0
        fold.take(records(events([now_ms + ahead_ms]), number), now_ms)
        before, after = published(fold, now_ms + 100), published(fold, now_ms + PAUSE_MS)
        reached_ms = now_ms if number < 9 else now_ms - 5 * MINUTE_MS
        assert before["shop"] is not None and before["shop"] <= now_ms - 55 * MINUTE_MS
        assert after["shop"] == reached_ms
        assert published(fold, now_ms + PAUSE_MS, caught_up=False)["shop"] == before["shop"]
    idle_ms = PLAN.models["shop"].config.idle_ms
    later_ms = now_ms + 24 * 60 * MINUTE_MS
    fold.take(records(events([START_MS + 60 * MINUTE_MS]), 10), later_ms)
    assert published(fold, later_ms + PAUSE_MS)["shop"] != START_MS + 60 * MINUTE_MS
    assert published(fold, later_ms + idle_ms)["shop"] == START_MS + 60 * MINUTE_MS


def test_the_join_says_of_a_slow_stream_what_the_events_say() -> None:
    """Or labels would wait for stream time."""
    join = JoinFold(PLAN, "labels", 0, MemoryStore(), START_MS)
    fold = SourceFold(PLAN, "t", 0, None, START_MS, join=join)
    fold.take(records(events([START_MS, START_MS + 5 * MINUTE_MS])), START_MS + 5 * MINUTE_MS)
    join.rebuilding, join.caught_up_ms = False, START_MS + 5 * MINUTE_MS
    step = fold.publish(START_MS + 5 * MINUTE_MS + PAUSE_MS, caught_up=True)
    marks = {
        part.mark_ms
        for item in step.partials
        if isinstance(item, BooksPartial | LabelBooksPartial)
        for part in item.models
        if part.model == "shop"
    }
    assert marks == {START_MS + 5 * MINUTE_MS}


IDLE_MS = PLAN.models["shop"].config.idle_ms


@given(
    age_ms=st.sampled_from([-1, 0, 1, MINUTE_MS, LIVE_MS - PAUSE_MS, LIVE_MS - PAUSE_MS + 1, LIVE_MS, 60 * MINUTE_MS]),
    pause_ms=st.sampled_from([0, PAUSE_MS - 1, PAUSE_MS, PAUSE_MS + 1, IDLE_MS - 1, IDLE_MS, IDLE_MS + 1]),
    caught_up=st.booleans(),
)
def test_labels_of_a_slow_stream_are_read_up_to_the_last_one_after_a_pause(
    age_ms: int, pause_ms: int, caught_up: bool
) -> None:
    """Of two seconds while they are no older than ten minutes, of the model's idle if they are; until then up to the
    stream time of one label alone. A label that the clock has not reached says nothing."""
    label_ms, now_ms = START_MS, START_MS + age_ms
    join = JoinFold(PLAN, "labels", 0, MemoryStore(), now_ms)
    label = json.dumps({"event_id": "1", "label": 1, "label_ts": label_ms, "model": "shop"}).encode()
    join.take_labels(records([label]), now_ms)
    join.caught_up_ms = now_ms if caught_up else None
    marks = {
        item.mark_ms for item in join.partials(now_ms + pause_ms, final=False) if isinstance(item, LabelBooksPartial)
    }
    is_live = age_ms + pause_ms <= LIVE_MS
    is_read = caught_up and age_ms >= 0 and pause_ms >= (PAUSE_MS if is_live else IDLE_MS)
    assert marks == {label_ms if is_read else label_ms - SKEW_MS}


@pytest.mark.parametrize("pause_ms", [0, PAUSE_MS - 1, PAUSE_MS])
@pytest.mark.parametrize("is_file", [False, True])
def test_kpis_of_a_slow_stream_are_read_up_to_the_last_one_after_a_pause_and_those_of_a_file_at_once(
    pause_ms: int, is_file: bool
) -> None:
    fold = OutcomeFold(PLAN, "outcomes", 0, None, START_MS)
    fold.take(records([json.dumps({"model": "shop", "ts": START_MS, "kpi": "sales", "value": 1}).encode()]), START_MS)
    if is_file:
        fold.unread_until_ms = START_MS
    partials = fold.publish(START_MS + pause_ms, caught_up=True).partials
    parts = [part for item in partials if isinstance(item, BooksPartial) for part in item.models]
    is_read = is_file or pause_ms == PAUSE_MS
    assert {part.mark_ms for part in parts if part.mark_ms is not None} == {START_MS - (0 if is_read else SKEW_MS)}


def test_a_kpi_that_is_dated_ahead_makes_no_other_late() -> None:
    fold = OutcomeFold(PLAN, "outcomes", 0, None, START_MS)
    times_ms = [START_MS + 1_000 * n + (AHEAD_MS if n == 500 else 0) for n in range(1_000)]
    rows = [{"model": "shop", "ts": ts, "kpi": "requests", "value": 1} for ts in times_ms]
    fold.take(records([json.dumps(row).encode() for row in rows]), START_MS)
    (share,) = fold.shares.values()
    assert share.books.counted == 1_000 and {timeliness for _, timeliness in share.panes} == {0}


def test_a_label_that_is_dated_ahead_moves_the_arrival_of_no_other() -> None:
    join = JoinFold(PLAN, "labels", 0, MemoryStore(), START_MS)
    times_ms = [START_MS + 1_000 * n + (AHEAD_MS if n == 300 else 0) for n in range(600)]
    rows = [{"event_id": str(n), "label": 1, "label_ts": ts, "model": "shop"} for n, ts in enumerate(times_ms)]
    join.take_labels(records([json.dumps(row).encode() for row in rows]), START_MS)
    assert NO_MARK < join.meta.label_mark_ms <= times_ms[-1]
    join.commit(0, START_MS)
    starts = sorted({start_ms for _, _, start_ms in join.cells.vectors})
    assert starts == sorted({ts // MINUTE_MS * MINUTE_MS for ts in times_ms})
