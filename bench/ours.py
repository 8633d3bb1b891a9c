"""One contender of ours: `fetch`, `decode`, `stage-one`, `foreshock` (the worker), or `labelled` (with labels)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

from sampler import Sampler
from sketching import Clock

from agents import app
from agents.channel import Batch
from agents.clients import Connection
from agents.files import read_plan
from agents.intake import Intake
from agents.memory import tune_memory
from agents.sketch import SketchStage
from streams.chunk import BLOCK_RECORDS, Step
from streams.codecs import decoder_of
from streams.partial import BooksPartial
from streams.plan import Plan

setting: dict[str, Any] = {}
clock = Clock()


class TimedStage(SketchStage):
    """Stage 1 as it is, with a clock: from the first batch to the last partial acknowledged."""

    books: dict[tuple[int, int, int], BooksPartial]

    async def process(self, batch: Batch) -> None:
        if batch.records:
            clock.start()
        before = self.work.partials
        await super().process(batch)
        if self.work.partials > before:
            clock.stop()

    async def _execute(self, step: Step, *more: Any) -> None:
        await super()._execute(step, *more)
        books = [item for item in step.partials if isinstance(item, BooksPartial)]
        self.books = getattr(self, "books", {}) | {(item.partition, item.chunk, item.bucket): item for item in books}

    def published(self) -> int:
        """How many events the published books account for."""
        return sum(part.books.read for item in self.books.values() for part in item.models)


class Floor:
    """Takes batches like a stage, and drops them; with a decoder, after decoding them."""

    def __init__(self, plan: Plan | None) -> None:
        self.decoder = decoder_of(plan) if plan else None
        self.events = 0

    async def put(self, batch: Batch) -> None:
        clock.start()
        for start in range(0, len(batch.records), BLOCK_RECORDS) if self.decoder else ():
            block = batch.records.part(start, start + BLOCK_RECORDS)
            self.decoder.decode(block.values, block.stamps_ms)
        self.events += len(batch.records)
        if batch.records:
            clock.stop()


async def floor(connection: Connection, plan: Plan, *, decoding: bool) -> None:
    """Records off the wire as the worker's own intake hands them over."""
    taken = Floor(plan if decoding else None)

    async def anywhere(tps: Any) -> dict[Any, int | None]:
        return dict.fromkeys(tps, None)

    async def nothing(tps: Any) -> None:
        return None

    intake = Intake(connection, [setting["topic"]], setting["target"], taken, on_assigned=anywhere, on_revoked=nothing)
    await intake.start()
    while taken.events < setting["events"]:
        await asyncio.sleep(0.01)
    await intake.stop()
    clock.tell(taken.events)


async def stage_one(connection: Connection, plan: Plan) -> None:
    """Stage 1 without Faust and without stage 2."""
    producer = connection.producer()
    await producer.start()
    await app.topics.ensure(connection, inference_partitions=2, buckets=plan.config.kafka.buckets)
    stage = TimedStage(plan, connection, producer, "bench", stores=None)
    stage.draining = True

    class Direct:
        async def put(self, batch: Batch) -> None:
            await stage.process(batch)

    intake = stage.intake = Intake(
        connection,
        [setting["topic"]],
        setting["target"],
        Direct(),
        on_assigned=stage.on_assigned,
        on_revoked=stage.on_revoked,
    )
    await intake.start()
    await stage.drained.wait()
    await intake.stop()
    await producer.stop()
    clock.tell(stage.published())


async def foreshock(connection: Connection, plan: Plan) -> None:
    """The worker, stage 2 and its pages included, until it has read everything and judged every pane."""
    app.SketchStage = TimedStage  # type: ignore[misc]
    worker = app.Worker(plan, connection, app.WebOptions(), drain=True)
    await worker.run()
    assert isinstance(worker.sketch, TimedStage)
    clock.tell(worker.sketch.published())


def main() -> None:
    setting.update(json.loads(sys.argv[2]))
    plan = read_plan(Path(setting["config"]))
    connection = Connection(broker=setting["broker"], prefix=setting["prefix"])
    work = {
        "fetch": lambda: floor(connection, plan, decoding=False),
        "decode": lambda: floor(connection, plan, decoding=True),
        "stage-one": lambda: stage_one(connection, plan),
        "foreshock": lambda: foreshock(connection, plan),
        "labelled": lambda: foreshock(connection, plan),
    }[sys.argv[1]]
    tune_memory()
    with Sampler(setting.get("profile", False)) as sampler:
        asyncio.run(work())
    sampler.show()


if __name__ == "__main__":
    main()
