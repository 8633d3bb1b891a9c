"""Partials → closed panes. Timelines show event time from left to right; `|` is a pane's bound, `w` the watermark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from streams.cells import Cells
from streams.errors import SketchError
from streams.merge import BucketMerge, ClosedPane, ModelMerge
from streams.model_panes import BooksState
from streams.pane_cursor import MAX_EMPTY_PANES
from streams.partial import Books, BooksPart, BooksPartial, Cell, PanePart, PanePartial, key_of
from streams.plan import Plan
from streams.sketch.counts import Counts
from streams.sketch.layout import OK_SLOT, requests
from streams.sketch.profile import Profile
from tests.closing import closed_events
from tests.strategies import TOPIC, plan_of

M = 60_000
START = 1_767_225_600_000
IDLE_MS, LATENESS_MS = 2 * M, 10 * M

CONFIG = """
kafka: {buckets: 1}
models:
  a: &model
    {pane: 1m, grace: 1m, lateness: 10m, idle: 2m, max_versions: 2, features: {x: {type: numeric}}, rules: [
      {name: errors, signals: [request_error_rate], response: rollback},
      {name: slow, signals: [request_error_rate], response: rollback, over: 5m}]}
  b: {<<: *model}
"""
PLAN = plan_of(CONFIG)


def merge_of(partitions: int = 1, plan: Plan = PLAN) -> BucketMerge:
    return BucketMerge(plan, 0, TOPIC, partitions)


def profile(events: int, model: str = "a") -> Profile:
    dense = np.zeros(PLAN.models[model].layout.length, np.int64)
    dense[OK_SLOT] = events
    return Profile(Counts.of(dense))


def cells(events: int, version: str = "1") -> list[Cell]:
    return [Cell(version, "", "", profile(events).to_bytes())] if events else []


def pane(
    minute: float,
    on_time: int = 0,
    welcome: int = 0,
    *,
    chunk: int = 0,
    end: int = 1,
    partition: int = 0,
    model: str = "a",
    version: str = "1",
) -> PanePartial:
    """A publication of the pane that starts at START + minute."""
    part = PanePart(model, PLAN.models[model].layout.digest, cells(on_time, version), cells(welcome, version))
    return PanePartial(TOPIC, partition, chunk, end, 0, START + int(minute * M), [part])


def books(
    mark_minute: float | None,
    *,
    chunk: int = 0,
    end: int = 1,
    partition: int = 0,
    clock: float = 0,
    seen: float = 0,
    read: int = 0,
    complete: bool = False,
    caught_up: bool = False,
    final: bool = False,
    models: Iterable[str] = ("a",),
) -> BooksPartial:
    """A publication of books: `clock` and `seen` are minutes of stage 1's clock."""
    mark = None if mark_minute is None else START + int(mark_minute * M)
    parts = [BooksPart(name, Books(read=read, counted=read), mark, int(seen * M)) for name in models]
    return BooksPartial(TOPIC, partition, chunk, end, 0, int(clock * M), complete, caught_up, final, parts)


def apply(merge: BucketMerge, *partials: Any, fresh: bool = True) -> ModelMerge:
    for partial in partials:
        merge.apply(partial, key_of(partial, "w"), fresh=fresh)
    return merge.models["a"]


def closed(merge: BucketMerge, model: str = "a") -> list[tuple[float, int, int]]:
    """(minute, events on time, events welcome) of the panes that the watermark allows."""
    return [_told(pane) for pane in closed_events(merge, merge.models[model])]


def _told(pane: ClosedPane) -> tuple[float, int, int]:
    return (pane.start_ms - START) / M, events(pane.on_time), events(pane.welcome)


def events(found: Cells) -> int:
    return sum(int(requests(item.counts.dense())) for item in found.values())


def watermark(merge: BucketMerge, model: str = "a") -> float | None:
    found = merge.watermark_ms(merge.models[model])
    return None if found is None else (found - START) / M


class TestClosing:
    def test_a_pane_closes_when_the_watermark_has_passed_its_end_by_the_grace(self) -> None:
        # 0|....|1....|2
        #  pane 0     w      closes at 2:00, not a millisecond before
        merge = merge_of()
        apply(merge, pane(0, 5), books(2 - 1 / M))
        assert closed(merge) == []
        apply(merge, books(2, end=2))
        assert closed(merge) == [(0, 5, 0)]

    def test_it_is_closed_once(self) -> None:
        merge = merge_of()
        apply(merge, pane(0, 5), books(2))
        assert closed(merge) == [(0, 5, 0)]
        assert closed(merge) == []

    def test_panes_close_in_order_and_empty_ones_between_them_too(self) -> None:
        # 0|5..|1 ..|2 ..|3.7.|4 ..|5   w at 5
        merge = merge_of()
        apply(merge, pane(3, 7), pane(0, 5), books(5))
        assert closed(merge) == [(0, 5, 0), (1, 0, 0), (2, 0, 0), (3, 7, 0)]

    def test_nothing_closes_before_the_first_event(self) -> None:
        merge = merge_of()
        apply(merge, books(100))
        assert closed(merge) == []

    def test_a_long_silence_is_judged_as_far_as_a_window_reaches_and_then_skipped(self) -> None:
        merge = merge_of()
        apply(merge, pane(0, 5), pane(500, 7), books(503))
        minutes = [minute for minute, _, _ in closed(merge)]
        assert minutes == [*range(5 + MAX_EMPTY_PANES + 1), 500, 501]

    def test_empty_panes_are_not_judged_for_ever(self) -> None:
        """A model that has stopped is not judged each minute until the end of time."""
        merge = merge_of()
        apply(merge, pane(0, 5), books(10_000))
        assert len(closed(merge)) <= 5 + MAX_EMPTY_PANES + 1

    def test_the_first_pane_is_partial_and_so_is_the_last_when_the_stream_ends(self) -> None:
        merge = merge_of()
        apply(merge, pane(0, 5), pane(1, 5), pane(2, 5), books(2.5, final=True))
        found = {(pane.start_ms - START) // M: pane.partial for pane in closed_events(merge, merge.models["a"])}
        assert found == {0: True, 1: False, 2: True}

    def test_the_end_of_the_stream_closes_what_is_there_and_no_more(self) -> None:
        merge = merge_of()
        apply(merge, pane(0, 5), pane(2, 1), books(2, final=True))
        assert closed(merge) == [(0, 5, 0), (1, 0, 0), (2, 1, 0)]
        assert closed(merge) == []

    def test_models_of_a_bucket_close_on_their_own(self) -> None:
        merge = merge_of()
        apply(merge, pane(0, 5), pane(0, 3, model="b", end=2), books(5), books(1, end=2, models=["b"]))
        assert (closed(merge, "a"), closed(merge, "b")) == ([(0, 5, 0)] + [(i, 0, 0) for i in (1, 2, 3)], [])


class TestWatermark:
    def test_it_is_the_lowest_of_the_partitions(self) -> None:
        merge = merge_of(2)
        apply(merge, books(7), books(4, partition=1))
        assert watermark(merge) == 4

    def test_it_is_unknown_until_every_partition_has_spoken(self) -> None:
        merge = merge_of(2)
        apply(merge, pane(0, 5), books(100))
        assert watermark(merge) is None
        assert closed(merge) == []

    def test_a_lagging_partition_holds_it_back(self) -> None:
        # clock           0      1      2 ...     30
        # partition 0     m=10   11     12        40
        # partition 1     m=3    3      3         3     still reading: not caught up, so not idle
        merge = merge_of(2)
        for minute in range(31):
            apply(merge, books(10 + minute, end=minute + 1, clock=minute, seen=minute, caught_up=True))
            apply(merge, books(3, partition=1, end=minute + 1, clock=minute, seen=0))
        assert watermark(merge) == 3

    def test_an_idle_partition_is_excepted_after_the_timeout(self) -> None:
        # clock           0      1      2      3
        # partition 0     m=10   11     12     13
        # partition 1     m=3 ── nothing more to read since 0 ──
        merge = merge_of(2)
        found = []
        for minute in range(4):
            apply(merge, books(10 + minute, end=minute + 1, clock=minute, seen=minute, caught_up=True))
            apply(merge, books(3, partition=1, clock=minute, seen=0, caught_up=True))
            found.append(watermark(merge))
        assert found == [3, 3, 12, 13]

    def test_a_partition_that_never_held_the_model_is_excepted_too(self) -> None:
        merge = merge_of(2)
        apply(merge, books(10, clock=1, seen=1, caught_up=True), books(None, partition=1, clock=1, caught_up=True))
        assert watermark(merge) is None
        apply(
            merge, books(10, end=2, clock=2, seen=2, caught_up=True), books(None, partition=1, clock=2, caught_up=True)
        )
        assert watermark(merge) == 10

    def test_an_idle_partition_that_speaks_again_holds_it_back_again(self) -> None:
        merge = merge_of(2)
        apply(merge, books(20, clock=9, seen=9, caught_up=True), books(3, partition=1, clock=9, seen=0, caught_up=True))
        assert watermark(merge) == 20
        apply(merge, books(4, partition=1, end=2, clock=9, seen=9, caught_up=True))
        assert watermark(merge) == 4

    def test_a_stream_that_pauses_as_a_whole_goes_on_with_the_clock(self) -> None:
        # clock           0      5
        # partition 0     m=10   silent for 5    →  10 + 4 = 14: as long as the one that was silent last
        # partition 1     m=8    silent for 4
        merge = merge_of(2)
        apply(merge, books(10, clock=5, seen=0, caught_up=True), books(8, partition=1, clock=5, seen=1, caught_up=True))
        assert watermark(merge) == 14

    def test_a_full_chunk_that_was_just_read_is_not_idle(self) -> None:
        merge = merge_of()
        apply(merge, books(10, clock=9, seen=0, complete=True, caught_up=False))
        assert watermark(merge) == 10

    def test_an_old_claim_to_be_idle_is_not_believed_while_rebuilding(self) -> None:
        merge = merge_of()
        apply(merge, books(10, clock=9, seen=0, caught_up=True), fresh=False)
        assert watermark(merge) == 10
        apply(merge, books(10, clock=9, seen=0, caught_up=True))
        assert watermark(merge) == 19

    def test_a_partition_that_has_ended_does_not_hold_the_others_back(self) -> None:
        merge = merge_of(2)
        apply(merge, books(3, final=True), books(9, partition=1))
        assert watermark(merge) == 9
        apply(merge, pane(0, 1), books(9, partition=1, end=2, final=True))
        assert closed(merge) == [(0, 1, 0)]

    def test_a_new_partition_of_the_topic_counts_from_its_first_word(self) -> None:
        merge = merge_of(1)
        apply(merge, books(9))
        assert watermark(merge) == 9
        apply(merge, books(2, partition=1))
        assert watermark(merge) == 2

    def test_a_publication_of_before_takes_nothing_back(self) -> None:
        merge = merge_of()
        apply(merge, books(9, chunk=1, end=20, clock=5), books(3, chunk=0, end=8, clock=6), books(4, chunk=1, end=12))
        assert watermark(merge) == 9


class TestLateness:
    def test_what_comes_late_but_welcome_is_told_apart(self) -> None:
        merge = merge_of()
        apply(merge, pane(0, 5, welcome=2), books(2))
        assert closed(merge) == [(0, 5, 2)]

    def test_what_comes_to_a_judged_pane_makes_a_revision(self) -> None:
        merge = merge_of()
        model = apply(merge, pane(0, 5), books(2))
        assert closed(merge) == [(0, 5, 0)]
        assert list(merge.revised(model)) == []
        apply(merge, pane(0, 5, welcome=3, end=9))
        assert [_told(item) for item in merge.revised(model)] == [(0, 5, 3)]
        assert list(merge.revised(model)) == []

    def test_a_welcome_event_before_the_first_judged_pane_is_a_revision_too(self) -> None:
        merge = merge_of()
        model = apply(merge, pane(5, 1), pane(0, welcome=2), books(7))
        assert closed(merge) == [(5, 1, 0)]
        assert [_told(item) for item in merge.revised(model)] == [(0, 0, 2)]


class TestChunks:
    def test_of_one_identity_the_highest_end_offset_counts(self) -> None:
        merge = merge_of()
        apply(merge, pane(0, 2, end=10), pane(0, 5, end=20), pane(0, 3, end=15), books(9))
        assert closed(merge)[0] == (0, 5, 0)

    def test_chunks_and_partitions_add_up(self) -> None:
        merge = merge_of(2)
        apply(merge, pane(0, 2), pane(0, 3, chunk=1, end=9), pane(0, 4, partition=1))
        apply(merge, books(9, chunk=1, end=9), books(9, partition=1))
        assert closed(merge)[0] == (0, 9, 0)

    def test_a_full_chunk_is_folded_and_what_else_comes_of_it_is_a_repeat(self) -> None:
        merge = merge_of()
        model = apply(merge, pane(0, 5, end=8), books(0, end=8, read=5, complete=True))
        assert model.panes[START].open == {}
        apply(merge, pane(0, 99, end=99), books(0, end=99, read=99))
        assert events(model.panes[START].cells()[0]) == 5
        assert model.books.read == 5

    def test_a_later_chunk_says_that_the_one_before_is_full(self) -> None:
        merge = merge_of()
        model = apply(merge, pane(0, 5), books(0, read=5), books(0, chunk=1, end=10, read=2))
        assert model.panes[START].open == {}
        assert (events(model.panes[START].cells()[0]), model.books.read) == (5, 7)

    def test_folding_one_partition_leaves_the_others_open(self) -> None:
        merge = merge_of(2)
        model = apply(merge, pane(0, 5), pane(0, 3, partition=1), books(0, complete=True))
        assert list(model.panes[START].open) == [(1, 0, 0)]

    def test_versions_beyond_the_cap_are_folded_in_a_union_of_chunks_too(self) -> None:
        merge = merge_of()
        partials = [pane(0, 1, chunk=i, end=i + 1, version=f"v{i}") for i in range(6)]
        model = apply(merge, *partials, books(0, chunk=9, end=99))
        found = model.panes[START].cells()[0]
        assert len({version for version, _, _ in found} - {"__other__"}) == 2
        assert events(found) == 6

    def test_a_partial_of_another_layout_is_counted_and_left_out(self) -> None:
        merge = merge_of()
        strange = pane(0, 5)
        strange.models[0].layout = "another"
        model = apply(merge, strange, pane(0, 2, chunk=1, end=9), books(9, chunk=1))
        assert (model.foreign, closed(merge)[0]) == (1, (0, 2, 0))

    def test_a_model_that_is_no_longer_declared_is_passed_over(self) -> None:
        merge = merge_of()
        gone = pane(0, 5)
        gone.models[0].model = "gone"
        apply(merge, gone, books(9, models=["gone", "a"], read=3))
        assert merge.others["gone"].books.read == 3
        assert closed(merge) == []

    @pytest.mark.parametrize("change", [{"topic": "labels"}, {"bucket": 3}])
    def test_a_partial_of_another_bucket_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(SketchError):
            merge_of().apply(msgspec.structs.replace(pane(0, 5), **change))


class TestRebuild:
    """A restart reads the log again; what the state holds need not be in it any more."""

    def test_books_that_were_deleted_from_the_log_are_in_the_state(self) -> None:
        merge = merge_of()
        log = [books(0, chunk=i, end=i * 8 + 8, read=3, complete=True) for i in range(4)]
        model = apply(merge, *log)
        state = msgspec.json.decode(msgspec.json.encode(merge.books_state()), type=BooksState)
        for kept in range(5):
            again = merge_of()
            again.restore_books(state)
            assert apply(again, *log[kept:]).books == model.books == Books(read=12, counted=12)

    def test_books_go_on_from_the_state(self) -> None:
        merge = merge_of()
        apply(merge, books(0, read=3, complete=True))
        again = merge_of()
        again.restore_books(merge.books_state())
        model = apply(
            again, books(0, read=3, complete=True), books(1, chunk=1, end=12, read=2), books(1, chunk=1, end=14, read=4)
        )
        assert model.books.read == 7

    def test_the_state_holds_undeclared_models_and_unreadable_records(self) -> None:
        merge = merge_of()
        apply(merge, books(None, read=5, complete=True, models=["__other__", ""]))
        again = merge_of()
        again.restore_books(merge.books_state())
        assert {name: other.books.read for name, other in again.others.items()} == {"__other__": 5, "": 5}

    @pytest.mark.parametrize("complete", [False, True])
    @pytest.mark.parametrize("own", [None, 1, 2, 3])
    @pytest.mark.parametrize("other", [None, 1, 2, 3])
    def test_what_was_counted_otherwise_is_made_up_for_only_by_what_reaches_as_far(
        self, own: int | None, other: int | None, complete: bool
    ) -> None:
        """Of a full chunk nothing more will come; of an open one the marks wait until it has been counted again."""
        merge = merge_of()
        if own is not None:
            apply(merge, pane(0, 5, end=own), fresh=False)
        if other is not None:
            partial = pane(2, 5, end=other)
            partial.models[0].layout = "another"
            apply(merge, partial, fresh=False)
        model = apply(merge, books(5, end=3, complete=complete), fresh=False)
        until_ms = merge.settle()
        is_made_up_for = other is None or (own is not None and own >= other)
        if complete:
            assert until_ms == ({} if is_made_up_for else {"a": START + 3 * M})
            assert 0 in model.marks
        else:
            assert until_ms == {}
            assert (0 in model.marks) == is_made_up_for


class TestExpiry:
    def log(self, minutes: int) -> list[Any]:
        log: list[Any] = []
        for minute in range(minutes):
            log += [pane(minute, 1, chunk=minute, end=minute * 8 + 8)]
            log += [books(minute, chunk=minute, end=minute * 8 + 8, complete=True, read=1)]
        return log

    def test_memory_does_not_grow_with_the_stream(self) -> None:
        merge = merge_of()
        sizes = []
        for partial in self.log(200):
            model = apply(merge, partial)
            list(closed_events(merge, model))
            merge.expire()
            sizes.append((len(model.panes), len(merge.keys), len(merge.book_keys), len(model.open_books)))
        assert max(sizes[100:]) <= max(sizes[:100])

    def test_memory_does_not_grow_with_the_stream_while_another_model_of_the_bucket_is_silent(self) -> None:
        """A declared model that never gets an event, next to one that does."""
        merge = merge_of()
        for partial in self.log(200):
            model = apply(merge, partial)
            list(closed_events(merge, model))
            merge.expire()
        assert len(model.panes) < 50
        assert len(merge.keys) < 50

    def test_a_model_that_has_stopped_is_not_judged_for_ever_after_a_restart_either(self) -> None:
        """From the newest pane the silence is measured: it is kept, in memory and in the log."""
        merge = merge_of()
        log = [pane(0, 5), books(400, end=2)]
        model = apply(merge, *log)
        list(closed_events(merge, model))
        deleted = merge.expire()
        again = merge_of()
        rebuilt = apply(again, *(partial for partial in log if key_of(partial, "w") not in deleted), fresh=False)
        rebuilt.progress.state = model.progress.state
        apply(again, books(10_000, end=3))
        assert closed(again) == []

    def test_what_a_window_or_a_late_event_may_need_is_kept(self) -> None:
        merge = merge_of()
        for partial in self.log(200):
            model = apply(merge, partial)
            list(closed_events(merge, model))
            merge.expire()
        oldest = (min(model.panes) - START) / M
        assert model.judged_until_ms is not None
        judged_until = (model.judged_until_ms - START) / M
        assert oldest <= judged_until - max(LATENESS_MS / M, 5)

    def test_the_keys_of_what_was_forgotten_are_given_once(self) -> None:
        merge = merge_of()
        deleted: list[bytes] = []
        log = self.log(200)
        for partial in log:
            list(closed_events(merge, apply(merge, partial)))
            deleted += merge.expire()
        assert len(deleted) == len(set(deleted)) > 300
        assert set(deleted) < {key_of(partial, "w") for partial in log}

    def test_the_log_without_what_was_deleted_gives_the_same_panes(self) -> None:
        merge = merge_of()
        deleted: set[bytes] = set()
        log = self.log(200)
        for partial in log:
            model = apply(merge, partial)
            list(closed_events(merge, model))
            deleted |= set(merge.expire())
        again = merge_of()
        again.restore_books(merge.books_state())
        rebuilt = apply(again, *(partial for partial in log if key_of(partial, "w") not in deleted), fresh=False)
        assert events_of(rebuilt) == events_of(model)
        assert rebuilt.books == model.books

    def test_a_model_that_lags_behind_its_neighbours_loses_nothing(self) -> None:
        """b's events are an hour behind a's, and begin when a's panes of that hour are long forgotten."""
        merge = merge_of()
        for partial in self.log(200):
            list(closed_events(merge, apply(merge, partial)))
            merge.expire()
        apply(
            merge, pane(20, 5, chunk=900, end=9_000, model="b"), books(22, chunk=900, end=9_000, models=["b"], read=5)
        )
        assert closed(merge, "b") == [(20, 5, 0)]

    def test_a_lagging_models_records_are_kept_for_its_rebuild(self) -> None:
        merge = merge_of()
        deleted: set[bytes] = set()
        late = [pane(20, 5, chunk=900, end=9_000, model="b"), books(20, chunk=900, end=9_000, models=["b"], read=5)]
        for partial in [*self.log(200), *late]:
            list(closed_events(merge, apply(merge, partial)))
            deleted |= set(merge.expire())
        assert key_of(late[0], "w") not in deleted


def events_of(model: ModelMerge) -> Mapping[int, int]:
    return {start: events(item.cells()[0]) for start, item in model.panes.items()}
