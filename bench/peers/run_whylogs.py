"""whylogs: batches of 10,000 events as a pandas frame, profiled per segment and in total, profiles published."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pandas as pd
import whylogs as why
from confluent_kafka import Consumer, Producer
from sketching import Clock, decode

setting = json.loads(sys.argv[1])
clock = Clock()
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


def profile(frame: pd.DataFrame, key: str) -> None:
    view = why.log(frame).profile().view()
    producer.produce(setting["target"], key=key.encode(), value=view.serialize())


def sketch(events: list[dict[str, Any]]) -> None:
    rows = [event["features"] | {"score": event["score"]} for event in events]
    frame = pd.DataFrame(rows)
    segments = pd.Series([event["segments"][setting["segment"]] for event in events])
    profile(frame, "all")
    for segment, part in frame.groupby(segments):
        profile(part, str(segment))
    producer.poll(0)


done, batch = 0, []
while done < setting["events"]:
    for message in consumer.consume(10_000, timeout=1.0):
        clock.start()
        batch.append(decode(message.value()))
        done += 1
        if len(batch) == 10_000 or done == setting["events"]:
            sketch(batch)
            batch = []
producer.flush()
clock.tell(done)
os._exit(0)
