"""Bytes of a fetch response → record batches by their headers, and the records of a batch as columns.

Kafka's formats: batches of format 2, and the messages of formats 0 and 1. Nothing here trusts a length, a count or a
checksum: bytes that are no record batch give `BadBatch`, bytes that are no record give a `Damaged` value instead of the
record, and every other record of the batch is read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import lt
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c

from streams.envelope import Headers
from streams.fields import MAX_TIME_MS, Damaged, Reason
from streams.records import Records

MAX_RECORD_BYTES = 16 << 20
"""A larger record is passed over: no topic of ours takes one, and no event of that size is counted."""
KEPT_BYTES = 64 << 10
"""So much of a value that cannot be used is kept, for its dead letter."""
MAX_BATCH_RECORDS = 1 << 20
"""A damaged batch stands for at most so many records."""

_HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES = _HEADER.size
_LOG_OVERHEAD, _MAGIC_AT, _CHECKED_FROM = 12, 16, 21
_SMALLEST = 14
"""Bytes of the smallest message of format 0 after its length."""
_CODECS, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_LONGEST_VARINT = 10
_PADDING = bytes(64)
"""What aiokafka's parser may read beyond the end."""
_MAX_INT64 = 2**63 - 1


class BadBatch(Exception):
    """Bytes that are no record batch: where the next may begin is not known."""


@dataclass(slots=True)
class RecordBatch:
    """The header of one batch. `body`: its records, as they came, perhaps compressed."""

    magic: int
    base_offset: int
    last_offset: int
    attributes: int
    first_ms: int
    max_ms: int
    producer_id: int
    count: int
    body: memoryview
    raw: memoryview = field(repr=False)
    is_followed: bool = False
    """Whether there are bytes of the response behind it."""

    @property
    def codec(self) -> int:
        return self.attributes & _CODECS

    @property
    def next_offset(self) -> int:
        return self.last_offset + 1

    @property
    def is_control(self) -> bool:
        return self.magic >= 2 and bool(self.attributes & _CONTROL)

    @property
    def is_transactional(self) -> bool:
        return self.magic >= 2 and bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & _LOG_APPEND_TIME)

    def is_whole(self) -> bool:
        """Whether its checksum is that of its bytes, and its header is possible."""
        if self.magic < 2:
            return int.from_bytes(self.raw[12:16], "big") == zlib.crc32(self.raw[_MAGIC_AT:])
        stated = int.from_bytes(self.raw[17:21], "big")
        delta = self.last_offset - self.base_offset
        if not (delta >= 0 and 0 <= self.count <= delta + 1 and 0 <= self.base_offset <= _MAX_INT64 - delta - 1):
            return False
        return int(calc_crc32c(self.raw[_CHECKED_FROM:])) == stated

    def stands_for(self) -> int:
        """How many records it is counted as when none of them can be read."""
        slots = self.last_offset - self.base_offset + 1
        return self.count if 0 < self.count <= min(slots, MAX_BATCH_RECORDS) else 1


def split(data: bytes) -> Iterator[RecordBatch]:
    """The batches of a response, in order. What is left of a last batch that was cut off is passed over.

    Raises:
        BadBatch: where a length or a format number is impossible.
    """
    view, at, size = memoryview(data), 0, len(data)
    while size - at >= _MAGIC_AT + 1:
        length = int.from_bytes(view[at + 8 : at + 12], "big", signed=True)
        magic = view[at + _MAGIC_AT]
        if magic > 2 or length < (HEADER_BYTES - _LOG_OVERHEAD if magic == 2 else _SMALLEST):
            raise BadBatch(f"a batch of format {magic} and {length} bytes")
        end = at + _LOG_OVERHEAD + length
        if end > size:
            return
        followed = size - end >= len(_PADDING)
        yield _read_header(view[at:end], followed) if magic == 2 else _read_message(view[at:end])
        at = end


def _read_header(raw: memoryview, is_followed: bool) -> RecordBatch:
    base, _, _, magic, _, attributes, delta, first_ms, max_ms, producer, _, _, count = _HEADER.unpack_from(raw)
    body = raw[HEADER_BYTES:]
    return RecordBatch(magic, base, base + delta, attributes, first_ms, max_ms, producer, count, body, raw, is_followed)


def _read_message(raw: memoryview) -> RecordBatch:
    magic, offset = raw[_MAGIC_AT], int.from_bytes(raw[:8], "big", signed=True)
    stamp_ms = int.from_bytes(raw[18:26], "big", signed=True) if magic else -1
    return RecordBatch(magic, offset, offset, raw[17], stamp_ms, stamp_ms, -1, 1, raw, raw)


# --- Records of format 2


class Columns:
    """Records of one partition, as they are read: `streams.records.Records` before it is closed."""

    __slots__ = ("headers", "keys", "offsets", "stamps_ms", "values")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.stamps_ms: list[int] = []
        self.values: list[bytes | None] = []
        self.keys: list[bytes | None] = []
        self.headers: dict[int, Headers] = {}

    def take(self, records: Iterable[Any]) -> None:
        """Add the records of a parser. They go one by one: if they stayed, they would cost twice their parsing."""
        offsets, stamps_ms, values, keys = self.offsets, self.stamps_ms, self.values, self.keys
        for record in records:
            offsets.append(record.offset)
            stamps_ms.append(record.timestamp)
            values.append(record.value)
            keys.append(record.key)
            if record.headers:
                self.headers[len(values) - 1] = [(name, value or b"") for name, value in record.headers]

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, start: int, stop: int) -> Columns:
        """The rows at these indices."""
        if start == 0 and stop >= len(self):
            return self
        part, found = slice(start, stop), Columns()
        found.offsets, found.stamps_ms = self.offsets[part], self.stamps_ms[part]
        found.values, found.keys = self.values[part], self.keys[part]
        found.headers = {at - start: headers for at, headers in self.headers.items() if start <= at < stop}
        return found

    def records(self) -> Records:
        """The same, closed."""
        headers = [self.headers.get(at, ()) for at in range(len(self))] if self.headers else ()
        return Records(self.offsets, self.stamps_ms, self.values, headers, self.keys)

    def extend(self, more: Columns) -> None:
        """Add the records of other columns."""
        before = len(self.offsets)
        self.offsets += more.offsets
        self.stamps_ms += more.stamps_ms
        self.values += more.values
        self.keys += more.keys
        if more.headers:
            self.headers.update({before + index: headers for index, headers in more.headers.items()})

    def add(self, offset: int, stamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        if headers:
            self.headers[len(self.offsets)] = headers
        self.offsets.append(offset)
        self.stamps_ms.append(stamp_ms)
        self.keys.append(key)
        self.values.append(value)


class Frames:
    """The records of one batch, cut out of its inflated bytes as these come, chunk by chunk.

    `read` takes one chunk and adds the whole records in it to `columns`. What is left of `rest()` when no chunk is to
    come is what could not be read.
    """

    def __init__(self, batch: RecordBatch, max_record_bytes: int = MAX_RECORD_BYTES) -> None:
        self.batch, self.max_record_bytes = batch, max_record_bytes
        self.done = 0
        """Records that were read or passed over."""
        self.next_offset = batch.base_offset
        """After the last record that was read."""
        self.damaged = 0
        """Of those, the ones that could not be read."""
        self.broken = ""
        """Why nothing after this point can be read."""
        self._tail = b""
        self._to_skip = 0

    def read(self, chunk: bytes | memoryview, columns: Columns) -> None:
        """Add the records that this chunk ends."""
        at = min(self._to_skip, len(chunk))
        self._to_skip -= at
        data: bytes | None = self._tail + chunk[at:] if self._tail or at else bytes(chunk)
        self._tail = b""
        while not self.broken and data and self.done < self.batch.count:
            starts, ends, stop = _frame(data, self.batch.count - self.done, self.max_record_bytes)
            if starts:
                _decode(self, data, starts, ends, columns)
            self.done += len(starts)
            if self.done == self.batch.count:
                return
            data = self._pass_over(data[stop:] if stop else data, columns)
            if data is None:
                return

    def _pass_over(self, data: bytes, columns: Columns) -> bytes | None:
        """What is left after a record that is too large or has no length; None when more bytes are needed."""
        length, at = _varint(data, 0)
        if at < 0 and len(data) < _LONGEST_VARINT:
            self._tail = data
            return None
        if at < 0 or length < 0:
            self.broken = "a record without a length"
            return None
        if length <= self.max_record_bytes:
            self._tail = data
            return None
        if len(data) < at + min(length, 2 * KEPT_BYTES):  # a key may come before the value
            self._tail = data
            return None
        start, size = _value_in(data, at, length) or (at, length)
        left = data[start : start + min(size, KEPT_BYTES)]
        detail = f"a record of {length} bytes, the limit is {self.max_record_bytes}"
        self.place(columns, Damaged(left, Reason.TOO_LARGE, detail, size))
        self.done += 1
        end = at + length
        self._to_skip = max(0, end - len(data))
        return data[end:]

    def place(self, columns: Columns, value: Damaged) -> None:
        """A record whose offset alone is known."""
        columns.add(self.next_offset, _stamp(self.batch, self.batch.first_ms), None, value)
        self.next_offset += 1
        self.damaged += 1

    @property
    def is_short(self) -> bool:
        """Whether records are missing when no more bytes come."""
        return self.done < self.batch.count


def _value_in(data: bytes, start: int, length: int) -> tuple[int, int] | None:
    """Where a large record's value begins, and its bytes; None where the first bytes of the record do not say so."""
    end = start + length
    known = min(end, len(data), start + KEPT_BYTES)
    try:
        _, at = _checked(data, start + 1, known)
        _, at = _checked(data, at, known)
        key_bytes, at = _checked(data, at, known)
        size, at = _checked(data, at + max(key_bytes, 0), known)
    except ValueError:
        return None
    return (at, size) if key_bytes >= -1 and size > 0 and at + size < end else None  # its headers have a byte at least


def _unread(data: bytes, start: int, end: int, error: ValueError) -> Damaged:
    return Damaged(data[start : min(end, start + KEPT_BYTES)], Reason.BAD_RECORD, str(error), end - start)


def _stamp(batch: RecordBatch, stamp_ms: int) -> int:
    return _possible_ms(batch.max_ms if batch.is_log_append_time else stamp_ms)


def _possible_ms(stamp_ms: int) -> int:
    """A time that may be one; −1 stands for none, as Kafka has it."""
    return stamp_ms if stamp_ms == -1 else min(max(stamp_ms, 0), MAX_TIME_MS)


def _frame(data: bytes, count: int, limit: int) -> tuple[list[int], list[int], int]:
    """Where the bodies of whole records begin and end, and where that of the next one's length begins."""
    starts: list[int] = []
    ends: list[int] = []
    at, size = 0, len(data)
    try:
        for _ in range(count):
            low = data[at]
            if low < 0x80:
                length, start = low >> 1, at + 1
            else:
                high = data[at + 1]
                if high < 0x80:
                    length, start = (low & 0x7F | high << 7) >> 1, at + 2
                else:
                    length, start = _varint(data, at)
            end = start + length
            if low & 1 or end > size or length > limit or start < 0:
                break
            starts.append(start)
            ends.append(end)
            at = end
    except IndexError:
        pass
    return starts, ends, at


def _decode(frames: Frames, data: bytes, starts: list[int], ends: list[int], columns: Columns) -> None:
    quick = read_quickly(frames.batch, data[: ends[-1]], len(starts), frames.next_offset)
    if quick is None:
        for start, end in zip(starts, ends, strict=True):
            _decode_one(frames, data, start, end, columns)
    elif quick.offsets:
        columns.extend(quick)
        frames.next_offset = quick.offsets[-1] + 1


def _decode_one(frames: Frames, data: bytes, start: int, end: int, columns: Columns) -> None:
    batch = frames.batch
    try:
        at = start + 1  # its attributes say nothing
        delta_ms, at = _checked(data, at, end)
        delta, at = _checked(data, at, end)
        offset = batch.base_offset + delta
        if delta < 0 or offset < frames.next_offset or offset > batch.last_offset:
            raise ValueError("an offset that is not its batch's")
        key, at = _bytes(data, at, end)
        value, at = _bytes(data, at, end)
        headers = _headers_to(data, at, end)
    except ValueError as error:
        frames.place(columns, _unread(data, start, end, error))
        return
    columns.add(offset, _stamp(batch, batch.first_ms + delta_ms), key, value, headers)
    frames.next_offset = offset + 1


# --- By aiokafka's parser


def read_quickly(batch: RecordBatch, records: bytes | memoryview, count: int, first_offset: int) -> Columns | None:
    """So many ordinary records of a batch, by aiokafka's parser; None for those that must be read one by one.

    That parser raises on a header name that is no UTF-8, and reads a number on beyond the end of its buffer: there must
    be bytes behind it.
    """
    if len(records) > MAX_RECORD_BYTES:  # one of them may be too large
        return None
    if records is batch.body and count == batch.count and batch.is_followed:
        buffer = batch.raw
    else:
        head = bytearray(batch.raw[:HEADER_BYTES])
        head[22] &= ~_CODECS & 0xFF
        head[57:61] = count.to_bytes(4, "big")
        buffer = memoryview(b"".join((head, records, _PADDING)))[: -len(_PADDING)]
    columns = Columns()
    try:
        columns.take(DefaultRecordBatch(buffer))
    except (KafkaError, ValueError, IndexError, OverflowError, MemoryError):
        return None
    offsets, stamps = columns.offsets, columns.stamps_ms
    if not offsets:
        return columns
    if not first_offset <= offsets[0] <= offsets[-1] <= batch.last_offset:
        return None
    by_time = sorted(stamps)  # they nearly are, and then this is the fastest way to their least and greatest
    if by_time[0] < 0 or by_time[-1] > MAX_TIME_MS:
        return None
    if offsets != list(range(offsets[0], offsets[0] + len(offsets))):  # compaction leaves gaps
        return columns if all(map(lt, offsets, islice(offsets, 1, None))) else None
    return columns


# --- One by one


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and the place after it; a negative place where there is none within the bytes."""
    value = shift = 0
    for place in range(at, min(at + _LONGEST_VARINT, len(data))):
        octet = data[place]
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            value &= 2**64 - 1
            return (value >> 1) ^ -(value & 1), place + 1
        shift += 7
    return 0, -1


def _checked(data: bytes, at: int, end: int) -> tuple[int, int]:
    octet = data[at] if at < end else 0x80
    if octet < 0x80:
        return (octet >> 1) ^ -(octet & 1), at + 1
    value, after = _varint(data, at)
    if not at < after <= end:
        raise ValueError("a number without an end")
    return value, after


def _bytes(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    size, at = _checked(data, at, end)
    if size < 0:
        if size != -1:
            raise ValueError("a negative length")
        return None, at
    if at + size > end:
        raise ValueError("a length beyond its record's end")
    return data[at : at + size], at + size


def _headers_to(data: bytes, at: int, end: int) -> Headers:
    """A record's headers; of a name that is no UTF-8 what is wrong is replaced, as Kafka lets a name be any bytes."""
    count, at = _checked(data, at, end)
    if not 0 <= count <= end - at:
        raise ValueError("an impossible number of headers")
    found: list[tuple[str, bytes]] = []
    for _ in range(count):
        name, at = _bytes(data, at, end)
        if name is None:
            raise ValueError("a header without a name")
        value, at = _bytes(data, at, end)
        found.append((name.decode("utf-8", "replace"), value or b""))
    if at != end:
        raise ValueError("bytes after its headers")
    return found
