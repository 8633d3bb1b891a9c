"""Late, repeated, corrected and withdrawn records on every clock: no exception, and the last revisions hold all."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streams.backtest
import streams.plan
from streams.configure import load
from streams.plan import Facts, Plan, compile_plan
from streams.times import instant_ms
from streams.window import Clock, WindowRecord
from tests.matrix import START_MS, Case, Restarting, reference, side_inputs, stream, text

CASE = Case("binary", segments=True, versions=True, side=True)
NOW_MS = START_MS + 86_400_000
MINUTES = 12
EVENTS, LABELS = stream(CASE, 2, MINUTES)
SIDE = side_inputs(CASE, 3, MINUTES)
TIMES = {"events": "ts", "labels": "label_ts", Facts.FEEDBACK: "ts", Facts.OUTCOMES: "ts", Facts.RUNS: "eventTime"}
Streams = Mapping[str, Sequence[bytes]]


def plan() -> Plan:
    """With spans of truth that are as short as the cohorts."""
    config = load(text(CASE).replace("horizon: 30d", "horizon: 20m"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.plan, "ENOUGH_FOR_TRUTH", 100)
        return compile_plan(config, {CASE.name: reference(CASE).baseline})


def disordered(values: Sequence[bytes], drawn: random.Random, share: float, most_late: int) -> list[bytes]:
    """The records, a share of them so many places later at the most, some of those twice."""
    found: list[tuple[float, int, bytes]] = []
    for number, value in enumerate(values):
        late = drawn.random() < share
        found.append((number + (drawn.random() * most_late if late else 0), len(found), value))
        if late and drawn.random() < 0.3:
            found.append((number + drawn.random() * most_late, len(found), value))
    return [value for *_, value in sorted(found)]


@st.composite
def streams_of_records(draw: st.DrawFn) -> Streams:
    drawn, share = random.Random(draw(st.integers(0, 10**6))), draw(st.sampled_from((0.0, 0.02, 0.3)))
    labels = list(LABELS)
    for _ in range(draw(st.integers(0, 40))):
        row = json.loads(drawn.choice(labels))
        row["label"] = drawn.choice((0, 1, None))
        labels.insert(drawn.randrange(len(labels)), json.dumps(row).encode())
    found: dict[str, Sequence[bytes]] = {"events": EVENTS, "labels": labels, **SIDE}
    return {
        kind: disordered(values, drawn, share, draw(st.integers(1, max(1, len(values))))) if values else values
        for kind, values in found.items()
    }


def final(found: Streams, restarts: frozenset[int]) -> dict[bytes, WindowRecord]:
    run = Restarting(plan(), NOW_MS, labelled=True, told=SIDE, restarts=restarts)
    windows: dict[bytes, WindowRecord] = {}
    told = {kind: found[kind] for kind in SIDE}
    for outcome in run.run(found["events"], found["labels"], told):
        for window in outcome.windows:
            if window.key not in windows or window.revision >= windows[window.key].revision:
                windows[window.key] = window
    return windows


def counted(windows: Mapping[bytes, WindowRecord], clock: Clock, kpi: str | None, name: str, span_ms: int) -> Any:
    """Records by start of the window of the whole model, all versions together."""
    total: Counter[int] = Counter()
    for window in windows.values():
        start_ms, end_ms = instant_ms(window.start), instant_ms(window.end)
        whole = not window.segment and (clock is Clock.KPI) == (window.version is None)
        if window.clock is clock and window.kpi == kpi and whole and end_ms - start_ms == span_ms:
            total[start_ms] += window.counts[name]
    return {at: n for at, n in total.items() if n}


def by_pane(times_ms: Sequence[int], pane_ms: int) -> dict[int, int]:
    return dict(Counter(at // pane_ms * pane_ms for at in times_ms))


@settings(max_examples=5)
@given(streams_of_records(), st.frozensets(st.integers(1, 60), max_size=3))
def test_the_last_revisions_hold_every_record(found: Streams, restarts: frozenset[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.backtest, "BATCH", 128)
        windows = final(found, restarts)
    model = plan().models[CASE.name]
    pane_ms, cohort_ms = model.config.pane_ms, model.cohort_ms
    rows = [json.loads(value) for value in found["events"]]
    made = {row["event_id"]: row["ts"] for row in rows}
    assert counted(windows, Clock.EVENT, None, "events", pane_ms) == by_pane(list(made.values()), pane_ms)
    observed = [json.loads(value) for value in found[Facts.OUTCOMES]]
    first_ms = min(made.values()) // pane_ms * pane_ms
    times_of = {
        kpi: by_pane([row["ts"] for row in observed if row["kpi"] == kpi and row["ts"] >= first_ms], pane_ms)
        for kpi in ("loss", "conversion", "paid", "sold", "requests_served")
    }
    for kpi in ("loss", "conversion", "paid", "sold"):
        assert counted(windows, Clock.KPI, kpi, "observations", pane_ms) == times_of[kpi], kpi
    served = counted(windows, Clock.KPI, "capture_ratio", "observations", pane_ms)
    assert served == times_of["requests_served"]
    both = {at: min(n, times_of["sold"].get(at, 0)) for at, n in times_of["paid"].items()}
    assert counted(windows, Clock.KPI, "cost", "observations", pane_ms) == {at: n for at, n in both.items() if n}
    latest = {row["event_id"]: row["label"] for row in map(json.loads, found["labels"])}
    labelled = [made[name] for name, label in latest.items() if label is not None]
    assert counted(windows, Clock.COHORT, None, "labels", cohort_ms) == by_pane(labelled, cohort_ms)


def test_something_is_late_on_every_clock() -> None:
    """Guards the law: with a third of the records late there are revisions of every clock."""
    drawn = random.Random(1)
    found: dict[str, Sequence[bytes]] = {"events": EVENTS, "labels": LABELS, **SIDE}
    late = {kind: disordered(values, drawn, 0.3, len(values) // 2) for kind, values in found.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.backtest, "BATCH", 128)
        windows = final(late, frozenset({20}))
    revised = {(window.clock, window.kpi) for window in windows.values() if window.revision}
    assert {clock for clock, _ in revised} == set(Clock)
    assert {kpi for clock, kpi in revised if clock is Clock.KPI} == {
        "loss",
        "conversion",
        "paid",
        "sold",
        "cost",
        "capture_ratio",
    }
