"""A past whose topics are sent one after the other, in any order, gives the actions and the windows of the backtest."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import MonkeyPatch

from streams.backtest import TOPIC, Backtest
from streams.chunk import ChunkFold
from streams.facts.fold import FactFold, FeedbackFold, fact_fold
from streams.join.fold import JoinFold
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.partial import key_of, pack, unpack
from streams.plan import Facts, Plan
from streams.records import Records
from streams.source import SourceFold
from streams.store import MemoryStore
from tests import scenario
from tests.laws.test_replay import exact
from tests.replay.test_labelled_streams import MODEL, START_MS

NOW_MS = START_MS + 10**10
PARTITIONS = {Facts.FEEDBACK: 1, Facts.RUNS: 2, Facts.OUTCOMES: 2}
"""The second of runs and of KPIs has no record: its silence holds nothing up for good."""
TOPICS = ("inference", "labels", *Facts)
Place = tuple[str, int]


@functools.cache
def plan() -> Plan:
    return scenario.plan()


@functools.cache
def values() -> Mapping[str, Sequence[bytes]]:
    events, labels, told = scenario.stream()
    return {"inference": events, "labels": labels, **{str(kind): said for kind, said in told.items()}}


class Worker:
    """Stage 1 of all topics, and stage 2 of the model's bucket, with a clock that the test moves."""

    def __init__(self, clock_ms: int = NOW_MS) -> None:
        self.clock_ms = clock_ms
        self.join = JoinFold(plan(), "labels", 0, MemoryStore(), clock_ms)
        self.source = SourceFold(plan(), TOPIC, 0, None, clock_ms, join=self.join)
        self.facts: dict[Place, FactFold] = {
            (str(kind), at): fact_fold(kind, plan(), at, None, clock_ms, self.join)
            for kind, count in PARTITIONS.items()
            for at in range(count)
        }
        self.bucket = plan().config.bucket(MODEL)
        self.judge = BucketJudge(plan(), self.bucket, TOPIC, 1, PARTITIONS)
        self.read = dict.fromkeys(TOPICS, 0)
        self.log: dict[bytes, bytes] = {}
        self.windows: dict[bytes, Any] = {}
        self.actions: list[str] = []

    def send(self, topic: str, part: float = 1.0) -> None:
        """Reads a topic up to a part of it."""
        start, end = self.read[topic], int(len(values()[topic]) * part)
        said = values()[topic][start:end]
        self.read[topic] = max(start, end)
        fold: ChunkFold = self.source if topic in ("inference", "labels") else self.facts[topic, 0]
        take = self.source.take_labels if topic == "labels" else fold.take
        if said:
            records = Records(range(start, end), [self.clock_ms] * len(said), said)
            self._apply(partial for step in take(records, self.clock_ms) for partial in step.partials)
        self.publish()

    def passes(self, ms: int) -> None:
        """Time goes by, and the heartbeats say that nothing came."""
        for step_ms in (ms // 2, ms - ms // 2):
            self.clock_ms += step_ms
            self.publish()

    def publish(self, *, final: bool = False) -> None:
        self.join.caught_up_ms = self.clock_ms
        for fold in (self.source, *self.facts.values()):
            if isinstance(fold, FeedbackFold):
                fold.events_caught_up_ms = self.clock_ms
            self._apply(fold.publish(self.clock_ms, caught_up=True, final=final).partials)

    def _apply(self, partials: Any) -> None:
        for partial in partials:
            if partial.bucket == self.bucket:
                key = key_of(partial, "w")
                self.log.pop(key, None)
                self.log[key] = pack(partial)
                self.judge.apply(unpack(self.log[key]), key)
        self.take(self.judge.advance())

    def take(self, outcomes: Any) -> None:
        for outcome in outcomes:
            assert outcome.parked is None, outcome.parked
            self.windows |= published(outcome)
            self.actions += [action.id for action in outcome.actions]

    @property
    def judged(self) -> tuple[dict[bytes, Any], set[str]]:
        return self.windows, set(self.actions)


def published(outcome: Outcome) -> dict[bytes, Any]:
    """Windows on what was on time, by their keys."""
    return {window.key: exact(window) for window in outcome.windows if window.revision == 0}


@functools.cache
def expected() -> tuple[dict[bytes, Any], set[str]]:
    events, labels, facts = scenario.stream()
    run = Backtest(plan(), NOW_MS, labelled=True, told=facts)
    windows: dict[bytes, Any] = {}
    actions: set[str] = set()
    for outcome in run.run(events, labels, facts):
        windows |= published(outcome)
        actions |= {action.id for action in outcome.actions}
    return windows, actions


def replayed(order: Sequence[str], drawn: random.Random) -> Worker:
    worker = Worker()
    for topic in order:
        for part in (0.3 * drawn.random(), 0.3 + 0.5 * drawn.random(), 1.0):
            worker.send(topic, part)
            worker.passes(drawn.randrange(5_000))
        worker.passes(drawn.randrange(40_000))
    worker.publish(final=True)
    return worker


@settings(max_examples=3)
@given(st.integers(0, 10_000))
def test_the_order_in_which_topics_are_sent_changes_nothing(seed: int) -> None:
    drawn = random.Random(seed)
    order = drawn.sample(TOPICS, len(TOPICS))
    windows, actions = expected()
    assert replayed(order, drawn).judged == (windows, actions)


def test_there_is_something_to_be_wrong_about(monkeypatch: MonkeyPatch) -> None:
    """Guards the law: without the wait for topics that are silent, many actions are others."""
    monkeypatch.setattr("streams.replaying.BEHIND_MS", 2**62)
    worker = replayed(TOPICS, random.Random(1))
    assert len(expected()[1] - set(worker.actions)) > 5
    assert len(set(worker.actions) - expected()[1]) > 5
