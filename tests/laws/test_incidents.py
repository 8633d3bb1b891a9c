"""All views of the incidents agree with what happened, however the log of actions cuts and repeats it.

A past is made up as incidents, hour by hour, and only then written as actions; so the oracle reads no action.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from functools import reduce
from itertools import groupby

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agents.alertmanager import OpenIncidents
from streams.action import Action
from streams.baseline import WHOLE, SegmentKey
from streams.compare import spells
from streams.incident_log import Incident, IncidentLog, LatestIncidents, incident_key
from streams.incidents import incident_of
from streams.orphans import LoggedIncidents
from streams.reports.incidents import Incidents
from streams.reports.periods import Cadence, period_of
from streams.times import instant_ms
from tests.actions import HOUR_MS, action

SUBJECTS: Sequence[tuple[str, SegmentKey]] = [("nulls", WHOLE), ("nulls", ("region", "north")), ("other", WHOLE)]
MONTH = period_of(Cadence.MONTHLY, date(1970, 1, 1))


class Past(msgspec.Struct, frozen=True):
    """One incident, in hours."""

    rule: str
    segment: SegmentKey
    since: int
    held_back: int | None
    fired: int | None
    widened: tuple[int, ...]
    ended: int | None

    def actions(self) -> Iterator[tuple[int, Action]]:
        begin = "l" if self.held_back is not None else "f"
        steps = [("s", self.held_back), (begin, self.fired), *(("w", hour) for hour in self.widened), ("r", self.ended)]
        for letter, hour in steps:
            if hour is not None:
                yield hour, action(letter, hour, self.rule, self.segment, self.since)

    @property
    def about(self) -> tuple[str, SegmentKey]:
        return self.rule, self.segment


@st.composite
def histories(draw: st.DrawFn) -> list[Past]:
    """Of each subject one incident after another; the last may be open."""
    found = []
    for rule, segment in SUBJECTS:
        hour = draw(st.integers(0, 5))
        for is_last in [False] * draw(st.integers(0, 3)) + [True]:
            kind = draw(st.sampled_from(["none", "held", "released", "fired"]))
            if kind == "none":
                continue
            steps = [hour := hour + draw(st.integers(1, 6)) for _ in range(draw(st.integers(2, 5)))]
            began, *others = steps
            ended = None if is_last and draw(st.booleans()) else (hour := hour + 1)
            held_back = None if kind == "fired" else began
            fired = {"held": None, "fired": began, "released": others[0]}[kind]
            later = () if kind == "held" else tuple(others[1:])
            found.append(Past(rule, segment, began - 1, held_back, fired, later, ended))
    return found


def log_of(past: Sequence[Past]) -> list[Action]:
    """In the order in which the actions are published."""
    found = [(hour, place, item) for place, incident in enumerate(past) for hour, item in incident.actions()]
    return [item for _, _, item in sorted(found, key=lambda step: step[:2])]


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Past], list[Action]]:
    """With the actions of some stretch published again, as by a process that was killed before it kept its state."""
    past = draw(histories())
    log = log_of(past)
    begin = draw(st.integers(0, len(log)))
    end = draw(st.integers(begin, len(log)))
    return past, [*log[:end], *log[begin:]]


def texts(*hours: int | None) -> tuple[str | None, ...]:
    """The ends of windows, as actions have them."""
    return tuple(None if hour is None else action("f", hour).data.window.end for hour in hours)


def current(past: Sequence[Past]) -> list[Past]:
    """The latest incident of each subject."""
    ordered = sorted(past, key=lambda incident: (incident.about, incident.since))
    return [list(incidents)[-1] for _, incidents in groupby(ordered, key=lambda incident: incident.about)]


@given(logs())
def test_a_comparison_has_every_incident_from_where_it_fired_to_its_end(found: tuple[list[Past], list[Action]]) -> None:
    past, log = found
    expected = {(p.rule, *texts(p.held_back if p.fired is None else p.fired, p.ended), p.fired is None) for p in past}
    seen = spells(log)
    assert {(spell.rule, spell.start, spell.end, spell.suppressed) for spell in seen} == expected
    assert len(seen) == len(past)


@given(logs())
def test_a_report_has_every_incident_with_all_its_times(found: tuple[list[Past], list[Action]]) -> None:
    past, log = found
    incidents = Incidents(MONTH)
    for item in log:
        incidents.take(item)
    seen = [(found.rule, found.held_back, found.fired, found.ended) for found in incidents.told()]
    assert sorted(seen, key=repr) == sorted(((p.rule, *texts(p.held_back, p.fired, p.ended)) for p in past), key=repr)


@given(logs())
def test_alerts_are_of_what_fires_and_is_not_over(found: tuple[list[Past], list[Action]]) -> None:
    past, log = found
    bridge = OpenIncidents()
    for item in log:
        bridge.take(msgspec.json.encode(item))
    expected = {p.about: (p.since, max((p.fired, *p.widened))) for p in past if p.fired is not None and p.ended is None}
    seen = {
        (item.data.rule, next(iter((item.data.segment or {}).items()), WHOLE)): (
            instant_ms(item.data.since) // HOUR_MS,
            instant_ms(item.data.window.end) // HOUR_MS,
        )
        for item in bridge.firing.values()
    }
    assert seen == expected
    assert not bridge.firing.keys() & bridge.over.keys()


@given(logs())
def test_the_incidents_that_are_left_open_on_the_log_are_all_found(found: tuple[list[Past], list[Action]]) -> None:
    past, log = found
    logged = LoggedIncidents(lambda model: True)
    for item in log:
        logged.take(item)
    last = {(p.rule, p.since, max(hour for hour, _ in p.actions())) for p in current(past) if p.ended is None}
    seen = {
        (a.data.rule, instant_ms(a.data.since) // HOUR_MS, instant_ms(a.data.window.end) // HOUR_MS)
        for a in logged.open()
    }
    assert seen == last


@given(logs(), st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_changes_an_incident(
    found: tuple[list[Past], list[Action]], drawn: object
) -> None:
    past, log = found
    shuffled = list(log)
    drawn.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other, latest = IncidentLog(), IncidentLog(), LatestIncidents()
    for item in log:
        one.take(item)
    for item in shuffled:
        other.take(item)
        latest.take(item)
    assert {incident.key: incident for incident in one} == {incident.key: incident for incident in other}
    assert len(list(one)) == len(past)
    of_log = {incident.key for incident in one}
    assert {incident.key for incident in latest} <= of_log and len(latest) == len(current(past))


@given(logs(), st.randoms(use_true_random=False))
def test_the_ledger_has_what_the_incident_has(found: tuple[list[Past], list[Action]], drawn: object) -> None:
    """Its records merge as the incidents do: one of each action, merged, is that of all the actions."""
    _, log = found
    drawn.shuffle(log)  # type: ignore[attr-defined]
    by_key: dict[object, list[Action]] = {}
    for item in log:
        by_key.setdefault(incident_key(item), []).append(item)
    for items in by_key.values():
        incident = reduce(Incident.merged, (Incident.of(key, item) for item in items if (key := incident_key(item))))
        record = reduce(lambda one, other: one.merged(other), (r for item in items if (r := incident_of(item, False))))
        times = [None if a is None else instant_ms(a.data.window.end) for a in (incident.fired, incident.ended)]
        assert [record.fired_ms, record.end_ms] == times
        assert record.key.since_ms == incident.key.since_ms and record.key.subject[1:] == incident.key.subject[1:]
        assert set(record.ids) == {item.id for item in items}


def test_the_whole_model_and_events_without_a_version_are_two_subjects() -> None:
    whole, nameless = (
        msgspec.structs.replace(
            found := action("f", 1), data=msgspec.structs.replace(found.data, model_version=version)
        )
        for version in (None, "")
    )
    log = IncidentLog()
    log.take(whole)
    log.take(nameless)
    assert len(list(log)) == 2


def test_an_action_without_a_time_is_of_no_incident() -> None:
    fired = action("f", 1)
    timeless = msgspec.structs.replace(fired, data=msgspec.structs.replace(fired.data, since="soon"))
    log, latest, incidents = IncidentLog(), LatestIncidents(), Incidents(MONTH)
    incidents.take(timeless)
    assert log.take(timeless) is None and latest.take(timeless) is None
    assert (list(log), len(latest), incidents.told()) == ([], 0, [])
