"""How much more several workers do than one: events a second, by the clock and by CPU, on one topic.

    python bench/scale_out.py [--workers 1,2,4] [--events 4000000] [--partitions 8] [--rounds 3]

One Apache Kafka, a topic that is filled beforehand, and for each number of workers a group of its own, of
`foreshock worker` processes each pinned to a core in turn. Measured from when every worker reads its share until the
first of them has read all of it: joins and the end are left out. Where there are fewer cores than workers and the
broker, the clock shows the cores; events by CPU second show what working together costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from agents import topics
from agents.clients import Connection
from bench.stream import fill, pairs, project
from deploy.kafka import Broker
from deploy.loopback import free_port

PREFIX = "scale-"
READY_WITHIN_S, LOOK_EVERY_S = 120.0, 0.25
TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run, between the first and the last look."""

    events: int
    seconds: float
    cpu: float


class Worker:
    """One process, pinned to a core."""

    def __init__(self, config: Path, broker: str, name: str, core: int) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        listen = self.url.removeprefix("http://")
        command = [sys.executable, "-m", "agents", "worker", "-c", str(config), "--broker", broker]
        self.log = config.parent / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", listen, "--instance", name],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )

    def flows(self) -> dict[str, tuple[int, int]]:
        """By partition the records that were read, and those that are left; none before there are any."""
        if self.process.poll() is not None:
            raise SystemExit(f"a worker ended: {self.log.read_text(errors='replace')[-600:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
                page = answer.read().decode()
        except OSError:
            return {}
        read, left = {}, {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == "foreshock_records_total":
                    read[sample.labels["partition"]] = int(sample.value)
                elif sample.name == "foreshock_lag_records":
                    left[sample.labels["partition"]] = int(sample.value)
        return {partition: (read[partition], left[partition]) for partition in left}

    def cpu(self) -> float:
        """Seconds of it, user's and system's, until now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4", help="numbers, with commas between them")
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    numbers = [int(number) for number in chosen.workers.split(",")]
    found: dict[int, list[Figures]] = {number: [] for number in numbers}
    with tempfile.TemporaryDirectory() as folder, Broker.start(Path(folder) / "kafka", heap="1g") as broker:
        fill(broker.bootstrap, f"{PREFIX}inference", pairs(chosen.events), chosen.partitions)
        for turn in range(chosen.rounds):
            for number in numbers:
                figures = run(broker.bootstrap, Path(folder) / f"{turn}-{number}", number, chosen.partitions)
                found[number].append(figures)
                rate = figures.events / figures.seconds
                print(f"round {turn + 1}: {number} workers, {rate:,.0f} events/s", file=sys.stderr, flush=True)
    show(found)


def run(broker: str, folder: Path, number: int, partitions: int) -> Figures:
    """A group of its own reads the topic; what earlier ones have written is gone."""
    asyncio.run(cleared(broker))
    config = project(broker, PREFIX, "127.0.0.1:0").write(folder)
    config.write_text(config.read_text().replace("  prefix:", f"  group: g-{folder.name}\n  prefix:", 1))
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(started(config, broker, f"w{at}", cores[at % len(cores)])) for at in range(number)
        ]
        share = partitions // number
        deadline = time.monotonic() + READY_WITHIN_S
        while any(len(flows := w.flows()) < share or not all(read for read, _ in flows.values()) for w in workers):
            if time.monotonic() > deadline:
                raise SystemExit(f"{number} workers have not shared {partitions} partitions in {READY_WITHIN_S:.0f} s")
            time.sleep(LOOK_EVERY_S)
        first = last = look(workers)
        while all(any(left for _, left in worker.flows().values()) for worker in workers):
            last = look(workers)
            time.sleep(LOOK_EVERY_S)
        if last.events == first.events:
            raise SystemExit("read before it could be measured: take more --events")
        return Figures(last.events - first.events, last.seconds - first.seconds, last.cpu - first.cpu)


@contextlib.contextmanager
def started(config: Path, broker: str, name: str, core: int) -> Iterator[Worker]:
    worker = Worker(config, broker, name, core)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def look(workers: list[Worker]) -> Figures:
    """Totals as of now."""
    events = sum(read for worker in workers for read, _ in worker.flows().values())
    return Figures(events, time.perf_counter(), sum(worker.cpu() for worker in workers))


async def cleared(broker: str) -> None:
    connection = Connection(broker=broker, prefix=PREFIX)
    async with topics.admin(connection) as client:
        written = {connection.topic(topic.name) for topic in topics.TOPICS}
        await client.delete_topics(sorted(written & (await topics.partition_counts(client)).keys()))
        while written & (await topics.partition_counts(client)).keys():
            await asyncio.sleep(0.05)


def show(found: dict[int, list[Figures]]) -> None:
    table = Table(title=f"workers on one topic, {len(os.sched_getaffinity(0))} cores for all of them and the broker")
    for name in ("workers", "events/s", "spread", "times one", "events by CPU second", "of one worker's"):
        table.add_column(name, justify="right")
    one_rate = one_cpu = None
    for number, runs in found.items():
        rates = [run.events / run.seconds for run in runs]
        rate, by_cpu = statistics.median(rates), statistics.median(run.events / run.cpu for run in runs)
        one_rate, one_cpu = one_rate or rate, one_cpu or by_cpu
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        table.add_row(
            f"{number}", f"{rate:,.0f}", spread, f"{rate / one_rate:.2f}", f"{by_cpu:,.0f}", f"{by_cpu / one_cpu:.2f}"
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
