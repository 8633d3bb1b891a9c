"""Stream time as docs/architecture.md states it, one record after the other: shares no code with the product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

HOUR_MS = 3_600_000
LEAST_VOTES = 48


class PlainTime:
    """Of one model and partition; or of the labels of a partition."""

    def __init__(self, grace_ms: int) -> None:
        self.grace_ms = max(grace_ms, 1_000)
        self.mark: int | None = None
        self.base: int | None = None
        self.lowest: int | None = None
        self.votes = self.records = self.pace = 0

    def after(self, ts: int) -> int:
        """The mark after one more record."""
        self.records += 1
        if self.base is None:
            self.mark = ts - HOUR_MS if self.mark is None else max(self.mark, ts - HOUR_MS)
            if ts >= self.mark:
                lowest = ts if self.lowest is None else min(ts, self.lowest)
                self.lowest = max(lowest, self.mark)
                self._vote()
        elif ts >= self.base + self.grace_ms // 4:
            self.lowest = ts if self.lowest is None else min(ts, self.lowest)
            self._vote()
        elif self.lowest is not None:
            self.votes -= 2
            if self.votes <= 0:
                self.lowest, self.votes = None, 0
        assert self.mark is not None
        if self.base is not None and ts <= self.base + self.grace_ms:
            self.mark = max(self.mark, ts)
        return self.mark

    def _vote(self) -> None:
        self.votes += 1
        assert self.lowest is not None and self.mark is not None
        if self.votes < min(max(self.pace // 16, LEAST_VOTES), 1_024):
            return
        pace = self.records * self.grace_ms // (self.lowest - self.base) if self.base is not None else 0
        self.pace = max(pace, self.pace // 2)
        self.base, self.mark = self.lowest, max(self.mark, self.lowest)
        self.lowest, self.votes, self.records = None, 0, 0


@contextmanager
def without_votes() -> Iterator[None]:
    """One record is enough to move stream time: for streams of a few records, which are to hold late ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.stream_time.MIN_VOTES", 1)
        patch.setattr("tests.plain_time.LEAST_VOTES", 1)
        yield
