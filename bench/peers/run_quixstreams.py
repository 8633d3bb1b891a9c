"""quixstreams: a streaming dataframe, grouped by segment, reduced over its tumbling minutes, whose state it keeps."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

from quixstreams import Application
from sketching import LATENESS_MS, PANE_MS, Cell, Clock, Event, group_of, time_of

setting = json.loads(sys.argv[1])
clock = Clock()
reduced = 0


def stamp(event: Event, *message: Any) -> int:
    clock.start()
    return int(time_of(event).timestamp() * 1000)


def begin(event: Event) -> list[Any]:
    return fold(Cell(setting).state(), event)


def fold(state: list[Any], event: Event) -> list[Any]:
    global reduced
    cell = Cell.of(setting, state)
    cell.add(event)
    reduced += 1
    if reduced == setting["events"]:
        app.stop()
    return cell.state()


with tempfile.TemporaryDirectory() as folder:
    app = Application(
        broker_address=setting["broker"],
        consumer_group=f"bench-quix-{os.getpid()}",
        auto_offset_reset="earliest",
        commit_interval=1.0,
        loglevel="ERROR",
        state_dir=folder,
    )
    source = app.topic(setting["topic"], value_deserializer="json", key_deserializer="bytes")
    target = app.topic(setting["target"], value_serializer="json", key_serializer="bytes")
    frame = app.dataframe(source).group_by(lambda event: "/".join(group_of(event, setting)), name="segment")
    frame = frame.set_timestamp(stamp)
    frame = frame.tumbling_window(PANE_MS, grace_ms=LATENESS_MS).reduce(fold, begin).final()
    frame.to_topic(target)
    app.run()
clock.stop()
clock.tell(reduced)
