"""The shell of stage 1, killed before any of its publications and begun again from the topics, leaves no trace.

The order is that of `agents.sketch.SketchStage` itself: rejects, partials, progress, then the group's offset.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka import TopicPartition

import agents.resuming
import agents.sketch
from agents.channel import Batch
from agents.clients import Connection
from agents.clock import now_ms
from agents.publish import Outgoing
from agents.sketch import SketchStage
from agents.store import Stores
from streams.partial import BooksPartial, LabelBooksPartial, OutcomePartial, PanePartial, Partial, unpack
from streams.plan import Facts
from streams.progress import Progress
from streams.records import Records
from tests.join_cases import Event, Told
from tests.strategies import MINUTE_MS, plan_of

YAML = """

models:
  alpha:
    pane: 1m
    grace: 1m
    lateness: 10m
    segments: {region: [north, south]}
    labels: {task: binary, classes: ["0", "1"], horizon: 1h}
    feedback: {complaint: {usual: 0.1}}
    features: {}
"""
PLAN = plan_of(YAML, chunk_size=32)
NOW_MS = now_ms()
START_MS = (NOW_MS // MINUTE_MS - 30) * MINUTE_MS
EVENTS: list[bytes] = [Event(str(at), "alpha", START_MS + at * 9_000, "north", 0.5).value for at in range(150)]
EVENTS[7::20] = [b"{" for _ in EVENTS[7::20]]
LABELS: list[bytes] = [Told(str(at), float(at % 3 == 0), START_MS + at * 9_000 + 60_000).value for at in range(150)]
LABELS[5::30] = [b"[]" for _ in LABELS[5::30]]
COMPLAINTS: list[bytes] = [
    json.dumps(
        {"event_id": str(at), "model": "alpha", "kind": "complaint", "ts": START_MS + at * 9_000 + 1_000}
    ).encode()
    for at in range(75)
]
COMPLAINTS[3::25] = [b"" for _ in COMPLAINTS[3::25]]
LOGS = {"inference": EVENTS, "labels": LABELS, "feedback": COMPLAINTS}
WRONG = (b"{", b"[]", b"")
PORTION = 20


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Kafka:
    """Our topics as lists. `kill_before`: the number of the record that is never sent."""

    sent: list[Outgoing] = field(default_factory=list)
    committed: list[tuple[str, int]] = field(default_factory=list)
    kill_before: int = -1
    stage: SketchStage | None = None

    async def publish(self, producer: Any, records: Sequence[Outgoing], *rest: Any) -> dict[tuple[str, int], int]:
        """Stands in for `agents.publish.publish`."""
        for record in records:
            if len(self.sent) == self.kill_before:
                self.kill_before = -1
                raise Killed
            self.sent.append(record)
        return {("partials", 0): len(self.sent)}

    async def read(
        self, connection: Any, topic: str, partitions: Iterable[int], take: Callable[[list[Any]], None], **how: Any
    ) -> dict[int, int]:
        """Stands in for `read_to_end`."""
        found = [record for record in self.sent if record.topic == topic]
        take(
            [
                SimpleNamespace(
                    partition=0, offset=at, timestamp=0, timestamp_type=0, key=r.key, value=r.value, headers=()
                )
                for at, r in enumerate(found)
            ]
        )
        return {0: len(found)}

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        for tp, offset in offsets.items():
            self.committed.append((tp.topic, offset))
            if tp.topic == "inference":
                assert offset == self.progress(), "progress is written before the group's offset"

    def progress(self) -> int:
        found = [r.value for r in self.sent if r.topic == "progress" and r.key == b"0"]
        return Progress.from_bytes(found[-1] or b"").next_offset if found else 0

    def partials(self) -> list[Partial]:
        return [unpack(record.value or b"") for record in self.sent if record.topic == "partials"]

    def latest(self) -> dict[Any, Any]:
        """By identity what the publication says that covers most; none of it hangs on the clock."""
        found: dict[Any, tuple[Any, Any]] = {}
        for item in self.partials():
            covers: Any = item.end_offset if isinstance(item, PanePartial | BooksPartial) else item.covered
            if isinstance(item, BooksPartial | LabelBooksPartial):
                place: Any = item.topic, type(item), getattr(item, "chunk", 0), item.bucket
                said: Any = {part.model: part.books for part in item.models if part.books.read}
            else:
                place = item.topic, type(item), getattr(item, "chunk", 0), getattr(item, "cohort", False), item.pane_ms
                said = item.models
            if said and (place not in found or found[place][0] <= covers):
                found[place] = covers, said
        return {place: said for place, (_, said) in found.items()}

    def letters(self) -> set[Any]:
        found = [record for record in self.sent if record.topic == "dead-letter"]
        return {(record.key, record.value, *[value for _, value in record.headers]) for record in found}


class Intake:
    """Stands in for the reader of both topics."""

    logs: Mapping[TopicPartition, Any] = {}

    def __init__(self, kafka: Kafka) -> None:
        self.commit = kafka.commit

    def current(self, batch: Batch) -> bool:
        return True

    def hold_back(self, tp: TopicPartition, waits: bool) -> None:
        pass

    async def ends(self) -> dict[TopicPartition, int]:
        return {TopicPartition(topic, 0): len(log) for topic, log in LOGS.items()}


async def life(kafka: Kafka, folder: Path, drain: Sequence[str] = (*LOGS, *LOGS)) -> SketchStage:
    """A worker from its start until it is drained, or killed."""
    producer, stores = Mock(), Stores(folder)
    producer.partitions_for = lambda topic: asyncio.sleep(0, {0})
    producer.limit = lambda topic: 1_000_000
    stage = SketchStage(PLAN, Connection(broker="none:1"), producer, "a", stores, [Facts.FEEDBACK])
    stage.intake = Intake(kafka)  # type: ignore[assignment]
    try:
        starts = await stage.on_assigned({TopicPartition(topic, 0) for topic in LOGS})
        at = {tp.topic: start or 0 for tp, start in starts.items()}
        while any(at[topic] < len(log) for topic, log in LOGS.items()):
            for topic, log in LOGS.items():
                values, sent = log[at[topic] : at[topic] + PORTION], len(kafka.sent)
                await stage.process(batch(topic, values, at[topic]))
                assert not values or len(kafka.sent) > sent, "what was read is published"
                at[topic] = min(len(log), at[topic] + PORTION)
        assert not stage.drained.is_set()
        stage.draining = True
        for topic in drain:
            await stage.process(batch(topic, [], at[topic]))
        assert stage.drained.is_set()
        return stage
    finally:
        stores.close()


def test_what_the_stage_has_done_is_counted(tmp_path: Path) -> None:
    kafka = run(tmp_path)
    assert kafka.stage is not None
    work = kafka.stage.work
    assert work.batches == sum(max(-(-len(log) // PORTION) for log in LOGS.values()) + 2 for _ in LOGS)
    assert work.partials == len(kafka.partials()) and work.seconds > 0 and work.retries == 0
    assert work.rejects.total() == len(kafka.letters())
    assert kafka.stage.sent and not kafka.stage.parked and kafka.stage.lost_labels == {0: 0}
    commits = {topic: [offset for name, offset in kafka.committed if name == topic] for topic in LOGS}
    assert all(offsets == sorted(offsets) and offsets for offsets in commits.values())


def test_feedback_has_not_ended_before_the_events_that_it_is_about(tmp_path: Path) -> None:
    kafka = run(tmp_path, drain=["feedback", "inference", "labels", "feedback", "inference"])
    ended = [one.topic for one in kafka.partials() if isinstance(one, BooksPartial) and one.final]
    assert set(ended) == {"inference", "feedback"} and ended[0] == "inference"


def batch(topic: str, values: Sequence[bytes], first: int) -> Batch:
    offsets, end = range(first, first + len(values)), len(LOGS[topic])
    records = Records(offsets, [NOW_MS] * len(values), values)
    return Batch(topic, 0, records, offsets.stop, end, offsets.stop == end, now_ms(), 0)


def run(folder: Path, kill_before: int = -1, drain: Sequence[str] = (*LOGS, *LOGS)) -> Kafka:
    """What is on the topics in the end; and, of the last life, the stage."""
    kafka = Kafka(kill_before=kill_before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents.sketch, "publish", kafka.publish)
        patch.setattr(agents.resuming, "publish", kafka.publish)
        patch.setattr(agents.resuming, "read_to_end", kafka.read)
        patch.setattr(agents.sketch, "PUBLISH_EVERY_MS", 0)
        patch.setattr(agents.sketch, "Turn", lambda: lambda: True)  # as if everything took long
        while True:
            try:
                kafka.stage = asyncio.run(life(kafka, folder, drain))
                return kafka
            except Killed:
                continue


def test_a_kill_before_any_record_leaves_no_trace(tmp_path: Path) -> None:
    calm = run(tmp_path / "calm")
    topics = [record.topic for record in calm.sent]
    assert {"dead-letter", "partials", "progress"} == set(topics)
    assert len(calm.letters()) == sum(value in WRONG for log in LOGS.values() for value in log)
    changes = {(topics[at - 1], topics[at]): at for at in range(1, len(topics)) if topics[at] != topics[at - 1]}
    for kill_before in sorted({*changes.values(), 1, len(topics) // 3, len(topics) // 2}):
        killed = run(tmp_path / str(kill_before), kill_before)
        assert killed.latest() == calm.latest(), kill_before
        assert killed.letters() == calm.letters(), kill_before
        assert killed.progress() == calm.progress() and killed.committed[-1:] == calm.committed[-1:]


def test_what_a_record_speaks_of_is_on_its_topic_before_it(tmp_path: Path) -> None:
    """Rejects, then partials, then the progress that passes them over; labels are committed that the partials cover."""
    kafka = run(tmp_path)
    letters, counted, covered = set(), 0, 0
    for record in kafka.sent:
        if record.topic == "dead-letter":
            headers = dict(record.headers)
            letters.add((headers["foreshock.topic"], int(headers["foreshock.offset"])))
        elif record.topic == "partials":
            partial = unpack(record.value or b"")
            assert record.partition == partial.bucket
            if isinstance(partial, BooksPartial):
                counted = max(counted, partial.end_offset)
            elif isinstance(partial, LabelBooksPartial | OutcomePartial):
                covered = max(covered, partial.covered[1])
                wrong = {(b"labels", at) for at in range(covered) if LABELS[at] == b"[]"}
                assert wrong <= letters
        elif record.key == b"0":
            next_offset = Progress.from_bytes(record.value or b"").next_offset
            assert next_offset <= counted
            assert {(b"inference", at) for at in range(next_offset) if EVENTS[at] == b"{"} <= letters
    assert covered == len(LABELS) and ("labels", covered) in kafka.committed
    assert kafka.progress() == len(EVENTS) // 32 * 32
