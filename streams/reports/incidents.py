"""Actions and acks, in order → incidents: since when, until when, why, whose, and what was done."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from streams.ack import Ack
from streams.action import Action, ActionData, State, incident_key
from streams.decide import Evidence
from streams.reports.periods import Period
from streams.times import instant_ms

MOST_EVIDENCE = 5

Key = tuple[str, str, str, str, str]


class Said(msgspec.Struct, frozen=True):
    """What somebody did about an incident."""

    status: str
    by: str
    at: str
    note: str


class Incident(msgspec.Struct, kw_only=True):
    """One incident of a rule and cell. Times are the ends of windows, in RFC 3339; null: it has not come to that."""

    rule: str
    response: str
    layer: int
    severity: str
    owner: str
    runbook: str
    version: str | None
    segment: dict[str, str] | None
    shadow: bool = False
    fired: str | None = None
    held_back: str | None = None
    """When it was suppressed first."""
    ended: str | None = None
    cause: str | None = None
    """Of one that is or was held back: the rule that explained it."""
    evidence: tuple[Evidence, ...] = ()
    """What was breached when it was told last, the worst first."""
    acks: tuple[Said, ...] = ()

    @property
    def began_ms(self) -> int:
        return instant_ms(self.fired or self.held_back or self.ended or "")

    @property
    def ended_ms(self) -> int | None:
        return None if self.ended is None else instant_ms(self.ended)

    @property
    def only_held_back(self) -> bool:
        return self.fired is None

    def touches(self, period: Period) -> bool:
        """Whether it was open in the period. An action of a day stands at the end of its windows, thus at midnight."""
        return self.began_ms <= period.end_ms and (self.ended_ms is None or self.ended_ms > period.start_ms)

    def is_open(self, period: Period) -> bool:
        """Whether it was open when the period ended."""
        return self.touches(period) and (self.ended_ms is None or self.ended_ms > period.end_ms)

    def began_in(self, period: Period) -> bool:
        return period.start_ms < self.began_ms <= period.end_ms

    def ended_in(self, period: Period) -> bool:
        return self.ended_ms is not None and period.start_ms < self.ended_ms <= period.end_ms


class Incidents:
    """The incidents of one model that touch a period or come close to it; of older ones nothing is kept."""

    def __init__(self, period: Period) -> None:
        self._period = period
        self._known: dict[Key, Incident] = {}
        self._key_of: dict[str, Key] = {}
        self._held_by: dict[Key, str] = {}
        self._acks: dict[str, dict[tuple[str, str], Said]] = {}

    def take(self, action: Action, shadow: bool = False) -> None:
        data = action.data
        key = (*incident_key(data.model, data.rule, data.model_version, data.segment), data.since)
        later = instant_ms(data.window.end) > self._period.end_ms
        if key not in self._known and (later or data.state is State.RESOLVED):
            return  # what is not known to have begun began after the period, or before the log
        if data.state is State.RESOLVED and instant_ms(data.window.end) <= self._period.context_ms:
            self._forget(key)
            return
        self._key_of[action.id] = key
        incident = self._known.setdefault(key, _incident(data, shadow))
        if data.state is State.RESOLVED:
            incident.ended = incident.ended or data.window.end
            return
        if later:
            return
        incident.evidence = data.signals[:MOST_EVIDENCE] or incident.evidence
        if data.state is State.SUPPRESSED:
            incident.held_back = incident.held_back or data.window.end
            self._held_by[key] = data.suppressed_by or ""
        else:
            incident.fired = incident.fired or data.window.end

    def take_ack(self, ack: Ack) -> None:
        said = Said(str(ack.status), ack.by, str(ack.ts), ack.note)
        self._acks.setdefault(ack.action_id, {})[said.status, said.by] = said

    def _forget(self, key: Key) -> None:
        if self._known.pop(key, None):
            self._held_by.pop(key, None)
            self._key_of = {name: other for name, other in self._key_of.items() if other != key}

    def told(self) -> list[Incident]:
        """Those that touch the period, the latest first; with their causes and acks."""
        found = [self._finished(key, incident) for key, incident in self._known.items()]
        touching = [incident for incident in found if incident.touches(self._period)]
        return sorted(touching, key=lambda incident: (-incident.began_ms, incident.rule, str(incident.segment)))

    def _finished(self, key: Key, incident: Incident) -> Incident:
        cause = self._known.get(self._key_of.get(self._held_by.get(key, ""), ("", "", "", "", "")))
        acks = {item: said for name in self._ids(key) for item, said in self._acks.get(name, {}).items()}
        return msgspec.structs.replace(
            incident,
            cause=cause.rule if cause else None,
            acks=tuple(sorted(acks.values(), key=lambda said: (instant_ms(said.at), said.status))),
        )

    def _ids(self, key: Key) -> Iterator[str]:
        return (name for name, other in self._key_of.items() if other == key)


def _incident(data: ActionData, shadow: bool) -> Incident:
    return Incident(
        rule=data.rule,
        response=data.action,
        layer=data.layer,
        severity=str(data.severity),
        owner=data.owner,
        runbook=data.runbook,
        version=data.model_version,
        segment=data.segment,
        shadow=shadow,
    )
