"""Decision → the action event that consumers act on: CloudEvents 1.0, with an id that a repeat has too."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from streams.baseline import WHOLE, SegmentKey
from streams.config import Model
from streams.decide import Decision, Evidence, Reason
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
    """The action of a published decision."""
    rule, state, window = decision.rule, decision.state, decision.window
    firing = decision.reason in (Reason.FIRED, Reason.WIDENED)
    name = "firing" if firing else "resolved"
    since = state.since_ms
    return Action(
        id=action_id(rule.name, model, decision.version, decision.segment, since, name, state.revision),
        source=f"foreshock/{model}",
        subject=model,
        time=rfc3339(window.end_ms),
        data=ActionData(
            action=rule.response,
            state=name,
            model=model,
            model_version=decision.version,
            segment=segment_object(decision.segment),
            layer=min(SIGNALS[signal].layer for signal in rule.signals),
            rule=rule.name,
            severity=rule.severity,
            window=Span(rfc3339(window.start_ms), rfc3339(window.end_ms)),
            since=rfc3339(since),
            revision=state.revision,
            reason=decision.reason,
            owner=rule.owner or config.owner,
            runbook=rule.runbook or config.runbook,
            suppressed_by=None,
            signals=decision.evidence,
        ),
    )


def segment_object(segment: SegmentKey) -> dict[str, str] | None:
    return None if segment == WHOLE else {segment[0]: segment[1]}


def action_id(
    rule: str, model: str, version: str | None, segment: SegmentKey, since_ms: int, state: str, revision: int
) -> str:
    """A function of what the action is about and nothing else."""
    parts: list[Any] = [rule, model, version, *segment, since_ms, state, revision]
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()
