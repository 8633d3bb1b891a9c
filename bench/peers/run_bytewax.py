"""bytewax: Kafka input, decoded and keyed by segment, folded over tumbling minutes of event time, Kafka output."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from sketching import LATENESS_MS, PANE_MS, Cell, Clock, decode, encode, group_of, time_of

setting = json.loads(sys.argv[1])
clock = Clock()
START = datetime(2026, 1, 1, tzinfo=UTC)
published = 0


def keyed(message: Any) -> tuple[str, Any]:
    clock.start()
    event = decode(message.value)
    return "/".join(group_of(event, setting)), event


def folded(cell: Cell, event: Any) -> Cell:
    cell.add(event)
    return cell


def message(item: tuple[str, tuple[int, Cell]]) -> KafkaSinkMessage[bytes, bytes]:
    global published
    group, (window, cell) = item
    published += cell.requests
    return KafkaSinkMessage(f"{window}/{group}".encode(), encode(cell.state()))


flow = Dataflow("bench")
source = KafkaSource([setting["broker"]], [setting["topic"]], tail=False, batch_size=10_000)
events = op.map("decode", op.input("in", flow, source), keyed)
windows = win.fold_window(
    "sketch",
    events,
    win.EventClock(time_of, wait_for_system_duration=timedelta(milliseconds=LATENESS_MS)),
    win.TumblingWindower(length=timedelta(milliseconds=PANE_MS), align_to=START),
    lambda: Cell(setting),
    folded,
    Cell.merged,
    ordered=False,
)
op.output("out", op.map("pack", windows.down, message), KafkaSink([setting["broker"]], setting["target"]))
run_main(flow)
clock.stop()
clock.tell(published)
