"""`foreshock`, by a clock that can be set: SIGUSR1 sets it an hour ahead, SIGUSR2 an hour back.

Monotonic clocks go on as they do when a machine's time is set.
"""

from __future__ import annotations

import signal
import time

HOUR_NS = 3_600 * 10**9

_ahead_ns = 0
_true_time_ns = time.time_ns


def _now_ns() -> int:
    return _true_time_ns() + _ahead_ns


def _set(number: int, frame: object) -> None:
    global _ahead_ns
    _ahead_ns += HOUR_NS if number == signal.SIGUSR1 else -HOUR_NS


if __name__ == "__main__":
    time.time_ns, time.time = _now_ns, lambda: _now_ns() / 1e9
    for wanted in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(wanted, _set)
    from agents.cli import main  # after the clock: some modules keep its functions

    main()
