"""Fault 5, the short version: workers restart under their names, join and leave, and every count stays exact."""

from __future__ import annotations

import threading
from pathlib import Path
from uuid import uuid4

from agents.clients import Connection
from tests.faults.harness import (
    WorkerProcess,
    drain,
    expected,
    fill,
    make_stream,
    published,
    write_config,
)

EVENTS, RATE = 40_000, 2_000


def test_a_restart_under_its_name_and_a_guest_change_no_count(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """One worker is killed and comes back as the same instance; another joins, works, and leaves."""
    prefix = f"join-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, chunk_size=2_048)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    stream = make_stream(EVENTS, 5)
    producing = threading.Thread(target=fill, args=(connection, stream.pairs), kwargs={"rate": RATE})
    producing.start()

    with WorkerProcess(config, kafka.bootstrap, instance="one") as first:
        first.until(lambda: first.read() > 0)
        first.kill()
    with WorkerProcess(config, kafka.bootstrap, instance="one") as again:
        again.until(lambda: again.read() > 0)
        with WorkerProcess(config, kafka.bootstrap, instance="two") as guest:
            guest.until(lambda: guest.read() > 0 and len(again.health()["partitions"]) < 4)
            # What has moved away is told of by its new owner alone.
            guest.until(lambda: bool(again.books()) != bool(guest.books()))
            assert not set(again.health()["partitions"]) & set(guest.health()["partitions"])
            assert guest.terminate() == 0
        assert again.process.poll() is None
        again.until(lambda: len(again.health()["partitions"]) == 4)
        producing.join()
        assert again.terminate() == 0
    drain(config, kafka.bootstrap)

    found, reference = published(connection), expected(config, stream)
    assert found.panes() == stream.panes
    assert found.windows == reference.windows
    assert found.action_ids == reference.action_ids
    assert len(found.dead_letters) == stream.rejected
