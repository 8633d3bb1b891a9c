"""The two stores of the label join say the same; one that cannot be opened is replaced by an empty one."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.store import WRITE_BUFFERS_BYTES, RocksStore, Stores
from streams.errors import StoreError
from streams.store import MemoryStore, Store


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    found = RocksStore(tmp_path / "db")
    yield found
    found.close()


def test_what_is_written_is_there_until_it_is_deleted(store: Store) -> None:
    store.write({b"pa": b"1", b"pb": b"2", b"x": b"3"})
    store.write({b"pa": None, b"pc": b"4"})
    assert store.get_many([b"pa", b"pb", b"pc", b"nothing"]) == [None, b"2", b"4", None]
    assert store.get_many([]) == []
    assert list(store.scan(b"p")) == [(b"pb", b"2"), (b"pc", b"4")]
    assert list(store.scan(b"")) == [(b"pb", b"2"), (b"pc", b"4"), (b"x", b"3")]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.none() | st.binary(max_size=3)), max_size=20))
def test_both_stores_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[bytes, bytes | None]]
) -> None:
    memory, disk = MemoryStore(), RocksStore(tmp_path_factory.mktemp("db"))
    for key, value in writes:
        for one in (memory, disk):
            one.write({key: value})
    assert list(disk.scan(b"")) == list(memory.scan(b""))
    disk.close()


def test_a_restart_finds_what_was_written(tmp_path: Path) -> None:
    first = Stores(tmp_path)
    first.open("inference", 0).write({b"a": b"1"})
    first.close()
    again = Stores(tmp_path)
    assert again.open("inference", 0).get_many([b"a"]) == [b"1"]
    assert again.open("inference", 1).get_many([b"a"]) == [None]
    again.close()


def test_a_disk_without_room_is_told_in_one_line(tmp_path: Path) -> None:
    """And nothing of what was to be written is there."""
    store = RocksStore(tmp_path / "db")
    store.write({b"a": b"1"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))  # no file may grow beyond it
    try:
        with pytest.raises(StoreError, match=r"db: .*; expected a disk that works and has room; make room"):
            store.write({b"a": b"2", b"b": bytes(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        store.close()
    again = RocksStore(tmp_path / "db")
    assert again.get_many([b"a", b"b"]) == [b"1", None]
    again.close()


def test_the_memory_of_what_is_not_written_out_yet_does_not_grow_with_the_partitions(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    opened = [stores.open("inference", partition) for partition in range(10)]
    values = [os.urandom(1_000) for _ in range(1_000)]
    most = 0
    for turn in range(12):  # 12 MB each, and each may keep 16
        for store in opened:
            store.write({b"%d-%d" % (turn, at): value for at, value in enumerate(values)})
            most = max(most, kept_in_memory(stores))
    assert 0 < most <= 1.25 * WRITE_BUFFERS_BYTES
    assert [store.get_many([b"3-7"]) for store in opened] == [[values[7]]] * 10
    stores.close()


def kept_in_memory(stores: Stores) -> int:
    return sum(store._db.property_int_value("rocksdb.cur-size-all-mem-tables") for store in stores._open.values())
