"""Evaluated windows → decisions: rules as data, a state per rule and cell, a reason for every outcome.

A rule counts breached panes in a row and fires at `for`; it counts quiet ones and resolves at `clear`. A window with
too few samples is neither. A segment's decision is covered, and not published, while the same rule fires, or is about
to, for the whole model. News of a firing incident (columns that join it) is published for the whole model alone.

Rules are taken from the lowest layer up. One whose time has come waits while a lower one is about to fire, and is
suppressed while one does; it is released when that is over and the condition still holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import numpy as np

from streams.baseline import WHOLE, SegmentKey
from streams.config import Match, Model, Rule
from streams.inhibit import EVENTS, LABELS, Incident, Incidents
from streams.signals.evaluate import CellResult, Result, Window
from streams.signals.names import rank_of

NO_TRAFFIC_PANES = 24
"""A firing rule whose cell has had too few samples for this many panes is resolved: there is nothing left to act on."""

MOST_REVISIONS = 5
"""News of one incident is published no more often than this."""

UNSAMPLED = frozenset(
    {"request_rate", "freshness", "job_failure", "capture_ratio", "label_rate", "label_maturity", "kpi"}
)
"""Signals that need no sample of events: that something is missing, or a number that says itself how sure it is."""


FEATURE_FAMILIES = frozenset({"quality", "drift"})
"""Families whose columns are features."""


class Reason(StrEnum):
    """Why a rule decided as it did."""

    QUIET = "quiet"
    PENDING = "pending"
    FIRED = "fired"
    WIDENED = "widened"
    HOLDS = "holds"
    RESOLVED = "resolved"
    NO_TRAFFIC = "no_traffic"
    TOO_FEW = "too_few_samples"
    COVERED = "covered_by_model"
    SUPPRESSED = "suppressed_by_layer"
    RELEASED = "released"
    WAITING = "waiting_for_layer"
    COOLING = "cooling_down"
    MAINTENANCE = "maintenance"


BEGINNINGS = frozenset({Reason.FIRED, Reason.RELEASED})
ENDS = frozenset({Reason.RESOLVED, Reason.NO_TRAFFIC})
PUBLISHED = BEGINNINGS | ENDS | {Reason.WIDENED, Reason.SUPPRESSED}


class Evidence(msgspec.Struct, frozen=True):
    """One breached signal, as an action carries it."""

    family: str
    name: str
    feature: str | None
    value: float | None
    baseline: float | None
    threshold: float | None
    n: int | None


class RuleState(msgspec.Struct):
    """What a rule remembers of one cell, as plain fields."""

    breached: int = 0
    quiet: int = 0
    starved: int = 0
    firing: bool = False
    since_ms: int = 0
    revision: int = 0
    known: tuple[str, ...] = ()
    """Names of the evidence that has been published of this incident."""
    recent: tuple[str, ...] = ()
    """Names of the evidence in the window before."""
    suppressed_by: str = ""
    """Id of the action that this incident is held back for."""
    resolved_ms: int | None = None
    """End of the window in which the last incident was over."""


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
    def published(self) -> bool:
        """Whether there is news for others; that of a shadow rule is only recorded."""
        return self.reason in PUBLISHED


@dataclass(frozen=True, slots=True)
class Judged:
    """A window and what was found in its cells."""

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
    pending: list[Incident] = field(default_factory=list)
    """What is about to be one: rules tell those that come after them."""


def state_key(rule: str, version: str | None, segment: SegmentKey) -> str:
    return msgspec.json.encode([rule, version, *segment]).decode()


def decide(
    rules: Iterable[Rule], judged: Mapping[int, Judged], states: dict[str, RuleState], situation: Situation
) -> Iterator[Decision]:
    """Decisions after a pane, by its windows of every length. `states` are replaced, never changed in place."""
    for rule in sorted(rules, key=lambda rule: rank_of(rule.signals)):
        for decision in _decide_rule(rule, judged, states, situation):
            if rule.is_inhibitor:
                _note(decision, situation)
            yield decision


def _note(decision: Decision, situation: Situation) -> None:
    """Tells the rules above what this one found."""
    if decision.reason in BEGINNINGS:
        situation.incidents.begin(_incident(decision, situation))
    elif decision.reason is Reason.PENDING:
        situation.pending.append(_incident(decision, situation))
    elif decision.reason in ENDS:
        key = state_key(decision.rule.name, decision.version, decision.segment)
        situation.incidents.end(key, decision.window.end_ms)


def _incident(decision: Decision, situation: Situation) -> Incident:
    rule, version, segment, state = decision.rule, decision.version, decision.segment, decision.state
    return Incident(
        id=action_id(rule.name, situation.name, version, segment, state.since_ms, "firing", state.revision),
        key=state_key(rule.name, version, segment),
        rank=rank_of(rule.signals),
        version=version,
        segment=segment,
        features=_features(decision.evidence),
        clock=situation.clock,
        began_ms=decision.window.end_ms,
    )


def _decide_rule(
    rule: Rule, judged: Mapping[int, Judged], states: dict[str, RuleState], situation: Situation
) -> Iterator[Decision]:
    first, *longer = (judged[over_ms] for over_ms in situation.model.overs_ms(rule))
    others = [{(cell.version, cell.segment): cell for cell in found.cells} for found in longer]
    window = first.window
    whole_firing: dict[str | None, bool] = {}
    present = set()
    for cell in first.cells:
        if cell.segment != WHOLE and not rule.looks_at(*cell.segment):
            continue
        found = _judgement(rule, cell)
        if found is None:
            continue
        for cells in others:
            found = found.and_in(_judgement(rule, cells.get((cell.version, cell.segment))))
        key = state_key(rule.name, cell.version, cell.segment)
        present.add(key)
        state = states.get(key, RuleState())
        covered = cell.segment != WHOLE and whole_firing.get(cell.version, False)
        below = _Below(rule, cell, found, situation, window)
        state, reason = _step(rule, state, found, window, below, covered)
        states[key] = state
        if cell.segment == WHOLE:
            whole_firing[cell.version] = state.firing or state.breached > 0
        yield Decision(rule, cell.version, cell.segment, window, reason, state, found.evidence)
    yield from _starve(rule, window, states, present)


@dataclass(frozen=True, slots=True)
class _Below:
    """What a rule that is about to fire has to ask first."""

    rule: Rule
    cell: CellResult
    found: _Judgement
    situation: Situation
    window: Window

    @property
    def whole(self) -> bool:
        return self.cell.segment == WHOLE

    @property
    def _seen(self) -> tuple[int, str | None, SegmentKey, tuple[str, ...]]:
        """What there is to explain."""
        cell, evidence = self.cell, self.found.evidence
        return rank_of(self.rule.signals), cell.version, cell.segment, _features(evidence)

    @property
    def cause(self) -> Incident | None:
        end_ms = self.window.end_ms
        since_ms = end_ms - self._reach_ms
        return self.situation.incidents.cause(*self._seen, since_ms, end_ms, self.situation.clock)

    @property
    def _reach_ms(self) -> int:
        """How far back what was seen lies; a signal may have added up several windows of labels."""
        if self.situation.clock != LABELS:
            return self.situation.reach_ms
        windows = max((item.n or 0 for item in self.found.evidence), default=0) / max(1, self.cell.events)
        return self.situation.reach_ms + int(max(0.0, windows - 1) * self.window.over_ms)

    @property
    def is_pending(self) -> bool:
        return any(incident.explains(*self._seen) for incident in self.situation.pending)

    @property
    def in_maintenance(self) -> bool:
        return any(
            maintenance.holds(self.rule.name, self.window.end_ms) for maintenance in self.situation.model.maintenance
        )


def _features(evidence: Iterable[Evidence]) -> tuple[str, ...]:
    """The features that evidence is about; none where a part of it is about none."""
    found = tuple(evidence)
    of_features = [item.feature for item in found if item.feature and item.family in FEATURE_FAMILIES]
    return tuple(sorted(set(of_features))) if len(of_features) == len(found) else ()


def _starve(rule: Rule, window: Window, states: dict[str, RuleState], present: set[str]) -> Iterator[Decision]:
    """Cells of the rule that the window does not hold at all."""
    for key in [key for key in states if key not in present]:
        name, version, dimension, value = msgspec.json.decode(key)
        if name != rule.name:
            continue
        state, reason = _starved(states[key], window)
        states[key] = state
        yield Decision(rule, version, (dimension, value), window, reason, state, ())
        if not state.firing and state.starved > NO_TRAFFIC_PANES:
            del states[key]


@dataclass(frozen=True, slots=True)
class _Judgement:
    judged: bool
    breached: bool
    evidence: tuple[Evidence, ...]

    def and_in(self, longer: _Judgement | None) -> _Judgement:
        """With what a longer window says: both must be breached."""
        if longer is None:
            return _Judgement(False, False, ())
        return _Judgement(self.judged and longer.judged, self.breached and longer.breached, self.evidence)


def _judgement(rule: Rule, cell: CellResult | None) -> _Judgement | None:
    """What the rule's signals say in a cell; None: there is no cell, or it has none of them."""
    if cell is None:
        return None
    results = [result for result in cell.results if result.signal.name in rule.signals]
    if not results:
        return None
    unsampled = any(result.signal.name in UNSAMPLED for result in results)
    if cell.events < rule.min_n and not unsampled:
        return _Judgement(False, False, ())
    evidence: list[tuple[float, Evidence]] = []
    judged = False
    for result in results:
        chosen = [i for i, column in enumerate(result.columns) if rule.chooses(result.signal.name, column)]
        judged |= bool(np.isfinite(result.threshold[chosen]).any())
        breached = result.breached
        evidence += [
            (_weight(result.value[i], result.threshold[i]), _evidence(result, i)) for i in chosen if breached[i]
        ]
    ordered = tuple(
        item for _, item in sorted(evidence, key=lambda pair: (-pair[0], pair[1].name, pair[1].feature or ""))
    )
    names = {item.name for item in ordered}
    enough = bool(names) if rule.match is Match.ANY else names >= set(rule.signals)
    return _Judgement(judged, enough, ordered)


def _weight(value: float, threshold: float) -> float:
    return abs(float(value) / float(threshold)) if threshold else float("inf")


def _evidence(result: Result, i: int) -> Evidence:
    return Evidence(
        result.signal.family,
        result.signal.name,
        result.columns[i],
        number(result.value[i]),
        number(result.baseline[i]),
        number(result.threshold[i]),
        None if np.isnan(result.n[i]) else int(result.n[i]),
    )


def number(value: float) -> float | None:
    """A number as JSON can hold it, to nine significant digits."""
    return float(f"{value:.9g}") if np.isfinite(value) else None


def _step(
    rule: Rule, state: RuleState, found: _Judgement, window: Window, below: _Below, covered: bool
) -> tuple[RuleState, Reason]:
    """(state, judgement) → (state, reason): the whole state machine of a rule."""
    if not found.judged:
        return _starved(state, window)
    if found.breached:
        return _breached(rule, state, found, window, below, covered)
    quiet = state.quiet + 1
    if not state.firing:
        return RuleState(quiet=quiet, resolved_ms=state.resolved_ms), Reason.QUIET
    if quiet < rule.clear_panes:
        return msgspec.structs.replace(state, quiet=quiet, breached=0, starved=0), Reason.HOLDS
    return _over(state, window, quiet=quiet), Reason.RESOLVED


def _over(state: RuleState, window: Window, *, quiet: int = 0, starved: int = 0) -> RuleState:
    """What is left of an incident that is over: enough to say which one it was."""
    return RuleState(
        quiet=quiet,
        starved=starved,
        since_ms=state.since_ms,
        revision=state.revision,
        suppressed_by=state.suppressed_by,
        resolved_ms=window.end_ms,
    )


def _starved(state: RuleState, window: Window) -> tuple[RuleState, Reason]:
    starved = state.starved + 1
    if state.firing and starved >= NO_TRAFFIC_PANES:
        return _over(state, window, starved=starved), Reason.NO_TRAFFIC
    return msgspec.structs.replace(state, starved=starved), Reason.HOLDS if state.firing else Reason.TOO_FEW


def _breached(
    rule: Rule, state: RuleState, found: _Judgement, window: Window, below: _Below, covered: bool
) -> tuple[RuleState, Reason]:
    names = tuple(sorted({f"{item.name}:{item.feature}" for item in found.evidence}))
    run = state.breached + 1
    if not state.firing:
        return _due(rule, state, names, window, below, covered, run)
    held = msgspec.structs.replace(state, breached=run, quiet=0, starved=0, recent=names)
    if state.suppressed_by:
        if below.cause is not None or below.is_pending:
            return held, Reason.HOLDS
        held.suppressed_by, held.known = "", names
        return held, Reason.RELEASED
    new = set(names) - set(state.known)
    if rule.for_panes > 1:
        new &= set(state.recent)
    if not new or not below.whole or state.revision == MOST_REVISIONS:
        return held, Reason.HOLDS
    held.known = tuple(sorted({*state.known, *new}))
    held.revision += 1
    return held, Reason.WIDENED


def _due(
    rule: Rule, state: RuleState, names: tuple[str, ...], window: Window, below: _Below, covered: bool, run: int
) -> tuple[RuleState, Reason]:
    """A breached pane of a rule that does not fire yet."""
    waits = RuleState(breached=run, resolved_ms=state.resolved_ms)
    if run < rule.for_panes:
        return waits, Reason.PENDING
    if covered:
        return waits, Reason.COVERED
    if below.in_maintenance:
        return waits, Reason.MAINTENANCE
    if state.resolved_ms is not None and window.end_ms < state.resolved_ms + rule.cool_down_ms:
        return waits, Reason.COOLING
    cause = below.cause
    if cause is None and below.is_pending:
        return waits, Reason.WAITING
    fires = RuleState(
        breached=run,
        firing=True,
        # Not the window's start: that of a long one is rounded down, so two incidents could have the same.
        since_ms=window.end_ms - window.over_ms,
        known=names,
        recent=names,
        suppressed_by=cause.id if cause else "",
        resolved_ms=state.resolved_ms,
    )
    return fires, Reason.SUPPRESSED if cause else Reason.FIRED


def action_id(
    rule: str, model: str, version: str | None, segment: SegmentKey, since_ms: int, state: str, revision: int
) -> str:
    """A function of what the action is about and nothing else. `state`: firing, resolved or suppressed."""
    about = [rule, model, version, *segment, since_ms, state, revision]
    return hashlib.blake2b(msgspec.json.encode(about), digest_size=16).hexdigest()
