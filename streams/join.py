"""Predictions and labels of one source partition → what the predictions were worth.

The outcome of a prediction is that of its latest label, so everything here is a function of the set of predictions and
labels, whatever the order in which the two topics are read. Rows, sketches, books and the offsets that they cover are
written to the store at once; a store that is gone is rebuilt by reading both topics again.

Two clocks: a *cohort* is the predictions of one span, as their labels come and are corrected. An *arrival* pane is the
labels that came in one pane, and has two views: what had come when it was judged, and what still stands. A label
arrives at the highest label time that its partition has shown, so no label is ever too late.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import astuple

from streams.config import MAX_VERSION, OTHER, bucket_of
from streams.decode import Rows
from streams.duration import HOUR_MS
from streams.errors import UNREADABLE
from streams.labels import Label, read_labels
from streams.panes import NO_MARK
from streams.partial import Cell, CellKey, LabelBooks, LabelBooksPart, LabelBooksPartial, OutcomePartial, PanePart
from streams.plan import ModelPlan, Plan
from streams.records import Records, RejectedRecord
from streams.sketch.counts import Counts
from streams.sketch.outcomes import CHANGES, JOINED, PREDICTIONS, RECEIVED, Index, OutcomeLayout, Prediction, class_text
from streams.sketch.profile import Profile
from streams.store import Store

MAX_PENDING = 100_000
"""Labels of a partition that wait for their prediction; beyond that one is an orphan at once."""
MAX_HISTORY = 16
"""Labels of one event id; further ones are rejected."""
TOO_MANY_LABELS = "too_many_labels"
LONGEST_KEY = 64
FORMAT = 1
"""Of what the store holds: with another number it is rebuilt."""


class View(IntEnum):
    """Which sum of outcomes a cell belongs to."""

    COHORT = 0
    ARRIVED = 1
    STANDING = 2


class Entry(msgspec.Struct, array_like=True, gc=False):
    """A label as it is remembered. `joined`: it has met a prediction."""

    offset: int
    arrival_ms: int
    model: str
    label: float | str | bool | None
    joined: bool = False


class Row(msgspec.Struct, array_like=True, gc=False):
    """All that is known of one event id; models may share ids."""

    predictions: list[Prediction]
    labels: list[Entry]


class Covered(msgspec.Struct, array_like=True):
    """The next offsets of both topics: what the store holds is the fold of everything before them."""

    inference: int = 0
    labels: int = 0


class _Meta(msgspec.Struct):
    plan: str = ""
    covered: Covered = msgspec.field(default_factory=Covered)
    marks_ms: dict[str, int] = {}
    label_mark_ms: int = NO_MARK
    versions: dict[str, list[str]] = {}
    books: dict[str, LabelBooks] = {}
    pending: int = 0
    expired_hour: int = -(2**40)
    sequence: int = 0


Place = tuple[View, str, int]
"""View, model, and start of the cohort or the pane."""
_Group = tuple[View, str, int, str, tuple[int, ...]]
"""View, model, start, version and segments: what the cells of a prediction follow from."""
_Outcome = tuple[_Group, Prediction, Any, int, int]
"""Group, prediction, label, delay, and +1 or -1."""

_META, _CELLS, _EXPIRY = b"m", b"c", b"x"
_pack = msgspec.msgpack.Encoder().encode
_row = msgspec.msgpack.Decoder(Row).decode
_cells = msgspec.msgpack.Decoder(list[Cell]).decode
_place = msgspec.msgpack.Decoder(tuple[int, str, int]).decode
_meta = msgspec.msgpack.Decoder(_Meta).decode
_ids = msgspec.msgpack.Decoder(list[bytes]).decode


class JoinFold:
    """The state of one source partition; `store` keeps what memory need not."""

    def __init__(self, plan: Plan, topic: str, partition: int, store: Store, clock_ms: int) -> None:
        self.plan, self.topic, self.partition, self.store = plan, topic, partition, store
        self.models = {name: model for name, model in plan.models.items() if model.outcomes is not None}
        self._sole = next(iter(self.models)) if len(self.models) == 1 else ""
        self.meta = self._restored(_digest(self.models.values()))
        self.cells: dict[Place, dict[CellKey, Index]] = {}
        for key, value in store.scan(_CELLS):
            view, model, start_ms = _place(key[1:])
            vectors = {cell.key: Profile.from_bytes(cell.profile).counts.dense().copy() for cell in _cells(value)}
            self.cells[View(view), model, start_ms] = vectors
        self.rebuilding = False
        """Less is covered than has been published: nothing is published until both topics have been read."""
        self.caught_up = False
        """No label was left to read."""
        self.unread_until_ms = NO_MARK
        """No label before this time is left to read, where the reader can tell."""
        self.seen_at_ms = clock_ms
        self._rows: dict[bytes, Row] = {}
        self._dirty: set[bytes] = set()
        self._new: dict[int, list[bytes]] = {}
        self._unpublished: set[Place] = set(self.cells)
        self._over_before_ms = NO_MARK
        self._dropped: set[Place] = set()
        """Cells that were published and can't change any more: the next commit takes them out of the store."""
        self._outcomes: dict[str, list[_Outcome]] = {}
        self._sums: Counter[tuple[_Group, int]] = Counter()
        """By group and slot how much has come."""

    def _restored(self, plan: str) -> _Meta:
        """What the store knows; nothing if it was filled under another plan: then the topics are read again."""
        (found,) = self.store.get_many([_META])
        try:
            meta = _meta(found) if found else _Meta(plan=plan)
        except UNREADABLE:
            meta = _Meta()
        if meta.plan != plan:
            stale = [key for key, _ in self.store.scan(b"")]
            self.store.write(dict.fromkeys(stale))
            meta = _Meta(plan=plan)
        return meta

    @property
    def end_offset(self) -> int:
        return self.meta.covered.inference + self.meta.covered.labels

    @property
    def reached_ms(self) -> int:
        """The highest event time of the predictions."""
        return max(self.meta.marks_ms.values(), default=NO_MARK)

    # Predictions

    def take_predictions(self, model: str, rows: Rows, offsets: Sequence[int]) -> Rows:
        """Remembers predictions; gives the rows without those whose event id was seen before at another offset."""
        plan = self.models.get(model)
        if plan is None:
            return rows
        keys = [_key(row.event_id) for row in rows.rows]
        self._load(keys)
        mark, covered = self.meta.marks_ms.get(model, NO_MARK), self.meta.covered.inference
        grace_ms, lateness_ms = plan.config.grace_ms, plan.config.lateness_ms
        segments = _Segments(plan)
        kept: list[int] = []
        for at, (key, row, time_ms) in enumerate(zip(keys, rows.rows, rows.times_ms.tolist(), strict=True)):
            known = self._rows.get(key)
            if known is not None:
                first = next((given.offset for given in known.predictions if given.model == model), offsets[at])
                if first != offsets[at]:
                    continue  # a duplicate
            kept.append(at)
            if offsets[at] < covered:
                continue  # read again after a restart
            mark = max(mark, time_ms)
            if mark - time_ms <= lateness_ms:
                version = self._version(plan, row.model_version)
                on_time = mark - time_ms <= grace_ms
                places = segments.places(row.segments)
                given = Prediction(model, offsets[at], time_ms, on_time, version, places, row.score, row.prediction)
                self._remember(plan, key, known, given)
        self.meta.marks_ms[model] = mark
        return rows if len(kept) == len(keys) else _only(rows, kept)

    def _load(self, keys: Iterable[bytes]) -> None:
        missing = [key for key in dict.fromkeys(keys) if key not in self._rows]
        for key, value in zip(missing, self.store.get_many(missing), strict=True):
            if value is not None:
                self._rows[key] = _row(value)

    def _remember(self, plan: ModelPlan, key: bytes, row: Row | None, given: Prediction) -> None:
        if row is None:
            row = self._rows[key] = Row([], [])
        row.predictions.append(given)
        self._dirty.add(key)
        self._expire_at(given.ts_ms, key)
        if given.on_time:
            cohort = plan.cohort_start(given.ts_ms)
            self._sums[(View.COHORT, given.model, cohort, given.version, given.segments), PREDICTIONS] += 1
        current: Entry | None = None
        for entry in row.labels:
            if _belongs(plan, given, entry):
                if not entry.joined:
                    self._books(entry.model or self._sole).forget_pending()
                    self.meta.pending -= 1
                    entry.joined = True
                current = self._join(plan, given, current, entry)

    def _version(self, plan: ModelPlan, version: str) -> str:
        """The version, or the bucket of those beyond the cap: by the order of the log."""
        known = self.meta.versions.setdefault(plan.name, list(plan.config.versions))
        if version not in known:
            if len(known) >= plan.config.max_versions or len(version) > MAX_VERSION:
                return OTHER
            known.append(version)
        return version

    # Labels

    def take_labels(self, records: Records, clock_ms: int) -> list[RejectedRecord]:
        limits = self.plan.config.limits
        labels, rejects = read_labels(
            records.values,
            records.stamps_ms,
            records.headers,
            max_record_bytes=limits.max_record_bytes,
            future_ms=limits.future_ms,
        )
        self.seen_at_ms = clock_ms
        keys = [_key(label.event_id) for _, label in labels]
        self._load(keys)
        for (index, label), key in zip(labels, keys, strict=True):
            if records.offsets[index] >= self.meta.covered.labels:
                self._take(key, label, records.offsets[index])
        for reject in rejects:
            if records.offsets[reject.index] >= self.meta.covered.labels:
                self._books(self._known(reject.model) or self._sole).reject(reject.reason)
        self.meta.covered.labels = max(self.meta.covered.labels, records.offsets[-1] + 1)
        return [
            RejectedRecord(self.partition, records.offsets[reject.index], records.values[reject.index], reject)
            for reject in rejects
        ]

    def _take(self, key: bytes, label: Label, offset: int) -> None:
        self.meta.label_mark_ms = max(self.meta.label_mark_ms, label.ts_ms)
        entry = Entry(offset, self.meta.label_mark_ms, label.model, label.label)
        self._receive(entry)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row([], [])
        if len(row.labels) >= MAX_HISTORY:
            self._books(self._known(entry.model) or self._sole).reject(TOO_MANY_LABELS)
            return
        before = list(row.labels)
        for given in row.predictions:
            plan = self.models[given.model]
            if _belongs(plan, given, entry):
                entry.joined = True
                self._join(plan, given, self._current(plan, given, before), entry)
        if not entry.joined:
            books = self._books(self._known(entry.model) or self._sole)
            books.read += 1
            if self.meta.pending >= MAX_PENDING:
                books.orphan += 1
                return
            books.pending += 1
            self.meta.pending += 1
        self._dirty.add(key)
        self._expire_at(entry.arrival_ms, key)
        row.labels.append(entry)

    def _receive(self, entry: Entry) -> None:
        plan = self.models.get(entry.model or self._sole)
        if plan is not None:
            version = next(iter(plan.config.versions), "")
            group = (View.ARRIVED, plan.name, plan.pane_start(entry.arrival_ms), version, ())
            self._sums[group, RECEIVED] += 1

    def _known(self, model: str) -> str:
        return model if not model or model in self.models else OTHER

    def _current(self, plan: ModelPlan, given: Prediction, entries: Iterable[Entry]) -> Entry | None:
        """The label that holds after these: the first of those that say the same."""
        current: Entry | None = None
        for entry in entries:
            if _belongs(plan, given, entry):
                current = current if _same(current and current.label, entry.label) else entry
        return current

    def _join(self, plan: ModelPlan, given: Prediction, before: Entry | None, entry: Entry) -> Entry | None:
        """A label meets its prediction; gives the label that holds now."""
        books = self._books(given.model)
        books.read += 1
        pane = plan.pane_start(entry.arrival_ms)
        # A prediction that is read after its label's pane may have been judged has no part in the judgement.
        in_time = given.on_time and given.ts_ms < pane + plan.config.pane_ms
        if in_time:
            self._sums[(View.ARRIVED, given.model, pane, given.version, given.segments), JOINED] += 1
        if _same(before.label if before else None, entry.label):
            books.duplicate += 1
            return before
        books.matched += 1
        cohort = plan.cohort_start(given.ts_ms)
        cohort_group: _Group = (View.COHORT, given.model, cohort, given.version, given.segments)
        self._sums[cohort_group, CHANGES] += 1
        if before is not None and before.label is not None:
            books.corrected += 1
            self._outcome(cohort_group, given, before, -1)
            if entry.arrival_ms - before.arrival_ms <= plan.config.lateness_ms:
                self._change(View.STANDING, plan.pane_start(before.arrival_ms), given, before, -1)
        if entry.label is not None:
            self._outcome(cohort_group, given, entry, 1)
            if given.ts_ms - entry.arrival_ms <= plan.config.lateness_ms:
                self._change(View.STANDING, pane, given, entry, 1)
                if in_time:
                    self._change(View.ARRIVED, pane, given, entry, 1)
        return entry

    def _change(self, view: View, start_ms: int, given: Prediction, entry: Entry, sign: int) -> None:
        """An outcome of an arrival pane, whose changes are counted: they number its revisions."""
        group = (view, given.model, start_ms, given.version, given.segments)
        self._sums[group, CHANGES] += 1
        self._outcome(group, given, entry, sign)

    def _outcome(self, group: _Group, given: Prediction, entry: Entry, sign: int) -> None:
        delay_ms = max(0, entry.arrival_ms - given.ts_ms)
        self._outcomes.setdefault(given.model, []).append((group, given, entry.label, delay_ms, sign))

    def _books(self, model: str) -> LabelBooks:
        return self.meta.books.setdefault(model, LabelBooks())

    def _expire_at(self, time_ms: int, key: bytes) -> None:
        self._new.setdefault(time_ms // HOUR_MS, []).append(key)

    # Writing

    def commit(self, next_inference: int) -> None:
        """Everything since the last commit, to the store at once. `next_inference`: the next offset of that topic."""
        self.meta.covered.inference = max(self.meta.covered.inference, next_inference)
        changed = self._summed()
        changes: dict[bytes, bytes | None] = {key: _pack(self._rows[key]) for key in self._dirty}
        for hour, keys in self._new.items():
            self.meta.sequence += 1
            changes[_EXPIRY + _ordered(hour) + _ordered(self.meta.sequence)] = _pack(keys)
        changes |= self._expired()
        changes |= {_cells_key(place): self._packed(place) for place in changed | self._dropped}
        changes[_META] = _pack(self.meta)
        self.store.write(changes)
        self._unpublished |= changed
        self._rows, self._new, self._dirty, self._dropped = {}, {}, set(), set()

    def _packed(self, place: Place) -> bytes | None:
        return _pack(_to_cells(self.cells[place])) if place in self.cells else None

    def _summed(self) -> set[Place]:
        """Adds what has come to the cells; gives the places that changed."""
        changed: set[Place] = set()
        for (group, slot), amount in self._sums.items():
            for vector in self._vectors(group, changed):
                vector[slot] += amount
        for model, outcomes in self._outcomes.items():
            delays_ms = np.array([outcome[3] for outcome in outcomes], np.int64)
            joined, labels = [outcome[1] for outcome in outcomes], [outcome[2] for outcome in outcomes]
            slots, amounts = _layout(self.models[model]).contributions(joined, labels, delays_ms)
            amounts = amounts * np.array([outcome[4] for outcome in outcomes], np.int64)
            members: dict[_Group, list[int]] = {}
            for at, outcome in enumerate(outcomes):
                members.setdefault(outcome[0], []).append(at)
            for group, columns in members.items():
                for vector in self._vectors(group, changed):
                    np.add.at(vector, slots[:, columns], amounts[:, columns])
        self._sums, self._outcomes = Counter(), {}
        return changed

    def _vectors(self, group: _Group, changed: set[Place]) -> Iterator[Index]:
        """Of every cell that a prediction of the group falls in."""
        view, model, start_ms, version, segments = group
        plan, place = self.models[model], (view, model, start_ms)
        changed.add(place)
        cells = self.cells.setdefault(place, {})
        for key in _cells_of(plan, version, segments):
            vector = cells.get(key)
            if vector is None:
                vector = cells[key] = np.zeros(_layout(plan).length, np.int64)
            yield vector

    def _expired(self) -> dict[bytes, bytes | None]:
        """Forgets rows that nothing can change any more; a label that never met a prediction is an orphan."""
        if self.reached_ms == NO_MARK:
            return {}
        # While labels are still to be read, however old, their predictions wait for them.
        labels_ms = self.reached_ms if self.caught_up else max(self.meta.label_mark_ms, self.unread_until_ms)
        limit_ms = min(self.reached_ms, labels_ms) - max(model.horizon_ms for model in self.models.values())
        self._over_before_ms = limit_ms
        if limit_ms // HOUR_MS <= self.meta.expired_hour:
            return {}
        self.meta.expired_hour = limit_ms // HOUR_MS
        gone: dict[bytes, bytes | None] = {}
        for index, value in self.store.scan(_EXPIRY):
            if index >= _EXPIRY + _ordered(self.meta.expired_hour):
                break
            gone[index] = None
            keys = _ids(value)
            self._load(keys)
            for key in keys:
                row = self._rows.get(key)
                if row is not None and key not in gone and _is_over(row, limit_ms):
                    gone[key] = None
                    self._orphan(row)
        return gone

    def _orphan(self, row: Row) -> None:
        for entry in row.labels:
            if not entry.joined:
                books = self._books(self._known(entry.model) or self._sole)
                books.pending -= 1
                books.orphan += 1
                self.meta.pending -= 1

    # Publishing

    def partials(self, clock_ms: int, *, final: bool) -> list[OutcomePartial | LabelBooksPartial]:
        """Sketches that changed since the last publication, then the books. `commit` comes before."""
        buckets: dict[tuple[bool, int, int], set[str]] = {}
        for view, model, start_ms in self._unpublished:
            if (view, model, start_ms) in self.cells:
                place = (view is View.COHORT, start_ms, self._bucket(model))
                buckets.setdefault(place, set()).add(model)
        self._unpublished = set()
        found: list[OutcomePartial | LabelBooksPartial] = [
            OutcomePartial(
                self.topic,
                self.partition,
                cohort,
                self.end_offset,
                bucket,
                start_ms,
                # All models of the bucket: the record replaces the one before as a whole.
                [part for m in self.models if self._bucket(m) == bucket and (part := self._part(m, cohort, start_ms))],
            )
            for cohort, start_ms, bucket in sorted(buckets)
        ]
        self._drop()
        return [*found, *self._books_partials(clock_ms, final)]

    def _drop(self) -> None:
        """Lets go of cells that nothing can change any more; all of them are published."""
        for view, model, start_ms in list(self.cells):
            plan, mark = self.models[model], self.meta.marks_ms.get(model, NO_MARK)
            reach_ms = plan.horizon_ms + plan.cohort_ms if view is View.COHORT else 2 * plan.config.lateness_ms
            if start_ms + reach_ms < min(self._over_before_ms, mark - plan.horizon_ms):
                del self.cells[view, model, start_ms]
                self._dropped.add((view, model, start_ms))

    def _part(self, model: str, cohort: bool, start_ms: int) -> PanePart | None:
        """None where the model has nothing, or nothing any more."""
        views = (View.COHORT,) if cohort else (View.ARRIVED, View.STANDING)
        if not any((view, model, start_ms) in self.cells for view in views):
            return None
        cells = [_to_cells(self.cells.get((view, model, start_ms), {})) for view in views]
        return PanePart(model, _layout(self.models[model]).digest, cells[0], cells[-1])

    def _books_partials(self, clock_ms: int, final: bool) -> list[LabelBooksPartial]:
        buckets: dict[int, list[LabelBooksPart]] = {}
        for model in dict.fromkeys([*self.models, *self.meta.books]):
            part = LabelBooksPart(model, self.meta.books.get(model, LabelBooks()))
            buckets.setdefault(self._bucket(model), []).append(part)
        mark = max(self.meta.label_mark_ms, self.unread_until_ms)
        return [
            LabelBooksPartial(
                self.topic,
                self.partition,
                self.end_offset,
                bucket,
                clock_ms,
                self.seen_at_ms,
                mark if mark != NO_MARK else None,
                self.caught_up,
                final,
                parts,
            )
            for bucket, parts in buckets.items()
        ]

    def _bucket(self, model: str) -> int:
        return bucket_of(model, self.plan.config.kafka.buckets)


class _Segments:
    """Segments of a row → positions of their values."""

    def __init__(self, plan: ModelPlan) -> None:
        self._positions = [{value: i for i, value in enumerate(values)} for _, values in plan.segmentation.dimensions]
        self._none = tuple(len(positions) for positions in self._positions)

    def places(self, segments: Any) -> tuple[int, ...]:
        if segments is None or not self._positions:
            return self._none
        pairs = zip(self._positions, astuple(segments), strict=False)
        return tuple(positions.get(value, len(positions)) for positions, value in pairs)


def _cells_of(plan: ModelPlan, version: str, segments: tuple[int, ...]) -> Iterator[CellKey]:
    """The whole of a version, and the segments at these positions; without positions the whole alone."""
    yield version, "", ""
    for (name, values), place in zip(plan.segmentation.dimensions, segments, strict=False):
        yield version, name, values[place] if place < len(values) else OTHER


def _digest(plans: Iterable[ModelPlan]) -> str:
    """Two plans with one digest mean the same by everything that is stored."""
    said = [(p.name, _layout(p).digest, p.segmentation, p.horizon_ms, p.cohort_ms, p.config.pane_ms) for p in plans]
    return hashlib.blake2b(msgspec.json.encode([FORMAT, said]), digest_size=8).hexdigest()


def _layout(plan: ModelPlan) -> OutcomeLayout:
    assert plan.outcomes is not None
    return plan.outcomes


def _belongs(plan: ModelPlan, given: Prediction, entry: Entry) -> bool:
    """A label further than the horizon from a prediction is none of it, whatever is still remembered."""
    return entry.model in ("", given.model) and abs(entry.arrival_ms - given.ts_ms) <= plan.horizon_ms


def _same(left: Any, right: Any) -> bool:
    return left is right if left is None or right is None else class_text(left) == class_text(right)


def _is_over(row: Row, limit_ms: int) -> bool:
    times = (*(given.ts_ms for given in row.predictions), *(entry.arrival_ms for entry in row.labels))
    return max(times, default=limit_ms - 1) < limit_ms


def _only(rows: Rows, kept: Sequence[int]) -> Rows:
    places = {old: new for new, old in enumerate(kept)}
    extras = [(places[at], name) for at, name in rows.extras if at in places]
    return Rows(rows.indices[kept], [rows.rows[at] for at in kept], rows.times_ms[kept], extras)


def _key(event_id: str) -> bytes:
    raw = event_id.encode("utf-8", "surrogatepass")
    return b"p" + raw if len(raw) <= LONGEST_KEY else b"h" + hashlib.blake2b(raw, digest_size=24).digest()


def _ordered(number: int) -> bytes:
    return (number + 2**63).to_bytes(8, "big")


def _cells_key(place: Place) -> bytes:
    view, model, start_ms = place
    return _CELLS + _pack((int(view), model, start_ms))


def _to_cells(cells: Mapping[CellKey, Index]) -> list[Cell]:
    return [Cell(*key, Profile(Counts.of(vector.copy())).to_bytes()) for key, vector in cells.items()]
