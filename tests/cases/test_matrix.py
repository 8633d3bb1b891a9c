"""Models of every task, with all that is read of them: live, killed midway, they give what the backtest gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.clients import Connection
from agents.files import read_plan
from deploy.kafka import Broker
from streams.plan import Facts
from tests.faults.harness import WorkerProcess, create, drain, fill
from tests.faults.oracle import differences
from tests.faults.published import published, replayed
from tests.faults.stream import Pair
from tests.matrix import TASKS, Case, reference, side_inputs, stream, text

TOPIC_OF = {Facts.FEEDBACK: "feedback", Facts.RUNS: "runs", Facts.OUTCOMES: "outcomes"}


def keyed(values: list[bytes]) -> list[Pair]:
    """Each with the id of its event as the key, where it has one."""
    return [(str(json.loads(value).get("event_id", "")).encode() or None, value) for value in values]


@pytest.mark.parametrize("task", TASKS)
def test_a_worker_that_is_killed_midway_says_what_the_backtest_says(
    task: str, kafka: Broker, connection: Connection, tmp_path: Path
) -> None:
    case = Case(task, segments=True, versions=True, side=True)
    config = tmp_path / "foreshock.yaml"
    config.write_text(f"kafka: {{prefix: {connection.prefix}, buckets: 4, chunk_size: 1024}}\n" + _models(text(case)))
    (tmp_path / f"{case.name}.baseline").write_bytes(reference(case).baseline.to_bytes())
    (events, labels), others = stream(case, 2), side_inputs(case, 3)
    create(connection)
    for kind, values in others.items():  # first: a side input that comes after its events is a revision
        fill(connection, keyed(values), topic=TOPIC_OF[kind])
    half = len(events) // 2
    with WorkerProcess(config, kafka.bootstrap) as worker:
        fill(connection, keyed(events[:half]))
        fill(connection, keyed(labels[: len(labels) // 2]), topic="labels")
        worker.until(lambda: worker.read() >= half)
        worker.kill()
    fill(connection, keyed(events[half:]))
    fill(connection, keyed(labels[len(labels) // 2 :]), topic="labels")
    drain(config, kafka.bootstrap)
    found, expected = published(connection), replayed(read_plan(config), events, labels, others)
    assert expected.action_ids
    assert found.action_ids == expected.action_ids
    assert differences(found.windows, expected.windows) == []


def _models(written: str) -> str:
    """The configuration from its models on."""
    return written[written.index("models:") :]
