"""Backtests of labelled streams: what each way of going wrong is called, when, and that nothing else is said."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from streams.action import Action
from streams.backtest import Backtest, Summary
from streams.configure import load
from streams.learn import Learned, learn
from streams.plan import compile_plan
from streams.scaffold import foreshock_yaml
from streams.window import Clock, WindowRecord

MODEL = "credit"
START_MS = 1_767_225_600_000
EVERY_MS = 100
MINUTE_MS = 60_000
CHANGE_AT = 15
"""Minute from which on something is otherwise."""
LABEL_RULES = {
    "labels-missing",
    "labels-unmatched",
    "performance-falling",
    "calibration-off",
    "segment-failing",
    "class-failing",
}

Row = dict[str, Any]
Change = Callable[[Row, random.Random], None]


When = Callable[[int], int]
"""When a label comes that is known at a time."""


def at_once(known_ms: int) -> int:
    return known_ms


def every_five_minutes(known_ms: int) -> int:
    """A job that writes the labels of the last minutes together."""
    return -(-known_ms // (5 * MINUTE_MS)) * 5 * MINUTE_MS


def rows(
    minutes: int, seed: int, change: Change | None = None, comes: When | None = at_once, since: int = CHANGE_AT
) -> Iterator[tuple[bytes, tuple[int, bytes] | None]]:
    """An event, and its label with its time; the scores are the probabilities that the labels are drawn with.

    `comes` None: the labels have the times of their events, as those of a table do.
    """
    drawn = random.Random(seed)
    for number in range(minutes * MINUTE_MS // EVERY_MS):
        age, amount = drawn.gauss(45, 12), drawn.lognormvariate(6, 0.8)
        score = round(1 / (1 + math.exp(-(amount - 500) / 300 + (age - 45) / 20)), 4)
        row: Row = {
            "event_id": f"{seed}-{number}",
            "ts": START_MS + number * EVERY_MS,
            "model": MODEL,
            "model_version": "1",
            "features": {"age": round(age, 1), "amount": round(amount, 2)},
            "segments": {"region": drawn.choices(("north", "south"), (6, 4))[0]},
            "score": score,
            "prediction": int(score >= 0.5),
        }
        label: Row | None = {"event_id": row["event_id"], "label": int(drawn.random() < score)}
        delay = drawn.randrange(60_000, 180_000)
        told = {"row": row, "label": label}
        if change is not None and number * EVERY_MS >= since * MINUTE_MS:
            change(told, drawn)
        label = told["label"]
        when = comes(row["ts"] + delay) if comes else row["ts"]
        yield json.dumps(row).encode(), label and (when, json.dumps(label | {"label_ts": when}).encode())


def split(found: Iterator[tuple[bytes, tuple[int, bytes] | None]]) -> tuple[list[bytes], list[bytes]]:
    events, labels = [], []
    for event, label in found:
        events.append(event)
        if label is not None:
            labels.append(label)
    return events, [value for _, value in sorted(labels)]


@cache
def reference(comes: When | None = at_once) -> Learned:
    events, labels = split(rows(40, 1, comes=comes))
    return learn(MODEL, lambda: events, labels=labels)


@cache
def replayed(
    change: Change | None,
    seed: int = 2,
    horizon: str = "30d",
    comes: When = at_once,
    reference_comes: When | None = at_once,
) -> tuple[list[Action], list[WindowRecord], Summary]:
    learned = reference(reference_comes)
    text = foreshock_yaml(learned, "reference.ndjson", "credit.baseline")
    config = load(text.replace("horizon: 30d", f"horizon: {horizon}"))
    run = Backtest(compile_plan(config, {MODEL: learned.baseline}), START_MS + 10**9, labelled=True)
    events, labels = split(rows(30, seed, change, comes))
    actions, windows = [], []
    for outcome in run.run(events, labels):
        actions += outcome.actions
        windows += outcome.windows
    return actions, windows, run.summary()


def fired(change: Change | None, seed: int = 2, **how: Any) -> dict[str, int]:
    """Rules that fired, with the minute at which the first window that made them do so ended."""
    found: dict[str, int] = {}
    actions, windows, _ = replayed(change, seed, **how)
    for action in actions:
        if action.data.state == "firing":
            end = next(w for w in windows if w.end == action.data.window.end)
            found.setdefault(action.data.rule, _minute(end.end))
    return found


def _minute(text: str) -> int:
    hours, minutes = map(int, text[11:16].split(":"))
    return hours * 60 + minutes


def flipped(told: Row, drawn: random.Random) -> None:
    told["label"]["label"] = 1 - told["label"]["label"]


def stopped(told: Row, drawn: random.Random) -> None:
    told["label"] = None


def stopped_in_the_south(told: Row, drawn: random.Random) -> None:
    if told["row"]["segments"]["region"] == "south":
        told["label"] = None


def miskeyed(told: Row, drawn: random.Random) -> None:
    told["label"]["event_id"] += "x"


def halved(told: Row, drawn: random.Random) -> None:
    """The ranking stays, the probabilities are off."""
    told["row"]["score"] = round(told["row"]["score"] ** 2.5, 4)


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_stream_like_the_reference_is_silent(seed: int) -> None:
    assert fired(None, seed) == {}


def test_a_concept_that_flips_with_inputs_unchanged_shows_in_the_labels_alone() -> None:
    found = fired(flipped)
    assert found.keys() <= LABEL_RULES
    assert CHANGE_AT < found["performance-falling"] <= CHANGE_AT + 8
    assert CHANGE_AT < found["calibration-off"] <= CHANGE_AT + 8


def test_scores_that_rank_as_before_and_mean_less_are_a_matter_of_calibration() -> None:
    found = fired(halved)
    assert CHANGE_AT < found["calibration-off"] <= CHANGE_AT + 8
    whole = [w for w in replayed(halved)[1] if w.clock is Clock.ARRIVAL and w.segment is None and w.version == "1"]
    assert not [s for w in whole for s in w.signals if s.name == "auc" and s.breached]


def test_labels_that_stop_are_missed_and_nothing_else_is_said() -> None:
    assert fired(stopped).keys() == {"labels-missing"}
    assert CHANGE_AT < fired(stopped)["labels-missing"] <= CHANGE_AT + 10


def test_labels_that_stop_in_one_segment_are_missed_there() -> None:
    found = [action.data for action in replayed(stopped_in_the_south)[0] if action.data.state == "firing"]
    assert {data.rule for data in found} == {"labels-missing"}
    assert {"region": "south"} in [data.segment for data in found]


def test_labels_that_come_in_bursts_are_missed_when_a_burst_stays_away_and_not_between_two() -> None:
    assert fired(None, comes=every_five_minutes, reference_comes=None) == {}
    how: Any = {"comes": every_five_minutes, "reference_comes": every_five_minutes}
    assert fired(None, **how) == {}
    found = fired(stopped, **how)
    assert found.keys() == {"labels-missing"}
    assert CHANGE_AT + 5 < found["labels-missing"] <= CHANGE_AT + 15


def test_a_reference_whose_labels_have_no_times_leaves_it_to_the_stream_how_late_they_come() -> None:
    assert fired(None, reference_comes=None) == {}
    found = fired(stopped, reference_comes=None)
    assert found.keys() == {"labels-missing"}
    assert CHANGE_AT < found["labels-missing"] <= CHANGE_AT + 12


def test_labels_with_the_wrong_key_meet_no_prediction() -> None:
    found = fired(miskeyed)
    assert CHANGE_AT < found["labels-unmatched"] <= CHANGE_AT + 8
    labels = replayed(miskeyed)[2].models[MODEL].labels
    assert labels["pending"] > 5_000
    assert labels["read"] == sum(labels[name] for name in ("matched", "pending", "duplicate", "orphan", "rejected"))


def test_a_matured_cohort_tells_the_truth_and_its_maturity() -> None:
    """With so short a horizon a cohort is a pane."""
    cohorts = {
        w.start: w
        for w in replayed(flipped, horizon="12h")[1]
        if w.clock is Clock.COHORT and w.segment is None and w.version is not None
    }
    accuracy = {
        _minute(start): next(s.value for s in w.signals if s.name == "accuracy") for start, w in cohorts.items()
    }
    assert all(w.maturity == 1.0 for w in cohorts.values())
    before = [value for minute, value in accuracy.items() if minute < CHANGE_AT - 3]
    after = [value for minute, value in accuracy.items() if minute >= CHANGE_AT]
    assert min(v for v in before if v is not None) > 0.6 > 0.45 > max(v for v in after if v is not None)


def test_before_the_labels_the_scores_say_what_is_to_be_expected() -> None:
    (first, *_) = [w for w in replayed(None)[1] if w.clock is Clock.EVENT and w.version and w.segment is None]
    truth = next(s.baseline for s in first.signals if s.name == "estimated_accuracy")
    assert truth is not None
    assert first.expected["accuracy"] == pytest.approx(truth, abs=0.05)
    assert first.expected.keys() == {"accuracy", "precision", "recall", "f1"}


def test_the_online_recalibration_is_told_with_the_version_that_it_is_of() -> None:
    """With its arrival windows alone, not with those of segments; it follows the labels from the reference on."""
    told = [w for w in replayed(None)[1] if w.online]
    assert {(w.clock, w.segment, w.version) for w in told} == {(Clock.ARRIVAL, None, "1")}
    assert all(abs(float(w.online["slope"] or 0) - 1) < 0.3 for w in told)


def test_the_online_recalibration_tells_how_sure_it_is() -> None:
    told = [w.online for w in replayed(None)[1] if w.online][5:]
    for name, true in (("intercept", 0.0), ("slope", 1.0)):
        errors = [float(online[f"{name}_error"] or 0) for online in told]
        assert 0 < min(errors) <= max(errors) < 0.5
        assert all(abs(float(o[name] or 0) - true) < 4 * float(o[f"{name}_error"] or 0) for o in told)


def test_what_is_to_be_expected_follows_the_labels_by_the_online_recalibration() -> None:
    """The scores look as before, so the events alone promise what they always did."""
    windows = [w for w in replayed(flipped)[1] if w.segment is None and w.version and w.expected]
    (*_, by_scores) = [w for w in windows if w.clock is Clock.EVENT]
    (*_, by_labels) = [w for w in windows if w.clock is Clock.ARRIVAL]
    truth = next(s.value for s in by_labels.signals if s.name == "accuracy")
    assert truth is not None
    assert by_scores.expected["accuracy"] > 0.7
    assert by_labels.expected["accuracy"] == pytest.approx(truth, abs=0.12)


def test_the_brier_score_and_its_parts_stand_with_the_outcomes() -> None:
    told = [w for w in replayed(None)[1] if w.clock is not Clock.EVENT and w.version and w.counts["labels"] > 100]
    for window in told:
        parts = window.measures
        whole = parts["brier_reliability"] - parts["brier_resolution"] + parts["brier_uncertainty"]
        assert parts["brier"] == pytest.approx(whole, abs=0.02)
        assert parts["brier_uncertainty"] > parts["brier"]
