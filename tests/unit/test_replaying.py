"""A past that is replayed: how long a topic is waited for that has nothing to read, and what ends the wait."""

from __future__ import annotations

import pytest

from streams.backtest import Backtest
from streams.join.fold import JoinFold
from streams.partial import Books, BooksPart
from streams.records import Records
from streams.replaying import BEHIND_MS, MAX_WAIT_MS, MIN_PAUSE_MS, Replay, Replays, is_silent, pause_ms
from streams.source import SourceFold
from streams.store import MemoryStore
from tests.laws.test_topics_in_any_order import NOW_MS, Worker, plan, values
from tests.replay.test_labelled_streams import MODEL, START_MS

IDLE_MS = 60_000
PAUSE_MS = IDLE_MS
LIVE_MS = START_MS + 90 * 60_000
"""Soon after the last event."""


class TestWhatIsAReplay:
    def test_events_that_are_read_soon_after_their_time_are_none(self) -> None:
        assert Replays().note("m", IDLE_MS, [(0, BEHIND_MS - 1)], [10**12]) is None

    def test_half_a_day_later_they_are(self) -> None:
        assert Replays().note("m", IDLE_MS, [(0, BEHIND_MS), (-5, 3)], [7]) == Replay(BEHIND_MS, BEHIND_MS, PAUSE_MS)

    def test_no_events_are_none(self) -> None:
        assert Replays().note("m", IDLE_MS, [], [7]) is None

    def test_it_began_when_it_was_noticed_and_goes_on_with_every_record(self) -> None:
        replays = Replays()
        replays.note("m", IDLE_MS, [(0, BEHIND_MS)], [])
        later_ms = BEHIND_MS + PAUSE_MS - 1
        assert replays.note("m", IDLE_MS, [(0, BEHIND_MS)], [later_ms]) == Replay(BEHIND_MS, later_ms, PAUSE_MS)

    def test_after_a_pause_another_one_begins(self) -> None:
        replays = Replays()
        replays.note("m", IDLE_MS, [(0, BEHIND_MS)], [])
        later_ms = BEHIND_MS + PAUSE_MS
        assert replays.note("m", IDLE_MS, [(0, later_ms)], []) == Replay(later_ms, later_ms, PAUSE_MS)

    def test_events_that_reach_the_present_end_it(self) -> None:
        replays = Replays()
        replays.note("m", IDLE_MS, [(0, BEHIND_MS)], [])
        assert replays.note("m", IDLE_MS, [(BEHIND_MS, BEHIND_MS + 1)], []) is None
        assert replays.note("m", IDLE_MS, [(0, BEHIND_MS + 2)], []) == Replay(BEHIND_MS + 2, BEHIND_MS + 2, PAUSE_MS)


class TestThePause:
    @pytest.mark.parametrize(
        ("idle_ms", "pause"),
        [(1_000, MIN_PAUSE_MS), (20_000, 20_000), (600_000, 600_000)],
    )
    def test_it_is_idle_but_no_moment(self, idle_ms: int, pause: int) -> None:
        assert pause_ms(idle_ms) == pause


class TestWhatIsSilent:
    @pytest.mark.parametrize("silent_ms", [IDLE_MS - 1, IDLE_MS])
    def test_live_after_idle(self, silent_ms: int) -> None:
        assert is_silent(silent_ms, 0, IDLE_MS, None) == (silent_ms >= IDLE_MS)

    @pytest.mark.parametrize("after_ms", [PAUSE_MS - 1, PAUSE_MS])
    def test_in_a_replay_when_nothing_was_read_on_any_topic_for_a_while(self, after_ms: int) -> None:
        assert is_silent(10**9 + after_ms, 0, IDLE_MS, Replay(10**9, 10**9, PAUSE_MS)) == (after_ms >= PAUSE_MS)

    @pytest.mark.parametrize("after_ms", [MAX_WAIT_MS - 1, MAX_WAIT_MS])
    def test_and_at_the_latest_when_it_has_gone_on_for_long(self, after_ms: int) -> None:
        clock_ms = 10**9 + after_ms
        assert is_silent(clock_ms, 0, IDLE_MS, Replay(10**9, clock_ms, PAUSE_MS)) == (after_ms >= MAX_WAIT_MS)


class TestTheWait:
    def test_events_wait_for_what_is_still_to_come_and_it_is_said(self) -> None:
        worker = Worker()
        worker.send("inference")
        worker.passes(PAUSE_MS - 2_000)
        assert not worker.actions
        assert set(worker.judge.awaited[MODEL]) == {"labels", "feedback", "runs"}

    def test_a_replay_of_events_alone_is_judged_after_a_pause_as_a_backtest_judges_it(self) -> None:
        """Nothing is said of jobs and labels of which nothing is known."""
        worker = Worker()
        worker.send("inference")
        worker.passes(2 * PAUSE_MS)
        run = Backtest(plan(), NOW_MS)
        assert set(worker.actions) == {
            action.id for outcome in run.run(values()["inference"]) for action in outcome.actions
        }
        assert worker.judge.awaited[MODEL] == ("labels",)

    def test_a_live_stream_waits_for_nothing(self) -> None:
        worker = Worker(LIVE_MS)
        worker.send("inference")
        worker.passes(IDLE_MS + 2_000)
        assert worker.actions and not worker.judge.awaited

    def test_the_mark_of_a_slow_stream_goes_back_with_each_event_and_begins_no_replay(self) -> None:
        """It is behind until so many records have come as stream time asks for: days."""
        merge = Worker(LIVE_MS).judge.merge
        model = merge.models[MODEL]

        def note(mark_ms: int, clock_ms: int) -> bool:
            model.marks, merge.clock_ms = {0: BooksPart(MODEL, Books(), mark_ms, clock_ms)}, clock_ms
            return Replays().note(MODEL, IDLE_MS, merge.old_marks(model), []) is not None

        assert note(LIVE_MS - 3 * BEHIND_MS, LIVE_MS)
        assert not note(LIVE_MS, LIVE_MS)
        assert not note(LIVE_MS - 3 * BEHIND_MS, LIVE_MS + 1_000)

    def test_no_more_waits_than_memory_allows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        worker = Worker()
        worker.send("inference", 0.1)
        worker.passes(IDLE_MS - 2_000)
        merge, model = worker.judge.merge, worker.judge.merge.models[MODEL]
        limit = 3 * merge.held_bytes(model)
        assert limit and not worker.windows
        monkeypatch.setattr("streams.judge.MAX_HELD_BYTES", limit)
        for part in range(2, 10):
            worker.send("inference", part / 10)
            worker.passes(1_000)
            assert merge.held_bytes(model) <= limit
        assert worker.windows


def test_predictions_are_remembered_until_the_labels_of_the_replay_have_come() -> None:
    """Though the horizon has passed by event time, and no label was left to read."""
    join = JoinFold(plan(), "labels", 0, MemoryStore(), NOW_MS)
    fold = SourceFold(plan(), "file", 0, None, NOW_MS, join=join)
    old = Records(range(200), [NOW_MS] * 200, values()["inference"][:200])
    fold.take(old, NOW_MS)
    join.caught_up_ms = NOW_MS
    horizon_ms = plan().models[MODEL].horizon_ms
    join.meta.marks_ms[MODEL] += 3 * horizon_ms  # as if the events had gone on for so long
    fold.publish(NOW_MS, caught_up=True)
    fold.publish(NOW_MS + PAUSE_MS - 1, caught_up=True)
    made = join.made([(MODEL, "2-0")])
    assert made
    fold.publish(NOW_MS + PAUSE_MS, caught_up=True)
    assert not join.made([(MODEL, "2-0")])


def test_feedback_of_a_past_waits_for_its_events() -> None:
    worker = Worker()
    worker.send("feedback")
    worker.passes(4 * PAUSE_MS)
    assert worker.facts["feedback", 0].changed
    worker.passes(MAX_WAIT_MS)
    assert not worker.facts["feedback", 0].changed
