"""A past of all topics, replayed to a running worker, gives the windows' actions of the backtest."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from agents import topics
from agents.clients import Connection
from agents.files import read_plan
from deploy.kafka import Broker
from tests.faults.harness import WorkerProcess, create, drain, published, replayed
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
