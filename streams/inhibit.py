"""What is broken below → whether a rule's action is held back: nobody retrains on broken data.

A firing incident of an inhibiting rule holds back rules of a higher rank, for the same model, version and segment, and
feature by feature where both are about features. Labels are of predictions that were made earlier: a rule that judges
them is held back while a share of the window's labels is of predictions from the incident's time, and no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import numpy as np

from streams.arrays import Ints
from streams.baseline import WHOLE, SegmentKey
from streams.sketch.outcomes import DELAY_EDGES_MS, DELAYS

EVENTS, LABELS = "event", "arrival"
"""What windows are judged by; a KPI has a clock of its own."""

MOST_OVER = 256
"""Incidents that are over and still remembered."""
MIN_SHARE = 0.05
"""An incident explains nothing of labels of which a smaller share is of predictions from its time."""
_MOMENTS = (np.arange(64) + 0.5) / 64
"""Of a stretch in which labels arrive, the moments at which they are taken to."""


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
    from_ms: int | None = None
    """Start of the first window in which it was breached; None in a state of an earlier release."""

    @property
    def start_ms(self) -> int:
        return self.began_ms if self.from_ms is None else self.from_ms

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

    def widen(self, key: str, features: Iterable[str]) -> None:
        """The open incident of a rule and cell is about these features too."""
        more = set(features)
        self._known = [
            msgspec.structs.replace(found, features=tuple(sorted(more | set(found.features))))
            if found.key == key and found.over_ms is None and found.features
            else found
            for found in self._known
        ]

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
        touches: Callable[[Incident], bool] = lambda incident: True,
    ) -> Incident | None:
        """The incident that explains a breach of this rank between two times: the lowest layer, then the first.

        Parameters:
            touches: whether an incident concerns the breach at all.
        """
        found = [
            incident
            for incident in self._known
            if incident.explains(rank, version, segment, features)
            and incident.clock in (EVENTS, clock)  # how far other clocks have come differs from run to run
            and incident.began_ms <= end_ms
            and (incident.over_ms is None or incident.over_ms > since_ms)
            and touches(incident)
        ]
        return min(found, key=lambda incident: (incident.rank, incident.began_ms), default=None)

    def forget(self, before_ms: int) -> None:
        """Those that were over before a time, and the first ones if there are very many."""
        over = [found for found in self._known if found.over_ms is not None and found.over_ms >= before_ms]
        self._known = [*over[-MOST_OVER:], *(found for found in self._known if found.over_ms is None)]


def share_made_in(came: Ints, since_ms: int, end_ms: int, from_ms: int, until_ms: int) -> float | None:
    """The share of labels whose predictions were made in a stretch; None if there are no labels.

    Parameters
    ----------
    came : (DELAYS,) labels by delay
    since_ms, end_ms : in which the labels arrived, evenly
    from_ms, until_ms : in which the predictions are looked for
    """
    if len(came) != DELAYS or not came.sum():
        return None
    low = np.concatenate([[0.0], DELAY_EDGES_MS.astype(float)])
    length = np.diff(low, append=2.0 * low[-1])
    arrivals = since_ms + _MOMENTS[:, None] * (end_ms - since_ms)
    # Made at (arrival − low − length, arrival − low].
    latest = np.minimum(arrivals - low, until_ms)
    earliest = np.maximum(arrivals - low - length, from_ms)
    within = (np.clip(latest - earliest, 0.0, None) / length).mean(axis=0)
    return float(within @ came) / float(came.sum())
