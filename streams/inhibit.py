"""What is broken below → whether a rule's action is held back: nobody retrains on broken data.

A firing incident of an inhibiting rule holds back rules of a higher rank, for the same model, version and segment, and
feature by feature where both are about features. A rule that judges labels looks back as far as its labels reach: they
are of predictions that were made while something was broken.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from streams.baseline import WHOLE, SegmentKey

EVENTS, LABELS = "event", "arrival"
"""What windows are judged by; a KPI has a clock of its own."""

MOST_OVER = 256
"""Incidents that are over and still remembered."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One that inhibits, as plain fields. Times are ends of the windows in which it began and was over."""

    id: str
    """That of its action."""
    key: str
    rank: int
    version: str | None
    segment: SegmentKey
    features: tuple[str, ...]
    """Those it is about; none: not about single features."""
    clock: str
    """What judged it."""
    began_ms: int
    over_ms: int | None = None

    def explains(self, rank: int, version: str | None, segment: SegmentKey, features: Iterable[str]) -> bool:
        """Whether it explains what a rule of a rank sees there. `features`: of its evidence; none: not about any."""
        wanted = set(features)
        return (
            self.rank < rank
            and self.version in (None, version)
            and self.segment in (WHOLE, segment)
            and (not self.features or not wanted or wanted <= set(self.features))
        )


class Incidents:
    """Inhibiting incidents of one model, those that are over too, for the labels of their time."""

    def __init__(self, known: Iterable[Incident] = ()) -> None:
        self._known = list(known)

    def kept(self) -> tuple[Incident, ...]:
        """As plain fields, for the state."""
        return tuple(self._known)

    def begin(self, incident: Incident) -> None:
        self._known.append(incident)

    def end(self, key: str, end_ms: int) -> None:
        """The incident of a rule and cell is over."""
        self._known = [
            msgspec.structs.replace(found, over_ms=end_ms) if found.key == key and found.over_ms is None else found
            for found in self._known
        ]

    def cause(
        self,
        rank: int,
        version: str | None,
        segment: SegmentKey,
        features: Iterable[str],
        since_ms: int,
        end_ms: int,
        clock: str,
    ) -> Incident | None:
        """What explains something of this rank that was seen between two times: the lowest, then the first."""
        found = [
            incident
            for incident in self._known
            if incident.explains(rank, version, segment, features)
            and incident.clock in (EVENTS, clock)  # how far other clocks have come differs from run to run
            and incident.began_ms <= end_ms
            and (incident.over_ms is None or incident.over_ms > since_ms)
        ]
        return min(found, key=lambda incident: (incident.rank, incident.began_ms), default=None)

    def forget(self, before_ms: int) -> None:
        """Those that were over before a time, and the first ones if there are very many."""
        over = [found for found in self._known if found.over_ms is not None and found.over_ms >= before_ms]
        self._known = [*over[-MOST_OVER:], *(found for found in self._known if found.over_ms is None)]
