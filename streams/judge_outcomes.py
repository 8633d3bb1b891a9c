"""The labelled side of a model's judge: closed arrival panes and cohorts → windows and decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from streams.arrays import CountVector
from streams.baseline import WHOLE, SegmentKey
from streams.calibrate import Calibration, Online, learned, told
from streams.cells import Cells
from streams.decide import Decision
from streams.evaluation import ClockEvaluator, PaneStrategy
from streams.inhibit import LABELS, Incidents
from streams.merge import ClosedPane
from streams.outcome_panes import ModelOutcomes
from streams.panes import NO_MARK
from streams.plan import ModelPlan
from streams.predictions import LABELS_BEHIND_MS, Predictions, tally_of
from streams.rollup import Rollup, Unit, UnitId
from streams.rule_state import RuleCell, RuleState
from streams.signals.cusum import Sums
from streams.signals.estimate import Estimate
from streams.signals.label_flow import LabelFlow, Made, slowest_ms
from streams.signals.names import judges_labels
from streams.signals.outcome import OutcomeJudge
from streams.signals.result import CellResult, Window
from streams.situation import Situation
from streams.sketch.outcomes import CHANGES, DELAYS, JOINED, LABELLED, PREDICTIONS, RECEIVED, delays
from streams.times import rfc3339
from streams.window import Clock, WindowRecord, outcome_record

ENOUGH_LABELS, CURVES_AGE = 1_000, 4
"""Of an arrival curve that is learned from the stream: labels, and age of the stream in times of the slowest ones."""


class Arrival(msgspec.Struct):
    """The delays of a stream's first labels, until they tell how late labels come."""

    since_ms: int
    delays: list[int] = []
    """Labels by delay."""
    learned: bool = False
    learned_ms: int = 0
    """When that was, by the labels' clock."""

    def with_pane(self, on_time: Cells, end_ms: int) -> Arrival:
        """It is learned when there are enough labels and the stream is several times as old as the slow ones.

        Of a young stream only the fast labels are known.
        """
        found = np.array(self.delays or [0] * DELAYS)
        for key, profile in on_time.items():
            if key[1:] == WHOLE:
                found = found + delays(profile.counts.dense())
        enough = int(found.sum()) >= ENOUGH_LABELS and end_ms - self.since_ms >= CURVES_AGE * slowest_ms(found)
        return Arrival(self.since_ms, found.tolist(), enough, end_ms if enough else 0)


class LabelledJudge(ClockEvaluator):
    """Judges the arrival panes of one model, in order, and tells of its cohorts as they become known."""

    def __init__(
        self,
        plan: ModelPlan,
        estimate: Estimate | None,
        sums: Sums,
        calibrations: dict[str, Calibration],
        arrival: Arrival | None,
    ) -> None:
        """`estimate`: of events before their labels; the rest is what a state remembers."""
        super().__init__(plan, (rule for rule in plan.config.rules if judges_labels(rule.signals)))
        self.sums, self.calibrations = sums, calibrations
        self.judge = OutcomeJudge(plan)
        self.estimate = estimate
        self.arrival = arrival
        if arrival is not None and arrival.learned:
            self.judge.flow.follow(arrival.delays)
        self.rollup = Rollup(plan.config.pane_ms, self.overs_ms, plan.segmentation)
        self._arrived: dict[int, dict[SegmentKey, int]] = {}
        """Labels by arrival pane."""
        self.predictions = Predictions(plan.config.pane_ms, plan.cohort_ms)
        self._events: dict[int, dict[str, CountVector]] = {}
        """Counts of panes of events, by version, until the labels that came in them are judged."""

    @property
    def reach_ms(self) -> int:
        return max(self.judge.flow.maturity_ms, *self.overs_ms)

    def resume(self, pane: ClosedPane) -> None:
        """Takes an arrival pane that was judged before the restart."""
        self.rollup.close(pane.start_ms, pane.on_time)
        self.rollup.forget(pane.start_ms + self.plan.config.pane_ms)
        self._arrived[pane.start_ms] = tally_of(pane.on_time, LABELLED)

    def resume_events(self, start_ms: int, on_time: Cells) -> None:
        """Takes a pane of events that was judged before the restart."""
        self.predictions.resume(start_ms, on_time)
        self._expect(start_ms, on_time)

    def resume_cohorts(self, outcomes: ModelOutcomes, first_ms: int, end_ms: int) -> None:
        """After the panes: takes from the join what the state does not hold of the cohorts between two times, for a
        worker of 0.1 judged them."""
        until_ms = first_ms if outcomes.judged_until_ms is None else outcomes.judged_until_ms
        first_ms = max(self.plan.cohort_start(first_ms), self._made_from_ms(until_ms))
        starts = {at for at in outcomes.cohorts if first_ms <= at and at + self.plan.cohort_ms <= end_ms}
        missing = sorted(starts - self.predictions.cohorts.keys())
        self.predictions.adopt({at: tally_of(outcomes.cohorts[at].cells()[1], PREDICTIONS) for at in missing})

    def close_events(self, start_ms: int, on_time: Cells) -> list[Unit]:
        """Takes a closed pane of events; gives the cohorts that end with it."""
        self._expect(start_ms, on_time)
        return self.predictions.close(start_ms, on_time)

    def _expect(self, start_ms: int, on_time: Cells) -> None:
        if self.estimate is not None:
            whole = {key[0]: profile for key, profile in on_time.items() if key[1:] == WHOLE}
            self._events[start_ms] = {version: profile.counts.dense() for version, profile in whole.items()}
            oldest_ms = start_ms - LABELS_BEHIND_MS
            self._events = {at: counts for at, counts in self._events.items() if at >= oldest_ms}

    def close(
        self, pane: ClosedPane, states: dict[RuleCell, RuleState], incidents: Incidents
    ) -> tuple[list[WindowRecord], list[Decision], list[UnitId]]:
        """An arrival pane's windows and decisions, and the units that are needed no more; `states` are those of all
        rules."""
        end_ms = pane.start_ms + self.plan.config.pane_ms
        self.resume(pane)
        forgotten = self._forget(end_ms)
        flow = LabelFlow(tally_of(pane.on_time, RECEIVED).get(WHOLE, 0), tally_of(pane.on_time, JOINED).get(WHOLE, 0))
        strategy = _ArrivalPane(self, pane.start_ms, end_ms, flow, self._made_until(end_ms))
        self._learn_arrival(pane, end_ms)
        # Labels are of predictions that were made as long ago as labels take.
        reach_ms = self.judge.flow.slowest_ms + self.plan.config.pane_ms
        situation = Situation(self.plan.name, self.plan.config, incidents, reach_ms, LABELS)
        records, decisions = self.evaluate(strategy, states, situation)
        return [*records, *self.revise_arrival(pane)], decisions, forgotten

    def pane_results(
        self, window: Window, start_ms: int, flow: LabelFlow, made: Made
    ) -> tuple[list[CellResult], dict[str | None, Online]]:
        """The results of the pane's own window, with what was expected; and online calibrations after it."""
        cells = self.window_results(window, flow, made, self.sums)
        online = self._calibrated(cells, start_ms)
        return [self._with_expected(cell, start_ms) for cell in cells], online

    def window_results(self, window: Window, flow: LabelFlow, made: Made, sums: Sums | None) -> list[CellResult]:
        """The results of a window of arrival; those of `sums` go on by it."""
        return [
            *self.judge.flow.evaluate(window, self._arrived, made, flow),
            *self.judge.evaluate(window, sums),
        ]

    def _made_until(self, end_ms: int) -> Made:
        spans = list(self.predictions.between(self._made_from_ms(end_ms), end_ms))
        starts, lengths, tallies = zip(*spans, strict=True) if spans else ((), (), ())
        return Made(np.array(starts, float), np.array(lengths, float), tallies)

    def _calibrated(self, cells: Iterable[CellResult], start_ms: int) -> dict[str | None, Online]:
        """Every version's online calibration, after this pane's labels."""
        found: dict[str | None, Online] = {}
        for cell in cells:
            residual = self.judge.residual(cell) if cell.version is not None and cell.segment == WHOLE else None
            if residual is not None and cell.version is not None:
                before = self.calibrations.get(cell.version) or Calibration(*self.judge.recalibrated)
                vector = cell.profile.counts.dense()
                after = learned(before, self.judge.layout, vector, start_ms, *residual)
                self.calibrations[cell.version], found[cell.version] = after, told(after)
        return found

    def _with_expected(self, cell: CellResult, start_ms: int) -> CellResult:
        """Of a version, with what its predictions of the same pane are likely to be worth, as it is calibrated now."""
        counts = self._events.get(start_ms, {}).get(cell.version or "") if cell.segment == WHOLE else None
        state = self.calibrations.get(cell.version or "")
        if self.estimate is None or cell.version is None or counts is None or state is None:
            return cell
        estimate = self.estimate.recalibrated(state.intercept, state.slope, self.judge.recalibrated)
        return replace(cell, expected=estimate.expected(counts))

    def _learn_arrival(self, pane: ClosedPane, end_ms: int) -> None:
        """Without a curve from the reference, that of the stream's own first labels."""
        if self.judge.flow.arrival is not None:
            return
        self.arrival = arrival = (self.arrival or Arrival(pane.start_ms)).with_pane(pane.on_time, end_ms)
        if arrival.learned:
            self.judge.flow.follow(arrival.delays)

    def revise_arrival(self, pane: ClosedPane) -> list[WindowRecord]:
        """The pane as it stands, if that differs from what was evaluated and from what was published."""
        changes, before = (tally_of(cells, CHANGES).get(WHOLE, 0) for cells in (pane.welcome, pane.on_time))

        def revision() -> list[WindowRecord]:
            return self._revision(Clock.ARRIVAL, pane.start_ms, self.plan.config.pane_ms, pane.welcome)

        return self.revise(pane.start_ms, changes, revision, before)

    def revise_cohort(self, start_ms: int, cells: Cells) -> list[WindowRecord]:
        """What has become known of a cohort."""
        return self._revision(Clock.COHORT, start_ms, self.plan.cohort_ms, cells)

    def settled_ms(self, end_ms: int) -> int:
        """When the labels of a span that ends then have come, but for slow ones; at the latest after the horizon."""
        flow, latest_ms = self.judge.flow, end_ms + self.plan.horizon_ms
        if flow.arrival is None:
            return latest_ms
        return min(latest_ms, max(end_ms + flow.slowest_ms, self.arrival.learned_ms if self.arrival else 0))

    def settle(self, outcomes: ModelOutcomes, before_ms: int, until_ms: int) -> list[WindowRecord]:
        """The truth of the spans that were settled after one time of the labels' clock, until another."""
        starts_ms = {self.plan.truth_start(at) for at in outcomes.cohorts}
        settled = [at for at in starts_ms if before_ms < self.settled_ms(at + self.plan.truth_ms) <= until_ms]
        return [record for at in sorted(settled) for record in self._truth(outcomes, at)]

    def revise_truth(self, outcomes: ModelOutcomes, cohorts: Iterable[int]) -> Iterator[list[WindowRecord]]:
        """The truth of settled spans of which something has become known, while all of them is remembered."""
        until_ms = NO_MARK if outcomes.judged_until_ms is None else outcomes.judged_until_ms
        for start_ms in sorted({self.plan.truth_start(at) for at in cohorts}):
            end_ms = start_ms + self.plan.truth_ms
            if self.settled_ms(end_ms) <= until_ms <= end_ms + 2 * self.plan.horizon_ms:
                yield self._truth(outcomes, start_ms)

    def _truth(self, outcomes: ModelOutcomes, start_ms: int) -> list[WindowRecord]:
        end_ms = start_ms + self.plan.truth_ms
        window = Window(start_ms, end_ms, self.plan.truth_ms, outcomes.union(start_ms, end_ms))
        settled = rfc3339(self.settled_ms(end_ms))
        return [
            msgspec.structs.replace(
                outcome_record(self.plan, window, cell, Clock.TRUTH, int(cell.profile.counts.dense()[CHANGES])),
                settled=settled,
            )
            for cell in map(self._as_scored, self.judge.evaluate(window))
            if cell.events or cell.segment == WHOLE
        ]

    def _as_scored(self, cell: CellResult) -> CellResult:
        """With what the scores of the labelled predictions led to expect of them."""
        if self.estimate is None:
            return cell
        by_bin = self.judge.layout.reliability(cell.profile.counts.dense())[0]
        return replace(cell, expected=self.estimate.expected_of(by_bin))

    def _revision(self, clock: Clock, start_ms: int, span_ms: int, cells: Cells) -> list[WindowRecord]:
        window = Window(start_ms, start_ms + span_ms, span_ms, cells, partial=True)
        return [
            outcome_record(self.plan, window, cell, clock, int(cell.profile.counts.dense()[CHANGES]))
            for cell in self.judge.evaluate(window)
            if cell.events
        ]

    def _made_from_ms(self, end_ms: int) -> int:
        """Labels of earlier predictions do not count at that time."""
        flow = self.judge.flow
        return end_ms - flow.maturity_ms - self.plan.config.pane_ms - flow.slowest_ms - self.plan.cohort_ms

    def _forget(self, end_ms: int) -> list[UnitId]:
        oldest_ms = end_ms - self.judge.flow.maturity_ms - self.plan.config.pane_ms
        self._arrived = {at: counts for at, counts in self._arrived.items() if at >= oldest_ms}
        self.forget_published(end_ms - 3 * self.plan.config.lateness_ms)
        start_ms = end_ms - self.plan.config.pane_ms  # the pane at hand
        self._events = {at: counts for at, counts in self._events.items() if at >= start_ms}
        self.predictions.reach_ms = end_ms - self._made_from_ms(end_ms)
        return self.predictions.forget(end_ms)


@dataclass(slots=True)
class _ArrivalPane(PaneStrategy):
    labels: LabelledJudge
    start_ms: int
    end_ms: int
    flow: LabelFlow
    made: Made
    online: dict[str | None, Online] = field(default_factory=dict)
    """By version the calibration after the labels of this pane, once its own window is evaluated."""

    def _is_own(self, window: Window) -> bool:
        return window.over_ms == self.labels.plan.config.pane_ms

    def window(self, length_ms: int) -> Window:
        start_ms, end_ms = self.labels.rollup.span(self.end_ms, length_ms)
        return Window(start_ms, end_ms, length_ms, self.labels.rollup.window(start_ms, end_ms))

    def results(self, window: Window) -> list[CellResult]:
        if not self._is_own(window):
            return self.labels.window_results(window, self.flow, self.made, None)
        results, self.online = self.labels.pane_results(window, self.start_ms, self.flow, self.made)
        return results

    def records(self, window: Window, results: Iterable[CellResult]) -> Iterable[WindowRecord]:
        online = self.online if self._is_own(window) else {}
        for cell in results:
            if _telling(cell):
                calibration = online.get(cell.version) if cell.segment == WHOLE else None
                yield outcome_record(self.labels.plan, window, cell, Clock.ARRIVAL, 0, calibration)


def _telling(cell: CellResult) -> bool:
    """A segment without labels has nothing to say but that they are missing."""
    return cell.events > 0 or cell.segment == ("", "") or any(bool(result.breached.any()) for result in cell.results)
