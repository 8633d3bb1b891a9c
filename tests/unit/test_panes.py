"""How late a record is: against the mark of its own partition."""

from __future__ import annotations

import numpy as np
import pytest

from streams.panes import Timeliness, pane_start, timeliness

GRACE_MS, LATENESS_MS = 60, 600
ON_TIME, WELCOME, LATE = Timeliness


@pytest.mark.parametrize(
    ("time_ms", "start_ms"),
    [(0, 0), (59_999, 0), (60_000, 60_000), (-1, -60_000), (-60_000, -60_000), (2**47, 140_737_488_300_000)],
)
def test_panes_are_aligned_to_the_epoch(time_ms: int, start_ms: int) -> None:
    assert pane_start(time_ms, 60_000) == start_ms


@pytest.mark.parametrize(
    ("behind", "expected"),
    [(-(10**9), ON_TIME), (0, ON_TIME), (60, ON_TIME), (61, WELCOME), (600, WELCOME), (601, LATE), (10**9, LATE)],
)
def test_the_grace_and_the_lateness_are_still_within(behind: int, expected: Timeliness) -> None:
    found = timeliness(np.array([10**6 - behind]), np.array([10**6]), GRACE_MS, LATENESS_MS)
    assert found.tolist() == [expected]
