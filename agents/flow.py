"""What came of a partition since it was assigned: counts, positions, and when Kafka answered last."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from agents.clock import now_ms

FRESH_MS = 2_000


@dataclass(slots=True)
class Flow:
    """What came of one partition since it was assigned. `position`: the offset after the last batch handed over."""

    records: int = 0
    bytes: int = 0
    position: int | None = None
    highwater: int | None = None
    asked_ms: int = field(default_factory=now_ms)
    """By the worker's clock: Kafka's last answer was asked for after this."""
    answered_ms: int = field(default_factory=now_ms)
    """By the worker's clock, when it came."""
    _answer_ms: float | None = None
    """The same by the machine's clock, which may be set: it tells one answer from the next."""

    def hear(self, answer_ms: float | None) -> None:
        """Note when Kafka's last answer came.

        It may have lain unread while this process stood still, and then says nothing of now. But it was asked for after
        the one before had come.
        """
        if answer_ms is not None and answer_ms != self._answer_ms:
            ago_ms = max(0, int(time.time() * 1000 - answer_ms))
            self._answer_ms, self.asked_ms, self.answered_ms = answer_ms, self.answered_ms, now_ms() - ago_ms

    @property
    def lag(self) -> int | None:
        """How many offsets are still to come; None until Kafka has said where the log ends."""
        if self.position is None or self.highwater is None:
            return None
        return max(0, self.highwater - self.position)


def is_fresh(answered_ms: int | None) -> bool:
    """Whether this time of an answer is of the last moments. Both ways: the clock may have been set back."""
    return answered_ms is not None and abs(time.time() * 1000 - answered_ms) <= FRESH_MS
