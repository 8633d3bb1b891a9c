"""The clock of a worker."""

from __future__ import annotations

import time

_BEGUN_MS = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000


def now_ms() -> int:
    """The time since 1970 as it was when this process began, and what has passed since: setting the clock changes
    nothing of it. What is silent, due, or over is a matter of what has passed."""
    return _BEGUN_MS + time.monotonic_ns() // 1_000_000


class Turn:
    """True once so much time has passed since it was true: for work that lets others have their turn in between.

    Whoever asks gives way then, and work between two questions is short: so the event loop is not held for long,
    however much there is to do.
    """

    LENGTH_S = 0.02

    def __init__(self) -> None:
        self._ends = time.monotonic() + self.LENGTH_S

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._ends:
            return False
        self._ends = now + self.LENGTH_S
        return True


class Seldom:
    """True at most once in so many seconds: for a line that would else be logged at every attempt."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._next = float("-inf")

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self.every_s
        return True
