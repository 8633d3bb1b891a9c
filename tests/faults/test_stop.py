"""Fault 3: SIGTERM, whatever the worker is doing, ends it in time, and nothing is lost."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from uuid import uuid4

from agents.clients import Connection
from tests.faults.harness import (
    PARTITIONS,
    STOP_WITHIN_S,
    WorkerProcess,
    books,
    committed,
    drain,
    expected,
    fill,
    make_stream,
    progress,
    published,
    write_config,
)

EVENTS, RATE = 60_000, 6_000
CHUNK = 1_024
"""Small, so that progress is made while the load lasts."""


def test_a_worker_told_to_stop_under_load_stops_in_time_and_loses_nothing(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """It never claims more than it has written, and its successor counts exactly."""
    prefix = f"stop-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, chunk_size=CHUNK)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    stream = make_stream(EVENTS, 3)
    producing = threading.Thread(target=fill, args=(connection, stream.pairs), kwargs={"rate": RATE})
    producing.start()

    with WorkerProcess(config, kafka.bootstrap) as worker:
        worker.until(lambda: len(committed(connection, "foreshock")) == PARTITIONS)
        assert producing.is_alive(), "the load ended before the worker was told to stop"
        assert worker.terminate(STOP_WITHIN_S) == 0
        assert "Traceback" not in worker.said
    claimed, durable = committed(connection, "foreshock"), progress(connection)
    assert all(offset <= durable[partition] for partition, offset in claimed.items())
    assert all(offset % CHUNK == 0 for offset in durable.values())
    producing.join()
    drain(config, kafka.bootstrap)

    found, reference = published(connection), expected(config, stream)
    assert found.panes() == stream.panes
    assert found.windows == reference.windows
    assert found.action_ids == reference.action_ids
    kept = books(connection, config)
    assert sum(item.read for item in kept.values()) == len(stream.pairs)
    assert all(item.balanced() for item in kept.values())


def test_a_worker_that_still_waits_for_its_topic_stops_at_once(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """SIGTERM, and Ctrl-C, while there is nothing to read yet."""
    config = write_config(tmp_path, f"wait-{uuid4().hex[:6]}-")
    for number in (signal.SIGTERM, signal.SIGINT):
        with WorkerProcess(config, kafka.bootstrap) as worker:
            worker.until(lambda worker=worker: "waiting for topic" in worker.said)
            worker.process.send_signal(number)
            assert worker.wait(STOP_WITHIN_S) == 0
            assert "Traceback" not in worker.said
