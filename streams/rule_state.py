"""(state, condition) → (state, reason): the state machine of a rule in one cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from streams.action import Reason
from streams.baseline import SegmentKey
from streams.config import Rule
from streams.errors import UNREADABLE, SketchError
from streams.evidence import Condition, evidence_key
from streams.signals.result import Window
from streams.situation import LowerLayers
from streams.told import Distances, furthest, unheard_of

NO_TRAFFIC_PANES = 24
"""A firing rule whose cell has had too few samples for this many panes is resolved: there is nothing left to act on."""


MOST_REVISIONS = 5
"""News of one incident is published no more often than this."""


class RuleState(msgspec.Struct):
    """What a rule remembers of one cell, as plain fields."""

    breached: int = 0
    quiet: int = 0
    starved: int = 0
    firing: bool = False
    since_ms: int = 0
    revision: int = 0
    told: dict[str, float] = {}
    """Evidence that has been published of this incident, and how far each lay from its baseline at the most; while the
    rule cools down, of the last one. Of the whole model's kept for its segments too."""
    recent: tuple[str, ...] = ()
    """Names of the evidence in the window before; of a rule that cools down, of what was news in it."""
    suppressed_by: str = ""
    """Id of the action that this incident is held back for."""
    resolved_ms: int | None = None
    """End of the window in which the last published incident was over."""

    def cools(self, rule: Rule, window: Window) -> bool:
        """Whether the last incident is not over for long."""
        return self.resolved_ms is not None and window.end_ms < self.resolved_ms + rule.cool_down_ms


class RuleCell(NamedTuple):
    """A rule and the cell that it decides about; a text in what is persisted."""

    rule: str
    version: str | None
    dimension: str
    value: str

    @property
    def segment(self) -> SegmentKey:
        return self.dimension, self.value

    @property
    def text(self) -> str:
        """The key of its state, and of an incident that inhibits others, in a model's persisted state."""
        return msgspec.json.encode(self).decode()


_rule_cell = msgspec.json.Decoder(RuleCell).decode


def rule_cell(key: str) -> RuleCell:
    """Raises SketchError for what is no key of a rule state."""
    try:
        return _rule_cell(key)
    except UNREADABLE as error:
        raise SketchError(seen=f"a rule state by a key that does not open ({error})", expected="a rule") from None


def states_by_cell(states: Mapping[str, RuleState]) -> dict[RuleCell, RuleState]:
    """Persisted states as decisions take them."""
    return {rule_cell(key): state for key, state in states.items()}


def states_by_text(states: Mapping[RuleCell, RuleState]) -> dict[str, RuleState]:
    """States as they are persisted."""
    return {cell.text: state for cell, state in states.items()}


def step(
    rule: Rule, state: RuleState, condition: Condition, window: Window, below: LowerLayers, covered: bool
) -> tuple[RuleState, Reason]:
    """(state, judgement) → (state, reason): the whole state machine of a rule."""
    if not condition.judged:
        return starved(rule, state, window)
    if condition.breached:
        return _breached(rule, state, condition, window, below, covered)
    quiet = state.quiet + 1
    if not state.firing:
        return _at_rest(rule, state, window, quiet=quiet), Reason.QUIET
    if quiet < rule.clear_panes:
        return msgspec.structs.replace(state, quiet=quiet, breached=0, starved=0), Reason.HOLDS
    return _over(state, window, quiet=quiet), Reason.RESOLVED


def _at_rest(rule: Rule, state: RuleState, window: Window, *, quiet: int = 0, breached: int = 0) -> RuleState:
    """Without an incident: what was published of the last one counts for as long as the rule cools down."""
    published = state.told if state.cools(rule, window) else {}
    return RuleState(quiet=quiet, breached=breached, told=published, resolved_ms=state.resolved_ms)


def _over(state: RuleState, window: Window, *, quiet: int = 0, starved: int = 0) -> RuleState:
    """What is left of an incident that is over: enough to say which one it was, and what was published of it."""
    return RuleState(
        quiet=quiet,
        starved=starved,
        since_ms=state.since_ms,
        revision=state.revision,
        suppressed_by=state.suppressed_by,
        told=state.told,
        resolved_ms=state.resolved_ms if state.suppressed_by else window.end_ms,
    )


def starved(rule: Rule, state: RuleState, window: Window) -> tuple[RuleState, Reason]:
    starved = state.starved + 1
    if state.firing and starved >= NO_TRAFFIC_PANES:
        return _over(state, window, starved=starved), Reason.NO_TRAFFIC
    return msgspec.structs.replace(state, starved=starved), Reason.HOLDS if state.firing else Reason.TOO_FEW


def _breached(
    rule: Rule, state: RuleState, condition: Condition, window: Window, below: LowerLayers, covered: bool
) -> tuple[RuleState, Reason]:
    distances = condition.distances
    run = state.breached + 1
    if not state.firing:
        return _due(rule, state, distances, window, below, covered, run)
    held = msgspec.structs.replace(state, breached=run, quiet=0, starved=0, recent=tuple(sorted(distances)))
    if state.suppressed_by:
        if covered or below.cause is not None or below.is_pending:
            return held, Reason.HOLDS
        held.suppressed_by, held.told = "", furthest(state.told, distances)
        return held, Reason.RELEASED
    new = distances.keys() - state.told.keys()
    if rule.for_panes > 1:
        new &= set(state.recent)
    new = {evidence_key(item) for item in condition.evidence if evidence_key(item) in new and below.leaves_open(item)}
    if not new or not below.whole or state.revision == MOST_REVISIONS:
        return held, Reason.HOLDS
    held.told = furthest(state.told, {name: distances[name] for name in new})
    held.revision += 1
    return held, Reason.WIDENED


def _due(
    rule: Rule, state: RuleState, distances: Distances, window: Window, below: LowerLayers, covered: bool, run: int
) -> tuple[RuleState, Reason]:
    """A breached pane of a rule that does not fire yet."""
    cools = state.cools(rule, window)
    waits = _at_rest(rule, state, window, breached=run)
    news = unheard_of(waits.told, distances)
    waits.recent = tuple(sorted(news)) if cools else ()
    if run < rule.for_panes:
        return waits, Reason.PENDING
    if covered:
        return waits, Reason.COVERED
    if below.in_maintenance:
        return waits, Reason.MAINTENANCE
    if cools and not (news if rule.for_panes == 1 else news & set(state.recent)):
        return waits, Reason.COOLING
    cause = below.cause
    if cause is None and below.is_pending:
        return waits, Reason.WAITING
    fires = RuleState(
        breached=run,
        firing=True,
        # Not the window's start: that of a long one is rounded down, so two incidents could have the same.
        since_ms=window.end_ms - window.over_ms,
        told=waits.told if cause else furthest(waits.told, distances),
        recent=tuple(sorted(distances)),
        suppressed_by=cause.id if cause else "",
        resolved_ms=state.resolved_ms,
    )
    return fires, Reason.SUPPRESSED if cause else Reason.FIRED
