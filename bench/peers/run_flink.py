"""Flink's Python Table API: a Kafka table of JSON, tumbling minutes by version and segment in SQL, a Kafka table.

All of it runs in Flink's JVM, which is measured: its processor time and memory are in the figures, and its compiler's
too. The clock starts when the job runs. What SQL cannot say as the others do:

- The format takes a field that is absent, and one of another type, for a null.
- It does not see fields that nobody declared.
- Unseen values are counted exactly, by COUNT(DISTINCT …), for Flink has no approximate count in a stream.
- Windows are published once, when they close, and not every second.
- The whole is not published beside the segments: whoever reads the table adds them up.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer
from pyflink.common import JobStatus
from pyflink.table import EnvironmentSettings, TableEnvironment
from sketching import LATENESS_MS, PANE_MS, Clock, peak_mib

CHECKPOINT_EVERY = "10 s"
LOOK_S = 0.01
setting: dict[str, Any] = json.loads(sys.argv[1])


class ProgramsClock(Clock):
    """Of this program and of those that it has started."""

    def cpu_s(self) -> float:
        ticks = 0
        for pid in family():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        return sum(peak_mib(pid) for pid in family())


def family() -> list[int]:
    """This program and the JVM, which is the child of one of its threads."""
    found = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


# --- The tables


def source() -> str:
    kinds = {str: "STRING", int: "BIGINT"}
    texts = {name: kinds[type(known[0])] for name, known in setting["texts"]}
    predictions = {name: kinds[type(known[0])] for name, known in setting["predictions"]}
    features = {name: "DOUBLE" for name, _ in setting["numbers"]} | texts
    columns = {
        "ts": "TIMESTAMP_LTZ(3)",
        "model_version": "STRING",
        "features": f"ROW<{', '.join(declared(features))}>",
        "segments": f"ROW<`{setting['segment']}` STRING>",
        "error": "STRING",
    }
    columns |= {name: "DOUBLE" for name, _ in setting["outputs"]} | predictions
    return f"""
        CREATE TABLE events (
            {", ".join(declared(columns))},
            WATERMARK FOR ts AS ts - INTERVAL '{LATENESS_MS // 86_400_000}' DAY
        ) WITH (
            'connector' = 'kafka', 'format' = 'json', 'topic' = '{setting["topic"]}',
            'properties.bootstrap.servers' = '{setting["broker"]}',
            'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
            'json.timestamp-format.standard' = 'ISO-8601', 'json.ignore-parse-errors' = 'true'
        )"""


def declared(columns: dict[str, str]) -> list[str]:
    return [f"`{name}` {kind}" for name, kind in columns.items()]


def sketches() -> Iterator[tuple[str, str]]:
    """Name and aggregate of everything that is counted."""
    yield "requests", "COUNT(*)"
    yield "errors", "COUNT(error)"
    for name, edges in setting["numbers"]:
        yield from histogram(name, f"features.`{name}`", edges)
    for name, edges in setting["outputs"]:
        yield from histogram(name, f"`{name}`", edges)
    for name, known in setting["texts"]:
        yield from categories(name, f"features.`{name}`", known)
    for name, known in setting["predictions"]:
        yield from categories(name, f"`{name}`", known)


def histogram(name: str, value: str, edges: list[float]) -> Iterator[tuple[str, str]]:
    yield f"{name}_null", f"COUNT(*) FILTER (WHERE {value} IS NULL)"
    bounds = [None, *edges, None]
    for number, (low, high) in enumerate(pairwise(bounds)):
        within = [f"{value} >= {low!r}"] * (low is not None) + [f"{value} < {high!r}"] * (high is not None)
        yield f"{name}_bin{number}", f"COUNT(*) FILTER (WHERE {' AND '.join(within)})"


def categories(name: str, value: str, known: list[Any]) -> Iterator[tuple[str, str]]:
    literals = ["'" + text.replace("'", "''") + "'" if isinstance(text, str) else str(text) for text in known]
    yield f"{name}_null", f"COUNT(*) FILTER (WHERE {value} IS NULL)"
    for number, literal in enumerate(literals):
        yield f"{name}_is{number}", f"COUNT(*) FILTER (WHERE {value} = {literal})"
    unseen = f"FILTER (WHERE {value} NOT IN ({', '.join(literals)}))"
    yield f"{name}_unseen", f"COUNT(*) {unseen}"
    yield f"{name}_distinct", f"COUNT(DISTINCT {value}) {unseen}"


def sink(counts: list[str]) -> str:
    columns = {"pane": "TIMESTAMP(3)", "model_version": "STRING", "segment": "STRING"} | dict.fromkeys(counts, "BIGINT")
    return f"""
        CREATE TABLE sketches ({", ".join(declared(columns))}) WITH (
            'connector' = 'kafka', 'format' = 'json', 'topic' = '{setting["target"]}',
            'properties.bootstrap.servers' = '{setting["broker"]}', 'sink.delivery-guarantee' = 'at-least-once'
        )"""


def published() -> int:
    """How many events the records of the target account for."""
    reader = {"bootstrap.servers": setting["broker"], "group.id": f"bench-flink-{os.getpid()}"}
    consumer = Consumer(reader | {"auto.offset.reset": "earliest", "enable.partition.eof": True})
    consumer.subscribe([setting["target"]])
    requests, open_partitions = 0, set(consumer.list_topics(setting["target"]).topics[setting["target"]].partitions)
    while open_partitions:
        message = consumer.poll(30)
        if message is None:
            break
        if message.error():
            open_partitions.discard(message.partition())
        else:
            requests += json.loads(message.value())["requests"]
    consumer.close()
    return requests


clock = ProgramsClock()
names, aggregates = zip(*sketches(), strict=True)
table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
with tempfile.TemporaryDirectory() as folder:
    for option, value in {
        "pipeline.jars": f"file://{setting['jar']}",
        "parallelism.default": "1",
        "table.local-time-zone": "UTC",
        "execution.checkpointing.interval": CHECKPOINT_EVERY,
        "execution.checkpointing.dir": f"file://{folder}",
    }.items():
        table.get_config().set(option, value)
    table.execute_sql(source())
    table.execute_sql(sink(list(names)))
    job = table.execute_sql(f"""
        INSERT INTO sketches
        SELECT window_start, model_version, segments.`{setting["segment"]}`, {", ".join(aggregates)}
        FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '{PANE_MS // 60_000}' MINUTE))
        GROUP BY window_start, window_end, model_version, segments.`{setting["segment"]}`
    """)
    client = job.get_job_client()
    while client.get_job_status().result() == JobStatus.CREATED:
        time.sleep(LOOK_S)
    clock.start()
    job.wait()
    clock.stop()
clock.tell(published())
