"""The same events in every form that a reference may have."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.faults.stream import START_MS, event

REFERENCE_EVENTS = 4_000


def rows() -> list[dict[str, Any]]:
    """Reference data, in order; every tenth amount is missing."""
    rng = random.Random(41)
    events = [json.loads(event(f"r{i}", START_MS + i * 150, rng)) for i in range(REFERENCE_EVENTS)]
    for number, found in enumerate(events):
        found["features"]["amount"] = None if number % 10 == 0 else found["features"]["amount"]
    return events


def as_table(event: dict[str, Any]) -> dict[str, Any]:
    own = {name: event[name] for name in ("event_id", "ts", "model_version", "score", "prediction", "latency_ms")}
    return {**own, **event["features"], **{f"segments.{name}": value for name, value in event["segments"].items()}}


def write_ndjson(file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")


def write_gz(file: Path) -> None:
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows()).encode()))


def write_csv(file: Path) -> None:
    tables = [as_table(row) for row in rows()]
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(tables[0]))
        writer.writeheader()
        writer.writerows(tables)


def write_parquet(file: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([as_table(row) for row in rows()]), file)
