"""Positions in a log that is being compacted → whether what was read is a state that the log once had.

Compaction removes a record once a later one of its key exists. So a reader that is behind may have read neither: the
older record was removed before it came by, and the newer one is still ahead. What it holds then was never a state of
the log. A record that was removed before a fetch had been replaced below the log's end at that fetch; so what was read
is whole again at that end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class CompactedLog:
    """Progress of one reader through one partition of a compacted topic.

    Attributes:
        position: offset after the last record that was read.
        whole_from: from this position on, what was read is whole. None: unknown before the next fetch, since there may
            be
            gaps before.
    """

    position: int
    whole_from: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every record below `position` that compaction may have removed was read, or was replaced below it."""
        return self.whole_from is not None and self.position >= self.whole_from

    def read(self, offsets: Sequence[int], position: int, end: int) -> None:
        """Notes a fetch: offsets of its records, the offset after them, and the log's end at that fetch or later."""
        has_gaps = len(offsets) < position - self.position
        if has_gaps or self.whole_from is None:
            self.whole_from = max(end, self.whole_from or 0)
        self.position = position
