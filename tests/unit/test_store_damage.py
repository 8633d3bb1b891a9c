"""Damage of any file of a store: found, set aside once, and rebuilt in place; never are records missing amid."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.store import DAMAGED, HELD, RocksStore, Stores
from streams.errors import StoreDamaged, StoreError, StoreHeld

BATCHES, ROWS = 24, 400
KINDS = ("*.sst", "MANIFEST-*", "CURRENT", "*.log", "OPTIONS-*", "IDENTITY", "LOCK", "LOG", "*.json")


def batch(number: int) -> dict[bytes, bytes]:
    """Rows of one write, and the number of it."""
    rng = random.Random(number)
    return {b"r%03d/%04d" % (number, row): rng.randbytes(100) for row in range(ROWS)} | {b"m": b"%d" % number}


WHOLE = {key: value for number in range(BATCHES) for key, value in batch(number).items()}


def damaged_file(path: Path, how: str, drawn: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(data[: drawn.randrange(len(data)) if data else 0])
    elif how == "flipped":
        for _ in range(3 if data else 0):
            data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        path.write_bytes(data)
    elif how == "overwritten":
        begin = drawn.randrange(len(data)) if data else 0
        data[begin : begin + 500] = drawn.randbytes(len(data[begin : begin + 500]))
        path.write_bytes(data)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a worker that was killed: some of it in tables, some in the log only."""
    folder = tmp_path_factory.mktemp("killed")
    store = RocksStore(folder / "inference-0")
    for number in range(BATCHES):
        store.write(batch(number))
        if number % 7 == 6:
            store._db.flush()
    shutil.copytree(folder / "inference-0", folder / "copy")
    store.close()
    return folder / "copy"


@pytest.fixture
def state(killed: Path, tmp_path: Path) -> Path:
    shutil.copytree(killed, tmp_path / "state" / "inference-0")
    return tmp_path / "state"


def read(store: RocksStore) -> dict[bytes, bytes]:
    """All rows, by both ways of reading."""
    found = dict(store.scan(b""))
    keys = list(WHOLE)
    values = dict(zip(keys, store.get_many(keys), strict=True))
    assert {key: value for key, value in values.items() if value is not None} == found
    assert dict(store.scan(b"r01")) == {key: value for key, value in found.items() if key.startswith(b"r01")}
    return found


@pytest.mark.parametrize("how", ["deleted", "emptied", "cut", "flipped", "overwritten"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_whole_or_older_or_nothing(kind: str, how: str, state: Path, killed: Path) -> None:
    """What an older write left is whole too: the join goes on from there."""
    place = state / "inference-0"
    for seed, path in enumerate(sorted(killed.glob(kind))):
        shutil.rmtree(state)
        shutil.copytree(killed, place)
        damaged_file(place / path.name, how, random.Random(seed))
        stores = Stores(state)
        store = stores.open("inference", 0)
        try:
            found = read(store)
        except StoreDamaged:
            stores.condemn(0)
            store = stores.open("inference", 0)
            found = read(store)
            assert stores.set_aside == 1 and found == {}
        last = int(found.get(b"m", b"-1"))
        assert found == {key: value for number in range(last + 1) for key, value in batch(number).items()}
        assert last in (-1, BATCHES - 1) or kind == "*.log" or stores.set_aside == 0
        for number in range(last + 1, BATCHES):
            store.write(batch(number))
        stores.close()
        again = Stores(state)
        assert read(again.open("inference", 0)) == WHOLE and again.set_aside == 0, "the second start rebuilds nothing"
        again.close()
        assert {found.name.partition(".")[0] for found in state.iterdir()} == {"inference-0"}


REPLACED: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a link that leads nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("how", list(REPLACED))
@pytest.mark.parametrize("kind", KINDS)
def test_what_has_become_of_a_file_is_set_aside_with_its_folder(kind: str, how: str, state: Path) -> None:
    path = min((state / "inference-0").glob(kind))
    path.unlink()
    REPLACED[how](path)
    _assert_set_aside_once(state)


@pytest.mark.parametrize("how", ["a file", *(how for how in REPLACED if how != "a folder")])
def test_what_is_in_the_place_of_a_folder_is_set_aside(how: str, state: Path) -> None:
    shutil.rmtree(state / "inference-0")
    for _ in range(2):  # the second time there is something set aside already
        shutil.rmtree(state / "inference-0", ignore_errors=True)
        REPLACED.get(how, Path.touch)(state / "inference-0")
        _assert_set_aside_once(state)


def _assert_set_aside_once(state: Path) -> None:
    for set_aside in (1, 0):
        stores = Stores(state)
        store = stores.open("inference", 0)
        assert stores.set_aside == set_aside and read(store) == ({} if set_aside else batch(0))
        store.write(batch(0))
        stores.close()


def test_an_undamaged_folder_is_read_as_it_is(state: Path) -> None:
    stores = Stores(state)
    assert read(stores.open("inference", 0)) == WHOLE and stores.set_aside == 0
    stores.close()


def test_a_folder_without_a_seal_is_one_of_an_older_release(state: Path) -> None:
    (state / "inference-0" / "foreshock-seal.json").unlink()
    stores = Stores(state)
    assert read(stores.open("inference", 0)) == WHOLE
    stores.close()


def test_one_damaged_folder_is_kept_and_an_older_one_removed(state: Path) -> None:
    for turn in range(3):
        stores = Stores(state)
        store = stores.open("inference", 0)
        store.write({b"turn": b"%d" % turn})
        stores.close()
        (state / "inference-0" / f"turn-{turn}").touch()
        for manifest in (state / "inference-0").glob("MANIFEST-*"):
            manifest.write_bytes(b"x")
    stores = Stores(state)
    stores.open("inference", 0)
    stores.close()
    assert sorted(found.name for found in state.iterdir()) == ["inference-0", f"inference-0{DAMAGED}"]
    assert (state / f"inference-0{DAMAGED}" / "turn-2").exists()
    assert stores.stored("inference") == [0]


HOLD = """
import sys
from pathlib import Path
from agents.store import Stores
stores = Stores(Path(sys.argv[1]))
stores.open("inference", 0).write({b"theirs": b"1"})
print("held", flush=True)
sys.stdin.read()
stores.close()
"""


def test_a_folder_that_is_removed_while_it_is_open_is_made_anew(tmp_path: Path) -> None:
    """Even the worker that had it open goes on: with an empty store in its place."""
    stores = Stores(tmp_path / "state")
    stores.open("inference", 0).write({b"a": b"1"})
    shutil.rmtree(tmp_path / "state")
    stores.condemn(0)
    again = stores.open("inference", 0)
    again.write({b"b": b"2"})
    assert again.get_many([b"a", b"b"]) == [None, b"2"]
    assert stores.set_aside == 1
    stores.close()


def test_a_lock_is_no_damage(state: Path) -> None:
    """The other process keeps its store; ours is beside it, and goes when we go, or when we are killed."""
    left_over = state / f"inference-0{HELD}killed"
    left(left_over)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(state)], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        stores = Stores(state)
        with pytest.raises(StoreHeld, match="another process has it open"):
            stores.open("inference", 0)
        store = stores.open_beside("inference", 0)
        assert not left_over.exists()
        assert read(store) == {}
        assert stores.stored("inference") == [0]
        stores.close()
        other.communicate("")
    assert sorted(found.name for found in state.iterdir()) == ["inference-0"] and stores.set_aside == 0
    stores.open("inference", 0)
    stores.close()
    kept = RocksStore(state / "inference-0")
    assert kept.get_many([b"theirs", b"m"]) == [b"1", WHOLE[b"m"]]
    kept.close()


def left(folder: Path) -> None:
    RocksStore(folder).close()


def limited(work: Callable[[], object], limit: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_no_damage(state: Path) -> None:
    """It is an error, at the start too; what is there stays."""
    store = RocksStore(state / "inference-0")
    with pytest.raises(StoreError, match="make room") as raised:
        limited(lambda: store.write({b"x": bytes(10_000_000)}), 2_000_000)
    assert not isinstance(raised.value, StoreDamaged)
    store.close()
    stores = Stores(state)
    assert read(stores.open("inference", 0)) == WHOLE and stores.set_aside == 0
    stores.close()
