"""Partials of a small model, and what a merge of them says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from streams.cells import Cells
from streams.merge import BucketMerge, ClosedPane, ModelMerge
from streams.partial import Books, BooksPart, BooksPartial, Cell, PanePart, PanePartial, key_of
from streams.plan import Plan
from streams.sketch.counts import Counts
from streams.sketch.layout import OK_SLOT, requests
from streams.sketch.profile import Profile
from tests.closing import closed_events
from tests.strategies import TOPIC, plan_of

M = 60_000
START = 1_767_225_600_000
IDLE_MS, LATENESS_MS = 2 * M, 10 * M
CONFIG = """
kafka: {buckets: 1}
models:
  a: &model
    {pane: 1m, grace: 1m, lateness: 10m, idle: 2m, max_versions: 2, features: {x: {type: numeric}}, rules: [
      {name: errors, signals: [request_error_rate], response: rollback},
      {name: slow, signals: [request_error_rate], response: rollback, over: 5m}]}
  b: {<<: *model}
"""
PLAN = plan_of(CONFIG)


def merge_of(partitions: int = 1, plan: Plan = PLAN) -> BucketMerge:
    return BucketMerge(plan, 0, TOPIC, partitions)


def profile(events: int, model: str = "a") -> Profile:
    dense = np.zeros(PLAN.models[model].layout.length, np.int64)
    dense[OK_SLOT] = events
    return Profile(Counts.of(dense))


def cells(events: int, version: str = "1") -> list[Cell]:
    return [Cell(version, "", "", profile(events).to_bytes())] if events else []


def pane(
    minute: float,
    on_time: int = 0,
    welcome: int = 0,
    *,
    chunk: int = 0,
    end: int = 1,
    partition: int = 0,
    model: str = "a",
    version: str = "1",
) -> PanePartial:
    """A publication of the pane that starts at START + minute."""
    part = PanePart(model, PLAN.models[model].layout.digest, cells(on_time, version), cells(welcome, version))
    return PanePartial(TOPIC, partition, chunk, end, 0, START + int(minute * M), [part])


def books(
    mark_minute: float | None,
    *,
    chunk: int = 0,
    end: int = 1,
    partition: int = 0,
    clock: float = 0,
    seen: float = 0,
    read: int = 0,
    complete: bool = False,
    caught_up: bool = False,
    final: bool = False,
    models: Iterable[str] = ("a",),
) -> BooksPartial:
    """A publication of books: `clock` and `seen` are minutes of stage 1's clock."""
    mark = None if mark_minute is None else START + int(mark_minute * M)
    parts = [BooksPart(name, Books(read=read, counted=read), mark, int(seen * M)) for name in models]
    return BooksPartial(TOPIC, partition, chunk, end, 0, int(clock * M), complete, caught_up, final, parts)


def apply(merge: BucketMerge, *partials: Any, fresh: bool = True) -> ModelMerge:
    for partial in partials:
        merge.apply(partial, key_of(partial, "w"), fresh=fresh)
    return merge.models["a"]


def closed(merge: BucketMerge, model: str = "a") -> list[tuple[float, int, int]]:
    """(minute, events on time, events welcome) of the panes that the watermark allows."""
    return [_told(pane) for pane in closed_events(merge, merge.models[model])]


def _told(pane: ClosedPane) -> tuple[float, int, int]:
    return (pane.start_ms - START) / M, events(pane.on_time), events(pane.welcome)


def events(found: Cells) -> int:
    return sum(int(requests(item.counts.dense())) for item in found.values())


def watermark(merge: BucketMerge, model: str = "a") -> float | None:
    found = merge.watermark_ms(merge.models[model])
    return None if found is None else (found - START) / M


def events_of(model: ModelMerge) -> Mapping[int, int]:
    return {start: events(item.cells()[0]) for start, item in model.panes.items()}
