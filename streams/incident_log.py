"""Actions → incidents: one key, and one fold that does not depend on the order or the repetition of the actions.

What others need of incidents are views over this fold: the spans of a comparison (`compare`), the alerts that are open
(`agents.alertmanager`), the incidents that no state knows (`orphans`), and those of a report (`reports.incidents`). The
ledger persists a view of its own (`incidents`), whose records merge as the incidents do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from streams.action import Action, State, segment_id
from streams.times import NO_TIME, instant_ms


class Subject(NamedTuple):
    """What an incident is about, whenever it is. `version` is None for the model as a whole."""

    model: str
    rule: str
    version: str | None
    segment: str

    @property
    def order(self) -> tuple[str, str, str, str]:
        """Sorts subjects."""
        return self.model, self.rule, self.version or "", self.segment


class IncidentKey(NamedTuple):
    """One incident: a subject has one at a time."""

    subject: Subject
    since_ms: int

    @property
    def order(self) -> tuple[int, tuple[str, str, str, str]]:
        """Sorts incidents by the time when they began."""
        return self.since_ms, self.subject.order


def subject_of(action: Action) -> Subject:
    """What an action is about."""
    data = action.data
    return Subject(data.model, data.rule, data.model_version, segment_id(data.segment))


def incident_key(action: Action) -> IncidentKey | None:
    """The incident that an action belongs to; None if its times are none."""
    since_ms = instant_ms(action.data.since)
    if NO_TIME in (since_ms, instant_ms(action.data.window.end)):
        return None
    return IncidentKey(subject_of(action), since_ms)


@dataclass(frozen=True, slots=True)
class Incident:
    """What its actions say of an incident. Two of one key merge, in whatever order and however often."""

    key: IncidentKey
    held_back: Action | None = None
    """The first that says it is suppressed."""
    fired: Action | None = None
    """The first that says it fires: at once, or when it was released."""
    news: Action | None = None
    """The latest before its end."""
    ended: Action | None = None
    """The first that says it is resolved."""

    @classmethod
    def of(cls, key: IncidentKey, action: Action) -> Incident:
        """What one action says."""
        if action.data.state is State.RESOLVED:
            return cls(key, ended=action)
        if action.data.state is State.SUPPRESSED:
            return cls(key, held_back=action, news=action)
        return cls(key, fired=action, news=action)

    def merged(self, other: Incident) -> Incident:
        return Incident(
            self.key,
            _first(self.held_back, other.held_back),
            _first(self.fired, other.fired),
            _latest(self.news, other.news),
            _first(self.ended, other.ended),
        )

    @property
    def opened(self) -> Action | None:
        """Its first action; None if only its end is known."""
        return self.held_back or self.fired

    @property
    def alert(self) -> Action | None:
        """Its latest action while it fires; None while it is held back, and when it is over."""
        return self.news if self.fired is not None and self.ended is None else None


class IncidentLog:
    """All incidents of the actions that were taken."""

    def __init__(self) -> None:
        self._incidents: dict[IncidentKey, Incident] = {}

    def __contains__(self, key: IncidentKey) -> bool:
        return key in self._incidents

    def __iter__(self) -> Iterator[Incident]:
        return iter(self._incidents.values())

    def take(self, action: Action) -> Incident | None:
        """The incident with what the action says; None if its times are none."""
        key = incident_key(action)
        if key is None:
            return None
        incident = _joined(self._incidents.get(key), Incident.of(key, action))
        self._incidents[key] = incident
        return incident

    def forget(self, key: IncidentKey) -> None:
        self._incidents.pop(key, None)


class LatestIncidents:
    """The latest incident of each subject: a later one replaces an earlier one, open or not."""

    def __init__(self) -> None:
        self._incidents: dict[Subject, Incident] = {}

    def __len__(self) -> int:
        return len(self._incidents)

    def __iter__(self) -> Iterator[Incident]:
        return iter(self._incidents.values())

    def of(self, subject: Subject) -> Incident | None:
        return self._incidents.get(subject)

    def take(self, action: Action) -> Incident | None:
        """The incident with what the action says; None if a later one is known, or if its times are none."""
        key = incident_key(action)
        known = self.of(key.subject) if key is not None else None
        if key is None or (known is not None and known.key.since_ms > key.since_ms):
            return None
        same = known if known is not None and known.key == key else None
        incident = _joined(same, Incident.of(key, action))
        self._incidents[key.subject] = incident
        return incident


def _joined(known: Incident | None, incident: Incident) -> Incident:
    return incident if known is None else known.merged(incident)


def _first(one: Action | None, other: Action | None) -> Action | None:
    return min((action for action in (one, other) if action is not None), key=_rank, default=None)


def _latest(one: Action | None, other: Action | None) -> Action | None:
    return max((action for action in (one, other) if action is not None), key=_rank, default=None)


def _rank(action: Action) -> tuple[int, int, int]:
    """Sorts the actions of an incident. One that was made from a state has no evidence, and is the same otherwise."""
    data = action.data
    return instant_ms(data.window.end), data.revision, len(data.signals)
