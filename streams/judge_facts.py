"""What is told of a model beside its events and labels → results for its windows, and windows of its own for each KPI.

Feedback and runs are judged with the events of their time. A KPI has a clock of its own: it is often told in bulk, a
day later, and is judged then; what inhibits it is looked for in the time that it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from streams.arrays import CountVector
from streams.baseline import WHOLE, SegmentKey
from streams.cells import Cells
from streams.config import CAPTURE, Aggregate
from streams.decide import Decision, decide
from streams.facts.history import History, Stretch
from streams.facts.layout import EVENTS, KPI_LENGTH, OBSERVED
from streams.facts.merge import KpiPane, ToldPane
from streams.facts.read import Turn, run_of
from streams.inhibit import Incidents
from streams.plan import Facts, ModelPlan
from streams.rollup import Unit, merged_cells
from streams.rule_state import RuleCell, RuleState
from streams.seen import Seen
from streams.signals.business import CaptureJudge, KpiJudge, Past
from streams.signals.feedback import CellId, FeedbackJudge, by_cell
from streams.signals.jobs import JobState, job_results
from streams.signals.result import CellResult, Result, Window, effect_of
from streams.situation import Judged, Situation
from streams.sketch.counts import Counts
from streams.sketch.layout import requests
from streams.sketch.profile import Profile
from streams.window import Clock, WindowRecord, told_record

FEEDBACK_STREAM = "feedback"


class FactsJudge:
    """Feedback and runs of one model."""

    def __init__(self, plan: ModelPlan, kinds: Iterable[Facts], overs_ms: Sequence[int], jobs: Mapping[str, JobState]):
        """`kinds` that are told of; `jobs` is what a state remembers."""
        self.plan = plan
        self.jobs: dict[str, JobState] = dict(jobs)
        self._runs = Facts.RUNS in kinds and bool(plan.config.jobs)
        told = Facts.FEEDBACK in kinds and plan.feedback is not None
        self.feedback = FeedbackJudge(plan, plan.feedback) if told and plan.feedback is not None else None
        self.history = _history(plan, max(overs_ms), FEEDBACK_STREAM)

    def close(self, start_ms: int, on_time: Cells, told: ToldPane) -> list[Unit]:
        """Takes a closed pane of events and what was told in its time; gives the hour that it ends, if any."""
        if self._runs:
            for cells in told.runs:
                self._note_runs(cells)
        return self.resume(start_ms, on_time, told.feedback)

    def resume(self, start_ms: int, on_time: Cells, feedback: Cells) -> list[Unit]:
        """Takes a pane; one that was judged before the restart has its runs in the state."""
        if self.feedback is None:
            return []
        length, events = self.feedback.layout.length, {}
        for key, profile in on_time.items():
            vector = np.zeros(length, np.int64)
            vector[EVENTS] = requests(profile.counts.dense())
            events[key] = Profile(Counts.of(vector))
        return self.history.close(start_ms, merged_cells([events, feedback], self.plan.segmentation))

    def _note_runs(self, cells: Cells) -> None:
        events: dict[str, list[tuple[int, Turn, str]]] = {}
        for _, job, said in cells:
            events.setdefault(job, []).append(run_of(said))
        for job, found in events.items():
            self.jobs[job] = self.jobs.get(job, JobState()).after(found)

    def with_results(self, cells: Sequence[CellResult], window: Window, since_ms: int | None) -> list[CellResult]:
        """The window's cells with what was told. `since_ms`: from here on runs are waited for; None: leaves jobs out,
        whose states are those of the last closed pane."""
        found: dict[CellId, list[Result]] = {}
        measures: dict[CellId, dict[str, float]] = {}
        if self.feedback is not None:
            union = self.history.window(window.start_ms, window.end_ms)
            found = self.feedback.evaluate(union, self.history.earlier(window.start_ms, window.end_ms))
            measures = self.feedback.measures(union)
        if self._runs and since_ms is not None:
            whole: CellId = (None, WHOLE)
            found[whole] = [*found.get(whole, []), *job_results(self.plan, self.jobs, since_ms, window.end_ms)]
        return [
            replace(
                cell,
                results=(*cell.results, *found.get((cell.version, cell.segment), ())),
                measures=measures.get((cell.version, cell.segment), cell.measures),
            )
            for cell in cells
        ]


class KpiClock:
    """Judges the panes of one KPI, in order; or the share of the served requests that came."""

    def __init__(self, plan: ModelPlan, name: str) -> None:
        """`name`: of a declared KPI, or CAPTURE."""
        self.plan, self.name = plan, name
        self.kpi = None if name == CAPTURE else KpiJudge(plan, name)
        self.capture = CaptureJudge(plan) if name == CAPTURE else None
        self.rules = tuple(rule for rule in plan.config.rules if rule.kpi == name)
        overs_ms = (ms for rule in self.rules for ms in plan.config.overs_ms(rule))
        self.overs_ms = tuple(sorted({plan.config.pane_ms, *overs_ms}))
        self.seen = Seen(plan.config.pane_ms, self.overs_ms[-1]) if self.capture else None
        self.histories = [_history(plan, self.overs_ms[-1], f"kpi/{name}/{part}") for part in plan.config.made_of(name)]
        self.gaps: Sequence[tuple[int, int]] = ()
        self.first_ms: int | None = None
        """Start of the first pane that was judged; None: not known."""
        self.told: dict[int, int] = {}
        """Observations of the panes that were judged, as long as late ones may still come."""
        self.latest: list[CellResult] = []
        """The last judged window of the pane's length, for the metrics."""

    def follow_gaps(self, gaps: Sequence[tuple[int, int]]) -> None:
        """Takes the stretches of which not all is known."""
        self.gaps = gaps
        for history in self.histories:
            history.gaps = gaps

    def _is_whole(self, end_ms: int, over_ms: int) -> bool:
        """Whether all of a window is known: a sum over less would be taken for a fall.

        So would one that reaches back beyond the first observation. To a mean or a ratio such time adds nothing.
        """
        is_sum = self.kpi is not None and self.kpi.kpi.aggregate is Aggregate.SUM
        if is_sum and self.first_ms is not None and end_ms - over_ms < self.first_ms:
            return False
        return not any(end_ms - over_ms < until_ms and from_ms < end_ms for from_ms, until_ms in self.gaps)

    def resume(self, pane: KpiPane) -> list[Unit]:
        """Takes a pane; gives the hours that it ends."""
        self.told[pane.start_ms] = _observations(pane.on_time)
        return [
            unit
            for history, cells in zip(self.histories, pane.on_time, strict=True)
            for unit in history.close(pane.start_ms, cells)
        ]

    def close(
        self, pane: KpiPane, states: dict[RuleCell, RuleState], incidents: Incidents
    ) -> tuple[list[WindowRecord], list[Decision]]:
        """A pane's windows and decisions."""
        end_ms = pane.start_ms + self.plan.config.pane_ms
        windows: list[WindowRecord] = []
        judged: dict[int, Judged] = {}
        for over_ms in self.overs_ms:
            window = Window(end_ms - over_ms, end_ms, over_ms, {})
            cells = list(self._cells(window))
            if over_ms == self.plan.config.pane_ms:
                self.latest = cells
            if self._is_whole(end_ms, over_ms):
                windows += [told_record(self.plan, window, cell, self.name, 0) for cell in cells if cell.events]
                judged[over_ms] = Judged(window, cells)
        windows += self.revise(pane)
        self._forget(end_ms)
        reach_ms, clock = self.overs_ms[-1], f"{Clock.KPI}/{self.name}"
        situation = Situation(self.plan.name, self.plan.config, incidents, reach_ms, clock)
        rules = [rule for rule in self.rules if judged.keys() >= set(self.plan.config.overs_ms(rule))]
        return windows, list(decide(rules, judged, states, situation))

    def revise(self, pane: KpiPane) -> list[WindowRecord]:
        """The pane's window with all that has come; nothing if it was told before."""
        merged = [merged_cells(both, self.plan.segmentation) for both in zip(pane.on_time, pane.welcome, strict=True)]
        observed = _observations(merged)
        if observed == self.told.get(pane.start_ms):
            return []
        self.told[pane.start_ms] = observed
        end_ms = pane.start_ms + self.plan.config.pane_ms
        window = Window(pane.start_ms, end_ms, self.plan.config.pane_ms, {}, partial=True)
        return [
            told_record(self.plan, window, cell, self.name, observed)
            for cell in self._of_parts(window, merged)
            if cell.events
        ]

    def _cells(self, window: Window) -> Iterator[CellResult]:
        parts = [history.window(window.start_ms, window.end_ms) for history in self.histories]
        return self._of_parts(window, parts)

    def _of_parts(self, window: Window, parts: Sequence[Cells]) -> Iterator[CellResult]:
        """The cells of a window, from the observations in it by part of the KPI."""
        if self.capture is not None and self.seen is not None:
            yield self._of_capture(self.capture, self.seen, window, parts[0])
        if self.kpi is not None:
            yield from self._of_kpi(self.kpi, window, parts)

    def _of_kpi(self, kpi: KpiJudge, window: Window, parts: Sequence[Cells]) -> Iterator[CellResult]:
        now = [by_cell(cells) for cells in parts]
        past = _stretches([history.earlier(window.start_ms, window.end_ms) for history in self.histories])
        before = _stretches([history.before(window.start_ms) for history in self.histories])
        for place in dict.fromkeys([(None, WHOLE), *(place for part in now for place in part)]):
            vectors = [part.get(place, _nothing()) for part in now]
            of_part = place != (None, WHOLE)
            result = kpi.evaluate(vectors, window.over_ms, _at(place, past), _at(place, before), of_part=of_part)
            yield _cell(*place, vectors, result)

    def _of_capture(self, capture: CaptureJudge, seen: Seen, window: Window, served: Cells) -> CellResult:
        vector = by_cell(served).get((None, WHOLE), _nothing())
        came = seen.between(window.start_ms, window.end_ms)
        result = None if came is None else capture.evaluate(vector, came, effect_of(self.plan, CAPTURE))
        return _cell(None, WHOLE, [vector], result)

    def _forget(self, end_ms: int) -> None:
        oldest_ms = end_ms - 2 * (self.plan.config.lateness_ms + self.plan.config.pane_ms)
        self.told = {at: n for at, n in self.told.items() if at >= oldest_ms}


def _history(plan: ModelPlan, longest_ms: int, stream: str) -> History:
    return History(plan.config.pane_ms, longest_ms, plan.config.lateness_ms, plan.segmentation, stream=stream)


_Parts = tuple[Sequence[Mapping[CellId, CountVector]], int]
"""Of each KPI that one is made of the vectors by cell, and how long the time was."""


def _stretches(histories: Sequence[Sequence[Stretch]]) -> list[_Parts]:
    return [
        ([by_cell(stretch.cells) for stretch in stretches], stretches[0].span_ms)
        for stretches in zip(*histories, strict=False)
    ]


def _at(place: CellId, stretches: Sequence[_Parts]) -> list[Past]:
    return [Past([part.get(place, _nothing()) for part in found], span_ms) for found, span_ms in stretches]


def kpi_clocks(plan: ModelPlan, kinds: Iterable[Facts]) -> dict[str, KpiClock]:
    """One for each declared KPI, and one for what the serving side counts."""
    if Facts.OUTCOMES not in kinds:
        return {}
    return {name: KpiClock(plan, name) for name in plan.config.kpi_clocks}


def _cell(
    version: str | None, segment: SegmentKey, vectors: Sequence[CountVector], result: Result | None
) -> CellResult:
    observed = min(int(vector[OBSERVED]) for vector in vectors)
    return CellResult(version, segment, Profile.empty(KPI_LENGTH), (result,) if result else (), observed)


def _observations(parts: Sequence[Cells]) -> int:
    return sum(int(p.counts.dense()[OBSERVED]) for cells in parts for key, p in cells.items() if key[1:] == WHOLE)


def _nothing() -> CountVector:
    return np.zeros(KPI_LENGTH, np.int64)
