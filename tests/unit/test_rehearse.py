"""The reference replayed through its own configuration: what is said of it, and when nothing can be said."""

from __future__ import annotations

import random

import pytest

from streams import rehearse as rehearsing
from streams.rehearse import Rehearsal, rehearse
from tests.synthetic import INCIDENTS, MODEL, START_MS, events, learned, lines, plan

NOW_MS = START_MS + 10**10
MINUTES = 20


def replayed(values: list[bytes]) -> Rehearsal | None:
    made = plan(learned(MINUTES), lambda text: text.replace("lateness: 1d", "lateness: 1m"))
    return rehearse(made, MODEL, values, None, NOW_MS)


def reference() -> list[bytes]:
    return lines(events(MINUTES, 1))


def test_a_reference_at_one_with_itself_gives_no_incident() -> None:
    found = replayed(reference())
    assert found is not None
    assert (dict(found.incidents), found.budget) == ({}, 1.0)
    assert found.span_ms == pytest.approx(MINUTES * 60_000, rel=0.01)


def test_incidents_are_told_by_rule() -> None:
    """As if the reference had been another than the one that the baseline is of."""
    found = replayed(lines(events(MINUTES, 1, INCIDENTS)))
    assert found is not None
    assert found.incidents == {"values-missing": 1, "categories-exploding": 1}
    assert found.line.startswith("2 incidents in 0.3 hours (categories-exploding 1, values-missing 1); ")


def test_events_of_another_model_or_out_of_order_tell_nothing() -> None:
    assert replayed([line.replace(MODEL.encode(), b"another") for line in reference()]) is None
    shuffled = reference()
    random.Random(3).shuffle(shuffled)
    assert replayed(shuffled) is None


def test_of_a_long_reference_the_first_panes_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsing, "MOST_PANES", 5)
    taken = []
    found = rehearse(plan(learned(MINUTES)), MODEL, (taken.append(1) or line for line in reference()), None, NOW_MS)
    assert found is not None
    assert found.span_ms == 5 * 60_000
    assert len(taken) == 5 * 600 + 1  # up to the first that is too late
