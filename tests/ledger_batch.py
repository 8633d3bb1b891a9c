"""Histories of a ledger, and what a plain computation over the whole makes of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from scipy import stats

from streams.ack import Ack, Status
from streams.action import Action, ActionData, Evidence, Reason, Span, State
from streams.config import Severity
from streams.ledger import Ledger, Terms
from streams.times import rfc3339
from streams.window import Clock, SignalRecord, WindowRecord

HOUR_MS = 3_600_000
SPAN_H = 4
HOURS = 48
FAMILIES = {
    "feature_drift": "drift",
    "score_drift": "score",
    "estimated_accuracy": "performance",
    "override_rate": "proxy",
    "request_rate": "health",
}
PROXIES = ("feature_drift", "score_drift", "estimated_accuracy", "override_rate")
RULES = {
    "watch": "human_review",
    "back": "rollback",
    "try": "human_review",
    "pipe": "data_incident",
    "idle": "retrain",
}
TERMS = Terms(model="m", truth_ms=SPAN_H * HOUR_MS, horizon_ms=8 * HOUR_MS, proxies=PROXIES, rules={"idle": False})
versions, segments = st.sampled_from(("1", "2")), st.sampled_from(("", "", "north"))


def at(hour: float) -> str:
    return rfc3339(int(hour * HOUR_MS))


class Told(msgspec.Struct, frozen=True):
    """An incident as it is drawn: hours since 1970, and its acks by the number of the action."""

    rule: str
    version: str | None
    segment: str
    since: int
    fired: int
    held_until: int | None
    end: int | None
    signals: tuple[str, ...]
    acks: tuple[tuple[str, float], ...]

    @property
    def shadow(self) -> bool:
        return self.rule == "try"

    def name(self, what: str) -> str:
        return f"{self.rule}/{self.version}/{self.segment}/{self.since}/{what}"

    def actions(self) -> list[Action]:
        found = []
        if self.held_until is not None:
            found.append(self.action("held", State.SUPPRESSED, Reason.SUPPRESSED, self.fired, self.signals))
            if self.held_until < HOURS:
                found.append(self.action("fired", State.FIRING, Reason.RELEASED, self.held_until, self.signals[:1]))
        else:
            found.append(self.action("fired", State.FIRING, Reason.FIRED, self.fired, self.signals[:1]))
        if found[-1].data.state is State.FIRING and len(self.signals) > 1:
            last = self.held_until or self.fired
            found.append(self.action("wide", State.FIRING, Reason.WIDENED, last + 1, self.signals))
        if self.end is not None:
            found.append(self.action("over", State.RESOLVED, Reason.RESOLVED, self.end, ()))
        return found

    def action(self, what: str, state: State, reason: Reason, hour: int, signals: Iterable[str]) -> Action:
        evidence = tuple(Evidence(FAMILIES[name], name, None, 1.0, 0.0, 0.5, 100) for name in signals)
        return Action(
            id=self.name(what),
            source="foreshock/m",
            subject="m",
            time=at(hour),
            data=ActionData(
                action=RULES[self.rule],
                state=state,
                model="m",
                model_version=self.version,
                segment={"region": self.segment} if self.segment else None,
                layer=3,
                rule=self.rule,
                severity=Severity.WARNING,
                window=Span(at(hour - 1), at(hour)),
                since=at(self.since),
                revision=0,
                reason=reason,
                owner="",
                runbook="",
                suppressed_by=None,
                signals=evidence,
            ),
        )


class Truth(msgspec.Struct, frozen=True):
    """One record of a span's truth: bad, good or unknown."""

    version: str
    segment: str
    span: int
    revision: int
    standing: str

    @property
    def settled(self) -> int:
        return (self.span + 1) * SPAN_H + 3


class Breach(msgspec.Struct, frozen=True):
    """An arrival window of an hour whose labels were bad."""

    version: str
    segment: str
    end: int
    revision: int = 0


def window(clock: Clock, version: str, segment: str, start: int, end: int, **more: Any) -> WindowRecord:
    return WindowRecord(
        model="m",
        version=version,
        segment={"region": segment} if segment else None,
        start=at(start),
        end=at(end),
        counts={},
        top_unseen={},
        quantiles={},
        clock=clock,
        **more,
    )


def signal(standing: str) -> tuple[SignalRecord, ...]:
    limit = None if standing == "unknown" else 0.5
    labels = SignalRecord("labels", "label_rate", None, 1.0, 1.0, 0.5, 100, True)
    return labels, SignalRecord("performance", "accuracy", None, 0.4, 0.7, limit, 100, standing == "bad")


class Scenario(msgspec.Struct, frozen=True):
    incidents: list[Told]
    truths: list[Truth]
    breaches: list[Breach]

    def steps(self) -> list[Callable[[Ledger], None]]:
        """All that is published, each as what a ledger is to take."""
        found: list[Callable[[Ledger], None]] = []
        for told in self.incidents:
            for action in told.actions():
                found.append(lambda book, a=action, s=told.shadow: book.take_action(a, shadow=s))
                for status, hour in told.acks:
                    ack = Ack(action_id=action.id, status=Status(status), by="ann", ts=int(hour * HOUR_MS))
                    found.append(lambda book, a=ack: book.take_ack(a))
        for truth in self.truths:
            start = truth.span * SPAN_H
            more = {"revision": truth.revision, "signals": signal(truth.standing), "settled": at(truth.settled)}
            record = window(Clock.TRUTH, truth.version, truth.segment, start, start + SPAN_H, **more)
            found.append(lambda book, r=record: book.take_window(r))
        for breach in self.breaches:
            more = {"revision": breach.revision, "signals": signal("bad")}
            record = window(Clock.ARRIVAL, breach.version, breach.segment, breach.end - 1, breach.end, **more)
            found.append(lambda book, r=record: book.take_window(r))
        return found


@st.composite
def told(draw: st.DrawFn) -> Told:
    since = draw(st.integers(0, HOURS - 12))
    fired = since + draw(st.integers(1, 3))
    held = draw(st.one_of(st.none(), st.none(), st.integers(fired + 1, fired + 3), st.just(HOURS)))
    last = fired if held in (None, HOURS) else int(held or 0)
    end = draw(st.one_of(st.none(), st.integers(last + 2, last + 8)))
    names = draw(st.lists(st.sampled_from(tuple(FAMILIES)), min_size=1, max_size=3, unique=True))
    hours = st.integers(fired * 2, (fired + 12) * 2).map(lambda half: half / 2)
    acks = draw(st.lists(st.tuples(st.sampled_from([str(status) for status in Status]), hours), max_size=2))
    version = draw(st.one_of(versions, versions, st.none()))
    rule = draw(st.sampled_from(("watch", "watch", "back", "try", "pipe")))
    return Told(rule, version, draw(segments), since, fired, held, end, tuple(names), tuple(acks))


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    incidents = draw(
        st.lists(told(), max_size=8, unique_by=lambda one: (one.rule, one.version, one.segment, one.since))
    )
    spans = st.integers(0, HOURS // SPAN_H - 1)
    standings = st.sampled_from(("bad", "good", "good", "unknown"))
    truth = st.builds(Truth, versions, segments, spans, st.integers(1, 3), standings)
    unique = {"unique_by": lambda one: (one.version, one.segment, one.span, one.revision)}
    truths = draw(st.lists(truth, max_size=40, **unique))
    breach = st.builds(Breach, versions, segments, st.integers(1, HOURS + 8), st.sampled_from((0, 0, 1)))
    return Scenario(incidents, truths, draw(st.lists(breach, max_size=12)))


def standing_by_span(scenario: Scenario) -> dict[tuple[str, str, int], Truth]:
    latest: dict[tuple[str, str, int], Truth] = {}
    for truth in sorted(scenario.truths, key=lambda truth: truth.revision):
        latest[truth.version, truth.segment, truth.span] = truth
    return latest


def fired_at(incident: Told) -> int | None:
    if incident.held_until is None:
        return incident.fired
    return incident.held_until if incident.held_until < HOURS else None


def speaks_until(incident: Told, scenario: Scenario) -> float:
    """Until it is over, or the labels of the span in which it fired have come."""
    end = float("inf") if incident.end is None else incident.end
    fired = fired_at(incident)
    assert fired is not None
    span = (fired - 1) // SPAN_H
    if max((truth.span for truth in scenario.truths), default=-1) < span:
        return end
    of_span = [
        truth.settled
        for truth in scenario.truths
        if truth.span == span and truth.segment == incident.segment and incident.version in (None, truth.version)
    ]
    return min(end, max(of_span, default=(span + 1) * SPAN_H))


def first_seen(version: str, segment: str, span: int, scenario: Scenario) -> int:
    """The first window of bad labels after the beginning of a bad span, else when the span was settled."""
    seen = [
        breach.end
        for breach in scenario.breaches
        if (breach.version, breach.segment, breach.revision) == (version, segment, 0) and breach.end > span * SPAN_H
    ]
    return min(seen, default=standing_by_span(scenario)[version, segment, span].settled)


def changes(scenario: Scenario) -> list[tuple[str | None, float]]:
    return [
        (incident.version, min(hours))
        for incident in scenario.incidents
        if incident.rule == "back"
        and (hours := [hour for status, hour in incident.acks if status in ("acted", "done")])
    ]


def verdict(incident: Told, scenario: Scenario) -> tuple[str, float | None]:
    """What the definitions say of a fired incident, and the lead in hours."""
    truths = standing_by_span(scenario)
    end = speaks_until(incident, scenario)
    last = math.ceil(end / SPAN_H) * SPAN_H if end < float("inf") else end
    for version, hour in changes(scenario):
        about = version is None or incident.version is None or version == incident.version
        if about and incident.since <= hour < last:
            return "censored", None
    spoken = [
        truth
        for (version, segment, span), truth in truths.items()
        if segment == incident.segment
        and incident.version in (None, version)
        and incident.since < (span + 1) * SPAN_H
        and span * SPAN_H < end
    ]
    bad = sorted((truth.span, truth.version) for truth in spoken if truth.standing == "bad")
    if bad:
        span, version = bad[0]
        when = first_seen(version, incident.segment, span, scenario)
        fired = fired_at(incident)
        assert fired is not None
        return "confirmed", when - fired
    settled_until = max(((truth.span + 1) * SPAN_H for truth in scenario.truths), default=-1)
    if settled_until < end:
        return "open", None
    return ("refuted" if any(truth.standing == "good" for truth in spoken) else "unknown"), None


def runs(bad: set[int]) -> list[tuple[int, int]]:
    """First and last of adjacent numbers."""
    return [
        (first, next(last for last in range(first, HOURS) if last in bad and last + 1 not in bad))
        for first in sorted(bad)
        if first - 1 not in bad
    ]


def episodes(scenario: Scenario) -> list[tuple[str, str, int, int]]:
    """Version, segment, first hour and the hour after the last."""
    truths = standing_by_span(scenario)
    found = []
    for version in ("1", "2"):
        bad = {
            segment: {
                truth.span for (v, s, _), truth in truths.items() if (v, s, truth.standing) == (version, segment, "bad")
            }
            for segment in ("", "north")
        }
        whole = runs(bad[""])
        found += [(version, "", first, last) for first, last in whole]
        found += [
            (version, "north", first, last)
            for first, last in runs(bad["north"])
            if all(last < other or after < first for other, after in whole)
        ]
    return [(version, segment, first * SPAN_H, (last + 1) * SPAN_H) for version, segment, first, last in found]


def claims(incident: Told) -> bool:
    """Whether it says something of the model: what is answered upstream does not."""
    return incident.rule != "pipe" and bool(set(incident.signals) & set(PROXIES))


def batch(proxy: str, scenario: Scenario) -> dict[str, Any]:
    """The row of a proxy, or of all of them."""
    alarms = [
        (incident, *verdict(incident, scenario))
        for incident in scenario.incidents
        if fired_at(incident) is not None
        and claims(incident)
        and any(p in incident.signals and proxy in (p, "total") for p in PROXIES)
    ]
    counts = {
        name: sum(v == name for _, v, _ in alarms) for name in ("confirmed", "refuted", "open", "unknown", "censored")
    }
    leads = sorted(lead for _, _, lead in alarms if lead is not None)
    caught = late = missed = 0
    for version, segment, first, after in episodes(scenario):
        over = [
            (found, fired_at(incident) or 0)
            for incident, found, _ in alarms
            if incident.version in (None, version)
            and incident.segment in ("", segment)
            and incident.since < after
            and first < speaks_until(incident, scenario)
        ]
        seen = first_seen(version, segment, first // SPAN_H, scenario)
        if not over:
            missed += 1
        elif all(found != "censored" for found, _ in over):
            in_time = min(fired for _, fired in over) < seen
            caught, late = caught + in_time, late + (not in_time)
    return {
        **counts,
        "alarms": len(alarms),
        "shadow": sum(incident.shadow for incident, _, _ in alarms),
        "caught": caught,
        "late": late,
        "missed": missed,
        "lead": statistics.median(leads) if leads else None,
        "precision": interval(counts["confirmed"], counts["confirmed"] + counts["refuted"]),
        "recall": interval(caught, caught + late + missed),
    }


def interval(hits: int, n: int) -> Any:
    if not n:
        return None
    low, high = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return pytest.approx((hits / n, low, high), abs=1e-4)
