"""However far labels are read behind the events that they belong to, and whoever is killed: the same windows."""

from __future__ import annotations

import functools
import random
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.files import read_plan
from streams.backtest import TOPIC
from streams.baseline import WHOLE
from streams.duration import HOUR_MS
from streams.join.fold import JoinFold
from streams.partial import key_of, pack
from streams.plan import Plan
from streams.predictions import LABELS_BEHIND_MS, Predictions, tally_of
from streams.records import Records
from streams.sketch.counts import Counts
from streams.sketch.layout import ERROR_SLOT, OK_SLOT
from streams.sketch.profile import Profile
from streams.source import SourceFold
from streams.state import unpack_unit
from streams.store import MemoryStore
from streams.window import Clock, WindowRecord
from tests.faults.harness import edit_config, write_config
from tests.faults.stream import MODEL, START_MS, event, labels_of
from tests.laws.test_replay import exact
from tests.laws.test_stage_two import Topics, run

MINUTE_MS = 60_000
MINUTES, PER_MINUTE = 150, 12
WELCOME_AFTER = 30 * PER_MINUTE
NOW_MS = START_MS + 10**10
PORTION = 150
Portion = tuple[int, int]
"""So many events, then so many labels."""


@functools.cache
def plan(horizon: str = "30d") -> Plan:
    """A minute's pane, half an hour's lateness, cohorts of an hour."""
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), "", labelled=True)
        edit_config(config, ("horizon: 30d", f"horizon: {horizon}"))
        return read_plan(config)


@functools.cache
def stream(seed: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Events, one in twenty of them late but welcome, and their labels."""
    rng = random.Random(seed)
    events = []
    for number in range(MINUTES * PER_MINUTE):
        ts_ms = START_MS + number * MINUTE_MS // PER_MINUTE
        if number > WELCOME_AFTER:
            ts_ms -= rng.randrange(2 * MINUTE_MS, 25 * MINUTE_MS) if rng.random() < 0.05 else rng.randrange(20_000)
        events.append((b"", event(f"e{number}", ts_ms, rng, number // PER_MINUTE, MINUTES)))
    return [value for _, value in events], [value for _, value in labels_of(events, seed)]


def batches(seed: int, portions: Sequence[Portion], compiled: Plan | None = None) -> list[list[tuple[bytes, bytes]]]:
    """What stage 1 writes when the two topics are read in these portions, and then to the end."""
    events, labels = stream(seed)
    compiled = compiled or plan()
    fold = SourceFold(compiled, TOPIC, 0, None, NOW_MS, join=JoinFold(compiled, "labels", 0, MemoryStore(), NOW_MS))
    bucket, at = compiled.config.bucket(MODEL), [0, 0]
    found = []
    for portion in (*portions, (len(events), len(labels))):
        steps = []
        for place, (values, take) in enumerate(((events, fold.take), (labels, fold.take_labels))):
            part = values[at[place] : at[place] + portion[place]]
            if part:
                steps += take(Records(range(at[place], at[place] + len(part)), [NOW_MS] * len(part), part), NOW_MS)
                at[place] += len(part)
        steps.append(fold.publish(NOW_MS, caught_up=False, final=at == [len(events), len(labels)]))
        found.append([(key_of(p, "w"), pack(p)) for step in steps for p in step.partials if p.bucket == bucket])
    return found


def in_step(seed: int) -> list[Portion]:
    """Labels are read as soon as the events of their time have been."""
    events, labels = stream(seed)
    return [(PORTION, PORTION * len(labels) // len(events))] * (len(events) // PORTION)


def judged(topics: Topics) -> tuple[dict[bytes, Any], set[str]]:
    """Windows on what was on time, of events and of labels, and the actions."""
    windows = {window.key: exact(window) for window in topics.windows if window.revision == 0}
    return windows, {action.id for action in topics.actions}


@functools.cache
def expected(seed: int) -> tuple[dict[bytes, Any], set[str]]:
    return judged(run(batches(seed, in_step(seed)), topics=Topics(plan(), MODEL)))


schedules = st.lists(st.tuples(st.sampled_from((0, PORTION, 3 * PORTION)), st.sampled_from((0, 100, 400))), max_size=30)


@settings(max_examples=4)
@given(schedules, st.data())
def test_how_far_labels_are_behind_changes_nothing_though_workers_are_killed(
    portions: list[Portion], data: st.DataObject
) -> None:
    found = batches(1, portions)
    kills = data.draw(st.frozensets(st.integers(1, 2_000), max_size=6))
    assert judged(run(found, kills, data.draw(st.integers(0, 99)), Topics(plan(), MODEL))) == expected(1)


def test_labels_that_come_after_all_events_are_judged_as_if_they_had_come_with_them() -> None:
    events, labels = stream(1)
    found = batches(1, [(len(events), 0)] + [(0, PORTION)] * (len(labels) // PORTION))
    assert judged(run(found, topics=Topics(plan(), MODEL))) == expected(1)
    assert judged(run(found, frozenset(range(50, 2_000, 150)), topics=Topics(plan(), MODEL))) == expected(1)


@pytest.mark.parametrize("until", [4, 9])
def test_labels_that_are_counted_anew_are_judged_as_if_they_had_always_been_counted_so(until: int) -> None:
    """A worker goes on under another horizon: its join publishes when it has read both topics again."""
    other = plan("20d")
    before, after = batches(1, in_step(1)), batches(1, in_step(1), other)
    topics = run(before[:until], topics=Topics(plan(), MODEL))
    told, topics.plan = len(topics.windows), other
    run([list(chain(*after[: until + 1])), *after[until + 1 :]], topics=topics)
    found, whole = arrived(topics.windows[told:]), arrived(run(after, topics=Topics(other, MODEL)).windows)
    assert len(found) > MINUTES // 2
    assert found.items() <= whole.items()


def arrived(windows: Sequence[WindowRecord]) -> dict[bytes, str]:
    """Windows of labels by their arrival, as they were judged on time."""
    return {w.key: repr(exact(w)) for w in windows if w.clock is Clock.ARRIVAL and w.revision == 0}


def predicted(topics: Topics) -> dict[int, int]:
    """Predictions of the model as a whole, by cohort, as the state has them."""
    units = [unpack_unit(value)[1] for key, value in topics.state.items() if key.startswith(b"unit/")]
    return {unit.start_ms: tally_of(unit.cells, 0)[WHOLE] for unit in units if unit.stream == Predictions.stream}


def test_a_state_that_holds_no_predictions_takes_them_from_the_join() -> None:
    """As up to 0.1. Those that were not on time are among them."""
    until = 138 * PER_MINUTE // PORTION  # the second cohort has been over for longer than stream time waits for votes
    found = batches(1, [*in_step(1)[:until], (2 * PER_MINUTE, 2 * PER_MINUTE)])
    topics = run(found[:until], topics=Topics(plan(), MODEL))
    usual = predicted(topics)
    assert usual
    topics.state = {key: value for key, value in topics.state.items() if Predictions.stream.encode() not in key}
    run(found[until : until + 1], topics=topics)
    after = predicted(topics)
    assert after.keys() >= usual.keys()
    assert all(number <= after[start] <= 1.1 * number for start, number in usual.items())


def test_labels_that_are_days_behind_are_held_against_the_whole_of_an_open_cohort() -> None:
    """Its panes are too large to be kept so long."""
    found = Predictions(pane_ms=MINUTE_MS, cohort_ms=HOUR_MS)
    one = {("1", *WHOLE): Profile(Counts.of(np.eye(1, ERROR_SLOT + 1, OK_SLOT, dtype=np.int64)[0]))}
    for start_ms in range(0, LABELS_BEHIND_MS + 4 * HOUR_MS, MINUTE_MS):
        found.close(start_ms, one)
    until_ms = 2 * HOUR_MS + 30 * MINUTE_MS
    spans = list(found.between(HOUR_MS, until_ms))
    assert [(at, length) for at, length, _ in spans] == [(HOUR_MS, HOUR_MS), (2 * HOUR_MS, HOUR_MS)]
    assert [tally[WHOLE] for _, _, tally in spans] == [60, 60]
    recent = list(found.between(LABELS_BEHIND_MS, LABELS_BEHIND_MS + 3 * MINUTE_MS))
    assert [(length, tally[WHOLE]) for _, length, tally in recent] == [(MINUTE_MS, 1)] * 3


def test_there_is_something_to_be_wrong_about() -> None:
    """Guards the law: arrival windows hold what depends on predictions, and there are actions."""
    windows, actions = expected(1)
    arrivals = [window for window in windows.values() if window["clock"] == Clock.ARRIVAL]
    dues = [s["baseline"] for window in arrivals for s in window["signals"] if s["name"] == "label_rate"]
    assert sum(due is not None for due in dues) > MINUTES // 2
    assert sum(bool(window["expected"]) for window in arrivals) > MINUTES // 2
    assert actions
