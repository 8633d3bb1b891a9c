"""The clocks of KPIs: closed panes of observations → windows and decisions.

A KPI is often reported in bulk, a day later, and is evaluated then; what inhibits it is looked for in the time that it
is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streams.arrays import CountVector
from streams.baseline import WHOLE, SegmentKey
from streams.cells import Cells
from streams.config import CAPTURE, Aggregate
from streams.decide import Decision
from streams.evaluation import ClockEvaluator, PaneStrategy
from streams.facts.history import Stretch
from streams.facts.layout import KPI_LENGTH, OBSERVED
from streams.facts.merge import KpiPane
from streams.inhibit import Incidents
from streams.judge_facts import history_of
from streams.plan import Facts, ModelPlan
from streams.rollup import Unit, merged_cells
from streams.rule_state import RuleCell, RuleState
from streams.seen import Seen
from streams.signals.business import CaptureJudge, KpiJudge, Past
from streams.signals.feedback import CellId, by_cell
from streams.signals.result import CellResult, Result, Window, effect_of
from streams.situation import Situation
from streams.sketch.profile import Profile
from streams.window import Clock, WindowRecord, told_record


class KpiClock(ClockEvaluator):
    """Judges the panes of one KPI, in order; or the share of the served requests that came."""

    def __init__(self, plan: ModelPlan, name: str) -> None:
        """`name`: of a declared KPI, or CAPTURE."""
        super().__init__(plan, (rule for rule in plan.config.rules if rule.kpi == name))
        self.name = name
        self.kpi = None if name == CAPTURE else KpiJudge(plan, name)
        self.capture = CaptureJudge(plan) if name == CAPTURE else None
        self.seen = Seen(plan.config.pane_ms, self.overs_ms[-1]) if self.capture else None
        self.histories = [
            history_of(plan, self.overs_ms[-1], f"kpi/{name}/{part}") for part in plan.config.made_of(name)
        ]
        self.gaps: Sequence[tuple[int, int]] = ()
        self.first_ms: int | None = None
        """Start of the first pane that was judged; None: not known."""

    def follow_gaps(self, gaps: Sequence[tuple[int, int]]) -> None:
        """Takes the stretches of which not all is known."""
        self.gaps = gaps
        for history in self.histories:
            history.gaps = gaps

    def is_whole(self, end_ms: int, over_ms: int) -> bool:
        """Whether all of a window is known: a sum over less would be taken for a fall.

        So would one that reaches back beyond the first observation. To a mean or a ratio such time adds nothing.
        """
        is_sum = self.kpi is not None and self.kpi.kpi.aggregate is Aggregate.SUM
        if is_sum and self.first_ms is not None and end_ms - over_ms < self.first_ms:
            return False
        return not any(end_ms - over_ms < until_ms and from_ms < end_ms for from_ms, until_ms in self.gaps)

    def resume(self, pane: KpiPane) -> list[Unit]:
        """Takes a pane; gives the hours that it ends."""
        self.published[pane.start_ms] = _observations(pane.on_time)
        return [
            unit
            for history, cells in zip(self.histories, pane.on_time, strict=True)
            for unit in history.close(pane.start_ms, cells)
        ]

    def close(
        self, pane: KpiPane, states: dict[RuleCell, RuleState], incidents: Incidents
    ) -> tuple[list[WindowRecord], list[Decision]]:
        """The windows and decisions of a pane that was taken by `resume`, and its revision if it has late records."""
        end_ms = pane.start_ms + self.plan.config.pane_ms
        reach_ms, clock = self.overs_ms[-1], f"{Clock.KPI}/{self.name}"
        situation = Situation(self.plan.name, self.plan.config, incidents, reach_ms, clock)
        windows, decisions = self.evaluate(_ClosedKpiPane(self, end_ms), states, situation)
        windows += self.revised(pane)
        self.forget_published(end_ms - 2 * (self.plan.config.lateness_ms + self.plan.config.pane_ms))
        return windows, decisions

    def revised(self, pane: KpiPane) -> list[WindowRecord]:
        """The window of a pane with all that has come; empty if that was published before."""
        merged = [merged_cells(both, self.plan.segmentation) for both in zip(pane.on_time, pane.welcome, strict=True)]
        observed = _observations(merged)
        return self.revise(pane.start_ms, observed, lambda: self._revision(pane.start_ms, merged, observed))

    def _revision(self, start_ms: int, parts: Sequence[Cells], observed: int) -> list[WindowRecord]:
        pane_ms = self.plan.config.pane_ms
        window = Window(start_ms, start_ms + pane_ms, pane_ms, {}, partial=True)
        cells = (cell for cell in self._of_parts(window, parts) if cell.events)
        return [told_record(self.plan, window, cell, self.name, observed) for cell in cells]

    def cells(self, window: Window) -> list[CellResult]:
        """The results of a window, from the observations that are known of its time."""
        parts = [history.window(window.start_ms, window.end_ms) for history in self.histories]
        return list(self._of_parts(window, parts))

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


@dataclass(frozen=True, slots=True)
class _ClosedKpiPane(PaneStrategy):
    clock: KpiClock
    end_ms: int

    def window(self, length_ms: int) -> Window:
        return Window(self.end_ms - length_ms, self.end_ms, length_ms, {})

    def results(self, window: Window) -> list[CellResult]:
        return self.clock.cells(window)

    def is_whole(self, window: Window) -> bool:
        return self.clock.is_whole(window.end_ms, window.over_ms)

    def records(self, window: Window, results: Iterable[CellResult]) -> Iterable[WindowRecord]:
        clock = self.clock
        return (told_record(clock.plan, window, cell, clock.name, 0) for cell in results if cell.events)


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
