"""One contender of ours on a filled topic: `fetch`, `decode`, or `foreshock`, the worker itself."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "peers")]

from aiokafka import TopicPartition
from sketching import Clock

from agents.app import WebOptions, Worker
from agents.cli import tune_collector
from agents.clients import Connection
from agents.files import read_plan
from agents.intake import MAX_RECORDS, _spare_record_objects

LOOK_S = 0.002


async def fetch(setting: dict[str, str], events: int, decoding: bool) -> None:
    """The floor: records off the wire, in batches, and with `decoding` into rows."""
    clock, done = Clock(), 0
    decoder = read_plan(Path(setting["config"])).decoder()
    consumer = Connection(broker=setting["broker"]).consumer()
    await consumer.start()
    consumer.assign([TopicPartition(setting["topic"], partition) for partition in range(2)])
    await consumer.seek_to_beginning()
    _spare_record_objects(consumer)
    while done < events:
        for records in (await consumer.getmany(timeout_ms=200, max_records=MAX_RECORDS)).values():
            clock.start()
            done += len(records)
            if decoding:
                decoder.decode([record.value for record in records], [record.timestamp for record in records])
    clock.tell(done)
    await consumer.stop()


async def foreshock(setting: dict[str, str], events: int) -> None:
    """From the first batch to the last partial acknowledged; stage 2 runs beside it in the same process."""
    clock = Clock()
    plan = read_plan(Path(setting["config"]))
    worker = Worker(plan, Connection(broker=setting["broker"], prefix=setting["prefix"]), WebOptions(), drain=True)
    task = asyncio.create_task(worker.run())
    await worker.ready.wait()
    intake = worker.sketch.intake
    assert intake is not None

    def handed_over() -> int:
        return sum(flow.records for flow in intake.snapshot().values())

    while not handed_over():
        await asyncio.sleep(LOOK_S)
    clock.start()
    while sum(fold.next_offset for fold in worker.sketch.folds.values()) < events or any(
        fold.changed for fold in worker.sketch.folds.values()
    ):
        await asyncio.sleep(LOOK_S)
    clock.tell(events)
    await task


def main() -> None:
    setting = json.loads(sys.argv[2])
    events = int(setting["events"])
    tune_collector()
    if sys.argv[1] == "foreshock":
        asyncio.run(foreshock(setting, events))
    else:
        asyncio.run(fetch(setting, events, decoding=sys.argv[1] == "decode"))


main()
