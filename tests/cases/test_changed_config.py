"""A worker that is restarted with another configuration while an incident is open: it is judged on, or closed."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.clients import Connection
from streams.rule_state import rule_cell
from streams.state import ModelState, unpack_state
from tests.faults.cluster import Record, create_topic, read_topic, send_records
from tests.faults.harness import WorkerProcess, edit_config, write_config
from tests.faults.stream import MODEL, START_MS, event

EVERY_MS = 100
BEFORE, OPEN, AFTER = 6_000, 9_000, 15_000
"""Events until requests fail, until the restart, and in all: nothing fails after the restart."""

RULE = "requests-failing"
EDITS: dict[str, Callable[[str], str]] = {
    "pane": lambda text: text.replace("pane: 1m", "pane: 5m"),
    "renamed": lambda text: text.replace(f"name: {RULE}", "name: requests-gone"),
    "removed": lambda text: "".join(line for line in text.splitlines(True) if RULE not in line),
    "shadow": lambda text: text.replace(f"name: {RULE},", f"name: {RULE}, shadow: true,"),
    "model": lambda text: text.replace(f"  {MODEL}:\n", "  another:\n"),
    "long window and a feature less": lambda text: (
        re.sub(r"(?m)^      \w+: +\{type: \w+.*\n", "", text, count=1).rstrip("\n")
        + "\n      - {name: slow, signals: [null_rate], response: human_review, over: 12h}\n"
    ),
}


def send(connection: Connection, first: int, last: int) -> None:
    rng = random.Random(first)
    records = []
    for n in range(first, last):
        found = json.loads(event(f"e{n}", START_MS + n * EVERY_MS, rng))
        found["error"] = "upstream" if BEFORE <= n < OPEN and n % 10 else None
        records.append(Record(key=f"e{n}".encode(), value=json.dumps(found).encode()))
    send_records(connection, "inference", records)


def states(connection: Connection) -> dict[str, tuple[str, str]]:
    """Per rule the state and the reason of its last action for the whole model."""
    actions = [json.loads(record.value or b"") for record in read_topic(connection, "actions")]
    whole = [action["data"] for action in actions if action["data"]["segment"] is None]
    return {data["rule"]: (data["state"], data["reason"]) for data in whole}


def is_kept(connection: Connection) -> bool:
    """Whether the state that a restart goes on from has the incident: it is published after the action."""
    kept = [record for record in read_topic(connection, "state") if record.key == MODEL.encode() and record.value]
    state = unpack_state(kept[-1].value or b"", ModelState) if kept else None
    return state is not None and any(rule.firing and rule_cell(key).rule == RULE for key, rule in state.rules.items())


@pytest.mark.parametrize("name", EDITS)
def test_an_open_incident_has_its_end(connection: Connection, tmp_path: Path, name: str) -> None:
    config = write_config(tmp_path / "worker", connection.prefix)
    edit_config(config, ("grace: 1m ", "grace: 5s "))
    create_topic(connection, "inference", 2)
    send(connection, 0, OPEN)
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: states(connection).get(RULE, ("", ""))[0] == "firing" and is_kept(connection), 90)
        assert worker.terminate() == 0, worker.said
    text = config.read_text(encoding="utf-8")
    after = EDITS[name](text)
    assert after != text
    config.write_text(after, encoding="utf-8")
    closes = name in ("renamed", "removed", "shadow", "model")
    told = against_state(config, connection)
    assert ("its open incident is closed as of" in told) == closes, told
    with WorkerProcess(config, connection.broker) as worker:
        if closes:
            worker.until(lambda: states(connection)[RULE] == ("resolved", "retired"), 60)
        send(connection, OPEN, AFTER)
        about_requests = (RULE, "requests-gone")
        worker.until(lambda: all(states(connection).get(r, ("resolved",))[0] == "resolved" for r in about_requests), 90)
        assert worker.terminate() == 0, worker.said


def against_state(config: Path, connection: Connection) -> str:
    command = [sys.executable, "-m", "agents", "check", "-c", str(config), "--against-state"]
    done = subprocess.run([*command, "--broker", connection.broker], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_size_of_chunks_ends_the_worker_with_a_line(connection: Connection, tmp_path: Path) -> None:
    config = write_config(tmp_path / "worker", connection.prefix, chunk_size=256)
    create_topic(connection, "inference", 1)
    send(connection, 0, 1_000)
    with WorkerProcess(config, connection.broker) as worker:
        worker.until(lambda: worker.books().get("read", 0) >= 1_000, 60)
        assert worker.terminate() == 0, worker.said
    edit_config(config, ("chunk_size: 256", "chunk_size: 1024"))
    with WorkerProcess(config, connection.broker) as worker:
        assert worker.wait(60) == 2
        assert "kafka.chunk_size: 1024; expected 256" in worker.said
