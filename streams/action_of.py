"""Decision → the action that publishes it; state of a retired rule → the action that closes its incident."""

from __future__ import annotations

from streams.action import ENDS, Action, ActionData, Reason, Span, State, action_id, segment_object
from streams.config import Model, Rule
from streams.decide import Decision
from streams.fingerprint import RulePrint
from streams.rule_state import RuleCell, RuleState
from streams.signals.names import SIGNALS
from streams.times import rfc3339


def action_of(model: str, config: Model, decision: Decision) -> Action:
    """The action that publishes a decision."""
    rule, state, window = decision.rule, decision.state, decision.window
    name = State.RESOLVED if decision.reason in ENDS else State.FIRING
    if decision.reason is Reason.SUPPRESSED:
        name = State.SUPPRESSED
    return Action(
        id=action_id(rule.name, model, decision.version, decision.segment, state.since_ms, name, state.revision),
        source=f"foreshock/{model}",
        subject=model,
        time=rfc3339(window.end_ms),
        data=ActionData(
            action=rule.response,
            state=name,
            model=model,
            model_version=decision.version,
            segment=segment_object(decision.segment),
            layer=layer_of(rule),
            rule=rule.name,
            severity=rule.severity,
            window=Span(rfc3339(window.start_ms), rfc3339(window.end_ms)),
            since=rfc3339(state.since_ms),
            revision=state.revision,
            reason=decision.reason,
            owner=rule.owner or config.owner,
            runbook=rule.runbook or config.runbook,
            suppressed_by=state.suppressed_by or None,
            signals=decision.evidence,
        ),
    )


def retirement(model: str, cell: RuleCell, state: RuleState, rule: RulePrint, window: Span) -> Action:
    """The action that closes an incident which the configuration no longer names.

    Parameters:
        rule: the rule at the time when the incident was opened.
        window: the last window that was evaluated.
    """
    return Action(
        id=action_id(cell.rule, model, cell.version, cell.segment, state.since_ms, State.RESOLVED, state.revision),
        source=f"foreshock/{model}",
        subject=model,
        time=window.end,
        data=ActionData(
            action=rule.response,
            state=State.RESOLVED,
            model=model,
            model_version=cell.version,
            segment=segment_object(cell.segment),
            layer=rule.layer,
            rule=cell.rule,
            severity=rule.severity,
            window=window,
            since=rfc3339(state.since_ms),
            revision=state.revision,
            reason=Reason.RETIRED,
            owner=rule.owner,
            runbook=rule.runbook,
            suppressed_by=state.suppressed_by or None,
            signals=(),
        ),
    )


def layer_of(rule: Rule) -> int:
    """The lowest layer among a rule's signals: the rule belongs to that layer."""
    return min(SIGNALS[signal].layer for signal in rule.signals)
