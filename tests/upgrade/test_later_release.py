"""A record of a later release: what it is of stands still, all else goes on; damage is never taken for one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

import agents.resuming
from agents import topics
from agents.alertmanager import _open_in
from agents.broker import EmbeddedBroker
from agents.channel import Batch
from agents.clients import Connection
from agents.merge import MergeStage
from agents.replay import generate
from agents.sketch import SketchStage
from streams.against_state import state_lines
from streams.errors import NewerError, SketchError
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.kept import models_of
from streams.ledger import LedgerState, pack_ledger, unpack_ledger
from streams.model_panes import BooksState
from streams.partial import Books, unpack
from streams.progress import Progress
from streams.publication import BOOKS_KEY, LEDGER_KEY, UNIT_KEY, unit_key
from streams.records import Records
from streams.restore import Kind
from streams.rollup import Unit
from streams.seal import READS
from streams.state import ModelState, pack_state, pack_unit, unpack_state, unpack_unit
from streams.truth import TruthState
from tests.embedded.conftest import until
from tests.embedded.test_worker import on_topic, page, running, samples
from tests.later_release import LATER, later_release
from tests.unit.test_parking import BAD, GOOD, folded, judge, log, plan, published, stream

HOUR_MS = 3_600_000
STATE = ModelState(model=BAD, judged_until_ms=HOUR_MS, first_pane_ms=0, last_event_pane_ms=0)
KEY = b"its key"
KINDS: dict[str, tuple[Callable[[], bytes], Callable[[bytes, bytes], object]]] = {
    "partial": (lambda: log()[0][1], unpack),
    "progress": (lambda: Progress(3, {"m": 4}).to_bytes(KEY), Progress.from_bytes),
    "roll-up": (lambda: pack_unit("m", Unit(60_000, 0, {}), KEY), unpack_unit),
    "ledger": (lambda: pack_ledger(LedgerState(model="m", truth=TruthState()), KEY), unpack_ledger),
    "state": (lambda: pack_state(STATE, KEY), lambda data, key: unpack_state(data, ModelState, key)),
    "books": (
        lambda: pack_state(BooksState({0: 1}, {"m": Books(2, 2)}), KEY),
        lambda data, key: unpack_state(data, BooksState, key),
    ),
}


# --- What is one, and what is damage


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_of_a_later_release_is_known_by_key_format_and_payload(kind: str) -> None:
    write, read = KINDS[kind]
    later = later_release(write(), KEY)
    with pytest.raises(NewerError, match=f"format {LATER}, of a later release"):
        read(later, KEY)
    with pytest.raises(SketchError):
        read(later, b"another key")
    with pytest.raises(SketchError):
        read(later[:-1], KEY)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_no_damage_makes_a_record_one_of_a_later_release(kind: str, data: st.DataObject) -> None:
    """Whatever a flipped format or any flipped bits make of a record: it is read, or it is damaged."""
    write, read = KINDS[kind]
    sound = bytearray(write())
    for at in data.draw(st.lists(st.integers(0, len(sound) - 1), max_size=3)):
        sound[at] ^= 1 << data.draw(st.integers(0, 7))
    if sound.startswith(b"FSHK"):
        sound[4] = data.draw(st.integers(0, 255))
    try:
        read(bytes(sound), KEY)
    except SketchError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize("written", [-1, 0, max(READS) + 1, 99, 1 << 62])
def test_a_state_that_only_claims_a_format_is_damage(written: int) -> None:
    with pytest.raises(SketchError, match="without a seal"):
        unpack_state(b'{"format": %d}' % written, ModelState, b"shop")


# --- Stage 2


def stage() -> tuple[MergeStage, BucketJudge]:
    """Stage 2, and the judge of the bucket of both models."""
    made = plan()
    return MergeStage(made, Connection(broker="none:1"), Mock(), 1, {}), BucketJudge(made, 0, "inference", 1)


UNIT = UNIT_KEY + BAD.encode() + b"/1h/0"
OF_ONE = (BAD.encode(), UNIT, LEDGER_KEY + BAD.encode())


@pytest.mark.parametrize("key", OF_ONE)
def test_what_is_of_one_model_parks_it_alone(key: bytes, caplog: pytest.LogCaptureFixture) -> None:
    merge, judge = stage()
    merge._restore(judge, key, later_release(pack_state(STATE), key))
    assert set(judge.parking.models) == {BAD} and not judge.stands_still
    assert "NewerError" in str(judge.parking.models[BAD])
    assert merge.later == {"state": 1, "partials": 0} and not merge.restarted
    assert f"1 models are parked until then: {BAD}" in caplog.text


@pytest.mark.parametrize("key", [BOOKS_KEY, BOOKS_KEY + b"feedback"])
def test_what_is_of_a_bucket_parks_its_models(key: bytes) -> None:
    merge, judge = stage()
    merge._restore(judge, key, later_release(b"{}", key))
    assert set(judge.parking.models) == set(judge.merge.models) and judge.stands_still


@pytest.mark.parametrize("key", [b"no such model", UNIT_KEY + b"other/1h/0", LEDGER_KEY + b"other", UNIT_KEY + b"bad"])
def test_what_is_of_no_declared_model_parks_none(key: bytes, caplog: pytest.LogCaptureFixture) -> None:
    merge, judge = stage()
    merge._restore(judge, key, later_release(b"{}", key))
    assert not judge.parking.models and merge.later["state"] == 1 and "of no declared model" in caplog.text


@pytest.mark.parametrize("key", [*OF_ONE, BOOKS_KEY])
def test_damage_that_claims_a_later_format_is_left_out_and_counted(key: bytes) -> None:
    merge, judge = stage()
    merge._restore(judge, key, later_release(b"{}", b"another key"))
    merge._restore(judge, key, b'{"format": 9}')
    assert merge.restarted == {Kind.UNSOUND: 2}
    assert not judge.parking.models and not merge.later["state"]


@given(st.sampled_from(["a", "a/1h/0", "b", "\0rollup/a"]), st.integers(-(2**40), 2**40), st.booleans())
def test_a_key_names_its_model_whatever_names_the_others_have(name: str, start_ms: int, has_stream: bool) -> None:
    names = ["a", "a/1h/0", "b", "\0rollup/a"]
    key = unit_key(name, ("seen" if has_stream else "", HOUR_MS, start_ms))
    assert name in models_of(key, names) and len(models_of(key, ["b", name])) == 1


def test_a_bucket_with_a_later_partial_publishes_and_deletes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    merge, ours = stage()
    merge.judges[0], merge._logs[0] = ours, Mock(is_whole=True)
    merge.intake = Mock(**{"current.return_value": True})
    for name in ("advance", "expire", "apply", "books_states"):
        monkeypatch.setattr(ours, name, Mock(side_effect=AssertionError))
    key = b"inference/0/0/0.0/0/later"
    values = [later_release(log()[0][1], key), log()[0][1]]
    records = Records([0, 1], [0, 0], values, keys=[key, b"inference/0/0/0.0/0/us"])
    asyncio.run(merge.process(Batch("partials", 0, records, 2, 2, True, 0, 0)))
    assert set(ours.parking.models) == {BAD, GOOD}
    assert merge.later["partials"] == 1 and not merge.work.rejects
    assert merge.positions == {0: 2} and not merge._at_work


def test_damaged_partials_that_claim_a_later_format_are_counted_and_their_neighbours_folded() -> None:
    merge, judge = stage()
    sound = log()[0][1]
    values = [sound[:4] + b"\x09" + sound[5:], later_release(sound, b"another"), sound]
    list(merge._fold(judge, Records([0, 1, 2], [0] * 3, values, keys=[KEY] * 3), fresh=True))
    assert merge.work.rejects == {"bad_partial": 2} and not judge.stands_still and judge.merge.sources


# --- Stage 1


def sketch(monkeypatch: pytest.MonkeyPatch, kept: dict[bytes, bytes]) -> SketchStage:
    async def read(connection: Any, topic: str, partitions: Any, take: Callable[..., None], **how: Any) -> Any:
        take([SimpleNamespace(partition=0, offset=7, key=key, value=value) for key, value in kept.items()])

    async def one_partition(topic: str) -> int:
        return 1

    monkeypatch.setattr(agents.resuming, "read_to_end", read)
    found = SketchStage(plan(), Connection(broker="none:1"), Mock(), "here", None, plan().kinds)
    monkeypatch.setattr(found.resuming, "partitions_of", one_partition)
    found.intake = Mock(logs={})
    return found


def assigned(found: SketchStage) -> Any:
    names = ("inference", "labels", "feedback", "outcomes")
    return asyncio.run(found.on_assigned({TopicPartition(name, at) for name in names for at in (0, 1)}))


@pytest.mark.parametrize(
    ("key", "still"),
    [
        (b"0", {("inference", 0), ("labels", 0), ("feedback", 0)}),
        (b"labels/0", {("inference", 0), ("labels", 0), ("feedback", 0)}),
        (b"feedback/1", {("inference", 1), ("labels", 1), ("feedback", 1)}),
        (b"outcomes/0", {("outcomes", 0)}),
    ],
)
def test_a_partition_with_a_later_progress_is_not_counted(
    key: bytes, still: set[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To begin at an older one would count records twice that are in partials already."""
    found = sketch(monkeypatch, {key: later_release(Progress(3, {}).to_bytes(), key)})
    starts = assigned(found)
    assert found.later.keys() == still
    assert all(starts[TopicPartition(*place)] is None for place in still)
    counted = {("inference", at) for at in found.folds} | found.facts.keys()
    assert not counted & still and counted
    held = {call.args[0] for call in found.intake.hold_back.call_args_list}  # type: ignore[union-attr]
    assert held == {TopicPartition(*place) for place in still}
    assert "nothing of" in caplog.text and "of a later release" in caplog.text


def test_a_worker_that_drains_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for ever for records that nothing counts."""
    found = sketch(monkeypatch, {b"0": later_release(Progress(3, {}).to_bytes(), b"0")})
    found.draining = True
    with pytest.raises(NewerError, match=r"^progress, partition 0, offset 7: "):
        assigned(found)


def test_damaged_progress_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sketch(monkeypatch, {b"0": later_release(Progress(3, {}).to_bytes(), b"1"), b"1": b"FSHK\x09" + b"x" * 40})
    assigned(found)
    assert found.resuming.damaged == 2 and not found.later and set(found.folds) == {0, 1}


# --- Commands


def test_the_bridge_leaves_such_a_state_out_and_says_it(caplog: pytest.LogCaptureFixture) -> None:
    key = BAD.encode()
    assert _open_in(key, later_release(pack_state(STATE), key), plan().config.models) == []
    assert "of a later release" in caplog.text and "the actions topic alone" in caplog.text


def test_check_says_which_models_a_start_would_park() -> None:
    key = BAD.encode()
    said = list(state_lines(plan(), {(0, key): later_release(pack_state(STATE), key)}))
    assert f"{BAD}: has a record of format {LATER}, of a later release: this release would park it; upgrade" in said
    assert f"{GOOD}: begins anew: `state` does not know it" in said


# --- A worker


def test_a_worker_lives_parks_the_model_and_evaluates_the_other(broker: EmbeddedBroker, topic: str) -> None:
    connection = broker.connection(prefix=f"{topic}-")
    key, hostile = BAD.encode(), b"inference/0/0/0.0/0/us"

    async def main() -> tuple[Any, dict[str, Any], set[str]]:
        for name in ("inference", "labels", "feedback", "outcomes"):
            await topics.create(connection, connection.topic(name), 2)
        await topics.ensure(connection, inference_partitions=2, buckets=plan().config.kafka.buckets)
        async with connection.producer() as producer:
            state, partial = later_release(pack_state(STATE), key), later_release(log()[0][1], b"another key")
            await producer.send_and_wait(connection.topic("state"), state, key, 0)
            await producer.send_and_wait(connection.topic("partials"), partial, hostile, 0)
        async with running(plan(), connection) as worker:
            pairs = [(str(number).encode(), line) for number, line in enumerate(stream()["events"])]
            await generate(connection, connection.topic("inference"), pairs)
            await until(lambda: worker.merge.judges and worker.merge.judges[0].judges[GOOD].state is not None, 60)
            health = json.loads(await page(worker, "/health"))
            assert worker.merge.work.rejects == {"bad_partial": 1}
            later = await samples(worker, "foreshock_later_release_records")
            shown = {sample.labels["topic"]: sample.value for sample in later}
            return shown, health, {window["model"] for window in await on_topic(connection, "windows")}

    shown, health, models = asyncio.run(main())
    assert shown == {"progress": 0, "partials": 0, "state": 1}
    assert list(health["parked_models"]) == [BAD] and "of a later release" in health["parked_models"][BAD]
    assert GOOD in models and BAD not in models


def test_the_other_model_is_as_exact_as_without_it() -> None:
    merge, _ = stage()
    whole = [found for found in folded(judge(), log()) if isinstance(found, Outcome)]
    parked = judge()
    merge._restore(parked, UNIT, later_release(b"{}", UNIT))
    outcomes = [found for found in folded(parked, log()) if isinstance(found, Outcome)]
    assert published(outcomes, GOOD) == published(whole, GOOD) and any(found.windows for found in whole)
    assert not published(outcomes, BAD)
