"""Fault 12: what waits for a prediction that never comes is capped. All else of labels is in the schedules."""

from __future__ import annotations

import json
import random
from pathlib import Path
from uuid import uuid4

from agents.clients import Connection
from streams.join.fold import MAX_PENDING
from tests.faults.harness import create, drain, send, write_config
from tests.faults.oracle import label_books
from tests.faults.stream import PARTITIONS, START_MS, event

BEYOND = 5_000


def test_of_labels_that_meet_no_prediction_only_so_many_wait(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The others are orphans at once, and counted as such; one that has its prediction is joined all the same."""
    prefix = f"labels-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, labelled=True)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    for topic in ("inference", "labels"):
        create(connection, topic=topic)
    rng = random.Random(12)
    send(connection, [(number % PARTITIONS, event(f"e{number}", START_MS + number, rng)) for number in range(400)])
    strays = [(0, label(f"stray-{number}")) for number in range(MAX_PENDING + BEYOND)]
    send(connection, [*strays, (0, label("e0"))], topic="labels")
    drain(config, kafka.bootstrap)
    found = label_books(connection, config)
    assert (found["pending"], found["orphan"], found["matched"]) == (MAX_PENDING, BEYOND, 1)
    assert found["read"] == MAX_PENDING + BEYOND + 1


def label(event_id: str) -> bytes:
    return json.dumps({"event_id": event_id, "label": 1, "label_ts": START_MS + 60_000}).encode()
