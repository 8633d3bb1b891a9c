"""The clock of a worker."""

from __future__ import annotations

import time

_BEGUN_MS = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000


def now_ms() -> int:
    """Milliseconds since 1970: the time at which this process began, and what has passed since.

    Setting the clock changes nothing of it, because what is silent, due, or over depends on how much time has passed.
    """
    return _BEGUN_MS + time.monotonic_ns() // 1_000_000


class Turn:
    """True once so much time has passed since it was last true: for work that yields to others in between.

    The caller yields then, and work between two calls is short: so the event loop is not blocked for long, however much
    there is to do.
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
    """True at most once in so many seconds: for a line that would otherwise be logged at every attempt."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._next = float("-inf")

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self.every_s
        return True
