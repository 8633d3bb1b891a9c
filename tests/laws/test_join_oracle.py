"""The label join against a plain computation: every view of the outcomes, the books, and what its store may hold.

The plain computation reads both logs once, as a whole, and shares no code with the join but the slots that an outcome
adds to. The join reads them in any interleaving, with crashes that read records again and with lost stores.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.join import fold, histories
from streams.join.cells import View
from streams.join.fold import TOO_MANY_LABELS
from streams.join.histories import Entry, History, keys_of
from streams.partial import Cell, LabelBooks, LabelBooksPartial
from streams.sketch.outcomes import CHANGES, JOINED, PREDICTIONS, RECEIVED, Prediction
from streams.sketch.profile import Profile
from tests.join_cases import HORIZON_MS, PLAN, Event, Reader, Told, logs
from tests.plain_time import PlainTime, without_votes
from tests.strategies import CLOCK_MS, MINUTE_MS, START_MS

HOUR_MS = 60 * MINUTE_MS
FAR_MS = START_MS + 10 * 24 * HOUR_MS
OTHER = "__other__"
decode_history = msgspec.msgpack.Decoder(History).decode
decode_keys = msgspec.msgpack.Decoder(list[bytes]).decode
decode_cells = msgspec.msgpack.Decoder(list[Cell]).decode
decode_place = msgspec.msgpack.Decoder(tuple[int, str, int]).decode


@pytest.fixture(autouse=True, scope="module")
def _few_records() -> Iterator[None]:
    with without_votes():
        yield


@dataclass(frozen=True)
class NoLabel:
    """A record of the labels topic that is rejected."""

    value: bytes
    reason: str
    model: str = ""
    """The model that it names, so far as that can be read."""


NO_LABELS = (
    NoLabel(b"{", "bad_json"),
    NoLabel(json.dumps({"event_id": "1", "model": "alpha", "label_ts": START_MS}).encode(), "missing_field", "alpha"),
    NoLabel(json.dumps({"event_id": "1", "model": "beta", "label": 1, "label_ts": "?"}).encode(), "wrong_type", "beta"),
    NoLabel(json.dumps({"event_id": "1", "model": "gamma", "label_ts": START_MS}).encode(), "missing_field", "gamma"),
)
Label = Told | NoLabel


@st.composite
def logs_with_rejects(draw: st.DrawFn) -> tuple[list[Event], list[Label]]:
    events, told = draw(logs())
    versions = st.sampled_from(["v0", "v0", "v1", "v2", "v3"])
    events = [replace(event, version=draw(versions)) for event in events]
    labels: list[Label] = list(told)
    for rejected in draw(st.lists(st.sampled_from(NO_LABELS), max_size=4)):
        labels.insert(draw(st.integers(0, len(labels))), rejected)
    return events, labels


@st.composite
def near_logs(draw: st.DrawFn) -> tuple[list[Event], list[Label]]:
    """All within an hour, and few event ids: many labels of one prediction, and nothing is evicted."""
    near = st.integers(0, 59).map(lambda minute: START_MS + minute * MINUTE_MS)
    few = st.integers(0, 2).map(str)
    events = [
        Event(draw(few), draw(st.sampled_from(["alpha", "beta"])), draw(near), "north", 0.5)
        for _ in range(draw(st.integers(0, 6)))
    ]
    labels: list[Label] = [
        Told(
            draw(few),
            draw(st.sampled_from([0.0, 1.0, None])),
            draw(near),
            draw(st.sampled_from(["", "alpha", "gamma"])),
        )
        for _ in range(draw(st.integers(0, 14)))
    ]
    return events, labels


# --- The plain computation


@dataclass
class Plain:
    """Outcomes by view, start and cell, and books by model, of both logs as a whole."""

    cells: dict[Any, Any] = field(default_factory=dict)
    books: dict[str, LabelBooks] = field(default_factory=dict)
    versions: dict[str, list[str]] = field(default_factory=dict)
    repeats: set[int] = field(default_factory=set)
    """Offsets of events whose id was there before."""

    def book(self, model: str) -> LabelBooks:
        name = model if model in ("", "alpha", "beta") else OTHER
        return self.books.setdefault(name, LabelBooks())

    def version(self, event: Event) -> str:
        """The first versions of a model have cells of their own, by the order of the log."""
        known = self.versions.setdefault(event.model, ["v0"] if event.model == "alpha" else [])
        if event.version not in known and len(known) < PLAN.models[event.model].config.max_versions:
            known.append(event.version)
        return event.version if event.version in known else OTHER

    def add(self, view: View, event: Event, start_ms: int, slot: int, amount: int = 1) -> None:
        for vector in self.vectors(view, event, start_ms):
            vector[slot] += amount

    def vectors(self, view: View, event: Event, start_ms: int) -> list[Any]:
        region = "north" if event.region == "north" else OTHER
        version = self.version(event)
        keys = [(version, "", "")] + ([(version, "region", region)] if event.model == "alpha" else [])
        return [self.vector(view, event.model, start_ms, key) for key in keys]

    def vector(self, view: View, model: str, start_ms: int, key: tuple[str, str, str]) -> Any:
        layout = PLAN.models[model].outcomes
        assert layout is not None
        return self.cells.setdefault(((view, model, start_ms), key), np.zeros(layout.length, np.int64))

    def outcome(self, event: Event, label: float, delay_ms: int, sign: int, places: Sequence[tuple[View, int]]) -> None:
        layout = PLAN.models[event.model].outcomes
        assert layout is not None
        prediction = Prediction(event.model, 0, event.ts_ms, True, "v0", (), event.score, None)
        slots, amounts = layout.contributions([prediction], [label], np.array([max(0, delay_ms)]))
        for view, start_ms in places:
            for vector in self.vectors(view, event, start_ms):
                np.add.at(vector, slots[:, 0], sign * amounts[:, 0])
                vector[CHANGES] += 1


def plainly(events: Sequence[Event], labels: Sequence[Label], most_labels: int = 16) -> Plain:
    plain = Plain()
    waiting = labels_in_order(plain, labels, most_labels)
    times = {name: PlainTime(model.config.grace_ms) for name, model in PLAN.models.items()}
    first: set[tuple[str, str]] = set()
    joined: set[int] = set()
    for offset, event in enumerate(events):
        config = PLAN.models[event.model].config
        if (event.model, event.event_id) in first:
            plain.repeats.add(offset)
            # A repeat moves no stream time: it is as if it were not there.
            continue
        late_ms = times[event.model].after(event.ts_ms) - event.ts_ms
        if late_ms <= config.lateness_ms:
            first.add((event.model, event.event_id))
            joined |= join(plain, event, late_ms <= config.grace_ms, waiting)
    for at, told, _ in waiting:
        if at not in joined:
            books = plain.book(told.model)
            books.read, books.orphan = books.read + 1, books.orphan + 1
    return plain


def labels_in_order(plain: Plain, labels: Sequence[Label], most_labels: int) -> list[tuple[int, Told, int]]:
    """Offset, label and time of arrival of those that are remembered; counts the others, and what is received."""
    time, found = PlainTime(max(model.config.grace_ms for model in PLAN.models.values())), []
    of_id: Counter[str] = Counter()
    for at, told in enumerate(labels):
        if isinstance(told, NoLabel):
            plain.book(told.model).reject(told.reason)
            continue
        arrival_ms = max(told.ts_ms, time.after(told.ts_ms))
        if told.model in PLAN.models:
            pane_ms = PLAN.models[told.model].config.pane_ms
            version = "v0" if told.model == "alpha" else ""
            start_ms = arrival_ms // pane_ms * pane_ms
            plain.vector(View.ARRIVED, told.model, start_ms, (version, "", ""))[RECEIVED] += 1
        of_id[told.event_id] += 1
        if of_id[told.event_id] > most_labels:
            plain.book(told.model).reject(TOO_MANY_LABELS)
        else:
            found.append((at, told, arrival_ms))
    return found


def join(plain: Plain, event: Event, on_time: bool, labels: Sequence[tuple[int, Told, int]]) -> set[int]:
    """Counts a prediction and its labels in the order of their topic; the offsets of the labels."""
    plan, books, offsets = PLAN.models[event.model], plain.book(event.model), set()
    pane_ms, lateness_ms, cohort_ms = plan.config.pane_ms, plan.config.lateness_ms, plan.cohort_start(event.ts_ms)
    plain.add(View.COHORT, event, cohort_ms, PREDICTIONS, on_time)
    holds: tuple[float, int] | None = None
    said: float | None = None
    for at, told, arrival_ms in labels:
        near = abs(arrival_ms - event.ts_ms) <= HORIZON_MS
        if told.event_id != event.event_id or told.model not in ("", event.model) or not near:
            continue
        offsets.add(at)
        start_ms = arrival_ms // pane_ms * pane_ms
        in_time = on_time and event.ts_ms < start_ms + pane_ms
        stands = event.ts_ms - arrival_ms <= lateness_ms
        plain.add(View.ARRIVED, event, start_ms, JOINED, in_time)
        books.read += 1
        if told.label == said:
            books.duplicate += 1
            continue
        books.matched += 1
        if holds is not None:
            books.corrected += 1
            stood = (
                [(View.STANDING, holds[1] // pane_ms * pane_ms)]
                if max(arrival_ms, event.ts_ms) - holds[1] <= lateness_ms
                else []
            )
            plain.outcome(event, holds[0], holds[1] - event.ts_ms, -1, [(View.COHORT, cohort_ms), *stood])
        said, holds = told.label, None
        if told.label is not None:
            here = [(View.STANDING, start_ms)] if stands else []
            here += [(View.ARRIVED, start_ms)] if stands and in_time else []
            plain.outcome(event, told.label, arrival_ms - event.ts_ms, 1, [(View.COHORT, cohort_ms), *here])
            holds = told.label, arrival_ms
    return offsets


# --- The join, with a look at its store after every commit


class Checked(Reader):
    """A crash reads labels again too, and the store is held to what the fold knows."""

    def __init__(self, events: Sequence[Event], labels: Sequence[Label]) -> None:
        super().__init__(list(events), list(labels))  # type: ignore[arg-type]
        self.kept: dict[int, set[bool]] = {}
        self.books: dict[str, tuple[LabelBooks, int | None]] = {}

    def read_events(self, count: int) -> None:
        for offset in range(self.at[0], min(len(self.events), self.at[0] + count)):
            before = self.duplicates
            super().read_events(1)
            self.kept.setdefault(offset, set()).add(self.duplicates == before)

    def crash(self, back: int) -> None:
        super().crash(back)
        self.at[1] = max(0, self.at[1] - back)

    def commit(self) -> None:
        self.fold.commit(self.at[0], CLOCK_MS)
        self.check_store()
        sent = len(self.sent)
        super().commit()
        for partial in self.sent[sent:]:
            if isinstance(partial, LabelBooksPartial):
                self.books |= {part.model: (part.books, part.mark_ms) for part in partial.models}
        if not self.fold.is_behind:
            marks = {name: self.fold.meta.marks_ms.get(name) for name in self.fold.meta.books}
            assert {
                name: (books, marks[name]) for name, books in self.fold.meta.books.items()
            }.items() <= self.books.items()
        self.books = {
            name: (msgspec.structs.replace(b, rejected=dict(b.rejected)), m) for name, (b, m) in self.books.items()
        }

    def check_store(self) -> None:
        """Whatever is in the store the fold has in memory, or finds again; nothing else is there."""
        kept, lists = self.histories(), dict(self.store.scan(b"x"))
        cells = {key: value for key, value in self.store.scan(b"c")}
        assert len(list(self.store.scan(b""))) == len(kept) + len(lists) + len(cells) + 1
        vectors = {
            (View(view), model, start): by_key
            for key, by_key in cells.items()
            for view, model, start in [decode_place(key[1:])]
        }
        assert vectors.keys() == self.fold.cells.vectors.keys()
        for place, value in vectors.items():
            opened = {
                cell.key: Profile.from_bytes(cell.profile).counts.dense().tolist() for cell in decode_cells(value)
            }
            assert opened == {key: vector.tolist() for key, vector in self.fold.cells.vectors[place].items()}
        listed = {(key, int.from_bytes(at[1:9]) - 2**63) for at, value in lists.items() for key in decode_keys(value)}
        assert len({at[9:] for at in lists}) == len(lists), "every list has a number of its own"
        entries: list[Entry] = []
        for key, history in kept.items():
            assert (key, newest_ms(history) // HOUR_MS) in listed, "it would never be evicted"
            entries += [entry for entry in history.labels if not entry.joined]
        self.check_pending(entries)

    def check_pending(self, waiting: Sequence[Entry]) -> None:
        meta = self.fold.meta
        assert meta.pending == len(waiting)
        if not meta.base.labels:
            assert meta.pending == sum(books.pending for books in meta.books.values())
        assert all(books.balanced() for books in meta.books.values())

    def histories(self) -> dict[bytes, History]:
        return {key: decode_history(value) for prefix in (b"p", b"h") for key, value in self.store.scan(prefix)}


def newest_ms(history: History) -> int:
    return max([given.ts_ms for given in history.predictions] + [entry.arrival_ms for entry in history.labels])


actions = st.lists(
    st.one_of(
        st.tuples(st.just("events"), st.integers(1, 5)),
        st.tuples(st.just("labels"), st.integers(1, 5)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 4)),
        st.tuples(st.just("lose"), st.just(0)),
    ),
    max_size=16,
)


def perform(reader: Checked, schedule: Sequence[tuple[str, int]]) -> None:
    for what, count in schedule:
        if what == "events":
            reader.read_events(count)
        elif what == "labels":
            reader.read_labels(count)
        elif what == "commit":
            reader.commit()
        elif what == "crash":
            reader.crash(count)
        elif reader.sent:
            reader.lose()
    reader.finish()


def check(reader: Checked, plain: Plain) -> None:
    cells, books = reader.found()
    assert cells == {place: vector.tolist() for place, vector in plain.cells.items() if vector.any()}
    assert books == {name: found for name, found in plain.books.items() if found.read}
    for offset, decisions in reader.kept.items():
        assert decisions == {offset not in plain.repeats}, offset


@settings(max_examples=300)
@given(logs_with_rejects(), actions)
def test_every_view_and_the_books_are_those_of_the_plain_computation(
    both: tuple[list[Event], list[Label]], schedule: list[tuple[str, int]]
) -> None:
    reader = Checked(*both)
    perform(reader, schedule)
    check(reader, plainly(*both))


@settings(max_examples=100)
@given(near_logs(), actions)
def test_labels_beyond_the_most_of_one_event_id_are_rejected_once(
    both: tuple[list[Event], list[Label]], schedule: list[tuple[str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "MAX_HISTORY", 3)
        reader = Checked(*both)
        perform(reader, schedule)
        check(reader, plainly(*both, most_labels=3))


@settings(max_examples=60)
@given(logs_with_rejects(), actions, st.booleans())
def test_nothing_of_the_past_stays_in_the_store_when_its_horizon_is_over(
    both: tuple[list[Event], list[Label]], schedule: list[tuple[str, int]], slowly: bool
) -> None:
    """All keys are evicted that only past records need, also by a few at a time; and every label is accounted for."""
    reader = Checked(*both)
    with pytest.MonkeyPatch.context() as patch:
        if slowly:
            patch.setattr(histories, "MAX_LISTED", 1)
            patch.setattr(histories, "EXPIRY_PACE", 1)
        perform(reader, schedule)
        reader.events += [Event("last", "alpha", FAR_MS, "north", 0.5), Event("last", "beta", FAR_MS, None, 0.5)]
        reader.labels.append(Told("last", 1.0, FAR_MS))
        reader.finish()
        for _ in range(2 + slowly * (len(reader.events) + len(reader.labels))):
            reader.commit()
    assert reader.histories().keys() == set(keys_of(["last"]))
    assert all(set(decode_keys(value)) == set(keys_of(["last"])) for _, value in reader.store.scan(b"x"))
    places = [decode_place(key[1:]) for key, _ in reader.store.scan(b"c")]
    assert places and all(start_ms > FAR_MS - 24 * HOUR_MS for _, _, start_ms in places)
    assert reader.fold.meta.pending == 0
    if not reader.fold.meta.base.labels:
        assert all(books.pending == 0 for books in reader.fold.meta.books.values())


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20))
def test_a_label_is_an_orphan_at_once_where_too_many_wait(steps: list[tuple[int, bool]]) -> None:
    """Labels and predictions in turn: what waits is a set of at most two labels, which a prediction takes out of it."""
    waiting: Counter[int] = Counter()
    met: Counter[int] = Counter()
    """Labels by the number of their prediction, which has been made."""
    orphans = 0
    told = [Told(str(number), 1.0, START_MS) for number, is_label in steps if is_label]
    events = [Event(str(number), "alpha", START_MS, None, 0.5) for number, is_label in steps if not is_label]
    reader = Checked(events, told)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "MAX_PENDING", 2)
        for number, is_label in steps:
            if not is_label:
                reader.read_events(1)
                met[number] += waiting.pop(number, 0)
            else:
                reader.read_labels(1)
                if number in met:
                    met[number] += 1
                elif waiting.total() < 2:
                    waiting[number] += 1
                else:
                    orphans += 1
            reader.commit()
    total = LabelBooks()
    for books in reader.fold.meta.books.values():
        total = total.merged(books)
    matched = sum(count > 0 for count in met.values())
    expected = (len(told), matched, met.total() - matched, orphans, waiting.total())
    assert (total.read, total.matched, total.duplicate, total.orphan, total.pending) == expected
