"""How soon a worker that is started does its work: with nothing to rebuild, and with a log of partials to be read.

    python bench/startup.py [--events 200000] [--rounds 3]

From the start of the process, the interpreter and the imports included, to the first batch of events that was counted,
and to stage 2 having been rebuilt from `partials` (both wait for nothing but Kafka). The log is that of `--events`
events over a day and more, as a worker has left it that was stopped; peak memory is that of the process until then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

from rich.console import Console
from rich.table import Table
from sketching import peak_mib  # type: ignore[import-not-found]

from agents import app, replay, topics
from agents.channel import Batch
from agents.clients import Connection
from agents.files import read_plan
from agents.loader import Records, read_to_end
from agents.memory import tune_memory
from agents.merge import MergeStage
from agents.sketch import SketchStage
from bench.machine import cores, pin
from bench.stream import fill, pairs, project
from deploy.kafka import Broker

TOPIC, PARTITIONS = "inference", 2
EVENTS_PER_S = 2
"""So slow that the log holds as many panes as a day has."""
WAITING = 20_000
"""Events of each start that are there to be counted."""
TIMEOUT_S = 300

Figures = dict[str, float]
told: Figures = {}


# --- The worker: `startup.py worker CONFIG BROKER`, a process of its own


class Counting(SketchStage):
    """Stage 1, which says when its first batch of events has been counted."""

    async def process(self, batch: Batch) -> None:
        await super().process(batch)
        if batch.records:
            told.setdefault("counted", time.time())


class Rebuilding(MergeStage):
    """Stage 2, which says when its buckets have been rebuilt."""

    async def on_assigned(self, *tps: Any) -> Any:
        found = await super().on_assigned(*tps)
        if self.judges:
            told.setdefault("rebuilt", time.time())
        return found


async def work(config: Path, broker: str) -> None:
    app.SketchStage, app.MergeStage = Counting, Rebuilding  # type: ignore[attr-defined]
    worker = app.Worker(read_plan(config), Connection(broker=broker), app.WebOptions())
    running = asyncio.create_task(worker.run())
    while len(told) < 2 and not running.done():
        await asyncio.sleep(0.01)
    told["memory_mib"] = peak_mib()
    print(json.dumps(told), flush=True)
    worker.stop.set()
    await running


# --- The bench


def started(config: Path, broker: str, core: int | None) -> Figures:
    """Seconds from the start of a worker; it is stopped again."""
    command = [sys.executable, str(Path(__file__)), "worker", str(config), broker]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, preexec_fn=lambda: pin(core))
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"the worker did not start: {done.stderr.strip()[-2_000:]}")
    found: Figures = json.loads(lines[-1])
    return found | {name: found[name] - began for name in ("counted", "rebuilt")}


def drained(config: Path, broker: str, core: int | None) -> None:
    """A worker has read everything, and has ended."""
    command = [sys.executable, "-m", "agents", "worker", "-c", str(config), "--listen", "127.0.0.1:0", "--drain"]
    command += ["--broker", broker]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT, preexec_fn=lambda: pin(core)
    )
    if done.returncode:
        raise SystemExit(f"the worker failed: {done.stderr.strip()[-2_000:]}")


async def partials(connection: Connection) -> tuple[int, int]:
    """Records and bytes that a rebuild reads."""
    sizes: list[int] = []

    def take(records: Records) -> None:
        sizes.extend(len(record.value or b"") for record in records)

    count = await topics.find(connection, "partials") or 0
    await read_to_end(connection, "partials", range(count), take, deadline_s=TIMEOUT_S)
    return len(sizes), sum(sizes)


def measure(events: int, rounds: int) -> list[tuple[int, int, list[Figures]]]:
    """Records and bytes of the log, and the figures of each start: without a log, and with one."""
    core, broker_core = cores()
    stream = pairs(events + WAITING * (rounds + 1), events_per_s=EVENTS_PER_S)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        pin(broker_core)
        empty = []
        for number in range(rounds):
            with Broker.start(Path(folder) / f"empty-{number}") as broker:
                fill(broker.bootstrap, TOPIC, pairs(WAITING), PARTITIONS)
                config = project(broker.bootstrap).write(Path(folder))
                empty.append(started(config, broker.bootstrap, core))
        found.append((0, 0, empty))
        with Broker.start(Path(folder) / "filled") as broker:
            connection = Connection(broker=broker.bootstrap)
            config = project(broker.bootstrap).write(Path(folder))
            fill(broker.bootstrap, TOPIC, (next(stream) for _ in range(events)), PARTITIONS)
            drained(config, broker.bootstrap, core)
            log = asyncio.run(partials(connection))
            filled = []
            for _ in range(rounds):
                more = [next(stream) for _ in range(WAITING)]
                asyncio.run(replay.generate(connection, TOPIC, more))
                filled.append(started(config, broker.bootstrap, core))
            found.append((*log, filled))
    return found


def show(found: Sequence[tuple[int, int, Sequence[Figures]]]) -> None:
    table = Table(title="from the start of the process, seconds: median (lowest to highest)")
    for column in ("records of partials", "MiB", "first batch counted", "stage 2 rebuilt", "peak MiB"):
        table.add_column(column, justify="right")
    for records, size, figures in found:
        times = []
        for name in ("counted", "rebuilt"):
            values = [figure[name] for figure in figures]
            times.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        memory = max(figure["memory_mib"] for figure in figures)
        table.add_row(f"{records:,}", f"{size / 2**20:.1f}", *times, f"{memory:,.0f}")
    Console(width=110).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000, help="that made the log of partials")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind")
    chosen = parser.parse_args(arguments)
    show(measure(chosen.events, chosen.rounds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        tune_memory()
        asyncio.run(work(Path(sys.argv[2]), sys.argv[3]))
    else:
        main()
