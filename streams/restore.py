"""Kept state and the configuration that goes on from it → what goes on, what is aligned, what begins anew.

Whatever a state holds was made under some configuration, which it carries (`streams.fingerprint.Made`). What does not
depend on what was changed goes on. Clocks move up to the next bound of the panes of today, so that no time is judged
twice and no window is taken for whole that is not. What means something else now is dropped, and said. Incidents of
what the configuration no longer names are closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from streams.action import Action, Reason, Span
from streams.action_of import retirement
from streams.baseline import WHOLE
from streams.config import Response, Rule, Severity
from streams.duration import format_ms
from streams.evaluation_progress import EVENTS_CLOCK
from streams.evidence import FEATURE_FAMILIES
from streams.fingerprint import Made, RulePrint, layer_of_evidence, made_of
from streams.panes import hour_ms, next_start, pane_start
from streams.plan import ModelPlan
from streams.rule_state import RuleCell, RuleState, rule_cell
from streams.signals.names import SIGNALS
from streams.state import MAX_GAPS, Gap, ModelState
from streams.times import rfc3339

FEATURE_SIGNALS = frozenset(name for name, signal in SIGNALS.items() if signal.family in FEATURE_FAMILIES)


class Kind(StrEnum):
    """What of the kept state begins anew, or is left out."""

    EVENTS = "events"
    LABELS = "labels"
    KPI = "kpi"
    RULE = "rule"
    ROLLUP = "rollup"
    LEDGER = "ledger"
    UNSOUND = "unsound"
    """A record that no worker has written."""


@dataclass(frozen=True, slots=True)
class Restart:
    """One thing that does not go on, and why, as a sentence."""

    kind: Kind
    text: str


@dataclass(slots=True)
class Restored:
    """A model's state as the plan can go on with it, what begins anew, and the actions that close incidents."""

    state: ModelState
    judged: Span
    """The last window of events that was judged before."""
    restarts: list[Restart] = field(default_factory=list)
    retired: list[Action] = field(default_factory=list)


def restored(state: ModelState, plan: ModelPlan, now: Made | None = None) -> Restored:
    """What a worker under this plan goes on with. The same for the same state and plan, however often it is asked.

    Parameters:
        now: `made_of(plan)`, if that is at hand.
    """
    now = now or made_of(plan)
    found = Restored(state, _last_pane(state, plan.config.pane_ms))
    _restore_events(found, plan, now)
    _restore_labels(found, plan, now)
    _restore_kpis(found, plan, now)
    _restore_rules(found, plan, now)
    jobs = {name: job for name, job in state.jobs.items() if name in plan.config.jobs}
    found.state = msgspec.structs.replace(found.state, jobs=jobs, made=now)
    return found


def _last_pane(state: ModelState, pane_ms: int) -> Span:
    start_ms = state.judged_until_ms - (state.made.pane_ms if state.made else pane_ms)
    return Span(rfc3339(start_ms), rfc3339(state.judged_until_ms))


# Events


def _restore_events(found: Restored, plan: ModelPlan, now: Made) -> None:
    state, made = found.state, found.state.made
    if made is None:
        if state.judged_until_ms % now.pane_ms == 0 and state.first_pane_ms % now.pane_ms == 0:
            return
    elif made.events == now.events and made.pane_ms == now.pane_ms:
        return
    found.state = events_restarted(state, plan, now, state.judged_until_ms)
    why = "features, bins or segments were changed"
    if made is not None and made.events == now.events:
        why = f"the pane was {format_ms(made.pane_ms)} and is {format_ms(now.pane_ms)}"
    found.restarts.append(events_restart(found.state, state.judged_until_ms, why))


def events_restarted(state: ModelState, plan: ModelPlan, now: Made, until_ms: int) -> ModelState:
    """The state with events judged from the first pane on that begins after what was judged, and after `until_ms`:
    what was counted before then was counted otherwise."""
    made, pane_ms = state.made or now, plan.config.pane_ms
    bound_ms = next_start(max(until_ms, state.judged_until_ms), pane_ms)
    whole_ms = state.judged_until_ms // hour_ms(pane_ms) * hour_ms(pane_ms)
    known = made.events == now.events and hour_ms(pane_ms) > pane_ms
    from_ms = min(bound_ms, whole_ms if known else state.first_pane_ms)
    return msgspec.structs.replace(
        state,
        judged_until_ms=bound_ms,
        first_pane_ms=pane_start(state.first_pane_ms, pane_ms),
        last_event_pane_ms=pane_start(state.last_event_pane_ms + made.pane_ms - 1, pane_ms),
        gaps=with_gap(state.gaps, EVENTS_CLOCK, (from_ms, bound_ms)),
    )


def events_restart(state: ModelState, before_ms: int, why: str) -> Restart:
    gap_from_ms = state.gaps[EVENTS_CLOCK][-1][0]
    return Restart(
        Kind.EVENTS,
        f"{why}: events are judged from {rfc3339(state.judged_until_ms)} on, in whole panes (before: until "
        f"{rfc3339(before_ms)}); windows that reach back beyond that miss what came since {rfc3339(gap_from_ms)}",
    )


def with_gap(gaps: dict[str, list[Gap]], clock: str, gap: Gap) -> dict[str, list[Gap]]:
    """The gaps with one more of a clock; those that it holds are a part of it."""
    earlier = [known for known in gaps.get(clock, []) if known[0] < gap[0] or known[1] > gap[1]]
    return {**gaps, clock: [*earlier, gap][-MAX_GAPS:]}


def end_of(gaps: Iterable[Gap]) -> int | None:
    """When the last gap was over; None: there is none."""
    return max((end_ms for _, end_ms in gaps), default=None)


def overlaps(gaps: Iterable[Gap], start_ms: int, end_ms: int) -> bool:
    """Whether not all of a span is known."""
    return any(start_ms < until_ms and from_ms < end_ms for from_ms, until_ms in gaps)


# Labels


def _restore_labels(found: Restored, plan: ModelPlan, now: Made) -> None:
    state, made = found.state, found.state.made
    if plan.outcomes is None:
        if state.labels_until_ms is not None:
            found.restarts.append(
                Restart(Kind.LABELS, "labels are no longer declared: what was learned of them is dropped")
            )
        found.state = msgspec.structs.replace(state, labels_until_ms=None, sums={}, calibrations={}, arrival=None)
        return
    changes: dict[str, object] = {}
    if state.labels_until_ms is not None:
        changes["labels_until_ms"] = next_start(state.labels_until_ms, now.pane_ms)
    if made is not None and made.outcomes and made.outcomes != now.outcomes:
        found.restarts.append(
            Restart(
                Kind.LABELS,
                "classes, score bins, threshold, segments, horizon or pane of the labels were changed: predictions and "
                "labels are read again from their topics, as far as these still hold them",
            )
        )
    if made is not None and made.expected != now.expected and (state.sums or state.calibrations):
        changes |= {"sums": {}, "calibrations": {}}
        found.restarts.append(
            Restart(Kind.LABELS, "the baseline's own performance was changed: CUSUMs and recalibration begin anew")
        )
    found.state = msgspec.structs.replace(state, **changes)


# KPIs


def _restore_kpis(found: Restored, plan: ModelPlan, now: Made) -> None:
    state, made = found.state, found.state.made
    until_ms: dict[str, int] = {}
    for name, at in state.kpis_until_ms.items():
        if name not in now.kpis:
            continue
        alike = made is None or made.kpis.get(name) == now.kpis[name]
        bound_ms = next_start(at, now.pane_ms)
        until_ms[name] = at
        if bound_ms == at and alike and (made is None or made.pane_ms == now.pane_ms):
            continue
        found.state = kpi_restarted(found.state, plan, name, bound_ms, alike=alike)
        found.restarts.append(
            Restart(
                Kind.KPI,
                f"KPI {name}: the pane, the segments or what it is made of were changed: it is judged from "
                f"{rfc3339(bound_ms)} on, by windows that lie after it",
            )
        )
        until_ms[name] = bound_ms
    gaps = {clock: kept for clock, kept in found.state.gaps.items() if clock == EVENTS_CLOCK or clock in now.kpis}
    firsts_ms = {name: at for name, at in state.kpis_first_ms.items() if name in until_ms}
    found.state = msgspec.structs.replace(found.state, kpis_until_ms=until_ms, kpis_first_ms=firsts_ms, gaps=gaps)


def kpi_restarted(state: ModelState, plan: ModelPlan, name: str, until_ms: int, *, alike: bool = True) -> ModelState:
    """The state with a KPI judged from the first pane on that begins after what was judged, and after `until_ms`.

    Parameters:
        alike: whether the hours that were rolled up before go on.
    """
    pane_ms, hour = plan.config.pane_ms, hour_ms(plan.config.pane_ms)
    judged_ms = state.kpis_until_ms.get(name, until_ms)
    bound_ms = next_start(max(until_ms, judged_ms), pane_ms)
    from_ms = min(bound_ms, judged_ms // hour * hour if alike and hour > pane_ms else state.first_pane_ms)
    return msgspec.structs.replace(
        state,
        kpis_until_ms={**state.kpis_until_ms, name: bound_ms},
        gaps=with_gap(state.gaps, name, (from_ms, bound_ms)),
    )


# Rules


def _restore_rules(found: Restored, plan: ModelPlan, now: Made) -> None:
    state = found.state
    rules = {rule.name: rule for rule in plan.config.rules}
    kept: dict[str, RuleState] = {}
    gone: dict[str, RuleState] = {}
    for key, rule_state in state.rules.items():
        cell = rule_cell(key)
        was = state.made.rules.get(cell.rule) if state.made else None
        why = why_gone(cell, rule_state, rules.get(cell.rule), was, plan)
        if why:
            gone[key] = rule_state
            _retire(found, cell, rule_state, was, why)
        elif was is not None and was.counts != now.rules[cell.rule].counts:
            kept[key] = msgspec.structs.replace(rule_state, breached=0, quiet=0, starved=0, recent=())
        else:
            kept[key] = rule_state
    changed = sorted(
        name
        for name, rule in now.rules.items()
        if state.made and name in state.made.rules and state.made.rules[name].counts != rule.counts
    )
    if changed:
        names = ", ".join(changed)
        found.restarts.append(Restart(Kind.RULE, f"what these rules judge was changed, they count panes anew: {names}"))
    _close(found, kept, gone)


def why_gone(cell: RuleCell, state: RuleState, rule: Rule | None, was: RulePrint | None, plan: ModelPlan) -> str:
    """Why the state of a rule and cell cannot go on; empty: it can."""
    if rule is None:
        return "the rule is gone"
    if rule.shadow and not (was is not None and was.shadow):
        return "the rule is a shadow now"
    if was is not None and was.shadow and not rule.shadow:
        return "the rule is no shadow any more"
    if was is not None and was.response != rule.response:
        return f"the rule's response was {was.response} and is {rule.response}"
    if was is not None and not set(was.signals) & set(rule.signals):
        return "the rule looks at other signals"
    if rule.kpi is not None and _kpi_of(state, was) not in (None, rule.kpi):
        return "the rule looks at another KPI"
    segment = (cell.dimension, cell.value)
    if segment != WHOLE and not (segment in plan.segmentation.declared() and rule.looks_at(*segment)):
        return "the segment is no longer looked at"
    if state.firing and state.told and not any(_is_declared(name, plan) for name in state.told):
        return "the features that it is about are gone"
    return ""


def _kpi_of(state: RuleState, was: RulePrint | None) -> str | None:
    """The KPI by whose clock an incident was judged; None: by none, or it is not known.

    A rule of an earlier release does not say, but its evidence does.
    """
    if was is not None and was.kpi is not None:
        return was.kpi
    return min((_column(name) for name in state.told if name.startswith("kpi:")), default=None)


def _is_declared(evidence: str, plan: ModelPlan) -> bool:
    """Whether a piece of evidence is about no feature, or about one that is declared, or about something else that has
    a name."""
    of_feature = evidence.partition(":")[0] in FEATURE_SIGNALS
    return not of_feature or _column(evidence) in ("None", *(item.name for item in plan.layout.columns))


def _column(evidence: str) -> str:
    """The feature, or the KPI, that a piece of evidence is about."""
    return evidence.partition(":")[2].removesuffix(":+").removesuffix(":-")


def _retire(found: Restored, cell: RuleCell, state: RuleState, was: RulePrint | None, why: str) -> None:
    if not state.firing or (was is not None and was.shadow):
        return
    found.retired.append(retirement_of(found, cell, state, was))
    where = f" {cell.dimension}={cell.value}" if cell.dimension else ""
    text = f"{cell.rule}{where}: {why}; its open incident is closed as of {found.judged.end}"
    found.restarts.append(Restart(Kind.RULE, text))


def retirement_of(found: Restored, cell: RuleCell, state: RuleState, was: RulePrint | None) -> Action:
    """The action that closes an incident. A state of release 0.1 does not say what its rules were like."""
    if was is None:
        layer = layer_of_evidence(state.told)
        was = RulePrint(signals=(), response=Response.HUMAN_REVIEW, severity=Severity.WARNING, layer=layer)
    return retirement(found.state.model, cell, state, was, found.judged)


def _close(found: Restored, kept: dict[str, RuleState], gone: dict[str, RuleState]) -> None:
    """Puts the rules that go on into the state; what was closed holds nothing back any more, and is counted."""
    state = found.state
    decisions, resolved = dict(state.decisions), dict(state.resolved)
    for action in found.retired:
        decisions[Reason.RETIRED] = decisions.get(Reason.RETIRED, 0) + 1
        if not action.data.suppressed_by:
            resolved[action.data.action] = resolved.get(action.data.action, 0) + 1
    incidents = tuple(
        msgspec.structs.replace(incident, over_ms=max(incident.began_ms, state.judged_until_ms))
        if incident.key in gone and incident.over_ms is None
        else incident
        for incident in state.incidents
    )
    found.state = msgspec.structs.replace(
        state, rules=kept, decisions=decisions, resolved=resolved, incidents=incidents
    )


def retired_model(state: ModelState) -> Restored:
    """What is left of a model that the configuration does not name: its incidents are closed, the rest is kept, should
    it come back."""
    found = Restored(state, _last_pane(state, 0))
    for key, rule_state in state.rules.items():
        cell = rule_cell(key)
        _retire(found, cell, rule_state, state.made.rules.get(cell.rule) if state.made else None, "the model is gone")
    _close(found, {}, dict(state.rules))
    return found


def kept_lines(state: ModelState, plan: ModelPlan) -> Iterator[str]:
    """For a person: what a restart under this plan keeps of a model's state, and what it does not."""
    found = restored(state, plan)
    firing = sum(rule.firing and not rule.suppressed_by for rule in found.state.rules.values())
    yield f"judged until {rfc3339(state.judged_until_ms)}; goes on from {rfc3339(found.state.judged_until_ms)}"
    yield f"keeps {len(found.state.rules)} of {len(state.rules)} rule states, with {firing} open incidents"
    if state.made is None:
        yield "made by release 0.1, which did not write down under which configuration: taken for this one"
    for restart in found.restarts:
        yield restart.text
    if not found.restarts:
        yield "nothing of it begins anew"


def unknown_lines(state: ModelState) -> Iterator[str]:
    """For a person: what becomes of a model that the configuration does not name."""
    found = retired_model(state)
    yield f"is in `state`, but not in this configuration; judged until {rfc3339(state.judged_until_ms)}"
    for restart in found.restarts:
        yield restart.text
    yield "its state stays, should the model come back"
