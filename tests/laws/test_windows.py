"""What is judged against a plain count: every window's events and revisions, and what the state has counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.backtest import Backtest
from streams.judge_model import Outcome
from streams.state import MAX_JUDGED
from streams.times import instant_ms
from streams.window import Clock, WindowRecord
from tests.plain_time import PlainTime, without_votes
from tests.replay.test_inhibition import outcomes
from tests.strategies import MINUTE_MS, START_MS, plan_of

M = MINUTE_MS
GRACE_MS, LATENESS_MS = M // 2, 5 * M
PLAN = plan_of(
    """
models:
  m:
    pane: 1m
    grace: 30s
    lateness: 5m
    versions: ["1", "2"]
    segments: {region: [north]}
    features: {}
    rules:
      - {name: slow, signals: [request_rate], response: data_incident, over: [1m, 5m]}
      - {name: wrong, signals: [request_error_rate], response: data_incident, over: 3m}
""",
    chunk_size=64,
)
Row = tuple[int, str, str]
"""Time, version and region."""


@pytest.fixture(autouse=True, scope="module")
def _few_records() -> Iterator[None]:
    with without_votes():
        yield


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """Minutes with a few events each, pauses of some minutes, and events that come late."""
    found, minute = [], 0
    for number in draw(st.lists(st.integers(0, 4), min_size=3, max_size=25)):
        minute += draw(st.sampled_from([1, 1, 1, 1, 3, 12]))
        for second in range(number):
            back_ms = draw(st.sampled_from([0, 0, 0, 0, 20_000, M, 3 * M, 6 * M]))
            time_ms = START_MS + minute * M + second * 10_000 - back_ms
            found.append((time_ms, draw(st.sampled_from("12")), draw(st.sampled_from(["north", "west"]))))
    return found


def judged(rows: list[Row]) -> list[Outcome]:
    lines = [
        json.dumps(
            {"event_id": str(at), "ts": ts, "model": "m", "model_version": version, "features": {}}
            | {"segments": {"region": region}}
        )
        for at, (ts, version, region) in enumerate(rows)
    ]
    return list(Backtest(PLAN, START_MS + 10**9).run(line.encode() for line in lines))


def timely(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Those that are on time, and those that are late but admitted."""
    time, found = PlainTime(GRACE_MS), ([], [])  # type: tuple[PlainTime, tuple[list[Row], list[Row]]]
    for row in rows:
        late_ms = time.after(row[0]) - row[0]
        if late_ms <= LATENESS_MS:
            found[late_ms > GRACE_MS].append(row)
    return found


def matches(row: Row, window: WindowRecord) -> bool:
    start_ms, end_ms = instant_ms(window.start), instant_ms(window.end)
    region = None if window.segment is None else window.segment["region"]
    in_segment = region is None or region == (row[2] if row[2] == "north" else "__other__")
    return start_ms <= row[0] < end_ms and window.version in (None, row[1]) and in_segment


@settings(max_examples=40)
@given(streams())
def test_every_window_holds_the_events_of_its_time_and_every_revision_the_late_ones_too(rows: list[Row]) -> None:
    on_time, admitted = timely(rows)
    found = judged(rows)
    panes: set[int] = set()
    latest: dict[bytes, WindowRecord] = {}
    for window in (window for outcome in found for window in outcome.windows):
        start_ms, end_ms = instant_ms(window.start), instant_ms(window.end)
        whole = sum(matches(row, window) for row in on_time)
        more = sum(matches(row, window) for row in admitted)
        if window.revision == 0:
            assert window.counts["events"] == whole
            assert end_ms - start_ms in (M, 3 * M, 5 * M)
            panes |= {end_ms - M} if window.key not in latest else set()
        else:
            assert end_ms - start_ms == M and whole <= window.counts["events"] <= whole + more
        known = latest.get(window.key)
        assert known is None or known.revision <= window.revision, "nothing is replaced by less"
        latest[window.key] = window
    first_ms = min((row[0] // M * M for row in on_time), default=None)
    assert min(panes, default=None) == first_ms
    assert {row[0] // M * M for row in on_time} <= panes
    for window in latest.values():
        if instant_ms(window.end) - instant_ms(window.start) == M:
            assert window.counts["events"] == sum(matches(row, window) for row in [*on_time, *admitted])


@settings(max_examples=40)
@given(streams())
def test_the_state_says_how_far_and_by_what_panes_were_judged(rows: list[Row]) -> None:
    on_time, _ = timely(rows)
    counts = Counter(row[0] // M * M for row in on_time)
    states = [outcome.state for outcome in judged(rows) if outcome.state is not None]
    told: dict[int, int] = {}
    for state in states:
        start_ms = state.judged_until_ms - M
        assert start_ms > max(told, default=0), "in order"
        told[start_ms] = counts[start_ms]
        assert (state.first_pane_ms, state.last_event_pane_ms) == (min(told), max(at for at, n in told.items() if n))
        back = range(start_ms, min(told) - 1, -M)
        assert state.judged_events == [told.get(at, -1) for at in back][:MAX_JUDGED]
        assert sum(state.decisions.values()) >= sum(state.actions.values())
    assert sum(told.values()) == len(on_time)


@cache
def counted(shadow: str) -> list[tuple[Outcome, Counter[str]]]:
    """Every outcome with a state, and the tally of all that was published up to it."""
    tally: Counter[str] = Counter()
    found = []
    for outcome in outcomes(shadow):
        for action in outcome.actions:
            kind = str(action.data.state)
            if kind == "resolved" and action.data.suppressed_by is not None:
                continue
            tally[f"{'actions' if kind == 'firing' else kind} {action.data.action}"] += action.data.revision == 0
        for action in outcome.shadows:
            tally[f"shadow {action.data.rule}"] += action.data.state == "firing"
        if outcome.state is not None:
            tally["windows"] += sum(w.revision == 0 or w.clock is not Clock.EVENT for w in outcome.windows)
            found.append((outcome, Counter(tally)))
    return found


@pytest.mark.parametrize("shadow", ["", "values-missing"])
def test_the_counters_of_the_state_are_what_was_published(shadow: str) -> None:
    decided = 0
    for outcome, tally in counted(shadow):
        state = outcome.state
        assert state is not None
        said: Counter[str] = Counter({"windows": state.windows})
        for name in ("actions", "resolved", "suppressed", "shadow"):
            said.update({f"{name} {key}": count for key, count in getattr(state, name).items()})
        assert +said == +tally
        assert sum(state.decisions.values()) >= decided
        decided = sum(state.decisions.values())
    kinds = {name.partition(" ")[0] for name in +counted(shadow)[-1][1]}
    assert kinds >= {"actions", "resolved", "windows", "shadow" if shadow else "suppressed"}
