"""Stage 2, one bucket: partials → windows, actions and the state that a restart goes on from.

After each judged pane there is one outcome. The shell publishes its windows and actions, then its state; a restart
judges again from the last state and arrives at the same records and the same action ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

from streams.ack import Ack, Acks
from streams.chunk_merge import ChunkMerge
from streams.errors import NewerError
from streams.evaluation_progress import EVENTS_CLOCK, EvaluationProgress
from streams.facts.merge import FactsMerge
from streams.judge_kpi import KpiClock
from streams.judge_model import ModelJudge, Outcome
from streams.ledger import Ledger, LedgerState, terms_of
from streams.merge import BucketMerge, ClosedPane, ModelMerge
from streams.model_panes import BooksState, ModelPanes
from streams.orphans import LoggedIncidents, is_suspect, retirements
from streams.panes import NO_MARK, next_start
from streams.parking import Parking, Phase
from streams.partial import Partial
from streams.plan import Facts, Plan
from streams.replaying import Replay, Replays
from streams.restore import (
    Kind,
    Restart,
    end_of,
    events_restart,
    events_restarted,
    kpi_restarted,
    restored,
    retired_model,
    with_gap,
)
from streams.rollup import Unit
from streams.state import ModelState

MAX_HELD_BYTES = 128 << 20
"""So much of a model's panes waits, in a replay, for topics that are silent."""


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
                yield Outcome(name, clock.revised(kpi_pane), ())
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
            yield Outcome(name, self.judges[name].events.revised(pane), ())
