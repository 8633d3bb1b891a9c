"""The ledger, case by case; tests/laws/test_ledger.py holds it against a plain batch."""

from __future__ import annotations

from typing import Any

import pytest

import streams.ledger
from streams.ack import Ack, Status
from streams.ledger import Ledger, rows_of
from streams.ledger_rows import ENOUGH, ProxyRow, RuleRow
from streams.ledger_text import ledger_lines
from streams.window import Clock
from tests.ledger_batch import HOUR_MS, SPAN_H, TERMS, Told, at, signal, window

WEEK_H = 168


def incident(since: int, end: int | None, *, fired: int | None = None, held: int | None = None, **more: Any) -> Told:
    signals = more.pop("signals", ("score_drift",))
    found = {"rule": "watch", "version": "1", "segment": "", "acks": ()} | more
    return Told(since=since, fired=fired or since + 1, held_until=held, end=end, signals=signals, **found)


def book(*incidents: Told) -> Ledger:
    ledger = Ledger(TERMS)
    for told in incidents:
        for action in told.actions():
            ledger.take_action(action, shadow=told.shadow)
    return ledger


def say(ledger: Ledger, standings: str, segment: str = "", first: int = 0, revision: int = 1) -> None:
    """A letter a span: b(ad), g(ood), u(nknown), or a dot for no record. Settled three hours after its end."""
    for number, letter in enumerate(standings, first):
        if letter != ".":
            start, end = number * SPAN_H, (number + 1) * SPAN_H
            names = {"b": "bad", "g": "good", "u": "unknown"}
            more = {"revision": revision, "signals": signal(names[letter]), "settled": at(end + 3)}
            ledger.take_window(window(Clock.TRUTH, "1", segment, start, end, **more))


def breach(ledger: Ledger, end: int) -> None:
    ledger.take_window(window(Clock.ARRIVAL, "1", "", end - 1, end, revision=0, signals=signal("bad")))


def proxy(ledger: Ledger, name: str = "score_drift") -> ProxyRow:
    return next(row for row in ledger.proxies() if row.proxy == name)


def rule(ledger: Ledger, name: str = "watch") -> RuleRow:
    return next(row for row in ledger.rules() if row.rule == name)


def test_an_alarm_is_open_until_all_it_spoke_of_is_settled_and_confirmed_as_soon_as_some_is_bad() -> None:
    ledger = book(incident(1, 6))
    assert proxy(ledger).open == 1
    say(ledger, "g")
    assert proxy(ledger).open == 1
    say(ledger, "gg")
    assert (proxy(ledger).open, proxy(ledger).refuted) == (0, 1)
    say(ledger, "gb", revision=2)
    assert (proxy(ledger).refuted, proxy(ledger).confirmed) == (0, 1)


def test_spans_in_which_nobody_could_tell_leave_it_unknown() -> None:
    ledger = book(incident(1, 6))
    say(ledger, "uu")
    assert proxy(ledger).unknown == 1
    assert proxy(ledger).precision is None


def test_an_alarm_that_lasts_speaks_of_what_comes_only_until_the_labels_of_its_beginning_have_come() -> None:
    """Or a signal that is always on would have announced everything."""
    ledger = book(incident(0, None))
    say(ledger, "ggggb")
    assert (proxy(ledger).refuted, proxy(ledger).caught, proxy(ledger).missed) == (1, 0, 1)


@pytest.mark.parametrize(
    ("seen", "caught", "late", "lead_h"), [(2, 0, 1, 0), (3, 1, 0, 1), (None, 1, 0, 5)], ids=["same", "later", "never"]
)
def test_what_the_labels_show_at_the_same_time_is_not_caught(
    seen: int | None, caught: int, late: int, lead_h: int
) -> None:
    ledger = book(incident(1, 4, fired=2))
    say(ledger, "bg")
    if seen is not None:
        breach(ledger, seen)
    row = proxy(ledger)
    assert (row.caught, row.late, row.missed, row.confirmed) == (caught, late, 0, 1)
    assert row.lead_s == (lead_h * 3600,) * 3


def test_what_is_held_back_is_no_alarm_until_it_is_released() -> None:
    assert proxy(book(incident(1, 8, held=99))).alarms == 0
    ledger = book(incident(1, 8, held=4))
    breach(ledger, 6)
    say(ledger, "bb")
    assert (proxy(ledger).confirmed, proxy(ledger).lead_s) == (1, (2 * 3600,) * 3)


def test_a_segment_that_fails_with_the_whole_model_is_no_episode_of_its_own() -> None:
    ledger = Ledger(TERMS)
    say(ledger, "gbbg")
    say(ledger, "gbbb", "north")
    say(ledger, "bggb", "south")
    assert proxy(ledger).missed == 3, "the whole model's, and two of the south"


def test_an_alarm_of_the_whole_model_covers_its_segments() -> None:
    """Whose own alarms are not published meanwhile; but the truth that it is held against is its own."""
    ledger = book(incident(0, 4))
    say(ledger, "g")
    say(ledger, "b", "north")
    assert (proxy(ledger).refuted, proxy(ledger).caught) == (1, 1)


def test_alarms_of_shadow_rules_count_and_are_marked_and_are_no_false_alarms() -> None:
    ledger = book(incident(0, 3, rule="try"))
    say(ledger, "g")
    assert (proxy(ledger).refuted, proxy(ledger).shadow) == (1, 1)
    assert rule(ledger, "try").shadow
    assert ledger.realised().false_alarms == 0


@pytest.mark.parametrize(
    ("count", "said", "later_h", "found"),
    [(5, 0, 400, True), (4, 0, 400, False), (5, 1, 400, False), (5, 0, 40, False)],
)
def test_a_rule_that_nobody_acts_on_is_decoration(count: int, said: int, later_h: int, found: bool) -> None:
    """When it has fired five times, each a week ago."""
    told = [incident(4 * number, 4 * number + 2) for number in range(count)]
    ledger = book(*told)
    for one in told[:said]:
        ledger.take_ack(Ack(action_id=one.name("fired"), status=Status.DONE, by="ann", ts=HOUR_MS))
    ledger.take_window(window(Clock.EVENT, "1", "", later_h - 1, later_h, revision=0, signals=()))
    assert rule(ledger).decoration is found
    assert (rule(ledger).acted, rule(ledger).done) == (said, said)


def test_the_realised_rate_is_over_the_weeks_that_were_observed() -> None:
    ledger = book(incident(0, 3))
    say(ledger, "g")
    assert ledger.realised().per_week == 1, "less than a week counts as one"
    ledger.take_window(window(Clock.EVENT, "1", "", 4 * WEEK_H, 4 * WEEK_H + 1, revision=0, signals=()))
    assert ledger.realised().weeks == pytest.approx(4)
    assert ledger.realised().per_week == pytest.approx(1 / 4)


def test_acks_of_unknown_actions_are_kept_and_no_more_of_them_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.ledger, "MOST_LOOSE", 10)
    ledger, told = Ledger(TERMS), incident(0, 3)
    for number in range(100):
        ledger.take_ack(Ack(action_id=f"x{number}", status=Status.SEEN, by="ann", ts=number))
    ledger.take_ack(Ack(action_id=told.name("fired"), status=Status.SEEN, by="ann", ts=200))
    assert len(ledger.to_state().loose) == 10
    for action in told.actions():
        ledger.take_action(action)
    assert rule(ledger).seen == 1


def test_a_bad_run_whose_beginning_is_forgotten_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.ledger, "MOST_SPANS", 12)
    ledger, sizes = Ledger(TERMS), []
    for number, letter in enumerate("gbg" + "b" * 40 + "gbg"):
        say(ledger, letter, first=number)
        sizes.append(len(ledger.to_state().truth.spans))
    assert max(sizes) <= 12
    assert proxy(ledger).missed == 3
    say(ledger, "b")
    assert len(ledger.to_state().truth.spans) == sizes[-1], "what is told again of the past changes nothing"
    assert proxy(ledger).missed == 3


def test_the_rows_are_tables_for_a_person() -> None:
    ledger = book(incident(1, 4))
    breach(ledger, 7)
    say(ledger, "bg")
    text = "\n".join(ledger_lines(rows_of([ledger])))
    assert text.startswith("m\n")
    (line,) = [line.split() for line in text.splitlines() if line.startswith("  score_drift")]
    assert line[1:10] == ["1", "1", "0", "0", "0", "0", "1", "0", "0"]
    assert "1.00 (0.21 to 1.00)*" in text and "5.0h (5.0h to 5.0h)" in text
    assert "fewer than 10 verdicts" in text and "nobody has said" in text
    assert "0 in 0.0 weeks, 0.00 a week; budget 1" in text


@pytest.mark.parametrize("judged", [ENOUGH - 1, ENOUGH, ENOUGH + 1])
def test_so_many_alarms_that_were_judged_are_enough_to_trust_a_figure(judged: int) -> None:
    ledger = book(*(incident(SPAN_H * number, SPAN_H * number + 2) for number in range(judged)))
    say(ledger, "gb" * ENOUGH)
    found = proxy(ledger)
    assert (found.confirmed + found.refuted, found.enough) == (judged, judged >= ENOUGH)


def test_the_older_half_of_too_many_spans_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.ledger, "MOST_SPANS", 20)
    ledger = Ledger(TERMS)
    say(ledger, "g" * 20)
    assert len(ledger.truth.starts_ms) == 20
    say(ledger, "g", first=20)
    assert len(ledger.truth.starts_ms) == 11
