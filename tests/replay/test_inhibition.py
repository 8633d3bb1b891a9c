"""A feature pipeline that breaks, and later a concept that changes: what is said, and what is held back for what."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from streams.action import Action
from streams.backtest import Backtest
from streams.configure import load
from streams.judge_model import Outcome
from streams.plan import compile_plan
from streams.scaffold import foreshock_yaml
from tests.replay.test_labelled_streams import MINUTE_MS, MODEL, START_MS, Row, reference, rows, split

BROKEN, HEALTHY_AGAIN, CHANGED, END = 10, 20, 35, 50
"""Minutes."""


def breaks_and_changes(told: Row, drawn: random.Random) -> None:
    """Without the age the model knows nothing; much later the labels turn round."""
    minute = (told["row"]["ts"] - START_MS) / MINUTE_MS
    if BROKEN <= minute < HEALTHY_AGAIN:
        told["row"]["features"]["age"] = None
        told["row"]["score"] = round(drawn.betavariate(8, 2), 4)
        told["row"]["prediction"] = 1
    elif minute >= CHANGED:
        told["label"]["label"] = 1 - told["label"]["label"]


@cache
def outcomes(shadow: str = "") -> Sequence[Outcome]:
    text = foreshock_yaml(reference(), "reference.ndjson", "credit.baseline")
    if shadow:
        text = text.replace(f"name: {shadow},", f"name: {shadow}, shadow: true,")
    run = Backtest(compile_plan(load(text), {MODEL: reference().baseline}), START_MS + 10**9, labelled=True)
    return list(run.run(*split(rows(END, 2, breaks_and_changes, since=BROKEN))))


def actions(*states: str) -> list[Action]:
    return [action for outcome in outcomes() for action in outcome.actions if action.data.state in states]


def minute(action: Action) -> int:
    hours, minutes = map(int, action.data.window.end[11:16].split(":"))
    return hours * 60 + minutes


def test_a_broken_pipeline_is_one_data_incident_and_the_rest_is_held_back_for_it() -> None:
    fired = [action for action in actions("firing") if minute(action) < CHANGED and action.data.revision == 0]
    assert {(action.data.action, action.data.rule) for action in fired} == {("data_incident", "values-missing")}
    (cause,) = fired
    held_back = actions("suppressed")
    assert {action.data.rule for action in held_back} >= {"inputs-drifting", "scores-drifting", "performance-falling"}
    assert {action.data.suppressed_by for action in held_back} == {cause.id}


def test_nothing_that_was_held_back_is_left_open() -> None:
    ended = {(action.data.rule, str(action.data.segment), action.data.since) for action in actions("resolved")}
    assert ended >= {
        (action.data.rule, str(action.data.segment), action.data.since) for action in actions("suppressed")
    }


def test_a_model_that_has_become_wrong_on_sound_inputs_is_to_be_retrained_and_not_before() -> None:
    retrain = [action for action in actions("firing") if action.data.action == "retrain"]
    assert retrain and all(CHANGED < minute(action) <= CHANGED + 10 for action in retrain)


def test_a_shadow_rule_says_what_it_would_have_and_holds_nothing_back() -> None:
    found = outcomes("values-missing")
    assert {a.data.rule for outcome in found for a in outcome.shadows} == {"values-missing"}
    published = {a.data.rule for outcome in found for a in outcome.actions if a.data.state == "firing"}
    assert "values-missing" not in published and "scores-drifting" in published
    state = [outcome.state for outcome in found if outcome.state][-1]
    assert state.shadow == {"values-missing": 1} and "data_incident" not in state.actions
