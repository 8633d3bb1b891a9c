"""Stage 2: partials → closed panes, per bucket of models.

A pane closes when the model's watermark has passed its end by the grace, and is judged on what came on time. Outcomes
of labels close by their arrival.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from streams.cells import MOST_SUM, Cells, checked_part
from streams.chunk_merge import ChunkMerge
from streams.duration import HOUR_MS
from streams.evaluation_progress import EvaluationProgress
from streams.fingerprint import events_print, outcomes_print
from streams.join.cells import View
from streams.model_panes import FINAL_MARK, HELD_MS, ModelPanes, PaneState
from streams.outcome_panes import VIEWS, ModelOutcomes, view_of
from streams.pane_cursor import MAX_EMPTY_PANES, PaneCursor
from streams.panes import NO_MARK
from streams.parking import Parking
from streams.partial import LabelBooks, LabelBooksPartial, OutcomePartial, PanePart, Partial
from streams.plan import MOST_MATURITY_PANES, ModelPlan, Plan, longest_over_ms
from streams.predictions import LABELS_BEHIND_MS
from streams.replaying import BEHIND_MS, Replay, is_silent


@dataclass(frozen=True, slots=True)
class ClosedPane:
    """A pane that the watermark has passed. `partial`: it does not hold its whole time (the stream's first or last)."""

    start_ms: int
    on_time: Cells
    welcome: Cells
    partial: bool


@dataclass(slots=True, kw_only=True)
class ModelMerge(ModelPanes):
    """One declared model of a bucket."""

    outcomes: ModelOutcomes
    reached_ms: int = NO_MARK
    """The latest stream time that was read. A slow stream's is behind until it pauses again
    (`ChunkFold._read_until_ms`)."""
    latest_at: int = 0
    """The source partition that had the highest mark when all of them were looked at."""
    replay: Replay | None = None
    """While its events are of a past that is replayed."""
    limit_ms: int | None = FINAL_MARK
    """The event time up to which the model's side inputs have been read; None: unknown yet."""

    @property
    def first_pane_ms(self) -> int | None:
        """Start of the first pane of events that was evaluated."""
        return self.progress.first_pane_ms


class BucketMerge(ChunkMerge[ModelMerge]):
    """All models of one bucket: their events, and the outcomes of their labels."""

    def __init__(
        self,
        plan: Plan,
        bucket: int,
        topic: str,
        partitions: int,
        parking: Parking | None = None,
        progress: Mapping[str, EvaluationProgress] | None = None,
    ) -> None:
        """`progress`: by model, the record that its evaluator moves."""
        records = progress or {model.name: EvaluationProgress() for model in plan.in_bucket(bucket)}
        models = {model.name: _model_merge(model, records[model.name]) for model in plan.in_bucket(bucket)}
        super().__init__(plan, bucket, topic, partitions, models, parking)
        self.label_sources: dict[int, LabelBooksPartial] = {}
        """Per source partition the latest label books, without their models."""
        self.labels_since_ms: int | None = None
        """Stage 1's clock when a label was known first, since the rebuild."""
        self.other_labels: dict[tuple[int, str], LabelBooks] = {}
        """Per source partition, label books of what is no declared model."""
        self.outcome_keys: dict[tuple[View, int], set[bytes]] = {}
        """Record keys by view and pane, for the tombstones."""

    def apply(self, partial: Partial, key: bytes = b"", *, fresh: bool = True) -> None:
        super().apply(partial, key, fresh=fresh)
        if isinstance(partial, OutcomePartial):
            self._apply_outcome(partial, key)
        elif isinstance(partial, LabelBooksPartial):
            self._apply_labels(partial, fresh)

    def settle(self) -> dict[str, int]:
        """As of events; and if outcomes were counted under another configuration, the labels are not believed to have
        been read until the join has read them again."""
        if any(model.outcomes.has_foreign for model in self.models.values()):
            self.label_sources.clear()
        return super().settle()

    def _is_ours(self, partial: Partial) -> bool:
        if isinstance(partial, OutcomePartial | LabelBooksPartial):
            return partial.topic == self.plan.config.kafka.labels and partial.bucket == self.bucket
        return super()._is_ours(partial)

    def _apply_outcome(self, partial: OutcomePartial, key: bytes) -> None:
        view = view_of(partial)
        parts = [self._checked_outcomes(part, partial) for part in partial.models]
        if key:
            self.outcome_keys.setdefault((view, partial.pane_ms), set()).add(key)
        for part in parts:
            model = self.models.get(part.model)
            if model is None or model.plan.outcomes is None or self.is_parked(part.model):
                continue
            if not model.outcomes.prints[view].fits(part, partial.pane_ms):
                model.foreign += 1
                model.outcomes.has_foreign = True
            elif partial.pane_ms >= model.outcomes.expired_before_ms[view]:
                model.outcomes.apply(partial, part)

    def _checked_outcomes(self, part: PanePart, partial: OutcomePartial) -> PanePart:
        model = self.models.get(part.model)
        outcomes = model.plan.outcomes if model is not None else None
        if model is None or outcomes is None:
            return part  # it will be left out
        fingerprint = model.outcomes.prints[view_of(partial)]
        if not fingerprint.fits(part, partial.pane_ms):
            return part  # likewise
        return checked_part(part, outcomes.length, model.takes, MOST_SUM)

    def _apply_labels(self, partial: LabelBooksPartial, fresh: bool) -> None:
        known = self.label_sources.get(partial.partition)
        if known is not None and partial.covered < known.covered:
            return
        self.label_sources[partial.partition] = msgspec.structs.replace(
            partial, caught_up=partial.caught_up and fresh, models=[]
        )
        if partial.mark_ms is not None and self.labels_since_ms is None:
            self.labels_since_ms = partial.clock_ms
        for part in partial.models:
            if part.model in self.models:
                outcomes = self.models[part.model].outcomes
                outcomes.books[partial.partition] = part.books
                outcomes.marks_ms[partial.partition] = part.mark_ms
            else:
                self.other_labels[partial.partition, part.model] = part.books

    def watermark_ms(self, model: ModelMerge) -> int | None:
        """The event time up to which every source partition has been read, idle ones excepted; None: not yet known."""
        marks = self.marks(model, model.plan.config.idle_ms)
        if marks is None or model.limit_ms is None:
            return None
        if marks.active:
            return min(*marks.active, model.limit_ms)
        highest = max(mark for mark, _ in marks.idle)
        if highest == NO_MARK:
            return None
        # The whole stream pauses: its event time goes on in step with the clock, so that silence can be judged.
        silent_ms = min(silent for _, silent in marks.idle)
        reached_ms = FINAL_MARK if silent_ms == FINAL_MARK else highest + silent_ms
        if model.replay is not None and silent_ms != FINAL_MARK:  # after the end of a past nothing is missing
            config, last_ms = model.plan.config, max(model.panes, default=highest)
            reached_ms = min(reached_ms, max(highest, last_ms + config.pane_ms + config.grace_ms))
        return min(reached_ms, model.limit_ms)

    def _waits(self, model: ModelMerge, time_ms: int) -> bool:
        """Whether it is sure, at little cost, that the watermark has not reached an event time."""
        if model.limit_ms is None or model.limit_ms < time_ms:
            return True
        return self.is_held_up(model, time_ms, model.plan.config.idle_ms)

    def close(self, model: ModelMerge) -> Iterator[ClosedPane]:
        """Panes of events in order, as far as the watermark allows; the protocol is that of `PaneCursor.starts`."""
        pane_ms, grace_ms = model.plan.config.pane_ms, model.plan.config.grace_ms
        position_ms = model.judged_until_ms
        earliest_ms = min(model.panes, default=None) if position_ms is None else position_ms
        if earliest_ms is None or self._waits(model, earliest_ms + pane_ms + grace_ms):
            return
        watermark = self.watermark_ms(model)
        if watermark is None:
            return
        last_ms = earliest_ms if model.progress.last_event_pane_ms is None else model.progress.last_event_pane_ms
        cursor = PaneCursor(pane_ms, longest_over_ms(model.plan))
        for start in cursor.starts(watermark - grace_ms, lambda: _position_ms(model), lambda: model.panes, last_ms):
            last = max(model.panes, default=start)
            if watermark == FINAL_MARK and start > last:
                return
            on_time, welcome = model.panes[start].cells() if start in model.panes else ({}, {})
            is_first = model.first_pane_ms is None
            if is_first:
                model.changed |= {at for at in model.panes if at < start}  # all welcome: none of them will be judged
            partial = is_first or start == model.first_pane_ms or (watermark == FINAL_MARK and start == last)
            yield ClosedPane(start, on_time, welcome, partial)
            model.forget_unnamed()

    def outcome_watermark_ms(self, model: ModelMerge) -> int | None:
        """The event time up to which predictions and labels have been joined, labels of idle partitions excepted."""
        watermark = self.watermark_ms(model)
        if watermark is None:
            return None
        if model.replay is not None and not self._has_labels:
            return None  # of a past without labels nothing is missing
        marks = [watermark]
        for partition in range(self.partitions):
            joined_ms = self._joined_ms(model, partition)
            if joined_ms is None:
                return None
            marks.append(joined_ms)
        return min(marks)

    def _joined_ms(self, model: ModelMerge, partition: int) -> int | None:
        """The event time up to which a partition's predictions and labels have been joined; None: not yet known."""
        source = self.label_sources.get(partition)
        if source is None:
            return None
        until_ms, joined_ms = FINAL_MARK, model.outcomes.marks_ms.get(partition)
        read_ms = model.marks[partition].mark_ms if partition in model.marks else None
        if read_ms is not None and (joined_ms is None or joined_ms < read_ms):  # a join that is being rebuilt
            if joined_ms is None:
                return None
            until_ms = joined_ms
        if source.final or self._are_labels_silent(model, source):
            return until_ms
        return None if source.mark_ms is None else min(until_ms, source.mark_ms)

    def _labels_wait(self, model: ModelMerge, time_ms: int) -> bool:
        """As `_waits`, of the watermark of outcomes."""
        if self._waits(model, time_ms) or (model.replay is not None and not self._has_labels):
            return True
        found = model.outcomes
        for at in range(self.partitions):
            partition = (found.holds_up + at) % self.partitions
            joined_ms = self._joined_ms(model, partition)
            if joined_ms is None or joined_ms < time_ms:
                found.holds_up = partition
                return True
        return False

    def awaits_labels(self, model: ModelMerge) -> bool:
        """Whether the labels of a replay are waited for that would be taken for silent if they were live."""
        if not self._has_labels:
            return True
        replay, model.replay = model.replay, None
        live_ms, model.replay = self.outcome_watermark_ms(model), replay
        return live_ms != self.outcome_watermark_ms(model)

    @property
    def _has_labels(self) -> bool:
        """Whether any label was ever read."""
        return any(known.mark_ms is not None for known in self.label_sources.values())

    def _are_labels_silent(self, model: ModelMerge, source: LabelBooksPartial) -> bool:
        idle_ms, since_ms = model.plan.config.idle_ms, self.labels_since_ms
        if not source.caught_up:
            return False
        if source.mark_ms is None and since_ms is not None and source.clock_ms - since_ms >= idle_ms:
            return source.clock_ms - source.seen_at_ms >= idle_ms  # others have had labels for a while: it has none
        return is_silent(source.clock_ms, source.seen_at_ms, idle_ms, model.replay)

    def close_outcomes(self, model: ModelMerge, reach_ms: int) -> Iterator[ClosedPane]:
        """Arrival panes in order, as far as the watermark allows; the protocol is that of `PaneCursor.starts`.

        `reach_ms`: so far a window looks back.
        """
        found, first_ms = model.outcomes, model.first_pane_ms
        pane_ms, grace_ms = model.plan.config.pane_ms, model.plan.config.grace_ms
        position_ms = first_ms if found.judged_until_ms is None else found.judged_until_ms
        if first_ms is None or position_ms is None or self._labels_wait(model, position_ms + pane_ms + grace_ms):
            return
        watermark = self.outcome_watermark_ms(model)
        if watermark is None:
            return

        def position() -> int:
            return first_ms if found.judged_until_ms is None else found.judged_until_ms

        cursor = PaneCursor(pane_ms, reach_ms)
        for start in cursor.starts(watermark - grace_ms, position, lambda: found.arrivals, first_ms):
            if watermark == FINAL_MARK and start > max((*found.arrivals, *model.panes), default=start):
                return
            arrived, standing = found.arrivals[start].cells() if start in found.arrivals else ({}, {})
            yield ClosedPane(start, arrived, standing, partial=False)

    def revised_arrivals(self, model: ModelMerge) -> Iterator[ClosedPane]:
        """Judged arrival panes that stand otherwise since. Those of before the first event are never judged."""
        changed, model.outcomes.changed_arrivals = model.outcomes.changed_arrivals, set()
        for start in sorted(changed & model.outcomes.arrivals.keys()):
            if model.first_pane_ms is not None and start >= model.first_pane_ms:
                yield ClosedPane(start, *model.outcomes.arrivals[start].cells(), partial=True)

    def revised_cohorts(self, model: ModelMerge) -> Iterator[tuple[int, Cells]]:
        """Cohorts of which something has become known."""
        changed, model.outcomes.changed_cohorts = model.outcomes.changed_cohorts, set()
        for start in sorted(changed & model.outcomes.cohorts.keys()):
            yield start, model.outcomes.cohorts[start].cells()[1]

    def revised(self, model: ModelMerge) -> Iterator[ClosedPane]:
        """Judged panes to which something has come since."""
        changed, model.changed = model.changed, set()
        for start in sorted(changed):
            if start in model.panes:
                on_time, welcome = model.panes[start].cells()
                yield ClosedPane(start, on_time, welcome, partial=True)

    def expire(self) -> list[bytes]:
        """Forgets what no window, revision or rebuild needs; gives the keys of the records to be deleted.

        The books' state must have been written before their records are deleted.
        """
        for name, model in self.models.items():
            horizon_ms = self._horizon_ms(model)
            if horizon_ms is not None and not self.is_parked(name):
                model.forget(horizon_ms)
                self._forget_outcomes(model, horizon_ms)
        keys = self.forgotten()
        newest_ms = max((start for _, start in self.outcome_keys), default=NO_MARK)
        for view, start in list(self.outcome_keys):
            if not any(self._needs_outcomes(model, view, start, newest_ms) for model in self.models.values()):
                keys += self.outcome_keys.pop((view, start))
        return keys

    def _needs_outcomes(self, model: ModelMerge, view: View, start_ms: int, newest_ms: int) -> bool:
        """Whether outcomes of a cohort or arrival pane may still be asked for; of a parked model, after a restart."""
        plan = model.plan
        if plan.outcomes is None or start_ms < model.outcomes.expired_before_ms[view]:
            return False
        held_ms = HELD_MS + 2 * plan.horizon_ms + plan.cohort_ms + plan.truth_ms
        return not self.is_parked(plan.name) or start_ms >= newest_ms - held_ms

    def _forget_outcomes(self, model: ModelMerge, horizon_ms: int) -> None:
        plan, until_ms = model.plan, model.outcomes.judged_until_ms
        if plan.outcomes is None:
            model.outcomes.forget(FINAL_MARK, FINAL_MARK)  # nothing of it is kept
        elif until_ms is not None:
            before_ms = min(horizon_ms, until_ms)
            model.outcomes.forget(
                before_ms - 2 * plan.horizon_ms - plan.cohort_ms - plan.truth_ms,
                before_ms - 2 * plan.config.lateness_ms - MOST_MATURITY_PANES * plan.config.pane_ms,
            )

    def old_marks(self, model: ModelMerge) -> list[tuple[int, int]]:
        """Of each source partition the latest mark of all, and stage 1's clock at the last event; none, at little cost,
        if that mark is no older than a live stream's."""
        latest = model.marks.get(model.latest_at)
        if latest is not None and latest.mark_ms is not None:
            model.reached_ms = max(model.reached_ms, latest.mark_ms)
        if self.clock_ms - model.reached_ms < BEHIND_MS:
            return []
        known = {at: (part.mark_ms, part.seen_at_ms) for at, part in model.marks.items() if part.mark_ms is not None}
        model.latest_at = max(known, key=known.__getitem__, default=model.latest_at)
        model.reached_ms = max([model.reached_ms, *(mark for mark, _ in known.values())])
        return [(model.reached_ms, seen_at_ms) for _, seen_at_ms in known.values()]

    def held_bytes(self, model: ModelMerge) -> int:
        """About what the panes take that are still to be judged."""
        config, until_ms = model.plan.config, model.judged_until_ms
        waiting = len(model.panes) if until_ms is None else sum(start >= until_ms for start in model.panes)
        cells = 1 + sum(1 + len(values) for _, values in model.plan.segmentation.dimensions)
        return waiting * cells * max(1, len(config.versions)) * model.length * SLOT_BYTES

    def _horizon_ms(self, model: ModelMerge) -> int | None:
        if model.judged_until_ms is None:
            return None
        config = model.plan.config
        marks = [part.mark_ms for part in model.marks.values() if part.mark_ms is not None]
        hour_ms = HOUR_MS if config.served else 0  # `streams.seen` begins its open hour again
        keep_ms = max(config.lateness_ms, longest_over_ms(model.plan), hour_ms)
        keep_ms += (MAX_EMPTY_PANES + 2) * config.pane_ms
        horizon_ms = min([model.judged_until_ms, *marks]) - keep_ms
        return min([horizon_ms, *_labels_need_ms(model, model.judged_until_ms)])


SLOT_BYTES = 8
"""Of a cell, at the most."""


def _labels_need_ms(model: ModelMerge, judged_until_ms: int) -> Iterator[int]:
    """From where on panes of events are needed to judge the labels that come: from the cohort that is not over yet."""
    if model.plan.outcomes is not None:
        until_ms = model.outcomes.judged_until_ms
        behind_ms = model.first_pane_ms if until_ms is None else until_ms
        if behind_ms is not None:
            oldest_ms = judged_until_ms - LABELS_BEHIND_MS
            yield model.plan.cohort_start(max(min(behind_ms, judged_until_ms), oldest_ms))


def _model_merge(plan: ModelPlan, progress: EvaluationProgress) -> ModelMerge:
    prints = {view: outcomes_print(plan, cohort=view is View.COHORT) for view in VIEWS}
    return ModelMerge(
        plan=plan,
        fingerprint=events_print(plan),
        length=plan.layout.length,
        takes=plan.segmentation.takes,
        progress=progress,
        outcomes=ModelOutcomes(plan.segmentation, prints, progress),
    )


def _position_ms(model: ModelMerge) -> int | None:
    """Where the evaluation of a model's events stands, or begins; None: it has no events on time."""
    if model.judged_until_ms is not None:
        return model.judged_until_ms
    return min((start for start, pane in model.panes.items() if _has_on_time(pane)), default=None)


def _has_on_time(pane: PaneState) -> bool:
    return bool(pane.on_time) or any(part.on_time for _, part in pane.open.values())
