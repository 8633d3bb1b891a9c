"""Stage 2 of side inputs: feedback, runs and observations of KPIs of a bucket's models, by pane.

Events wait for the feedback and the runs of their time while those are being read: an idle partition delays nothing. A
KPI waits for itself and for the events of its time; its silence closes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streams.cells import MOST_COUNT, MOST_SUM, Cells, Takes
from streams.chunk_merge import ChunkMerge
from streams.duration import HOUR_MS
from streams.evaluation_progress import EvaluationProgress
from streams.facts.layout import KPI_LENGTH, RUNS_LENGTH
from streams.facts.read import is_run
from streams.fingerprint import fact_print
from streams.merge import ModelMerge
from streams.model_panes import FINAL_MARK, ModelPanes
from streams.pane_cursor import MAX_EMPTY_PANES, PaneCursor
from streams.panes import NO_MARK, next_start
from streams.parking import Parking
from streams.plan import Facts, ModelPlan, Plan, kpi_name, longest_over_ms, model_of
from streams.replaying import Replay

TOLD_WITH_EVENTS = (Facts.FEEDBACK, Facts.RUNS)


@dataclass(frozen=True, slots=True)
class ToldPane:
    """The side inputs in the time of a pane of events."""

    feedback: Cells = field(default_factory=dict)
    runs: Sequence[Cells] = ()
    judges_jobs: bool = True
    """Whether the silence of jobs of which nothing has ever come is judged."""


NOTHING_TOLD = ToldPane()


@dataclass(frozen=True, slots=True)
class KpiPane:
    """A pane of a KPI: on-time, and late but admitted cells of each KPI that it is made of."""

    start_ms: int
    on_time: Sequence[Cells]
    welcome: Sequence[Cells]


class Clocked(Protocol):
    """A KPI as it is judged."""

    @property
    def name(self) -> str: ...
    @property
    def overs_ms(self) -> tuple[int, ...]: ...


class FactsMerge:
    """The side inputs of one bucket, by kind."""

    def __init__(
        self,
        plan: Plan,
        bucket: int,
        told: Mapping[Facts, int],
        parking: Parking | None = None,
        progress: Mapping[str, EvaluationProgress] | None = None,
    ) -> None:
        """`told`: the kinds that are read, with the partitions of their topics. `progress`: by model, the record that
        its evaluator moves."""
        self._progress = progress or {model.name: EvaluationProgress() for model in plan.in_bucket(bucket)}
        self.topics: dict[Facts, ChunkMerge[ModelPanes]] = {}
        for kind, partitions in told.items():
            models = {
                name: ModelPanes(
                    plan=model,
                    fingerprint=fact_print(kind, model),
                    length=_length(kind, model),
                    takes=_takes(kind, model),
                    most=MOST_SUM if kind is Facts.OUTCOMES else MOST_COUNT,
                    progress=self._progress[model_of(name)],
                    kpis=_clocks_of(name, model) if kind is Facts.OUTCOMES else None,
                )
                for name, model in plan.facts[kind].items()
                if plan.config.bucket(model_of(name)) == bucket
            }
            self.topics[kind] = ChunkMerge(plan, bucket, plan.topic_of(kind), partitions, models, parking)
        self._kpi_panes: dict[str, list[ModelPanes]] = {}
        """By model, those of all its KPIs."""
        for name, panes in self.topics[Facts.OUTCOMES].models.items() if Facts.OUTCOMES in self.topics else ():
            self._kpi_panes.setdefault(model_of(name), []).append(panes)
        self._of_model: dict[str, list[ModelPanes]] = {}
        for merge in self.topics.values():
            for name, panes in merge.models.items():
                self._of_model.setdefault(model_of(name), []).append(panes)

    def topic(self, name: str) -> ChunkMerge[ModelPanes] | None:
        return next((merge for merge in self.topics.values() if merge.topic == name), None)

    def _panes(self, kind: Facts, name: str) -> ModelPanes | None:
        return self.topics[kind].models.get(name) if kind in self.topics else None

    def settle(self, clocks: Mapping[str, Iterable[Clocked]]) -> dict[tuple[str, str], int]:
        """After a rebuild: by model and KPI, until when its observations were counted under another configuration.

        Feedback and runs go with the events of their time.
        """
        found = {kind: merge.settle() for kind, merge in self.topics.items()}
        until_ms: dict[tuple[str, str], int] = {}
        for name in clocks:
            if (at := found.get(Facts.FEEDBACK, {}).get(name)) is not None:
                until_ms[name, ""] = at
            for clock in clocks[name]:
                parts = self.topics[Facts.OUTCOMES].plan.models[name].config.made_of(clock.name)
                ends = [found[Facts.OUTCOMES].get(kpi_name(name, part)) for part in parts]
                if known := [at for at in ends if at is not None]:
                    until_ms[name, clock.name] = max(known)
        return until_ms

    # With the events

    def limit_ms(self, model: str, replay: Replay | None = None) -> int | None:
        """The event time up to which feedback and runs of a model have been read; None: that is not known yet."""
        limits = [self._limit_ms(kind, model, replay) for kind in TOLD_WITH_EVENTS]
        known = [limit for limit in limits if limit is not None]
        return min(known) if len(known) == len(limits) else None

    def _limit_ms(self, kind: Facts, model: str, replay: Replay | None) -> int | None:
        panes = self._panes(kind, model)
        if panes is None:
            return FINAL_MARK
        marks = self.topics[kind].marks(panes, panes.plan.config.idle_ms, expected=False, replay=replay)
        return None if marks is None else min([FINAL_MARK, *marks.active])

    def awaited(self, model: str, replay: Replay) -> list[str]:
        """The topics that events of a replay wait for, and would not wait for if they were live."""
        return [
            self.topics[kind].topic
            for kind in TOLD_WITH_EVENTS
            if self._limit_ms(kind, model, replay) != self._limit_ms(kind, model, None)
        ]

    def heard_ms(self, model: str) -> Iterator[int]:
        """Stage 1's clocks at the last records of a model, by topic and partition."""
        for panes in self._of_model.get(model, ()):
            yield from (part.seen_at_ms for part in panes.marks.values())

    def has_runs(self, model: str) -> bool:
        """Whether any run of the model's jobs was ever read."""
        panes = self._panes(Facts.RUNS, model)
        return panes is not None and any(part.mark_ms is not None for part in panes.marks.values())

    def feedback(self, model: str, start_ms: int) -> Cells:
        panes = self._panes(Facts.FEEDBACK, model)
        return panes.panes[start_ms].cells()[0] if panes is not None and start_ms in panes.panes else {}

    def take(self, model: str, start_ms: int) -> ToldPane:
        """The side inputs up to the end of a pane that is being closed, before it is evaluated. A run event that comes
        after its time counts with the next pane."""
        runs, feedback = self._panes(Facts.RUNS, model), self._panes(Facts.FEEDBACK, model)
        found: list[Cells] = []
        if runs is not None:
            end_ms = start_ms + runs.plan.config.pane_ms
            since_ms = runs.judged_until_ms
            new = {at for at in runs.panes if at < end_ms and (since_ms is None or at >= since_ms)} | runs.changed
            found = [runs.panes[at].cells()[0] for at in sorted(new) if at in runs.panes]
            runs.changed = set()
        if feedback is not None:
            feedback.changed = set()
        return ToldPane(self.feedback(model, start_ms), found)

    # KPIs

    def close(self, model: str, clock: Clocked, watermark_ms: int, first_ms: int) -> Iterator[KpiPane]:
        """Panes of a KPI in order, up to its stream time and to the evaluated events; the protocol is that of
        `PaneCursor.starts`."""
        told_ms = self._told_until_ms(model, clock)
        if told_ms is None:
            return
        parts, progress = self._parts_of(model, clock.name), self._progress[model]
        config = parts[0].plan.config

        def held() -> set[int]:
            return {at for part in parts for at in part.panes if at >= first_ms}

        def position() -> int | None:
            until_ms = progress.kpi_until_ms(clock.name)
            return min(held(), default=None) if until_ms is None else until_ms

        cursor = PaneCursor(config.pane_ms, clock.overs_ms[-1], evaluates_open_silence=False)
        for start in cursor.starts(min(told_ms, watermark_ms) - config.grace_ms, position, held, NO_MARK):
            yield self._pane(parts, start)

    def whole_from_ms(self, model: str, clock: Clocked) -> int:
        """From here on a pane of a KPI holds the observations of all partitions; earlier ones may lack those of folded
        chunks in which it was not declared. NO_MARK: no pane lacks any.

        It may become earlier as more is read, until the first pane is judged, and never later.
        """
        future_ms = self.topics[Facts.OUTCOMES].plan.config.limits.future_ms
        parts = self._parts_of(model, clock.name)
        from_ms = max(part.known_whole_from_ms(future_ms) for part in parts)
        return from_ms if from_ms == NO_MARK else next_start(from_ms, parts[0].plan.config.pane_ms)

    def forget_unnamed(self, model: str, clocks: Sequence[Clocked]) -> None:
        """Once all KPIs that are made of an observation are judged by whole panes, where it was not declared is
        forgotten."""
        waiting = [clock for clock in clocks if self._progress[model].kpi_until_ms(clock.name) is None]
        waiting = [clock for clock in waiting if self.whole_from_ms(model, clock) > NO_MARK]
        needed = {id(part) for clock in waiting for part in self._parts_of(model, clock.name)}
        for part in self._kpi_panes.get(model, ()):
            if part.unnamed and id(part) not in needed:
                part.forget_unnamed()

    def judged(self, model: str, clock: Clocked) -> Iterator[KpiPane]:
        """Panes of a KPI that were judged before the restart."""
        parts, until_ms = self._parts_of(model, clock.name), self._progress[model].kpi_until_ms(clock.name)
        if until_ms is not None:
            from_ms = self._progress[model].kpi_whole_from_ms(clock.name)
            for start in sorted({at for part in parts for at in part.panes if from_ms <= at < until_ms}):
                yield self._pane(parts, start)

    def revised(self, model: str, clock: Clocked, first_ms: int) -> Iterator[KpiPane]:
        """Judged panes of a KPI for which there is more than was there in time; none of before the first event."""
        parts, until_ms = self._parts_of(model, clock.name), self._progress[model].kpi_until_ms(clock.name)
        changed = {at for part in parts for at in part.changed if at in part.panes}
        if until_ms is not None and changed:
            from_ms = max(first_ms, self._progress[model].kpi_whole_from_ms(clock.name))
            for start in sorted(at for at in changed if from_ms <= at < until_ms):
                yield self._pane(parts, start)

    def revisions_told(self, model: str) -> None:
        """After `revised` of every KPI of a model."""
        for panes in self._kpi_panes.get(model, ()):
            panes.changed = set()

    def _parts_of(self, model: str, kpi: str) -> list[ModelPanes]:
        merge = self.topics[Facts.OUTCOMES]
        return [merge.models[kpi_name(model, part)] for part in merge.plan.models[model].config.made_of(kpi)]

    def _told_until_ms(self, model: str, clock: Clocked) -> int | None:
        """Of those partitions that tell of it at all. None: none does."""
        merge, found = self.topics[Facts.OUTCOMES], []
        for part in self._parts_of(model, clock.name):
            sources = [(merge.sources[at].final, mark.mark_ms) for at, mark in part.marks.items()]
            marks = [FINAL_MARK if final else mark for final, mark in sources if mark is not None]
            if not marks:
                return None
            found.append(min(marks))
        return min(found)

    @staticmethod
    def _pane(parts: Sequence[ModelPanes], start: int) -> KpiPane:
        cells = [part.panes[start].cells() if start in part.panes else ({}, {}) for part in parts]
        return KpiPane(start, *([pair[side] for pair in cells] for side in (0, 1)))

    # Expiry

    def expire(self, events: Mapping[str, ModelMerge]) -> list[bytes]:
        """Forgets what no window or rebuild needs; gives the keys of the records to be deleted."""
        keys: list[bytes] = []
        for merge in self.topics.values():
            for name, panes in merge.models.items():
                config, judged_ms = panes.plan.config, events[model_of(name)].judged_until_ms
                if judged_ms is not None and panes.judged_until_ms is not None and not merge.is_parked(name):
                    keep_ms = max(config.lateness_ms, longest_over_ms(panes.plan), HOUR_MS)
                    keep_ms += (MAX_EMPTY_PANES + 2) * config.pane_ms
                    marks = [part.mark_ms for part in panes.marks.values() if part.mark_ms is not None]
                    panes.forget(min([panes.judged_until_ms, judged_ms, *marks]) - keep_ms)
            keys += merge.forgotten()
        return keys


def _length(kind: Facts, plan: ModelPlan) -> int:
    if kind is Facts.FEEDBACK:
        assert plan.feedback is not None
        return plan.feedback.length
    return RUNS_LENGTH if kind is Facts.RUNS else KPI_LENGTH


def _clocks_of(name: str, plan: ModelPlan) -> tuple[str, ...]:
    """The KPIs of a model that are made of the observations with this name."""
    config = plan.config
    return tuple(
        kpi for kpi in config.kpi_clocks if name in (kpi_name(plan.name, part) for part in config.made_of(kpi))
    )


def _takes(kind: Facts, plan: ModelPlan) -> Takes:
    return is_run if kind is Facts.RUNS else plan.segmentation.takes
