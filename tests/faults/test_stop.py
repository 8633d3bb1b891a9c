"""Fault 3, where nothing is being read yet; under load it is in the schedules."""

from __future__ import annotations

import signal
from pathlib import Path
from uuid import uuid4

from tests.faults.harness import (
    STOP_WITHIN_S,
    WorkerProcess,
    write_config,
)


def test_a_worker_that_still_waits_for_its_topic_stops_at_once(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """SIGTERM, and Ctrl-C, while there is nothing to read yet."""
    config = write_config(tmp_path, f"wait-{uuid4().hex[:6]}-")
    for number in (signal.SIGTERM, signal.SIGINT):
        with WorkerProcess(config, kafka.bootstrap) as worker:
            worker.until(lambda worker=worker: "waiting for topic" in worker.said)
            worker.process.send_signal(number)
            assert worker.wait(STOP_WITHIN_S) == 0
            assert "Traceback" not in worker.said
