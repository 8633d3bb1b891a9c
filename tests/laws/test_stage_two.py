"""Stage 2, killed between any two of its sends and rebuilt from the logs, ends up with the same windows and actions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.action import Action
from streams.backtest import TOPIC
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.model_panes import BooksState
from streams.partial import key_of, pack, unpack
from streams.plan import Plan
from streams.records import Records
from streams.source import SourceFold
from streams.state import ModelState, pack_unit, unpack_unit
from streams.window import WindowRecord
from tests.laws.test_replay import NOW_MS, PLAN, exact, messy
from tests.synthetic import MODEL, Event, events, lines

BUCKET = PLAN.config.bucket(MODEL)


class Killed(Exception):
    """The process is gone."""


@dataclass
class Topics:
    """What is on Kafka, of one bucket. A kill comes before the send with its number."""

    plan: Plan = PLAN
    model: str = MODEL
    partials: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    state: dict[bytes, bytes] = field(default_factory=dict)
    windows: list[WindowRecord] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    sends: int = 0
    kills: frozenset[int] = frozenset()

    def sending(self) -> None:
        self.sends += 1
        if self.sends in self.kills:
            raise Killed

    def publish(self, outcome: Outcome) -> None:
        """As the shell does: windows and actions, then units, then the one record that says they are out."""
        for window in outcome.windows:
            self.sending()
            self.windows.append(window)
        for action in outcome.actions:
            self.sending()
            self.actions.append(action)
        if outcome.state is None:
            return
        for unit in outcome.units:
            self.sending()
            self.state[f"unit/{unit.id}".encode()] = pack_unit(outcome.model, unit)
        for unit_id in outcome.forgotten:
            self.sending()
            self.state.pop(f"unit/{unit_id}".encode(), None)
        self.sending()
        self.state[outcome.model.encode()] = msgspec.json.encode(outcome.state)

    def expire(self, judge: BucketJudge) -> None:
        books = msgspec.json.encode(judge.merge.books_state())
        keys = judge.merge.expire()
        if keys:
            self.sending()
            self.state[b"books"] = books
            for key in keys:
                self.sending()
                self.partials.append((key, None))

    def rebuilt(self) -> BucketJudge:
        judge = BucketJudge(self.plan, self.plan.config.bucket(self.model), TOPIC, 1)
        for key, value in self.state.items():
            if key == b"books":
                judge.merge.restore_books(msgspec.json.decode(value, type=BooksState))
            elif key.startswith(b"unit/"):
                judge.restore_unit(*unpack_unit(value))
            else:
                judge.restore(msgspec.json.decode(value, type=ModelState))
        for key, value in self.partials:
            if value is not None:
                judge.merge.apply(unpack(value), key, fresh=False)
        list(judge.resume())
        return judge

    def compact(self) -> None:
        """The broker keeps the last record of each key, and in time drops the tombstones too."""
        last = {key: at for at, (key, _) in enumerate(self.partials)}
        self.partials = [(key, value) for at, (key, value) in enumerate(self.partials) if last[key] == at and value]

    def final_windows(self) -> dict[bytes, object]:
        found: dict[bytes, WindowRecord] = {}
        for window in self.windows:
            if window.key not in found or window.revision >= found[window.key].revision:
                found[window.key] = window
        return {key: exact(window) for key, window in found.items()}


def batches_of_partials(stream: Sequence[Event], size: int, plan: Plan = PLAN) -> Iterator[list[tuple[bytes, bytes]]]:
    """What stage 1 writes for this bucket, batch by batch of the source topic."""
    fold, values = SourceFold(plan, TOPIC, 0, None, NOW_MS), lines(stream)
    for at in range(0, len(values), size):
        part = values[at : at + size]
        steps = fold.take(Records(range(at, at + len(part)), [NOW_MS] * len(part), part), NOW_MS)
        steps.append(fold.publish(NOW_MS, caught_up=False, final=at + size >= len(values)))
        yield [(key_of(p, "w"), pack(p)) for step in steps for p in step.partials if p.bucket == BUCKET]


Batches = Sequence[list[tuple[bytes, bytes]]]


def run(batches: Batches, kills: frozenset[int] = frozenset(), seed: int = 0, topics: Topics | None = None) -> Topics:
    """Stage 2 over the batches; after a kill another process goes on, which has read the log as far as it goes."""
    drawn, topics = random.Random(seed), topics or Topics()
    topics.kills = kills
    judge = topics.rebuilt()
    for at, batch in enumerate(batches):
        topics.partials += batch
        new: Sequence[tuple[bytes, bytes]] | None = batch
        while new is not None:
            try:
                for key, value in new:
                    judge.merge.apply(unpack(value), key)
                for outcome in judge.advance():
                    topics.publish(outcome)
                if at % 3 == 2:
                    topics.expire(judge)
                new = None
            except Killed:
                if drawn.random() < 0.5:
                    topics.compact()
                judge, new = topics.rebuilt(), []
    return topics


@settings(max_examples=5)
@given(messy(6), st.data())
def test_a_kill_between_any_two_sends_leaves_no_trace(stream: list[Event], data: st.DataObject) -> None:
    batches = list(batches_of_partials(stream, 700))
    calm = run(batches)
    kills = data.draw(st.frozensets(st.integers(1, calm.sends + 5), min_size=1, max_size=8))
    killed = run(batches, kills, data.draw(st.integers(0, 99)))
    assert killed.final_windows() == calm.final_windows()
    assert {action.id for action in killed.actions} == {action.id for action in calm.actions}
    repeats = {action.id: msgspec.structs.replace(action) for action in calm.actions}
    assert all(repeats[action.id] == action for action in killed.actions)
    assert killed.state[MODEL.encode()] == calm.state[MODEL.encode()]
    assert killed.rebuilt().merge.models[MODEL].books == calm.rebuilt().merge.models[MODEL].books


def test_what_was_told_is_not_told_again_though_much_is_to_be_judged_after_a_restart() -> None:
    """More panes than a worker remembers the published counts of."""
    stream = list(events(30, 7, []))
    first, *rest = batches_of_partials(stream, len(stream) // 6)
    topics = run([first])
    told = len(topics.windows)
    assert told
    for batch in rest:
        topics.partials += batch
    for outcome in topics.rebuilt().advance():
        topics.publish(outcome)
    assert len(topics.windows) > told
    assert topics.final_windows() == run([first, *rest]).final_windows()
    assert all(window.revision == 0 for window in topics.windows)


def test_the_drawn_runs_do_act_and_are_killed() -> None:
    """Guards the law: there are actions and revisions to lose, and the kills do happen."""
    seen = {"actions": 0, "revisions": 0, "sends": 0}

    @settings(max_examples=3)
    @given(messy(6))
    def draw(stream: list[Event]) -> None:
        calm = run(list(batches_of_partials(stream, 700)))
        seen["actions"] += len(calm.actions)
        seen["revisions"] += sum(window.revision > 0 for window in calm.windows)
        seen["sends"] += calm.sends
        assert run(list(batches_of_partials(stream, 700)), frozenset({3, 9, 12})).sends > calm.sends

    draw()
    assert min(seen.values()) > 1
