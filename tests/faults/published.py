"""What a worker has published, read back from the topics; and what it should be."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
from aiokafka import TopicPartition

from agents import topics
from agents.clients import Connection
from agents.files import read_plan
from agents.merge import MergeStage
from streams.backtest import Backtest
from streams.errors import BrokerError
from streams.events import time_ms
from streams.merge import BucketMerge
from streams.partial import Books
from streams.plan import Facts, Plan
from streams.progress import Progress
from tests.faults.cluster import read_topic
from tests.faults.reference import LogRecord
from tests.faults.stream import (
    GENERATION,
    HOSTILE_MARK,
    PANE_MS,
    PARTITIONS,
    Pair,
    Stream,
)


@dataclass(frozen=True)
class DeadLetter:
    """An event that was not counted: why, and its bytes."""

    reason: str
    value: bytes | None
    headers: dict[str, bytes]


@dataclass
class Published:
    """What a run gave: windows by key, the last revision of each; actions; dead letters."""

    windows: dict[str, dict[str, Any]]
    actions: list[dict[str, Any]]
    dead_letters: dict[tuple[int, int], DeadLetter]
    """By partition and offset of the source; a restart's repeats are of one place."""
    label_books: dict[str, dict[str, int]] = field(default_factory=dict)
    """By model, of a backtest."""

    @property
    def action_ids(self) -> set[str]:
        return {action["id"] for action in self.actions}

    def panes(self) -> Counter[tuple[int, str]]:
        """Events by pane start and version."""
        counts: Counter[tuple[int, str]] = Counter()
        for window in self.windows.values():
            if window["clock"] != "event" or _ms(window["end"]) - _ms(window["start"]) != PANE_MS:
                continue
            if window["version"] is not None and window["segment"] is None and window["counts"]["events"]:
                counts[(_ms(window["start"]), window["version"])] += window["counts"]["events"]
        return counts


def _ms(text: str) -> int:
    return time_ms(text)


def published(connection: Connection) -> Published:
    """Everything that is on the result topics now."""
    found = {name: _ours(read_topic(connection, name)) for name in ("windows", "actions", "dead-letter")}
    letters: dict[tuple[int, int], DeadLetter] = {}
    for record in found["dead-letter"]:
        headers = dict(record.headers)
        topic, partition, offset, reason = (
            headers[f"foreshock.{name}"].decode() for name in ("topic", "partition", "offset", "reason")
        )
        if topic == connection.topic("inference"):
            letter, place = DeadLetter(reason, record.value, headers), (int(partition), int(offset))
            while place in letters and letters[place].value != letter.value:  # the topic was made anew
                place = place[0], place[1] + GENERATION
            letters[place] = letter
    return Published(
        latest_windows(strict_json(record.value) for record in found["windows"]),
        [strict_json(record.value) for record in found["actions"]],
        letters,
    )


def _ours(records: Iterable[Any]) -> list[Any]:
    """Those that no fault has put there."""
    return [record for record in records if not (record.key or b"").endswith(HOSTILE_MARK)]


def log_of(connection: Connection, topic: str) -> list[LogRecord]:
    """What a topic holds now, as a reader of committed records gets it."""
    found = read_topic(connection, topic, committed=True)
    return [LogRecord(record.partition, record.offset, record.timestamp, record.value) for record in found]


def strict_json(value: bytes) -> Any:
    """What JSON says; NaN and Infinity are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(value, parse_constant=refuse)


def books(connection: Connection, config: Path) -> dict[str, Books]:
    """The books by model, of stage 2 as it is on the topics."""
    found: dict[str, Books] = {}
    for merge in rebuilt(connection, config):
        for name, model in {**merge.models, **merge.others}.items():  # of no model several buckets may hold an entry
            found[name] = found.get(name, Books()).merged(model.books)
    return found


def lost_records(connection: Connection, config: Path) -> dict[int, int]:
    """By partition of the events, how many records the workers say were gone before they could be counted."""
    found: dict[int, int] = {}
    for merge in rebuilt(connection, config):
        found |= {partition: max(lost, found.get(partition, 0)) for partition, lost in merge.lost.items()}
    return found


def lost_labels(connection: Connection) -> dict[int, int]:
    """By partition of the labels, how many of them the workers say were gone before they were read."""
    found: dict[int, int] = {}
    for record in _ours(read_topic(connection, "progress")):
        topic, _, partition = record.key.decode().partition("/")
        if topic == "labels" and (lost := Progress.from_bytes(record.value, record.key).lost):
            found[int(partition)] = max(lost, found.get(int(partition), 0))
    return found


def rebuilt(connection: Connection, config: Path) -> list[BucketMerge]:
    """Stage 2, by bucket, as the next worker would rebuild it from the topics."""

    async def rebuild() -> list[BucketMerge]:
        plan = read_plan(config)
        stage = MergeStage(plan, connection, Mock(), PARTITIONS, {})
        topic = connection.topic("partials")
        await stage.on_assigned({TopicPartition(topic, bucket) for bucket in range(plan.config.kafka.buckets)})
        return [judge.merge for judge in stage.judges.values()]

    return asyncio.run(rebuild())


def progress(connection: Connection) -> dict[int, int]:
    """By partition of the events the next offset of its furthest progress record; other topics' keys name them."""
    found: dict[int, int] = {}
    for record in _ours(read_topic(connection, "progress")):
        if b"/" in record.key:
            continue
        partition = int(record.key)
        found[partition] = max(Progress.from_bytes(record.value).next_offset, found.get(partition, 0))
    return found


def committed(connection: Connection, group: str = "foreshock", topic: str = "inference") -> dict[int, int]:
    """By partition the offset that the group has committed; none as long as Kafka does not know the group."""

    async def ask() -> dict[int, int]:
        async with topics.admin(connection) as client:
            offsets = await client.list_consumer_group_offsets(connection.topic(group))
        return {tp.partition: meta.offset for tp, meta in offsets.items() if tp.topic == connection.topic(topic)}

    try:
        return asyncio.run(ask())
    except BrokerError:  # the first group that a broker hears of: it still looks for a coordinator
        return {}


def latest_windows(windows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last revision of each window, by its identity."""
    latest: dict[str, dict[str, Any]] = {}
    for window in windows:
        key = json.dumps([window[name] for name in ("model", "version", "segment", "start", "end", "clock", "kpi")])
        if key not in latest or latest[key]["revision"] <= window["revision"]:
            latest[key] = window
    return latest


def expected(config: Path, stream: Stream, labels: Sequence[Pair] = ()) -> Published:
    """What the pure pipeline says of the same records, without a broker."""
    values = [value for _, value in stream.pairs]
    return replayed(read_plan(config), values, [value for _, value in labels])


def replayed(
    plan: Plan, events: Sequence[bytes], labels: Sequence[bytes], told: Mapping[Facts, Sequence[bytes]] | None = None
) -> Published:
    """What a backtest of these values publishes."""
    run = Backtest(plan, time.time_ns() // 1_000_000, labelled=bool(labels), told=told or ())
    windows: list[dict[str, Any]] = []
    actions: list[dict[str, Any]] = []
    for outcome in run.run(events, labels, told or {}):
        windows += [msgspec.to_builtins(window) for window in outcome.windows]
        actions += [msgspec.to_builtins(action) for action in outcome.actions]
    books = {name: model.labels for name, model in run.summary().models.items()}
    return Published(latest_windows(json.loads(msgspec.json.encode(windows))), actions, {}, books)
