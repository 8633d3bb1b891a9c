"""Ledgers of labelled streams: which proxies are found right, which wrong, and what each of them missed."""

from __future__ import annotations

import random
from functools import cache

import msgspec
import pytest

from streams.ack import Ack, Acks, Status
from streams.backtest import Backtest
from streams.configure import load
from streams.judge_model import Outcome
from streams.ledger import Ledger, LedgerState, pack_ledger, rows_of, terms_of, unpack_ledger
from streams.ledger_rows import LedgerRows, ProxyRow
from streams.plan import compile_model, compile_plan
from streams.scaffold import foreshock_yaml
from streams.times import instant_ms
from streams.window import Clock, WindowRecord
from tests.replay.test_labelled_streams import (
    CHANGE_AT,
    MINUTE_MS,
    MODEL,
    START_MS,
    Change,
    Row,
    flipped,
    reference,
    rows,
    split,
)

MINUTES = 50
DELAY_MS = 10 * MINUTE_MS
INPUTS = ("feature_drift", "out_of_range_rate", "score_drift", "prediction_drift")


def after_ten_minutes(known_ms: int) -> int:
    return known_ms + DELAY_MS


def older(told: Row, drawn: random.Random) -> None:
    """Other people, whose scores mean what they always did."""
    told["row"]["features"]["age"] = round(told["row"]["features"]["age"] + 15, 1)


def older_and_otherwise(told: Row, drawn: random.Random) -> None:
    """Other people, of whom the scores say nothing."""
    older(told, drawn)
    flipped(told, drawn)


@cache
def run(change: Change | None, acked: bool = False) -> tuple[tuple[Outcome, ...], LedgerRows, Ledger]:
    """A span of truth is a pane, as the horizon is short. `acked`: the first drift of inputs was rolled back for."""
    learned = reference(after_ten_minutes)
    text = foreshock_yaml(learned, "reference.ndjson", "credit.baseline").replace("horizon: 30d", "horizon: 12h")
    acks = Acks()
    if acked:
        moved = "signals: [feature_drift, out_of_range_rate, unseen_rate], response: "
        text = text.replace(f"{moved}human_review", f"{moved}rollback")
        (drift, *_) = [a for o in run(change)[0] for a in o.actions if a.data.rule == "inputs-drifting"]
        acks.take(Ack(action_id=drift.id, status=Status.ACTED, by="ann", ts=instant_ms(drift.data.window.end)))
    plan = compile_plan(load(text), {MODEL: learned.baseline})
    backtest = Backtest(plan, START_MS + 10**9, labelled=True, acks=acks)
    outcomes = tuple(backtest.run(*split(rows(MINUTES, 2, change, after_ten_minutes))))
    return outcomes, rows_of(backtest.ledgers().values()), backtest.ledgers()[MODEL]


def row(change: Change | None, proxy: str, acked: bool = False) -> ProxyRow:
    return next(found for found in run(change, acked)[1].proxies if found.proxy == proxy)


def truths(change: Change | None) -> list[WindowRecord]:
    """What stands of every span of the whole model."""
    latest = {
        w.start: w
        for outcome in run(change)[0]
        for w in outcome.windows
        if w.clock is Clock.TRUTH and w.segment is None and w.version
    }
    return [latest[start] for start in sorted(latest)]


def test_a_concept_that_changes_with_inputs_unchanged_is_missed_by_every_proxy() -> None:
    total = row(flipped, "total")
    assert (total.alarms, total.caught, total.late, total.missed) == (0, 0, 0, 1)
    assert total.recall is not None and total.recall[0] == 0 and total.precision is None
    assert run(flipped)[1].realised[0].false_alarms == 0


def test_one_that_changes_with_its_inputs_is_announced_by_them_before_the_labels() -> None:
    drift = row(older_and_otherwise, "feature_drift")
    assert (drift.confirmed, drift.refuted) == (drift.alarms, 0) and drift.alarms
    assert (drift.caught, drift.late, drift.missed) == (1, 0, 0)
    assert drift.lead_s is not None
    median, low, high = drift.lead_s
    assert DELAY_MS / 2_000 <= low <= median <= high <= 2 * DELAY_MS / 1_000, "about as long as labels take"
    assert not drift.enough, "one alarm proves nothing"


def test_what_is_answered_upstream_is_no_claim_about_the_model() -> None:
    assert "null_rate" not in {found.proxy for found in run(older_and_otherwise)[1].proxies}


def test_inputs_that_drift_with_scores_that_stay_true_are_refuted_and_are_false_alarms() -> None:
    drift = row(older, "feature_drift")
    assert drift.alarms and drift.refuted == drift.alarms
    assert (drift.caught, drift.missed) == (0, 0)
    realised = run(older)[1].realised[0]
    assert realised.false_alarms > 0 and realised.per_week == realised.false_alarms and realised.budget == 1


def test_what_a_rollback_followed_is_censored_and_neither_right_nor_wrong() -> None:
    total = row(older_and_otherwise, "total", acked=True)
    assert total.censored == total.alarms > 0
    assert (total.precision, total.recall) == (None, None)
    (rule,) = [found for found in run(older_and_otherwise, True)[1].rules if found.rule == "inputs-drifting"]
    assert rule.acted == 1 and rule.ack_s == 0


def test_the_truth_is_told_when_the_labels_have_come_with_what_the_scores_promised() -> None:
    found = truths(flipped)
    assert [w.start for w in found] == sorted({w.start for w in found}) and len(found) > MINUTES / 2
    for window in found:
        settled_ms, end_ms = instant_ms(window.settled or ""), instant_ms(window.end)
        assert DELAY_MS <= settled_ms - end_ms <= DELAY_MS + 5 * MINUTE_MS
        assert window.maturity is not None and window.maturity > 0.95
        assert window.expected["accuracy"] > 0.65, "the scores promise what they always did"
        accuracy = next(s for s in window.signals if s.name == "accuracy")
        assert accuracy.value is not None and accuracy.interval is not None
        assert accuracy.breached == (instant_ms(window.start) >= START_MS + CHANGE_AT * MINUTE_MS)


def test_a_ledger_is_the_same_when_it_is_read_from_what_was_published() -> None:
    """In the reverse order, and from its packed state half way."""
    outcomes, rows_, book = run(older_and_otherwise)
    again = Ledger(book.terms)
    for number, outcome in enumerate(reversed(outcomes)):
        if number == len(outcomes) // 2:
            state: LedgerState = unpack_ledger(pack_ledger(again.to_state()))
            again = Ledger(book.terms, state)
        for window in outcome.windows:
            again.take_window(window)
        for action in outcome.actions:
            again.take_action(action)
    assert rows_of([again]) == rows_
    assert msgspec.json.decode(msgspec.json.encode(rows_), type=LedgerRows) == rows_


def test_a_state_is_written_when_there_is_news_and_not_after_every_pane() -> None:
    outcomes = run(None)[0]
    judged = [outcome for outcome in outcomes if outcome.state is not None]
    assert judged[0].ledger is not None
    assert sum(outcome.ledger is not None for outcome in judged) < len(judged) / 4


def test_every_model_has_the_terms_that_its_rules_ask_for() -> None:
    terms = run(None)[2].terms
    learned = reference(after_ten_minutes)
    plan = compile_plan(load(foreshock_yaml(learned, "r", "credit.baseline")), {MODEL: learned.baseline})
    assert set(INPUTS) <= set(terms.proxies) and "request_rate" not in terms.proxies and "accuracy" not in terms.proxies
    assert terms.truth_ms == MINUTE_MS
    assert terms_of(plan.models[MODEL]).truth_ms == 60 * MINUTE_MS, "cohorts of an hour, with a horizon of a month"


@pytest.mark.parametrize(
    ("events", "horizon", "truth_ms"),
    [
        (24_000, "12h", MINUTE_MS),  # 600 a minute
        (19_000, "12h", 60 * MINUTE_MS),  # 475 a minute
        (300, "12h", 1_440 * MINUTE_MS),  # 450 an hour
        (1, "12h", 1_440 * MINUTE_MS),  # never enough: the longest
        (24_000, "30d", 60 * MINUTE_MS),  # not shorter than a cohort
        (None, "12h", 1_440 * MINUTE_MS),  # nobody knows
    ],
)
def test_a_span_of_truth_holds_enough_predictions(events: int | None, horizon: str, truth_ms: int) -> None:
    """The reference is forty minutes long."""
    learned = reference(after_ten_minutes)
    text = foreshock_yaml(learned, "r", "credit.baseline").replace("horizon: 30d", f"horizon: {horizon}")
    base = None if events is None else msgspec.structs.replace(learned.baseline, events=events)
    assert compile_model(MODEL, load(text).models[MODEL], base).truth_ms == truth_ms


def test_where_nobody_knows_how_late_labels_come_the_truth_waits_until_the_stream_has_shown_it() -> None:
    learned = reference(None)
    text = foreshock_yaml(learned, "r", "credit.baseline").replace("horizon: 30d", "horizon: 12h")
    backtest = Backtest(compile_plan(load(text), {MODEL: learned.baseline}), START_MS + 10**9, labelled=True)
    judged = [o.state for o in backtest.run(*split(rows(30, 2, None))) if o.state is not None]
    (learned_ms,) = {state.arrival.learned_ms for state in judged if state.arrival and state.arrival.learned}
    told = sorted(backtest.ledgers()[MODEL].to_state().truth.spans, key=lambda item: item[1].start_ms)
    whole = [span for (_, segment), span in told if not segment]
    early, later = [s for s in whole if s.settled_ms == learned_ms], [s for s in whole if s.settled_ms > learned_ms]
    assert len(early) > 3 and len(later) > 3
    assert [*early, *later] == whole, "those that were waiting are settled at once"
    assert {span.settled_ms - span.end_ms for span in later} == {later[0].settled_ms - later[0].end_ms}
