"""Progress, and the log as it is now → where counting continues, so that nothing is mixed, counted twice or left out.

What may have happened to a log since its progress was written:

made anew   its topic has another id: a new generation of the log begins at its start
truncated   its start is beyond the progress (retention, DeleteRecords): counting continues where the publications of
            the open chunk end, as a continuation of that chunk; what is between is `lost`, and counted as such
cut         it ends before the progress, and what was published confirms the progress (an unclean election of a
            leader): a new generation begins at its end, as all before it has been counted
beyond      it ends before the progress, and nothing that was published goes so far: the progress is ignored
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from streams.position import MAX_GENERATION, generation_of, offset_of, position
from streams.progress import Progress


class Change(StrEnum):
    """What happened to a log."""

    NONE = "none"
    BEGUN = "begun"
    """Nothing is known of it yet."""
    IDENTIFIED = "identified"
    """Its progress did not name its log."""
    MADE_ANEW = "made anew"
    TRUNCATED = "truncated"
    CUT = "cut"
    BEYOND = "beyond"


@dataclass(frozen=True, slots=True)
class Log:
    """One partition's log as it is. `id`: its topic's id, empty if the broker has none. `end` None: unknown."""

    id: str = ""
    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class SourceLog:
    """A log that is read, over all its generations: ids by generation, and positions in the last one.

    `began`: where counting of the generation began. `end` None: unknown.
    """

    ids: Sequence[str]
    start: int
    end: int | None
    began: int

    @classmethod
    def of(cls, progress: Progress, log: Log) -> SourceLog:
        """The log that a progress belongs to."""
        generation = generation_of(progress.next_offset)
        end = None if log.end is None else position(generation, log.end)
        return cls(tuple(progress.logs), position(generation, log.start), end, progress.began)

    @property
    def generation(self) -> int:
        return generation_of(self.start)

    def holds(self, covered: int, known_id: str) -> bool:
        """Whether a store that covers this position, of a log with that id, can belong to this log."""
        generation = generation_of(covered)
        if generation > self.generation or (self.end is not None and covered > self.end):
            return False
        ours = self.ids[generation] if generation < len(self.ids) else ""
        return not ours or not known_id or ours == known_id


@dataclass(frozen=True, slots=True)
class Published:
    """The highest position of a partition up to which anything was published, and the stream times there."""

    end: int
    marks_ms: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where counting continues. `lost`: records that were deleted before they were counted."""

    progress: Progress
    change: Change
    lost: int = 0


def needs_published(progress: Progress | None, log: Log) -> bool:
    """Whether `resume` needs to know what was published of the partition."""
    if progress is None:
        return log.start > 0
    if _is_anew(progress, log):
        return False
    at = offset_of(progress.next_offset)
    return log.start > at or (log.end is not None and at > log.end)


def resume(progress: Progress | None, log: Log, published: Published | None = None) -> Resumption:
    """Where counting continues, as the progress that has to be written if `change` is not NONE."""
    if progress is None:
        known = Progress(0, {}, logs=[log.id], began=log.start)
        if published is None:
            return Resumption(msgspec.structs.replace(known, next_offset=log.start), Change.BEGUN)
        return _truncated(known, log, published)
    if _is_anew(progress, log):
        return Resumption(_next_generation(progress, log, log.start), Change.MADE_ANEW)
    generation, at = generation_of(progress.next_offset), offset_of(progress.next_offset)
    named = msgspec.structs.replace(progress, logs=[*progress.logs[:generation], log.id or _id_of(progress)])
    if log.end is not None and at > log.end:
        if published is not None and published.end >= progress.next_offset:
            return Resumption(_next_generation(named, log, log.end), Change.CUT)
        end = max(position(generation, log.start), published.end if published is not None else 0)
        marks_ms = dict(published.marks_ms) if published is not None else {}
        return Resumption(msgspec.structs.replace(named, next_offset=end, marks_ms=marks_ms), Change.BEYOND)
    if log.start > at:
        return _truncated(named, log, published)
    return Resumption(named, Change.IDENTIFIED if named.logs != progress.logs else Change.NONE)


def same_log(progress: Progress | None, log: Log) -> Resumption:
    """The generation of a log, for a reader that keeps its offset elsewhere."""
    if progress is None:
        return Resumption(Progress(log.start, {}, logs=[log.id], began=log.start), Change.BEGUN)
    if _is_anew(progress, log):
        return Resumption(_next_generation(progress, log, log.start), Change.MADE_ANEW)
    logs = [*progress.logs[: generation_of(progress.next_offset)], log.id or _id_of(progress)]
    change = Change.IDENTIFIED if logs != progress.logs else Change.NONE
    return Resumption(msgspec.structs.replace(progress, logs=logs), change)


def _id_of(progress: Progress) -> str:
    generation = generation_of(progress.next_offset)
    return progress.logs[generation] if generation < len(progress.logs) else ""


def _is_anew(progress: Progress, log: Log) -> bool:
    known = _id_of(progress)
    return bool(known and log.id) and known != log.id


def _next_generation(progress: Progress, log: Log, offset: int) -> Progress:
    generation = min(generation_of(progress.next_offset) + 1, MAX_GENERATION)
    logs = [*progress.logs, *[""] * (generation - len(progress.logs)), log.id]
    at = position(generation, offset)
    return msgspec.structs.replace(progress, next_offset=at, logs=logs, began=at)


def _truncated(progress: Progress, log: Log, published: Published | None) -> Resumption:
    start = position(generation_of(progress.next_offset), log.start)
    end = max(progress.next_offset, published.end if published is not None else 0)
    marks_ms = dict(progress.marks_ms)
    for name, mark_ms in (published.marks_ms if published is not None else {}).items():
        marks_ms[name] = max(mark_ms, marks_ms.get(name, mark_ms))
    lost = max(0, start - end)
    gone_on = msgspec.structs.replace(
        progress, next_offset=max(start, end), marks_ms=marks_ms, lost=progress.lost + lost
    )
    return Resumption(gone_on, Change.TRUNCATED, lost)
