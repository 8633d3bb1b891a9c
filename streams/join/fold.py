"""Predictions and labels of one source partition → outcomes.

The outcome of a prediction is that of its latest label, so everything here is a function of the set of predictions and
labels, whatever the order in which the two topics are read. Histories, sketches, books and the offsets that they cover
are written to the store at once; a store that is gone is rebuilt by reading both topics again.

A label arrives at its own time, or at the stream time of its partition's labels if that is later, so no label is ever
too late.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, repeat
from typing import Any

import numpy as np

from streams.batch import Parts
from streams.codecs import columnizer_of
from streams.config import MAX_VERSION, OTHER
from streams.decode import Rows
from streams.fingerprint import counted, outcomes_print
from streams.join.cells import OutcomeCells, View
from streams.join.histories import Entry, Histories, History, keys_of
from streams.join.match import Matcher, belongs
from streams.join.publish import JoinPublisher, Reading
from streams.join.recovery import META_KEY, Logs, Published, Recovery, digest_of, latest, pack_meta
from streams.labels import Label, read_labels
from streams.panes import NO_MARK, Timeliness, timeliness
from streams.parking import Parking, Phase
from streams.partial import LabelBooksPartial, OutcomePartial
from streams.plan import ModelPlan, Plan
from streams.records import Records, RejectedRecord
from streams.replaying import BEHIND_MS
from streams.sketch.outcomes import RECEIVED, Prediction
from streams.store import Changes, Store
from streams.stream_time import LIVE_MS, PAUSE_MS, StreamTime

MAX_PENDING = 100_000
"""Labels of a partition that wait for their prediction; beyond that one is an orphan at once."""
MAX_HISTORY = 16
"""Labels of one event id; further ones are rejected."""
TOO_MANY_LABELS = "too_many_labels"
REMEMBERED = 60
"""Number of moments that are kept within `least_ms`."""


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
        logs: Logs = (None, None),
    ) -> None:
        """`patience_ms`: so long, by the clock, a prediction stays at the least, whatever time the events have reached:
        whoever replays the past in minutes sends its labels minutes later. `logs`: of inference and of labels."""
        self.patience_ms = patience_ms
        self._reached: deque[tuple[int, int]] = deque()
        """By the clock, the event times that were reached lately."""
        self.plan, self.topic, self.partition, self.store = plan, topic, partition, store
        self.models = {name: model for name, model in plan.models.items() if model.outcomes is not None}
        self.parking = Parking()
        """Models whose predictions and labels are not joined any more: their labels wait."""
        self._recovery = Recovery(store, digest_of(self.models.values()), logs)
        self._open()
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

    def _open(self) -> None:
        """Takes up what the store holds."""
        self.meta = self._recovery.meta
        self.cells = OutcomeCells(self.models, self.store, self.parking)
        self._histories = Histories(self.store, self.meta.sequence)
        self._matcher = Matcher(self.models, self.meta, self.cells)
        self._terms = self._matcher.terms
        buckets = self.plan.config.kafka.buckets
        self._publisher = JoinPublisher(self.topic, self.partition, self.models, buckets, self.meta, self.cells)

    # A store that is lost, and logs that do not reach back to their beginning

    @property
    def lost_labels(self) -> int:
        """How many labels were deleted before they were read, since the store was written."""
        return self._recovery.lost_labels

    @property
    def lacks_published(self) -> bool:
        """Whether the store and the topics together may hold less than was published (`Recovery`)."""
        return self._recovery.lacks_published

    @property
    def is_behind(self) -> bool:
        """Whether less has been read than the publications cover that it goes on from."""
        covered, base = self.meta.covered, self.meta.base
        return covered.inference < base.inference or covered.labels < base.labels

    def go_on_from(self, partials: Iterable[Published]) -> None:
        """Takes what was published of this partition for counted: what is read again of it is remembered alone.

        A store that covers all that was published and forgotten is gone on with instead.
        """
        published = latest(partials)
        if not published or not self._recovery.begin_from(max(partial.covered for partial in published)):
            return
        self._open()
        for partial in published:
            if isinstance(partial, LabelBooksPartial):
                self.meta.books |= {part.model: part.books for part in partial.models}
            else:
                self._seed(partial)
        self.store.write({**self.cells.seeded(), META_KEY: pack_meta(self.meta)})
        self._recovery.is_fresh = False

    def _seed(self, partial: OutcomePartial) -> None:
        for part in partial.models:
            plan = self.models.get(part.model)
            if plan is None or not outcomes_print(plan, cohort=partial.cohort).fits(part, partial.pane_ms):
                continue
            for version in self.cells.seed(counted(part), partial.cohort, partial.pane_ms):
                if version != OTHER:
                    self._version(plan, version)

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
        """Stores predictions, and returns those whose event id is new, or known from this offset.

        None: all of them.
        """
        columnizer, plan = columnizer_of(self.plan.models[model]), self.models.get(model)
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
        self._matcher.touched.add(plan.name)
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
        positions = [each[new] for each in parts.segments]
        segments = list(zip(*(each.tolist() for each in positions), strict=True)) or [()] * len(new)
        times_ms, timely = parts.rows.times_ms[new], classes[counted] == Timeliness.ON_TIME
        counts_now = timely
        if offsets and offsets[0] < self.meta.base.inference:
            counts_now = timely & (np.fromiter(offsets, np.int64, len(offsets)) >= self.meta.base.inference)
        self.cells.count_predictions(plan, times_ms, versions, positions, counts_now)
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
            if belongs(terms, given, entry):
                if not entry.joined:
                    if self._matcher.is_new(given, entry):
                        self._matcher.books_for(entry.model).forget_pending()
                    self.meta.pending -= 1
                    entry.joined = True
                current = self._matcher.join(terms, given, current, entry)
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
                self._matcher.books_for(reject.model).reject(reject.reason)
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
        self._receive([label.model or self._matcher.sole for label in labels[new:]], arrivals_ms[new:])
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
                self._matcher.books_for(entry.model).reject(TOO_MANY_LABELS)
            return
        waited = entry.offset < self.meta.base.labels
        for given in history.predictions:
            terms = self._terms[given.model]
            if belongs(terms, given, entry) and given.model not in self.parking:
                with self.parking.guard(given.model, Phase.JOIN):
                    before = self._matcher.current(terms, given, history.labels) if history.labels else None
                    self._matcher.join(terms, given, before, entry)
                    entry.joined = True
                    waited &= given.offset >= self.meta.base.inference
        if entry.joined and waited:  # in the books that were published before the store was lost
            self._matcher.books_for(entry.model).forget_pending()
        if not entry.joined:
            full = self.meta.pending >= MAX_PENDING
            if entry.offset >= self.meta.base.labels:
                books = self._matcher.books_for(entry.model)
                books.read += 1
                books.orphan += full
                books.pending += not full
            if full:
                return
            self.meta.pending += 1
        history.labels.append(entry)
        self._histories.put(key, history, entry.arrival_ms)

    # Writing

    def commit(self, next_inference: int, clock_ms: int) -> None:
        """Everything since the last commit, to the store at once. `next_inference`: the next offset of that topic."""
        self.meta.covered.inference = max(self.meta.covered.inference, next_inference)
        forgotten = self._expired(clock_ms)
        changes = self._histories.changes()  # by far the most: nothing copies it
        self.meta.sequence = self._histories.sequence
        changes.update(forgotten)
        changes.update(self.cells.changes())
        changes[META_KEY] = pack_meta(self.meta)
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
            books = self._matcher.books_for(entry.model)
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

    def partials(self, clock_ms: int, *, final: bool, everywhere: bool = True) -> list[Published]:
        """Sketches that changed since the last publication, then the books. `commit` comes before.

        `everywhere`: a heartbeat, of every bucket with a model; else of those in which something is new.
        """
        label_mark_ms = max(self._labels_until_ms(clock_ms), self.unread_until_ms)
        reading = Reading(
            clock_ms if self.caught_up_ms is None else min(clock_ms, self.caught_up_ms),
            self.seen_at_ms,
            label_mark_ms if label_mark_ms != NO_MARK else None,
            self.caught_up_ms is not None,
            final,
        )
        touched, self._matcher.touched = self._matcher.touched, set()
        outcomes = self._publisher.outcomes(self._over_before_ms)
        return [*outcomes, *self._publisher.books(reading, self.read_until_ms, touched, everywhere=everywhere)]

    def _labels_until_ms(self, clock_ms: int) -> int:
        """The label time up to which every label has been read; as `ChunkFold` has it for a slow stream."""
        mark_ms, reached_ms = self.meta.label_mark_ms, self._labels_reached_ms
        if reached_ms <= mark_ms or self.caught_up_ms is None:
            return mark_ms
        pause_ms = PAUSE_MS if clock_ms - reached_ms <= LIVE_MS else self._idle_ms
        return reached_ms if clock_ms - self.seen_at_ms >= pause_ms else mark_ms
