"""whylogs: batches of 10,000 events as a pandas frame, logged with a segment, the profile of each value published."""

from __future__ import annotations

import json
import os
import sys

import msgspec
import pandas as pd
import whylogs as why
from confluent_kafka import Consumer, Producer
from sketching import Clock
from whylogs.core.schema import DatasetSchema
from whylogs.core.segmentation_partition import segment_on_column

BATCH = 10_000
setting = json.loads(sys.argv[1])
clock, decode = Clock(), msgspec.json.Decoder().decode
schema = DatasetSchema(segments=segment_on_column(setting["segment"]))
consumer = Consumer(
    {
        "bootstrap.servers": setting["broker"],
        "group.id": f"bench-whylogs-{os.getpid()}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
consumer.subscribe([setting["topic"]])
producer = Producer({"bootstrap.servers": setting["broker"], "acks": "all", "message.max.bytes": 8 << 20})


def sketch(values: list[bytes]) -> None:
    events = [decode(value) for value in values]
    scalars = ("score", "prediction", "latency_ms", "error")
    rows = [event["features"] | event["segments"] | {name: event.get(name) for name in scalars} for event in events]
    profiles = why.log(pd.DataFrame(rows), schema=schema)
    for segment in profiles.segments():
        view = profiles.profile(segment).view()
        producer.produce(setting["target"], key="/".join(segment.key).encode(), value=view.serialize())
    producer.flush()
    clock.stop()


done = 0
batch: list[bytes] = []
while done < setting["events"]:
    for message in consumer.consume(BATCH - len(batch), timeout=1.0):
        clock.start()
        batch.append(message.value())
    if len(batch) == BATCH or done + len(batch) == setting["events"]:
        sketch(batch)
        done += len(batch)
        batch = []
clock.tell(done)
os._exit(0)
