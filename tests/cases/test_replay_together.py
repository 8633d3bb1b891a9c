"""A past of all topics, replayed to a running worker, together or one after the other, gives the backtest's actions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents import topics
from agents.clients import Connection
from agents.files import read_plan
from deploy.kafka import Broker
from tests.faults.harness import WorkerProcess, create, drain
from tests.faults.published import published, replayed
from tests.replay.test_labelled_streams import MODEL
from tests.scenario import records, stream, write

OPTIONS = {"inference": "events", "labels": "labels", "feedback": "feedback", "runs": "runs", "outcomes": "outcomes"}


def test_produce_sends_all_files_by_their_times(kafka: Broker, connection: Connection, tmp_path: Path) -> None:
    config = write(tmp_path, connection.prefix)
    create(connection)
    options: list[str] = []
    for name, pairs in records().items():
        file = tmp_path / f"{name}.ndjson"
        file.write_bytes(b"".join(value + b"\n" for _, value in pairs))
        options += [f"--{OPTIONS[name]}", str(file)]
    command = [sys.executable, "-m", "agents", "produce", "-c", str(config), "--broker", kafka.bootstrap, *options]
    with WorkerProcess(config, kafka.bootstrap) as worker:
        worker.until(lambda: asyncio.run(topics.find(connection, connection.topic("outcomes"))) is not None)
        done = subprocess.run(command, capture_output=True, timeout=120, text=True)
        assert done.returncode == 0 and f"sent {sum(map(len, records().values())):,} records" in done.stdout
        assert worker.terminate() == 0
    drain(config, kafka.bootstrap)
    found, reference = published(connection), replayed(read_plan(config), *stream())
    assert found.action_ids == reference.action_ids


@pytest.mark.parametrize(
    "order",
    [
        ("inference", "labels", "feedback", "runs", "outcomes"),
        ("outcomes", "feedback", "inference", "runs", "labels"),
    ],
    ids="-".join,
)
def test_topics_may_be_sent_one_after_the_other(
    kafka: Broker, connection: Connection, tmp_path: Path, order: Sequence[str]
) -> None:
    """The next one is sent when a live stream would have been judged without it: the worker says that it waits."""
    config = write(tmp_path, connection.prefix)
    config.write_text(config.read_text().replace("    rules:\n", "    idle: 2s\n    rules:\n", 1))
    create(connection)
    with WorkerProcess(config, kafka.bootstrap) as worker:
        worker.until(lambda: asyncio.run(topics.find(connection, connection.topic("outcomes"))) is not None)
        sent: list[str] = []
        for topic in order:
            _produce(config, kafka.bootstrap, topic)
            sent.append(topic)
            _until_read(worker, sent)
        assert worker.terminate() == 0
    drain(config, kafka.bootstrap)
    found, reference = published(connection), replayed(read_plan(config), *stream())
    assert found.action_ids == reference.action_ids


def _produce(config: Path, bootstrap: str, topic: str) -> None:
    file = config.parent / f"{topic}.ndjson"
    file.write_bytes(b"".join(value + b"\n" for _, value in records()[topic]))
    command = [sys.executable, "-m", "agents", "produce", "-c", str(config), "--broker", bootstrap]
    done = subprocess.run([*command, "--topic", topic, str(file)], capture_output=True, timeout=120, text=True)
    assert done.returncode == 0, done.stderr


def _until_read(worker: WorkerProcess, sent: Sequence[str]) -> None:
    """Until everything was read, and what is still to come would be taken for silent in a live stream."""
    worker.until(lambda: worker.read() >= sum(len(records()[name]) for name in sent))
    awaited = {"labels", "feedback", "runs"} - set(sent)
    if "inference" in sent and awaited:
        worker.until(lambda: all(name in str(worker.health()["replays"]) for name in awaited))
        assert worker.metric("foreshock_replay_awaited_topics", model=MODEL) >= len(awaited)
