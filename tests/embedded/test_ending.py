"""SIGTERM ends every command with exit code 0 within seconds, whatever it is at: waiting, reading, computing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import ending
from agents.broker import EmbeddedBroker

ROOT = Path(__file__).parents[2]
CONFIG = """
kafka: {broker: BROKER, prefix: PREFIX}
models:
  m:
    features: {a: {type: numeric}}
    rules: [{name: nulls, signals: [null_rate], response: data_incident, owner: o}]
"""
WITHIN_S = 8.0

COMMANDS = {
    "worker": ["worker", "--listen", "127.0.0.1:0"],
    "actions": ["actions", "--follow"],
    "ledger": ["ledger"],
    "report": ["report", "--cadence", "daily", "-o", "out"],
    "ack": ["ack", "a1", "--status", "seen", "--by", "ann"],
    "webhook": ["webhook", "--url", "http://127.0.0.1:1/hook", "--secret-env", "SECRET"],
    "alertmanager": ["alertmanager", "--url", "http://127.0.0.1:1"],
    "produce": ["produce", "--topic", "inference", "events.ndjson"],
}


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def started(folder: Path, broker: str, command: list[str], prefix: str = "x-") -> subprocess.Popen[str]:
    (folder / "foreshock.yaml").write_text(CONFIG.replace("BROKER", broker).replace("PREFIX", prefix))
    (folder / "events.ndjson").write_text(
        "".join(json.dumps({"event_id": str(at), "ts": at, "model": "m", "features": {}}) + "\n" for at in range(10))
    )
    name, *arguments = command
    return subprocess.Popen(
        [sys.executable, "-m", "agents", name, "-c", "foreshock.yaml", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SECRET": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What it said, once SIGTERM has ended it with 0 in time."""
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert time.monotonic() - began < WITHIN_S, said
    assert "Traceback" not in said, said
    return said


def until_asleep(process: subprocess.Popen[str], least_s: float = 1.5) -> None:
    """Wait until it has used some time of the processor and now waits for something."""
    deadline = time.monotonic() + 60

    def used_s() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = -1.0
    while process.poll() is None and time.monotonic() < deadline:
        now = used_s()
        if now > least_s and now - before < 0.1:
            return
        before = now
        time.sleep(0.5)
    raise AssertionError(f"it has ended: {process.poll()}")


@pytest.mark.parametrize("name", COMMANDS)
def test_while_the_broker_takes_connections_and_says_nothing(name: str, silent: str, tmp_path: Path) -> None:
    process = started(tmp_path, silent, COMMANDS[name])
    until_asleep(process, 0.5)
    ended(process)


@pytest.mark.parametrize("name", ["worker", "webhook"])
def test_while_it_waits_for_a_topic(name: str, broker: EmbeddedBroker, tmp_path: Path) -> None:
    process = started(tmp_path, broker.bootstrap, COMMANDS[name], f"none-{name}-")
    assert process.stdout is not None
    asyncio.run(asyncio.to_thread(process.stdout.readline))
    ended(process)


def test_while_it_computes(tmp_path: Path) -> None:
    """A loop of Python's own, in the midst of a command."""
    script = (
        "from agents import ending\nending.install()\nprint('begun', flush=True)\nwhile True:\n    sum(range(1000))\n"
    )
    assert stopped(script, tmp_path) < 2


def test_while_nothing_can_be_interrupted(tmp_path: Path) -> None:
    """An event loop that never gets its turn again: ended as it is."""
    script = (
        "import asyncio\n"
        "from agents import ending\n"
        "ending.install()\n"
        "async def work():\n"
        "    print('begun', flush=True)\n"
        "    while True:\n"
        "        pass\n"
        "ending.run(work, within_s=1.0)\n"
    )
    assert 0.9 < stopped(script, tmp_path) < 5


def test_while_a_library_swallows_cancellations(tmp_path: Path) -> None:
    script = (
        "import asyncio\n"
        "from agents import ending\n"
        "ending.install()\n"
        "async def work():\n"
        "    print('begun', flush=True)\n"
        "    for _ in range(2):\n"
        "        try:\n"
        "            await asyncio.sleep(60)\n"
        "        except asyncio.CancelledError:\n"
        "            pass\n"
        "    await asyncio.sleep(60)\n"
        "ending.run(work, within_s=50.0)\n"
    )
    assert stopped(script, tmp_path) < 5


def stopped(script: str, folder: Path) -> float:
    """How long a script took to end with 0."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, process.stdout.read()
    return time.monotonic() - began


def test_what_it_returns_and_raises_is_its_own() -> None:
    async def work() -> int:
        return 3

    async def fails() -> None:
        raise ValueError("its own")

    assert ending.run(work) == 3
    with pytest.raises(ValueError, match="its own"):
        ending.run(fails)


def test_the_imports_of_a_command_are_no_gap(tmp_path: Path) -> None:
    process = started(tmp_path, "127.0.0.1:1", COMMANDS["worker"])
    installed(process.pid)
    ended(process)


def installed(pid: int) -> None:
    """Wait until the process has a handler for SIGTERM."""
    deadline = time.monotonic() + 30
    caught: Callable[[], int] = lambda: int(  # noqa: E731
        next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
        ).split()[1],
        16,
    )
    while not caught() >> (signal.SIGTERM - 1) & 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_on_its_way_out_the_command_keeps_its_own_exit_code(code: int) -> None:
    """The signal comes while the interpreter takes its modules apart, after its own handlers are gone."""
    script = (
        "import os, signal, sys\n"
        "from agents import ending\n"
        "class Late:\n"
        "    def __init__(self): self.kill, self.args = os.kill, (os.getpid(), signal.SIGTERM)\n"
        "    def __del__(self): self.kill(*self.args)\n"
        "late = Late()\n"
        "ending.install()\n"
        f"sys.exit({code})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == code
