"""Stage 1 of side inputs: records of a partition → cells by pane, in the protocol of chunks.

Feedback and runs count in the pane in which they arrive, by the stream time of the model in their partition, so that
none is lost for being out of order. Observations of KPIs count at their own time, because they often come in bulk,
later; every KPI has a stream time of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from streams.arrays import CountVector
from streams.cells import added
from streams.chunk import ChunkFold
from streams.config import OTHER, Feedback
from streams.events import Headers, Invalid, Reason, Reject
from streams.facts.layout import RUNS_LENGTH, kpi_vector, score_bin
from streams.facts.read import Observation, RunEvent, Told, read_feedback, read_outcome, read_run, run_text
from streams.fingerprint import PartPrint, fact_print
from streams.join.fold import JoinFold
from streams.panes import NO_MARK, Timeliness
from streams.parking import Phase
from streams.partial import Partial
from streams.plan import Facts, ModelPlan, Plan, kpi_name, model_of
from streams.progress import Progress
from streams.records import Records
from streams.replaying import BEHIND_MS, MAX_WAIT_MS
from streams.sketch.counts import Counts
from streams.sketch.outcomes import Prediction
from streams.sketch.profile import Profile
from streams.times import NO_TIME

MAX_RUN_EVENTS = 256
"""Run events of one job in one pane; further ones are rejected."""
MAX_WAITING = 10_000
"""Feedback that waits for the predictions of its time; beyond that no more is read."""
TOO_MANY_RUNS = "too_many_runs"


class FactFold(ChunkFold):
    """One partition of a topic that is not inference events."""

    unread_until_ms = NO_MARK
    """No record before this time is left to read, where the reader can tell."""

    kind: Facts
    """Of the records of its topic."""

    @property
    def _plans(self) -> Mapping[str, ModelPlan]:
        """The models that are told of, by the names of their books."""
        return self.plan.facts[self.kind]

    @property
    def names(self) -> Collection[str]:
        return self._plans

    @property
    def _declared(self) -> Mapping[int, Sequence[str]]:
        return self.plan.by_bucket(self.kind)

    def _lateness_ms(self, name: str) -> int:
        config = self._plans[name].config
        return config.lateness_ms + config.pane_ms

    def _checked(self, records: Records, index: int, ts_ms: int, model: str = "") -> None:
        ahead, limit = ts_ms - records.stamps_ms[index], self.plan.config.limits.future_ms
        if ahead > limit:
            raise Invalid(Reason.FUTURE, f"{ahead} ms ahead of its record, the limit is {limit}", model)

    def _invalid(self, index: int, invalid: Invalid, clock_ms: int) -> Reject:
        """Books of what can't be read go to its model, if that is known."""
        model = invalid.model if invalid.model in self.plan.models else OTHER if invalid.model else ""
        self._reject(self.plan.first_name(self.kind, model), invalid.reason, clock_ms)
        return Reject(index, invalid.reason, invalid.detail, invalid.model)

    def _skip(self, clock_ms: int) -> None:
        """Counts a record of what is not declared."""
        books = self._share(OTHER, clock_ms).books
        books.read += 1
        books.counted += 1

    @contextmanager
    def _counting(self, name: str) -> Iterator[None]:
        """A record that is booked as counted; if its counting raises, its model is parked and it is rejected."""
        model = self._model_of(name)
        with self.parking.guard(model, Phase.COUNT):
            yield
        if model in self.parking:
            share = self.shares[name]
            share.books.counted -= 1
            share.reject(Reason.PARKED, 1)

    def _arrive(self, name: str, ts_ms: int, clock_ms: int) -> int | None:
        """The pane in which a record arrives; None: it is too late."""
        config, share = self._plans[name].config, self._share(name, clock_ms)
        mark = self._advance_by(name, ts_ms)
        share.books.read += 1
        if mark - ts_ms > config.lateness_ms:
            share.books.late += 1
            return None
        share.books.counted += 1
        return self._plans[name].pane_start(max(mark, ts_ms))

    def _advance_by(self, name: str, ts_ms: int) -> int:
        """Takes one time; gives the mark after it."""
        return int(self._advance(name, np.array([ts_ms], np.int64), self._plans[name].config.grace_ms)[0])

    def _read_until_ms(self, name: str) -> int | None:
        found = super()._read_until_ms(name)
        mark = max(NO_MARK if found is None else found, self.unread_until_ms)
        return None if mark == NO_MARK else mark


class FeedbackFold(FactFold):
    """Feedback, with what is remembered of the predictions that it is about.

    It waits until its prediction has been read, or must have been: when events of a later time have, by more than the
    grace; or when there have been none to read for as long as makes a partition idle.
    """

    def __init__(
        self, plan: Plan, topic: str, partition: int, progress: Progress | None, clock_ms: int, join: JoinFold | None
    ) -> None:
        super().__init__(plan, topic, partition, progress, clock_ms)
        self.join = join
        self.events_caught_up_ms: int | None = None
        """By the clock, when no event was left to read; None: some are."""
        self._waiting: list[tuple[Told, int, int]] = []
        """With the pane in which each came, and stage 1's clock then."""
        self._waits_from_ms: dict[str, int] = {}
        """By model the earliest time of what waits, as it was at the last publication."""

    kind = Facts.FEEDBACK

    def note_caught_up(self, *, labels_ms: int | None, events_ms: int | None) -> None:
        """Notes when, by the clock, no label and no event of the partition was left to read. None: some are."""
        self.events_caught_up_ms = events_ms

    def _print_of(self, name: str) -> PartPrint:
        return fact_print(Facts.FEEDBACK, self._plans[name])

    @property
    def changed(self) -> bool:
        return super().changed or bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether enough waits for events that are still to be read."""
        return len(self._waiting) >= MAX_WAITING

    @property
    def awaits_events(self) -> bool:
        """Whether what waits is of a past, whose events may be sent after it."""
        return any(since_ms - item.ts_ms >= BEHIND_MS for item, _, since_ms in self._waiting[-1:])

    def _read_until_ms(self, name: str) -> int | None:
        mark = super()._read_until_ms(name)
        return mark if mark is None else min(mark, self._waits_from_ms.get(name, mark + 1) - 1)

    def _count_block(self, records: Records, clock_ms: int) -> Sequence[Reject]:
        rejects: list[Reject] = []
        for index, value in enumerate(records.values):
            try:
                item = read_feedback(value, _headers(records, index), self.plan.config.limits.max_record_bytes)
                self._checked(records, index, item.ts_ms, item.model)
            except Invalid as invalid:
                rejects.append(self._invalid(index, invalid, clock_ms))
                continue
            plan = self._plans.get(item.model)
            if plan is None or plan.feedback is None or (item.kind, None) not in plan.feedback.slots:
                self._skip(clock_ms)
                continue
            if item.model in self.parking:
                self._reject(item.model, Reason.PARKED, clock_ms)
                continue
            pane_ms = self._arrive(item.model, item.ts_ms, clock_ms)
            if pane_ms is not None:
                self._waiting.append((item, pane_ms, clock_ms))
        return rejects

    def _partials(self, clock_ms: int, *, complete: bool, everywhere: bool) -> list[Partial]:
        self._settle(everything=complete or self.final or self.join is None)
        self._waits_from_ms = {}
        for item, *_ in self._waiting:
            self._waits_from_ms[item.model] = min(item.ts_ms, self._waits_from_ms.get(item.model, item.ts_ms))
        return super()._partials(clock_ms, complete=complete, everywhere=everywhere)

    def _settle(self, *, everything: bool) -> None:
        """Counts what waits no longer."""
        made: Mapping[tuple[str, str], Prediction] = {}
        if self.join is not None:
            made = self.join.made((item.model, item.event_id) for item, *_ in self._waiting)
        waiting, self._waiting = self._waiting, []
        for item, pane_ms, since_ms in waiting:
            given = made.get((item.model, item.event_id))
            if given is not None or everything or self._is_due(item, since_ms):
                with self._counting(item.model):
                    self._add_told(item, pane_ms, given)
            else:
                self._waiting.append((item, pane_ms, since_ms))

    def _is_due(self, item: Told, since_ms: int) -> bool:
        assert self.join is not None
        config, reached_ms = self._plans[item.model].config, self.join.meta.marks_ms.get(item.model, NO_MARK)
        # Feedback of a past may be sent before the events that it is about.
        idle_ms = config.idle_ms if since_ms - item.ts_ms < BEHIND_MS else max(config.idle_ms, MAX_WAIT_MS)
        idle = self.events_caught_up_ms is not None and self.events_caught_up_ms - since_ms >= idle_ms
        return not item.event_id or idle or reached_ms - item.ts_ms > config.grace_ms

    def _add_told(self, item: Told, pane_ms: int, given: Prediction | None) -> None:
        plan = self._plans[item.model]
        assert plan.feedback is not None
        slots = list(plan.feedback.told(item.kind, item.value))
        if item.kind is Feedback.OVERRIDE:
            slots.append(plan.feedback.bins_at + score_bin(_score(given)))
        vector = np.bincount(slots, minlength=plan.feedback.length)
        version = given.version if given else item.version
        segments = _made_in(plan, given) if given else item.segments
        _add(self, item.model, plan, (pane_ms, Timeliness.ON_TIME), vector, version, segments)


class OutcomeFold(FactFold):
    """Observations of business KPIs. The books have a name for each KPI of a model."""

    kind = Facts.OUTCOMES

    def _print_of(self, name: str) -> PartPrint:
        return fact_print(Facts.OUTCOMES, self._plans[name])

    def _model_of(self, name: str) -> str:
        return model_of(name)

    def _read_until_ms(self, name: str) -> int | None:
        """A KPI is judged when it is told, however late that is."""
        if self.unread_until_ms == NO_MARK:
            return ChunkFold._read_until_ms(self, name)
        # The reader of files stops at this time: what it has read is no clock's error.
        return max(self.marks_ms[name], self._reached_ms.get(name, NO_MARK)) if name in self.marks_ms else None

    def _count_block(self, records: Records, clock_ms: int) -> Sequence[Reject]:
        rejects: list[Reject] = []
        for index, value in enumerate(records.values):
            try:
                item = read_outcome(value, _headers(records, index), self.plan.config.limits.max_record_bytes)
                self._checked(records, index, item.ts_ms, item.model)
                self._take(item, clock_ms)
            except Invalid as invalid:
                rejects.append(self._invalid(index, invalid, clock_ms))
        return rejects

    def _take(self, item: Observation, clock_ms: int) -> None:
        name = kpi_name(item.model, item.kpi)
        plan = self._plans.get(name)
        if plan is None:
            self._skip(clock_ms)
            return
        if item.model in self.parking:
            self._reject(name, Reason.PARKED, clock_ms)
            return
        books = self._share(name, clock_ms).books
        books.read += 1
        behind = self._advance_by(name, item.ts_ms) - item.ts_ms
        if behind > plan.config.lateness_ms:
            books.late += 1
            return
        books.counted += 1
        status = Timeliness.WELCOME if behind > plan.config.grace_ms else Timeliness.ON_TIME
        place = (plan.pane_start(item.ts_ms), status)
        with self._counting(name):
            _add(self, name, plan, place, kpi_vector(item.value), item.version, item.segments)


class RunFold(FactFold):
    """Runs of jobs: a pane is a set of run events, each a cell of its own; a repeat changes nothing."""

    kind = Facts.RUNS

    def _print_of(self, name: str) -> PartPrint:
        return fact_print(Facts.RUNS, self._plans[name])

    def _count_block(self, records: Records, clock_ms: int) -> Sequence[Reject]:
        rejects: list[Reject] = []
        for index, value in enumerate(records.values):
            try:
                item = read_run(value, _headers(records, index), self.plan.config.limits.max_record_bytes)
                self._checked(records, index, item.ts_ms)
            except Invalid as invalid:
                rejects.append(self._invalid(index, invalid, clock_ms))
                continue
            watch = self.plan.names_with_job(item.job)
            found = [name for name in watch if self._plans[name].config.job_named(item.namespace, item.job)]
            for name in found:
                if name in self.parking:
                    self._reject(name, Reason.PARKED, clock_ms)
                    continue
                with self._counting(name):
                    self._take(name, item, clock_ms)
            if not found:
                self._skip(clock_ms)
        return rejects

    def _take(self, name: str, item: RunEvent, clock_ms: int) -> None:
        job = self._plans[name].config.job_named(item.namespace, item.job)
        pane_ms = self._arrive(name, item.ts_ms, clock_ms)
        if pane_ms is None or item.turn is None or job is None:
            return
        cells = self.cells(name, pane_ms, Timeliness.ON_TIME)
        key = ("", job, run_text(item.ts_ms, item.turn, item.run_id))
        if key not in cells and sum(found[1] == job for found in cells) >= MAX_RUN_EVENTS:
            books = self._share(name, clock_ms).books
            books.counted -= 1
            books.rejected[TOO_MANY_RUNS] = books.rejected.get(TOO_MANY_RUNS, 0) + 1
            return
        cells[key] = Profile.empty(RUNS_LENGTH)


def fact_fold(
    kind: Facts, plan: Plan, partition: int, progress: Progress | None, clock_ms: int, join: JoinFold | None
) -> FactFold:
    """The fold of one partition of a kind's topic. `join`: of the same partition of the events."""
    topic = plan.topic_of(kind)
    if kind is Facts.FEEDBACK:
        return FeedbackFold(plan, topic, partition, progress, clock_ms, join)
    return (RunFold if kind is Facts.RUNS else OutcomeFold)(plan, topic, partition, progress, clock_ms)


def fact_time_ms(kind: Facts, value: bytes) -> int:
    """The time of a record; NO_TIME of what is none."""
    readers: Mapping[Facts, Callable[[bytes, Headers, int], Told | RunEvent | Observation]] = {
        Facts.FEEDBACK: read_feedback,
        Facts.RUNS: read_run,
        Facts.OUTCOMES: read_outcome,
    }
    try:
        return readers[kind](value, (), len(value)).ts_ms
    except Invalid:
        return NO_TIME


def _headers(records: Records, index: int) -> Headers:
    return records.headers[index] if records.headers else ()


def _score(given: Prediction | None) -> float | None:
    if given is None or given.score is None:
        return None
    return max(given.score.values(), default=None) if isinstance(given.score, dict) else given.score


def _made_in(plan: ModelPlan, given: Prediction) -> dict[str, str]:
    """The segments of a prediction that is remembered."""
    dimensions = plan.segmentation.dimensions
    return {
        name: (*values, OTHER)[position] for (name, values), position in zip(dimensions, given.segments, strict=True)
    }


def _add(
    fold: FactFold,
    name: str,
    plan: ModelPlan,
    place: tuple[int, Timeliness],
    vector: CountVector,
    version: str,
    segments: Mapping[str, str],
) -> None:
    cells = fold.cells(name, *place)
    for key in plan.segmentation.keys(version, segments):
        added(cells, key, Profile(Counts.of(vector)), plan.segmentation)
