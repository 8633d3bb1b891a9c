"""The clock of events: closed panes, with the feedback and the runs of their time → windows and decisions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from streams.cells import Cells, count_events
from streams.decide import Decision
from streams.evaluation import ClockEvaluator, PaneStrategy
from streams.evaluation_progress import EvaluationProgress
from streams.facts.merge import ToldPane
from streams.inhibit import Incidents
from streams.judge_facts import FactsJudge
from streams.merge import ClosedPane
from streams.plan import Facts, ModelPlan
from streams.restore import overlaps
from streams.rollup import Rollup, Unit, UnitId, merged_cells
from streams.rule_state import RuleCell, RuleState
from streams.signals.evaluate import Judge
from streams.signals.jobs import JobState
from streams.signals.names import judges_labels
from streams.signals.result import CellResult, Window
from streams.situation import Situation
from streams.window import WindowRecord, window_record


class EventClock(ClockEvaluator):
    """Evaluates the panes of events of one model."""

    def __init__(
        self, plan: ModelPlan, kinds: Collection[Facts], jobs: Mapping[str, JobState], progress: EvaluationProgress
    ) -> None:
        """`kinds` of side inputs that are read; `jobs` is what a state remembers."""
        super().__init__(plan, (r for r in plan.config.rules if not judges_labels(r.signals) and r.kpi is None))
        self.progress = progress
        self.judge = Judge(plan)
        self.rollup = Rollup(plan.config.pane_ms, self.overs_ms, plan.segmentation)
        self.facts = FactsJudge(plan, kinds, self.overs_ms, jobs)
        self.gaps: Sequence[tuple[int, int]] = ()
        """Stretches of which not all is known."""

    def follow_gaps(self, gaps: Sequence[tuple[int, int]]) -> None:
        self.gaps = self.facts.history.gaps = gaps

    def take(self, pane: ClosedPane, side_inputs: ToldPane) -> tuple[list[Unit], list[UnitId]]:
        """Takes a closed pane; returns the units that end with it, and those of events that no window needs."""
        units = self.rollup.close(pane.start_ms, pane.on_time)
        forgotten = self.rollup.forget(pane.start_ms + self.plan.config.pane_ms)
        units += self.facts.close(pane.start_ms, pane.on_time, side_inputs)
        self.published[pane.start_ms] = count_events(pane.on_time)
        return units, forgotten

    def resume(self, start_ms: int, on_time: Cells, feedback: Cells) -> None:
        """Takes a pane that was evaluated before the restart."""
        self.rollup.close(start_ms, on_time)
        self.rollup.forget(start_ms + self.plan.config.pane_ms)
        self.facts.resume(start_ms, on_time, feedback)
        self.published[start_ms] = count_events(on_time)

    def close(
        self,
        pane: ClosedPane,
        last_event_pane_ms: int,
        awaits_jobs: bool,
        states: dict[RuleCell, RuleState],
        incidents: Incidents,
    ) -> tuple[list[WindowRecord], list[Decision]]:
        """The windows and decisions of a pane that was taken. `awaits_jobs`: whether the silence of jobs counts."""
        first_ms = self.progress.first_pane_ms
        jobs_since_ms = pane.start_ms if first_ms is None else first_ms
        end_ms = pane.start_ms + self.plan.config.pane_ms
        strategy = _EventPane(self, end_ms, last_event_pane_ms, pane.partial, jobs_since_ms if awaits_jobs else None)
        return self.evaluate(strategy, states, Situation(self.plan.name, self.plan.config, incidents))

    def revised(self, pane: ClosedPane) -> list[WindowRecord]:
        """The window of a pane with all that has come; empty if no event has come since it was published last."""
        events = count_events(pane.on_time) + count_events(pane.welcome)
        return self.revise(pane.start_ms, events, lambda: self._revision(pane, events))

    def _revision(self, pane: ClosedPane, events: int) -> list[WindowRecord]:
        end_ms = pane.start_ms + self.plan.config.pane_ms
        cells = merged_cells([pane.on_time, pane.welcome], self.plan.segmentation)
        window = Window(pane.start_ms, end_ms, self.plan.config.pane_ms, cells, partial=True)
        results = self.facts.with_results(self.judge.evaluate(window), window, None)
        return [window_record(self.plan, window, cell, events) for cell in results if worth_a_record(cell)]

    def forget(self, start_ms: int) -> list[UnitId]:
        """After the pane that starts then: evicts what no revision or earlier time needs; returns units among it."""
        self.forget_published(start_ms - 2 * (self.plan.config.lateness_ms + self.plan.config.pane_ms))
        return self.facts.history.forget(start_ms + self.plan.config.pane_ms)

    def window(self, end_ms: int, over_ms: int, last_event_ms: int, *, partial: bool) -> Window:
        """The window of about this length that ends then; partial if not all of its time is known."""
        start_ms, end_ms = self.rollup.span(end_ms, over_ms)
        silent_ms = max(0, end_ms - last_event_ms - self.plan.config.pane_ms)
        first_ms = self.progress.first_pane_ms
        partial = partial or (first_ms is not None and start_ms <= first_ms) or overlaps(self.gaps, start_ms, end_ms)
        return Window(start_ms, end_ms, over_ms, self.rollup.window(start_ms, end_ms), silent_ms, partial)


@dataclass(frozen=True, slots=True)
class _EventPane(PaneStrategy):
    clock: EventClock
    end_ms: int
    last_event_ms: int
    partial: bool
    jobs_since_ms: int | None
    """From here on runs are waited for; None: jobs are left out."""

    def window(self, length_ms: int) -> Window:
        return self.clock.window(self.end_ms, length_ms, self.last_event_ms, partial=self.partial)

    def results(self, window: Window) -> list[CellResult]:
        return self.clock.facts.with_results(self.clock.judge.evaluate(window), window, self.jobs_since_ms)

    def records(self, window: Window, results: Iterable[CellResult]) -> Iterable[WindowRecord]:
        return (window_record(self.clock.plan, window, cell, 0) for cell in results if worth_a_record(cell))


def worth_a_record(cell: CellResult) -> bool:
    """Whether a cell says anything that the model's own record does not: a segment without events does not."""
    return cell.events > 0 or (cell.version is None and cell.segment == ("", ""))
