"""What every peer does with an event, in plain Python: the sketches that Foreshock makes, as a careful user would.

Per minute of event time, version and segment value: requests and errors; of every column how often it was absent, null
or of another type; of every number a histogram on given edges; of every text the counts of the known categories and a
HyperLogLog of the others; the names of fields that nobody declared. The whole is the sum over the segment's values. An
event that comes more than a day behind the newest is counted as late and left out. Whatever an event holds, the numbers
are those that Foreshock has. No import of ours: this runs in the peers' own environments.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import datasketches
import msgspec

PANE_MS, LATENESS_MS = 60_000, 86_400_000
LG_K = 11
ABSENT, NULL, WRONG, BINS = 0, 1, 2, 3
_MISSING = object()

Setting = dict[str, Any]
Event = dict[str, Any]

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Event).decode
"""To plain objects: a decoder into a declared class would fail at the first value of another type."""


class Numbers:
    """Histograms of some fields of an event."""

    def __init__(self, columns: Iterable[tuple[str, list[float]]]) -> None:
        self.columns = [(name, edges, [0] * (BINS + len(edges) + 1)) for name, edges in columns]

    def add(self, values: Mapping[str, Any]) -> int:
        """How many of the fields are there."""
        present = 0
        for name, edges, counts in self.columns:
            value = values.get(name, _MISSING)
            kind = value.__class__
            if kind is float or kind is int:
                counts[BINS + bisect_right(edges, value)] += 1
            elif value is None:
                counts[NULL] += 1
            elif value is _MISSING:
                counts[ABSENT] += 1
                continue
            else:
                counts[WRONG] += 1
            present += 1
        return present

    def merge(self, other: Numbers) -> None:
        for (_, _, mine), (_, _, theirs) in zip(self.columns, other.columns, strict=True):
            mine[:] = map(int.__add__, mine, theirs)

    def state(self) -> list[list[int]]:
        return [counts for _, _, counts in self.columns]

    def restore(self, state: list[list[int]]) -> None:
        self.columns = [(name, edges, counts) for (name, edges, _), counts in zip(self.columns, state, strict=True)]


class Texts:
    """Category counts of some fields of an event, and how many distinct values are in no category."""

    def __init__(self, columns: Iterable[tuple[str, list[Any]]]) -> None:
        self.columns = [
            (
                name,
                known[0].__class__,
                {value: BINS + i for i, value in enumerate(known)},
                [0] * (BINS + len(known) + 1),
                datasketches.hll_sketch(LG_K),
            )
            for name, known in columns
        ]

    def add(self, values: Mapping[str, Any]) -> int:
        """How many of the fields are there."""
        present = 0
        for name, kind, slots, counts, distinct in self.columns:
            value = values.get(name, _MISSING)
            if value.__class__ is kind:
                slot = slots.get(value, -1)
                counts[slot] += 1
                if slot == -1:
                    distinct.update(value)
            elif value is None:
                counts[NULL] += 1
            elif value is _MISSING:
                counts[ABSENT] += 1
                continue
            else:
                counts[WRONG] += 1
            present += 1
        return present

    def merge(self, other: Texts) -> None:
        for at, (mine, theirs) in enumerate(zip(self.columns, other.columns, strict=True)):
            mine[3][:] = map(int.__add__, mine[3], theirs[3])
            union = datasketches.hll_union(LG_K)
            union.update(mine[4])
            union.update(theirs[4])
            self.columns[at] = (*mine[:4], union.get_result())

    def state(self) -> list[tuple[list[int], str]]:
        return [(counts, b64encode(distinct.serialize_compact()).decode()) for *_, counts, distinct in self.columns]

    def restore(self, state: list[tuple[list[int], str]]) -> None:
        read = datasketches.hll_sketch.deserialize
        self.columns = [
            (*column[:3], counts, read(b64decode(packed)))
            for column, (counts, packed) in zip(self.columns, state, strict=True)
        ]


class Cell:
    """The sketches of one pane, version and segment value."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.requests = self.errors = 0
        self.numbers, self.texts = Numbers(setting["numbers"]), Texts(setting["texts"])
        self.outputs, self.predictions = Numbers(setting["outputs"]), Texts(setting["predictions"])
        self.declared = {name for name, _ in (*setting["numbers"], *setting["texts"])}
        self.extras: Counter[str] = Counter()

    def add(self, event: Event) -> None:
        self.requests += 1
        self.errors += event.get("error") is not None
        features = event["features"]
        if self.numbers.add(features) + self.texts.add(features) < len(features):
            self.extras.update(features.keys() - self.declared)
        self.outputs.add(event)
        self.predictions.add(event)

    def merged(self, other: Cell) -> Cell:
        both = Cell(self.setting)
        for cell in (self, other):
            both.requests += cell.requests
            both.errors += cell.errors
            both.numbers.merge(cell.numbers)
            both.texts.merge(cell.texts)
            both.outputs.merge(cell.outputs)
            both.predictions.merge(cell.predictions)
            both.extras += cell.extras
        return both

    def state(self) -> list[Any]:
        """All of it, in what JSON can hold."""
        return [self.requests, self.errors, [part.state() for part in self._parts()], self.extras]

    @classmethod
    def of(cls, setting: Setting, state: list[Any]) -> Cell:
        cell = cls(setting)
        cell.requests, cell.errors, parts, extras = state
        for part, found in zip(cell._parts(), parts, strict=True):
            part.restore(found)
        cell.extras.update(extras)
        return cell

    def _parts(self) -> tuple[Any, ...]:
        return self.numbers, self.texts, self.outputs, self.predictions


class Sketcher:
    """Cells by pane, version and segment value."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.cells: dict[tuple[int, str, str], Cell] = {}
        self.newest_ms = self.requests = self.late = self.published = 0

    def add(self, value: bytes) -> None:
        event = decode(value)
        self.requests += 1
        time_ms = int(time_of(event).timestamp() * 1000)
        self.newest_ms = max(self.newest_ms, time_ms)
        if self.newest_ms - time_ms > LATENESS_MS:
            self.late += 1
            return
        key = time_ms // PANE_MS, *group_of(event, self.setting)
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell(self.setting)
        cell.add(event)

    def drain(self) -> list[tuple[bytes, bytes]]:
        """Key and value of every cell and of every pane's whole, which are then forgotten."""
        cells, self.cells = self.cells, {}
        for (pane, version, _), cell in list(cells.items()):
            whole = cells.get((pane, version, "*"))
            cells[pane, version, "*"] = cell.merged(whole) if whole else cell
        self.published += sum(cell.requests for (_, _, segment), cell in cells.items() if segment == "*")
        return [("/".join(map(str, key)).encode(), encode(cell.state())) for key, cell in cells.items()]


def time_of(event: Event) -> datetime:
    return datetime.fromisoformat(event["ts"])


def group_of(event: Event, setting: Setting) -> tuple[str, str]:
    """Version and segment value."""
    return event.get("model_version", ""), event["segments"].get(setting["segment"], "")


class Clock:
    """From the first event to the last acknowledged publication."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.ended = (0.0, 0.0)

    def start(self) -> None:
        """Call it at every event or batch: the first one counts."""
        if self.began is None:
            self.began = time.perf_counter(), self.cpu_s()

    def stop(self) -> None:
        """Call it after every publication: the last one counts."""
        self.ended = time.perf_counter(), self.cpu_s()

    def tell(self, events: int) -> None:
        """The one line of output that `throughput.py` reads. `events`: how many the publications account for."""
        if self.began is None:
            raise SystemExit("no event was seen")
        seconds, cpu = (end - start for end, start in zip(self.ended, self.began, strict=True))
        figures = json.dumps({"events": events, "seconds": seconds, "cpu": cpu, "memory_mib": self.peak_mib()})
        print(figures, file=sys.__stdout__, flush=True)  # Faust takes sys.stdout for its log

    def cpu_s(self) -> float:
        return time.process_time()

    def peak_mib(self) -> float:
        return peak_mib()


def peak_mib(pid: int | str = "self") -> float:
    """The most memory a program has had. (What `getrusage` says holds for its parent too, as of the fork.)"""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
