"""What every peer does with an event, in plain Python: the same sketches, as its users would write them.

Per segment value and pane of a minute: null counts and a histogram on given edges for each number, counts of categories
and a HyperLogLog of distinct values for each text, requests and errors. No import of ours: it runs in the peers'
own environments.
"""

from __future__ import annotations

import json
import os
import resource
import time
from bisect import bisect_right
from collections import Counter
from datetime import datetime
from typing import Any

import datasketches
import msgspec

PANE_MS = 60_000
decode = msgspec.json.Decoder().decode


class Cell:
    """The sketches of one segment and pane."""

    def __init__(self, edges: dict[str, list[float]], texts: list[str]) -> None:
        self.edges = edges
        self.requests = self.errors = 0
        self.nulls: Counter[str] = Counter()
        self.bins = {name: [0] * (len(cuts) + 1) for name, cuts in edges.items()}
        self.values: dict[str, Counter[str]] = {name: Counter() for name in texts}
        self.distinct = {name: datasketches.hll_sketch(11) for name in texts}

    def add(self, event: dict[str, Any]) -> None:
        self.requests += 1
        self.errors += event.get("error") is not None
        features = event["features"]
        for name, cuts in self.edges.items():
            value = event.get("score") if name == "score" else features.get(name)
            if value is None:
                self.nulls[name] += 1
            else:
                self.bins[name][bisect_right(cuts, value)] += 1
        for name, counts in self.values.items():
            text = features.get(name)
            if text is None:
                self.nulls[name] += 1
            else:
                counts[text] += 1
                self.distinct[name].update(text)

    def __getstate__(self) -> dict[str, Any]:
        """bytewax keeps snapshots of its state."""
        return self.__dict__ | {"distinct": {name: s.serialize_compact() for name, s in self.distinct.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.distinct = {name: datasketches.hll_sketch.deserialize(s) for name, s in state["distinct"].items()}

    def summary(self) -> bytes:
        distinct = {name: sketch.get_estimate() for name, sketch in self.distinct.items()}
        return json.dumps([self.requests, self.errors, self.nulls, self.bins, self.values, distinct]).encode()


class Sketcher:
    """Cells by pane and segment value, for the whole and for each value of the one segment."""

    def __init__(self, setting: dict[str, Any]) -> None:
        self.setting = setting
        self.cells: dict[tuple[int, str], Cell] = {}

    def add(self, event: dict[str, Any]) -> None:
        pane = pane_of(event["ts"])
        for segment in ("", event["segments"][self.setting["segment"]]):
            cell = self.cells.get((pane, segment))
            if cell is None:
                cell = self.cells[(pane, segment)] = Cell(self.setting["edges"], self.setting["texts"])
            cell.add(event)

    def drain(self) -> list[tuple[bytes, bytes]]:
        """Key and value of every cell, which are then forgotten."""
        found = [(f"{pane}/{segment}".encode(), cell.summary()) for (pane, segment), cell in self.cells.items()]
        self.cells = {}
        return found


_minutes: dict[str, int] = {}


def pane_of(ts: str | int) -> int:
    """Start of the pane of an event time; a text is parsed once a minute of event time."""
    if isinstance(ts, int):
        return ts // PANE_MS
    minute = _minutes.get(ts[:16])
    if minute is None:
        minute = _minutes[ts[:16]] = int(msgspec.convert(ts, type=datetime).timestamp() * 1000) // PANE_MS
    return minute


class Clock:
    """From the first event to the last acknowledged publication."""

    def __init__(self) -> None:
        self.began = self.cpu = 0.0

    def start(self) -> None:
        if not self.began:
            self.began, self.cpu = time.perf_counter(), time.process_time()

    def tell(self, events: int) -> None:
        """The one line of output that `throughput.py` reads."""
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        line = json.dumps({"events": events, "seconds": seconds, "cpu": cpu, "memory_mib": memory}) + "\n"
        os.write(1, line.encode())  # Faust makes log lines of what is printed
