"""Feedback, KPIs and runs against a plain count: every record is counted once, in its pane, whatever the restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.chunk import Step
from streams.config import Feedback
from streams.facts.fold import FactFold, FeedbackFold, fact_fold
from streams.facts.layout import kpi_vector, score_bin
from streams.fingerprint import counted
from streams.join.fold import JoinFold
from streams.partial import Books, BooksPart, BooksPartial, PanePartial, Partial
from streams.plan import Facts, kpi_name
from streams.progress import Progress
from streams.records import Records
from streams.replaying import BEHIND_MS, MAX_WAIT_MS
from streams.sketch.profile import Profile
from streams.store import MemoryStore
from tests.plain_time import PlainTime, without_votes
from tests.strategies import CLOCK_MS, MINUTE_MS, START_MS, plan_of

M = MINUTE_MS
PLAN = plan_of(
    """
models:
  alpha:
    pane: 1m
    grace: 1m
    lateness: 3m
    segments: {region: [north]}
    feedback: {complaint: {usual: 0.1}, override: {usual: 0.1}, workflow_step: {values: [call]}}
    kpis: {loss: {aggregate: sum, better: lower}, wins: {aggregate: sum, better: higher}}
    jobs: {features: {every: 1h}, training: {every: 1h, namespace: batch}}
  beta:
    pane: 1m
    grace: 30s
    lateness: 1m
    feedback: {complaint: {usual: 0.1}}
    kpis: {loss: {aggregate: sum, better: lower}}
    jobs: {features: {every: 1h}}
""",
    chunk_size=8,
)
OTHER = "__other__"
STAMP_MS = CLOCK_MS + 10**9
LIMIT_MS = PLAN.config.limits.future_ms


@pytest.fixture(autouse=True, scope="module")
def _few_records() -> Iterator[None]:
    with without_votes():
        yield


@dataclass(frozen=True)
class Item:
    """A record of any of the topics; `wrong`: what is wrong with it."""

    ts_ms: int
    model: str
    what: str
    value: Any
    region: str | None
    wrong: str = ""

    def record(self, kind: Facts) -> bytes:
        if self.wrong == "json":
            return b"{"
        ts_ms = STAMP_MS + LIMIT_MS + 1 if self.wrong == "future" else self.ts_ms
        if kind is Facts.RUNS:
            job = {"namespace": self.value, "name": self.what}
            time = f"{np.datetime64(ts_ms, 'ms')}Z"
            row: dict[str, Any] = {"eventType": "COMPLETE", "eventTime": time, "run": {"runId": self.model}, "job": job}
            return json.dumps(row | ({"run": None} if self.wrong == "field" else {})).encode()
        row = {"model": self.model, "ts": ts_ms, "model_version": "7", "value": self.value}
        row["segments"] = {"region": self.region} if self.region else {}
        row["kind" if kind is Facts.FEEDBACK else "kpi"] = None if self.wrong == "field" else self.what
        return json.dumps(row).encode()

    @property
    def reason(self) -> str:
        return {"json": "bad_json", "future": "future", "field": "missing_field"}[self.wrong]


WHATS: dict[Facts, tuple[list[str], list[Any]]] = {
    Facts.FEEDBACK: (["complaint", "override", "workflow_step"], ["call", "mail"]),
    Facts.OUTCOMES: (["loss", "wins", "ghost"], [1, -2.5, 40]),
    Facts.RUNS: (["features", "training", "ghost"], ["batch", "live"]),
}
STEPS_MS = st.sampled_from([0, 1_000, 20_000, 30_000, M, -M, -90_000, -4 * M, 5 * M])


@st.composite
def streams(draw: st.DrawFn, kind: Facts) -> list[Item]:
    whats, values = st.sampled_from(WHATS[kind][0]), st.sampled_from(WHATS[kind][1])
    time_ms, found = START_MS, []
    for step_ms in draw(st.lists(STEPS_MS, max_size=25)):
        time_ms += step_ms
        model = draw(st.sampled_from(["alpha", "alpha", "beta", "ghost"]))
        wrong = draw(st.sampled_from(["", "", "", "", "", "json", "future", "field"]))
        found.append(
            Item(time_ms, model, draw(whats), draw(values), draw(st.sampled_from(["north", "west", None])), wrong)
        )
    return found


@dataclass
class Plain:
    """What is counted: books by name; by name, pane, status and cell a vector, or how often a run is there."""

    kind: Facts
    books: dict[str, Books] = field(default_factory=dict)
    cells: dict[Any, Any] = field(default_factory=dict)
    times: dict[str, PlainTime] = field(default_factory=dict)

    def book(self, name: str) -> Books:
        return self.books.setdefault(name, Books())

    def reject(self, item: Item) -> None:
        """A reject is the model's, where it can be read; of its KPIs the first one's."""
        model = "" if item.wrong == "json" or self.kind is Facts.RUNS else item.model
        name = kpi_name(model, "loss") if model and self.kind is Facts.OUTCOMES else model
        books = self.book(OTHER if model == "ghost" else name)
        books.read += 1
        books.rejected[item.reason] = books.rejected.get(item.reason, 0) + 1

    def names(self, item: Item) -> list[str]:
        """The books in which a record is counted; none: it is of what is not declared."""
        if self.kind is Facts.RUNS:
            of_features = ["alpha", "beta"] if item.what == "features" else []
            return ["alpha"] if (item.what, item.value) == ("training", "batch") else of_features
        known = {"alpha": {"complaint", "override", "workflow_step", "loss", "wins"}, "beta": {"complaint", "loss"}}
        if item.what not in known.get(item.model, ()):
            return []
        return [kpi_name(item.model, item.what) if self.kind is Facts.OUTCOMES else item.model]

    def take(self, item: Item) -> None:
        if item.wrong:
            self.reject(item)
            return
        names = self.names(item)
        if not names:
            books = self.book(OTHER)
            books.read, books.counted = books.read + 1, books.counted + 1
        for name in names:
            self.count(name, item)

    def count(self, name: str, item: Item) -> None:
        plan, books = PLAN.facts[self.kind][name], self.book(name)
        mark_ms = self.times.setdefault(name, PlainTime(plan.config.grace_ms)).after(item.ts_ms)
        books.read += 1
        if mark_ms - item.ts_ms > plan.config.lateness_ms:
            books.late += 1
            return
        books.counted += 1
        at_ms = item.ts_ms if self.kind is Facts.OUTCOMES else max(mark_ms, item.ts_ms)
        late = self.kind is Facts.OUTCOMES and mark_ms - item.ts_ms > plan.config.grace_ms
        place = name, at_ms // M * M, late
        if self.kind is Facts.RUNS:
            self.cells[*place, ("", item.what, f"{item.ts_ms}/COMPLETE/{item.model}")] = True
            return
        keys = [("7", "", "")]
        if item.region and name.startswith("alpha"):
            keys.append(("7", "region", "north" if item.region == "north" else OTHER))
        for key in keys:
            self.cells[*place, key] = self.cells.get((*place, key), 0) + self.vector(item, plan)

    def vector(self, item: Item, plan: Any) -> Any:
        if self.kind is Facts.OUTCOMES:
            return kpi_vector(item.value)
        kind, slots = Feedback(item.what), plan.feedback.slots
        found = np.zeros(plan.feedback.length, np.int64)
        found[slots[kind, None]] = 1
        if item.what == "workflow_step":
            found[slots[kind, "call" if item.value == "call" else OTHER]] = 1
        if item.what == "override":
            found[plan.feedback.bins_at + score_bin(None)] = 1
        return found


class Worker:
    """A fold that is begun anew from its last progress, and all that it has published."""

    def __init__(self, kind: Facts, items: Sequence[Item]) -> None:
        self.kind, self.values = kind, [item.record(kind) for item in items]
        self.progress: Progress | None = None
        self.sent: list[Partial] = []
        self.begin()

    def begin(self) -> None:
        self.fold: FactFold = fact_fold(self.kind, PLAN, 0, self.progress, CLOCK_MS, None)
        self.at = self.fold.resume_offset

    def read(self, count: int) -> None:
        part = self.values[self.at : self.at + count]
        if part:
            offsets = range(self.at, self.at + len(part))
            for step in self.fold.take(Records(offsets, [STAMP_MS] * len(part), part), CLOCK_MS):
                self.keep(step)
            self.at = offsets.stop

    def publish(self, *, final: bool = False) -> None:
        self.keep(self.fold.publish(CLOCK_MS, caught_up=final, final=final))

    def keep(self, step: Step) -> None:
        self.sent += step.partials
        self.progress = step.progress or self.progress

    def found(self) -> tuple[dict[str, Books], dict[Any, Any]]:
        """Of every chunk the latest publication, all of them added up."""
        panes: dict[Any, PanePartial] = {}
        booked: dict[Any, tuple[int, Books]] = {}
        for partial in self.sent:
            if isinstance(partial, PanePartial):
                place = partial.bucket, partial.chunk, partial.pane_ms, partial.lap
                if place not in panes or panes[place].end_offset <= partial.end_offset:
                    panes[place] = partial
            elif isinstance(partial, BooksPartial):
                for part in partial.models:
                    if booked.get((part.model, partial.chunk, partial.bucket), (-1,))[0] <= partial.end_offset:
                        booked[part.model, partial.chunk, partial.bucket] = partial.end_offset, part.books
        books: dict[str, Books] = {}
        for (name, *_), (_, part_books) in booked.items():
            books[name] = books.get(name, Books()).merged(part_books)
        for found in books.values():
            found.ahead = 0  # stream time has a law of its own
        return {name: found for name, found in books.items() if found.read}, self.cells(panes.values())

    def last_books(self) -> list[BooksPart]:
        """Those of the last publication, which is of every name."""
        return [part for one in self.sent if isinstance(one, BooksPartial) and one.final for part in one.models]

    def cells(self, panes: Any) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for partial in panes:
            for part in map(counted, partial.models):
                for late, cells in ((False, part.on_time), (True, part.welcome)):
                    for cell in cells:
                        place = part.model, partial.pane_ms, late, cell.key
                        vector = Profile.from_bytes(cell.profile).counts.dense()
                        found[place] = True if self.kind is Facts.RUNS else found.get(place, 0) + vector
        return found


@settings(max_examples=150)
@given(st.data())
@pytest.mark.parametrize("kind", list(Facts))
def test_every_record_is_counted_once_in_its_pane(kind: Facts, data: st.DataObject) -> None:
    items = data.draw(streams(kind))
    actions = data.draw(st.lists(st.sampled_from(["read", "read", "publish", "restart"]), max_size=12))
    worker, plain = Worker(kind, items), Plain(kind)
    for action in actions:
        if action == "read":
            worker.read(3)
        elif action == "publish":
            worker.publish()
        else:
            worker.begin()
    worker.read(len(items))
    worker.publish(final=True)
    for item in items:
        plain.take(item)
    books, cells = worker.found()
    assert books == plain.books
    assert cells.keys() == plain.cells.keys()
    assert all(np.array_equal(cells[place], plain.cells[place]) for place in cells)
    assert all(one.balanced() for one in books.values())
    marks = {part.model: part.mark_ms for part in worker.last_books() if part.mark_ms is not None}
    assert marks == {name: time.mark for name, time in plain.times.items()}
    assert all(type(mark_ms) is int for mark_ms in marks.values())


@pytest.mark.parametrize("behind_ms", [M, BEHIND_MS - 1, BEHIND_MS])
@pytest.mark.parametrize("since_ms", [CLOCK_MS, CLOCK_MS + 12_345, CLOCK_MS + 299_999])
def test_feedback_waits_for_its_prediction_until_the_events_have_been_silent_for_as_long_as_makes_idle(
    since_ms: int, behind_ms: int
) -> None:
    labels = '    labels: {task: binary, classes: ["0", "1"]}\n    feedback: {complaint: {usual: 0.1}}\n'
    plan = plan_of(f"models:\n  alpha:\n    pane: 1m\n    features: {{}}\n{labels}", chunk_size=64)
    idle_ms = plan.models["alpha"].config.idle_ms
    if behind_ms >= BEHIND_MS:
        idle_ms = max(idle_ms, MAX_WAIT_MS)
    found = FeedbackFold(plan, "feedback", 0, None, since_ms, JoinFold(plan, "labels", 0, MemoryStore(), since_ms))
    row = {"model": "alpha", "ts": since_ms - behind_ms, "kind": "complaint", "event_id": "never"}
    found.take(Records(range(1), [STAMP_MS], [json.dumps(row).encode()]), since_ms)
    assert found.awaits_events == (behind_ms >= BEHIND_MS)
    for silent_ms in (None, 0, idle_ms - 1, idle_ms):
        found.events_caught_up_ms = None if silent_ms is None else since_ms + silent_ms
        panes = [one for one in found.publish(since_ms, caught_up=True).partials if isinstance(one, PanePartial)]
        assert len(panes) == (silent_ms == idle_ms)
