"""Logs of predictions and labels, a reader of both, and what a plain computation makes of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from streams.codecs import decoder_of
from streams.config import bucket_of
from streams.join.cells import View
from streams.join.fold import JoinFold
from streams.partial import Covered, LabelBooksPartial, OutcomePartial, pack, unpack
from streams.plan import Plan
from streams.records import Records
from streams.resume import SourceLog
from streams.sketch.outcomes import PREDICTIONS, Prediction
from streams.sketch.profile import Profile
from streams.store import MemoryStore
from tests.plain_time import PlainTime
from tests.strategies import CLOCK_MS, MINUTE_MS, START_MS, plan_of

TOPIC = "labels"
HORIZON_MS = 60 * MINUTE_MS
PLAN: Plan = plan_of(
    """
models:
  alpha:
    pane: 1m
    grace: 1m
    lateness: 10m
    versions: [v0]
    max_versions: 2
    segments: {region: [north, south]}
    labels: {task: binary, classes: ["0", "1"], horizon: 1h}
    features: {amount: {type: numeric}}
  beta:
    pane: 10m
    grace: 30s
    lateness: 5m
    labels: {task: regression, horizon: 1h}
    features: {amount: {type: numeric}}
"""
)
DECODER = decoder_of(PLAN)


@dataclass(frozen=True)
class Event:
    event_id: str
    model: str
    ts_ms: int
    region: str | None
    score: float
    version: str = "v0"

    @property
    def value(self) -> bytes:
        fields: dict[str, Any] = {"event_id": self.event_id, "ts": self.ts_ms, "model": self.model, "features": {}}
        fields |= {"model_version": self.version, "score": self.score, "segments": {"region": self.region}}
        return json.dumps(fields).encode()


@dataclass(frozen=True)
class Told:
    event_id: str
    label: float | None
    ts_ms: int
    model: str = ""

    @property
    def value(self) -> bytes:
        fields = {"event_id": self.event_id, "label": self.label, "label_ts": self.ts_ms}
        return json.dumps(fields | ({"model": self.model} if self.model else {})).encode()


ids = st.integers(0, 7).map(str)
models = st.sampled_from(["alpha", "alpha", "beta"])
steps = st.sampled_from([0, 1_000, 30_000, 90_000, -20_000, -90_000, -1_000_000, 9_000_000])


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Event], list[Told]]:
    events, labels = [], []
    time_ms = START_MS
    for _ in range(draw(st.integers(0, 14))):
        time_ms += draw(steps)
        region, score = draw(st.sampled_from(["north", "west", None])), draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
        events.append(Event(draw(ids), draw(models), time_ms, region, score))
    time_ms = START_MS
    for _ in range(draw(st.integers(0, 14))):
        time_ms += draw(st.sampled_from([0, 1_000, 200_000, -50_000, 4_000_000, 9_000_000]))
        label = draw(st.sampled_from([0.0, 1.0, 1.0, None]))
        labels.append(Told(draw(ids), label, time_ms, draw(st.sampled_from(["", "", "alpha", "beta"]))))
    return events, labels


def records(items: Sequence[Event | Told], first: int) -> Records:
    return Records(range(first, first + len(items)), [CLOCK_MS + 10**9] * len(items), [item.value for item in items])


class Reader:
    """Reads both logs, in portions; a crash forgets what was not committed."""

    def __init__(self, events: Sequence[Event], labels: Sequence[Told]) -> None:
        self.events, self.labels, self.store = list(events), list(labels), MemoryStore()
        self.duplicates = 0
        self.published: dict[Any, tuple[Covered, dict[Any, Any]]] = {}
        self.sent: list[OutcomePartial | LabelBooksPartial] = []
        self.logs: tuple[SourceLog | None, SourceLog | None] = (None, None)
        self._open()

    def _open(self) -> None:
        self.fold = JoinFold(PLAN, TOPIC, 0, self.store, CLOCK_MS, logs=self.logs)
        self.at = [self.fold.meta.covered.inference, self.fold.meta.covered.labels]

    def read_events(self, count: int) -> None:
        part = self.events[self.at[0] : self.at[0] + count]
        if part:
            given = records(part, self.at[0])
            decoded = DECODER.decode(given.values, given.stamps_ms)
            for model, rows in decoded.models.items():
                offsets = [given.offsets[index] for index in rows.indices.tolist()]
                kept = self.fold.take_predictions(model, rows, offsets)
                self.duplicates += len(rows.rows) - (len(kept.rows.rows) if kept else 0)
            self.at[0] += len(part)

    def read_labels(self, count: int) -> None:
        part = self.labels[self.at[1] : self.at[1] + count]
        if part:
            self.fold.take_labels(records(part, self.at[1]), CLOCK_MS)
            self.at[1] += len(part)

    def commit(self) -> None:
        self.fold.commit(self.at[0], CLOCK_MS)
        if self.fold.is_behind:
            return
        for partial in self.fold.partials(CLOCK_MS, final=False):
            self.sent.append(unpack(pack(partial)))  # type: ignore[arg-type]
            buckets = {bucket_of(part.model, PLAN.config.kafka.buckets) for part in partial.models}
            assert buckets <= {partial.bucket}
            if isinstance(partial, OutcomePartial):
                self._keep(partial)

    def _keep(self, partial: OutcomePartial) -> None:
        """As stage 2 does: of each cohort and pane the publication that covers most."""
        views = (View.COHORT,) if partial.cohort else (View.ARRIVED, View.STANDING)
        for part in partial.models:
            for view, cells in zip(views, (part.on_time, part.welcome), strict=False):
                known = self.published.get((view, part.model, partial.pane_ms), ((-1, -1), {}))
                if partial.covered >= known[0]:
                    opened = {cell.key: Profile.from_bytes(cell.profile).counts.dense() for cell in cells}
                    self.published[view, part.model, partial.pane_ms] = (partial.covered, opened)

    def crash(self, back: int) -> None:
        """Comes back from the store, and reads some events again."""
        self._open()
        self.at[0] = max(0, self.at[0] - back)

    def lose(self, starts: tuple[int, int] = (0, 0)) -> None:
        """The store is gone, and the logs began before these offsets."""
        self.store = MemoryStore()
        self.logs = (SourceLog(("a",), starts[0], None, -1), SourceLog(("b",), starts[1], None, -1))
        self._open()
        assert self.fold.lacks_published
        self.fold.go_on_from(copy.deepcopy(self.sent))

    def move_back(self, store: MemoryStore, starts: tuple[int, int]) -> None:
        """Another worker read on meanwhile; the logs began before these offsets."""
        self.store = store
        self.logs = (SourceLog(("a",), starts[0], None, 0), SourceLog(("b",), starts[1], None, 0))
        self._open()
        if self.fold.lacks_published:
            self.fold.go_on_from(copy.deepcopy(self.sent))
            self.at = [self.fold.meta.covered.inference, self.fold.meta.covered.labels]

    def finish(self) -> None:
        self.read_events(len(self.events))
        self.read_labels(len(self.labels))
        self.commit()

    def found(self) -> Any:
        cells = {
            (place, key): vector.tolist()
            for place, (_, by_key) in self.published.items()
            for key, vector in by_key.items()
            if vector.any()
        }
        books = {name: msgspec.structs.replace(found) for name, found in self.fold.meta.books.items() if found.read}
        for found in books.values():  # when a label is given up depends on when somebody looks
            found.orphan, found.pending = found.orphan + found.pending, 0
        return cells, books


def simply(events: Sequence[Event], labels: Sequence[Told]) -> Any:
    """The batch computation: cohorts of the first record of each event id, by its latest label."""
    seen, times = set(), {name: PlainTime(plan.config.grace_ms) for name, plan in PLAN.models.items()}
    cohorts: dict[Any, Any] = {}
    label_time = PlainTime(max(plan.config.grace_ms for plan in PLAN.models.values() if plan.outcomes))
    arrivals = [max(told.ts_ms, label_time.after(told.ts_ms)) for told in labels]
    for offset, event in enumerate(events):
        plan = PLAN.models[event.model]
        layout = plan.outcomes
        assert layout is not None
        if (event.model, event.event_id) in seen:
            continue
        late_ms = times[event.model].after(event.ts_ms) - event.ts_ms
        if late_ms > plan.config.lateness_ms:
            continue
        seen.add((event.model, event.event_id))
        mine = [
            (told, arrival)
            for told, arrival in zip(labels, arrivals, strict=True)
            if told.event_id == event.event_id
            and told.model in ("", event.model)
            and abs(arrival - event.ts_ms) <= HORIZON_MS
        ]
        region = event.region if event.region == "north" else "__other__"
        keys = [("v0", "", "")] + ([("v0", "region", region)] if event.model == "alpha" else [])
        for key in keys:
            place = (View.COHORT, event.model, plan.cohort_start(event.ts_ms))
            vector = cohorts.setdefault((place, key), np.zeros(layout.length, np.int64))
            vector[PREDICTIONS] += late_ms <= plan.config.grace_ms
            mine = [pair for i, pair in enumerate(mine) if pair[0].label != (mine[i - 1][0].label if i else None)]
            if mine and mine[-1][0].label is not None:
                told, arrival = mine[-1]
                given = Prediction(event.model, offset, event.ts_ms, True, "v0", (), event.score, None)
                delay = np.array([max(0, arrival - event.ts_ms)])
                slots, amounts = layout.contributions([given], [told.label], delay)
                np.add.at(vector, slots[:, 0], amounts[:, 0])
    return {place: vector.tolist() for place, vector in cohorts.items() if vector.any()}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("events"), st.integers(1, 5)),
        st.tuples(st.just("labels"), st.integers(1, 5)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 4)),
    ),
    max_size=16,
)


def perform(reader: Reader, schedule: Sequence[tuple[str, int]], *, finish: bool = True) -> None:
    for what, count in schedule:
        if what == "events":
            reader.read_events(count)
        elif what == "labels":
            reader.read_labels(count)
        elif what == "commit":
            reader.commit()
        else:
            reader.crash(count)
    if finish:
        reader.finish()


def labels_taken_back(labels: Sequence[Told]) -> bool:
    return any(told.label is None for told in labels)


def cohorts_of(reader: Reader) -> dict[Any, Any]:
    """What is published of cohorts."""
    return {
        (place, key): vector.copy()
        for place, (_, by_key) in reader.published.items()
        if place[0] is View.COHORT
        for key, vector in by_key.items()
    }
