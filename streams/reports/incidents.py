"""Actions and acks, in order → incidents: since when, until when, why, whose, and what was done."""

from __future__ import annotations

import msgspec

from streams.ack import Ack
from streams.action import Action, Evidence, State
from streams.incident_log import Incident as LoggedIncident
from streams.incident_log import IncidentKey, IncidentLog, incident_key
from streams.reports.periods import Period
from streams.times import instant_ms

MOST_EVIDENCE = 5


class Said(msgspec.Struct, frozen=True):
    """What somebody did about an incident."""

    status: str
    by: str
    at: str
    note: str


class Incident(msgspec.Struct, frozen=True, kw_only=True):
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
    """The breached signals of the last action, the worst first."""
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

    def ended_in(self, period: Period) -> bool:
        return self.ended_ms is not None and period.start_ms < self.ended_ms <= period.end_ms


class Incidents:
    """The incidents of one model that touch a period or come close to it; of older ones nothing is kept."""

    def __init__(self, period: Period) -> None:
        self._period = period
        self._log = IncidentLog()
        self._shadows: set[IncidentKey] = set()
        self._key_of: dict[str, IncidentKey] = {}
        self._acks: dict[str, dict[tuple[str, str], Said]] = {}

    def take(self, action: Action, shadow: bool = False) -> None:
        """An action, or what a shadow rule would have published; they come in order."""
        key, end_ms = incident_key(action), instant_ms(action.data.window.end)
        if key is None:
            return
        is_end, is_later = action.data.state is State.RESOLVED, end_ms > self._period.end_ms
        if key not in self._log and (is_end or is_later):
            return  # what is not known to have begun began after the period, or before the log
        if is_end and end_ms <= self._period.context_ms:
            self._forget(key)
            return
        self._key_of[action.id] = key
        if shadow:
            self._shadows.add(key)
        if is_end or not is_later:
            self._log.take(action)

    def take_ack(self, ack: Ack) -> None:
        said = Said(str(ack.status), ack.by, str(ack.ts), ack.note)
        self._acks.setdefault(ack.action_id, {})[said.status, said.by] = said

    def _forget(self, key: IncidentKey) -> None:
        self._log.forget(key)
        self._shadows.discard(key)
        self._key_of = {name: other for name, other in self._key_of.items() if other != key}

    def told(self) -> list[Incident]:
        """Those that touch the period, the latest first; with their causes and acks."""
        found = [self._finished(incident) for incident in self._log]
        touching = [incident for incident in found if incident.touches(self._period)]
        return sorted(touching, key=lambda incident: (-incident.began_ms, incident.rule, str(incident.segment)))

    def _finished(self, incident: LoggedIncident) -> Incident:
        opened, news, key = incident.opened, incident.news, incident.key
        assert opened is not None and news is not None, "an end alone is not taken"
        data = opened.data
        return Incident(
            rule=data.rule,
            response=data.action,
            layer=data.layer,
            severity=str(data.severity),
            owner=data.owner,
            runbook=data.runbook,
            version=data.model_version,
            segment=data.segment,
            shadow=key in self._shadows,
            fired=_end(incident.fired),
            held_back=_end(incident.held_back),
            ended=_end(incident.ended),
            cause=self._cause(incident.held_back),
            evidence=news.data.signals[:MOST_EVIDENCE],
            acks=self._acks_of(key),
        )

    def _cause(self, held_back: Action | None) -> str | None:
        """The rule that explained an incident."""
        by = held_back.data.suppressed_by if held_back is not None else None
        key = self._key_of.get(by) if by else None
        return key.subject.rule if key is not None else None

    def _acks_of(self, key: IncidentKey) -> tuple[Said, ...]:
        names = (name for name, other in self._key_of.items() if other == key)
        acks = {item: said for name in names for item, said in self._acks.get(name, {}).items()}
        return tuple(sorted(acks.values(), key=lambda said: (instant_ms(said.at), said.status)))


def _end(action: Action | None) -> str | None:
    return None if action is None else action.data.window.end
