"""A plain Faust agent: an event at a time from a topic, sketched, published every 10,000 events."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

import faust
from sketching import Clock, Sketcher, decode

setting = json.loads(sys.argv[1])
sketcher, clock = Sketcher(setting), Clock()
app = faust.App(
    f"bench-faust-{os.getpid()}",
    broker=f"kafka://{setting['broker']}",
    web_enabled=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    datadir=tempfile.mkdtemp(),
    store="memory://",
)
source = app.topic(setting["topic"], key_serializer="raw", value_serializer="raw")
target = app.topic(setting["target"], key_serializer="raw", value_serializer="raw")


@app.agent(source)
async def sketch(events: Any) -> None:
    done = 0
    async for value in events:
        clock.start()
        sketcher.add(decode(value))
        done += 1
        if done % 10_000 == 0 or done == setting["events"]:
            for key, summary in sketcher.drain():
                await (await target.send(key=key, value=summary))
        if done == setting["events"]:
            clock.tell(done)
            os._exit(0)


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "-l", "error", "--without-web"]
    app.main()
