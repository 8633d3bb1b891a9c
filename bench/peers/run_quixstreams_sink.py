"""quixstreams: a streaming dataframe into a sink that sketches an event at a time and publishes at every checkpoint."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from confluent_kafka import Producer
from quixstreams import Application
from quixstreams.sinks import BaseSink
from sketching import Clock, Sketcher

setting = json.loads(sys.argv[1])
sketcher, clock = Sketcher(setting), Clock()
app = Application(
    broker_address=setting["broker"],
    consumer_group=f"bench-quix-{os.getpid()}",
    auto_offset_reset="earliest",
    commit_interval=1.0,
    loglevel="ERROR",
    auto_create_topics=False,
)


class Sketches(BaseSink):
    """Sketches that are published, and acknowledged, before the offsets are committed."""

    def setup(self) -> None:
        self.producer = Producer({"bootstrap.servers": setting["broker"], "acks": "all"})

    def add(self, value: bytes, *record: Any, **more: Any) -> None:
        clock.start()
        sketcher.add(value)
        if sketcher.requests == setting["events"]:
            app.stop()

    def flush(self) -> None:
        for key, summary in sketcher.drain():
            self.producer.produce(setting["target"], key=key, value=summary)
        self.producer.flush()
        clock.stop()


source = app.topic(setting["topic"], value_deserializer="bytes", key_deserializer="bytes")
app.dataframe(source).sink(Sketches())
app.run()
clock.tell(sketcher.published)
