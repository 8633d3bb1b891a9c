"""Faults 1 and 2: `kill -9` anywhere, of both stages at once, changes no count and no action id."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agents.clients import Connection
from tests.faults.harness import WorkerProcess, expected, fill, kill_schedule, make_stream, published, write_config

EVENTS = int(os.environ.get("FORESHOCK_EVENTS", "100000"))
KILLS = int(os.environ.get("FORESHOCK_KILLS", "6"))
SHORTEST_S, LONGEST_S = 1.0, 8.0
"""How long a worker lives. It needs about two seconds to start: some die before they join, some while they rebuild."""
SEED = int(os.environ.get("FORESHOCK_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


def test_killed_workers_leave_the_windows_and_the_actions_of_an_undisturbed_run(kafka, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Whatever the worker was doing when it died: reading, publishing, committing, rebuilding or joining."""
    print(f"seed {SEED}, {EVENTS} events, {KILLS} kills (FORESHOCK_SEED repeats them)")
    prefix = f"kill-{uuid4().hex[:6]}-"
    config = write_config(tmp_path, prefix)
    connection = Connection(broker=kafka.bootstrap, prefix=prefix)
    stream = make_stream(EVENTS, SEED)
    rate = EVENTS / (KILLS * (SHORTEST_S + LONGEST_S) / 2)  # about as long as the workers live, all together
    producing = threading.Thread(target=fill, args=(connection, stream.pairs), kwargs={"rate": rate})
    producing.start()

    for alive_s in kill_schedule(SEED, KILLS, SHORTEST_S, LONGEST_S):
        worker = WorkerProcess(config, kafka.bootstrap)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(alive_s)
        worker.kill()
    producing.join()
    last = WorkerProcess(config, kafka.bootstrap, "--drain")
    try:
        assert last.wait(300) == 0, last.log.read_text()[-2000:]
    finally:
        last.end()

    found, reference = published(connection), expected(config, stream)
    assert found.panes() == stream.panes
    assert len(found.dead_letters) == stream.rejected
    assert found.action_ids == reference.action_ids
    assert len(reference.action_ids) >= 4
    assert not (wrong := differences(found.windows, reference.windows)), "\n".join(wrong[:100])


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Every place where two answers differ, one a line: window, field, what was found, what was expected."""
    lines: list[str] = []

    def compare(place: str, one: Any, other: Any) -> None:
        if isinstance(one, dict) and isinstance(other, dict):
            for key in sorted(one.keys() | other.keys(), key=str):
                compare(f"{place} {key}", one.get(key, "nothing"), other.get(key, "nothing"))
        elif one != other:
            lines.append(f"{place}: {one} instead of {other}")

    compare("", found, expected)
    return lines
