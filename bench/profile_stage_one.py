"""Where the time of stage 1 goes, in µs an event: from the bytes of a fetch to the bytes of a publication, no Kafka.

    python bench/profile_stage_one.py                    one table: each stage's own time
    python bench/profile_stage_one.py --scenarios        totals for other streams: epoch times, unseen values, panes …
    python bench/profile_stage_one.py --unseen 1000      any one of them alone, with its table

Stages are timed by a stopwatch around the very functions that the worker calls; a stage's own time leaves out the
stages inside it. The figures are the median of the rounds.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from rich.console import Console
from rich.table import Table

from agents.record_batch import Columns
from agents.unpack import Budget, Unpacking
from bench import stream
from streams import batch, cells, chunk, decode, partial, source
from streams.duration import DAY_MS
from streams.plan import Plan
from streams.records import Records

FETCH_BYTES = 512 << 10
"""What one batch of records holds on the wire: the producer's own limit."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is measured: a stream, and how it comes."""

    name: str = "plain"
    events: int = 200_000
    batch: int = 2_048
    times: str = "rfc3339"
    unseen: int = 0
    """Of each batch, so many events have a category that nothing before had."""
    careful: float = 0.0
    """Share of events that the fast decoder does not take: a text where a number is declared."""
    versions: int = 1
    panes: int = 0
    """Event time so fast that a batch holds so many panes; 0 leaves it at the stream's own pace."""


SCENARIOS = (
    Scenario(),
    Scenario("times as epoch milliseconds", times="epoch"),
    Scenario("batches of 1,000", batch=1_000),
    Scenario("1,000 unseen values a batch", unseen=1_000),
    Scenario("8 versions", versions=8),
    Scenario("10 panes a batch", panes=10),
    Scenario("100 panes a batch", panes=100),
    Scenario("1 event in 100 of another type", careful=0.01),
    Scenario("every event of another type", careful=1.0, events=50_000),
)

# The functions that the worker goes through, and the stage that each belongs to.
STAGES: Sequence[tuple[Any, str, str]] = (
    (decode.Decoder, "_rows", "decode: JSON → rows"),
    (decode.Decoder, "_read", "decode: one by one"),
    (decode, "times_ms", "decode: times"),
    (decode.Decoder, "decode", "decode: the rest"),
    (batch, "_transposed", "columns: transpose"),
    (batch.Columnizer, "_segments_of", "columns: segments"),
    (batch.Columnizer, "parts", "columns: the rest"),
    (batch, "_add_floats", "columns: numbers → bytes"),
    (batch.Columnizer, "_gather_texts", "columns: texts → slots"),
    (batch.Columnizer, "_gather_predictions", "columns: prediction"),
    (batch, "_scores", "columns: scores"),
    (batch.Columnizer, "gather", "columns: the rest"),
    (batch.Columnizer, "columns", "columns: numbers → slots"),
    (source, "timeliness", "timeliness"),
    (cells, "_groups", "cells: groups"),
    (cells, "_count", "cells: count"),
    (cells, "_segment", "cells: unseen values"),
    (cells, "_whole", "cells: unseen values"),
    (source, "profiles", "cells: the rest"),
    (source, "added", "merge into the chunk"),
    (source.SourceFold, "_partials", "partials: pack cells"),
    (source.SourceFold, "take", "chunk: the rest"),
    (partial, "pack", "partials: seal"),
)


@dataclass(slots=True)
class Stopwatch:
    """Own processor time by stage, in seconds: without the stages inside it, and without what other processes took."""

    own: dict[str, float] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=lambda: [0.0])

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            result = self._measured(stage, lambda: function(*arguments, **named))
            return self._steps(stage, result) if isinstance(result, Iterator) else result

        return run

    def _measured(self, stage: str, call: Callable[[], Any]) -> Any:
        self._inner.append(0.0)
        began = time.thread_time()
        try:
            return call()
        finally:
            took = time.thread_time() - began
            self.own[stage] = self.own.get(stage, 0.0) + took - self._inner.pop()
            self._inner[-1] += took

    def _steps(self, stage: str, items: Iterator[Any]) -> Iterator[Any]:
        """A generator works while it is asked, so that is when its watch runs."""
        end = object()
        while (item := self._measured(stage, lambda: next(items, end))) is not end:
            yield item


# --- The stream


def values_of(scenario: Scenario) -> list[bytes]:
    """The events of a scenario."""
    pace = scenario.panes * 60_000 and max(1, scenario.batch * 1_000 // (scenario.panes * 60_000))
    pairs = stream.pairs(scenario.events, times=scenario.times, events_per_s=pace or stream.EVENTS_PER_S)
    values = [value for _, value in pairs]
    rng = np.random.default_rng(3)
    if scenario.unseen:
        step = max(1, scenario.batch // scenario.unseen)
        for at in range(0, len(values), step):
            values[at] = values[at].replace(b'"device":"', b'"device":"%012x-' % at)
    if scenario.versions > 1:
        for at, version in enumerate(rng.integers(0, scenario.versions, len(values)).tolist()):
            values[at] = values[at].replace(b'"model_version":"7"', b'"model_version":"%d"' % version)
    for at in np.flatnonzero(rng.random(len(values)) < scenario.careful).tolist():
        values[at] = values[at].replace(b'"hour":', b'"hour":"12","hours":')
    return values


def fetched(values: Sequence[bytes]) -> list[bytes]:
    """The same events as a broker sends them: batches of records."""
    found: list[bytes] = []
    builder = _builder()
    for at, value in enumerate(values):
        place = at, stream.START_MS + DAY_MS, b"pay-%012d" % at, value, []
        if builder.append(*place) is None:
            found.append(bytes(builder.build()))
            builder = _builder()
            builder.append(*place)
    return [*found, bytes(builder.build())]


def _builder() -> Any:
    return DefaultRecordBatchBuilder(
        2, 0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=0, batch_size=FETCH_BYTES
    )


# --- Measuring


def measure(scenario: Scenario, rounds: int) -> dict[str, float]:
    """Seconds an event by stage, the median of the rounds; a first one to warm up does not count."""
    values, plan = values_of(scenario), stream.project().plan
    wire = fetched(values)
    found = [_round(scenario, values, wire, plan) for _ in range(rounds + 1)][1:]
    return {
        stage: statistics.median(times.get(stage, 0.0) for times in found) / len(values)
        for stage in dict.fromkeys(stage for times in found for stage in times)
    }


def _round(scenario: Scenario, values: Sequence[bytes], wire: Sequence[bytes], plan: Plan) -> dict[str, float]:
    watch = Stopwatch()
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in STAGES if hasattr(owner, name)]
    try:
        for owner, name, stage in STAGES:
            if hasattr(owner, name):  # a bench does not break when a function of the product is renamed
                setattr(owner, name, watch.timed(stage, getattr(owner, name)))
        records = fetches(wire, scenario.batch)
        sketch(plan, consumed(records, len(values), watch.timed("fetch: parse the wire", taken)))
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
    return watch.own


def fetches(wire: Iterable[bytes], n: int) -> Iterator[Columns]:
    """The records of fetches, as the intake unpacks them: `n` at a time, but for the last of a fetch."""
    for data in wire:
        unpacking = Unpacking(TopicPartition("inference", 0), data, (), 0)
        while not unpacking.is_done:
            yield unpacking.take(n, Budget(FETCH_BYTES))


def taken(fetched: Iterator[Columns], first: int) -> Records:
    """The next ones; the offsets are counted on, for each batch in memory begins at 0."""
    found = next(fetched).records()
    return replace(found, offsets=range(first, first + len(found)))


def consumed(
    fetched: Iterator[Columns], count: int, take: Callable[[Iterator[Columns], int], Records]
) -> Iterator[Records]:
    first = 0
    while first < count:
        records = take(fetched, first)
        first += len(records)
        if records:
            yield records


def sketch(plan: Plan, batches: Iterable[Records]) -> None:
    """Stage 1 of one partition: a publication for each full chunk, and one at the end."""
    fold = source.SourceFold(plan, "inference", 0, None, 0)
    for records in batches:
        for step in fold.take(records, 0):
            _pack(step)
    _pack(fold.publish(0, caught_up=True, final=True))


def _pack(step: chunk.Step) -> None:
    for item in step.partials:
        partial.pack(item)


# --- Telling


def show(scenario: Scenario, times: dict[str, float]) -> None:
    total = sum(times.values())
    table = Table(title=f"{scenario.name}: {1 / total:,.0f} events/s without Kafka's client and the network")
    for name in ("stage", "µs/event", "share"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    order = ["fetch: parse the wire", *dict.fromkeys(stage for _, _, stage in STAGES)]
    for stage in [*order, *(stage for stage in times if stage not in order)]:
        if times.get(stage, 0.0) > 0:
            table.add_row(stage, f"{times[stage] * 1e6:.3f}", f"{times[stage] / total:.1%}")
    table.add_row("all", f"{total * 1e6:.3f}", "")
    Console(width=120).print(table)


def show_scenarios(rounds: int) -> None:
    table = Table(title="stage 1 in memory, by kind of stream")
    for name in ("stream", "µs/event", "events/s"):
        table.add_column(name, justify="left" if name == "stream" else "right")
    for scenario in SCENARIOS:
        total = sum(measure(scenario, rounds).values())
        table.add_row(scenario.name, f"{total * 1e6:.2f}", f"{1 / total:,.0f}")
    Console(width=120).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenarios", action="store_true", help="totals for all kinds of stream")
    parser.add_argument("--batch", type=int, default=2_048, help="records of a batch")
    parser.add_argument("--times", choices=("rfc3339", "epoch"), default="rfc3339")
    parser.add_argument("--unseen", type=int, default=0, help="distinct unseen values in each batch")
    parser.add_argument("--careful", type=float, default=0.0, help="share of events with a value of another type")
    parser.add_argument("--versions", type=int, default=1)
    parser.add_argument("--panes", type=int, default=0, help="panes in each batch")
    chosen = vars(parser.parse_args(arguments))
    rounds, scenarios = chosen.pop("rounds"), chosen.pop("scenarios")
    if scenarios:
        show_scenarios(rounds)
        return
    said = [f"{name} {value}" for name, value in chosen.items() if value != getattr(Scenario(), name)]
    scenario = replace(Scenario(), name=", ".join(said) or "plain", **chosen)
    show(scenario, measure(scenario, rounds))


if __name__ == "__main__":
    main()
