"""The same events give the same windows and actions: whatever the batches, the order within the grace, the restarts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streams.backtest
from streams.action import Action
from streams.backtest import Backtest, Summary
from streams.judge_model import ModelJudge, Outcome
from streams.merge import ClosedPane
from streams.plan import Plan
from streams.signals.result import Window
from streams.times import rfc3339
from streams.window import WindowRecord
from tests.plain_time import PlainTime
from tests.synthetic import (
    INCIDENTS,
    MINUTE_MS,
    MODEL,
    START_MS,
    Event,
    Incident,
    events,
    learned,
    lines,
    plan,
)

NOW_MS = START_MS + 86_400_000
GRACE_MS, LATENESS_MS = MINUTE_MS, 10 * MINUTE_MS
SOON = tuple(
    Incident(incident.name, range(at, at + 3), incident.change)
    for at, incident in zip((1, 2, 4, 5), INCIDENTS, strict=True)
)


def edited(text: str) -> str:
    """The learned file with a short lateness, a cap on versions, and rules that look at long windows."""
    rules = """
      - {name: errors-lasting, signals: [request_error_rate], response: rollback, over: 7m}
      - {name: volume-low, signals: [request_rate], response: data_incident, over: 5m}
"""
    text = text.replace("lateness: 1d", "lateness: 10m").replace(
        "    segments:", "    max_versions: 2\n    segments:", 1
    )
    return text.rstrip("\n") + rules


PLAN: Plan = plan(learned(), edited)


def run(values: Sequence[bytes], batch: int = 8_192) -> tuple[list[Outcome], Summary]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.backtest, "BATCH", batch)
        one = Backtest(PLAN, NOW_MS)
        return list(one.run(values)), one.summary()


def final_windows(outcomes: Iterable[Outcome]) -> dict[bytes, Any]:
    """Per window the record with the highest revision: what a reader of the topic ends up with."""
    found: dict[bytes, WindowRecord] = {}
    for outcome in outcomes:
        for window in outcome.windows:
            if window.key not in found or window.revision >= found[window.key].revision:
                found[window.key] = window
    return {key: exact(window) for key, window in found.items()}


def exact(window: WindowRecord) -> Any:
    """All of a window but for the most frequent of more values than are kept: these are told within a bound."""
    return msgspec.to_builtins(msgspec.structs.replace(window, top_unseen={}))


def judged_windows(outcomes: Iterable[Outcome]) -> dict[bytes, Any]:
    """The records that decisions were made on."""
    return {w.key: exact(w) for o in outcomes for w in o.windows if w.revision == 0}


def actions(outcomes: Iterable[Outcome]) -> list[Action]:
    return [action for outcome in outcomes for action in outcome.actions]


@st.composite
def messy(draw: st.DrawFn, most_minutes: int = 8) -> list[Event]:
    """A stream with incidents, versions, disorder, lateness and rubbish."""
    drawn = random.Random(draw(st.integers(0, 10**6)))
    chosen = draw(st.lists(st.sampled_from(SOON), max_size=3, unique=True))
    stream = list(events(draw(st.integers(4, most_minutes)), drawn.randrange(10**6), chosen))
    for item in stream:
        chance = drawn.random()
        if chance < 0.1:
            item["ts"] -= drawn.choice((30_000, 59_000, 90_000, 300_000, 599_000, 700_000))
        elif chance < 0.13:
            item["model_version"] = drawn.choice(("2", "3", "4"))
        elif chance < 0.15:
            item["features"] = drawn.choice((None, {}, {"age": "old"}, {"news": 1}))
        elif chance < 0.16:
            item["model"] = drawn.choice(("other", None))
    return stream


@settings(max_examples=4)
@given(messy(), st.sampled_from((211, 1_000, 2_048)))
def test_the_size_of_the_batches_changes_nothing(stream: list[Event], batch: int) -> None:
    values = lines(stream)
    small, whole = run(values, batch), run(values)
    assert actions(small[0]) == actions(whole[0])
    assert judged_windows(small[0]) == judged_windows(whole[0])
    assert final_windows(small[0]) == final_windows(whole[0])
    assert small[1].models[MODEL].read == whole[1].models[MODEL].read
    assert small[1] == whole[1]


@settings(max_examples=4)
@given(messy(), st.integers(0, 10**6))
def test_disorder_within_the_grace_changes_nothing(stream: list[Event], seed: int) -> None:
    """Each event is held up by less than the grace; ordered by event time, none is late."""
    drawn = random.Random(seed)
    ordered = sorted((item for item in stream if item["features"] is not None), key=lambda item: item["ts"])
    held_up = {item["event_id"]: item["ts"] + drawn.randrange(GRACE_MS + 1) for item in ordered}
    shuffled = sorted(ordered, key=lambda item: held_up[item["event_id"]])
    first, second = run(lines(ordered)), run(lines(shuffled))
    assert [item["event_id"] for item in shuffled] != [item["event_id"] for item in ordered]
    assert actions(first[0]) == actions(second[0])
    assert final_windows(first[0]) == final_windows(second[0])
    assert first[1] == second[1]


@settings(max_examples=4)
@given(messy())
def test_windows_hold_the_events_that_a_plain_count_gives(stream: list[Event]) -> None:
    outcomes, summary = run(lines(stream), 500)
    judged, final, books = counted_plainly(stream)
    assert events_by_window(judged_windows(outcomes).values()) == judged
    assert events_by_window(final_windows(outcomes).values()) == final
    found = summary.models[MODEL]
    assert (found.read, found.counted, found.late, found.rejected) == (
        books["read"],
        books["counted"],
        books["late"],
        books["rejected"],
    )
    assert found.read == found.counted + found.late + found.rejected + found.duplicate
    assert summary.read == len(stream)
    assert summary.rejected == books["unread"]
    assert sum(final.values()) == found.counted


def events_by_window(windows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Start of a pane → its events, of the whole model."""
    return {
        window["start"]: window["counts"]["events"]
        for window in windows
        if window["version"] is None and window["segment"] is None and _is_pane(window) and window["counts"]["events"]
    }


def _is_pane(window: dict[str, Any]) -> bool:
    return int(window["end"][14:16]) - int(window["start"][14:16]) in (1, -59)


def counted_plainly(stream: Iterable[Event]) -> tuple[dict[str, int], dict[str, int], Counter[str]]:
    """The oracle: events on time, and all that count, by pane; and the books."""
    judged: Counter[str] = Counter()
    final: Counter[str] = Counter()
    books: Counter[str] = Counter()
    stream_time = PlainTime(GRACE_MS)
    for item in stream:
        if item["model"] is None:
            books["unread"] += 1
        if item["model"] != MODEL:
            continue
        books["read"] += 1
        if item["features"] is None:
            books["rejected"] += 1
            continue
        mark = stream_time.after(item["ts"])
        if mark - item["ts"] > LATENESS_MS:
            books["late"] += 1
            continue
        books["counted"] += 1
        start = rfc3339(item["ts"] // MINUTE_MS * MINUTE_MS)
        final[start] += 1
        if mark - item["ts"] <= GRACE_MS:
            judged[start] += 1
    return dict(judged), dict(final), books


def test_two_runs_write_the_same_bytes() -> None:
    values = lines(events(12, 3, SOON))
    first, second = (msgspec.json.encode([*o.windows, *o.actions]) for o in ([_joined(run(values)[0])] * 2))
    assert first == second
    again = _joined(run(values)[0])
    assert msgspec.json.encode([*again.windows, *again.actions]) == first
    assert again.actions


def _joined(outcomes: Iterable[Outcome]) -> Outcome:
    outcomes = list(outcomes)
    return Outcome(MODEL, [w for o in outcomes for w in o.windows], [a for o in outcomes for a in o.actions])


def test_everything_that_is_written_is_json() -> None:
    """NaN and infinity have no place in it."""
    outcomes, _ = run(lines(events(12, 3, SOON)))
    for item in [*_joined(outcomes).windows, *_joined(outcomes).actions]:
        encoded = msgspec.json.encode(item)
        assert msgspec.json.decode(encoded) == msgspec.to_builtins(item, str_keys=True) or b"null" in encoded
        assert b"NaN" not in encoded and b"Infinity" not in encoded


def test_a_long_window_is_judged_by_its_volume_once_the_stream_has_lasted_that_long() -> None:
    """A stream that begins has not lost its traffic: before its first whole pane there is nothing to miss.

    pane            0 (the first: not whole)   1   2   3   4   5   6
    window of 5     partial                    p   p   p   p   whole
    """
    judge = ModelJudge(PLAN.models[MODEL])
    seen: list[Window] = []
    judge.events.judge.evaluate = lambda window: seen.append(window) or []  # type: ignore[method-assign, func-returns-value]
    for pane in range(7):
        judge.close(ClosedPane(START_MS + pane * MINUTE_MS, {}, {}, partial=pane == 0))
    told = {over: [window.partial for window in seen if window.over_ms == over * MINUTE_MS] for over in (1, 5, 7)}
    assert told == {1: [True] + [False] * 6, 5: [True] * 5 + [False] * 2, 7: [True] * 7}


def test_lost_traffic_is_told_from_a_long_window_too() -> None:
    stream = [item for i, item in enumerate(events(30, 3)) if i < 7_200 or i % 20 == 0]
    outcomes, _ = run(lines(stream))
    assert "volume-low" in [action.data.rule for action in actions(outcomes)]


def test_the_stream_of_nothing_gives_nothing() -> None:
    outcomes, summary = run([])
    assert (outcomes, summary.read) == ([], 0)


def test_the_drawn_streams_hold_every_case() -> None:
    """Guards the laws: what they compare is there."""
    seen: Counter[str] = Counter()

    @settings(max_examples=4)
    @given(messy())
    def draw(stream: list[Event]) -> None:
        outcomes, summary = run(lines(stream))
        found = summary.models[MODEL]
        seen.update({"late": found.late, "rejected": found.rejected, "unread": summary.rejected})
        seen["other"] += summary.models["__other__"].read
        seen["revised"] += sum(window.revision > 0 for outcome in outcomes for window in outcome.windows)
        seen["actions"] += len(actions(outcomes))
        seen["folded"] += sum(window.version == "__other__" for outcome in outcomes for window in outcome.windows)

    draw()
    assert min(seen[key] for key in ("late", "rejected", "unread", "other", "revised", "actions", "folded")) > 2, seen
