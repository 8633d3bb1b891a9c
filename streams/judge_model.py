"""One model: closed panes of its three clocks → outcomes, and the state that a restart goes on from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from streams.action import BEGINNINGS, ENDS, Action, Reason
from streams.action_of import action_of, layer_of
from streams.cells import Cells
from streams.decide import Decision
from streams.evaluation_progress import EVENTS_CLOCK, EvaluationProgress
from streams.facts.merge import NOTHING_TOLD, KpiPane, ToldPane
from streams.fingerprint import made_of, unit_print
from streams.inhibit import Incidents
from streams.judge_events import EventClock
from streams.judge_kpi import kpi_clocks
from streams.judge_outcomes import LabelledJudge
from streams.ledger import LedgerState
from streams.merge import ClosedPane
from streams.outcome_panes import ModelOutcomes
from streams.panes import NO_MARK
from streams.parking import Parked
from streams.plan import Facts, ModelPlan
from streams.rollup import Retained, Unit, UnitId
from streams.rule_state import states_by_cell, states_by_text
from streams.signals.estimate import Estimate
from streams.state import MAX_JUDGED, Gap, ModelState, fits, is_folded
from streams.window import WindowRecord


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a judged pane gives, in the order in which the shell publishes it. `state` is None for a mere revision."""

    model: str
    windows: Sequence[WindowRecord]
    actions: Sequence[Action]
    shadows: Sequence[Action] = ()
    """What shadow rules would have published."""
    units: Sequence[Unit] = ()
    forgotten: Sequence[UnitId] = ()
    """Units that no window needs any more."""
    state: ModelState | None = None
    ledger: LedgerState | None = None
    """If there is news in it; what it holds of this outcome, a repeat does not add again."""
    parked: Parked | None = None
    """The model is parked from now on, and this is why: nothing else comes with it."""


class ModelJudge:
    """Evaluates the closed panes of one model, in order, and owns the record of how far that went."""

    def __init__(
        self,
        plan: ModelPlan,
        state: ModelState | None = None,
        kinds: Collection[Facts] = (),
        progress: EvaluationProgress | None = None,
    ) -> None:
        """`kinds` of side inputs that are read. `progress`: the record that every new state moves."""
        self.plan, self.kinds = plan, kinds
        self.progress = EvaluationProgress() if progress is None else progress
        self.state = state
        self.made = made_of(plan)
        self.rules = states_by_cell(state.rules) if state else {}
        self.events = EventClock(plan, kinds, state.jobs if state else {}, self.progress)
        self.labelled = _labelled(plan, self.events.judge.estimate, state)
        self.kpis = kpi_clocks(plan, kinds)
        self.retained = tuple(self._all_retained())
        self.first_gaps: dict[str, list[Gap]] = {}
        """What the state begins with, as long as nothing has been evaluated."""
        self.follow_gaps()
        self.incidents = Incidents(state.incidents if state else ())

    @property
    def state(self) -> ModelState | None:
        """What a restart goes on from; None: nothing has been evaluated."""
        return self._state

    @state.setter
    def state(self, state: ModelState | None) -> None:
        self._state = self.progress.state = state

    def follow_gaps(self) -> None:
        """Passes what the state says is not known on to the clocks, which look back."""
        gaps = self.state.gaps if self.state else self.first_gaps
        self.events.follow_gaps(gaps.get(EVENTS_CLOCK, []))
        for name, clock in self.kpis.items():
            clock.follow_gaps(gaps.get(name, []))
            clock.first_ms = self.state.kpis_first_ms.get(name) if self.state else None

    # Panes

    def close(self, pane: ClosedPane, side_inputs: ToldPane = NOTHING_TOLD) -> Outcome:
        """Evaluates a pane of events, with what was read of side inputs in its time."""
        before, end_ms = self.state, pane.start_ms + self.plan.config.pane_ms
        last_event_ms = pane.start_ms if pane.on_time or before is None else before.last_event_pane_ms
        units, forgotten = self.events.take(pane, side_inputs)
        awaits_jobs = side_inputs.judges_jobs or bool(self.events.facts.jobs)
        windows, decisions = self.events.close(pane, last_event_ms, awaits_jobs, self.rules, self.incidents)
        state = self._begun(pane.start_ms) if before is None else msgspec.structs.replace(before)
        state.judged_until_ms, state.last_event_pane_ms, state.made = end_ms, last_event_ms, self.made
        state.judged_events = self._judged_events(end_ms, self.events.published[pane.start_ms])
        self._advance(state, len(windows), decisions)
        units += self._count_requests(pane.start_ms, pane.on_time)
        if self.labelled is not None:
            units += self.labelled.close_events(pane.start_ms, pane.on_time)
        windows += self.events.revised(pane)
        forgotten += self.events.forget(pane.start_ms)
        forgotten += [unit for clock in self.kpis.values() if clock.seen for unit in clock.seen.forget(end_ms)]
        return self._outcome(windows, decisions, units, forgotten)

    def close_labelled(self, pane: ClosedPane, outcomes: ModelOutcomes) -> Outcome:
        """Evaluates an arrival pane of labels, and the spans of truth that it settles. Some pane of events has been
        evaluated before."""
        assert self.labelled is not None and self.state is not None
        before, until_ms = self.state, pane.start_ms + self.plan.config.pane_ms
        windows, decisions, forgotten = self.labelled.close(pane, self.rules, self.incidents)
        settled_ms = NO_MARK if before.labels_until_ms is None else before.labels_until_ms
        windows += self.labelled.settle(outcomes, settled_ms, until_ms)
        self._advance(msgspec.structs.replace(before, labels_until_ms=until_ms), len(windows), decisions)
        return self._outcome(windows, decisions, [], forgotten)

    def close_kpi(self, name: str, pane: KpiPane) -> Outcome:
        """Evaluates a pane of a KPI. Every pane of events up to its end has been evaluated before."""
        assert self.state is not None
        clock, before, end_ms = self.kpis[name], self.state, pane.start_ms + self.plan.config.pane_ms
        firsts_ms = before.kpis_first_ms
        if name not in before.kpis_until_ms:
            firsts_ms = {**firsts_ms, name: pane.start_ms}
            clock.first_ms = pane.start_ms
        units = clock.resume(pane)
        windows, decisions = clock.close(pane, self.rules, self.incidents)
        untils_ms = {**before.kpis_until_ms, name: end_ms}
        state = msgspec.structs.replace(before, kpis_until_ms=untils_ms, kpis_first_ms=firsts_ms)
        self._advance(state, len(windows), decisions)
        forgotten = [unit for history in clock.histories for unit in history.forget(end_ms)]
        return self._outcome(windows, decisions, units, forgotten)

    def _outcome(
        self,
        windows: Sequence[WindowRecord],
        decisions: Iterable[Decision],
        units: Iterable[Unit],
        forgotten: Sequence[UnitId],
    ) -> Outcome:
        actions: tuple[list[Action], list[Action]] = ([], [])  # to publish, and those of shadow rules
        for decision in decisions:
            if decision.published:
                actions[decision.rule.shadow].append(action_of(self.plan.name, self.plan.config, decision))
        made = [replace(unit, made=unit_print(self.plan, unit.stream, folded=is_folded(unit))) for unit in units]
        return Outcome(self.plan.name, windows, *actions, made, forgotten, self.state)

    # State

    def _begun(self, start_ms: int) -> ModelState:
        """The state of a model whose first pane starts then."""
        return ModelState(
            model=self.plan.name,
            judged_until_ms=start_ms,
            first_pane_ms=start_ms,
            last_event_pane_ms=start_ms,
            gaps=self.first_gaps,
        )

    def _advance(self, state: ModelState, windows: int, decisions: Iterable[Decision]) -> None:
        """Goes on to a state, which says how far was evaluated, with all else that is remembered."""
        _count_decisions(state, decisions)
        state.windows += windows
        state.jobs = dict(self.events.facts.jobs)
        state.rules = states_by_text(self.rules)
        if self.labelled is not None:
            state.sums, state.calibrations = dict(self.labelled.sums), dict(self.labelled.calibrations)
            state.arrival = self.labelled.arrival
        self.incidents.forget(self._needed_from_ms(state))
        state.incidents = self.incidents.kept()
        self.state = state

    def _needed_from_ms(self, state: ModelState) -> int:
        """Incidents that were over before can't explain anything that is still to be judged."""
        needed_ms = [state.judged_until_ms]
        if self.labelled is not None:
            until_ms = state.first_pane_ms if state.labels_until_ms is None else state.labels_until_ms
            needed_ms.append(until_ms - self.plan.horizon_ms - self.plan.config.pane_ms)
        for name, clock in self.kpis.items():
            # A KPI of which nothing has been read yet may be about any time.
            needed_ms.append(state.kpis_until_ms.get(name, state.first_pane_ms) - clock.overs_ms[-1])
        return min(needed_ms)

    def _judged_events(self, end_ms: int, events: int) -> list[int]:
        """For the state: events that the last panes before this time were judged by, the latest first."""
        if self.state is None:
            return [events]
        passed_over = (end_ms - self.state.judged_until_ms) // self.plan.config.pane_ms - 1
        between = [-1] * min(max(0, passed_over), MAX_JUDGED)
        return [events, *between, *self.state.judged_events][:MAX_JUDGED]

    def _was_judged(self, start_ms: int, state: ModelState) -> int | None:
        """Events that a pane was judged by before the rebuild; None if the state does not say."""
        place = (state.judged_until_ms - start_ms) // self.plan.config.pane_ms - 1
        found = state.judged_events[place] if 0 <= place < len(state.judged_events) else -1
        return found if found >= 0 else None

    # Restart

    def resume(self, start_ms: int, on_time: Cells, feedback: Cells) -> None:
        """Takes a pane that was evaluated before the restart, for the windows and the revisions to come."""
        self.events.resume(start_ms, on_time, feedback)
        if self.state is None:
            return
        # What was late before the first pane was never evaluated.
        if start_ms >= self.state.first_pane_ms:
            self._count_requests(start_ms, on_time)
            if self.labelled is not None:
                self.labelled.resume_events(start_ms, on_time)
        judged = self._was_judged(start_ms, self.state)
        if judged is not None:
            self.events.published[start_ms] = judged

    def restore_unit(self, unit: Unit) -> bool:
        """Takes a roll-up, if it fits. One of release 0.1 does not say what it was made under: it fits where its counts
        have the length that they should have."""
        if not fits(unit, self.plan):
            return False
        for _, retained in self.retained:
            if retained.stream == unit.stream:
                retained.restore(unit)
        return True

    def drop_units(self) -> None:
        """Drops restored units that end after what was judged: their panes will be closed again."""
        for clock, retained in self.retained:
            until_ms = self.progress.until_ms(clock)
            retained.drop_after(NO_MARK if until_ms is None else until_ms)

    def _all_retained(self) -> Iterator[tuple[str, Retained]]:
        """What is retained as units, each with the clock that closes its panes."""
        yield EVENTS_CLOCK, self.events.rollup
        yield EVENTS_CLOCK, self.events.facts.history
        if self.labelled is not None:
            yield EVENTS_CLOCK, self.labelled.predictions
        for name, clock in self.kpis.items():
            yield from ((name, history) for history in clock.histories)
            if clock.seen is not None:
                yield EVENTS_CLOCK, clock.seen

    def _count_requests(self, start_ms: int, on_time: Cells) -> list[Unit]:
        """Takes the requests of a closed pane; gives the hour that ends with it."""
        return [unit for clock in self.kpis.values() if clock.seen for unit in clock.seen.close(start_ms, on_time)]

    def firing(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Version, segment, rule, response, severity and layer of every incident that is open."""
        rules = {rule.name: rule for rule in self.plan.config.rules}
        for cell, state in self.rules.items():
            if state.firing and not state.suppressed_by and cell.rule in rules and not rules[cell.rule].shadow:
                rule = rules[cell.rule]
                segment = f"{cell.dimension}={cell.value}" if cell.dimension else ""
                yield cell.version or "", segment, rule.name, rule.response, rule.severity, str(layer_of(rule))


def _count_decisions(state: ModelState, decisions: Iterable[Decision]) -> None:
    """Adds decisions to the counts of a state, whose mappings are replaced."""
    for name in ("decisions", "actions", "resolved", "suppressed", "shadow"):
        setattr(state, name, dict(getattr(state, name)))
    for decision in decisions:
        rule = decision.rule
        _count(state.decisions, decision.reason)
        if rule.shadow:
            if decision.reason in BEGINNINGS:
                _count(state.shadow, rule.name)
        elif decision.reason in BEGINNINGS:
            _count(state.actions, rule.response)
        elif decision.reason is Reason.SUPPRESSED:
            _count(state.suppressed, rule.response)
        elif decision.reason in ENDS and not decision.state.suppressed_by:
            _count(state.resolved, rule.response)


def _count(tally: dict[str, int], name: str) -> None:
    tally[name] = tally.get(name, 0) + 1


def _labelled(plan: ModelPlan, estimate: Estimate | None, state: ModelState | None) -> LabelledJudge | None:
    if plan.outcomes is None:
        return None
    if state is None:
        return LabelledJudge(plan, estimate, {}, {}, None)
    return LabelledJudge(plan, estimate, dict(state.sums), dict(state.calibrations), state.arrival)
