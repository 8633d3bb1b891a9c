"""Actions → incidents as the ledger persists them: a view of the incidents of `incident_log` that merges as they do."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from streams.ack import Status
from streams.action import Action, Evidence, State
from streams.config import Response
from streams.incident_log import IncidentKey, Subject, incident_key
from streams.signals.names import ESTIMATED
from streams.times import instant_ms
from streams.truth import Cell

PROXY_FAMILIES = frozenset({"quality", "drift", "score", "proxy"})
"""Those of proxies: signals that are judged before the labels come."""
CHANGED = frozenset({Status.ACTED, Status.DONE})
"""What is said of an action that somebody began, or has done."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one incident of a rule and cell. Two of one key merge, in whatever order."""

    rule: str
    version: str | None
    segment: str
    since_ms: int
    response: str
    shadow: bool = False
    fired_ms: int | None = None
    """End of the window in which it fired; None: it has only been held back."""
    end_ms: int | None = None
    proxies: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    """Those of its actions."""
    acks: dict[str, int] = {}
    """By status when it was first said."""

    @property
    def key(self) -> IncidentKey:
        """Without the model: a ledger is of one."""
        return IncidentKey(Subject("", self.rule, self.version, self.segment), self.since_ms)

    def merged(self, other: Incident) -> Incident:
        return msgspec.structs.replace(
            self,
            response=min(self.response, other.response),
            shadow=self.shadow or other.shadow,
            fired_ms=first(self.fired_ms, other.fired_ms),
            end_ms=first(self.end_ms, other.end_ms),
            proxies=tuple(sorted({*self.proxies, *other.proxies})),
            ids=tuple(sorted({*self.ids, *other.ids})),
            acks=first_of_each(self.acks, other.acks),
        )

    @property
    def changed_ms(self) -> int | None:
        """When the system was changed because of it."""
        if self.response != Response.ROLLBACK:
            return None
        return min((at for status, at in self.acks.items() if status in CHANGED), default=None)

    def covers(self, cell: Cell) -> bool:
        """Whether it announces what is wrong there: while it fires for a whole model, segments say nothing."""
        return self.version in (None, cell[0]) and self.segment in ("", cell[1])


def incident_of(action: Action, shadow: bool) -> Incident | None:
    """What an action says of its incident; None if its times are none."""
    key = incident_key(action)
    if key is None:
        return None
    data, end_ms, fires = action.data, instant_ms(action.data.window.end), action.data.state is State.FIRING
    claims = fires and speaks_of_the_model(data.action)
    return Incident(
        rule=key.subject.rule,
        version=key.subject.version,
        segment=key.subject.segment,
        since_ms=key.since_ms,
        response=data.action,
        shadow=shadow,
        fired_ms=end_ms if fires else None,
        end_ms=end_ms if data.state is State.RESOLVED else None,
        proxies=tuple(sorted(_proxies(data.signals))) if claims else (),
        ids=(action.id,),
    )


def speaks_of_the_model(response: str) -> bool:
    """Whether an incident is held against the truth. One that is answered upstream is about the data alone."""
    return response != Response.DATA_INCIDENT


def is_proxy(family: str, name: str) -> bool:
    """Whether a signal is judged before the labels come, and says something of what they will say."""
    return family in PROXY_FAMILIES or name == ESTIMATED


def _proxies(evidence: Iterable[Evidence]) -> set[str]:
    return {item.name for item in evidence if is_proxy(item.family, item.name)}


def first(one: int | None, other: int | None) -> int | None:
    return min((at for at in (one, other) if at is not None), default=None)


def first_of_each(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: min(found[name] for found in (one, other) if name in found) for name in sorted({*one, *other})}
