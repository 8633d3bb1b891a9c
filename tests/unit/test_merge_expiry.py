"""What a merge is rebuilt from, and when it lets go of what stage 1 has published."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.model_panes import BooksState
from streams.partial import Books, key_of
from tests.closing import closed_events
from tests.merge_cases import (
    LATENESS_MS,
    START,
    M,
    apply,
    books,
    closed,
    events_of,
    merge_of,
    pane,
)


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
