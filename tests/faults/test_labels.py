"""Fault 12: labels before their prediction, twice, corrected, withdrawn, of nothing; under kills and a lost store."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from agents.clients import Connection
from tests.faults.harness import (
    WorkerProcess,
    create,
    drain,
    expected,
    fill,
    kill_schedule,
    labels_of,
    make_stream,
    published,
    write_config,
)
from tests.faults.test_kill import KILLS, LONGEST_S, SEED, SHORTEST_S, differences

EVENTS = 60_000


def test_every_label_is_joined_once_whatever_dies(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Cohorts, arrival windows and actions are those of the batch computation; once the join's store is lost too."""
    print(f"seed {SEED}, {EVENTS} events (FORESHOCK_SEED repeats them)")
    prefix = f"labels-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix, labelled=True)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    stream = make_stream(EVENTS, SEED)
    labels = labels_of(stream.pairs, SEED + 1)
    create(connection)
    rate = EVENTS / (KILLS * (SHORTEST_S + LONGEST_S) / 2)
    writers = [
        threading.Thread(target=fill, args=(connection, pairs), kwargs={"rate": rate, "topic": topic})
        for topic, pairs in (("inference", stream.pairs), ("labels", labels))
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

    found, reference = published(connection), expected(config, stream, labels)
    assert found.panes() == stream.panes
    assert found.action_ids == reference.action_ids
    assert not (wrong := differences(found.windows, reference.windows)), "\n".join(wrong[:100])
    assert {window["clock"] for window in found.windows.values()} == {"event", "arrival", "cohort"}
