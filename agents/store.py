"""Folder → the embedded RocksDB in which predictions of one partition wait for their labels.

It is a cache of the log: one that is locked by another process or damaged is left aside, and the join is rebuilt from
the topics.
"""

from __future__ import annotations

import glob
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from streams.errors import StoreError
from streams.store import Changes

log = logging.getLogger(__name__)

CACHE_BYTES = 32 << 20
WRITE_BUFFER_BYTES = 16 << 20
"""Of one partition."""
WRITE_BUFFERS_BYTES = 64 << 20
"""Of all partitions together: with more of them each writes out earlier."""
BLOOM_BITS = 10
MEMTABLE_BLOOM_SHARE = 0.1

_cache = Cache(CACHE_BYTES)
_buffers = WriteBufferManager(WRITE_BUFFERS_BYTES, False)
"""One of each for all partitions of the process."""


class RocksStore:
    """A `streams.store.Store` on disk; StoreError when the disk fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._db = Rdict(str(folder), _options())
        self._sync = WriteOptions()
        self._sync.sync = True  # what is published must be in the store, whatever happens to the machine

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._disk():
            found: Any = self._db.get(list(keys)) if keys else []
        return list(found)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        pairs: Any = self._db.items(from_key=prefix)
        for key, value in pairs:
            if not key.startswith(prefix):
                return
            yield key, value

    def write(self, changes: Changes) -> None:
        batch = WriteBatch(raw_mode=True)
        keys, values = list(changes), list(changes.values())
        # In the order of their first bytes: what goes in beside its neighbour finds its place four times as fast.
        for at in np.array(keys, "S8").view(">u8").astype(np.uint64).argsort(kind="stable").tolist():
            if values[at] is None:
                batch.delete(keys[at])
            else:
                batch.put(keys[at], values[at])
        with self._disk():
            self._db.write(batch, self._sync)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # rocksdict raises nothing narrower
            raise StoreError(
                place=str(self._folder),
                seen=str(error),
                expected="a disk that works and has room",
                mend="make room, or name another folder with --state: what is lost is rebuilt from the topics",
            ) from None

    def close(self) -> None:
        try:
            self._db.close()
        except Exception as error:  # rocksdict raises nothing narrower; all that counts is on disk since its write
            log.warning("%s did not close well: %s", self._folder, error)


class Stores:
    """The stores of the partitions that are ours, under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[int, RocksStore] = {}
        self._aside: list[Path] = []

    def open(self, name: str, partition: int) -> RocksStore:
        """The partition's store; an empty one elsewhere where its own cannot be opened."""
        place = self.folder / f"{name}-{partition}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            store = RocksStore(place)
        except Exception as error:  # rocksdict raises nothing narrower
            aside = Path(tempfile.mkdtemp(prefix="foreshock-join-"))
            self._aside.append(aside)
            log.warning(
                "%s cannot be opened (%s): partition %d is joined in %s",
                place,
                error,
                partition,
                aside,
                extra={"partition": partition},
            )
            store = RocksStore(aside)
        self._open[partition] = store
        return store

    def stored(self, name: str) -> list[int]:
        """The partitions of which there is something in the folder."""
        found = (place.name.rpartition("-") for place in self.folder.glob(f"{glob.escape(name)}-*"))
        return [int(number) for stem, _, number in found if stem == name and number.isdecimal()]

    def close(self) -> None:
        stores, self._open = self._open, {}
        for store in stores.values():
            store.close()
        folders, self._aside = self._aside, []
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_write_buffer_manager(_buffers)
    options.set_compression_type(DBCompressionType.lz4())
    # Nearly every look-up is of a key that is not there, and of those the newest part knows least.
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_SHARE)
    options.set_memtable_whole_key_filtering(True)
    table = BlockBasedOptions()
    table.set_block_cache(_cache)
    table.set_bloom_filter(BLOOM_BITS, False)
    options.set_block_based_table_factory(table)
    return options
