"""What grows with what: bytes and CPU of partials, panes and state by features and segments; what follows from them.

    python bench/scaling.py            measure, then reckon 1 to 100 million events a minute and 10 to 10,000 models
    python bench/scaling.py --events-us 5.1 --join-us 6     with other figures of bench/throughput.py

Pure Python on one core, without Kafka, in seconds of CPU: other programs on the machine hardly change them.
docs/scaling.md has the formulae, and the figures that this printed.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import astuple, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from streams.configure import load
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.learn import learn
from streams.partial import BooksPartial, PanePartial, key_of, pack, unpack
from streams.plan import Plan, compile_plan
from streams.records import Records
from streams.scaffold import foreshock_yaml
from streams.source import SourceFold
from streams.state import ModelState, pack_state, pack_unit

MODEL, START_MS, PANE_MS = "m", 1_767_571_200_000, 60_000
NOW_MS = START_MS + 10**10
SHAPES = ((5, 0), (15, 3), (50, 3), (15, 30), (500, 3))
"""Features, and values of one segment dimension."""
PER_PANE, PANES, PARTITIONS = 1_000, 30, 5
REFERENCE_PANES = 60
DRAWN = 2_000

CHUNK = 65_536
LATENESS_MIN = (1_440, 60)
"""So long panes are kept: a day, as the scaffold has it, or an hour."""
PANE_EVENTS = 1_000
"""A pane is a minute, or as long as it takes to hold so many events of a model."""
CORES_S = 0.7
"""Of a worker's core, what may be in use on average."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Figures of one model. Bytes of one partition's partial of a pane, by the events in it; CPU in µs."""

    features: int
    segments: int
    bytes_10: int
    bytes_100: int
    bytes_1000: int
    books_bytes: int
    event_us: float
    publish_us: float
    resume_us: float
    merge_us: float
    judge_us: float
    memory_bytes: int
    state_bytes: int
    windows_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events-us", type=float, default=5.1, help="CPU of a worker for an event (throughput.py)")
    parser.add_argument("--join-us", type=float, default=6.0, help="on top of it, with the label join (throughput.py)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default: 3)")
    chosen = parser.parse_args()
    shapes = [best([measured(*shape) for _ in range(chosen.rounds)]) for shape in SHAPES]
    show(shapes)
    reckon(next(shape for shape in shapes if (shape.features, shape.segments) == (15, 3)), chosen)


# --- Measured


def best(rounds: list[Shape]) -> Shape:
    """What disturbs a measurement makes it longer."""
    return Shape(*(min(values) for values in zip(*map(astuple, rounds), strict=True)))


def measured(features: int, segments: int) -> Shape:
    templates = drawn(features, segments)
    plan = planned(templates)
    sizes = []
    for n in (10, 100, 1_000):
        partials, _, _ = sketched(plan, templates, n, 1)
        sizes.append(max(len(pack(item)) for item in partials if isinstance(item, PanePartial)))
    partials, event_s, publish_s = sketched(plan, templates, PER_PANE, PANES)
    books = max(len(pack(item)) for item in partials if isinstance(item, BooksPartial))
    records = [(key_of(item, "bench"), pack(item)) for item in partials]
    judge = opened(plan, records)
    began = time.process_time()
    outcomes = list(judge.advance())
    judge_s = time.process_time() - began
    alone_s = rebuilt_s(plan, partials, last(outcomes), 1)
    merge_s = (rebuilt_s(plan, partials, last(outcomes), PARTITIONS) - alone_s) / (PARTITIONS - 1)
    return Shape(
        features,
        segments,
        *sizes,
        books,
        event_s / (PER_PANE * PANES) * 1e6,
        publish_s / PANES * 1e6,
        (alone_s - merge_s) / PANES * 1e6,
        merge_s / PANES * 1e6,
        judge_s / PANES * 1e6,
        memory_bytes(judge),
        state_bytes(outcomes),
        sum(len(msgspec.json.encode(window)) for outcome in outcomes for window in outcome.windows) // PANES,
    )


def drawn(features: int, segments: int) -> list[bytes]:
    """Events with a hole for the time."""
    rng = np.random.default_rng(1)
    values = np.round(rng.lognormal(3, 1, (DRAWN, features)), 2).tolist()
    events = []
    for row, score, value in zip(
        values, rng.beta(2, 5, DRAWN).round(4).tolist(), rng.integers(0, max(1, segments), DRAWN), strict=True
    ):
        event = {
            "event_id": "e",
            "model": MODEL,
            "model_version": "1",
            "features": {f"f{number}": item for number, item in enumerate(row)},
            "score": score,
            "prediction": int(score > 0.5),
            "latency_ms": 12.5,
            **({"segments": {"s": f"v{value}"}} if segments else {}),
        }
        events.append(b'{"ts":%d,' + msgspec.json.encode(event)[1:])
    return events


def dated(templates: list[bytes], first: int, n: int, per_pane: int) -> list[bytes]:
    return [templates[at % DRAWN] % (START_MS + at * PANE_MS // per_pane) for at in range(first, first + n)]


def planned(templates: list[bytes]) -> Plan:
    rows = dated(templates, 0, REFERENCE_PANES * 200, 200)
    learned = learn(MODEL, lambda: rows)
    text = foreshock_yaml(learned, "synthetic events", "m.baseline")
    pane = load(text).models[MODEL].pane
    return compile_plan(load(text.replace(f"pane: {pane}", "pane: 1m")), {MODEL: learned.baseline})


def sketched(
    plan: Plan, templates: list[bytes], per_pane: int, panes: int
) -> tuple[list[PanePartial | BooksPartial], float, float]:
    """Partials of one partition, a publication a pane; CPU seconds of counting and of publishing."""
    fold = SourceFold(plan, plan.config.kafka.inference, 0, None, NOW_MS)
    found: list[PanePartial | BooksPartial] = []
    count_s = publish_s = 0.0
    for pane in range(panes):
        values = dated(templates, pane * per_pane, per_pane, per_pane)
        records = Records(range(pane * per_pane, (pane + 1) * per_pane), [NOW_MS] * per_pane, values)
        began = time.process_time()
        fold.take(records, NOW_MS)
        counted = time.process_time()
        step = fold.publish(NOW_MS, caught_up=False, final=pane == panes - 1)
        for item in step.partials:
            pack(item)
        publish_s += time.process_time() - counted
        count_s += counted - began
        found += [item for item in step.partials if isinstance(item, PanePartial | BooksPartial)]
    return found, count_s, publish_s


def opened(plan: Plan, records: list[tuple[bytes, bytes]], state: ModelState | None = None) -> BucketJudge:
    """A judge that has read all partials; with a state as after a move."""
    judge = BucketJudge(plan, plan.config.bucket(MODEL), plan.config.kafka.inference, 1)
    if state is not None:
        judge.restore(state)
    for key, value in records:
        judge.apply(unpack(value), key, fresh=state is None)
    list(judge.resume())
    return judge


def rebuilt_s(plan: Plan, partials: list[PanePartial | BooksPartial], state: ModelState, partitions: int) -> float:
    """CPU seconds of a rebuild, of panes that came from so many partitions."""
    of_all = [msgspec.structs.replace(item, partition=at) for at in range(partitions) for item in partials]
    records = [(key_of(item, "bench"), pack(item)) for item in of_all]
    began = time.process_time()
    opened(plan, records, state)
    return time.process_time() - began


def last(outcomes: list[Outcome]) -> ModelState:
    return next(outcome.state for outcome in reversed(outcomes) if outcome.state is not None)


def memory_bytes(judge: BucketJudge) -> int:
    """Of the counts of one pane, in full chunks: all partitions together."""
    pane = next(iter(judge.merge.models[MODEL].panes.values()))
    return sum(profile.counts.dense().nbytes for profile in pane.cells()[0].values())


def state_bytes(outcomes: list[Outcome]) -> int:
    """What is kept of a model: its state, and the roll-ups of its last hour."""
    state = last(outcomes)
    units = {unit.id: unit for outcome in outcomes for unit in outcome.units}
    return len(pack_state(state)) + sum(len(pack_unit(MODEL, unit)) for unit in units.values())


def show(shapes: list[Shape]) -> None:
    rows = (
        ("partial, 10 events, bytes", "bytes_10"),
        ("partial, 100 events, bytes", "bytes_100"),
        ("partial, 1,000 events, bytes", "bytes_1000"),
        ("books, bytes", "books_bytes"),
        ("stage 1, CPU µs an event", "event_us"),
        ("publish a pane, CPU µs", "publish_us"),
        ("rebuild a pane, CPU µs", "resume_us"),
        ("and for each partial of it", "merge_us"),
        ("judge a pane, CPU µs", "judge_us"),
        ("a pane in memory, bytes", "memory_bytes"),
        ("state of a model, bytes", "state_bytes"),
        ("windows of a pane, bytes", "windows_bytes"),
    )
    table = Table(title="one model, one partition")
    table.add_column("features / segments")
    for shape in shapes:
        table.add_column(f"{shape.features} / {shape.segments}", justify="right")
    for title, name in rows:
        values = [getattr(shape, name) for shape in shapes]
        table.add_row(title, *(f"{value:,.1f}" if value < 10 else f"{value:,.0f}" for value in values))
    Console(width=130).print(table)


# --- Reckoned


def reckon(shape: Shape, chosen: argparse.Namespace) -> None:
    table = Table(title=f"{shape.features} features, {shape.segments} segments, lateness 1 d / 1 h, all with labels")
    columns = (
        "events/min",
        "models",
        "workers",
        "stage 2",
        "partitions",
        "pane, min",
        "MB/s",
        "log, GB",
        "memory, GB",
        "rebuild, s",
    )
    for name in columns:
        table.add_column(name, justify="right")
    for a_minute in (1e6, 1e7, 1e8):
        for models in (10, 100, 1_000, 10_000):
            table.add_row(f"{a_minute:,.0f}", f"{models:,}", *reckoned(shape, chosen, a_minute, models))
    Console(width=130).print(table)


def reckoned(shape: Shape, chosen: argparse.Namespace, a_minute: float, models: int) -> tuple[str, ...]:
    """The formulae of docs/scaling.md; every model has as many events as the others, in every partition."""
    stage_one = a_minute / 60 * (chosen.events_us + chosen.join_us) / 1e6
    partitions = max(4, 2 * math.ceil(stage_one / CORES_S))
    pane_min = max(1.0, PANE_EVENTS * models / a_minute)
    in_pane = a_minute * pane_min / models / partitions
    chunks = max(1.0, a_minute * pane_min / partitions / CHUNK)
    size = bytes_of(shape, in_pane / chunks)
    # Partials of a pane: one for each partition, model and chunk that has events of it.
    places = partitions * models * min(1.0, in_pane) * chunks
    sent_s = partitions * models * min(1.0, in_pane / pane_min / 60) * size
    log = [places * size * kept / pane_min / 1e9 for kept in LATENESS_MIN]
    stage_two = (models * shape.judge_us + places * shape.merge_us) / 1e6 / 60 / pane_min
    workers = max(1, math.ceil((stage_one + stage_two) / CORES_S))
    memory = [models * shape.memory_bytes * kept / pane_min / 1e9 for kept in LATENESS_MIN]
    pane_s = (models * shape.resume_us + places * shape.merge_us) / 1e6
    rebuild = [pane_s * kept / pane_min / workers for kept in LATENESS_MIN]
    return (
        f"{workers:,}",
        f"{stage_two / CORES_S:,.1f}",
        f"{partitions:,}",
        f"{pane_min:,.0f}",
        f"{sent_s / 1e6:,.1f}",
        *(" / ".join(f"{n:,.1f}" if n < 100 else f"{n:,.0f}" for n in found) for found in (log, memory)),
        " / ".join(f"{found:,.0f}" for found in rebuild),
    )


def bytes_of(shape: Shape, events: float) -> float:
    """Between what was measured, by the logarithm of the events; beyond it the vector is dense, and grows no more."""
    return float(np.interp(np.log10(max(events, 1)), (1, 2, 3), (shape.bytes_10, shape.bytes_100, shape.bytes_1000)))


if __name__ == "__main__":
    main()
