"""A rebuild that finds more in a judged pane than was published of it publishes the pane's window again."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from streams.judge import BucketJudge
from streams.partial import Partial
from streams.state import ModelState, pack_state, pack_unit, unpack_state, unpack_unit
from streams.times import rfc3339
from streams.window import WindowRecord
from tests.merge_cases import PLAN, START, M, books, pane
from tests.strategies import TOPIC


class Log:
    """What a worker that judges one model publishes, and what the next one is rebuilt from."""

    def __init__(self) -> None:
        self.partials: dict[object, Partial] = {}
        self.state: bytes | None = None
        self.units: dict[object, bytes] = {}

    def judge(self) -> BucketJudge:
        judge = BucketJudge(PLAN, 0, TOPIC, 1, {})
        if self.state is not None:
            judge.restore(unpack_state(self.state, ModelState))
            for unit in self.units.values():
                judge.restore_unit(*unpack_unit(unit))
        for partial in self.partials.values():
            judge.apply(partial, fresh=False)
        for _ in judge.resume():
            pass
        return judge

    def publish(self, *partials: Partial) -> None:
        """To the log alone: no worker has read them."""
        self.partials.update({(type(partial), getattr(partial, "pane_ms", None)): partial for partial in partials})

    def take(self, judge: BucketJudge, partials: Iterable[Partial], until_kept: bool = True) -> list[WindowRecord]:
        windows = []
        for partial in partials:
            self.publish(partial)
            judge.apply(partial)
        for outcome in judge.advance():
            windows += [window for window in outcome.windows if window.model == "a"]
            if outcome.model == "a" and outcome.state is not None and until_kept:
                self.state = pack_state(outcome.state)
                self.units.update({unit.id: pack_unit("a", unit) for unit in outcome.units})
        return windows


def of_pane(windows: Iterable[WindowRecord], minute: int) -> list[WindowRecord]:
    start, end = (rfc3339(START + at * M) for at in (minute, minute + 1))
    return [window for window in windows if (window.start, window.end) == (start, end)]


def revisions(windows: Iterable[WindowRecord], minute: int) -> list[tuple[int, int]]:
    """Of a pane's windows, the revision and the events."""
    of_version = (window for window in of_pane(windows, minute) if window.version == "1")
    return [(window.revision, window.counts["events"]) for window in of_version]


@pytest.mark.parametrize("on_time, welcome", [(14, 0), (10, 4), (12, 2)])
def test_what_was_published_meanwhile_makes_a_revision(on_time: int, welcome: int) -> None:
    log = Log()
    first = log.take(log.judge(), [*(pane(n, on_time=10) for n in range(4)), books(5)])
    assert revisions(first, 1) == [(0, 10)]
    log.publish(pane(1, on_time=on_time, welcome=welcome, end=2), books(5, end=2))  # and the worker dies
    assert revisions(log.take(log.judge(), []), 1) == [(14, 14)]


def test_a_rebuild_of_what_was_published_publishes_nothing_again() -> None:
    log = Log()
    log.take(log.judge(), [*(pane(n, on_time=10) for n in range(4)), books(5)])
    assert log.take(log.judge(), []) == []
    judge = log.judge()
    assert revisions(log.take(judge, [pane(1, on_time=11, end=2)]), 1) == [(11, 11)]
    assert log.take(judge, []) == []


def test_a_revision_that_was_not_kept_is_published_again_and_is_the_same() -> None:
    log = Log()
    judge = log.judge()
    log.take(judge, [*(pane(n, on_time=10) for n in range(4)), books(5)])
    once = of_pane(log.take(judge, [pane(1, on_time=11, end=2)], until_kept=False), 1)
    assert of_pane(log.take(log.judge(), []), 1) == once


def test_a_state_of_before_says_nothing_of_what_was_published() -> None:
    log = Log()
    log.take(log.judge(), [*(pane(n, on_time=10) for n in range(4)), books(5)])
    assert log.state is not None
    state = unpack_state(log.state, ModelState)
    state.judged_events.clear()
    log.state = pack_state(state)
    assert log.take(log.judge(), []) == []
