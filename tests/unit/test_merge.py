"""Partials → closed panes. Timelines show event time from left to right; `|` is a pane's bound, `w` the watermark."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.errors import SketchError
from streams.pane_cursor import MAX_EMPTY_PANES
from tests.closing import closed_events
from tests.merge_cases import (
    START,
    M,
    _told,
    apply,
    books,
    closed,
    events,
    merge_of,
    pane,
    watermark,
)


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
