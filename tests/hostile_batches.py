"""Responses with damaged and hostile batches between sound ones, for every topic: targets of `make fuzz`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from aiokafka import TopicPartition
from aiokafka.record.util import calc_crc32c
from hypothesis import strategies as st

from agents.record_batch import MAX_RECORD_BYTES, Columns
from agents.unpack import Budget, Unpacking
from streams.fields import Damaged
from tests.batches import CODECS, GZIP, LZ4, ZSTD, Batch, Header, Item, bomb, marker, varint

TP = TopicPartition("t", 0)
BEGIN = 1_000
"""The offset of the first batch."""
MIB = 1 << 20
NUMBERS = (0, 1, -1, 2, 255, 2**15, 2**31 - 1, -(2**31))
LENGTHS = (0, -1, -2, 1, 63, 64, 2**20, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))


@dataclass(frozen=True)
class Response:
    """`before` and `after` are sound; `is_framed`: what lies between says truly where it ends, and its offsets."""

    before: Batch
    hostile: bytes
    after: Batch
    is_framed: bool
    aborted: tuple[tuple[int, int], ...]
    most: int
    budget: int

    @property
    def data(self) -> bytes:
        return self.before.to_bytes() + self.hostile + self.after.to_bytes()


@cache
def bombs() -> dict[int, bytes]:
    return {codec: bomb(codec, 40 * MIB) for codec in (GZIP, LZ4, ZSTD)}


@st.composite
def bodies(draw: st.DrawFn, value: st.SearchStrategy[bytes]) -> bytes:
    """A record's fields, some of them with lengths and numbers that cannot be."""
    number = st.sampled_from(LENGTHS).map(varint)
    length = st.one_of(number, st.just(b"\xff" * 11), st.just(b"\x80"))
    parts = [b"\0", draw(number | st.just(b"\0")), draw(number | st.just(b"\2"))]
    for part in (b"k", draw(value)):
        parts += [draw(length | st.just(varint(len(part)))), part]
    parts += [draw(length | st.just(b"\2")), draw(length | st.just(b"\2")), b"\xff", draw(length | st.just(b"\1"))]
    return b"".join(parts[: draw(st.integers(0, len(parts)))])


@st.composite
def hostile_batches(draw: st.DrawFn, values: st.SearchStrategy[bytes], base: int) -> tuple[bytes, bool]:
    """The bytes of a batch, and whether it is framed."""
    names = st.binary(max_size=6)
    headers: st.SearchStrategy[list[Header]] = st.lists(st.tuples(names, st.none() | st.binary(max_size=6)), max_size=2)
    item = st.builds(Item, value=st.none() | values, key=st.none() | st.binary(max_size=6), headers=headers)
    items = draw(st.lists(item | st.builds(Item, body=bodies(values)), min_size=1, max_size=5))
    codec = draw(st.sampled_from([*CODECS]))
    batch = Batch(base, items, codec, producer=draw(st.sampled_from((-1, 7))), transactional=draw(st.booleans()))
    how = draw(st.sampled_from(("sound", "bits", "checked bits", "body", "header", "attributes", "bomb", "marker")))
    if how == "bomb":
        batch = replace(batch, codec=(codec := draw(st.sampled_from([*bombs()]))), packed=bombs()[codec])
    elif how == "marker":
        batch = marker(base, 7, commit=draw(st.booleans()))
    elif how == "attributes":
        batch = replace(batch, attributes=draw(st.integers(0, 2**15 - 1)))
    elif how == "header":
        batch = replace(batch, count=draw(st.sampled_from(NUMBERS)), wrong_crc=draw(st.booleans()))
        return batch.to_bytes(), True
    data = bytearray(batch.to_bytes())
    if how in ("bits", "checked bits", "body"):
        begin = {"bits": 0, "checked bits": 12, "body": 61}[how]
        for _ in range(draw(st.integers(1, 6))):
            at = draw(st.integers(begin, len(data) - 1)) if begin < len(data) else 0
            data[at] ^= 1 << draw(st.integers(0, 7))
        if how != "bits":
            data[16] = 2
            data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
    return bytes(data), how != "bits" and (how != "checked bits" or data[23:27] == batch.to_bytes()[23:27])


@st.composite
def responses(draw: st.DrawFn, sound: Sequence[bytes], values: st.SearchStrategy[bytes]) -> Response:
    """Batches of a topic whose sound values are given, and `values` that may be anything."""
    before = Batch(BEGIN, [Item(draw(st.sampled_from(sound))) for _ in range(draw(st.integers(1, 3)))])
    base = before.last + 1
    hostile, is_framed = draw(hostile_batches(values, base))
    after = Batch(base + 10, [Item(draw(st.sampled_from(sound))) for _ in range(draw(st.integers(1, 3)))])
    aborted = draw(st.sampled_from(((), ((7, base),), ((7, 0), (9, base)))))
    most, budget = draw(st.sampled_from((1, 2, 500))), draw(st.sampled_from((1, MIB, 64 * MIB)))
    return Response(before, hostile, after, is_framed, aborted, most, budget)


def unpacked(response: Response, at: int) -> tuple[Columns, int]:
    end = response.after.last + 1
    unpacking, found = Unpacking(TP, response.data, response.aborted, at, end), Columns()
    while not unpacking.is_done:
        position = unpacking.next_fetch_offset
        found.extend(unpacking.take(response.most, Budget(response.budget)))
        assert position <= unpacking.next_fetch_offset <= end
    return found, unpacking.next_fetch_offset


def check_response(read: Callable[[Columns], object]) -> Callable[[Response], None]:
    """Sound batches are read as they are, a second reading decides alike, and the topic's reader takes what comes."""

    def check(response: Response) -> None:
        found, after = unpacked(response, BEGIN)
        rows = dict(zip(found.offsets, found.values, strict=True))
        assert list(rows) == sorted(rows) and len(rows) == len(found.offsets)
        assert all(len(value or b"") <= MAX_RECORD_BYTES for value in rows.values())
        assert all(-1 <= stamp <= 2**47 for stamp in found.stamps_ms)
        sound = [response.before, response.after] if response.is_framed else [response.before]
        for batch in sound:
            values = {batch.base + index: item.value for index, item in enumerate(batch.items)}
            assert {offset: rows.get(offset) for offset in values} == values
            assert not any(isinstance(rows[offset], Damaged) for offset in values)
        assert not response.is_framed or after == response.after.last + 1
        for at in (BEGIN + 1, response.before.last + 1, response.before.last + 2):
            again, _ = unpacked(response, at)
            if response.is_framed:
                expected = [(offset, value) for offset, value in rows.items() if offset >= at]
                assert list(zip(again.offsets, again.values, strict=True)) == expected
        read(found)

    return check


def each(decode: Callable[[Any], object]) -> Callable[[Columns], None]:
    """The reader of one value."""

    def read(columns: Columns) -> None:
        for value in columns.values:
            decode(value)

    return read


def heads(columns: Columns) -> list[tuple[Any, list[tuple[str, bytes]]]]:
    """Values, and their headers."""
    return [(value, list(columns.headers.get(index, ()))) for index, value in enumerate(columns.values)]
