"""quixstreams: a streaming dataframe whose function sketches an event at a time, published every 10,000 events."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from quixstreams import Application
from sketching import Clock, Sketcher

setting = json.loads(sys.argv[1])
sketcher, clock = Sketcher(setting), Clock()
done = 0
app = Application(
    broker_address=setting["broker"],
    consumer_group=f"bench-quix-{os.getpid()}",
    auto_offset_reset="earliest",
    loglevel="ERROR",
    auto_create_topics=False,
)


def sketched(event: dict[str, Any]) -> list[dict[str, str]]:
    global done
    clock.start()
    sketcher.add(event)
    done += 1
    if done % 10_000 and done != setting["events"]:
        return []
    return [{"cell": key.decode(), "sketch": value.decode()} for key, value in sketcher.drain()]


source = app.topic(setting["topic"], value_deserializer="json", key_deserializer="bytes")
target = app.topic(setting["target"], value_serializer="json", key_serializer="bytes")
frame = app.dataframe(source).apply(sketched, expand=True)
frame.to_topic(target)
app.run(count=setting["events"])
clock.tell(done)
