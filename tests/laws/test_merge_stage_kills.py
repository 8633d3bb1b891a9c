"""The shell of stage 2, killed before any of its publications and rebuilt from the topics, leaves no trace.

`tests/laws/test_stage_two.py` holds the pure part to this with an order of its own; here the order is that of
`agents.merge.MergeStage` itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from aiokafka import TopicPartition

import agents.merge
from agents.channel import Batch
from agents.clients import Connection
from agents.merge import MergeStage
from agents.publish import Outgoing
from streams.errors import BrokerError
from streams.partial import Books, key_of, pack
from streams.plan import Plan
from streams.publication import BOOKS_KEY, UNIT_KEY
from streams.records import Records
from streams.source import SourceFold
from tests import config_edits
from tests.laws.test_replay import NOW_MS, PLAN, SOON, edited
from tests.synthetic import MODEL, Event, events, learned, lines, plan

BUCKET = PLAN.config.bucket(MODEL)
EVERY_MS = 500
"""120 events a minute: enough for verdicts, few enough for many runs."""


class Killed(BaseException):
    """The process is gone. No `except Exception` survives it."""


@dataclass
class Kafka:
    """The topics of one bucket as lists. `kill_before`: the number of the record that is never sent."""

    partials: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    state: dict[bytes, bytes | None] = field(default_factory=dict)
    windows: list[dict[str, Any]] = field(default_factory=list)
    actions: list[dict[str, Any]] = field(default_factory=list)
    sent: list[tuple[str, bytes | None, bool]] = field(default_factory=list)
    """Topic, key, and whether it was a tombstone."""
    kill_before: int = -1
    has_no_actions: bool = False
    """The actions topic cannot be read."""

    async def publish(self, producer: Any, records: Sequence[Outgoing], *rest: Any) -> dict[tuple[str, int], int]:
        """Stands in for `agents.publish.publish`: each record is on its topic, or the process is gone."""
        for record in records:
            if len(self.sent) == self.kill_before:
                self.kill_before = -1
                raise Killed
            self.sent.append((record.topic, record.key, record.value is None))
            assert record.partition == (BUCKET if record.topic in ("state", "partials") else None)
            self._keep(record)
        return {(record.topic, 0): 0 for record in records}

    def _keep(self, record: Outgoing) -> None:
        key = record.key or b""
        if record.topic == "partials":
            self.partials.append((key, record.value))
        elif record.topic == "state":
            self.state[key] = record.value
        else:
            {"windows": self.windows, "actions": self.actions}[record.topic].append(
                msgspec.json.decode(record.value or b"")
            )

    async def read(
        self, connection: Any, topic: str, partitions: Iterable[int], take: Callable[[list[Any]], None], **how: Any
    ) -> dict[int, int]:
        """Stands in for `read_to_end`."""
        pairs = list(self.state.items()) if topic == "state" else list(self.partials)
        records = [
            SimpleNamespace(
                partition=BUCKET, offset=at, timestamp=0, timestamp_type=0, key=key, value=value, headers=()
            )
            for at, (key, value) in enumerate(pairs)
        ]
        if records:
            take(records)
        return {BUCKET: len(records)}

    async def read_actions(self, connection: Any, take: Callable[[list[Any]], None]) -> dict[TopicPartition, int]:
        """Stands in for `read_all`."""
        if self.has_no_actions:
            raise BrokerError(seen="no topic actions", expected="one")
        take([SimpleNamespace(value=msgspec.json.encode(action)) for action in self.actions])
        return {}

    def compact(self) -> None:
        last = {key: at for at, (key, _) in enumerate(self.partials)}
        self.partials = [(key, value) for at, (key, value) in enumerate(self.partials) if last[key] == at and value]

    def final_windows(self) -> dict[str, Any]:
        """Per window the record with the highest revision."""
        latest: dict[str, dict[str, Any]] = {}
        for window in self.windows:
            key = msgspec.json.encode([window[name] for name in ("version", "segment", "start", "end", "clock")])
            known = latest.get(key.decode())
            if known is None or known["revision"] <= window["revision"]:
                latest[key.decode()] = window | {"top_unseen": {}}
        return latest


def stage_of(kafka: Kafka, plan: Plan = PLAN) -> MergeStage:
    stage = MergeStage(plan, Connection(broker="none:1"), Mock(), 1, {})
    stage.intake = Mock(unbroken=False, **{"current.return_value": True})
    asyncio.run(stage.on_assigned({TopicPartition("partials", BUCKET)}))
    return stage


def process(stage: MergeStage, kafka: Kafka, batch: Sequence[tuple[bytes, bytes]]) -> None:
    """One batch of the partials topic, judged without a wait, and an expiry with each."""
    first = len(kafka.partials)
    kafka.partials += batch
    keys, values = [key for key, _ in batch], [value for _, value in batch]
    offsets = range(first, first + len(batch))
    records = Records(offsets, [0] * len(batch), values, (), keys)
    stage._expired_at.clear()
    stage._judge_from.clear()
    asyncio.run(stage.process(Batch("partials", BUCKET, records, offsets.stop, offsets.stop, True, 0, 0)))


def run(batches: Sequence[Sequence[tuple[bytes, bytes]]], kill_before: int = -1, *, compacts: bool = False) -> Kafka:
    """A worker over the batches. After the kill another one goes on, which has read the topics as far as they go."""
    kafka = Kafka(kill_before=kill_before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.merge, "publish", kafka.publish)
        patch.setattr(agents.merge, "read_to_end", kafka.read)
        patch.setattr(agents.merge, "read_all", kafka.read_actions)
        stage = stage_of(kafka)
        for batch in batches:
            new: Sequence[tuple[bytes, bytes]] | None = batch
            while new is not None:
                try:
                    process(stage, kafka, new)
                    new = None
                except Killed:
                    if compacts:
                        kafka.compact()
                    stage, new = stage_of(kafka), []
    return kafka


def books_after_a_rebuild(kafka: Kafka) -> Books:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.merge, "read_to_end", kafka.read)
        patch.setattr(agents.merge, "read_all", kafka.read_actions)
        books: Books = stage_of(kafka).judges[BUCKET].merge.models[MODEL].books
    return books


@pytest.fixture(scope="module")
def batches() -> list[list[tuple[bytes, bytes]]]:
    """More than a chunk of events, with incidents, and panes that are evicted before the end."""
    stream: list[Event] = list(events(26, 5, SOON, every_ms=EVERY_MS))
    for number, item in enumerate(stream):
        if number % 37 == 0:
            item["ts"] -= 90_000
    config = PLAN.config
    small = msgspec.structs.replace(config, kafka=msgspec.structs.replace(config.kafka, chunk_size=512))
    fold = SourceFold(replace(PLAN, config=small), config.kafka.inference, 0, None, NOW_MS)
    found: list[list[tuple[bytes, bytes]]] = []
    for at in range(0, len(stream), 600):
        part = lines(stream[at : at + 600])
        steps = fold.take(Records(range(at, at + len(part)), [NOW_MS] * len(part), part), NOW_MS)
        steps.append(fold.publish(NOW_MS, caught_up=False, final=at + 600 >= len(stream)))
        found.append([(key_of(p, "w"), pack(p)) for step in steps for p in step.partials if p.bucket == BUCKET])
    return found


def test_a_kill_before_any_record_leaves_no_trace(batches: list[list[tuple[bytes, bytes]]]) -> None:
    calm = run(batches)
    ids = {action["id"] for action in calm.actions}
    topics = [topic for topic, _, _ in calm.sent]
    assert ids and {"windows", "actions", "state", "partials"} <= set(topics), "there is something to lose"
    # Wherever the stage goes from one topic to another, the last time that it does; and twice within a topic.
    changes = {(topics[at - 1], topics[at]): at for at in range(1, len(topics)) if topics[at] != topics[at - 1]}
    for kill_before in sorted({*changes.values(), len(topics) // 3, len(topics) // 2}):
        killed = run(batches, kill_before, compacts=kill_before % 2 == 0)
        assert killed.final_windows() == calm.final_windows(), kill_before
        assert {action["id"] for action in killed.actions} == ids, kill_before
        assert killed.state[MODEL.encode()] == calm.state[MODEL.encode()], kill_before
        assert books_after_a_rebuild(killed) == books_after_a_rebuild(calm), kill_before


def test_the_record_that_says_that_a_pane_is_judged_comes_after_all_that_it_speaks_of(
    batches: list[list[tuple[bytes, bytes]]],
) -> None:
    """Windows, actions, units, state; and the books before the tombstones of the records that carried them."""
    sent = run(batches).sent
    since_state: list[str] = []
    for topic, key, tombstone in sent:
        if topic == "state" and key == MODEL.encode():
            assert {"windows"} <= set(since_state), "a state without windows before it"
            since_state = []
        elif topic == "state" and key is not None and key.startswith(UNIT_KEY):
            since_state.append("units")
        elif topic in ("windows", "actions"):
            assert "units" not in since_state, "windows and actions come before units"
            since_state.append(topic)
        if topic == "partials":
            assert tombstone
    evicted = next(at for at, (topic, _, _) in enumerate(sent) if topic == "partials")
    assert any(key is not None and key.startswith(BOOKS_KEY) for topic, key, _ in sent[:evicted] if topic == "state")


@dataclass
class GivenBack(Kafka):
    """The bucket is given back while the first action is on its way, and `publish` sends what is wanted alone."""

    stage: MergeStage | None = None
    leaving: asyncio.Task[None] | None = None
    sent_when_left: int = -1

    async def publish(self, producer: Any, records: Sequence[Outgoing], *rest: Any) -> dict[tuple[str, int], int]:
        if not rest[0]():
            return {}
        last = await super().publish(producer, records)
        if self.leaving is None and any(record.topic == "actions" for record in records):
            self.leaving = asyncio.create_task(self._leave())
            await asyncio.sleep(0)
        return last

    async def _leave(self) -> None:
        assert self.stage is not None
        self.stage.intake = Mock(unbroken=False, **{"current.return_value": False})
        await self.stage.on_revoked({TopicPartition("partials", BUCKET)})
        self.sent_when_left = len(self.sent)


def test_a_publication_that_is_half_out_is_finished_before_the_bucket_is_given_back(
    batches: list[list[tuple[bytes, bytes]]],
) -> None:
    """Else another configuration would find nothing in `state` of what is open on `actions`."""
    kafka = GivenBack()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.merge, "publish", kafka.publish)
        patch.setattr(agents.merge, "read_to_end", kafka.read)
        kafka.stage = stage_of(kafka)

        async def all_of_it() -> None:
            assert kafka.stage is not None
            for batch in batches:
                records = Records(range(len(batch)), [0] * len(batch), [v for _, v in batch], (), [k for k, _ in batch])
                kafka.stage._judge_from.clear()
                await kafka.stage.process(Batch("partials", BUCKET, records, len(batch), len(batch), True, 0, 0))
                if kafka.leaving is not None:
                    break
            assert kafka.leaving is not None
            await kafka.leaving

        asyncio.run(all_of_it())
    action = next(at for at, (topic, _, _) in enumerate(kafka.sent) if topic == "actions")
    assert ("state", MODEL.encode(), False) in kafka.sent[action:]
    assert kafka.sent_when_left == len(kafka.sent), "nothing is sent after the bucket was given back"
    assert sum(topic == "state" and key == MODEL.encode() for topic, key, _ in kafka.sent[action:]) == 1


# A kill between an action and the state that knows of it, then another configuration


def changed(edit: Callable[[dict[str, Any]], None]) -> Plan:
    """The plan of a configuration in which the model was edited."""

    def text(before: str) -> str:
        document = config_edits.parsed(edited(before))
        edit(document["models"])
        return config_edits.written(document)

    return plan(learned(), text)


def without(rule: str) -> Plan:
    def edit(models: dict[str, Any]) -> None:
        models[MODEL]["rules"] = [item for item in models[MODEL]["rules"] if item["name"] != rule]

    return changed(edit)


def as_shadow(rule: str) -> Plan:
    def edit(models: dict[str, Any]) -> None:
        for item in models[MODEL]["rules"]:
            item.update({"shadow": True} if item["name"] == rule else {})

    return changed(edit)


def without_model(rule: str) -> Plan:
    """One of the same bucket takes its place."""
    name = next(f"m{at}" for at in range(10_000) if PLAN.config.bucket(f"m{at}") == BUCKET)
    return changed(lambda models: models.update({name: models.pop(MODEL)}))


@pytest.fixture(scope="module")
def unknown(batches: list[list[tuple[bytes, bytes]]]) -> list[tuple[Kafka, dict[str, Any]]]:
    """What a kill between an action that opens an incident and the state leaves behind, and the action; by rule."""
    calm = run(batches)
    actions = iter(calm.actions)
    found: dict[str, tuple[Kafka, dict[str, Any]]] = {}
    for at, (topic, _, _) in enumerate(calm.sent):
        action = next(actions) if topic == "actions" else None
        if action and action["data"]["state"] == "firing" and action["data"]["rule"] not in found and len(found) < 3:
            state_at = next(n for n in range(at, len(calm.sent)) if calm.sent[n][:2] == ("state", MODEL.encode()))
            found[action["data"]["rule"]] = cut(batches, state_at), action
    assert len(found) >= 2
    return list(found.values())


def cut(batches: Sequence[Sequence[tuple[bytes, bytes]]], kill_before: int) -> Kafka:
    """The topics as a worker leaves them that is killed before a record, and not followed by another."""
    kafka = Kafka(kill_before=kill_before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.merge, "publish", kafka.publish)
        patch.setattr(agents.merge, "read_to_end", kafka.read)
        patch.setattr(agents.merge, "read_all", kafka.read_actions)
        stage = stage_of(kafka)
        with pytest.raises(Killed):
            for batch in batches:
                process(stage, kafka, batch)
    return kafka


def go_on(kafka: Kafka, plan: Plan, kill_before: int = -1) -> None:
    """A worker under another plan, until it has published what it can, or is killed."""
    kafka.kill_before = len(kafka.sent) + kill_before if kill_before >= 0 else -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.merge, "publish", kafka.publish)
        patch.setattr(agents.merge, "read_to_end", kafka.read)
        patch.setattr(agents.merge, "read_all", kafka.read_actions)
        with contextlib.suppress(Killed):
            process(stage_of(kafka, plan), kafka, [])


def ends_of(kafka: Kafka, opened: dict[str, Any]) -> list[dict[str, Any]]:
    about = ("model", "rule", "model_version", "segment", "since")
    same = [a for a in kafka.actions if all(a["data"][name] == opened["data"][name] for name in about)]
    return [action for action in same if action["data"]["state"] == "resolved"]


@pytest.mark.parametrize("edit", [without, as_shadow, without_model])
def test_an_incident_that_no_state_knows_is_closed_once_when_nothing_judges_it(
    edit: Callable[[str], Plan], unknown: list[tuple[Kafka, dict[str, Any]]]
) -> None:
    for left, opened in unknown:
        kafka, after = copy.deepcopy(left), edit(opened["data"]["rule"])
        assert not ends_of(kafka, opened)
        for kill_before in (0, 1, -1, -1):  # before the action that closes it, after it, and not at all
            go_on(kafka, after, kill_before)
        ends = ends_of(kafka, opened)
        assert [end["data"]["reason"] for end in ends] == ["retired"], opened["data"]
        same = ("action", "severity", "layer", "owner", "runbook", "suppressed_by", "revision")
        assert all(ends[0]["data"][name] == opened["data"][name] for name in same) and ends[0]["id"] != opened["id"]


def test_the_end_of_an_incident_that_no_state_knows_has_the_same_id_whoever_publishes_it(
    unknown: list[tuple[Kafka, dict[str, Any]]],
) -> None:
    """Two workers may both have read the topic before either of them published the end."""
    left, opened = unknown[0]
    ids = set()
    for _ in range(2):
        kafka = copy.deepcopy(left)
        go_on(kafka, without(opened["data"]["rule"]))
        ids |= {end["id"] for end in ends_of(kafka, opened)}
    assert len(ids) == 1


def test_an_incident_that_is_judged_again_is_not_closed(unknown: list[tuple[Kafka, dict[str, Any]]]) -> None:
    """Under the same configuration, and under one that has its rule still."""
    for left, opened in unknown:
        for after in (PLAN, without("volume-low" if opened["data"]["rule"] != "volume-low" else "errors-lasting")):
            kafka = copy.deepcopy(left)
            go_on(kafka, after)
            assert not [end for end in ends_of(kafka, opened) if end["data"]["reason"] == "retired"]
            again = [action["id"] for action in kafka.actions].count(opened["id"])
            assert again == 2, "it is found again"


def test_a_worker_goes_on_with_a_line_where_the_actions_cannot_be_read(
    unknown: list[tuple[Kafka, dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    left, opened = unknown[0]
    kafka = copy.deepcopy(left)
    kafka.has_no_actions = True
    go_on(kafka, without(opened["data"]["rule"]))
    assert not ends_of(kafka, opened)
    assert "no topic actions" in caplog.text and "incidents stay open" in caplog.text
