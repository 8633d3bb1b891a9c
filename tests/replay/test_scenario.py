"""A bad day over all topics, as a backtest: what happens is told once, with the response that it needs."""

from __future__ import annotations

import json
from functools import cache

from streams.action import Action
from streams.backtest import Backtest, Summary
from streams.plan import Facts
from streams.window import Clock, WindowRecord
from tests.replay.test_labelled_streams import MODEL, START_MS
from tests.scenario import BROKEN, CHANGED, COMPLAINTS, END, MENDED, RETRAINED, plan, stream


@cache
def replayed() -> tuple[list[Action], list[WindowRecord], Summary]:
    run = Backtest(plan(), START_MS + 10**9, labelled=True, told=Facts)
    actions, windows = [], []
    for outcome in run.run(*stream()):
        actions += outcome.actions
        windows += outcome.windows
    return actions, windows, run.summary()


def at(action: Action) -> int:
    hours, minutes = map(int, action.data.window.end[11:16].split(":"))
    return hours * 60 + minutes


def began(response: str = "") -> list[Action]:
    """Incidents that were published, in the order of the time that they are about."""
    found = [a for a in replayed()[0] if a.data.state == "firing" and a.data.revision == 0]
    return sorted((a for a in found if response in ("", a.data.action)), key=at)


def test_each_thing_that_happens_is_one_incident_and_calls_for_its_own_response() -> None:
    first = {action.data.action: at(action) for action in reversed(began())}
    assert list(dict.fromkeys(action.data.action for action in began())) == ["data_incident", "retrain", "human_review"]
    assert BROKEN <= first["data_incident"] <= BROKEN + 2
    assert CHANGED < first["retrain"] <= CHANGED + 10
    assert first["retrain"] <= first["human_review"]


def test_a_failed_pipeline_is_one_data_incident_and_all_that_follows_from_it_is_held_back() -> None:
    (cause,) = began("data_incident")
    assert cause.data.rule == "pipeline-failing" and {s.name for s in cause.data.signals} == {"job_failure"}
    held = [action for action in replayed()[0] if action.data.state == "suppressed"]
    assert {a.data.rule for a in held} >= {
        "values-missing",
        "inputs-drifting",
        "scores-drifting",
        "performance-falling",
    }
    assert {action.data.suppressed_by for action in held} == {cause.id}
    over = next(a for a in replayed()[0] if a.data.rule == "pipeline-failing" and a.data.state == "resolved")
    assert MENDED <= at(over) <= MENDED + 3


def test_what_was_held_back_and_what_fired_is_closed_in_the_end() -> None:
    open_ = {}
    for action in replayed()[0]:
        key = (action.data.rule, str(action.data.segment), action.data.model_version)
        open_[key] = action.data.state
    assert {key[0] for key, state in open_.items() if state != "resolved"} == {"complaints-rising"}


def test_only_a_change_of_the_concept_asks_for_retraining() -> None:
    assert all(CHANGED < at(action) <= RETRAINED + 5 for action in began("retrain"))


def test_complaints_about_a_sound_model_are_for_people_to_review() -> None:
    (review,) = [action for action in began() if at(action) > RETRAINED + 5]
    assert COMPLAINTS < at(review) <= COMPLAINTS + 5 and review.data.action == "human_review"
    assert review.data.rule == "complaints-rising"
    evidence = review.data.signals[0]
    assert evidence.name == "complaint_rate" and evidence.value > 3 * evidence.baseline


def test_the_books_of_every_topic_balance() -> None:
    events, labels, told = stream()
    books, parts = replayed()[2].models[MODEL], ("counted", "late", "rejected", "duplicate")
    assert (books.read, books.counted) == (len(events), len(events))
    assert (books.labels["read"], books.labels["matched"]) == (len(labels), len(labels))
    for kind in Facts:
        found = books.told[kind]
        assert found["read"] == len(told[kind]) == sum(found[part] for part in parts)


def test_a_kpi_is_told_with_its_interval_on_a_clock_of_its_own() -> None:
    of_kpi = [w for w in replayed()[1] if w.clock is Clock.KPI and w.kpi == "conversion" and w.segment is None]
    assert len(of_kpi) == END
    for window in of_kpi:
        (signal,) = window.signals
        assert signal.feature == "conversion" and signal.interval[0] <= signal.value <= signal.interval[1]
        assert window.counts == {"observations": 30}


def test_an_override_is_told_with_the_score_that_was_overridden() -> None:
    whole = [w for w in replayed()[1] if w.clock is Clock.EVENT and w.version == "1" and w.segment is None]
    scores = [w.measures["overridden_score"] for w in whole if "overridden_score" in w.measures]
    assert len(scores) > END * 0.9 and all(0 < score < 1 for score in scores)


def test_a_window_that_is_revised_still_says_what_users_did() -> None:
    events, labels, told = stream()
    late = json.loads(events[600 * 25]) | {"event_id": "late"}
    run = Backtest(plan(), START_MS + 10**9, labelled=True, told=Facts)
    shuffled = [*events[: 600 * 35], json.dumps(late).encode(), *events[600 * 35 :]]
    windows = [
        w for outcome in run.run(shuffled, labels, told) for w in outcome.windows if w.start.endswith("00:25:00Z")
    ]
    whole = [w for w in windows if w.clock is Clock.EVENT and w.version is None and w.segment is None]
    first, revised = (next(w for w in whole if bool(w.revision) == later) for later in (False, True))
    assert revised.counts["events"] == first.counts["events"] + 1
    rates = [
        {s.name: (s.value, s.threshold) for s in w.signals if s.family == "proxy" and s.feature is None}
        for w in (first, revised)
    ]
    assert rates[0] == rates[1] and set(rates[0]) == {"override_rate", "complaint_rate"}
