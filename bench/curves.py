"""How the cost of stage 1 grows: CPU µs an event by features, segments, models, event size, batch and panes; no Kafka.

    python bench/curves.py                             all curves: a table
    python bench/curves.py --only features,models      some of them
    python bench/curves.py --figures docs/figures      and a picture of each, as an SVG file

Beside each point stands its floor, in the same run: the same records decoded to rows, and dropped. Both take records
from the bytes of fetches; stage 1 publishes once for each full chunk and at the end. Medians of the rounds, in which
the two take turns; processor time of the thread, so that other programs disturb little.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from agents.record_batch import Columns
from bench.figures import figure
from bench.profile_stage_one import fetched, fetches, sketch, taken
from streams.chunk import BLOCK_RECORDS
from streams.codecs import decoder_of
from streams.configure import load
from streams.learn import Learned, learn
from streams.plan import Plan, compile_plan
from streams.records import Records
from streams.reports.svg import Mark, Series
from streams.scaffold import foreshock_yaml

EVENTS = 65_536
"""A chunk, at the default; less of events that cost more, for what is published in a second falls with them."""
MOST_FEATURES = 2_000_000
"""Of the events of a point together."""
DISTINCT_BYTES = 24 << 20
"""Events are repeated when they would be more than this: they hold seconds of event time, far within the grace."""
REFERENCE_EVENTS = 2_000
START_MS = 1_767_571_200_000
EVENTS_PER_S = 2_000
CATEGORICAL_ONE_IN = 5
CATEGORIES = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """A stream, and how it comes. What is not said is as in the other benches."""

    features: int = 15
    dimensions: int = 1
    values: int = 3
    """Of each segment dimension."""
    models: int = 1
    padding: int = 0
    """Bytes of a field that nobody declared."""
    batch: int = 2_048
    panes: int = 0
    """Event time so fast that a batch holds so many; 0 leaves it at the stream's own pace."""


PLAIN = Shape()
CURVES: dict[str, tuple[str, Sequence[tuple[int, Shape]]]] = {
    "features": ("features of the model", [(n, replace(PLAIN, features=n)) for n in (5, 15, 50, 150, 500)]),
    "dimensions": ("segment dimensions, of 3 values each", [(n, replace(PLAIN, dimensions=n)) for n in (1, 3, 8)]),
    "values": ("values of one segment dimension", [(n, replace(PLAIN, values=n)) for n in (3, 10, 30, 64)]),
    "models": ("models on the topic, in turn", [(n, replace(PLAIN, models=n)) for n in (1, 10, 100, 1_000)]),
    "size": ("bytes added to an event", [(n, replace(PLAIN, padding=n)) for n in (0, 500, 1_500, 3_500, 7_500)]),
    "batch": ("records of a batch", [(n, replace(PLAIN, batch=n)) for n in (64, 256, 1_024, 2_048, 8_192)]),
    "panes": ("panes in a batch", [(n, replace(PLAIN, panes=n)) for n in (1, 3, 10, 30, 100)]),
}
"""By name what is varied, and the points. A configuration has at most 8 dimensions, and 64 values of each."""


@dataclass(frozen=True, slots=True)
class Point:
    """Processor seconds an event, the median of the rounds, and the lowest and highest ratio of a round."""

    place: int
    event_bytes: int
    stage_one: float
    floor: float
    ratios: tuple[float, float]

    @property
    def ratio(self) -> float:
        return self.stage_one / self.floor


# --- The stream


def events(shape: Shape, n: int, seed: int = 1) -> Iterator[bytes]:
    """Numbers with one decimal place and texts, 4 to 1; models in turn."""
    rng = np.random.default_rng(seed)
    pace = shape.panes and max(1, shape.batch * 1_000 // (shape.panes * 60_000))
    numbers = np.round(rng.normal(100, 20, (min(n, 4_096), shape.features)), 1).tolist()
    texts = rng.integers(0, CATEGORIES, (len(numbers), shape.features)).tolist()
    kinds = [column % CATEGORICAL_ONE_IN == CATEGORICAL_ONE_IN - 1 for column in range(shape.features)]
    segments = rng.integers(0, shape.values, (len(numbers), shape.dimensions)).tolist()
    padding = {"context": "x" * shape.padding} if shape.padding else {}
    for number in range(n):
        at = number % len(numbers)
        yield msgspec.json.encode(
            {
                "event_id": f"pay-{number:012}",
                "ts": START_MS + number * 1_000 // (pace or EVENTS_PER_S),
                "model": f"model-{number % shape.models:04}",
                "model_version": "7",
                "features": {
                    f"feature_{column}": f"category-{text}" if is_text else value
                    for column, (is_text, value, text) in enumerate(zip(kinds, numbers[at], texts[at], strict=True))
                },
                "segments": {f"segment_{column}": f"value-{value}" for column, value in enumerate(segments[at])},
                "score": numbers[at][0] / 1_000,
                "prediction": at % 2,
                "latency_ms": abs(numbers[at][0]),
            }
            | padding
        )


def plan_of(shape: Shape) -> Plan:
    """Each of the models as learned from the same reference; the segments are declared."""
    learned = learned_of(shape.features)
    config = load(foreshock_yaml(learned, "synthetic events", "model.baseline"))
    segments = {
        f"segment_{column}": tuple(f"value-{value}" for value in range(shape.values))
        for column in range(shape.dimensions)
    }
    model = msgspec.structs.replace(config.models["model-0000"], segments=segments)
    names = [f"model-{number:04}" for number in range(shape.models)]
    config = msgspec.structs.replace(config, models=dict.fromkeys(names, model))
    return compile_plan(config, dict.fromkeys(names, learned.baseline))


@functools.cache
def learned_of(features: int) -> Learned:
    values = list(events(Shape(features=features), REFERENCE_EVENTS, seed=0))
    return learn("model-0000", lambda: values)


# --- Measuring


def measure(place: int, shape: Shape, n: int, rounds: int) -> Point:
    """The first round warms up, and does not count."""
    plan = plan_of(shape)
    n = min(n, MOST_FEATURES // shape.features)
    one = len(next(events(shape, 1)))
    values = list(events(shape, min(n, max(shape.batch, DISTINCT_BYTES // one))))
    wire = fetched(values)
    found = []
    for _ in range(rounds + 1):
        floor = _timed(lambda batches: decode(plan, batches), wire, shape.batch, n)
        found.append((_timed(lambda batches: sketch(plan, batches), wire, shape.batch, n), floor))
    ratios = [ours / floor for ours, floor in found[1:]]
    ours, floors = (statistics.median(column) / n for column in zip(*found[1:], strict=True))
    return Point(place, sum(map(len, values)) // len(values), ours, floors, (min(ratios), max(ratios)))


def _timed(work: Callable[[Iterable[Records]], None], wire: Sequence[bytes], batch: int, n: int) -> float:
    """Seconds for `n` events, which the wire repeats as often as it takes."""
    records = fetches(itertools.cycle(wire), batch)
    gc.collect()
    began = time.thread_time()
    work(_first(records, n))
    return time.thread_time() - began


def _first(fetched: Iterator[Columns], n: int) -> Iterator[Records]:
    """Batches until there are at least `n` records."""
    first = 0
    while first < n:
        batch = taken(fetched, first)
        yield batch
        first += len(batch)


def decode(plan: Plan, batches: Iterable[Records]) -> None:
    """The floor: JSON to rows, block by block as stage 1 takes them."""
    decoder = decoder_of(plan)
    for records in batches:
        for start in range(0, len(records), BLOCK_RECORDS):
            block = records.part(start, start + BLOCK_RECORDS)
            decoder.decode(block.values, block.stamps_ms)


# --- Telling


def show(name: str, points: Sequence[Point]) -> None:
    table = Table(title=f"stage 1 by {name}: {CURVES[name][0]}")
    for column in (name, "bytes an event", "decoding, µs/event", "stage 1, µs/event", "ratio", "spread"):
        table.add_column(column, justify="right")
    for point in points:
        low, high = point.ratios
        costs = f"{point.floor * 1e6:.2f}", f"{point.stage_one * 1e6:.2f}", f"{point.ratio:.2f}"
        table.add_row(f"{point.place:,}", f"{point.event_bytes:,}", *costs, f"{low:.2f} to {high:.2f}")
    Console(width=110).print(table)


def picture(name: str, points: Sequence[Point]) -> str:
    stage_one = Series("stage 1", [point.stage_one * 1e6 for point in points])
    floor = Series("decoding alone", [point.floor * 1e6 for point in points], Mark.DASHED)
    places = [f"{point.place:,}" for point in points]
    return figure(f"Cost of an event by {name}", CURVES[name][0], "CPU µs an event", places, [stage_one, floor])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=EVENTS, help=f"of each point (default: {EVENTS:,})")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CURVES), help="names of curves, with commas between them")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="write a picture of each curve to this folder")
    chosen = parser.parse_args(arguments)
    wanted = chosen.only.split(",")
    if unknown := set(wanted) - CURVES.keys():
        parser.error(f"no curve {', '.join(sorted(unknown))}: choose from {', '.join(CURVES)}")
    for name in wanted:
        points = [measure(place, shape, chosen.events, chosen.rounds) for place, shape in CURVES[name][1]]
        show(name, points)
        if chosen.figures:
            chosen.figures.mkdir(parents=True, exist_ok=True)
            (chosen.figures / f"cost-by-{name}.svg").write_text(picture(name, points), encoding="utf-8")


if __name__ == "__main__":
    main()
