"""Stage 2, one bucket: partials → windows, actions and the state that a restart goes on from.

After each judged pane there is one outcome. The shell publishes its windows and actions, then its state; a restart
judges again from the last state and arrives at the same records and the same action ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import msgspec

from streams.ack import Ack, Acks
from streams.action import BEGINNINGS, ENDS, Action, Reason
from streams.action_of import action_of, layer_of
from streams.cells import Cells, count_events
from streams.chunk_merge import BooksState, ChunkMerge, ModelPanes
from streams.decide import Decision, decide
from streams.errors import NewerError
from streams.evaluation_progress import EVENTS_CLOCK, EvaluationProgress
from streams.facts.merge import NOTHING_TOLD, FactsMerge, KpiPane, ToldPane
from streams.fingerprint import made_of, unit_print
from streams.inhibit import Incidents
from streams.judge_facts import FactsJudge, KpiClock, kpi_clocks
from streams.judge_outcomes import LabelledJudge
from streams.ledger import Ledger, LedgerState, terms_of
from streams.merge import BucketMerge, ClosedPane, ModelMerge, ModelOutcomes
from streams.orphans import LoggedIncidents, is_suspect, retirements
from streams.panes import NO_MARK, next_start
from streams.parking import Parked, Parking, Phase
from streams.partial import Partial
from streams.plan import Facts, ModelPlan, Plan
from streams.replaying import Replay, Replays
from streams.restore import (
    Kind,
    Restart,
    end_of,
    events_restart,
    events_restarted,
    kpi_restarted,
    overlaps,
    restored,
    retired_model,
    with_gap,
)
from streams.rollup import Retained, Rollup, Unit, UnitId, merged_cells
from streams.rule_state import states_by_cell, states_by_text
from streams.signals.estimate import Estimate
from streams.signals.evaluate import Judge
from streams.signals.names import judges_labels
from streams.signals.result import CellResult, Window
from streams.situation import Judged, Situation
from streams.state import MAX_JUDGED, Gap, ModelState, fits, is_folded
from streams.window import WindowRecord, window_record

MAX_HELD_BYTES = 128 << 20
"""So much of a model's panes waits, in a replay, for topics that are silent."""


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
    """Judges the closed panes of one model, in order."""

    def __init__(
        self,
        plan: ModelPlan,
        state: ModelState | None = None,
        kinds: Collection[Facts] = (),
        progress: EvaluationProgress | None = None,
    ) -> None:
        """`kinds` of facts that are told. `progress`: the record that every new state moves."""
        self.plan, self.kinds = plan, kinds
        self.progress = EvaluationProgress() if progress is None else progress
        self.state = state
        self.made = made_of(plan)
        self.rules = states_by_cell(state.rules) if state else {}
        self.judge = Judge(plan)
        self.labelled = _labelled(plan, self.judge.estimate, state)
        self._rules = tuple(rule for rule in plan.config.rules if not judges_labels(rule.signals) and rule.kpi is None)
        overs_ms = (ms for rule in self._rules for ms in plan.config.overs_ms(rule))
        self._overs_ms = tuple(sorted({plan.config.pane_ms, *overs_ms}))
        self.rollup = Rollup(plan.config.pane_ms, self._overs_ms, plan.segmentation)
        self.facts = FactsJudge(plan, kinds, self._overs_ms, state.jobs if state else {})
        self.kpis = kpi_clocks(plan, kinds)
        self.retained = tuple(self._all_retained())
        self.first_gaps: dict[str, list[Gap]] = {}
        """Of a model that nothing was judged of: what its state begins with."""
        self.follow_gaps()
        self.incidents = Incidents(state.incidents if state else ())
        self.told: dict[int, int] = {}
        """Per judged pane the events of its last record, as long as late ones may still come."""
        self.latest: list[CellResult] = []
        """The last judged window of the pane's length, for the metrics."""

    @property
    def state(self) -> ModelState | None:
        return self._state

    @state.setter
    def state(self, state: ModelState | None) -> None:
        self._state = self.progress.state = state

    def follow_gaps(self) -> None:
        """Tells those that look back what the state says is not known."""
        gaps = self.state.gaps if self.state else self.first_gaps
        self.gaps = gaps.get(EVENTS_CLOCK, [])
        self.facts.history.gaps = self.gaps
        for name, clock in self.kpis.items():
            clock.follow_gaps(gaps.get(name, []))
            clock.first_ms = self.state.kpis_first_ms.get(name) if self.state else None

    def _made(self, units: Iterable[Unit]) -> list[Unit]:
        """The units with the fingerprints of what they depend on."""
        return [replace(unit, made=unit_print(self.plan, unit.stream, folded=is_folded(unit))) for unit in units]

    def close(self, pane: ClosedPane, told: ToldPane = NOTHING_TOLD) -> Outcome:
        end_ms = pane.start_ms + self.plan.config.pane_ms
        since_ms = self.state.first_pane_ms if self.state else pane.start_ms
        units = self.rollup.close(pane.start_ms, pane.on_time)
        forgotten = self.rollup.forget(end_ms)
        units += self.facts.close(pane.start_ms, pane.on_time, told)
        last_event_ms = pane.start_ms if pane.on_time or self.state is None else self.state.last_event_pane_ms
        windows: list[WindowRecord] = []
        judged: dict[int, Judged] = {}
        for over_ms in self._overs_ms:
            window = self._window(end_ms, over_ms, last_event_ms, pane.partial)
            jobs_since_ms = since_ms if told.judges_jobs or self.facts.jobs else None
            cells = self.facts.with_results(self.judge.evaluate(window), window, jobs_since_ms)
            if over_ms == self.plan.config.pane_ms:
                self.latest = cells
            windows += [window_record(self.plan, window, cell, 0) for cell in cells if worth_a_record(cell)]
            judged[over_ms] = Judged(window, cells)
        situation = Situation(self.plan.name, self.plan.config, self.incidents)
        decisions = list(decide(self._rules, judged, self.rules, situation))
        before_state = self.state
        self.told[pane.start_ms] = count_events(pane.on_time)
        self.state = ModelState(
            model=self.plan.name,
            judged_until_ms=end_ms,
            first_pane_ms=since_ms,
            last_event_pane_ms=last_event_ms,
            made=self.made,
            gaps=before_state.gaps if before_state else self.first_gaps,
            judged_events=self._judged_events(end_ms, self.told[pane.start_ms]),
        )
        self._note(before_state, len(windows), decisions)
        units += self._count_requests(pane.start_ms, pane.on_time)
        if self.labelled is not None:
            units += self.labelled.close_events(pane.start_ms, pane.on_time)
        windows += self.revise(pane)
        self._forget(pane.start_ms)
        forgotten += self.facts.history.forget(end_ms)
        forgotten += [unit for clock in self.kpis.values() if clock.seen for unit in clock.seen.forget(end_ms)]
        return Outcome(self.plan.name, windows, *self._actions(decisions), self._made(units), forgotten, self.state)

    def revise(self, pane: ClosedPane) -> list[WindowRecord]:
        """The pane's window with all that has come; nothing if no event has come since it was last told of."""
        events = count_events(pane.on_time) + count_events(pane.welcome)
        if events == self.told.get(pane.start_ms):
            return []
        self.told[pane.start_ms] = events
        end_ms = pane.start_ms + self.plan.config.pane_ms
        cells = merged_cells([pane.on_time, pane.welcome], self.plan.segmentation)
        window = Window(pane.start_ms, end_ms, self.plan.config.pane_ms, cells, partial=True)
        results = self.facts.with_results(self.judge.evaluate(window), window, None)
        return [window_record(self.plan, window, cell, events) for cell in results if worth_a_record(cell)]

    def resume(self, start_ms: int, on_time: Cells, feedback: Cells) -> None:
        """Takes a pane that was judged before the restart, for the windows and the revisions to come."""
        self.rollup.close(start_ms, on_time)
        self.rollup.forget(start_ms + self.plan.config.pane_ms)
        self.facts.resume(start_ms, on_time, feedback)
        self.told[start_ms] = count_events(on_time)
        # What was welcome before the first pane was never judged.
        if self.state is not None and start_ms >= self.state.first_pane_ms:
            self._count_requests(start_ms, on_time)
            if self.labelled is not None:
                self.labelled.resume_events(start_ms, on_time)
        if self.state is not None:
            judged = self._was_judged(start_ms, self.state)
            self.told[start_ms] = self.told[start_ms] if judged is None else judged

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
        yield EVENTS_CLOCK, self.rollup
        yield EVENTS_CLOCK, self.facts.history
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
                yield cell.version or "", segment, cell.rule, rule.response, rule.severity, str(layer_of(rule))

    def _forget(self, start_ms: int) -> None:
        oldest_ms = start_ms - 2 * (self.plan.config.lateness_ms + self.plan.config.pane_ms)
        for at in [at for at in self.told if at < oldest_ms]:
            del self.told[at]

    def _window(self, end_ms: int, over_ms: int, last_event_ms: int, partial: bool) -> Window:
        start_ms, end_ms = self.rollup.span(end_ms, over_ms)
        silent_ms = max(0, end_ms - last_event_ms - self.plan.config.pane_ms)
        partial = partial or (self.state is not None and start_ms <= self.state.first_pane_ms)
        partial = partial or overlaps(self.gaps, start_ms, end_ms)
        return Window(start_ms, end_ms, over_ms, self.rollup.window(start_ms, end_ms), silent_ms, partial)

    def close_labelled(self, pane: ClosedPane, outcomes: ModelOutcomes) -> Outcome:
        """Judges an arrival pane of labels, and the spans of truth that it settles. Some pane of events has been
        judged before."""
        assert self.labelled is not None and self.state is not None
        windows, decisions, forgotten = self.labelled.close(pane, self.rules, self.incidents)
        before, until_ms = self.state, pane.start_ms + self.plan.config.pane_ms
        settled_ms = NO_MARK if before.labels_until_ms is None else before.labels_until_ms
        windows += self.labelled.settle(outcomes, settled_ms, until_ms)
        self.state = msgspec.structs.replace(before, labels_until_ms=until_ms)
        self._note(before, len(windows), decisions)
        return Outcome(self.plan.name, windows, *self._actions(decisions), [], forgotten, self.state)

    def close_kpi(self, name: str, pane: KpiPane) -> Outcome:
        """Judges a pane of a KPI. Every pane of events up to its end has been judged before."""
        assert self.state is not None
        clock, before = self.kpis[name], self.state
        firsts_ms = before.kpis_first_ms
        if name not in before.kpis_until_ms:
            firsts_ms = {**firsts_ms, name: pane.start_ms}
            clock.first_ms = pane.start_ms
        units = clock.resume(pane)
        windows, decisions = clock.close(pane, self.rules, self.incidents)
        end_ms = pane.start_ms + self.plan.config.pane_ms
        untils_ms = {**before.kpis_until_ms, name: end_ms}
        self.state = msgspec.structs.replace(before, kpis_until_ms=untils_ms, kpis_first_ms=firsts_ms)
        self._note(before, len(windows), decisions)
        forgotten = [unit for history in clock.histories for unit in history.forget(end_ms)]
        return Outcome(self.plan.name, windows, *self._actions(decisions), self._made(units), forgotten, self.state)

    def _actions(self, decisions: Iterable[Decision]) -> tuple[list[Action], list[Action]]:
        """To publish, and those of shadow rules."""
        found: tuple[list[Action], list[Action]] = ([], [])
        for decision in decisions:
            if decision.published:
                found[decision.rule.shadow].append(action_of(self.plan.name, self.plan.config, decision))
        return found

    def _note(self, before: ModelState | None, windows: int, decisions: Iterable[Decision]) -> None:
        """Carries what is remembered over into the state, and adds what was decided."""
        assert self.state is not None
        state = self.state
        for name in ("decisions", "actions", "resolved", "suppressed", "shadow"):
            setattr(state, name, dict(getattr(before, name)) if before else {})
        for decision in decisions:
            _count(state.decisions, decision.reason)
            if decision.rule.shadow:
                if decision.reason in BEGINNINGS:
                    _count(state.shadow, decision.rule.name)
            elif decision.reason in BEGINNINGS:
                _count(state.actions, decision.rule.response)
            elif decision.reason is Reason.SUPPRESSED:
                _count(state.suppressed, decision.rule.response)
            elif decision.reason in ENDS and not decision.state.suppressed_by:
                _count(state.resolved, decision.rule.response)
        if state.labels_until_ms is None and before:
            state.labels_until_ms = before.labels_until_ms
        if not state.kpis_until_ms and before:
            state.kpis_until_ms, state.kpis_first_ms = before.kpis_until_ms, before.kpis_first_ms
        state.jobs = dict(self.facts.jobs)
        state.windows = (before.windows if before else 0) + windows
        state.rules = states_by_text(self.rules)
        if self.labelled is not None:
            state.sums, state.calibrations = dict(self.labelled.sums), dict(self.labelled.calibrations)
            state.arrival = self.labelled.arrival
        self.incidents.forget(self._needed_from_ms(state))
        state.incidents = self.incidents.kept()

    def _needed_from_ms(self, state: ModelState) -> int:
        """Incidents that were over before can't explain anything that is still to be judged."""
        needed_ms = [state.judged_until_ms]
        if self.labelled is not None:
            until_ms = state.first_pane_ms if state.labels_until_ms is None else state.labels_until_ms
            needed_ms.append(until_ms - self.plan.horizon_ms - self.plan.config.pane_ms)
        for name, clock in self.kpis.items():
            # A KPI that has told nothing yet may tell of everything.
            needed_ms.append(state.kpis_until_ms.get(name, state.first_pane_ms) - clock.overs_ms[-1])
        return min(needed_ms)


def _count(tally: dict[str, int], name: str) -> None:
    tally[name] = tally.get(name, 0) + 1


def _labelled(plan: ModelPlan, estimate: Estimate | None, state: ModelState | None) -> LabelledJudge | None:
    if plan.outcomes is None:
        return None
    if state is None:
        return LabelledJudge(plan, estimate, {}, {}, None)
    return LabelledJudge(plan, estimate, dict(state.sums), dict(state.calibrations), state.arrival)


def worth_a_record(cell: CellResult) -> bool:
    """A segment without events has nothing to say that the model's record does not."""
    return cell.events > 0 or (cell.version is None and cell.segment == ("", ""))


class BucketJudge:
    """Merge, judgement and ledgers of all models of one bucket."""

    def __init__(
        self,
        plan: Plan,
        bucket: int,
        topic: str,
        partitions: int,
        told: Mapping[Facts, int] | None = None,
        acks: Acks | None = None,
    ) -> None:
        """`told`: the kinds of facts that are read, and into how many partitions each is written. `acks`: what is known
        of them; they may be of other buckets' actions too."""
        self.parking = Parking()
        progress = {model.name: EvaluationProgress() for model in plan.in_bucket(bucket)}
        self.merge = BucketMerge(plan, bucket, topic, partitions, self.parking, progress)
        self.facts = FactsMerge(plan, bucket, told or {}, self.parking, progress)
        self.judges: dict[str, ModelJudge] = {}
        self.ledgers: dict[str, Ledger] = {}
        for name, model in self.merge.models.items():
            with self.parking.guard(name, Phase.RESTORE):
                self.judges[name] = ModelJudge(model.plan, kinds=self.facts.topics, progress=model.progress)
                self.ledgers[name] = Ledger(terms_of(model.plan))
        self.acks = Acks() if acks is None else acks
        self._replays = Replays()
        self.awaited: dict[str, tuple[str, ...]] = {}
        """By model in a replay, the topics whose silence is not judged."""
        self.restarts: list[tuple[str, Restart]] = []
        """By model, what a restore could not go on with; whoever tells of it empties it."""
        self.stands_still = False
        """Whether a later release wrote something that all models of the bucket depend on: all of them are parked, and
        nothing of the bucket is folded or deleted by this process."""
        self._opening: list[Outcome] = []
        """What is published before anything is judged: the ends of incidents that nothing judges any more."""
        self._suspects: dict[str, ModelState | None] = {}
        """Models whose state was kept under another configuration, or that are gone, with their states as kept."""
        self._labels_waiting: set[str] = set()
        """Models whose labels the join reads again: what was judged of them is taken up when it has."""
        self._unfit: dict[str, Counter[str]] = {}
        """By model, roll-ups that were left out, by stream."""

    def apply(self, partial: Partial, key: bytes = b"", *, fresh: bool = True) -> None:
        """Takes a publication; SketchError if it is none of this bucket's. Side inputs that no model declares any more
        are left out: should one declare them again, their partials are still on the topic."""
        merge = self._merge_of(partial.topic)
        if merge is not None:
            merge.apply(partial, key, fresh=fresh)

    def _merge_of(self, topic: str) -> BucketMerge | ChunkMerge[ModelPanes] | None:
        """What a topic's partials and books belong to; None: to a side input that is not read."""
        facts = self.facts.topic(topic)
        if facts is not None:
            return facts
        plan = self.merge.plan
        is_side_input = topic != self.merge.topic and topic in map(plan.topic_of, Facts)
        return None if is_side_input else self.merge

    def stand_still(self, error: NewerError) -> list[str]:
        """Parks all models of the bucket, whose names it gives: a record of theirs is of a later release."""
        self.stands_still = True
        for name in self.merge.models:
            self.parking.park(name, Phase.FOLD, error)
        self.parking.news()  # one line for the record says it
        return list(self.merge.models)

    def restore(self, state: ModelState) -> None:
        """Goes on from a model's state, as far as it fits the plan. Must come before `resume`.

        The state of a model that belongs to another bucket is that bucket's matter, and changes nothing here.
        """
        if self.merge.plan.config.bucket(state.model) != self.merge.bucket:
            return
        model, judge = self.merge.models.get(state.model), self.judges.get(state.model)
        if model is not None and judge is None:
            return  # parked
        if is_suspect(state, model.plan if model else None, judge.made if judge else None):
            self._suspects[state.model] = state
        found = restored(state, model.plan, judge.made) if model is not None and judge else retired_model(state)
        self.restarts += [(state.model, restart) for restart in found.restarts]
        if model is not None:
            with self.parking.guard(state.model, Phase.RESTORE):
                self.judges[state.model] = ModelJudge(model.plan, found.state, self.facts.topics, model.progress)
                self._follow(state.model)
        if found.retired:
            self._opening.append(Outcome(state.model, (), found.retired, state=found.state))

    def logged_incidents(self) -> LoggedIncidents | None:
        """What must be read of the actions topic before `resume`, once state and partials are read; None: nothing.

        A process that was killed may have published actions that no state knows of. Where the model is evaluated again
        under the same configuration, it finds them again.
        """
        stateless = {name: None for name, judge in self.judges.items() if judge.state is None}
        self._suspects |= {name: None for name in stateless if self.merge.models[name].panes}
        plan, bucket, suspects = self.merge.plan, self.merge.bucket, self._suspects
        if not suspects or self.stands_still:
            return None

        def is_wanted(name: str) -> bool:
            return plan.config.bucket(name) == bucket and (name in suspects or name not in plan.models)

        return LoggedIncidents(is_wanted)

    def close_unknown(self, logged: LoggedIncidents) -> None:
        """Closes the incidents that are open on the topic, that no state knows, and that the plan no longer names."""
        states = {name: state for name, state in self._suspects.items() if state is not None}
        for action in retirements(logged.open(), states, self.merge.plan.models):
            text = f"{action.data.rule}: no state knows its open incident since {action.data.since}; it is closed"
            self.restarts.append((action.subject, Restart(Kind.RULE, text)))
            self._opening.append(Outcome(action.subject, (), [action]))
        self._suspects = {}

    def _follow(self, name: str) -> None:
        """Leaves out what a model's state says is not whole."""
        model, state = self.merge.models[name], self.judges[name].state
        if state is None:
            return
        whole_ms = end_of(state.gaps.get(EVENTS_CLOCK, ()))
        if whole_ms is not None:
            model.begin_at(whole_ms)
        self.judges[name].follow_gaps()

    def restore_unit(self, name: str, unit: Unit) -> None:
        """Takes a roll-up; SketchError for one that no worker has written. Must come after the model's state."""
        fits = True
        if name in self.judges:
            with self.parking.guard(name, Phase.RESTORE):
                fits = self.judges[name].restore_unit(unit)
        if not fits:
            self._unfit.setdefault(name, Counter())[unit.stream] += 1

    def restore_ledger(self, state: LedgerState) -> None:
        if state.model in self.ledgers:
            terms = self.ledgers[state.model].terms
            if state.truth_ms not in (0, terms.truth_ms) and state.truth.spans:
                text = "the spans by which the truth is judged were changed: those of before are dropped"
                self.restarts.append((state.model, Restart(Kind.LEDGER, text)))
            with self.parking.guard(state.model, Phase.RESTORE):
                self.ledgers[state.model] = Ledger(terms, state)

    def take_ack(self, ack: Ack) -> None:
        """Gives an ack to the ledger that knows its action."""
        for name, ledger in self.ledgers.items():
            with self.parking.guard(name, Phase.LEDGER):
                if ledger.knows(ack.action_id):
                    ledger.take_ack(ack)

    def resume(self) -> Iterator[None]:
        """After the rebuild: gives the judges the panes that were judged before, for the windows to come.

        It may be minutes' work, so it stops after every pane, to let others have their turn.
        """
        for ack in self.acks:
            self.take_ack(ack)
        self._settle()
        for name, model in self.merge.models.items():
            yield from self.parking.guarded(name, Phase.RESTORE, self._resume(name, model))

    def _resume(self, name: str, model: ModelMerge) -> Iterator[None]:
        judge = self.judges[name]
        judge.drop_units()
        if model.judged_until_ms is None:
            return
        for start_ms in sorted(at for at in model.panes if at < model.judged_until_ms):
            judge.resume(start_ms, model.panes[start_ms].cells()[0], self.facts.feedback(name, start_ms))
            yield
        if name not in self._labels_waiting:
            yield from self._resume_labels(name)
        for clock in judge.kpis.values():
            for pane in self.facts.judged(name, clock):
                clock.resume(pane)
                yield

    def _resume_labels(self, name: str) -> Iterator[None]:
        """Gives a model's judge of labels what was judged of them before."""
        model, labelled = self.merge.models[name], self.judges[name].labelled
        until_ms = model.outcomes.judged_until_ms
        if labelled is None or model.first_pane_ms is None or model.judged_until_ms is None:
            return
        labelled.resume_cohorts(model.outcomes, model.first_pane_ms, model.judged_until_ms)
        for start_ms in sorted(at for at in model.outcomes.arrivals if until_ms is not None and at < until_ms):
            labelled.resume(ClosedPane(start_ms, *model.outcomes.arrivals[start_ms].cells(), partial=False))
            yield

    def _settle(self) -> None:
        """After a rebuild: what chunks hold for good that were counted under another configuration is in no pane of
        ours. Judgement begins after it, so that no window is taken for whole that is not."""
        clocks = {name: judge.kpis.values() for name, judge in self.judges.items()}
        events, facts = self.merge.settle(), self.facts.settle(clocks)
        for name, model in self.merge.models.items():
            with self.parking.guard(name, Phase.RESTORE):
                self._settle_model(name, model, events, facts)
        self._opening = [
            replace(found, state=self.judges[found.model].state) if found.model in self.judges else found
            for found in self._opening
        ]

    def _settle_model(
        self, name: str, model: ModelMerge, events: Mapping[str, int], facts: Mapping[tuple[str, str], int]
    ) -> None:
        if model.outcomes.has_foreign and model.plan.outcomes is not None:
            self._labels_waiting.add(name)
        if name in self.judges:
            judge, state = self.judges[name], self.judges[name].state
            ends_ms = [at for at in (events.get(name), facts.get((name, ""))) if at is not None]
            if ends_ms and state is None:
                model.begin_at(next_start(max(ends_ms), model.plan.config.pane_ms))
            elif ends_ms and state is not None and max(ends_ms) > state.judged_until_ms:
                judge.state = events_restarted(state, model.plan, judge.made, max(ends_ms))
                why = "chunks of the source were counted under another configuration"
                self.restarts.append((name, events_restart(judge.state, state.judged_until_ms, why)))
            for clock in judge.kpis:
                end_ms = facts.get((name, clock))
                if end_ms is not None and judge.state and end_ms > judge.state.kpis_until_ms.get(clock, NO_MARK):
                    judge.state = kpi_restarted(judge.state, model.plan, clock, end_ms)
            for stream, number in self._unfit.pop(name, Counter()).items():
                text = f"{number} hours and days of {stream or 'events'} were counted under another configuration"
                self.restarts.append((name, Restart(Kind.ROLLUP, f"{text}: they are dropped")))
            self._follow(name)

    def advance(self) -> Iterator[Outcome]:
        """Judges what the watermarks allow, and revises what changed after it was judged.

        It may be minutes' work, so it stops after every pane and cohort, to let others have their turn: an outcome may
        be empty. A model whose evaluation raises is parked: the others go on, and an outcome says so.
        """
        yield from self.parked_now()
        while self._opening:
            if self._opening[0].model not in self.parking:
                yield self._entered(self._opening[0])
            self._opening.pop(0)  # not before: whoever stops here asks for it again
        for name, model in self.merge.models.items():
            for phase, outcomes in (
                (Phase.EVALUATE, self._events(name, model)),
                (Phase.KPIS, self._kpis(name, model)),
                (Phase.LABELS, self._labelled(name, model)),
            ):
                yield from self.parking.guarded(name, phase, map(self._entered, outcomes))
            yield from self.parked_now()

    def parked_now(self) -> list[Outcome]:
        """An outcome for each model that was parked since the last ones were made."""
        return [Outcome(parked.model, (), (), parked=parked) for parked in self.parking.news()]

    def _entered(self, outcome: Outcome) -> Outcome:
        """The outcome, when the ledger has taken it."""
        ledger = self.ledgers.get(outcome.model)
        if ledger is None:
            return outcome  # the end of an incident of a model that is gone
        for window in outcome.windows:
            ledger.take_window(window)
        for actions, shadow in ((outcome.actions, False), (outcome.shadows, True)):
            for action in actions:
                ledger.take_action(action, shadow)
                for ack in self.acks.of(action.id):
                    ledger.take_ack(ack)
        return outcome if outcome.state is None else replace(outcome, ledger=ledger.news())

    def _events(self, name: str, model: ModelMerge) -> Iterator[Outcome]:
        self._follow_replay(name, model)
        # Before too: after a rebuild every judged pane may have changed, and closing many forgets what was told.
        yield from self._revisions(name, model)
        self._begin_whole(name, model)
        for pane in self.merge.close(model):
            told = self.facts.take(name, pane.start_ms)
            if model.replay is not None and not self.facts.has_runs(name):
                told = replace(told, judges_jobs=False)
            yield self.judges[name].close(pane, told)
        yield from self._revisions(name, model)

    def _follow_replay(self, name: str, model: ModelMerge) -> None:
        """Notes whether a past is replayed: then events wait for topics that are silent, while memory allows it."""
        labels = (known.seen_at_ms for known in self.merge.label_sources.values())
        heard_ms = chain(self.facts.heard_ms(name), labels)
        model.replay = replay = self._replays.note(
            name, model.plan.config.idle_ms, self.merge.old_marks(model), heard_ms
        )
        is_full = replay is not None and self.merge.held_bytes(model) >= MAX_HELD_BYTES
        model.limit_ms = self.facts.limit_ms(name, None if is_full else replay)
        self.awaited.pop(name, None)
        if replay is not None and (awaited := self._awaited(name, model, replay, is_full)):
            self.awaited[name] = awaited

    def _awaited(self, name: str, model: ModelMerge, replay: Replay, is_full: bool) -> tuple[str, ...]:
        topics = [] if is_full else self.facts.awaited(name, replay)
        if model.plan.outcomes is not None and self.merge.awaits_labels(model):
            topics.append(self.merge.plan.config.kafka.labels)
        return tuple(topics)

    def _begin_whole(self, name: str, model: ModelMerge) -> None:
        """Where chunks were counted while the model was not declared: moves its clock to the first pane that lacks none
        of their events. Until then no partition's part is known, and the watermark stands."""
        from_ms = model.whole_from_ms()
        if from_ms == NO_MARK or self.merge.watermark_ms(model) is None:
            return
        from_ms = next_start(from_ms, model.plan.config.pane_ms)
        judge = self.judges[name]
        if judge.state is None:
            # In the state too: a restart meets those panes again, and must not take them for late ones.
            judge.first_gaps = with_gap({}, EVENTS_CLOCK, (min(model.named_from_ms.values()), from_ms))
            judge.follow_gaps()
            model.begin_at(from_ms)
        elif from_ms > judge.state.judged_until_ms:
            before_ms = judge.state.judged_until_ms
            judge.state = events_restarted(judge.state, model.plan, judge.made, from_ms)
            why = "chunks of the source were counted while the model was not declared"
            self.restarts.append((name, events_restart(judge.state, before_ms, why)))
            self._follow(name)

    def _labelled(self, name: str, model: ModelMerge) -> Iterator[Outcome]:
        """What the labels say: cohorts and arrival panes that became known, and the panes that can be judged."""
        judge = self.judges[name]
        labelled = judge.labelled
        if labelled is None:
            return
        if name in self._labels_waiting:
            if self.merge.outcome_watermark_ms(model) is None:
                return
            list(self._resume_labels(name))
            self._labels_waiting.discard(name)
            model.outcomes.changed_arrivals.clear()
        revised: list[int] = []
        for start_ms, cells in self.merge.revised_cohorts(model):
            revised.append(start_ms)
            yield Outcome(name, labelled.revise_cohort(start_ms, cells), ())
        for windows in labelled.revise_truth(model.outcomes, revised):
            yield Outcome(name, windows, ())
        for pane in self.merge.revised_arrivals(model):
            yield Outcome(name, labelled.revise_arrival(pane), ())
        for pane in self.merge.close_outcomes(model, labelled.reach_ms):
            yield judge.close_labelled(pane, model.outcomes)

    def _kpis(self, name: str, model: ModelMerge) -> Iterator[Outcome]:
        """What the business tells, as far as the events of its time have been judged."""
        judge = self.judges[name]
        if not judge.kpis or judge.state is None:
            return
        watermark_ms = self.merge.watermark_ms(model)
        if watermark_ms is None:
            return
        for clock in judge.kpis.values():
            whole_ms = self.facts.whole_from_ms(name, clock)
            for kpi_pane in self.facts.close(name, clock, watermark_ms, max(judge.state.first_pane_ms, whole_ms)):
                self._begin_kpi(judge, clock, whole_ms)
                yield judge.close_kpi(clock.name, kpi_pane)
            for kpi_pane in self.facts.revised(name, clock, judge.state.first_pane_ms):
                yield Outcome(name, clock.revise(kpi_pane), ())
        self.facts.revisions_told(name)
        self.facts.forget_unnamed(name, list(judge.kpis.values()))

    def _begin_kpi(self, judge: ModelJudge, clock: KpiClock, from_ms: int) -> None:
        """Before the first pane of a KPI that lacks no observation of chunks that were counted while it was not
        declared: notes in the state that those of before may lack some."""
        state = judge.state
        if state is not None and from_ms > state.kpis_until_ms.get(clock.name, NO_MARK):
            judge.state = kpi_restarted(state, judge.plan, clock.name, from_ms)
            judge.follow_gaps()

    def expire(self) -> list[bytes]:
        """Forgets what no window, revision or rebuild needs; gives the keys of the records to be deleted."""
        return [*self.merge.expire(), *self.facts.expire(self.merge.models)]

    def books_states(self) -> dict[str, BooksState]:
        """What must be kept, by topic, when the books of folded chunks are deleted from the log."""
        facts = {merge.topic: merge.books_state() for merge in self.facts.topics.values()}
        return {self.merge.topic: self.merge.books_state(), **facts}

    def restore_books(self, topic: str, state: BooksState) -> None:
        """Must come before the first `apply`."""
        merge = self._merge_of(topic)
        if merge is not None:
            merge.restore_books(state)

    def _revisions(self, name: str, model: ModelMerge) -> Iterator[Outcome]:
        for pane in self.merge.revised(model):
            yield Outcome(name, self.judges[name].revise(pane), ())
