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
from sketching import Cell, Clock, decode

setting = json.loads(sys.argv[1])
clock = Clock()
START = datetime(2026, 1, 1, tzinfo=UTC)


def keyed(message: Any) -> list[tuple[str, dict[str, Any]]]:
    clock.start()
    event = decode(message.value)
    event["at"] = datetime.fromisoformat(event["ts"])
    return [("all", event), (event["segments"][setting["segment"]], event)]


def folded(cell: Cell, event: dict[str, Any]) -> Cell:
    cell.add(event)
    return cell


def merged(left: Cell, right: Cell) -> Cell:
    raise NotImplementedError("tumbling windows do not merge")


def message(item: tuple[str, tuple[int, Cell]]) -> KafkaSinkMessage[bytes, bytes]:
    key, (window, cell) = item
    return KafkaSinkMessage(f"{key}/{window}".encode(), cell.summary())


flow = Dataflow("bench")
source = KafkaSource([setting["broker"]], [setting["topic"]], tail=False, batch_size=10_000)
events = op.flat_map("decode", op.input("in", flow, source), keyed)
windows = win.fold_window(
    "sketch",
    events,
    win.EventClock(lambda event: event["at"], wait_for_system_duration=timedelta(seconds=10)),
    win.TumblingWindower(length=timedelta(minutes=1), align_to=START),
    lambda: Cell(setting["edges"], setting["texts"]),
    folded,
    merged,
)
op.output("out", op.map("pack", windows.down, message), KafkaSink([setting["broker"]], setting["target"]))
run_main(flow)
clock.tell(setting["events"])
