"""Evaluated windows → decisions: rules as data, a state per rule and cell, a reason for every outcome.

A rule counts breached panes in a row and fires at `for`; it counts quiet ones and resolves at `clear`. A window with
too few samples is neither. A segment's decision is covered, and not published, while the same rule fires, or is about
to, for the whole model; so is a segment's error rate while the model's accuracy is told to have fallen. News of a
firing incident (columns that join it, and that nothing below explains) is published for the whole model alone.

After an incident that was told a rule cools down: what comes back is the same story, and is not told again before the
time is over, unless there is evidence that was not told, or that lies much further from its baseline than was told.
The whole model's story covers the same of its segments.

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
from streams.inhibit import EVENTS, LABELS, MIN_SHARE, Incident, Incidents, share_made_in
from streams.signals.evaluate import CellResult, Result, Window
from streams.signals.names import PARTS, SIGNALS, rank_of
from streams.sketch.outcomes import delays
from streams.told import FURTHEST, MUCH_FURTHER, Distances, distance, furthest, unheard_of

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
    RETIRED = "retired"


BEGINNINGS = frozenset({Reason.FIRED, Reason.RELEASED})
ENDS = frozenset({Reason.RESOLVED, Reason.NO_TRAFFIC, Reason.RETIRED})
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
    told: dict[str, float] = {}
    """Evidence that has been published of this incident, and how far each lay from its baseline at the most; while the
    rule cools down, of the last one. Of the whole model's kept for its segments too."""
    recent: tuple[str, ...] = ()
    """Names of the evidence in the window before; of a rule that cools down, of what was news in it."""
    suppressed_by: str = ""
    """Id of the action that this incident is held back for."""
    resolved_ms: int | None = None
    """End of the window in which the last incident that was told was over."""

    def cools(self, rule: Rule, window: Window) -> bool:
        """Whether the last incident is not over for long."""
        return self.resolved_ms is not None and window.end_ms < self.resolved_ms + rule.cool_down_ms


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

    @property
    def may_widen(self) -> bool:
        """Whether there is evidence that the incident will be about too, if it is still there in the next window."""
        state = self.state
        room = state.firing and not state.suppressed_by and state.revision < MOST_REVISIONS and self.rule.for_panes > 1
        return room and self.segment == WHOLE and any(evidence_key(item) not in state.told for item in self.evidence)


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
    told: dict[tuple[str | None, str], float] = field(default_factory=dict)
    """By version and signal what is told of the whole model, as `_told_of_whole` says: rules tell those after them."""


def state_key(rule: str, version: str | None, segment: SegmentKey) -> str:
    return msgspec.json.encode([rule, version, *segment]).decode()


def decide(
    rules: Iterable[Rule], judged: Mapping[int, Judged], states: dict[str, RuleState], situation: Situation
) -> Iterator[Decision]:
    """Decisions after a pane, by its windows of every length. `states` are replaced, never changed in place."""
    for rule in sorted(rules, key=lambda rule: (rank_of(rule.signals), PARTS.keys() >= set(rule.signals))):
        for decision in _decide_rule(rule, judged, states, situation):
            if rule.is_inhibitor:
                _note(decision, situation)
            if decision.segment == WHOLE and not rule.shadow:
                situation.told.update(_told_of_whole(decision))
            yield decision


def _told_of_whole(decision: Decision) -> Iterator[tuple[tuple[str | None, str], float]]:
    """Version and signal of an incident that is open, about to be, or over for less than the cool-down; how far a
    segment may lie from its baseline to be the same story."""
    version, state = decision.version, decision.state
    if decision.reason in (Reason.PENDING, Reason.WAITING):
        yield from (((version, item.name), FURTHEST) for item in decision.evidence)
    elif not state.suppressed_by:
        for key, told in state.told.items():
            yield (version, key.partition(":")[0]), FURTHEST if state.firing else MUCH_FURTHER * told


def _note(decision: Decision, situation: Situation) -> None:
    """Tells the rules above what this one found."""
    key = state_key(decision.rule.name, decision.version, decision.segment)
    if decision.reason in BEGINNINGS:
        situation.incidents.begin(_incident(decision, situation))
    elif decision.reason is Reason.PENDING:
        situation.pending.append(_incident(decision, situation))
    elif decision.reason is Reason.WIDENED:
        situation.incidents.widen(key, _features(_published(decision)))
    elif decision.reason is Reason.HOLDS and decision.may_widen:
        situation.pending.append(_incident(decision, situation))
    elif decision.reason in ENDS:
        situation.incidents.end(key, decision.window.end_ms)


def _published(decision: Decision) -> Iterator[Evidence]:
    """The evidence that has been told of the incident."""
    return (item for item in decision.evidence if evidence_key(item) in decision.state.told)


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
        from_ms=decision.window.end_ms - decision.window.over_ms - (rule.for_panes - 1) * situation.model.pane_ms,
    )


def _decide_rule(
    rule: Rule, judged: Mapping[int, Judged], states: dict[str, RuleState], situation: Situation
) -> Iterator[Decision]:
    first, *longer = (judged[over_ms] for over_ms in situation.model.overs_ms(rule))
    others = [{(cell.version, cell.segment): cell for cell in found.cells} for found in longer]
    window = first.window
    wholes: dict[str | None, RuleState] = {}
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
        covered = cell.segment != WHOLE and _is_covered(rule, cell, found, wholes.get(cell.version), situation, window)
        below = _Below(rule, cell, found, situation, window)
        state, reason = _step(rule, state, found, window, below, covered)
        states[key] = state
        if cell.segment == WHOLE:
            wholes[cell.version] = state
        yield Decision(rule, cell.version, cell.segment, window, reason, state, found.evidence)
    yield from _starve(rule, window, states, present)


def _is_covered(
    rule: Rule, cell: CellResult, found: _Judgement, whole: RuleState | None, situation: Situation, window: Window
) -> bool:
    """Whether what a segment shows is told of the whole model."""
    if whole is not None and (whole.firing or whole.breached > 0):
        return True
    if whole is not None and whole.cools(rule, window) and not unheard_of(whole.told, found.distances):
        return True
    return bool(found.evidence) and all(
        item.name in PARTS
        and distance(item.value, item.baseline) <= situation.told.get((cell.version, PARTS[item.name]), -1.0)
        for item in found.evidence
    )


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

    def _seen(self, evidence: Iterable[Evidence]) -> tuple[int, str | None, SegmentKey, tuple[str, ...]]:
        """What there is to explain."""
        return rank_of(self.rule.signals), self.cell.version, self.cell.segment, _features(evidence)

    @property
    def cause(self) -> Incident | None:
        return self._cause(self.found.evidence)

    def _cause(self, evidence: Iterable[Evidence]) -> Incident | None:
        end_ms, clock = self.window.end_ms, self.situation.clock
        since_ms = end_ms - self._reach_ms
        return self.situation.incidents.cause(*self._seen(evidence), since_ms, end_ms, clock, self._touches)

    @property
    def _reach_ms(self) -> int:
        """How far back what was seen lies, at the most."""
        if self.situation.clock != LABELS:
            return self.situation.reach_ms
        return self.situation.reach_ms + self._arrived_ms - self.window.over_ms

    @property
    def _arrived_ms(self) -> int:
        """In so long a time the labels came that were seen: a signal may have added up several windows of them."""
        windows = max((item.n or 0 for item in self.found.evidence), default=0) / max(1, self.cell.events)
        return int(max(1.0, windows) * self.window.over_ms)

    def _touches(self, incident: Incident) -> bool:
        """Whether enough of the labels that were seen are of predictions from the incident's time. What is said of the
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
        return self._is_pending(self.found.evidence)

    def _is_pending(self, evidence: Iterable[Evidence]) -> bool:
        seen = self._seen(evidence)
        return any(incident.explains(*seen) for incident in self.situation.pending)

    def leaves_open(self, item: Evidence) -> bool:
        """Whether nothing below explains a single piece of evidence, or is about to."""
        return self._cause((item,)) is None and not self._is_pending((item,))

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
        state, reason = _starved(rule, states[key], window)
        states[key] = state
        yield Decision(rule, version, (dimension, value), window, reason, state, ())
        if not state.firing and state.starved > NO_TRAFFIC_PANES and not state.cools(rule, window):
            del states[key]


@dataclass(frozen=True, slots=True)
class _Judgement:
    judged: bool
    breached: bool
    evidence: tuple[Evidence, ...]

    @property
    def distances(self) -> dict[str, float]:
        """How far each piece of evidence lies from its baseline, by name."""
        return {evidence_key(item): distance(item.value, item.baseline) for item in self.evidence}

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


def evidence_key(item: Evidence) -> str:
    """What a piece of evidence is about: signal, column, and the side that it lies on if it has two."""
    low = item.value is not None and item.value < (item.baseline or 0.0)
    side = (":-" if low else ":+") if SIGNALS[item.name].two_sided else ""
    return f"{item.name}:{item.feature}{side}"


def number(value: float) -> float | None:
    """A number as JSON can hold it, to nine significant digits."""
    return float(f"{value:.9g}") if np.isfinite(value) else None


def _step(
    rule: Rule, state: RuleState, found: _Judgement, window: Window, below: _Below, covered: bool
) -> tuple[RuleState, Reason]:
    """(state, judgement) → (state, reason): the whole state machine of a rule."""
    if not found.judged:
        return _starved(rule, state, window)
    if found.breached:
        return _breached(rule, state, found, window, below, covered)
    quiet = state.quiet + 1
    if not state.firing:
        return _at_rest(rule, state, window, quiet=quiet), Reason.QUIET
    if quiet < rule.clear_panes:
        return msgspec.structs.replace(state, quiet=quiet, breached=0, starved=0), Reason.HOLDS
    return _over(state, window, quiet=quiet), Reason.RESOLVED


def _at_rest(rule: Rule, state: RuleState, window: Window, *, quiet: int = 0, breached: int = 0) -> RuleState:
    """Without an incident: what was told of the last one counts for as long as the rule cools down."""
    told = state.told if state.cools(rule, window) else {}
    return RuleState(quiet=quiet, breached=breached, told=told, resolved_ms=state.resolved_ms)


def _over(state: RuleState, window: Window, *, quiet: int = 0, starved: int = 0) -> RuleState:
    """What is left of an incident that is over: enough to say which one it was, and what was told of it."""
    return RuleState(
        quiet=quiet,
        starved=starved,
        since_ms=state.since_ms,
        revision=state.revision,
        suppressed_by=state.suppressed_by,
        told=state.told,
        resolved_ms=state.resolved_ms if state.suppressed_by else window.end_ms,
    )


def _starved(rule: Rule, state: RuleState, window: Window) -> tuple[RuleState, Reason]:
    starved = state.starved + 1
    if state.firing and starved >= NO_TRAFFIC_PANES:
        return _over(state, window, starved=starved), Reason.NO_TRAFFIC
    return msgspec.structs.replace(state, starved=starved), Reason.HOLDS if state.firing else Reason.TOO_FEW


def _breached(
    rule: Rule, state: RuleState, found: _Judgement, window: Window, below: _Below, covered: bool
) -> tuple[RuleState, Reason]:
    distances = found.distances
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
    new = {evidence_key(item) for item in found.evidence if evidence_key(item) in new and below.leaves_open(item)}
    if not new or not below.whole or state.revision == MOST_REVISIONS:
        return held, Reason.HOLDS
    held.told = furthest(state.told, {name: distances[name] for name in new})
    held.revision += 1
    return held, Reason.WIDENED


def _due(
    rule: Rule, state: RuleState, distances: Distances, window: Window, below: _Below, covered: bool, run: int
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


def action_id(
    rule: str, model: str, version: str | None, segment: SegmentKey, since_ms: int, state: str, revision: int
) -> str:
    """A function of what the action is about and nothing else. `state`: firing, resolved or suppressed."""
    about = [rule, model, version, *segment, since_ms, state, revision]
    return hashlib.blake2b(msgspec.json.encode(about), digest_size=16).hexdigest()
