"""A restart under another configuration: what fits goes on, what does not is restarted, and no incident is orphaned."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest

from streams.action import Action, State
from streams.backtest import TOPIC
from streams.configure import load
from streams.errors import ForeshockError
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.model_panes import BooksState
from streams.partial import key_of, pack, unpack
from streams.plan import Plan, compile_plan
from streams.progress import Progress
from streams.records import Records
from streams.restore import Restart
from streams.rule_state import RuleCell
from streams.scaffold import foreshock_yaml
from streams.source import SourceFold
from streams.state import ModelState, pack_state, pack_unit, unpack_state, unpack_unit
from streams.times import instant_ms
from streams.window import Clock, WindowRecord
from tests import config_edits
from tests.synthetic import MINUTE_MS, START_MS, Event, Incident, errors, events, learned, lines, nulls

NOW_MS = START_MS + 86_400_000
MINUTES, CUT = 40, 17
EVERY_MS = 300
INCIDENTS = (Incident("nulls", range(12, 24), nulls), Incident("errors", range(14, 20), errors))
"""Both are open at the restart, and over long before the end."""
PUBLISH = 97
"""Records of the source between two publications: no divisor of a chunk."""


@cache
def base() -> str:
    text = foreshock_yaml(learned(every_ms=EVERY_MS), "reference.ndjson", "credit.baseline")
    text = (
        text.replace("prefix: ''", "buckets: 1\n  chunk_size: 1024", 1)
        .replace("lateness: 1d", "lateness: 20m")
        .replace("pane: 2m", "pane: 1m")
    )
    rules = """
      - {name: errors-lasting, signals: [request_error_rate], response: rollback, over: 7m}
      - {name: nulls-lasting, signals: [null_rate], response: human_review, over: 12h, inhibits: false}
"""
    return text.rstrip("\n") + rules


def compiled(text: str) -> Plan:
    config, baseline = load(text), learned(every_ms=EVERY_MS).baseline
    return compile_plan(config, {name: baseline for name, model in config.models.items() if model.baseline})


def is_valid(text: str) -> bool:
    try:
        compiled(text)
    except ForeshockError:
        return False
    return True


@dataclass
class Kafka:
    """What is on the topics, and the worker that is up: everything goes through its bytes."""

    partials: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    state: dict[bytes, bytes | None] = field(default_factory=dict)
    progress: bytes | None = None
    windows: list[WindowRecord] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    restarts: list[tuple[str, Restart]] = field(default_factory=list)
    workers: int = 0

    def run(self, plan: Plan, values: Sequence[bytes], until: int, *, final: bool, seed: int = 0) -> BucketJudge:
        """A worker starts, reads the source up to an offset, and is gone."""
        self.workers += 1
        judge = self.rebuilt(plan)
        self.publish(judge.advance())
        progress = Progress.from_bytes(self.progress) if self.progress else None
        fold = SourceFold(plan, TOPIC, 0, progress, NOW_MS)
        at = fold.next_offset
        while at < until:
            end = min(at + PUBLISH, until)
            steps = fold.take(Records(range(at, end), [NOW_MS] * (end - at), values[at:end]), NOW_MS)
            steps.append(fold.publish(NOW_MS, caught_up=False, final=final and end == until))
            for step in steps:
                for partial in step.partials:
                    key, data = key_of(partial, str(self.workers)), pack(partial)
                    self.partials.append((key, data))
                    judge.apply(unpack(data), key)
                self.progress = step.progress.to_bytes() if step.progress else self.progress
            self.publish(judge.advance())
            at = end
        self.expire(judge)
        return judge

    def publish(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.windows += outcome.windows
            self.actions += outcome.actions
            if outcome.state is not None:
                for unit in outcome.units:
                    self.state[f"unit/{unit.id}".encode()] = pack_unit(outcome.model, unit)
                for unit_id in outcome.forgotten:
                    self.state.pop(f"unit/{unit_id}".encode(), None)
                self.state[outcome.model.encode()] = pack_state(outcome.state)

    def expire(self, judge: BucketJudge) -> None:
        self.state[b"books"] = pack_state(judge.merge.books_state())
        gone = set(judge.expire())
        self.partials = [(key, value) for key, value in self.partials if key not in gone]

    def rebuilt(self, plan: Plan) -> BucketJudge:
        judge = BucketJudge(plan, 0, TOPIC, 1)
        for key, value in sorted(self.state.items(), key=lambda item: item[0].startswith(b"unit/")):
            if value is None:
                continue
            if key == b"books":
                judge.restore_books(TOPIC, unpack_state(value, BooksState))
            elif key.startswith(b"unit/"):
                judge.restore_unit(*unpack_unit(value))
            else:
                judge.restore(unpack_state(value, ModelState))
        for key, value in self.partials:
            if value is not None:
                judge.apply(unpack(value), key, fresh=False)
        list(judge.resume())
        self.restarts += judge.restarts
        return judge

    def open(self) -> dict[tuple[str, str, str | None, str], Action]:
        """Incidents that a consumer takes for open, by what they are about."""
        found: dict[tuple[str, str, str | None, str], Action] = {}
        for action in self.actions:
            data = action.data
            key = (data.model, data.rule, data.model_version, json.dumps(data.segment))
            if data.state is State.FIRING:
                found[key] = action
            elif data.state is State.RESOLVED:
                found.pop(key, None)
        return found


@cache
def stream() -> tuple[list[Event], list[bytes]]:
    found = list(events(MINUTES, 7, INCIDENTS, every_ms=EVERY_MS))
    return found, lines(found)


CUT_AT = CUT * MINUTE_MS // EVERY_MS + 50
"""In the middle of a pane, and of a chunk."""


@cache
def before() -> Kafka:
    """What the worker under the first configuration leaves behind."""
    kafka = Kafka()
    kafka.run(compiled(base()), stream()[1], CUT_AT, final=False)
    return kafka


def left_behind() -> Kafka:
    known = before()
    return Kafka(
        list(known.partials), dict(known.state), known.progress, list(known.windows), list(known.actions), workers=1
    )


def counted(windows: Iterable[WindowRecord], model: str, pane_ms: int) -> dict[int, int]:
    """Events of the panes that were judged, by their start."""
    return {
        instant_ms(w.start): w.counts["events"]
        for w in windows
        if w.model == model
        and w.clock is Clock.EVENT
        and w.revision == 0
        and w.version is None
        and w.segment is None
        and instant_ms(w.end) - instant_ms(w.start) == pane_ms
    }


def _incident(action: Action) -> tuple[str, str, str | None, str, str]:
    data = action.data
    return data.model, data.rule, data.model_version, json.dumps(data.segment), data.since


def _firing(judge: BucketJudge) -> Iterable[tuple[str, str, str | None, str]]:
    for name, model in judge.judges.items():
        shadows = {rule.name for rule in model.plan.config.rules if rule.shadow}
        for cell, rule in model.rules.items():
            if rule.firing and not rule.suppressed_by and cell.rule not in shadows:
                segment = {cell.dimension: cell.value} if cell.dimension else None
                yield name, cell.rule, cell.version, json.dumps(segment)


def check(after: str) -> Kafka:
    """Restarts under another configuration, twice, and holds what comes of it against plain arithmetic."""
    rows, values = stream()
    kafka, plan = left_behind(), compiled(after)
    opened, judged_before = kafka.open(), len(kafka.windows)
    assert len(opened) >= 3, "something is open at the restart"
    rebuilt = kafka.rebuilt(plan)
    for name, judge in rebuilt.judges.items():
        kept = {key for key, rule in judge.rules.items() if rule.firing}
        for (model, rule, version, segment), action in opened.items():
            where = next(iter((json.loads(segment) or {"": ""}).items()))
            cell = RuleCell(rule, version, *where)
            if model == name and cell in kept:
                since = judge.rules[cell].since_ms
                assert since == instant_ms(action.data.since), "an incident that goes on does so under its id"
    middle = CUT_AT + 3_000
    kafka.run(plan, values, middle, final=False)
    last = kafka.run(plan, values, len(values), final=True)
    assert kafka.open().keys() == set(_firing(last)), "what is open for others is what goes on being judged"
    began = {_incident(action) for action in kafka.actions if action.data.state is not State.RESOLVED}
    ended = [_incident(action) for action in kafka.actions if action.data.state is State.RESOLVED]
    assert began >= set(ended), "nothing ends that was not said to have begun"
    times = Counter(row["ts"] // 1000 for row in rows)
    for name, model in plan.models.items():
        if not any(row["model"] == name for row in rows[:1]):
            continue
        pane_ms = model.config.pane_ms
        panes = counted(kafka.windows[judged_before:], name, pane_ms)
        assert panes, "something is judged after the restart"
        starts = sorted(panes)
        assert starts == list(range(starts[0], starts[-1] + pane_ms, pane_ms)), "no pane is left out or judged twice"
        assert starts[0] < START_MS + CUT * MINUTE_MS + 2 * 3_600_000
        for start, n in panes.items():
            expected = sum(times[second] for second in range(start // 1000, (start + pane_ms) // 1000))
            assert n == expected, (start, n, expected)
    return kafka


@pytest.mark.parametrize("name", sorted(config_edits.EDITS))
def test_a_restart_under_any_edit_loses_no_event_and_orphans_no_incident(name: str) -> None:
    drawn = random.Random(3)
    texts = (config_edits.applied(config_edits.EDITS[name], base(), drawn) for _ in range(2))
    for after in {text for text in texts if text is not None and is_valid(text)}:
        check(after)
