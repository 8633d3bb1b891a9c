"""Predictions and labels of one source partition → what the predictions were worth.

The outcome of a prediction is that of its latest label, so everything here is a function of the set of predictions and
labels, whatever the order in which the two topics are read. Histories, sketches, books and the offsets that they cover
are written to the store at once; a store that is gone is rebuilt by reading both topics again.

A label arrives at its own time, or at the stream time of its partition's labels if that is later, so no label is ever
too late.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, islice, repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streams.arrays import Ints
from streams.batch import Parts
from streams.cells import numbered
from streams.chunk import FULL_BEATS
from streams.config import MAX_VERSION, OTHER, bucket_of
from streams.decode import Rows
from streams.errors import UNREADABLE
from streams.fingerprint import counted, outcomes_print
from streams.join.cells import OutcomeCells, Place, View, layout_of
from streams.join.histories import Entry, Histories, History, keys_of
from streams.labels import Label, read_labels
from streams.panes import NO_MARK, Timeliness, timeliness
from streams.parking import Parking, Phase
from streams.partial import LabelBooks, LabelBooksPart, LabelBooksPartial, OutcomePartial
from streams.plan import ModelPlan, Plan
from streams.position import generation_of
from streams.records import Records, RejectedRecord
from streams.replaying import BEHIND_MS
from streams.resume import SourceLog
from streams.sketch.outcomes import PREDICTIONS, RECEIVED, Prediction, class_text
from streams.store import Changes, Store
from streams.stream_time import LIVE_MS, PAUSE_MS, StreamTime

MAX_PENDING = 100_000
"""Labels of a partition that wait for their prediction; beyond that one is an orphan at once."""
MAX_HISTORY = 16
"""Labels of one event id; further ones are rejected."""
TOO_MANY_LABELS = "too_many_labels"
REMEMBERED = 60
"""Moments within the patience."""
MAX_CLEARED = 50_000
"""Keys that are deleted at once."""
FORMAT = 2
"""Of what the store holds: with another number it is rebuilt."""

_META = b"m"


class Covered(msgspec.Struct, array_like=True):
    """The next offsets of both topics: what the store holds is the fold of everything before them."""

    inference: int = 0
    labels: int = 0


class _Meta(msgspec.Struct):
    plan: str = ""
    covered: Covered = msgspec.field(default_factory=Covered)
    ids: tuple[str, str] = ("", "")
    """Of the topics of inference and of labels, in the generation that is covered."""
    base: Covered = msgspec.field(default_factory=Covered)
    """What lies before both was published by a join whose store is lost: it counts no more, but is remembered."""
    marks_ms: dict[str, int] = {}
    label_mark_ms: int = NO_MARK
    times: dict[str, StreamTime] = {}
    """Of the predictions, whose marks are above. A store of 0.1 has only the marks."""
    label_time: StreamTime | None = None
    versions: dict[str, list[str]] = {}
    books: dict[str, LabelBooks] = {}
    pending: int = 0
    sequence: int = 0


_pack = msgspec.msgpack.Encoder().encode
_meta = msgspec.msgpack.Decoder(_Meta).decode


class _Terms(NamedTuple):
    """What of a model's plan every label asks for."""

    pane_ms: int
    lateness_ms: int
    horizon_ms: int
    cohort_ms: int
    version: str
    """The cell of what is received: the first one declared."""

    @classmethod
    def of(cls, plan: ModelPlan) -> _Terms:
        config = plan.config
        version = next(iter(config.versions), "")
        return cls(config.pane_ms, config.lateness_ms, plan.horizon_ms, plan.cohort_ms, version)


class JoinFold:
    """The state of one source partition; `store` keeps what memory need not."""

    def __init__(
        self,
        plan: Plan,
        topic: str,
        partition: int,
        store: Store,
        clock_ms: int,
        patience_ms: int = 0,
        logs: tuple[SourceLog | None, SourceLog | None] = (None, None),
    ) -> None:
        """`patience_ms`: so long, by the clock, a prediction stays at the least, whatever time the events have reached:
        whoever replays the past in minutes sends its labels minutes later. `logs`: of inference and of labels."""
        self.patience_ms = patience_ms
        self._reached: deque[tuple[int, int]] = deque()
        """By the clock, the event times that were reached lately."""
        self.plan, self.topic, self.partition, self.store = plan, topic, partition, store
        self.models = {name: model for name, model in plan.models.items() if model.outcomes is not None}
        self._terms = {name: _Terms.of(model) for name, model in self.models.items()}
        self._sole = next(iter(self.models)) if len(self.models) == 1 else ""
        self.is_fresh = False
        """Whether the store held nothing that fits."""
        self.meta = self._restored(_digest(self.models.values()), logs)
        self.lost_labels = self._begin(logs)
        """Labels that were gone before they were read, since the store was written."""
        self._logs = logs
        self.parking = Parking()
        """Models whose predictions and labels are not joined any more: their labels wait."""
        self.cells = OutcomeCells(self.models, store, self.parking)
        self._histories = Histories(store, self.meta.sequence)
        self.rebuilding = False
        """Less is covered than has been published: nothing is published until both topics have been read."""
        self.caught_up_ms: int | None = None
        """By the clock, when no label was left to read; None: some are."""
        self.unread_until_ms = NO_MARK
        """No label before this time is left to read, where the reader can tell."""
        self.awaits_labels = False
        """A past is replayed, and its labels may be still to come though none is left to read."""
        self.seen_at_ms = clock_ms
        self._over_before_ms = NO_MARK
        self.read_until_ms: dict[str, int] = {}
        """Per model what its events' fold publishes as its mark, which may be beyond the mark itself."""
        self._grace_ms = max((model.config.grace_ms for model in self.models.values()), default=0)
        self._idle_ms = min((model.config.idle_ms for model in self.models.values()), default=0)
        self._labels_reached_ms = NO_MARK
        """The highest label time that stage 1's clock had reached when it was read."""
        self._touched: set[str] = set()
        """Models of which books or mark have changed since they were published."""
        self._beats = 0
        self._published_marks: dict[str, int | None] = {}

    def _restored(self, plan: str, logs: tuple[SourceLog | None, SourceLog | None]) -> _Meta:
        """What the store knows; nothing if it was filled under another plan, or of other logs: they are read again."""
        (found,) = self.store.get_many([_META])
        try:
            meta = _meta(found) if found else _Meta(plan=plan)
            self.is_fresh = not found
        except UNREADABLE:
            meta = _Meta()
        covered = meta.covered.inference, meta.covered.labels
        fit = [log is None or log.holds(at, known) for log, at, known in zip(logs, covered, meta.ids, strict=True)]
        if meta.plan != plan or not all(fit):
            self._clear()
            meta, self.is_fresh = _Meta(plan=plan), True
        return meta

    def _clear(self) -> None:
        """Deletes all but the meta record: the first commit replaces that."""
        stale = (key for key, _ in self.store.scan(b"") if key != _META)
        while part := list(islice(stale, MAX_CLEARED)):
            self.store.write(dict.fromkeys(part))

    def _begin(self, logs: tuple[SourceLog | None, SourceLog | None]) -> int:
        """Goes on in the logs as they are; how many labels were between what was read and the start of their log."""
        inference, labels = logs
        covered, lost = self.meta.covered, 0
        self._stored = None if self.is_fresh else Covered(covered.inference, covered.labels)
        if inference is not None:
            covered.inference = max(covered.inference, inference.start)
        if labels is not None:
            read = labels.began if self.is_fresh else covered.labels
            if generation_of(read) == labels.generation:
                lost = max(0, labels.start - read)
            covered.labels = max(covered.labels, labels.start)
        inference_id, labels_id = (log.ids[-1] if log and log.ids else "" for log in logs)
        self.meta.ids = (inference_id, labels_id)
        return lost

    # A store that is lost, and logs that do not reach back to their beginning

    @property
    def lacks_published(self) -> bool:
        """Whether the store and the topics together may hold less than was published: the topics have forgotten records
        that the store does not cover, and whoever had this partition since may have read them."""
        if self._stored is None:
            return any(log and (log.generation or log.start > log.began) for log in self._logs)
        stored = self._stored.inference, self._stored.labels
        return any(log and log.start > at for log, at in zip(self._logs, stored, strict=True))

    def _begin_anew(self, covered: tuple[int, int]) -> bool:
        """Whether the store is empty, or was emptied: forgotten records that it does not cover were published."""
        if self._stored is None:
            return True
        stored = self._stored.inference, self._stored.labels
        places = zip(self._logs, stored, covered, strict=True)
        if not any(log and at < min(log.start, published) for log, at, published in places):
            return False
        self._clear()
        self.meta, self.is_fresh = _Meta(plan=self.meta.plan), True
        self._begin(self._logs)
        self.cells = OutcomeCells(self.models, self.store, self.parking)
        self._histories = Histories(self.store, 0)
        return True

    @property
    def is_behind(self) -> bool:
        """Whether less has been read than the publications cover that it goes on from."""
        covered, base = self.meta.covered, self.meta.base
        return covered.inference < base.inference or covered.labels < base.labels

    def go_on_from(self, partials: Iterable[OutcomePartial | LabelBooksPartial]) -> None:
        """Takes what was published of this partition for counted: what is read again of it is remembered alone.

        A store that covers all that was published and forgotten is gone on with instead.
        """
        latest: dict[tuple[type, bool, int, int, bool], OutcomePartial | LabelBooksPartial] = {}
        for partial in partials:
            outcome = isinstance(partial, OutcomePartial)
            pane = (partial.cohort, partial.pane_ms) if isinstance(partial, OutcomePartial) else (False, 0)
            # A heartbeat has no models: it says that the books that were published before cover more.
            place = (OutcomePartial if outcome else LabelBooksPartial, *pane, partial.bucket, bool(partial.models))
            if place not in latest or latest[place].covered <= partial.covered:
                latest[place] = partial
        if not latest:
            return
        covered = max(partial.covered for partial in latest.values())
        if not self._begin_anew(covered):
            return
        labels, before = self._logs[1], self.meta.covered.labels
        self.meta.base = Covered(*covered)
        if labels is not None and generation_of(covered[1]) == labels.generation:
            self.lost_labels = max(0, before - covered[1])
        for partial in latest.values():
            if isinstance(partial, LabelBooksPartial):
                self.meta.books |= {part.model: part.books for part in partial.models}
            else:
                self._seed(partial)
        self.store.write({**self.cells.seeded(), _META: _pack(self.meta)})
        self.is_fresh = False

    def _seed(self, partial: OutcomePartial) -> None:
        for part in partial.models:
            plan = self.models.get(part.model)
            if plan is None or not outcomes_print(plan, cohort=partial.cohort).fits(part, partial.pane_ms):
                continue
            for version in self.cells.seed(counted(part), partial.cohort, partial.pane_ms):
                if version != OTHER:
                    self._version(plan, version)

    def _is_new(self, prediction: int, label: int) -> bool:
        """Whether a pair, by its offsets, is none of what was published before the store was lost."""
        base = self.meta.base
        return prediction >= base.inference or label >= base.labels

    @property
    def covered(self) -> tuple[int, int]:
        """The next offsets of inference and of labels."""
        return self.meta.covered.inference, self.meta.covered.labels

    @property
    def reached_ms(self) -> int:
        """The highest event time of the predictions."""
        return max(self.meta.marks_ms.values(), default=NO_MARK)

    @property
    def is_ahead(self) -> bool:
        """Whether labels were read that are newer than all predictions that were."""
        return self.meta.label_mark_ms > self.reached_ms

    @property
    def awaits_predictions(self) -> bool:
        """Whether labels of a past were sent before all predictions, and half as many wait for them as may."""
        is_past = self.seen_at_ms - self.meta.label_mark_ms >= BEHIND_MS
        return is_past and self.reached_ms == NO_MARK and self.meta.pending >= MAX_PENDING // 2

    # Predictions

    def take_predictions(self, model: str, rows: Rows, offsets: Sequence[int]) -> Parts | None:
        """Remembers predictions; gives them without those whose event id was seen before at another offset.

        None: all were.
        """
        columnizer, plan = self.plan.models[model].columnizer, self.models.get(model)
        if plan is None:
            return columnizer.parts(rows)
        keys = keys_of([row.event_id for row in rows.rows])
        known = self._histories.find(keys)
        if any(history.predictions for history in known.values()) or len(set(keys)) < len(keys):
            kept = self._first_seen(plan, keys, known, offsets, rows.times_ms.tolist())
            if not kept:
                return None
            if len(kept) < len(keys):
                rows, keys, offsets = rows.only(kept), [keys[at] for at in kept], [offsets[at] for at in kept]
        parts = columnizer.parts(rows)
        self._remember(plan, parts, keys, known, offsets)
        return parts

    def _first_seen(
        self,
        plan: ModelPlan,
        keys: Sequence[bytes],
        known: Mapping[bytes, History],
        offsets: Sequence[int],
        times_ms: Sequence[int],
    ) -> list[int]:
        """The places of those that are no duplicate. One that is too late to be counted is not remembered."""
        remembered = {
            key: given.offset for key, found in known.items() for given in found.predictions if given.model == plan.name
        }
        time, config = self._time(plan.name).copy(), plan.config
        kept: list[int] = []
        for at, (key, offset, time_ms) in enumerate(zip(keys, offsets, times_ms, strict=True)):
            if remembered.get(key, offset) == offset:
                kept.append(at)
                if time.step(time_ms, config.grace_ms) - time_ms <= config.lateness_ms:
                    remembered[key] = offset
        return kept

    def _remember(
        self,
        plan: ModelPlan,
        parts: Parts,
        keys: Sequence[bytes],
        known: Mapping[bytes, History],
        offsets: Sequence[int],
    ) -> None:
        """Those that are read for the first time, and not too late to be counted."""
        self._touched.add(plan.name)
        start, config = bisect_left(offsets, self.meta.covered.inference), plan.config
        time, times_ms = self._time(plan.name), parts.rows.times_ms[start:]
        classes = timeliness(times_ms, time.take(times_ms, config.grace_ms), config.grace_ms, config.lateness_ms)
        self.meta.marks_ms[plan.name] = time.mark_ms
        counted = classes != Timeliness.LATE
        new = (start + np.flatnonzero(counted)).tolist()
        fields = parts.fields
        columns: list[Any] = [keys, offsets, *(fields[name] for name in ("model_version", "score", "prediction"))]
        if len(new) < len(keys):
            columns = [[column[at] for at in new] for column in columns]
        keys, offsets, versions, scores, values = columns
        names = {version: self._version(plan, version) for version in dict.fromkeys(versions)}
        versions = list(map(names.__getitem__, versions))
        segments = list(zip(*(positions[new].tolist() for positions in parts.segments), strict=True)) or [()] * len(new)
        times_ms, timely = parts.rows.times_ms[new], classes[counted] == Timeliness.ON_TIME
        starts_ms = times_ms // plan.cohort_ms * plan.cohort_ms
        if offsets and offsets[0] < self.meta.base.inference:
            published = np.fromiter(offsets, np.int64, len(offsets)) < self.meta.base.inference
            counts_now = timely & ~published
        else:
            counts_now = timely
        if counts_now.any():
            groups = _alike(starts_ms, versions, [positions[new] for positions in parts.segments])[counts_now]
            _, firsts, counts = np.unique(groups, return_index=True, return_counts=True)
            for at, n in zip(np.flatnonzero(counts_now)[firsts].tolist(), counts.tolist(), strict=True):
                group = View.COHORT, plan.name, int(starts_ms[at]), versions[at], segments[at]
                self.cells.count(group, PREDICTIONS, n)
        moments = times_ms.tolist()
        on_time = timely.tolist()
        given = zip(repeat(plan.name), offsets, moments, on_time, versions, segments, scores, values, strict=False)
        if not known:
            self._histories.put_new(keys, given, times_ms)
            return
        fresh = np.array([key not in known for key in keys], bool)
        predictions = list(given)
        for at in np.flatnonzero(~fresh).tolist():
            self._meet(plan, keys[at], known[keys[at]], Prediction(*predictions[at]))
        self._histories.put_new(list(compress(keys, fresh)), compress(predictions, fresh), times_ms[fresh])

    def _time(self, model: str) -> StreamTime:
        """Stream time of a model's predictions, which is that of the model in `source`."""
        if model not in self.meta.times:
            self.meta.times[model] = StreamTime.at(self.meta.marks_ms.get(model, NO_MARK))
        return self.meta.times[model]

    def _meet(self, plan: ModelPlan, key: bytes, history: History, given: Prediction) -> None:
        """A prediction whose event id is known meets the labels that came before it."""
        history.predictions.append(given)
        terms = self._terms[plan.name]
        current: Entry | None = None
        for entry in history.labels:
            if _belongs(terms, given, entry):
                if not entry.joined:
                    if self._is_new(given.offset, entry.offset):
                        self._books(entry.model or self._sole).forget_pending()
                    self.meta.pending -= 1
                    entry.joined = True
                current = self._join(terms, given, current, entry)
        self._histories.put(key, history, given.ts_ms)

    def _version(self, plan: ModelPlan, version: str) -> str:
        """The version, or the bucket of those beyond the cap: by the order of the log."""
        known = self.meta.versions.setdefault(plan.name, list(plan.config.versions))
        if version not in known:
            if len(known) >= plan.config.max_versions or len(version) > MAX_VERSION:
                return OTHER
            known.append(version)
        return version

    def made(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Prediction]:
        """Of (model, event id) the predictions that are remembered."""
        ids = [(model, event_id) for model, event_id in wanted if event_id]
        keys = keys_of([event_id for _, event_id in ids])
        known = self._histories.find(keys)
        return {
            place: given
            for place, key in zip(ids, keys, strict=True)
            if key in known
            for given in known[key].predictions
            if given.model == place[0]
        }

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
        labels = [(index, label) for index, label in labels if records.offsets[index] >= self.meta.covered.labels]
        if labels:
            self._take([label for _, label in labels], [records.offsets[index] for index, _ in labels])
        read_to = max(self.meta.covered.labels, self.meta.base.labels)
        for reject in rejects:
            if records.offsets[reject.index] >= read_to:
                self._books(self._known(reject.model) or self._sole).reject(reject.reason)
        self.meta.covered.labels = max(self.meta.covered.labels, records.offsets[-1] + 1)
        return [
            RejectedRecord(self.partition, records.offsets[reject.index], records.values[reject.index], reject)
            for reject in rejects
        ]

    def _take(self, labels: Sequence[Label], offsets: Sequence[int]) -> None:
        times_ms = np.array([label.ts_ms for label in labels], np.int64)
        if self.meta.label_time is None:
            self.meta.label_time = StreamTime.at(self.meta.label_mark_ms)
        time = self.meta.label_time
        arrivals_ms = np.maximum(times_ms, time.take(times_ms, self._grace_ms)).tolist()
        self.meta.label_mark_ms = time.mark_ms
        known_ms = times_ms[times_ms <= self.seen_at_ms].max(initial=NO_MARK)
        self._labels_reached_ms = max(self._labels_reached_ms, int(known_ms))
        new = bisect_left(offsets, self.meta.base.labels)
        self._receive([label.model or self._sole for label in labels[new:]], arrivals_ms[new:])
        keys = keys_of([label.event_id for label in labels])
        known = self._histories.find(keys)
        for key, label, offset, arrival_ms in zip(keys, labels, offsets, arrivals_ms, strict=True):
            history = known.get(key)
            if history is None:
                history = known[key] = History([], [])
            self._enter(key, history, Entry(offset, arrival_ms, label.model, label.label))

    def _receive(self, names: Sequence[str], arrivals_ms: Sequence[int]) -> None:
        """Counts labels, whatever comes of them, by the model that they are for."""
        known, given = self._terms, zip(names, arrivals_ms, strict=True)
        received = Counter((name, arrival_ms // known[name].pane_ms) for name, arrival_ms in given if name in known)
        for (name, pane), count in received.items():
            terms = known[name]
            self.cells.count((View.ARRIVED, name, pane * terms.pane_ms, terms.version, ()), RECEIVED, count)

    def _enter(self, key: bytes, history: History, entry: Entry) -> None:
        """A label, and what is known of its event id."""
        if len(history.labels) >= MAX_HISTORY:
            if entry.offset >= self.meta.base.labels:
                self._books(self._known(entry.model) or self._sole).reject(TOO_MANY_LABELS)
            return
        waited = entry.offset < self.meta.base.labels
        for given in history.predictions:
            terms = self._terms[given.model]
            if _belongs(terms, given, entry) and given.model not in self.parking:
                with self.parking.guard(given.model, Phase.JOIN):
                    before = self._current(terms, given, history.labels) if history.labels else None
                    self._join(terms, given, before, entry)
                    entry.joined = True
                    waited &= given.offset >= self.meta.base.inference
        if entry.joined and waited:  # in the books that were published before the store was lost
            self._books(self._known(entry.model) or self._sole).forget_pending()
        if not entry.joined:
            full = self.meta.pending >= MAX_PENDING
            if entry.offset >= self.meta.base.labels:
                books = self._books(self._known(entry.model) or self._sole)
                books.read += 1
                books.orphan += full
                books.pending += not full
            if full:
                return
            self.meta.pending += 1
        history.labels.append(entry)
        self._histories.put(key, history, entry.arrival_ms)

    def _known(self, model: str) -> str:
        return model if not model or model in self.models else OTHER

    def _current(self, terms: _Terms, given: Prediction, entries: Iterable[Entry]) -> Entry | None:
        """The label that holds after these: the first of those that say the same."""
        current: Entry | None = None
        for entry in entries:
            if _belongs(terms, given, entry):
                current = current if _same(current and current.label, entry.label) else entry
        return current

    def _join(self, terms: _Terms, given: Prediction, before: Entry | None, entry: Entry) -> Entry | None:
        """A label meets its prediction; gives the label that holds now."""
        same = _same(before.label if before else None, entry.label)  # what may raise comes before what is counted
        if not self._is_new(given.offset, entry.offset):
            return before if same else entry
        arrival_ms, ts_ms = entry.arrival_ms, given.ts_ms
        cohort_ms = ts_ms // terms.cohort_ms * terms.cohort_ms
        pane_ms = arrival_ms // terms.pane_ms * terms.pane_ms
        # A prediction that is read after its label's pane may have been judged has no part in the judgement.
        in_time = given.on_time and ts_ms < pane_ms + terms.pane_ms
        stands = ts_ms - arrival_ms <= terms.lateness_ms
        where = self.cells.where(given, cohort_ms, pane_ms, stands=stands, in_time=in_time)
        where.joined += in_time
        books = self._books(given.model)
        books.read += 1
        if same:
            books.duplicate += 1
            return before
        books.matched += 1
        if before is not None and before.label is not None:
            books.corrected += 1
            then_ms = before.arrival_ms // terms.pane_ms * terms.pane_ms
            stood = max(arrival_ms, ts_ms) - before.arrival_ms <= terms.lateness_ms  # else it was never counted there
            there = self.cells.where(given, cohort_ms, then_ms, stands=stood, in_time=False)
            there.outcomes.append((given, before.label, max(0, before.arrival_ms - ts_ms), -1))
        if entry.label is not None:
            where.outcomes.append((given, entry.label, max(0, arrival_ms - ts_ms), 1))
        return entry

    def _books(self, model: str) -> LabelBooks:
        self._touched.add(model)
        books = self.meta.books.get(model)
        if books is None:
            books = self.meta.books[model] = LabelBooks()
        return books

    # Writing

    def commit(self, next_inference: int, clock_ms: int) -> None:
        """Everything since the last commit, to the store at once. `next_inference`: the next offset of that topic."""
        self.meta.covered.inference = max(self.meta.covered.inference, next_inference)
        forgotten = self._expired(clock_ms)
        changes = self._histories.changes()  # by far the most: nothing copies it
        self.meta.sequence = self._histories.sequence
        changes.update(forgotten)
        changes.update(self.cells.changes())
        changes[_META] = _pack(self.meta)
        self.store.write(changes)

    def _expired(self, clock_ms: int) -> Changes:
        """Forgets histories that nothing can change any more; a label that never met a prediction is an orphan."""
        reached_ms = self._reached_before(clock_ms)
        if reached_ms == NO_MARK:
            return {}
        # While labels are still to be read, however old, their predictions wait for them.
        are_read = self.caught_up_ms is not None and not self.awaits_labels
        labels_ms = reached_ms if are_read else max(self.meta.label_mark_ms, self.unread_until_ms)
        longest_ms = max(model.horizon_ms for model in self.models.values())
        self._over_before_ms = min(reached_ms, labels_ms) - longest_ms
        changes, over = self._histories.expired(self._over_before_ms)
        for entry in (entry for history in over for entry in history.labels if not entry.joined):
            self.meta.pending -= 1
            if entry.offset < self.meta.base.labels:
                continue  # whether it waited, or had met a prediction that is gone, is not known
            books = self._books(self._known(entry.model) or self._sole)
            books.pending -= 1
            books.orphan += 1
        return changes

    def _reached_before(self, clock_ms: int) -> int:
        """The event time that had been reached when `patience_ms` began."""
        known, then_ms = self._reached, clock_ms - self.patience_ms
        if not known or clock_ms - known[-1][0] >= self.patience_ms // REMEMBERED:
            known.append((clock_ms, self.reached_ms))
        while len(known) > 1 and known[1][0] <= then_ms:
            known.popleft()
        return known[0][1] if known[0][0] <= then_ms else NO_MARK

    # Publishing

    def partials(
        self, clock_ms: int, *, final: bool, everywhere: bool = True
    ) -> list[OutcomePartial | LabelBooksPartial]:
        """Sketches that changed since the last publication, then the books. `commit` comes before.

        `everywhere`: a heartbeat, of every bucket with a model; else of those in which something is new.
        """
        changed, self.cells.unpublished = self.cells.unpublished & self.cells.vectors.keys(), set()
        buckets = {(view is View.COHORT, start_ms, self._bucket(model)) for view, model, start_ms in changed}
        found: list[OutcomePartial | LabelBooksPartial] = [
            OutcomePartial(
                self.topic,
                self.partition,
                cohort,
                self.covered,
                bucket,
                start_ms,
                # All models of the bucket: the record replaces the one before as a whole.
                [p for m in self.models if self._bucket(m) == bucket and (p := self.cells.part(m, cohort, start_ms))],
            )
            for cohort, start_ms, bucket in sorted(buckets)
        ]
        self._drop()
        return [*found, *self._books_partials(clock_ms, final, everywhere)]

    def _drop(self) -> None:
        """Lets go of cells that nothing can change any more; all of them are published.

        A record has the cells of all models of its bucket and replaces the one before as a whole, so they go together.
        """
        over: dict[tuple[bool, int, int], list[Place]] = {}
        kept: set[tuple[bool, int, int]] = set()
        for place in self.cells.vectors:
            view, model, start_ms = place
            record = view is View.COHORT, start_ms, self._bucket(model)
            if self._is_over(place):
                over.setdefault(record, []).append(place)
            else:
                kept.add(record)
        for record in over.keys() - kept:
            for place in over[record]:
                self.cells.drop(place)

    def _is_over(self, place: Place) -> bool:
        view, model, start_ms = place
        plan, mark = self.models[model], self.meta.marks_ms.get(model, NO_MARK)
        reach_ms = plan.horizon_ms + plan.cohort_ms if view is View.COHORT else 2 * plan.config.lateness_ms
        return start_ms + reach_ms < min(self._over_before_ms, mark - plan.horizon_ms)

    def _books_partials(self, clock_ms: int, final: bool, everywhere: bool) -> list[LabelBooksPartial]:
        """As in `ChunkFold._books`, but a record with models has all of its bucket: it is the only one of its key."""
        full = final or (everywhere and self._beats % FULL_BEATS == 0)
        self._beats += everywhere
        names = dict.fromkeys([*self.models, *self.meta.books])
        marks = {model: self.read_until_ms.get(model, self.meta.marks_ms.get(model)) for model in names}
        moved = {model for model, mark_ms in marks.items() if mark_ms != self._published_marks.get(model)}
        news = {self._bucket(model) for model in self._touched | moved}
        self._touched, self._published_marks = set(), marks
        buckets: dict[int, list[LabelBooksPart]] = {}
        for model in names:
            bucket = self._bucket(model)
            if full or bucket in news:
                part = LabelBooksPart(model, self.meta.books.get(model, LabelBooks()), marks[model])
                buckets.setdefault(bucket, []).append(part)
            elif everywhere:
                buckets.setdefault(bucket, [])
        mark = max(self._labels_until_ms(clock_ms), self.unread_until_ms)
        known_ms = clock_ms if self.caught_up_ms is None else min(clock_ms, self.caught_up_ms)
        return [
            LabelBooksPartial(
                self.topic,
                self.partition,
                self.covered,
                bucket,
                known_ms,
                self.seen_at_ms,
                mark if mark != NO_MARK else None,
                self.caught_up_ms is not None,
                final,
                parts,
            )
            for bucket, parts in buckets.items()
        ]

    def _labels_until_ms(self, clock_ms: int) -> int:
        """The label time up to which every label has been read; as `ChunkFold` has it for a slow stream."""
        mark_ms, reached_ms = self.meta.label_mark_ms, self._labels_reached_ms
        if reached_ms <= mark_ms or self.caught_up_ms is None:
            return mark_ms
        pause_ms = PAUSE_MS if clock_ms - reached_ms <= LIVE_MS else self._idle_ms
        return reached_ms if clock_ms - self.seen_at_ms >= pause_ms else mark_ms

    def _bucket(self, model: str) -> int:
        return bucket_of(model, self.plan.config.kafka.buckets)


def _digest(plans: Iterable[ModelPlan]) -> str:
    """Two plans with one digest mean the same by everything that is stored."""
    said = [(p.name, layout_of(p).digest, p.segmentation, p.horizon_ms, p.cohort_ms, p.config.pane_ms) for p in plans]
    return hashlib.blake2b(msgspec.json.encode([FORMAT, said]), digest_size=8).hexdigest()


def _alike(starts_ms: Ints, versions: Sequence[str], segments: Sequence[Ints]) -> Ints:
    """(n,) a number for each row: the same for rows that have everything in common."""
    _, numbers = numbered(starts_ms)
    names = {version: number for number, version in enumerate(dict.fromkeys(versions))}
    if len(names) > 1:
        numbers = numbers * len(names) + np.fromiter(map(names.__getitem__, versions), np.int64, len(versions))
    for positions in segments:
        _, numbers = numbered(numbers * (int(positions.max()) + 1) + positions)
    return numbers


def _belongs(terms: _Terms, given: Prediction, entry: Entry) -> bool:
    """A label further than the horizon from a prediction is none of it, whatever is still remembered."""
    return entry.model in ("", given.model) and abs(entry.arrival_ms - given.ts_ms) <= terms.horizon_ms


def _same(left: Any, right: Any) -> bool:
    return left is right if left is None or right is None else class_text(left) == class_text(right)
