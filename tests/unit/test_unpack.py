"""`agents/unpack.py` and what it stands on: sound, hostile, huge and transactional batches of `tests/batches.py`."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
from collections.abc import Sequence

import pytest
from aiokafka import TopicPartition
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from agents.inflate import AT_ONCE_BYTES, CHUNK_BYTES
from agents.publish import Outgoing, cut
from agents.record_batch import KEPT_BYTES, MAX_RECORD_BYTES, Columns
from agents.unpack import Budget, Unpacking, unreadable
from streams.envelope import checked_size
from streams.fields import Damaged, Invalid, Reason
from tests.batches import CODECS, GZIP, LZ4, NONE, SNAPPY, STAMP_MS, ZSTD, Batch, Header, Item, bomb, marker, varint

TP = TopicPartition("t", 0)
ALL = 1 << 40
MIB = 1 << 20


def unpacked(
    *batches: Batch | bytes,
    at: int = 0,
    aborted: Sequence[tuple[int, int]] | None = (),
    end: int | None = None,
    max_records: int = ALL,
    budget: int = ALL,
) -> tuple[Columns, int, list[int]]:
    """All that a response of these batches gives, the next offset, and how many records came at a time."""
    data = b"".join(batch if isinstance(batch, bytes) else batch.to_bytes() for batch in batches)
    unpacking, found, sizes = Unpacking(TP, data, aborted, at, end), Columns(), []
    while not unpacking.is_done:
        before = unpacking.next_fetch_offset
        part = unpacking.take(max_records, Budget(budget))
        assert unpacking.next_fetch_offset >= before
        assert not part.offsets or before <= part.offsets[0] <= part.offsets[-1] < unpacking.next_fetch_offset
        found.extend(part)
        sizes.append(len(part))
    assert found.offsets == sorted(set(found.offsets))
    return found, unpacking.next_fetch_offset, sizes


def items(count: int, size: int = 10) -> list[Item]:
    return [Item(b"%d" % n + b"x" * size, b"k%d" % n) for n in range(count)]


def reasons(columns: Columns) -> list[tuple[int, str]]:
    return [
        (offset, str(value.reason))
        for offset, value in zip(columns.offsets, columns.values, strict=True)
        if isinstance(value, Damaged)
    ]


# --- What every client writes


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [0, 1, 31, 500])
def test_records_are_what_was_written(codec: int, count: int) -> None:
    written = [Item(None if n % 7 == 3 else b"%d" % n, None if n % 5 == 2 else b"k") for n in range(count)]
    found, after, _ = unpacked(Batch(10, written, codec, last_delta=count + 4), end=10_000)
    assert found.offsets == list(range(10, 10 + count)) and after == 15 + count
    assert found.values == [item.value for item in written] and found.keys == [item.key for item in written]
    assert found.stamps_ms == [STAMP_MS + n for n in range(count)] and not found.headers


def test_batches_that_begin_before_the_position_are_cut() -> None:
    found, after, _ = unpacked(Batch(0, items(5)), Batch(5, items(5)), Batch(10, items(5)), at=7)
    assert found.offsets == list(range(7, 15)) and after == 15


def test_a_batch_that_was_cut_off_is_passed_over_behind_a_whole_one() -> None:
    found, after, _ = unpacked(Batch(0, items(5)), Batch(5, items(5)).to_bytes()[:-3])
    assert found.offsets == list(range(5)) and after == 5


@pytest.mark.parametrize(
    "magic, codec", [(0, NONE), (0, GZIP), (0, SNAPPY), (1, NONE), (1, GZIP), (1, SNAPPY), (1, LZ4)]
)
def test_messages_of_the_old_formats_are_read(magic: int, codec: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    for n in range(5):
        builder.append(n, STAMP_MS + n, b"k", b"%d" % n)
    data = bytearray(builder.build())
    if codec:  # a broker gives a set the offset of its last message
        data[:8] = struct.pack(">q", 4)
    found, after, _ = unpacked(bytes(data))
    assert found.offsets == list(range(5)) and after == 5
    assert found.values == [b"0", b"1", b"2", b"3", b"4"]
    assert found.stamps_ms == ([-1] * 5 if magic == 0 else [STAMP_MS + n for n in range(5)])


# --- Transactions


def test_an_aborted_transaction_is_left_out_and_its_neighbours_are_not() -> None:
    log = (
        Batch(0, items(2), producer=1, transactional=True),
        Batch(2, items(2), producer=2, transactional=True),
        Batch(4, items(2)),
        marker(6, 1, commit=False),
        Batch(7, items(2), producer=1, transactional=True),
        marker(9, 2, commit=True),
        marker(10, 1, commit=True),
    )
    found, after, _ = unpacked(*log, aborted=[(1, 0)])
    assert found.offsets == [2, 3, 4, 5, 7, 8] and after == 11
    found, _, _ = unpacked(*log, aborted=None)
    assert found.offsets == [0, 1, 2, 3, 4, 5, 7, 8]


def test_a_transaction_that_was_begun_before_the_position_is_left_out() -> None:
    found, after, _ = unpacked(Batch(4, items(2), producer=1, transactional=True), at=5, aborted=[(1, 0)])
    assert found.offsets == [] and after == 6


# --- What no client should write


def test_a_header_name_that_is_no_utf_8_does_not_cost_its_record() -> None:
    log = [Item(b"a"), Item(b"b", headers=[(b"\xff\xfe", b"x"), (b"ce_id", None)]), Item(b"c")]
    found, _, _ = unpacked(Batch(0, log))
    assert found.values == [b"a", b"b", b"c"]
    assert found.headers == {1: [("\ufffd\ufffd", b"x"), ("ce_id", b"")]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0\0\x80",
        b"\0\0\0" + varint(2**62),
        b"\0\0\0\1" + varint(2**63 - 20),
        b"\0\0\0\1\1" + varint(2**31),
        b"\0\0\0\1\1\2\1\1",
        b"\0\0\0\1\1\2" + varint(2**63 - 20) + b"x",
        b"\0\0\0\1\1\0junk",
        b"\0\0" + varint(-9) + b"\1\1\0",
        b"\0\0" + varint(900) + b"\1\1\0",
        b"\xff" * 40,
    ],
)
@pytest.mark.parametrize("codec", [NONE, ZSTD])
def test_of_a_batch_with_a_malformed_record_all_others_are_read(body: bytes, codec: int) -> None:
    written = items(40)
    written[20] = Item(body=body)
    found, after, _ = unpacked(Batch(0, written, codec), Batch(40, items(3)))
    assert found.offsets == list(range(43)) and after == 43
    assert reasons(found) == [(20, "bad_record")]
    assert [value for n, value in enumerate(found.values) if n != 20] == [
        item.value for n, item in enumerate([*written, *items(3)]) if n != 20
    ]


@pytest.mark.parametrize(
    "damage",
    [
        {"wrong_crc": True},
        {"attributes": 5},
        {"attributes": 7},
        {"packed": b"no codec's bytes", "codec": GZIP},
        {"packed": b"no codec's bytes", "codec": SNAPPY},
        {"packed": b"no codec's bytes", "codec": LZ4},
        {"packed": b"no codec's bytes", "codec": ZSTD},
        {"packed": b""},
    ],
)
def test_a_batch_that_cannot_be_read_stands_for_its_records(damage: dict[str, object]) -> None:
    before = unreadable["t"]
    bad = dataclasses.replace(Batch(3, items(4)), **damage)  # type: ignore[arg-type]
    found, after, _ = unpacked(Batch(0, items(3)), bad, Batch(7, items(3)), end=10)
    assert found.offsets == list(range(10)) and after == 10
    assert reasons(found) == [(offset, "bad_batch") for offset in range(3, 7)]
    assert unreadable["t"] - before == 4
    assert found.values[3] == bad.to_bytes() and found.values[4] == b""
    # A second reading decides alike, wherever it begins.
    for at in range(10):
        again, _, _ = unpacked(Batch(0, items(3)), bad, Batch(7, items(3)), at=at, end=10, max_records=1)
        assert (again.offsets, reasons(again)) == (found.offsets[at:], reasons(found)[max(0, at - 3) :][: 10 - at])


@pytest.mark.parametrize("last_delta, count", [(2**31 - 1, 4), (2**31 - 1, 2**31 - 1), (-5, 4), (1, 9)])
def test_counts_and_offsets_that_cannot_be_do_not_lead_on(last_delta: int, count: int) -> None:
    bad = Batch(3, items(4), last_delta=last_delta, count=count)
    found, after, _ = unpacked(Batch(0, items(3)), bad, Batch(7, items(3)), end=10)
    assert after == 10 and found.offsets[-3:] == [7, 8, 9]
    assert reasons(found) and all(3 <= offset < 7 for offset, _ in reasons(found))


def test_what_was_written_after_kafka_noted_the_end_is_read() -> None:
    """A response states the end as it was before the read, and may hold batches beyond it."""
    found, after, _ = unpacked(Batch(0, items(3)), Batch(3, items(2)), Batch(5, items(1)), end=3)
    assert found.offsets == list(range(6)) and after == 6
    assert reasons(found) == []
    found, _, _ = unpacked(Batch(39, items(1)), at=39, end=39)
    assert found.offsets == [39] and reasons(found) == []


def test_a_batch_that_says_to_begin_before_its_neighbour_ends_changes_nothing_of_that() -> None:
    """A checksum does not cover where a batch begins."""
    found, _, _ = unpacked(Batch(0, items(5)), Batch(3, items(4)), Batch(8, items(2)), end=10)
    assert found.offsets == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert found.values[:5] == [item.value for item in items(5)] and not reasons(found)


def test_bytes_that_are_no_batch_are_passed_one_offset_at_a_time() -> None:
    for data in (b"\0" * 40, b"\xff" * 100, Batch(5, items(3)).to_bytes()[:30]):
        found, after, _ = unpacked(data, at=5)
        assert reasons(found) == [(5, "bad_batch")] and after == 6


def test_damaged_values_are_rejected_with_their_reason_whatever_they_hold() -> None:
    with pytest.raises(Invalid) as caught:
        checked_size(Damaged(b"{}", Reason.TOO_LARGE, "a record of 9 bytes"), 100)
    assert (caught.value.reason, caught.value.detail) == (Reason.TOO_LARGE, "a record of 9 bytes")


@pytest.mark.parametrize("codec", [NONE, GZIP, ZSTD])
@pytest.mark.parametrize("key", [None, b"", b"k" * 60_000])
@pytest.mark.parametrize("headers", [[], [(b"ce_id", b"1")]])
def test_of_a_record_that_is_too_large_the_beginning_of_its_value_is_kept(
    codec: int, key: bytes | None, headers: Sequence[Header]
) -> None:
    """And how many bytes the value has, as its dead letter says; wherever the bytes come in pieces."""
    value = b"".join(b"%06d " % n for n in range(20_000)).ljust(MAX_RECORD_BYTES + 1)
    before = Item(b"a" * (CHUNK_BYTES - KEPT_BYTES - 100))
    found, _, _ = unpacked(Batch(0, [before, Item(value, key, headers), Item(b"b")], codec))
    left = found.values[1]
    assert reasons(found) == [(1, "too_large")] and found.values[::2] == [before.value, b"b"]
    assert isinstance(left, Damaged) and (left.size, left) == (len(value), value[:KEPT_BYTES])
    (header, length) = cut(Outgoing("dead-letter", b"t-0", left)).headers[-1]
    assert (header, length) == ("foreshock.cut", b"%d" % len(value))


@pytest.mark.parametrize(
    "large",
    [
        Item(b"v", b"k" * (MAX_RECORD_BYTES + 1)),
        Item(None, b"k", [(b"h", b"x" * (MAX_RECORD_BYTES + 1))]),
        Item(body=b"\x80" * (MAX_RECORD_BYTES + 1)),
        Item(body=b"\0\0\0" + varint(-9) + b"x" * (MAX_RECORD_BYTES + 1)),
        Item(body=b"\0\0\0" + varint(-1) + varint(1 << 62) + b"x" * (MAX_RECORD_BYTES + 1)),
    ],
    ids=["a large key", "a large header", "numbers without an end", "a negative length", "a value beyond its end"],
)
def test_of_a_large_record_without_a_value_that_its_head_shows_the_record_is_kept(large: Item) -> None:
    found, _, _ = unpacked(Batch(0, [Item(b"a"), large, Item(b"b")]))
    packed = large.packed(1)
    body = packed[len(varint(len(packed))) :]
    left = found.values[1]
    assert reasons(found) == [(1, "too_large")] and found.values[::2] == [b"a", b"b"]
    assert isinstance(left, Damaged) and (left.size, left) == (len(body), body[:KEPT_BYTES])


def test_only_the_dead_letter_that_has_a_batchs_bytes_says_how_many_they_were() -> None:
    data = bytearray(Batch(0, [Item(b"x" * KEPT_BYTES)] * 3).to_bytes())
    data[-1] ^= 1
    found, _, _ = unpacked(bytes(data))
    letters = [cut(Outgoing("dead-letter", b"t-0", value)) for value in found.values]
    assert reasons(found) == [(0, "bad_batch"), (1, "bad_batch"), (2, "bad_batch")]
    assert [letter.headers for letter in letters] == [(("foreshock.cut", b"%d" % len(data)),), (), ()]


# --- Bytes


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_a_record_that_inflates_to_gigabytes_is_passed_over_within_a_bound(codec: int) -> None:
    bad = Batch(0, items(2), codec, packed=bomb(codec, 200 * MIB))
    unpacked(Batch(0, items(2), ZSTD, packed=bomb(ZSTD, 8 * MIB)))  # what is loaded once
    tracemalloc.start()
    found, after, sizes = unpacked(bad, Batch(2, items(3)), budget=MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.offsets == [0, 1, 2, 3, 4] and after == 5 and len(sizes) > 10
    assert reasons(found) == [(0, "too_large")] and found.values[1] == b"small"
    assert isinstance(found.values[0], Damaged) and found.values[0].size == 200 * MIB
    assert peak < AT_ONCE_BYTES + 8 * CHUNK_BYTES


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_a_batch_that_inflates_to_much_is_handed_out_in_pieces(codec: int) -> None:
    record = Item(b"a" * MIB)
    batch = Batch(0, [record] * 60, codec)
    data = batch.to_bytes()
    tracemalloc.start()
    unpacking, offsets, largest = Unpacking(TP, data, (), 0), [], 0
    while not unpacking.is_done:
        part = unpacking.take(500, Budget(4 * MIB))
        offsets += part.offsets
        largest = max(largest, len(part))
        assert all(value == record.value for value in part.values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert offsets == list(range(60)) and largest <= 6
    assert peak < 24 * MIB


def test_the_largest_record_that_is_read_is_of_the_limit() -> None:
    fits, large = Item(b"a" * (MAX_RECORD_BYTES - 20)), Item(b"a" * (MAX_RECORD_BYTES + 1))
    for codec in (NONE, ZSTD):
        found, _, _ = unpacked(Batch(0, [fits, large, Item(b"b")], codec))
        assert found.offsets == [0, 1, 2] and reasons(found) == [(1, "too_large")]
        assert found.values[0] == fits.value and found.values[2] == b"b"
