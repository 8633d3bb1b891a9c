"""What decisions depend on beside the windows: the model, its incidents, and what lower layers explain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from streams.action import Evidence
from streams.baseline import WHOLE, SegmentKey
from streams.config import Model, Rule
from streams.evidence import Condition, features_of
from streams.inhibit import EVENTS, LABELS, MIN_SHARE, Incident, Incidents, share_made_in
from streams.signals.names import rank_of
from streams.signals.result import CellResult, Window
from streams.sketch.outcomes import delays


@dataclass(frozen=True, slots=True)
class Judged:
    """A window and the results of its cells."""

    window: Window
    cells: Sequence[CellResult]


@dataclass(frozen=True, slots=True)
class Situation:
    """What decisions depend on beside the windows."""

    name: str
    """Of the model."""
    model: Model
    incidents: Incidents
    reach_ms: int = 0
    """So far before the window's end lies what it is about."""
    clock: str = EVENTS
    """What its windows are judged by."""


@dataclass(slots=True)
class Story:
    """What the rules of one pane hand to the rules that decide after them; it grows with every decision."""

    pending: list[Incident] = field(default_factory=list)
    """What is about to be an incident that inhibits."""
    whole: dict[tuple[str | None, str], float] = field(default_factory=dict)
    """By version and signal what is published of the whole model: how far a segment may lie from its baseline to be
    the same story."""


@dataclass(frozen=True, slots=True)
class LowerLayers:
    """What a rule that is about to fire has to ask first."""

    rule: Rule
    cell: CellResult
    condition: Condition
    situation: Situation
    story: Story
    window: Window

    @property
    def whole(self) -> bool:
        return self.cell.segment == WHOLE

    def _observed(self, evidence: Iterable[Evidence]) -> tuple[int, str | None, SegmentKey, tuple[str, ...]]:
        """What there is to explain."""
        return rank_of(self.rule.signals), self.cell.version, self.cell.segment, features_of(evidence)

    @property
    def cause(self) -> Incident | None:
        return self._cause(self.condition.evidence)

    def _cause(self, evidence: Iterable[Evidence]) -> Incident | None:
        end_ms, clock = self.window.end_ms, self.situation.clock
        since_ms = end_ms - self._reach_ms
        return self.situation.incidents.cause(*self._observed(evidence), since_ms, end_ms, clock, self._touches)

    @property
    def _reach_ms(self) -> int:
        """How far before the window's end the evidence can lie."""
        if self.situation.clock != LABELS:
            return self.situation.reach_ms
        return self.situation.reach_ms + self._arrived_ms - self.window.over_ms

    @property
    def _arrived_ms(self) -> int:
        """The time in which the labels of the evidence arrived: a signal may have added up several windows of them."""
        windows = max((item.n or 0 for item in self.condition.evidence), default=0) / max(1, self.cell.events)
        return int(max(1.0, windows) * self.window.over_ms)

    def _touches(self, incident: Incident) -> bool:
        """Whether enough of the labels in the evidence are of predictions from the incident's time. What is said of the
        flow of labels, or by it, is of the time in which they come."""
        if self.situation.clock != LABELS:
            return True
        end_ms = self.window.end_ms
        since_ms = end_ms - self._arrived_ms
        if incident.clock == LABELS:
            return incident.over_ms is None or incident.over_ms > since_ms
        until_ms = end_ms if incident.over_ms is None else min(end_ms, incident.over_ms)
        came = delays(self.cell.profile.counts.dense())
        share = share_made_in(came, since_ms, end_ms, incident.start_ms, until_ms)
        return share is None or share >= MIN_SHARE

    @property
    def is_pending(self) -> bool:
        return self._is_pending(self.condition.evidence)

    def _is_pending(self, evidence: Iterable[Evidence]) -> bool:
        observed = self._observed(evidence)
        return any(incident.explains(*observed) for incident in self.story.pending)

    def leaves_open(self, item: Evidence) -> bool:
        """Whether nothing below explains a single piece of evidence, or is about to."""
        return self._cause((item,)) is None and not self._is_pending((item,))

    @property
    def in_maintenance(self) -> bool:
        return any(
            maintenance.holds(self.rule.name, self.window.end_ms) for maintenance in self.situation.model.maintenance
        )
