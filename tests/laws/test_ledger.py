"""The ledger is a function of the set of records: whatever their order, repeats and restarts, it equals a plain batch.

The batch (`tests/ledger_batch.py`) is written from the definitions in docs/statistics.md, with loops over everything,
on a grid of hours.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streams.ledger
from streams.ledger import Ledger, LedgerState
from streams.ledger_rows import ProxyRow
from tests.ledger_batch import PROXIES, TERMS, Scenario, batch, claims, fired_at, scenarios, verdict


def row(found: ProxyRow) -> dict[str, Any]:
    names = ("confirmed", "refuted", "open", "unknown", "censored", "alarms", "shadow", "caught", "late", "missed")
    lead = None if found.lead_s is None else found.lead_s[0] / 3600
    return {name: getattr(found, name) for name in names} | {
        "lead": lead,
        "precision": found.precision,
        "recall": found.recall,
    }


def played(steps: list[Callable[[Ledger], None]], seed: int, cuts: int = 0) -> Ledger:
    """In some order, with repeats, and taken up again from its state as JSON."""
    drawn = random.Random(seed)
    order = [*steps, *drawn.sample(steps, len(steps) // 2)]
    drawn.shuffle(order)
    places = {drawn.randrange(len(order) + 1) for _ in range(cuts)}
    book = Ledger(TERMS)
    for number, step in enumerate(order):
        if number in places:
            state = msgspec.json.decode(msgspec.json.encode(book.to_state()), type=LedgerState)
            book = Ledger(TERMS, state)
        step(book)
    return book


@settings(max_examples=300)
@given(scenarios(), st.integers(0, 10**6), st.integers(0, 3))
def test_the_ledger_equals_the_batch(scenario: Scenario, seed: int, cuts: int) -> None:
    book = played(scenario.steps(), seed, cuts)
    rows = {found.proxy: row(found) for found in book.proxies()}
    assert rows == {proxy: batch(proxy, scenario) for proxy in (*PROXIES, "total")}


@settings(max_examples=50)
@given(scenarios(), st.integers(0, 10**6), st.integers(0, 3))
def test_neither_order_nor_repeats_nor_restarts_leave_a_trace(scenario: Scenario, seed: int, cuts: int) -> None:
    steps = scenario.steps()
    plain = Ledger(TERMS)
    for step in steps:
        step(plain)
    other = played(steps, seed, cuts)
    assert other.to_state() == plain.to_state()
    assert other.rules() == plain.rules()
    assert other.realised() == plain.realised()


@settings(max_examples=100)
@given(scenarios(), st.integers(0, 10**6))
def test_the_rules_and_the_realised_rate_equal_the_batch(scenario: Scenario, seed: int) -> None:
    book = played(scenario.steps(), seed)
    published = [incident for incident in scenario.incidents if fired_at(incident) is not None]
    for found in book.rules():
        mine = [incident for incident in published if incident.rule == found.rule]
        statuses = [{status for status, _ in incident.acks} for incident in mine]
        acted = sum(bool(said & {"acted", "done"}) for said in statuses)
        assert found.published == len(mine)
        assert found.acted == acted
        assert found.share == (acted / len(mine) if mine else None)
        for name in ("seen", "dismissed", "done"):
            assert getattr(found, name) == sum(name in said for said in statuses)
        waits = [
            (min(hour for _, hour in incident.acks) - (fired_at(incident) or 0)) * 3600
            for incident in mine
            if incident.acks
        ]
        assert found.ack_s == (statistics.median(waits) if waits else None)
    false = sum(
        any(status == "dismissed" for status, _ in incident.acks)
        or (claims(incident) and verdict(incident, scenario)[0] == "refuted")
        for incident in published
        if not incident.shadow
    )
    assert book.realised().false_alarms == false


@settings(max_examples=30)
@given(scenarios(), st.integers(2, 6))
def test_what_is_folded_still_counts(scenario: Scenario, most: int) -> None:
    """However few incidents are remembered, none is lost or counted twice, and memory is bounded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.ledger, "MOST_INCIDENTS", most)
        book = Ledger(TERMS)
        for step in sorted(scenario.incidents, key=lambda told: told.since):
            for action in step.actions():
                book.take_action(action, shadow=step.shadow)
            assert len(book.to_state().incidents) <= max(most, 1)
    fired = [incident for incident in scenario.incidents if fired_at(incident) is not None]
    alarms = [incident for incident in fired if claims(incident)]
    assert book.proxies()[-1].alarms == len(alarms)
    assert sum(found.published for found in book.rules()) == len(fired)
