"""Feedback, runs and outcomes on Apache Kafka: a bad day over all topics, under kills and with a lost store."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from agents.clients import Connection
from agents.files import read_plan
from tests.faults.harness import SEED, WorkerProcess, create, drain, fill, kill_schedule
from tests.faults.oracle import differences
from tests.faults.published import published, replayed
from tests.scenario import records, stream, write

KILLS, SHORTEST_S, LONGEST_S = 4, 3.0, 7.0


def test_a_bad_day_over_all_topics_is_told_once_whatever_dies(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Windows of all clocks and actions are those of the batch computation: what happens is told once."""
    print(f"seed {SEED} (FORESHOCK_SEED repeats it)")
    prefix = f"facts-{uuid4().hex[:6]}-"
    config = write(tmp_path, prefix)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    create(connection)
    pairs = records()
    seconds = KILLS * (SHORTEST_S + LONGEST_S) / 2
    writers = [
        threading.Thread(target=fill, args=(connection, found), kwargs={"rate": len(found) / seconds, "topic": name})
        for name, found in pairs.items()
    ]
    for writer in writers:
        writer.start()
    for number, alive_s in enumerate(kill_schedule(SEED, KILLS, SHORTEST_S, LONGEST_S)):
        with WorkerProcess(config, kafka.bootstrap) as worker:
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(alive_s)
            worker.kill()
        if number == KILLS // 2:
            shutil.rmtree(tmp_path / "state", ignore_errors=True)
    for writer in writers:
        writer.join()
    drain(config, kafka.bootstrap)

    found, reference = published(connection), replayed(read_plan(config), *stream())
    assert not (wrong := differences(found.windows, reference.windows)), "\n".join(wrong[:100])
    assert found.action_ids == reference.action_ids
    firing = {action["data"]["rule"] for action in found.actions if action["data"]["state"] == "firing"}
    assert {"pipeline-failing", "performance-falling", "complaints-rising"} <= firing
    assert not firing & {"values-missing", "scores-drifting", "inputs-drifting"}
