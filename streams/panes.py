"""Event times ↔ panes, and timeliness of a record by the stream time of its own partition."""

from enum import IntEnum

import numpy as np

from streams.arrays import Ints
from streams.duration import DAY_MS, HOUR_MS

NO_MARK = -(2**62)
"""Below every event time: the stream time of a model before its first event."""


class Timeliness(IntEnum):
    """How late a record is, by the stream time of its model and source partition; in the middle: late, admitted."""

    ON_TIME = 0
    WELCOME = 1
    LATE = 2


def pane_start(time_ms: int, pane_ms: int) -> int:
    """Start of the pane that contains a time; panes are aligned to the epoch.

    >>> pane_start(-1, 60_000)
    -60000
    """
    return time_ms // pane_ms * pane_ms


def timeliness(times_ms: Ints, marks_ms: Ints, grace_ms: int, lateness_ms: int) -> Ints:
    """(n,) event times and (n,) the stream times after each of them → (n,) their timeliness."""
    behind = marks_ms - times_ms
    return (behind > grace_ms).astype(np.int64) + (behind > lateness_ms)


def hour_ms(pane_ms: int) -> int:
    """An hour, if it is a whole number of panes; else the pane.

    >>> hour_ms(60_000), hour_ms(86_400_000)
    (3600000, 86400000)
    """
    return HOUR_MS if HOUR_MS % pane_ms == 0 else pane_ms


def levels_ms(pane_ms: int) -> tuple[int, ...]:
    """The pane, and the hour and the day where they are whole numbers of the level below.

    >>> levels_ms(900_000)
    (900000, 3600000, 86400000)
    """
    levels = [pane_ms]
    for unit in (HOUR_MS, DAY_MS):
        if unit > levels[-1] and unit % levels[-1] == 0:
            levels.append(unit)
    return tuple(levels)


def next_start(time_ms: int, pane_ms: int) -> int:
    """The first start of a pane that is no earlier than a time.

    >>> next_start(60_001, 60_000), next_start(60_000, 60_000)
    (120000, 60000)
    """
    return -(-time_ms // pane_ms) * pane_ms
