"""Positions in a log that is being compacted → whether what was read is what the log said at some moment.

Compaction removes a record once a later one of its key exists. A reader that is behind may so have read neither: the
older record was gone when it came by, and the newer one still lies ahead. What it holds then is no state that ever was.
A record that was removed before a fetch was replaced below the log's end at that fetch; so what was read is whole again
at that end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class CompactedLog:
    """What one reader knows of one partition of a compacted topic.

    `position`: the offset after what was read. `whole_from`: from this position on what was read is whole; None: not
    known before the next fetch, for what was read before may have had gaps.
    """

    position: int
    whole_from: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every record below `position` that compaction may have removed was read, or was replaced below it."""
        return self.whole_from is not None and self.position >= self.whole_from

    def read(self, offsets: Sequence[int], position: int, end: int) -> None:
        """Takes a fetch: offsets of its records, the offset after them, and the log's end at that fetch or later."""
        has_gaps = len(offsets) < position - self.position
        if has_gaps or self.whole_from is None:
            self.whole_from = max(end, self.whole_from or 0)
        self.position = position
