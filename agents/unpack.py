"""One partition's fetch response → its records, in pieces of bounded size: every topic is read in this way.

Every reader gets the same: aborted transactions are left out (unless it wants them), transaction markers are skipped,
nothing inflates beyond a bound, and unreadable data does not stop reading. An unreadable record has a `Damaged` value.
An unreadable batch stands for as many of them as its header says, the first with its bytes. All of it depends on the
log alone, so a second reading gives the same.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple, Protocol

from aiokafka.structs import ConsumerRecord, TopicPartition

from agents.clock import Seldom
from agents.inflate import NoInflation, at_once, inflated
from agents.message_set import read_messages
from agents.record_batch import (
    KEPT_BYTES,
    MAX_BATCH_RECORDS,
    BadBatch,
    Columns,
    Frames,
    RecordBatch,
    read_quickly,
    split,
)
from streams.fields import Damaged, Reason
from streams.records import Records

log = logging.getLogger(__name__)

READ_COMMITTED = 1
"""The isolation level in a fetch request."""
_EVERY_S = 5.0
_ABORT = b"\0\0\0\0"
_AT_A_TIME = 4_096
_GATHERED_BYTES = 256 << 10
_SKIPPED = 8
"""Bytes that are inflated to be passed over cost so much less than those that are kept."""

unreadable: Counter[str] = Counter()
"""Records that this process could not read, by their topic."""


@dataclass(slots=True)
class Budget:
    """How many bytes may still be unpacked: shared by all partitions that one poll reads."""

    left: int


class _Found(NamedTuple):
    """A batch, its first offset and the one after it; `reason`: why it cannot be read. What is before `at` was read."""

    batch: RecordBatch
    at: int
    first: int
    after: int
    reason: str


class Unpacking:
    """Gives the records of one response. `next_fetch_offset`: where the partition is to be read on.

    Parameters
    ----------
    data
        The bytes of the response.
    aborted
        Of the response, (producer id, first offset) of transactions; None for a reader who wants them too.
    fetch_offset
        What was asked for. Records before it are left out.
    end
        The high-water mark that came with the response; None if it is not known.
    """

    def __init__(
        self,
        tp: TopicPartition,
        data: bytes,
        aborted: Iterable[tuple[int, int]] | None,
        fetch_offset: int,
        end: int | None = None,
    ) -> None:
        self.tp, self.end = tp, end
        self.next_fetch_offset = fetch_offset
        self._committed = aborted is not None
        self._aborted = sorted(aborted or (), key=lambda item: -item[1])
        self._aborting: set[int] = set()
        self._pieces: Iterator[tuple[Columns, int, int]] | None = self._unpacked(data)
        self._columns, self._taken, self._after = Columns(), 0, fetch_offset

    @property
    def is_done(self) -> bool:
        """Whether all records were returned."""
        return self._pieces is None and self._taken >= len(self._columns)

    def take(self, max_records: int, budget: Budget) -> Columns:
        """The next records, so many at most, while the budget lasts; an empty result does not mean that there are no
        more."""
        taken = Columns()
        while len(taken) < max_records and (self._taken < len(self._columns) or self._next_piece(budget)):
            stop = min(len(self._columns), self._taken + max_records - len(taken))
            part = self._columns.part(self._taken, stop)
            self._taken = stop
            if stop == len(self._columns):
                self.next_fetch_offset, self._columns, self._taken = self._after, Columns(), 0
            else:
                self.next_fetch_offset = part.offsets[-1] + 1
            if taken.offsets:
                taken.extend(part)
            else:
                taken = part
        return taken

    def _next_piece(self, budget: Budget) -> bool:
        """Whether another piece was unpacked; it may be empty."""
        if self._pieces is None or budget.left <= 0:
            return False
        piece = next(self._pieces, None)
        if piece is None:
            self._pieces = None
            return False
        self._columns, after, cost = piece
        self._taken, self._after = 0, max(after, self.next_fetch_offset)
        budget.left -= cost if self._columns.offsets else cost // _SKIPPED
        if not self._columns.offsets:
            self.next_fetch_offset = self._after
        return True

    # Pieces: columns, the offset after them, the bytes that they were inflated to

    def _unpacked(self, data: bytes) -> Iterator[tuple[Columns, int, int]]:
        """Of ordinary batches many make a piece: with one for each, small batches would cost several times as much."""
        gathered, size = Columns(), 0
        gathered_to: int | None = None
        for found in self._in_order(data):
            quick = self._quickly(found)
            if quick is not None:
                quick = _from(quick, found.at)
                if gathered.offsets:
                    gathered.extend(quick)
                else:
                    gathered = quick
                size, gathered_to = size + len(found.batch.body), found.after
                if size < _GATHERED_BYTES:
                    continue
            if gathered_to is not None:
                yield gathered, gathered_to, size
                gathered, size, gathered_to = Columns(), 0, None
            if quick is None:
                for columns, stop, cost in self._carefully(found):
                    yield _from(columns, found.at), stop, cost
        if gathered_to is not None:
            yield gathered, gathered_to, size

    def _in_order(self, data: bytes) -> Iterator[_Found]:
        """The batches from the position on, each with what its header is worth."""
        at = self.next_fetch_offset
        batches, reason = _batches(data)
        starts = [batch.base_offset for batch in batches[1:]]
        for batch, following in zip_longest(batches, starts):
            base, last = batch.base_offset, batch.last_offset
            if 0 <= base <= last < at:
                continue  # a broker may send what lies before
            is_last = following is None or following <= at
            is_apart = is_last or last < following
            if not 0 <= base <= last >= at:
                is_possible = is_whole = False
            else:
                is_whole = batch.is_whole()
                is_possible = is_apart or (is_whole and base <= at)  # a checksum does not cover the next one's begin
            if self.end is not None and last >= self.end:
                # Kafka notes the end before it reads: what was written meanwhile is in the answer, beyond that end.
                # No compaction has been at it yet, so it has a record for each of its offsets.
                is_full = batch.count == last - base + 1 <= MAX_BATCH_RECORDS
                is_possible = is_possible and is_whole and is_full and base <= max(at, self.end)
            if is_possible:
                after = last + 1
                yield _Found(batch, at, base, after, "" if is_whole else "a wrong checksum")
            else:
                after = at + 1 if is_last else following
                yield _Found(batch, at, at, after, "an impossible header")
            at = after
        if not batches and data:
            cut_off = RecordBatch(2, at, at, 0, -1, -1, -1, 1, memoryview(data), memoryview(data))
            yield _Found(cut_off, at, at, at + 1, reason or "a batch that was cut off")

    def _quickly(self, found: _Found) -> Columns | None:
        """The records of an ordinary batch, none of an unwanted one; None for one that needs care."""
        batch = found.batch
        if found.reason or batch.magic != 2:
            return None
        if not self._is_wanted(batch):
            return Columns()
        records = at_once(batch.codec, batch.body)
        return None if records is None else read_quickly(batch, records, batch.count, batch.base_offset)

    def _carefully(self, found: _Found) -> Iterator[tuple[Columns, int, int]]:
        batch = found.batch
        if found.reason:
            count = batch.stands_for() if found.after == batch.next_offset else 1
            return self._damaged(batch.raw, found.first, found.after, count, found.reason)
        return self._records(batch) if batch.magic == 2 else self._messages(batch)

    def _is_wanted(self, batch: RecordBatch) -> bool:
        """Whether its records are data, and not of an aborted transaction; follows the transactions."""
        if self._committed and batch.magic >= 2 and batch.producer_id >= 0:
            while self._aborted and self._aborted[-1][1] <= batch.last_offset:
                self._aborting.add(self._aborted.pop()[0])
            if batch.is_control:
                if _is_abort(batch):
                    self._aborting.discard(batch.producer_id)
            elif batch.is_transactional and batch.producer_id in self._aborting:
                return False
        return not batch.is_control

    def _records(self, batch: RecordBatch) -> Iterator[tuple[Columns, int, int]]:
        frames, reason, damaged = Frames(batch), "", 0
        try:
            for chunk in inflated(batch.codec, batch.body):
                columns = Columns()
                frames.read(chunk, columns)
                if frames.damaged > damaged:
                    self._say(columns.offsets[0], columns.offsets[-1] + 1, frames.damaged - damaged, "bad records")
                    damaged = frames.damaged
                yield columns, frames.next_offset if frames.is_short else batch.next_offset, len(chunk)
                if frames.broken or not frames.is_short:
                    break
        except NoInflation as error:
            reason = str(error)
        if frames.is_short:
            missing = batch.count - frames.done
            reason = reason or frames.broken or "records are missing"
            yield from self._damaged(batch.raw, frames.next_offset, batch.next_offset, missing, reason)

    def _messages(self, batch: RecordBatch) -> Iterator[tuple[Columns, int, int]]:
        try:
            columns = read_messages(batch)
        except NoInflation as error:
            yield from self._damaged(batch.raw, batch.base_offset, batch.next_offset, 1, str(error))
        else:
            yield columns, batch.next_offset, sum(map(len, filter(None, columns.values)))

    def _damaged(
        self, raw: memoryview, first: int, after: int, count: int, reason: str
    ) -> Iterator[tuple[Columns, int, int]]:
        """So many records of which nothing is known but where they are."""
        count = min(count, after - first)
        if count <= 0:  # more records than offsets
            yield Columns(), after, 0
            return
        self._say(first, after, count, reason)
        for begin in range(0, count, _AT_A_TIME):
            columns = Columns()
            for index in range(begin, min(begin + _AT_A_TIME, count)):
                left, size = (bytes(raw[:KEPT_BYTES]), len(raw)) if index == 0 else (b"", 0)
                columns.add(first + index, -1, None, Damaged(left, Reason.BAD_BATCH, reason, size))
            stop = columns.offsets[-1] + 1
            yield columns, after if stop == first + count else stop, KEPT_BYTES

    def _say(self, first: int, after: int, count: int, reason: str) -> None:
        unreadable[self.tp.topic] += count
        _lines.say(self.tp, first, after - 1, count, reason)


class _Lines:
    """A line for what cannot be read, and one in a while when there is much of it."""

    def __init__(self) -> None:
        self._may = Seldom(_EVERY_S)
        self._left_out = 0

    def say(self, tp: TopicPartition, first: int, last: int, count: int, reason: str) -> None:
        if not self._may():
            self._left_out += count
            return
        more = f"; and {self._left_out} records without a line of their own" if self._left_out else ""
        self._left_out = 0
        log.error(
            "%s partition %d, offsets %d to %d: %d records cannot be read: %s%s",
            *(tp.topic, tp.partition, first, last, count, reason, more),
            extra={"topic": tp.topic, "partition": tp.partition, "offset": first, "reason": "bad_batch"},
        )


_lines = _Lines()


def _batches(data: bytes) -> tuple[list[RecordBatch], str]:
    """The batches before the first that is none, and what is wrong with that."""
    batches: list[RecordBatch] = []
    try:
        batches.extend(split(data))  # a list keeps what it was extended by before an error
    except BadBatch as error:
        return batches, str(error)
    return batches, ""


def _from(columns: Columns, begin: int) -> Columns:
    """Those that were asked for: the first batch may begin before them."""
    if not columns.offsets or columns.offsets[0] >= begin:
        return columns
    return columns.part(bisect_left(columns.offsets, begin), len(columns))


def _is_abort(batch: RecordBatch) -> bool:
    marker = Columns()
    Frames(batch).read(batch.body, marker)
    key = marker.keys[0] if marker.keys else None
    return key is not None and key[:4] == _ABORT


def consumer_records(tp: TopicPartition, columns: Columns) -> list[ConsumerRecord]:
    """The columns as aiokafka's own records."""
    headers = columns.headers
    return [
        ConsumerRecord(
            tp.topic,
            tp.partition,
            offset,
            columns.stamps_ms[at],
            0,
            columns.keys[at],
            columns.values[at],
            None,
            -1,
            -1,
            tuple(headers.get(at, ())),
        )
        for at, offset in enumerate(columns.offsets)
    ]


class Record(Protocol):
    """What a record has, whichever of aiokafka's classes it is of."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


def taken_apart(records: Iterable[Record]) -> Records:
    """Records as columns."""
    columns = Columns()
    columns.take(records)
    return columns.records()
