"""Feedback and runs of a model → results for its windows of events, with which they are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from streams.baseline import WHOLE
from streams.cells import Cells
from streams.facts.history import History
from streams.facts.layout import EVENTS
from streams.facts.merge import ToldPane
from streams.facts.read import Turn, run_of
from streams.plan import Facts, ModelPlan
from streams.rollup import Unit, merged_cells
from streams.signals.feedback import CellId, FeedbackJudge
from streams.signals.jobs import JobState, job_results
from streams.signals.result import CellResult, Result, Window
from streams.sketch.counts import Counts
from streams.sketch.layout import requests
from streams.sketch.profile import Profile

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
        self.history = history_of(plan, max(overs_ms), FEEDBACK_STREAM)

    def close(self, start_ms: int, on_time: Cells, told: ToldPane) -> list[Unit]:
        """Takes a closed pane of events and the side inputs of its time; returns the hour that it ends, if any."""
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
        """The window's cells with the results of side inputs.

        Parameters:
            since_ms: runs are waited for from this time on; None: leaves jobs out, whose states are those of the last
                closed pane.
        """
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


def history_of(plan: ModelPlan, longest_ms: int, stream: str) -> History:
    """The history of a stream of side inputs, as far back as windows of this length need."""
    return History(plan.config.pane_ms, longest_ms, plan.config.lateness_ms, plan.segmentation, stream=stream)
