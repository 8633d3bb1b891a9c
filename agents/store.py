"""Folder → the embedded RocksDB in which predictions of one partition wait for their labels.

It is a cache of the log. A damaged folder is renamed, once, and rebuilt from the topics; a folder that another process
has open is waited for, and then left alone: the join is rebuilt in a folder beside it.

This module detects what RocksDB itself does not: an iteration that a damaged block ends early, and a manifest or a log
that has become shorter than it was (`agents.store_seal`).
"""

from __future__ import annotations

import errno
import fcntl
import glob
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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

from agents.store_seal import Seal
from streams.errors import StoreDamaged, StoreError, StoreHeld
from streams.store import Changes

log = logging.getLogger(__name__)

CACHE_BYTES = 32 << 20
WRITE_BUFFER_BYTES = 16 << 20
"""Of one partition."""
WRITE_BUFFERS_BYTES = 64 << 20
"""Of all partitions together: with more of them each writes out earlier."""
BLOOM_BITS = 10
MEMTABLE_BLOOM_SHARE = 0.1
DAMAGED, HELD = ".damaged", ".held-"
"""What follows the name of a folder that was set aside, and of one beside a folder that another process holds."""
IS_DAMAGE = re.compile(
    r"corrupt|checksum|mismatch|no such file|not found|bad table magic|unknown (compression|footer|version)"
    r"|invalid (argument.*(options|column famil|comparator)|block|footer)|too short|truncated|not an sstable",
    re.IGNORECASE,
)
IS_FILE = re.compile(r".+\.(sst|log|json|json\.new)|(MANIFEST-|OPTIONS-|LOG).*|CURRENT|IDENTITY|LOCK").fullmatch
"""What a store's folder has of files."""
IS_HELD = re.compile(r"lock file|lock hold|resource temporarily unavailable", re.IGNORECASE)

_cache = Cache(CACHE_BYTES)
_buffers = WriteBufferManager(WRITE_BUFFERS_BYTES, False)
"""One of each for all partitions of the process."""


class RocksStore:
    """A `streams.store.Store` on disk.

    Raises StoreDamaged, from any call, when what is there cannot be read back; StoreHeld when another process has it
    open; StoreError when the disk fails or is full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seal = Seal(folder)
        with self._disk():
            _check_files(folder)
            self._seal.check()
            self._db = Rdict(str(folder), _options())
            self._seal.note()
        self._sync = WriteOptions()
        self._sync.sync = True  # what is published must be in the store, whatever happens to the machine

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._disk():
            found: Any = self._db.get(list(keys)) if keys else []
        return list(found)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        key, pairs = prefix, None
        try:
            with self._disk():
                pairs = iter(self._db.items(from_key=prefix))
            while True:
                with self._disk():
                    pair: Any = next(pairs, None)
                if pair is None or not pair[0].startswith(prefix):
                    break
                key = pair[0]
                yield pair
        finally:
            del pairs  # an iterator keeps the database open, and a traceback keeps the iterator
        if pair is None:
            self._check_end(key)

    def _check_end(self, last: bytes) -> None:
        """Raises StoreDamaged if a damaged block ended the iteration after `last`: RocksDB's bindings do not say so."""
        rest = self._db.iter()
        try:
            with self._disk():
                rest.seek(last)
                while rest.valid() and rest.key() == last:
                    rest.next()
                rest.status()
                if rest.valid():
                    raise RuntimeError("Corruption: an iteration ended early")
        finally:
            del rest

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
            self._seal.note()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # rocksdict raises nothing narrower
            raise _store_error(self._folder, str(error)) from None

    def close(self) -> None:
        try:
            self._db.close()
            self._seal.note()
        except Exception as error:  # rocksdict raises nothing narrower; all that counts is on disk since its write
            log.warning("%s did not close well: %s", self._folder, error)
        finally:
            del self._db  # which closes it, where RocksDB would not for what is damaged


def _check_files(folder: Path) -> None:
    """Raises StoreDamaged if a file of the store has become a folder, a link, a pipe or a device.

    RocksDB takes some of these for a failing disk, and waits for others.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            if IS_FILE(path.name) and not stat.S_ISREG(path.lstat().st_mode) and not _is_held(folder):
                raise StoreDamaged(place=str(folder), seen=f"{path.name} is no file any more")


def _store_error(folder: Path, text: str) -> StoreError:
    if IS_HELD.search(text):
        return StoreHeld(place=str(folder), seen="another process has it open", mend="end it, or name another --state")
    if IS_DAMAGE.search(text):
        return StoreDamaged(place=str(folder), seen=f"it is damaged: {text}")
    return StoreError(
        place=str(folder),
        seen=text,
        expected="a disk that works and has room",
        mend="make room, or name another folder with --state: what is lost is rebuilt from the topics",
    )


class Stores:
    """The stores of the partitions that are ours, under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[int, RocksStore] = {}
        self._aside: list[Path] = []
        self._condemned: set[Path] = set()
        """Folders in which damage was found while they were open."""
        self.set_aside = 0
        """Damaged folders that were set aside."""

    def open(self, name: str, partition: int) -> RocksStore:
        """The partition's store: an empty one if the old one was damaged.

        Raises:
            StoreHeld: while another process has it open.
            StoreError: if the disk fails or is full; nothing is lost by that.
        """
        place = self.folder / f"{name}-{partition}"
        if place in self._condemned:
            self._set_aside(place, "damage was found in it", partition)
        elif os.path.lexists(place) and not place.is_dir():
            self._set_aside(place, "it is no folder", partition)
        self._make(place)
        try:
            store = RocksStore(place)
        except StoreDamaged as error:
            self._set_aside(place, error.seen, partition)
            self._make(place)
            store = RocksStore(place)
        self._open[partition] = store
        return store

    def open_beside(self, name: str, partition: int) -> RocksStore:
        """An empty store for as long as the partition is ours; its own is another process's."""
        self._remove_left_over(name, partition)
        self._make(self.folder)
        aside = Path(tempfile.mkdtemp(prefix=f"{name}-{partition}{HELD}", dir=self.folder))
        self._aside.append(aside)
        place = self.folder / f"{name}-{partition}"
        extra = {"partition": partition}
        log.warning(
            "%s cannot be opened, another process holds it: partition %d is joined in %s",
            place,
            partition,
            aside,
            extra=extra,
        )
        self._open[partition] = store = RocksStore(aside)
        return store

    def condemn(self, partition: int) -> None:
        """Notes that the store of a partition is damaged: it is closed, and set aside when it is opened again."""
        store = self._open.pop(partition, None)
        if store is not None:
            store.close()
            self._condemned.add(store._folder)

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

    def _make(self, place: Path) -> None:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _store_error(place, error.strerror or str(error)) from None

    def _set_aside(self, place: Path, why: str, partition: int) -> None:
        """Renames a damaged folder, in the place of an older one; it is removed where the disk has no room for both."""
        aside = place.with_name(place.name + DAMAGED)
        try:
            _remove(aside)
            if os.path.lexists(place):
                place.rename(aside)
            else:  # the whole folder is gone: there is nothing to keep of it
                aside.mkdir(parents=True)
            size = sum(file.lstat().st_size for file in aside.iterdir()) if aside.is_dir() else 0
            if shutil.disk_usage(self.folder).free < 2 * size:
                shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise _store_error(place, error.strerror or str(error)) from None
        self._condemned.discard(place)
        self.set_aside += 1
        log.warning(
            "%s: %s; set aside as %s, and the label join of partition %d is rebuilt from the topics",
            place,
            why,
            aside.name,
            partition,
            extra={"partition": partition},
        )

    def _remove_left_over(self, name: str, partition: int) -> None:
        """Removes folders beside it that no process has open: of workers that were killed."""
        for folder in self.folder.glob(f"{glob.escape(name)}-{partition}{HELD}*"):
            if not _is_held(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes a folder, or what is in its place, as far as that can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_held(folder: Path) -> bool:
    lock_file = folder / "LOCK"
    if not stat.S_ISREG(lock_file.lstat().st_mode if os.path.lexists(lock_file) else 0):
        return False
    with suppress(OSError), lock_file.open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_paranoid_checks(True)
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
