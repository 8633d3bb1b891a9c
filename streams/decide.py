"""Evaluated windows → decisions: rules as data, a state per rule and cell, a reason for every outcome.

A rule counts breached panes in a row and fires at `for`; it counts quiet ones and resolves at `clear`. A window with
too few samples is neither. A segment's decision is covered, and not published, while the same rule fires, or is about
to, for the whole model; so is a segment's error rate while the fall of the model's accuracy is published. News of a
firing incident (columns that join it, and that nothing below explains) is published for the whole model alone.

After a published incident a rule cools down: what comes back is the same story, and is not published again before the
time is over, unless there is evidence that was not published, or that lies much further from its baseline than before.
The whole model's story covers the same of its segments.

Rules are taken from the lowest layer up. One whose time has come waits while a lower one is about to fire, and is
suppressed while one does; it is released when that is over and the condition still holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from streams.action import BEGINNINGS, ENDS, PUBLISHED, Evidence, Reason, action_id
from streams.baseline import WHOLE, SegmentKey
from streams.config import Rule
from streams.evidence import Condition, condition_of, evidence_key, features_of
from streams.inhibit import Incident
from streams.rule_state import MOST_REVISIONS, NO_TRAFFIC_PANES, RuleCell, RuleState, starved, step
from streams.signals.names import PARTS, rank_of
from streams.signals.result import CellResult, Window
from streams.situation import Judged, LowerLayers, Situation, Story
from streams.told import FURTHEST, MUCH_FURTHER, distance, unheard_of


@dataclass(frozen=True, slots=True)
class Decision:
    """A rule's outcome for one cell and window."""

    rule: Rule
    version: str | None
    segment: SegmentKey
    window: Window
    reason: Reason
    state: RuleState
    evidence: tuple[Evidence, ...]

    @property
    def cell(self) -> RuleCell:
        """The rule and the cell that it decided about."""
        return RuleCell(self.rule.name, self.version, *self.segment)

    @property
    def published(self) -> bool:
        """Whether there is news for others; that of a shadow rule is only recorded."""
        return self.reason in PUBLISHED

    @property
    def may_widen(self) -> bool:
        """Whether there is evidence that the incident will be about too, if it is still there in the next window."""
        state = self.state
        room = state.firing and not state.suppressed_by and state.revision < MOST_REVISIONS and self.rule.for_panes > 1
        return room and self.segment == WHOLE and any(evidence_key(item) not in state.told for item in self.evidence)


def decide(
    rules: Iterable[Rule], judged: Mapping[int, Judged], states: dict[RuleCell, RuleState], situation: Situation
) -> Iterator[Decision]:
    """Decisions after a pane, by its windows of every length. `states` are replaced, never changed in place."""
    story = Story()
    for rule in sorted(rules, key=lambda rule: (rank_of(rule.signals), PARTS.keys() >= set(rule.signals))):
        for decision in _decide_rule(rule, judged, states, situation, story):
            if rule.is_inhibitor:
                _announce(decision, situation, story)
            if decision.segment == WHOLE and not rule.shadow:
                story.whole.update(_published_of_whole(decision))
            yield decision


def _published_of_whole(decision: Decision) -> Iterator[tuple[tuple[str | None, str], float]]:
    """Version and signal of an incident that is open, about to be, or over for less than the cool-down; how far a
    segment may lie from its baseline to be the same story."""
    version, state = decision.version, decision.state
    if decision.reason in (Reason.PENDING, Reason.WAITING):
        yield from (((version, item.name), FURTHEST) for item in decision.evidence)
    elif not state.suppressed_by:
        for key, published in state.told.items():
            yield (version, key.partition(":")[0]), FURTHEST if state.firing else MUCH_FURTHER * published


def _announce(decision: Decision, situation: Situation, story: Story) -> None:
    """Hands what an inhibiting rule decided to the rules above it."""
    if decision.reason in BEGINNINGS:
        situation.incidents.begin(_incident(decision, situation))
    elif decision.reason is Reason.PENDING:
        story.pending.append(_incident(decision, situation))
    elif decision.reason is Reason.WIDENED:
        situation.incidents.widen(decision.cell.text, features_of(_published(decision)))
    elif decision.reason is Reason.HOLDS and decision.may_widen:
        story.pending.append(_incident(decision, situation))
    elif decision.reason in ENDS:
        situation.incidents.end(decision.cell.text, decision.window.end_ms)


def _published(decision: Decision) -> Iterator[Evidence]:
    """The evidence that has been published of the incident."""
    return (item for item in decision.evidence if evidence_key(item) in decision.state.told)


def _incident(decision: Decision, situation: Situation) -> Incident:
    rule, version, segment, state = decision.rule, decision.version, decision.segment, decision.state
    return Incident(
        id=action_id(rule.name, situation.name, version, segment, state.since_ms, "firing", state.revision),
        key=decision.cell.text,
        rank=rank_of(rule.signals),
        version=version,
        segment=segment,
        features=features_of(decision.evidence),
        clock=situation.clock,
        began_ms=decision.window.end_ms,
        from_ms=decision.window.end_ms - decision.window.over_ms - (rule.for_panes - 1) * situation.model.pane_ms,
    )


def _decide_rule(
    rule: Rule,
    judged: Mapping[int, Judged],
    states: dict[RuleCell, RuleState],
    situation: Situation,
    story: Story,
) -> Iterator[Decision]:
    first, *longer = (judged[over_ms] for over_ms in situation.model.overs_ms(rule))
    others = [{(cell.version, cell.segment): cell for cell in window.cells} for window in longer]
    window = first.window
    wholes: dict[str | None, RuleState] = {}
    present: set[RuleCell] = set()
    for cell in first.cells:
        if cell.segment != WHOLE and not rule.looks_at(*cell.segment):
            continue
        condition = condition_of(rule, cell)
        if condition is None:
            continue
        for cells in others:
            condition = condition.and_in(condition_of(rule, cells.get((cell.version, cell.segment))))
        key = RuleCell(rule.name, cell.version, *cell.segment)
        present.add(key)
        state = states.get(key, RuleState())
        covered = cell.segment != WHOLE and _is_covered(rule, cell, condition, wholes.get(cell.version), story, window)
        below = LowerLayers(rule, cell, condition, situation, story, window)
        state, reason = step(rule, state, condition, window, below, covered)
        states[key] = state
        if cell.segment == WHOLE:
            wholes[cell.version] = state
        yield Decision(rule, cell.version, cell.segment, window, reason, state, condition.evidence)
    yield from _starve(rule, window, states, present)


def _is_covered(
    rule: Rule, cell: CellResult, condition: Condition, whole: RuleState | None, story: Story, window: Window
) -> bool:
    """Whether what a segment shows is published of the whole model."""
    if whole is not None and (whole.firing or whole.breached > 0):
        return True
    if whole is not None and whole.cools(rule, window) and not unheard_of(whole.told, condition.distances):
        return True
    return bool(condition.evidence) and all(
        item.name in PARTS
        and distance(item.value, item.baseline) <= story.whole.get((cell.version, PARTS[item.name]), -1.0)
        for item in condition.evidence
    )


def _starve(
    rule: Rule, window: Window, states: dict[RuleCell, RuleState], present: set[RuleCell]
) -> Iterator[Decision]:
    """Cells of the rule that the window does not hold at all."""
    for key in [key for key in states if key.rule == rule.name and key not in present]:
        state, reason = starved(rule, states[key], window)
        states[key] = state
        yield Decision(rule, key.version, key.segment, window, reason, state, ())
        if not state.firing and state.starved > NO_TRAFFIC_PANES and not state.cools(rule, window):
            del states[key]
