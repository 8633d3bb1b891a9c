"""A past that is replayed: which topic is silent, and which is still to be sent?

A live stream's events are read about when they happen. If they are read half a day later or more, somebody sends a
past, and may send its topics one after the other: then a topic without records says nothing yet. So a topic counts as
silent only when no topic of the model had a record for a while, or when the silence has lasted very long. A worker that
catches up after an outage does the same, until it has reached the present.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from streams.duration import HOUR_MS, UNITS_MS

BEHIND_MS = 12 * HOUR_MS
"""Events that are read so long after their time belong to a replayed past."""
MIN_PAUSE_MS = 10 * UNITS_MS["s"]
MAX_WAIT_MS = 30 * UNITS_MS["m"]
"""The longest wait for a silent topic, however long the replay of the others lasts."""


class Replay(NamedTuple):
    """A replay of one model, by stage 1's clock: its beginning, the last record on any topic, and the pause after that
    which ends the replay."""

    since_ms: int
    heard_ms: int
    pause_ms: int


def pause_ms(idle_ms: int) -> int:
    """The pause on all topics of a model that ends a replay: `idle`, and 10 seconds at least."""
    return max(idle_ms, MIN_PAUSE_MS)


def is_silent(clock_ms: int, seen_at_ms: int, idle_ms: int, replay: Replay | None) -> bool:
    """Whether a partition with nothing left to read counts as silent, and not as behind.

    Parameters:
        seen_at_ms: stage 1's clock at its last record.
        replay: the model's replay, if it is in one.
    """
    if clock_ms - seen_at_ms < idle_ms:
        return False
    if replay is None or clock_ms - replay.heard_ms >= replay.pause_ms:
        return True
    return clock_ms - max(seen_at_ms, replay.since_ms) >= MAX_WAIT_MS


class Replays:
    """The current replays, by model."""

    def __init__(self) -> None:
        self._known: dict[str, Replay] = {}

    def note(
        self, model: str, idle_ms: int, events: Iterable[tuple[int, int]], heard_ms: Iterable[int]
    ) -> Replay | None:
        """The replay that a model is in; None if its events are not that old.

        Parameters:
            events: stream time, and the clock at the last record, of each partition with events.
            heard_ms: the clocks at the last records of the other topics.
        """
        known = list(events)
        if not known or max(clock for _, clock in known) - max(time for time, _ in known) < BEHIND_MS:
            self._known.pop(model, None)
            return None
        latest_ms = max([*heard_ms, *(clock for _, clock in known)])
        before = self._known.get(model)
        goes_on = before is not None and latest_ms - before.heard_ms < before.pause_ms
        since_ms = before.since_ms if before is not None and goes_on else latest_ms
        self._known[model] = found = Replay(since_ms, latest_ms, pause_ms(idle_ms))
        return found


def waiting_text(topics: Sequence[str]) -> str:
    """The message while a model waits for topics."""
    return (
        f"a past is replayed: silence of {', '.join(topics)} is not judged until they have records, "
        "or nothing of the model was read for its 'idle'"
    )
