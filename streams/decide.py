"""Evaluated windows → decisions: rules as data, a state per rule and cell, a reason for every outcome.

A rule counts breached panes in a row and fires at `for`; it counts quiet ones and resolves at `clear`. A window with
too few samples is neither. A segment's decision is covered, and not published, while the same rule fires, or is about
to, for the whole model. News of a firing incident (columns that join it) is published for the whole model alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import numpy as np

from streams.baseline import WHOLE, SegmentKey
from streams.config import Rule
from streams.signals.evaluate import CellResult, Result, Window

NO_TRAFFIC_PANES = 24
"""A firing rule whose cell has had too few samples for this many panes is resolved: there is nothing left to act on."""

MOST_REVISIONS = 5
"""News of one incident is published no more often than this."""

ABSENCE_SIGNALS = frozenset({"request_rate", "freshness", "label_rate", "label_maturity"})
"""Signals that something is missing: they need no sample, and are of the model as a whole."""


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


PUBLISHED = frozenset({Reason.FIRED, Reason.WIDENED, Reason.RESOLVED, Reason.NO_TRAFFIC})


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
        return self.reason in PUBLISHED


def state_key(rule: str, version: str | None, segment: SegmentKey) -> str:
    return msgspec.json.encode([rule, version, *segment]).decode()


def decide(
    rules: Iterable[Rule],
    window: Window,
    cells: Sequence[CellResult],
    states: dict[str, RuleState],
    over_of: Mapping[str, int],
) -> Iterator[Decision]:
    """Decisions of the rules that look at this window's length. `states` are replaced, never changed in place."""
    for rule in rules:
        if over_of[rule.name] == window.over_ms:
            yield from _decide_rule(rule, window, cells, states)


def _decide_rule(
    rule: Rule, window: Window, cells: Sequence[CellResult], states: dict[str, RuleState]
) -> Iterator[Decision]:
    whole_firing: dict[str | None, bool] = {}
    present = set()
    for cell in cells:
        if cell.segment != WHOLE and not rule.segments:
            continue
        found = _judgement(rule, cell)
        if found is None:
            continue
        key = state_key(rule.name, cell.version, cell.segment)
        present.add(key)
        state = states.get(key, RuleState())
        covered = cell.segment != WHOLE and whole_firing.get(cell.version, False)
        state, reason = _step(rule, state, found, window, covered, cell.segment == WHOLE)
        states[key] = state
        if cell.segment == WHOLE:
            whole_firing[cell.version] = state.firing or state.breached > 0
        yield Decision(rule, cell.version, cell.segment, window, reason, state, found.evidence)
    yield from _starve(rule, window, states, present)


def _starve(rule: Rule, window: Window, states: dict[str, RuleState], present: set[str]) -> Iterator[Decision]:
    """Cells of the rule that the window does not hold at all."""
    for key in [key for key in states if key not in present]:
        name, version, dimension, value = msgspec.json.decode(key)
        if name != rule.name:
            continue
        state, reason = _starved(states[key])
        states[key] = state
        yield Decision(rule, version, (dimension, value), window, reason, state, ())
        if not state.firing and state.starved > NO_TRAFFIC_PANES:
            del states[key]


@dataclass(frozen=True, slots=True)
class _Judgement:
    judged: bool
    breached: bool
    evidence: tuple[Evidence, ...]


def _judgement(rule: Rule, cell: CellResult) -> _Judgement | None:
    """What the rule's signals say in a cell; None: the cell has none of them."""
    results = [result for result in cell.results if result.signal.name in rule.signals]
    if not results:
        return None
    whole = any(result.signal.name in ABSENCE_SIGNALS for result in results)
    if cell.events < rule.min_n and not whole:
        return _Judgement(False, False, ())
    evidence: list[tuple[float, Evidence]] = []
    judged = False
    for result in results:
        chosen = [i for i, column in enumerate(result.columns) if rule.features is None or column in rule.features]
        judged |= bool(np.isfinite(result.threshold[chosen]).any())
        breached = result.breached
        evidence += [
            (_weight(result.value[i], result.threshold[i]), _evidence(result, i)) for i in chosen if breached[i]
        ]
    ordered = tuple(
        item for _, item in sorted(evidence, key=lambda pair: (-pair[0], pair[1].name, pair[1].feature or ""))
    )
    return _Judgement(judged, bool(ordered), ordered)


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
    rule: Rule, state: RuleState, found: _Judgement, window: Window, covered: bool, whole: bool
) -> tuple[RuleState, Reason]:
    """(state, judgement) → (state, reason): the whole state machine of a rule."""
    if not found.judged:
        return _starved(state)
    if found.breached:
        return _breached(rule, state, found, window, covered, whole)
    quiet = state.quiet + 1
    if not state.firing:
        return RuleState(quiet=quiet), Reason.QUIET
    if quiet < rule.clear_panes:
        return msgspec.structs.replace(state, quiet=quiet, breached=0, starved=0), Reason.HOLDS
    return RuleState(quiet=quiet, since_ms=state.since_ms, revision=state.revision), Reason.RESOLVED


def _starved(state: RuleState) -> tuple[RuleState, Reason]:
    starved = state.starved + 1
    if state.firing and starved >= NO_TRAFFIC_PANES:
        return RuleState(since_ms=state.since_ms, revision=state.revision, starved=starved), Reason.NO_TRAFFIC
    return msgspec.structs.replace(state, starved=starved), Reason.HOLDS if state.firing else Reason.TOO_FEW


def _breached(
    rule: Rule, state: RuleState, found: _Judgement, window: Window, covered: bool, whole: bool
) -> tuple[RuleState, Reason]:
    names = tuple(sorted({f"{item.name}:{item.feature}" for item in found.evidence}))
    run = state.breached + 1
    if not state.firing:
        if run < rule.for_panes:
            return RuleState(breached=run), Reason.PENDING
        if covered:
            return RuleState(breached=run), Reason.COVERED
        # Not the window's start: that of a long one is rounded down, so two incidents could have the same.
        since_ms = window.end_ms - window.over_ms
        return RuleState(breached=run, firing=True, since_ms=since_ms, known=names, recent=names), Reason.FIRED
    held = msgspec.structs.replace(state, breached=run, quiet=0, starved=0, recent=names)
    new = set(names) - set(state.known)
    if rule.for_panes > 1:
        new &= set(state.recent)
    if not new or not whole or state.revision == MOST_REVISIONS:
        return held, Reason.HOLDS
    held.known = tuple(sorted({*state.known, *new}))
    held.revision += 1
    return held, Reason.WIDENED
