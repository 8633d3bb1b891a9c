"""A restart under another configuration of a model with labels, KPIs, feedback and jobs: every edit, there and back.

What comes of it is held against plain arithmetic on the records, and against a run that never knew another
configuration: where nothing kept plays a part, both publish the same.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import cache
from itertools import repeat
from typing import Any

import pytest

from streams.configure import load
from streams.errors import ForeshockError
from streams.facts.fold import fact_time_ms
from streams.plan import Plan, compile_plan
from streams.times import instant_ms
from streams.window import Clock, WindowRecord
from tests import config_edits, matrix
from tests.matrix import MINUTE_MS, START_MS, Case, reference, side_inputs
from tests.restarts import EVENTS, Logs, Topics, Worker

CASE = Case("binary", segments=True, versions=True, side=True)
EVERY_MS, FIRST_AT, CHANGE_AT, MINUTES = 1_000, 36, 42, 84
"""The stream begins with the minute FIRST_AT, so that a cohort ends in the midst of it."""
CUT_MS, BACK_MS = START_MS + 57 * MINUTE_MS + 20_000, START_MS + 67 * MINUTE_MS + 20_000
"""When the edit comes, in the middle of a pane and a chunk, and when it is taken back."""
NOW_MS = START_MS + 10 * 86_400_000


@cache
def base() -> str:
    document = config_edits.parsed(matrix.text(CASE, 60, EVERY_MS).replace("over: 4m", "over: 20m"))
    document["kafka"] |= {"buckets": 2, "chunk_size": 1024}
    model = document["models"][CASE.name]
    model |= {"pane": "2m", "lateness": "20m"}
    model["labels"]["horizon"] = "6h"
    for rule in model["rules"]:
        rule["inhibits"] = False  # so that incidents of all clocks are open at once
    return config_edits.written(document)


def compiled(text: str) -> Plan:
    config, baseline = load(text), reference(CASE, 60, EVERY_MS).baseline
    return compile_plan(config, {name: baseline for name, model in config.models.items() if model.baseline})


def is_valid(text: str) -> bool:
    try:
        compiled(text)
    except ForeshockError:
        return False
    return True


@cache
def logs() -> Logs:
    events, labels = matrix.stream(CASE, 7, MINUTES, CHANGE_AT, EVERY_MS)
    first = FIRST_AT * MINUTE_MS // EVERY_MS
    times_ms = [START_MS + number * EVERY_MS for number in range(first, len(events))]
    labels = [value for value in labels if int(json.loads(value)["event_id"].rpartition("-")[2]) >= first]
    side = side_inputs(CASE, 8, MINUTES, CHANGE_AT, EVERY_MS)
    since_ms = times_ms[0] - 2_000
    side = {kind: [value for value in side[kind] if fact_time_ms(kind, value) >= since_ms] for kind in side}
    return Logs.of(events[first:], times_ms, labels, side)


@cache
def before() -> Topics:
    """What a worker under the first configuration leaves behind."""
    topics = Topics()
    Worker(compiled(base()), topics, logs(), NOW_MS).run(CUT_MS)
    return topics


@cache
def expected() -> Topics:
    """What a worker gives that never knows another configuration."""
    return fresh(base(), None)


def fresh(text: str, until_ms: int | None) -> Topics:
    """A run under one configuration from the beginning on."""
    topics = Topics()
    Worker(compiled(text), topics, logs(), NOW_MS).run(until_ms)
    return topics


# What must hold, whatever was edited


def firing(worker: Worker) -> set[tuple[str, str, str | None, str]]:
    """What is open by the judges of a worker: model, rule, version and segment."""
    found = set()
    for judge in worker.judges.values():
        for name, model in judge.judges.items():
            shadows = {rule.name for rule in model.plan.config.rules if rule.shadow}
            for cell, rule in model.rules.items():
                if rule.firing and not rule.suppressed_by and cell.rule not in shadows:
                    segment = {cell.dimension: cell.value} if cell.dimension else None
                    found.add((name, cell.rule, cell.version, str(segment)))
    return found


def check_books(worker: Worker, until_ms: int | None) -> None:
    """Every record was read once, whatever it was counted as."""
    read: Counter[str] = Counter()
    for judge in worker.judges.values():
        for topic, merge in ((EVENTS, judge.merge), *((kind, merge) for kind, merge in judge.facts.topics.items())):
            for found in (*merge.models.values(), *merge.others.values()):
                assert found.books.balanced()
                read[topic] += found.books.read
    assert read == {topic: logs().end(topic, until_ms) for topic in (EVENTS, *worker.facts)}


def span_ms(window: WindowRecord) -> int:
    return instant_ms(window.end) - instant_ms(window.start)


def check_panes(topics: Topics, worker: Worker, since: int, at_ms: int, until_ms: int | None) -> None:
    """Panes of events after a restart are whole and follow each other."""
    model = worker.plan.models.get(CASE.name)
    if model is None:
        return
    pane_ms, last_ms = model.config.pane_ms, logs().times_ms[EVENTS][-1] + EVERY_MS
    found = {
        instant_ms(w.start): w.counts["events"]
        for w in topics.windows[since:]
        if (w.model, w.clock, w.version, w.segment, w.revision) == (CASE.name, Clock.EVENT, None, None, 0)
        and span_ms(w) == pane_ms
    }
    starts = sorted(found)
    if (until_ms or last_ms) - at_ms >= 2 * pane_ms + model.config.grace_ms:
        assert starts and starts[0] <= at_ms + pane_ms, "it goes on with the next whole pane"
    assert starts == [starts[0] + n * pane_ms for n in range(len(starts))], "no pane is left out or judged twice"
    for start, n in found.items():
        first = max(start, logs().times_ms[EVENTS][0])
        assert n == (min(start + pane_ms, last_ms) - first) // EVERY_MS, (start, n)


def values(window: WindowRecord) -> dict[str, Any]:
    """What a window says of its own records: nothing that depends on what was before."""
    own = {f"{s.name} {s.feature}": (s.value, s.n) for s in window.signals if s.name not in REMEMBER}
    return {"counts": window.counts, "signals": own, "maturity": window.maturity, "measures": window.measures}


REMEMBER = frozenset(
    {"job_failure", "freshness", "label_maturity", "label_rate", "accuracy", "mae", "calibration_intercept"}
)
"""Their values depend on earlier records (the last three where a CUSUM has summed them up), and so on what is kept."""


def differences(topics: Topics, plan: Plan, like: Topics, since: int, from_ms: int) -> list[Any]:
    """Where windows of one pane after a restart, or cohorts, are not those of a run without a restart."""
    found, ever, wrong = topics.final_windows(since), topics.final_windows(), []
    for key, window in like.final_windows().items():
        of_a_pane = span_ms(window) == plan.models[window.model].config.pane_ms
        if window.clock is Clock.COHORT:
            other = ever.get(key)
        elif window.clock is not Clock.TRUTH and of_a_pane and instant_ms(window.start) >= from_ms:
            other = found.get(key)
        else:
            continue
        if other is None or values(other) != values(window):
            wrong.append((key, values(window), other and values(other)))
    return wrong


def go_on(topics: Topics, text: str, at_ms: int, until_ms: int | None, like: Topics) -> None:
    """Restarts under a configuration, and holds what comes of it against the records and against another run."""
    plan, since = compiled(text), len(topics.windows)
    worker = Worker(plan, topics, logs(), NOW_MS)
    worker.run(until_ms)
    assert not worker.parked
    assert topics.open().keys() == firing(worker), "what is open for others is what goes on being judged"
    check_books(worker, until_ms)
    check_panes(topics, worker, since, at_ms, until_ms)
    pane_ms = max(model.config.pane_ms for model in plan.models.values())
    wrong = differences(topics, plan, like, since, at_ms + 2 * pane_ms)
    assert not wrong, (len(wrong), wrong[:3])


def edited(name: str, seed: int) -> str | None:
    after = config_edits.applied(config_edits.EDITS[name], base(), random.Random(f"{name} {seed}"))
    return after if after is not None and is_valid(after) else None


@pytest.mark.parametrize("name", sorted(config_edits.EDITS))
def test_an_edit_and_its_return_leave_no_record_uncounted_and_no_incident_behind(name: str) -> None:
    after = next((text for text in map(edited, repeat(name), range(20)) if text is not None), None)
    if after is None:
        assert name in NONE_HERE
        return
    topics = before().copy()
    go_on(topics, after, CUT_MS, BACK_MS, fresh(after, BACK_MS))
    go_on(topics, base(), BACK_MS, None, expected())


NONE_HERE = {"model_removed", "feedback_added"}
"""Edits that have nothing to change here: there is one model, and it has all kinds of feedback."""


def test_there_is_something_to_be_lost() -> None:
    """Guards the law: incidents of all clocks are open at the restart, and two cohorts are labelled."""
    of_events, of_labels, of_kpis = (
        {"inputs-drifting"},
        {"performance-falling"},
        {"conversion-falling", "requests-lost"},
    )
    told = {"complaints-rising", "pipeline-failing"}
    assert {rule for _, rule, *_ in before().open()} >= of_events | of_labels | of_kpis | told
    clocks = Counter(window.clock for window in expected().final_windows().values())
    assert clocks.keys() >= {Clock.EVENT, Clock.ARRIVAL, Clock.COHORT, Clock.KPI}
