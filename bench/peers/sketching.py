"""What every peer does with an event, in plain Python: the sketches that Foreshock makes, as a user would write them.

Per minute of event time and segment value: requests and errors; of every number a histogram on given edges, null being
a bin of its own; of every text the counts of the known categories, and a HyperLogLog of the others. The whole is the
sum over the segment's values. No import of ours: this runs in the peers' own environments.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from datetime import datetime
from operator import attrgetter
from typing import Any

import datasketches
import msgspec

PANE_S = 60
LG_K = 11

Setting = dict[str, Any]
Key = tuple[int, str]


def decoder(setting: Setting) -> Callable[[bytes], Any]:
    """Bytes of an event → a struct of the fields that are sketched."""
    features = [(name, float | None, None) for name in setting["features"]]
    features += [(name, str | None, None) for name in setting["texts"]]
    event = msgspec.defstruct(
        "Event",
        [
            ("ts", str),
            ("features", msgspec.defstruct("Features", features, gc=False)),
            ("segments", dict[str, str], {}),
            ("score", float | None, None),
            ("prediction", int | None, None),
            ("latency_ms", float | None, None),
            ("error", str | None, None),
        ],
        gc=False,
    )
    return msgspec.json.Decoder(event).decode


class Cell:
    """The sketches of one pane and segment value. `columns` of an event are in the order of the setting's."""

    def __init__(self, setting: Setting) -> None:
        self.edges: list[list[float]] = setting["edges"]
        self.positions: list[dict[Any, int]] = setting["positions"]
        self.requests = self.errors = 0
        self.numbers = [[0] * (len(edges) + 2) for edges in self.edges]
        self.texts = [[0] * (len(positions) + 2) for positions in self.positions]
        self.distinct = [datasketches.hll_sketch(LG_K) for _ in self.positions]

    def add(self, failed: bool, numbers: Iterable[float | None], texts: Iterable[Any]) -> None:
        self.requests += 1
        self.errors += failed
        for counts, edges, number in zip(self.numbers, self.edges, numbers, strict=True):
            counts[0 if number is None else 1 + bisect_right(edges, number)] += 1
        for counts, positions, distinct, text in zip(self.texts, self.positions, self.distinct, texts, strict=True):
            if text is None:
                counts[0] += 1
            elif (position := positions.get(text)) is not None:
                counts[1 + position] += 1
            else:
                counts[-1] += 1
                distinct.update(text)

    def merged(self, other: Cell) -> Cell:
        both = Cell({"edges": self.edges, "positions": self.positions})
        both.requests, both.errors = self.requests + other.requests, self.errors + other.errors
        both.numbers = [_added(*pair) for pair in zip(self.numbers, other.numbers, strict=True)]
        both.texts = [_added(*pair) for pair in zip(self.texts, other.texts, strict=True)]
        both.distinct = [_united(*pair) for pair in zip(self.distinct, other.distinct, strict=True)]
        return both

    def summary(self) -> bytes:
        distinct = [sketch.serialize_compact() for sketch in self.distinct]
        return msgspec.json.encode([self.requests, self.errors, self.numbers, self.texts, distinct])


def _added(left: list[int], right: list[int]) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]


def _united(left: Any, right: Any) -> Any:
    union = datasketches.hll_union(LG_K)
    union.update(left)
    union.update(right)
    return union.get_result()


class Sketcher:
    """Cells by pane and segment value."""

    def __init__(self, setting: Setting) -> None:
        self.setting = prepared(setting)
        self.decode = decoder(setting)
        self.columns = columns(setting)
        self.cells: dict[Key, Cell] = {}
        self.requests = 0
        self.published = 0

    def add(self, value: bytes) -> None:
        event = self.decode(value)
        key = minute_of(event.ts), event.segments.get(self.setting["segment"], "")
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell(self.setting)
        cell.add(*self.columns(event))
        self.requests += 1

    def drain(self) -> list[tuple[bytes, bytes]]:
        """Key and value of every cell and of every pane's whole, which are then forgotten."""
        cells, self.cells = self.cells, {}
        for (pane, _), cell in list(cells.items()):
            whole = cells.get((pane, "*"))
            cells[pane, "*"] = cell.merged(whole) if whole else cell
        self.published += sum(cell.requests for (_, segment), cell in cells.items() if segment == "*")
        return [(f"{pane}/{segment}".encode(), cell.summary()) for (pane, segment), cell in cells.items()]


def prepared(setting: Setting) -> Setting:
    """With the position of every known category: of the texts, then of the prediction, a whole number."""
    texts = [{text: i for i, text in enumerate(known)} for known in setting["categories"]]
    return setting | {"positions": [*texts, {int(text): i for i, text in enumerate(setting["predictions"])}]}


def columns(setting: Setting) -> Callable[[Any], tuple[bool, tuple[Any, ...], tuple[Any, ...]]]:
    """Event → whether it failed, its numbers, its texts."""
    numbers = attrgetter(*(f"features.{name}" for name in setting["features"]), "score", "latency_ms")
    texts = attrgetter(*(f"features.{name}" for name in setting["texts"]), "prediction")
    return lambda event: (event.error is not None, numbers(event), texts(event))


_minutes: dict[str, int] = {}


def minute_of(ts: str) -> int:
    """The minute of an event time; a text is parsed once a minute of event time."""
    minute = _minutes.get(ts[:16])
    if minute is None:
        minute = _minutes[ts[:16]] = int(datetime.fromisoformat(ts).timestamp()) // PANE_S
    return minute


class Clock:
    """From the first event to the last acknowledged publication."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.ended = (0.0, 0.0)

    def start(self) -> None:
        """Call it at every event or batch: the first one counts."""
        if self.began is None:
            self.began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Call it after every publication: the last one counts."""
        self.ended = time.perf_counter(), time.process_time()

    def tell(self, events: int) -> None:
        """The one line of output that `throughput.py` reads. `events`: how many the publications account for."""
        if self.began is None:
            raise SystemExit("no event was seen")
        seconds, cpu = (end - start for end, start in zip(self.ended, self.began, strict=True))
        memory = _peak_mib()
        figures = json.dumps({"events": events, "seconds": seconds, "cpu": cpu, "memory_mib": memory})
        print(figures, file=sys.__stdout__, flush=True)  # Faust takes sys.stdout for its log


def _peak_mib() -> float:
    """The most memory this program has had. (What `getrusage` says holds for its parent too, as of the fork.)"""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
