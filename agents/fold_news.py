"""What the folds of stage 1 have to report to the log, every few seconds at most."""

from __future__ import annotations

import logging

from agents.clock import Seldom, now_ms
from streams.chunk import ChunkFold
from streams.source import SourceFold

log = logging.getLogger(__name__)

REPORT_EVERY_MS = 10_000


class FoldNews:
    """Reports records that are ahead of the others, and how far the label joins are rebuilt."""

    def __init__(self) -> None:
        self._is_ahead_due = Seldom(REPORT_EVERY_MS / 1_000)
        self._reported_ms: dict[int, int] = {}
        """Per partition when a rebuild's progress was last reported; 0: at its end."""

    def report_ahead(self, fold: ChunkFold) -> None:
        """Reports records that were ahead of the others."""
        if fold.ahead and self._is_ahead_due():
            names, number = ", ".join(sorted(fold.ahead)), fold.ahead.total()
            fold.ahead.clear()
            where = {"topic": fold.topic, "partition": fold.partition}
            message = "%s, partition %d: %d records of %s ahead of the others; is a producer's clock fast?"
            log.warning(message, *where.values(), number, names, extra=where)

    def report_rebuild(self, fold: SourceFold) -> None:
        """Reports how much is left to read until the label join is rebuilt, and its end."""
        left, reported_ms = fold.to_rejoin, self._reported_ms.get(fold.partition, 0)
        if (left and now_ms() - reported_ms >= REPORT_EVERY_MS) or (not left and reported_ms):
            self._reported_ms[fold.partition] = now_ms() if left else 0
            where = {"partition": fold.partition}
            message = "partition %d: %d records to read until the label join is rebuilt"
            log.info(message, *where.values(), left, extra=where)
