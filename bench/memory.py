"""What a payload can make us keep: a stream of names and values that never repeat → memory, series, books.

    python bench/memory.py                     1,000,000 events, one of ten of an undeclared model
    python bench/memory.py --events 200000     a shorter look

Every event of the declared model has a value of its own in a string feature; versions, unknown fields and model names
come from pools that are far above their caps. The events go through the pure pipeline of a worker, stage 1 and 2, and
its exporter is scraped at every step. Exits with 1 if memory still grows after the warm-up, if there are more series
than the cap allows, or if the books do not balance.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from rich.console import Console
from rich.table import Table

from agents.exporter import Exporter
from agents.work import Work
from streams.chunk import Step
from streams.configure import load
from streams.judge import BucketJudge
from streams.learn import learn
from streams.partial import key_of, pack, unpack
from streams.plan import Plan, compile_plan
from streams.records import Records
from streams.scaffold import foreshock_yaml
from streams.source import SourceFold

MODEL, TOPIC = "payments", "inference"
START_MS = 1_767_571_200_000
EVENTS_PER_S = 500
LATENESS = "5m"
"""Panes are kept so long; at the default of a day the stream would end before the first of them is let go."""
BATCH = 8_192
NOT_OURS = 10
"""One event of so many is of a model that nobody declared."""
BROKEN, LATE = 1_000, 2_000
WARM_UP = 0.4
MOST_GROWTH = 0.10
MOST_GROWTH_MIB = 16.0
SIGNAL_SERIES = ("foreshock_signal_value", "foreshock_signal_threshold", "foreshock_signal_breached")


@dataclass(frozen=True, slots=True)
class Names:
    """How many different ones the stream has."""

    models: int = 100_000
    versions: int = 20_000
    fields: int = 20_000


def events(n: int, names: Names) -> Iterator[bytes]:
    """A value that was never seen in every event of ours; names from their pools, in turn."""
    for i in range(n):
        ts = START_MS + i * 1_000 // EVENTS_PER_S
        if not i % BROKEN:
            yield b'{"event_id": %d' % i
        elif not i % NOT_OURS:
            yield b'{"event_id":"%d","ts":%d,"model":"m-%d","features":{}}' % (i, ts, i // NOT_OURS % names.models)
        else:
            ts -= 3_600_000 if not (i + 1) % LATE else 0
            yield (
                b'{"event_id":"%d","ts":%d,"model":"payments","model_version":"v-%d","score":0.25,'
                b'"features":{"amount":%d.5,"device":"device-%d"},"segments":{"channel":"web"},"field-%d":1}'
            ) % (i, ts, i % names.versions, i % 100, i, i % names.fields)


def plan(max_series: int) -> Plan:
    """Learned from a quiet reference of the same kind, with a few devices and one version."""
    rng = random.Random(1)
    reference = [
        msgspec.json.encode(
            {
                "event_id": str(i),
                "ts": START_MS + i * 30,
                "model": MODEL,
                "model_version": "1",
                "features": {"amount": rng.randrange(100) + 0.5, "device": f"d{rng.randrange(20)}"},
                "segments": {"channel": rng.choice(("web", "app"))},
                "score": 0.25,
            }
        )
        for i in range(20_000)
    ]
    learned = learn(MODEL, lambda: reference)
    text = foreshock_yaml(learned, "synthetic events", "payments.baseline")
    for before, after in (("lateness: 1d", f"lateness: {LATENESS}"), ("web:\n", f"web:\n  max_series: {max_series}\n")):
        if before not in text:
            raise ValueError(f"the scaffold has no {before!r} any more: mend bench/memory.py")
        text = text.replace(before, after, 1)
    return compile_plan(load(text), {MODEL: learned.baseline})


@dataclass
class Worker:
    """Both stages of a worker and its exporter, without Kafka."""

    plan: Plan
    fold: SourceFold = field(init=False)
    judges: dict[int, BucketJudge] = field(init=False)
    events: int = 0

    def __post_init__(self) -> None:
        self.fold = SourceFold(self.plan, TOPIC, 0, None, START_MS)
        buckets = range(self.plan.config.kafka.buckets)
        self.judges = {bucket: BucketJudge(self.plan, bucket, TOPIC, 1) for bucket in buckets}
        resuming = SimpleNamespace(names={TOPIC: ""}, changes=Counter(), damaged=0, newer={})
        sketch = SimpleNamespace(intake=None, work=Work(), folds={0: self.fold}, parked=[], plan=self.plan)
        sketch.resuming, sketch.lost_labels, sketch.producer = resuming, {}, SimpleNamespace(largest={})
        merge = SimpleNamespace(intake=None, judges=self.judges, work=Work(), rebuild_seconds=0.0, to_rebuild=0)
        merge.restarted, merge.later = Counter(), {}
        acks = SimpleNamespace(rejected=0)
        self.exporter = Exporter(sketch, merge, acks, self.plan.config.web.max_series)  # type: ignore[arg-type]

    def take(self, values: list[bytes]) -> None:
        """A batch, published and judged."""
        offsets = range(self.events, self.events + len(values))
        clock_ms = START_MS + self.events * 1_000 // EVENTS_PER_S
        self.events += len(values)
        for step in self.fold.take(Records(offsets, [clock_ms + 60_000] * len(values), values), clock_ms):
            self._fold(step)
        self._fold(self.fold.publish(clock_ms, caught_up=False))

    def _fold(self, step: Step) -> None:
        for partial in step.partials:
            self.judges[partial.bucket].merge.apply(unpack(pack(partial)), key_of(partial, "bench"))
        for bucket in {partial.bucket for partial in step.partials}:
            for _ in self.judges[bucket].advance():
                pass
            self.judges[bucket].merge.expire()

    def series(self) -> tuple[int, int]:
        """Series of single columns, which the cap is for, and of all."""
        names = [sample.name for family in self.exporter.collect() for sample in family.samples]
        return sum(name in SIGNAL_SERIES for name in names), len(names)

    def books(self) -> dict[str, int]:
        """The sums over all models, and `models`: how many have books."""
        merges = [judge.merge for judge in self.judges.values()]
        found = [model.books for merge in merges for model in (*merge.models.values(), *merge.others.values())]
        rejected = sum(sum(books.rejected.values()) for books in found)
        sums = {name: sum(getattr(books, name) for books in found) for name in ("read", "counted", "late", "duplicate")}
        return {**sums, "rejected": rejected, "models": sum(books.read > 0 for books in found)}

    def cells(self) -> int:
        """Profiles that both stages hold."""
        stage_one = sum(len(cells) for part in self.fold.shares.values() for cells in part.panes.values())
        models = [model for judge in self.judges.values() for model in judge.merge.models.values()]
        panes = [pane for model in models for pane in model.panes.values()]
        opened = sum(len(part.on_time) + len(part.welcome) for pane in panes for _, part in pane.open.values())
        return stage_one + opened + sum(len(pane.on_time) + len(pane.welcome) for pane in panes)


def resident_mib() -> float:
    """What this process holds now; where the system does not say, what it held at most."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(n: int, steps: int, max_series: int, names: Names, out: Console) -> list[str]:
    """Feeds the stream, shows a line a step; what is wrong."""
    worker, stream = Worker(plan(max_series)), events(n, names)
    table = Table("events", "RSS, MiB", "cells", "series of columns", "series in all", "models in books", "events/s")
    resident: list[float] = []
    most_series = 0
    for step in range(1, steps + 1):
        began, before = time.perf_counter(), worker.events
        while worker.events < n * step // steps and (batch := list(islice(stream, BATCH))):
            worker.take(batch)
        taken = time.perf_counter() - began
        capped, series = worker.series()
        most_series = max(most_series, capped)
        resident.append(resident_mib())
        row: tuple[Any, ...] = (worker.events, round(resident[-1]), worker.cells(), capped, series)
        row += (worker.books()["models"], round((worker.events - before) / taken))
        table.add_row(*(f"{item:,}" for item in row))
    out.print(table)
    return [*_memory(resident, out), *_series(most_series, max_series), *_books(worker.books(), n, out)]


def _memory(resident: list[float], out: Console) -> Iterator[str]:
    warm = resident[: max(1, round(len(resident) * WARM_UP))]
    growth = max(resident) - max(warm)
    out.print(f"RSS after the warm-up: at most {max(warm):.0f} MiB before, {growth:+.1f} MiB since")
    if growth > max(MOST_GROWTH_MIB, MOST_GROWTH * max(warm)):
        yield f"memory grows: {growth:.0f} MiB after the warm-up"


def _series(most: int, cap: int) -> Iterator[str]:
    if most > cap:
        yield f"{most:,} series of columns, the cap is {cap:,}"


def _books(books: dict[str, int], n: int, out: Console) -> Iterator[str]:
    sums = {name: books[name] for name in ("read", "counted", "late", "rejected", "duplicate")}
    out.print("books: " + ", ".join(f"{name} {count:,}" for name, count in sums.items()))
    if sums["read"] != n or sums["read"] != sum(sums.values()) - sums["read"]:
        yield f"the books do not balance over {n:,} events"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Memory under names and values that never repeat.")
    parser.add_argument("--events", type=int, default=1_150_000, help="so that ours have 1,000,000 values and more")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--max-series", type=int, default=20_000)
    chosen = parser.parse_args(arguments)
    out = Console()
    wrong = run(chosen.events, chosen.steps, chosen.max_series, Names(), out)
    for line in wrong:
        out.print(f"[bold]{line}[/bold]")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
