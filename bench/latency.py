"""From an event to an action, on Apache Kafka, in real time: how long the worker takes, and how soon it sees a fault.

    python bench/latency.py [--models 50] [--seconds 180] [--rate 50]

One worker on a core of its own; each model has a stream of `--rate` events a second on two partitions, panes of 10 s
and a grace of 2 s. At a moment drawn at random a fault begins in each: in one half a feature is null in all events
(catastrophic), in the other its null rate rises from 1 % to 4 % (subtle). The smallest effect of `null_rate` is set to
+0.02: at the default of +0.10 the subtle one is too small to act on. Of the first action that names the feature:

processing   from the production of the record that lets the window close (its time is past the window's end and the
             grace, in the last partition to get there) to the time of the action's record on `actions`
detection    from the production of the fault's first event to the same

Actions about anything else are counted as other actions.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from agents import topics
from agents.clients import Connection
from agents.loader import Records, read_to_end
from bench.machine import cores, pin
from deploy.kafka import Broker
from streams.events import time_ms
from streams.learn import learn
from streams.scaffold import foreshock_yaml

PARTITIONS = 2
PANE_MS, GRACE_MS = 10_000, 2_000
FEATURE = "amount"
USUAL, SUBTLE, CATASTROPHIC = 0.01, 0.04, 1.0
SIGNALS = "    signals: {null_rate: {effect: 0.02}}\n"
SETTLING_S = 30
"""After the first event; and what is left for the last fault to be seen."""
REFERENCE_S = 600
DISTINCT = 4_096
READY_WITHIN_S = 60
STOP_WITHIN_S = 30


class Fault(StrEnum):
    CATASTROPHIC = "catastrophic"
    SUBTLE = "subtle"


@dataclass(slots=True)
class Watched:
    """A model, its fault, and when what of it was sent; ms since the epoch."""

    name: str
    fault: Fault
    begins_ms: int
    sent_ms: tuple[list[int], ...] = field(default_factory=lambda: tuple([] for _ in range(PARTITIONS)))
    first_faulty_ms: int | None = None

    def nulls(self, now_ms: int) -> float:
        if now_ms < self.begins_ms:
            return USUAL
        return CATASTROPHIC if self.fault is Fault.CATASTROPHIC else SUBTLE

    def closing_ms(self, end_ms: int) -> int:
        """When the record was sent that let a window close that ends at `end_ms`."""
        return max(times[bisect_left(times, end_ms + GRACE_MS)] for times in self.sent_ms)


@dataclass(slots=True)
class Seen:
    """Milliseconds of each fault that was found."""

    faults: int = 0
    processing: list[int] = field(default_factory=list)
    detection: list[int] = field(default_factory=list)


# --- The streams and their configuration


def bodies(n: int, seed: int) -> list[dict[str, Any]]:
    """What events hold beside id, time and model; the null is put in later."""
    rng = random.Random(seed)
    return [
        {
            "model_version": "1",
            "features": {
                FEATURE: round(rng.lognormvariate(3, 1), 2),
                "age": rng.randrange(18, 90),
                "distance": round(rng.expovariate(1 / 40), 1),
                "country": rng.choice(("DE", "FR", "US", "BR")),
            },
            "score": round(rng.betavariate(2, 5), 4),
            "prediction": int(rng.random() < 0.2),
            "latency_ms": round(rng.lognormvariate(2, 0.4), 1),
        }
        for _ in range(n)
    ]


def event(body: dict[str, Any], model: str, number: int, now_ms: int, null: bool) -> bytes:
    features = body["features"] | {FEATURE: None} if null else body["features"]
    return msgspec.json.encode(
        {"event_id": f"{model}-{number}", "ts": now_ms, "model": model} | body | {"features": features}
    )


def write_project(folder: Path, models: Iterable[str], broker: str, rate: float) -> Path:
    """What `foreshock init` writes for a reference of the same kind, for each of the models."""
    rng = random.Random(0)
    reference = [
        event(body, "reference", number, round(1_767_571_200_000 + number * 1_000 / rate), rng.random() < USUAL)
        for number, body in enumerate(bodies(round(REFERENCE_S * rate), seed=0))
    ]
    learned = learn("reference", lambda: reference)
    text = foreshock_yaml(learned, "synthetic events", "reference.baseline")
    for what, ms in (("pane", PANE_MS), ("grace", GRACE_MS)):
        text, found = re.subn(rf"(?m)^    {what}: \S+", f"    {what}: {ms // 1_000}s", text)
        if found != 1:
            raise ValueError(f"the scaffold has no {what!r} any more: mend bench/latency.py")
    head, _, model = text.replace("broker: 127.0.0.1:9092", f"broker: {broker}", 1).partition("  reference:\n")
    file = folder / "foreshock.yaml"
    file.write_text(head + "".join(f"  {name}:\n{SIGNALS}{model}" for name in models), encoding="utf-8")
    (folder / "reference.baseline").write_bytes(learned.baseline.to_bytes())
    return file


# --- The run


async def run(broker: str, watched: Sequence[Watched], seconds: float, rate: float) -> int:
    """Sends each model's events at their time; how many there were."""
    rng = random.Random(2)
    rows = bodies(DISTINCT, seed=1)
    each = round(seconds * rate)
    due = np.add.outer(np.arange(each), np.random.default_rng(3).random(len(watched))) / rate
    order = np.argsort(due, axis=None)
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        began = time.monotonic()
        for at, due_s in zip(order.tolist(), due.ravel()[order].tolist(), strict=True):
            if (wait_s := began + due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            number, model = divmod(at, len(watched))
            of = watched[model]
            now_ms = time.time_ns() // 1_000_000
            value = event(rows[rng.randrange(DISTINCT)], of.name, number, now_ms, rng.random() < of.nulls(now_ms))
            await producer.send("inference", value, partition=number % PARTITIONS, timestamp_ms=now_ms)
            of.sent_ms[number % PARTITIONS].append(now_ms)
            if of.first_faulty_ms is None and now_ms >= of.begins_ms:
                of.first_faulty_ms = now_ms
    finally:
        await producer.stop()
    return len(order)


@contextlib.contextmanager
def working(config: Path, core: int | None) -> Iterator[None]:
    """A worker, from its being ready until it has ended."""
    log = config.with_name("worker.log")
    command = [sys.executable, "-m", "agents", "worker", "-c", str(config), "--listen", "127.0.0.1:0"]
    with log.open("wb") as out:
        worker = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, preexec_fn=lambda: pin(core))
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while "metrics at" not in log.read_text():
            if worker.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the worker did not start: {log.read_text()[-2_000:]}")
            time.sleep(0.1)
        yield
        if worker.poll() is not None:
            raise SystemExit(f"the worker ended: {log.read_text()[-2_000:]}")
    finally:
        worker.terminate()
        try:
            worker.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


async def actions(connection: Connection) -> list[tuple[int, dict[str, Any]]]:
    """Time of the record and content of everything on `actions`, in the order of time."""
    found: list[tuple[int, dict[str, Any]]] = []

    def take(records: Records) -> None:
        found.extend((record.timestamp, msgspec.json.decode(record.value)["data"]) for record in records)

    count = await topics.find(connection, "actions") or 0
    await read_to_end(connection, "actions", range(count), take, deadline_s=60)
    return sorted(found, key=lambda item: item[0])


def judged(
    watched: Sequence[Watched], published: Iterable[tuple[int, dict[str, Any]]]
) -> tuple[dict[Fault, Seen], int]:
    """What was seen of each kind of fault, and how many firing actions were about something else."""
    seen = {fault: Seen(sum(of.fault is fault for of in watched)) for fault in Fault}
    faults = {of.name: of for of in watched}
    found: set[str] = set()
    others = 0
    for stamp_ms, action in published:
        if action["state"] != "firing":
            continue
        name, end_ms = action["model"], time_ms(action["window"]["end"])
        names_it = any(signal.get("feature") == FEATURE for signal in action["signals"])
        of = faults.get(name)
        if of is None or of.first_faulty_ms is None or not names_it or end_ms <= of.begins_ms:
            others += 1
        elif name not in found:
            found.add(name)
            seen[of.fault].processing.append(stamp_ms - of.closing_ms(end_ms))
            seen[of.fault].detection.append(stamp_ms - of.first_faulty_ms)
    return seen, others


# --- Telling


def show(seen: dict[Fault, Seen], others: int, events: int, seconds: float) -> None:
    table = Table(title=f"from event to action, seconds; {events:,} events in {seconds:g} s")
    for column in ("fault", "found", "", "p50", "p99", "max"):
        table.add_column(column, justify="left" if column in ("fault", "") else "right")
    for fault, of in seen.items():
        for name, times in (("processing", of.processing), ("detection", of.detection)):
            told = [f"{value / 1_000:.2f}" for value in (*np.percentile(times, (50, 99)), max(times))] if times else []
            table.add_row(fault, f"{len(times)} of {of.faults}", name, *told)
    Console(width=100).print(table)
    print(f"other actions: {others}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=180, help="how long events are sent")
    parser.add_argument("--rate", type=float, default=50.0, help="events a second of each model")
    chosen = parser.parse_args(arguments)
    if chosen.seconds <= 2 * SETTLING_S:
        parser.error(f"--seconds {chosen.seconds}: expected more than {2 * SETTLING_S}")
    core, broker_core = cores()
    rng = random.Random(4)
    kinds = [Fault.CATASTROPHIC if number % 2 == 0 else Fault.SUBTLE for number in range(chosen.models)]
    offsets = [rng.uniform(SETTLING_S, chosen.seconds - SETTLING_S) for _ in kinds]
    with tempfile.TemporaryDirectory() as folder:
        pin(broker_core)
        with Broker.start(Path(folder) / "kafka") as broker:
            connection = Connection(broker=broker.bootstrap)
            asyncio.run(topics.create(connection, "inference", PARTITIONS))
            names = [f"model-{number:03}" for number in range(chosen.models)]
            config = write_project(Path(folder), names, broker.bootstrap, chosen.rate)
            with working(config, core):
                now_ms = time.time_ns() // 1_000_000
                watched = [
                    Watched(name, fault, now_ms + round(offset * 1_000))
                    for name, fault, offset in zip(names, kinds, offsets, strict=True)
                ]
                events = asyncio.run(run(broker.bootstrap, watched, chosen.seconds, chosen.rate))
            seen, others = judged(watched, asyncio.run(actions(connection)))
    show(seen, others, events, chosen.seconds)


if __name__ == "__main__":
    main()
