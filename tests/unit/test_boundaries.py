"""Where a count, a span or a cool-down ends exactly: one step further would be another answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

import streams.facts.fold
import streams.ledger
from streams.ack import Ack, Status
from streams.backtest import Backtest
from streams.cells import MOST_COUNT, checked_part
from streams.duration import DAY_MS, HOUR_MS
from streams.errors import SketchError
from streams.facts.fold import RunFold
from streams.inhibit import EVENTS, MOST_OVER, Incident, Incidents
from streams.learn import choose_pane_ms
from streams.ledger import Ledger
from streams.partial import Cell, PanePart, PanePartial, key_of
from streams.records import Records
from streams.rollup import Unit
from streams.signals.business import KpiJudge, Past
from streams.sketch.counts import Counts
from streams.sketch.profile import Profile
from streams.source import SourceFold
from streams.truth import Truth
from streams.window import Clock
from tests.decide_cases import Model, both, found_of, rule_of, shift
from tests.ledger_batch import SPAN_H, TERMS, at, signal, window
from tests.replay.test_inhibition import outcomes
from tests.strategies import plan_of
from tests.synthetic import events, learned, lines, plan
from tests.unit.test_exporter import scraped
from tests.unit.test_facts import planned, told
from tests.unit.test_ledger import book, incident, proxy, say
from tests.unit.test_rollup import START, M, cells, rollup_of

NOW_MS = START + 400 * DAY_MS


class TestLedger:
    def test_false_alarms_that_are_folded_away_still_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams.ledger, "MOST_INCIDENTS", 3)
        ledger = Ledger(TERMS)
        alarms = [incident(SPAN_H * number, SPAN_H * number + 2) for number in range(30)]
        for one in alarms:
            for action in one.actions():
                ledger.take_action(action)
            ledger.take_ack(Ack(action_id=one.name("fired"), status=Status.DISMISSED, by="ann", ts=HOUR_MS))
        assert len(ledger.to_state().incidents) <= 3
        assert ledger.realised().false_alarms == len(alarms)

    @pytest.mark.parametrize(("hour", "censored"), [(3.5, 1), (4, 0)])
    def test_a_rollback_when_all_that_an_alarm_spoke_of_is_over_changes_nothing_of_it(
        self, hour: float, censored: int
    ) -> None:
        back = incident(1, 8, rule="back", signals=("request_rate",), acks=(("acted", hour),))
        ledger = book(incident(1, SPAN_H), back)
        for action in back.actions():
            ledger.take_ack(Ack(action_id=action.id, status=Status.ACTED, by="ann", ts=int(hour * HOUR_MS)))
        say(ledger, "ggg")
        assert proxy(ledger).censored == censored

    def test_two_records_of_one_revision_stand_alike_whatever_their_order(self) -> None:
        spans = [
            window(Clock.TRUTH, "1", "", 0, SPAN_H, revision=7, signals=signal(standing), settled=at(SPAN_H + 3))
            for standing in ("good", "bad", "unknown")
        ]
        states = []
        for order in (spans, spans[::-1], [spans[1], spans[0], spans[2]]):
            truth = Truth(TERMS.truth_ms)
            for record in order:
                truth.take(record)
            states.append(truth.to_state())
        assert states[0] == states[1] == states[2]

    def test_a_bad_run_that_goes_on_where_the_forgotten_part_ends_is_one_episode(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = Ledger(TERMS)
        say(ledger, "gbb")
        ledger._fold(3 * SPAN_H * HOUR_MS)
        assert proxy(ledger).missed == 1
        say(ledger, "bg", first=3)
        assert proxy(ledger).missed == 1


class TestInhibition:
    def test_of_very_many_incidents_that_are_over_the_newest_are_remembered(self) -> None:
        known = Incidents()
        for number in range(MOST_OVER + 50):
            known.begin(
                Incident(
                    id=str(number), key=str(number), rank=0, version=None, segment=("", ""), features=(), clock=EVENTS,
                    began_ms=number,
                )
            )  # fmt: skip
            known.end(str(number), number + 1)
        known.forget(0)
        assert [one.began_ms for one in known.kept()] == list(range(50, MOST_OVER + 50))

    def test_an_incident_that_was_only_held_back_prolongs_no_cool_down(self) -> None:
        model = Model(shift(clear_panes=1, cool_down="6m"), rule_of(clear_panes=1))
        panes = [(0.0, 0.2), (0.0, 0.0), (0.5, 0.99), (0.5, 0.0), *[(0.0, 0.0)] * 4, (0.0, 0.2)]
        reasons = [found_of(model.pane(*both(*pane)))["scores"] for pane in panes]
        assert reasons[:4] == ["fired", "resolved", "suppressed_by_layer", "resolved"]
        assert reasons[-1] == "fired", "six minutes after the last published end, five after the one held back"

    def test_only_ends_of_published_incidents_count_as_resolved(self) -> None:
        found = list(outcomes())
        ended = [a for o in found for a in o.actions if a.data.state == "resolved"]
        published = [action for action in ended if action.data.suppressed_by is None]
        assert len(published) < len(ended), "some were only held back"
        state = [outcome.state for outcome in found if outcome.state][-1]
        assert sum(state.resolved.values()) == len(published)


class TestCounts:
    def test_further_events_of_a_job_are_rejected_and_the_books_balance(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams.facts.fold, "MAX_RUN_EVENTS", 10)
        compiled = plan_of("models:\n  alpha:\n    jobs: {features: {every: 1h}}\n", chunk_size=64)
        fold = RunFold(compiled, compiled.config.kafka.runs, 0, None, NOW_MS)
        rows = [
            {
                "eventType": "START",
                "eventTime": "2026-01-05T00:00:01Z",
                "run": {"runId": f"r{number}"},
                "job": {"namespace": "n", "name": "features"},
            }
            for number in range(25)
        ]
        values = [json.dumps(row).encode() for row in rows]
        fold.take(Records(range(25), [NOW_MS] * 25, values), NOW_MS)
        books = fold.shares["alpha"].books
        assert books.balanced() and (books.read, books.counted) == (25, 10)
        assert books.rejected == {"too_many_runs": 15}

    @pytest.mark.parametrize("late", [False, True])
    def test_cells_of_late_records_are_checked_like_the_others(self, late: bool) -> None:
        bad = Cell("1", "", "", Profile(Counts.of(np.array([1, 2], np.int64))).to_bytes())
        part = PanePart("m", "x", [] if late else [bad], [bad] if late else [])
        with pytest.raises(SketchError, match="a cell of 2 slots"):
            checked_part(part, 3, lambda name, value: True, MOST_COUNT)

    def test_a_unit_that_ends_exactly_where_judging_went_is_kept(self) -> None:
        rollup = rollup_of(15 * M, "12h")
        for hour in range(3):
            rollup.restore(Unit(HOUR_MS, START + hour * HOUR_MS, cells(9)))
        rollup.drop_after(START + 2 * HOUR_MS)
        assert rollup.finished() == {("", HOUR_MS, START), ("", HOUR_MS, START + HOUR_MS)}

    def test_a_chunk_has_the_same_identities_whatever_came_before_it(self) -> None:
        """Panes that are evicted and reopened within a chunk are numbered; the number begins anew with each chunk."""
        compiled = plan_of(
            "models:\n  alpha:\n    pane: 1m\n    grace: 1m\n    lateness: 2m\n    features: {}\n", chunk_size=32
        )
        times_ms = [START + number * 60_000 - (900_000 if number % 5 == 4 else 0) for number in range(128)]

        def value(number: int) -> bytes:
            row = {"event_id": str(number), "ts": times_ms[number], "model": "alpha", "features": {}}
            return json.dumps(row).encode()

        def keys(fold: SourceFold, first: int) -> list[tuple[int, bytes]]:
            found: list[tuple[int, bytes]] = []
            for number in range(first, 128):
                steps = fold.take(Records(range(number, number + 1), [NOW_MS], [value(number)]), NOW_MS)
                steps.append(fold.publish(NOW_MS, caught_up=False))
                panes = (one for step in steps for one in step.partials if isinstance(one, PanePartial))
                found += [(one.chunk, key_of(one, "w")) for one in panes]
            return found

        whole = SourceFold(compiled, "inference", 0, None, NOW_MS)
        identities = keys(whole, 0)
        steps = SourceFold(compiled, "inference", 0, None, NOW_MS).take(
            Records(range(96), [NOW_MS] * 96, [value(number) for number in range(96)]), NOW_MS
        )
        resumed = SourceFold(compiled, "inference", 0, steps[-1].progress, NOW_MS)
        assert set(keys(resumed, 96)) == {one for one in identities if one[0] == 3}
        assert not whole._laps, "the last chunk is full: nothing of it is left"


class TestStatistics:
    def test_the_typical_pane_is_the_one_that_the_median_event_is_in(self) -> None:
        """Many panes of a single event do not make a stream look slow when most events come in bursts."""
        bursts = [START + day * DAY_MS + number * 50 for day in range(20) for number in range(700)]
        single = [
            START + day * DAY_MS + hour * HOUR_MS for day in range(20) for hour in range(1, 24) for _ in range(20)
        ]
        assert choose_pane_ms(np.sort(np.array(bursts + single, np.int64))) == M

    @pytest.mark.parametrize(("better", "value", "bad"), [("lower", 190.0, False), ("lower", 230.0, True)])
    def test_no_value_is_bad_that_is_no_worse_than_the_worst_of_earlier_weeks(
        self, better: str, value: float, bad: bool
    ) -> None:
        compiled = planned(
            f"    pane: 1d\n    false_alarms_per_week: 5\n    kpis: {{k: {{aggregate: sum, better: {better}}}}}"
        )
        weeks = [Past([told(number)], DAY_MS) for number in (100.0, 100.0, 100.0, 200.0)]
        before = [Past([told(100.0 + number % 3)], DAY_MS) for number in range(30)]
        result = KpiJudge(compiled, "k").evaluate([told(value)], DAY_MS, weeks, before)
        assert result is not None and bool(result.breached[0]) is bad


def test_the_watermark_of_a_stream_that_has_ended_is_no_time() -> None:
    """The mark of the end is far beyond every time; a gauge of it would be the year 146 million."""
    compiled = plan(learned())
    run = Backtest(compiled, NOW_MS)
    list(run.run(lines(events(3, 4))))
    samples = scraped(20_000, run._buckets)
    assert "foreshock_judged_until_timestamp_seconds" in samples
    assert "foreshock_watermark_timestamp_seconds" not in samples
