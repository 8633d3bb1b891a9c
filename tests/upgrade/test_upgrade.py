"""A worker goes on from what earlier releases left behind, and a later release from what this one leaves behind."""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import topics
from agents.app import Worker
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.files import read_plan
from agents.replay import generate
from agents.store import Stores
from agents.web_options import WebOptions
from streams import seal
from streams.backtest import Backtest
from streams.errors import NewerError, SketchError
from streams.join.fold import JoinFold
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.ledger import LedgerState, pack_ledger, unpack_ledger
from streams.model_panes import BooksState
from streams.partial import Books, key_of, pack, unpack
from streams.plan import Facts, Plan
from streams.progress import Progress
from streams.records import Records
from streams.rollup import Unit
from streams.signals.reference import MIN_EVENTS
from streams.source import SourceFold
from streams.state import ModelState, pack_state, pack_unit, unpack_state, unpack_unit
from streams.truth import TruthState
from tests.embedded.test_worker import on_topic, windows
from tests.faults.oracle import differences
from tests.faults.published import latest_windows, replayed
from tests.synthetic import INCIDENTS, START_MS, events, learned, lines
from tests.synthetic import plan as compiled
from tests.upgrade.make_fixture import CONFIG, FOLDER, INPUTS, PARTITIONS, RECORDS, REST, STATE, WRITTEN, Pair, Record

FINISHED_WITHIN_S = 60.0
NOW_MS = START_MS + 86_400_000


# --- From an earlier release


@pytest.mark.parametrize("archive", sorted(FOLDER.glob("*.tar.xz")), ids=lambda archive: archive.name)
def test_a_worker_goes_on_from_an_earlier_release(archive: Path, tmp_path: Path) -> None:
    """The same windows and actions as without an upgrade; nothing is rebuilt, nothing is left out."""
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    found = msgspec.msgpack.decode((tmp_path / RECORDS).read_bytes(), type=dict[str, list[Record]])
    rest = msgspec.msgpack.decode((tmp_path / REST).read_bytes(), type=dict[str, list[Pair]])
    plan = read_plan(tmp_path / CONFIG)
    reference = replayed(plan, *whole(found, rest))
    assert all(covered(plan, tmp_path / STATE, number) for number in range(PARTITIONS)), "no label is read twice"

    async def main() -> None:
        async with EmbeddedBroker() as broker:
            connection = broker.connection()
            await put_back(connection, found)
            for name, pairs in rest.items():
                await generate(connection, name, pairs)
            worker = Worker(plan, connection, WebOptions(), drain=True, state=tmp_path / STATE)
            await asyncio.wait_for(worker.run(), FINISHED_WITHIN_S)
            assert not worker.merge.work.rejects
            should = reference.windows | scaled_by_the_first_release(before_the_upgrade(found), reference.windows)
            assert not (wrong := differences(await windows(connection), should)), "\n".join(wrong[:40])
            assert {action["id"] for action in await on_topic(connection, "actions")} == reference.action_ids

    asyncio.run(main())


def before_the_upgrade(found: dict[str, list[Record]]) -> dict[str, dict[str, Any]]:
    """The windows that the earlier release judged, as it published them."""
    return latest_windows(json.loads(value) for _, _, value in found["windows"] if value is not None)


def scaled_by_the_first_release(
    earlier: dict[str, dict[str, Any]], today: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Windows that stay as the earlier release published them, for only a standard error is another today.

    A KPI's standard error is scaled with the n of its window since, and feedback of fewer than 30 events has no
    threshold. Neither is a reason to judge a window once more. Whatever else is in such a window has to be the same.
    """
    kept: dict[str, dict[str, Any]] = {}
    for key in earlier.keys() & today.keys():
        if earlier[key] != today[key] and without_chance(earlier[key]) == without_chance(today[key]):
            kept[key] = earlier[key]
    return kept


def without_chance(window: dict[str, Any]) -> dict[str, Any]:
    """The window without what follows from the standard errors that are another today."""

    def plain(signal: dict[str, Any]) -> dict[str, Any]:
        rescaled = signal["family"] == "business" or (signal["family"] == "proxy" and signal["n"] < MIN_EVENTS)
        return signal | {"threshold": None, "interval": None} if rescaled else signal

    return window | {"signals": [plain(signal) for signal in window["signals"]]}


def covered(plan: Plan, folder: Path, number: int) -> int:
    """Labels of a partition that the join on the disk need not read again."""
    stores = Stores(folder)
    try:
        return JoinFold(plan, "labels", number, stores.open("inference", number), NOW_MS).meta.covered.labels
    finally:
        stores.close()


def whole(found: dict[str, list[Record]], rest: dict[str, list[Pair]]) -> tuple[list[bytes], list[bytes], Any]:
    """All of the input, in the order of its times."""

    def values(name: str, time: str) -> list[bytes]:
        said = [value for _, _, value in found[name] if value is not None] + [value for _, value in rest[name]]
        return sorted(said, key=lambda value: json.loads(value)[time])

    told = {Facts.FEEDBACK: "ts", Facts.RUNS: "eventTime", Facts.OUTCOMES: "ts"}
    return values("inference", "ts"), values("labels", "label_ts"), {k: values(k, time) for k, time in told.items()}


async def put_back(connection: Connection, found: dict[str, list[Record]]) -> None:
    """Every record where it was: in its partition, at its offset."""
    for name in INPUTS:
        await topics.create(connection, name, PARTITIONS)
    await topics.ensure(connection, inference_partitions=PARTITIONS, buckets=PARTITIONS)
    async with connection.producer() as producer:
        for name in (*INPUTS, *WRITTEN):
            for number, key, value in found[name]:
                await producer.send(name, value, key, number)
        await producer.flush()


# --- From a later release


READS = seal.READS


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is the next release but one: it reads the format of today, and writes another."""
    monkeypatch.setattr(seal, "WRITES", max(READS) + 1)
    monkeypatch.setattr(seal, "READS", (*READS, max(READS) + 1))
    monkeypatch.setattr("streams.state.WRITES", max(READS) + 1)


KEY = b"its key"
SAVED = {
    "progress": (lambda: Progress(3, {"m": 4}).to_bytes(KEY), lambda data: Progress.from_bytes(data, KEY)),
    "roll-up": (lambda: pack_unit("m", Unit(60_000, 0, {}), KEY), lambda data: unpack_unit(data, KEY)),
    "ledger": (
        lambda: pack_ledger(LedgerState(model="m", truth=TruthState()), KEY),
        lambda data: unpack_ledger(data, KEY),
    ),
    "state": (
        lambda: pack_state(ModelState(model="m", judged_until_ms=1, first_pane_ms=0, last_event_pane_ms=0), KEY),
        lambda data: unpack_state(data, ModelState, KEY),
    ),
    "books": (
        lambda: pack_state(BooksState({0: 1}, {"m": Books(2, 2)}), KEY),
        lambda data: unpack_state(data, BooksState, KEY),
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_every_saved_record_says_its_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes: the later release reads what this one wrote, this one knows what the later one wrote."""
    write, read = SAVED[name]
    ours = write()
    with monkeypatch.context() as patch:
        later(patch)
        newer = write()
        assert read(newer) == read(ours)
    with pytest.raises(NewerError):
        read(newer)


def test_a_state_without_a_format_is_of_the_first_release() -> None:
    assert unpack_state(b'{"folded": {"0": 7}, "totals": {}}', BooksState) == BooksState({0: 7}, {})
    with pytest.raises(SketchError, match="does not open"):
        unpack_state(b'{"format": "one"}', BooksState)


def test_in_a_rolling_upgrade_the_old_worker_stops_short_and_the_new_one_counts_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stage 1 is upgraded half-way. The old stage 2 judges what it can read; the new one goes on from its state."""
    one = compiled(learned(), lambda text: text.replace("lateness: 1d", "lateness: 10m"))
    values = lines(events(9, 3, INCIDENTS))
    cut = len(values) // 2
    fold, log = SourceFold(one, "file", 0, None, NOW_MS), []

    def publish(start: int, stop: int, *, final: bool = False) -> None:
        for at in range(start, stop, 500):
            end = min(at + 500, stop)
            steps = fold.take(Records(range(at, end), [NOW_MS] * (end - at), values[at:end]), NOW_MS)
            steps.append(fold.publish(NOW_MS, caught_up=False, final=final and end == stop))
            for item in (item for step in steps for item in step.partials):
                log.append((item.bucket, key_of(item, "w"), pack(item, key_of(item, "w"))))

    publish(0, cut)
    with monkeypatch.context() as patch:
        later(patch)
        publish(cut, len(values), final=True)

    old, outcomes = {}, []
    with pytest.raises(NewerError):
        for bucket, key, value in log:
            outcomes += judged(old.setdefault(bucket, BucketJudge(one, bucket, "file", 1)), key, value)
    saved = [pack_state(judge.state) for bucket in old.values() for judge in bucket.judges.values() if judge.state]
    assert outcomes and saved

    later(monkeypatch)
    new = {bucket: BucketJudge(one, bucket, "file", 1) for bucket, _, _ in log}
    for data in saved:
        state = unpack_state(data, ModelState)
        new[one.config.bucket(state.model)].restore(state)
    for bucket, key, value in log:
        new[bucket].apply(unpack(value, key), key, fresh=False)
    for judge in new.values():
        list(judge.resume())
        outcomes += judge.advance()
    assert told(outcomes) == told(list(Backtest(one, NOW_MS).run(values)))


def judged(judge: BucketJudge, key: bytes, value: bytes) -> list[Outcome]:
    judge.apply(unpack(value, key), key)
    return list(judge.advance())


def told(outcomes: list[Outcome]) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Windows as a reader of the topic ends up with, and action ids."""
    written = [json.loads(msgspec.json.encode(window)) for outcome in outcomes for window in outcome.windows]
    return latest_windows(written), {action.id for outcome in outcomes for action in outcome.actions}
