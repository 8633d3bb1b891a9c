"""Messages of Kafka's formats 0 and 1, from before headers, producer ids and transactions → columns of records."""

from __future__ import annotations

from collections.abc import Iterator

from agents.inflate import LZ4, ZSTD, NoInflation, inflated
from agents.record_batch import KEPT_BYTES, Columns, RecordBatch
from streams.fields import MAX_TIME_MS, Damaged, Reason

MAX_SET_BYTES = 64 << 20
"""A compressed set of messages that inflates to more is not read."""
_OVERHEAD = 12
_KEY_AT = {0: 18, 1: 26}


def read_messages(message: RecordBatch) -> Columns:
    """One message, or those of the compressed set in it; each unreadable one as a `Damaged` value.

    Raises:
        NoInflation: if its set cannot be inflated.
    """
    columns = Columns()
    if not message.codec:
        _add(columns, message.base_offset, message, message.raw)
        return columns
    inner = list(_inner(message))
    if not inner:
        return columns
    last = int.from_bytes(inner[-1][:8], "big", signed=True)
    shift = message.base_offset - last if message.magic == 1 else 0  # the offsets of format 1 are relative
    before = -1
    for raw in inner:
        offset = int.from_bytes(raw[:8], "big", signed=True) + shift
        if not before < offset <= message.base_offset:
            raise NoInflation("offsets that are not in order")
        _add(columns, offset, message, raw)
        before = offset
    return columns


def _inner(message: RecordBatch) -> Iterator[memoryview]:
    if message.codec == ZSTD or (message.codec == LZ4 and message.magic == 0):
        raise NoInflation(f"a codec, {message.codec}, that its format does not have")
    try:
        _, value = _key_and_value(message.raw, _KEY_AT[message.magic])
    except ValueError as error:
        raise NoInflation(str(error)) from None
    parts, size = [], 0
    for chunk in inflated(message.codec, value or b""):
        size += len(chunk)
        if size > MAX_SET_BYTES:
            raise NoInflation(f"it inflates to more than {MAX_SET_BYTES} bytes")
        parts.append(chunk)
    whole, at = memoryview(b"".join(parts)), 0
    while at < size:
        end = at + _OVERHEAD + int.from_bytes(whole[at + 8 : at + 12], "big")
        if end > size or end - at < _KEY_AT[0] + 8 or whole[at + 16] != message.magic:
            raise NoInflation("a message without an end")
        yield whole[at:end]
        at = end


def _add(columns: Columns, offset: int, outer: RecordBatch, raw: memoryview) -> None:
    stamp_ms = -1
    if outer.magic == 1:
        own_ms = int.from_bytes(raw[18:26], "big", signed=True)
        stamp_ms = outer.max_ms if outer.is_log_append_time else own_ms
        stamp_ms = stamp_ms if stamp_ms == -1 else min(max(stamp_ms, 0), MAX_TIME_MS)
    try:
        key, value = _key_and_value(raw, _KEY_AT[outer.magic])
    except ValueError as error:
        columns.add(offset, stamp_ms, None, Damaged(bytes(raw[:KEPT_BYTES]), Reason.BAD_RECORD, str(error), len(raw)))
    else:
        columns.add(offset, stamp_ms, key, value)


def _key_and_value(raw: memoryview, at: int) -> tuple[bytes | None, bytes | None]:
    key, at = _bytes(raw, at)
    value, at = _bytes(raw, at)
    if at != len(raw):
        raise ValueError("bytes after its value")
    return key, value


def _bytes(raw: memoryview, at: int) -> tuple[bytes | None, int]:
    size = int.from_bytes(raw[at : at + 4], "big", signed=True)
    at += 4
    if size == -1 and at <= len(raw):
        return None, at
    if size < 0 or at + size > len(raw):
        raise ValueError("a length beyond its end")
    return bytes(raw[at : at + size]), at + size
