"""Counts of one proxy, and of one rule, as the ledger persists those of what it has forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from streams.ack import Status
from streams.duration import WEEK_MS
from streams.incidents import CHANGED, Incident

OLD_ENOUGH_MS = WEEK_MS
"""An incident is old when it fired so long ago: there was time to act on it."""


class Verdict(StrEnum):
    """What the truth said of an alarm."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    OPEN = "open"
    UNKNOWN = "unknown"
    CENSORED = "censored"


class Tally(msgspec.Struct):
    """Of one proxy."""

    shadow: int = 0
    """Alarms of shadow rules."""
    verdicts: dict[str, int] = {}
    caught: int = 0
    late: int = 0
    missed: int = 0
    leads_ms: tuple[int, ...] = ()

    def plus(self, other: Tally) -> Tally:
        return Tally(
            self.shadow + other.shadow,
            {v: n for v in Verdict if (n := self.verdicts.get(v, 0) + other.verdicts.get(v, 0))},
            self.caught + other.caught,
            self.late + other.late,
            self.missed + other.missed,
            (*self.leads_ms, *other.leads_ms),
        )


class RuleTally(msgspec.Struct):
    """Of one rule, in incidents."""

    published: int = 0
    old: int = 0
    statuses: dict[str, int] = {}
    acted: int = 0
    """Those that somebody began to act on, or has done."""
    delays_ms: tuple[int, ...] = ()
    """From firing to the first ack."""

    def plus(self, other: RuleTally) -> RuleTally:
        return RuleTally(
            self.published + other.published,
            self.old + other.old,
            {s: n for s in Status if (n := self.statuses.get(s, 0) + other.statuses.get(s, 0))},
            self.acted + other.acted,
            (*self.delays_ms, *other.delays_ms),
        )


def rule_tally(rule: str, incidents: Iterable[Incident], last_ms: int | None) -> RuleTally:
    """Of the incidents of a rule among these. `last_ms`: the latest time that was observed."""
    tally = RuleTally()
    for incident in incidents:
        if incident.rule != rule or incident.fired_ms is None:
            continue
        tally.published += 1
        tally.old += last_ms is not None and incident.fired_ms + OLD_ENOUGH_MS <= last_ms
        tally.acted += any(status in CHANGED for status in incident.acks)
        tally.statuses = {s: tally.statuses.get(s, 0) + (s in incident.acks) for s in Status}
        if incident.acks:
            tally.delays_ms += (min(incident.acks.values()) - incident.fired_ms,)
    return tally
