"""The serving side may tell of its requests days after the events: they are judged as if it had told in time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.backtest import TOPIC
from streams.duration import HOUR_MS
from streams.facts.fold import OutcomeFold
from streams.judge import BucketJudge
from streams.partial import Partial, key_of, pack, unpack
from streams.plan import Facts
from streams.records import Records
from streams.rollup import UnitId
from streams.source import SourceFold
from streams.state import ModelState, pack_unit, unpack_unit
from streams.window import Clock, WindowRecord
from tests.strategies import MINUTE_MS, START_MS, plan_of

HOURS, PER_MINUTE = 30, 5
NOW_MS = START_MS + HOURS * HOUR_MS
LOST = range(20 * 60, 21 * 60)
"""Minutes of which half of the events never come."""
RULES = """
      - {name: requests-lost, signals: [capture_ratio], response: data_incident, over: 30m}
      - {name: requests-lost-slowly, signals: [capture_ratio], response: data_incident, over: 3h}
"""
PLAN = plan_of(
    f"""
models:
  shop:
    pane: 5m
    grace: 1m
    lateness: 10m
    served: requests
    features: {{amount: {{type: numeric}}}}
    rules:{RULES}"""
)
MODEL = "shop"
BUCKET = PLAN.config.bucket(MODEL)


def events(minute: int) -> list[bytes]:
    rows = [
        {"event_id": f"{minute}-{number}", "ts": START_MS + minute * MINUTE_MS + number, "model": MODEL, "features": {}}
        for number in range(PER_MINUTE * 100 // (200 if minute in LOST else 100))
    ]
    return [json.dumps(row).encode() for row in rows]


def served(minute: int) -> list[bytes]:
    row = {"model": MODEL, "ts": START_MS + minute * MINUTE_MS + 30_000, "kpi": "requests", "value": PER_MINUTE}
    return [json.dumps(row).encode()]


class Run:
    """Both topics are read by hours; a restart goes on from what a worker has in `state`."""

    def __init__(self) -> None:
        self.folds = {
            TOPIC: SourceFold(PLAN, TOPIC, 0, None, NOW_MS),
            "outcomes": OutcomeFold(PLAN, "outcomes", 0, None, NOW_MS),
        }
        self.read = dict.fromkeys(self.folds, 0)
        self.offsets = dict.fromkeys(self.folds, 0)
        self.log: dict[bytes, bytes] = {}
        self.units: dict[UnitId, bytes] = {}
        self.state: bytes | None = None
        self.windows: dict[bytes, WindowRecord] = {}
        self.actions: list[str] = []
        self.judge = self.begun()

    def begun(self) -> BucketJudge:
        return BucketJudge(PLAN, BUCKET, TOPIC, 1, {Facts.OUTCOMES: 1})

    def hours(self, topic: str, number: int) -> None:
        fold, said = self.folds[topic], events if topic == TOPIC else served
        last = min(HOURS, self.read[topic] + number)
        values = [value for minute in range(self.read[topic] * 60, last * 60) for value in said(minute)]
        self.read[topic] = last
        first = self.offsets[topic]
        self.offsets[topic] += len(values)
        records = Records(range(first, first + len(values)), [NOW_MS] * len(values), values)
        steps = fold.take(records, NOW_MS) if values else []
        steps.append(fold.publish(NOW_MS, caught_up=False, final=last == HOURS))
        self.apply([partial for step in steps for partial in step.partials if partial.bucket == BUCKET])

    def apply(self, partials: Sequence[Partial]) -> None:
        for partial in partials:
            key = key_of(partial, "w")
            self.log.pop(key, None)  # the last is the latest
            self.log[key] = pack(partial)
            self.judge.apply(unpack(self.log[key]), key)
        for outcome in self.judge.advance():
            self.windows |= {window.key: window for window in outcome.windows if window.revision == 0}
            self.actions += [action.id for action in outcome.actions]
            self.units |= {unit.id: pack_unit(MODEL, unit) for unit in outcome.units}
            for gone in outcome.forgotten:
                self.units.pop(gone, None)
            if outcome.state is not None:
                self.state = msgspec.json.encode(outcome.state)
        for key in self.judge.expire():
            self.log.pop(key, None)

    def restart(self) -> None:
        self.judge = self.begun()
        if self.state is not None:
            self.judge.restore(msgspec.json.decode(self.state, type=ModelState))
        for unit in self.units.values():
            self.judge.restore_unit(*unpack_unit(unit))
        for key, value in self.log.items():
            self.judge.apply(unpack(value), key, fresh=False)
        list(self.judge.resume())
        self.apply([])

    def judged(self) -> tuple[dict[bytes, Any], set[str]]:
        told = {key: msgspec.to_builtins(window) for key, window in self.windows.items() if window.clock == Clock.KPI}
        return told, set(self.actions)


def in_step() -> Run:
    run = Run()
    for _ in range(HOURS):
        run.hours(TOPIC, 1)
        run.hours("outcomes", 1)
    return run


IN_STEP = in_step().judged()
moves = st.lists(st.one_of(st.just(None), st.tuples(st.sampled_from((TOPIC, "outcomes")), st.integers(1, 12))))


@settings(max_examples=5)
@given(moves)
def test_when_the_serving_side_tells_changes_nothing(moves: list[tuple[str, int] | None]) -> None:
    run = Run()
    for move in moves:
        if move is None:
            run.restart()
        else:
            run.hours(*move)
    for topic in run.folds:
        run.hours(topic, HOURS)
    assert run.judged() == IN_STEP


def test_a_day_is_told_when_it_is_over_and_the_worker_has_been_restarted() -> None:
    run = Run()
    run.hours(TOPIC, HOURS - 1)
    run.restart()
    run.hours("outcomes", HOURS)
    run.restart()
    run.hours(TOPIC, 1)
    assert run.judged() == IN_STEP


def test_lost_requests_are_noticed_in_every_window() -> None:
    """Guards the law: all windows that a day of events allows are judged, and both rules act."""
    windows, actions = IN_STEP
    spans = [msgspec.convert(window, WindowRecord) for window in windows.values()]
    judged = [window for window in spans if any(signal.name == "capture_ratio" for signal in window.signals)]
    assert len(judged) > 2 * 12 * (HOURS - 4)
    assert len(actions) == 4  # each fires and resolves
    assert len(LOST) == HOUR_MS // MINUTE_MS
