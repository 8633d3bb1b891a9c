"""Decision → the action event that consumers act on: CloudEvents 1.0, with an id that a repeat has too."""

from __future__ import annotations

import msgspec

from streams.baseline import WHOLE, SegmentKey
from streams.config import Model, Rule
from streams.decide import ENDS, Decision, Evidence, Reason, action_id
from streams.errors import UNREADABLE
from streams.signals.names import SIGNALS
from streams.times import rfc3339

TYPE = "foreshock.action.v1"


class Span(msgspec.Struct, frozen=True):
    start: str
    end: str


class ActionData(msgspec.Struct, frozen=True, kw_only=True):
    """The design's action; `reason` says why it is published now, `revision` counts the news of one incident."""

    action: str
    state: str
    model: str
    model_version: str | None
    segment: dict[str, str] | None
    layer: int
    rule: str
    severity: str
    window: Span
    since: str
    revision: int
    reason: str
    owner: str
    runbook: str
    suppressed_by: str | None
    signals: tuple[Evidence, ...]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent in structured JSON."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str = TYPE
    subject: str
    time: str
    datacontenttype: str = "application/json"
    data: ActionData


def action_of(model: str, config: Model, decision: Decision) -> Action:
    """The action of a decision that is news."""
    rule, state, window = decision.rule, decision.state, decision.window
    name = "resolved" if decision.reason in ENDS else "firing"
    if decision.reason is Reason.SUPPRESSED:
        name = "suppressed"
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


def layer_of(rule: Rule) -> int:
    """The lowest layer that a rule looks at: what it says is said of that one."""
    return min(SIGNALS[signal].layer for signal in rule.signals)


def segment_object(segment: SegmentKey) -> dict[str, str] | None:
    return None if segment == WHOLE else {segment[0]: segment[1]}


_DECODER = msgspec.json.Decoder(Action)


def action_line(value: bytes) -> str:
    """One line for a person about an action as it stands on the topic; of what is no action, its beginning."""
    try:
        data = _DECODER.decode(value).data
    except UNREADABLE:
        return f"no action: {value[:80]!r}"
    where = "".join(f" {name}={item}" for name, item in (data.segment or {}).items())
    version = f" v{data.model_version}" if data.model_version is not None else ""
    evidence = "; ".join(map(_evidence_text, data.signals[:3]))
    more = f" and {len(data.signals) - 3} more" if len(data.signals) > 3 else ""
    head = f"{data.window.end}  {data.state:<8} {data.action:<13} {data.model}{version}{where}  {data.rule}"
    return head + (f": {evidence}{more}" if evidence else f" ({data.reason})")


def _evidence_text(item: Evidence) -> str:
    column = f" of {item.feature}" if item.feature else ""
    return f"{item.name}{column} {_short(item.value)} (limit {_short(item.threshold)}, usual {_short(item.baseline)})"


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
