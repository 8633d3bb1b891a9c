"""A plain Faust agent: an event at a time from a topic, sketched; a timer publishes once a second."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

import faust
from sketching import Clock, Sketcher

setting = json.loads(sys.argv[1])
sketcher, clock = Sketcher(setting), Clock()
app = faust.App(
    f"bench-faust-{os.getpid()}",
    broker=f"kafka://{setting['broker']}",
    web_enabled=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    consumer_auto_offset_reset="earliest",
    datadir=tempfile.mkdtemp(),
    store="memory://",
)
source = app.topic(setting["topic"], key_serializer="raw", value_serializer="raw")
target = app.topic(setting["target"], key_serializer="raw", value_serializer="raw")


@app.agent(source)
async def sketch(events: Any) -> None:
    async for value in events:
        clock.start()
        sketcher.add(value)
        if sketcher.requests == setting["events"]:
            await publish()
            clock.tell(sketcher.published)
            os._exit(0)


@app.timer(1.0)
async def publish_now_and_then() -> None:
    await publish()


async def publish() -> None:
    for sent in [await target.send(key=key, value=value) for key, value in sketcher.drain()]:
        await sent
    clock.stop()


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "-l", "error", "--without-web"]
    app.main()
