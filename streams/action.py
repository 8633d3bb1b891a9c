"""The action event that consumers act on: CloudEvents 1.0, with an id that a repeat has too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from streams.baseline import WHOLE, SegmentKey
from streams.config import Severity
from streams.errors import UNREADABLE
from streams.text import plain

TYPE = "foreshock.action.v1"
ADVICE = {
    "label_unmatched_rate": "labels meet no prediction: give each the key of its event, by the same partitioner and "
    "into as many partitions, and the event's event_id",
}


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


class State(StrEnum):
    """State of the incident that an action is about."""

    FIRING = "firing"
    SUPPRESSED = "suppressed"
    RESOLVED = "resolved"


class Span(msgspec.Struct, frozen=True):
    """A span of time, RFC 3339 in UTC."""

    start: str
    end: str


class ActionData(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of an action. A consumer acts on `firing`, stands down on `resolved`, and ignores `suppressed`."""

    action: Annotated[str, Meta(description="The response: one of the four, or one that the configuration declares.")]
    state: State
    model: str
    model_version: Annotated[str | None, Meta(description="Null: the model as a whole.")]
    segment: Annotated[dict[str, str] | None, Meta(description="Dimension and value. Null: not one segment.")]
    layer: Annotated[int, Meta(ge=1, le=4, description="1 health, 2 data, 3 model behaviour, 4 business.")]
    rule: str
    severity: Severity
    window: Span
    since: Annotated[str, Meta(description="When the incident began.")]
    revision: Annotated[int, Meta(ge=0, description="Counts the news of one incident.")]
    reason: Annotated[Reason, Meta(description="Why it is published now.")]
    owner: str
    runbook: str
    suppressed_by: Annotated[str | None, Meta(description="The id of the action that this one is held back for.")]
    signals: Annotated[tuple[Evidence, ...], Meta(description="What is breached, the worst first.")]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent in structured JSON. The same action has the same id, however often it is published."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str = TYPE
    subject: str
    time: str
    datacontenttype: str = "application/json"
    data: ActionData


def action_id(
    rule: str, model: str, version: str | None, segment: SegmentKey, since_ms: int, state: str, revision: int
) -> str:
    """A function of what the action is about and nothing else. `state`: firing, resolved or suppressed."""
    about = [rule, model, version, *segment, since_ms, state, revision]
    return hashlib.blake2b(msgspec.json.encode(about), digest_size=16).hexdigest()


def segment_id(segment: Mapping[str, str] | None) -> str:
    """A segment as part of a key, like `region=north`; empty for the whole model."""
    return "".join(f"{name}={value}" for name, value in (segment or {}).items())


def segment_object(segment: SegmentKey) -> dict[str, str] | None:
    return None if segment == WHOLE else {segment[0]: segment[1]}


_decode = msgspec.json.Decoder(Action).decode


def read_action(value: bytes | None) -> Action | None:
    """The action of a record's value; None if the value is no action."""
    try:
        return _decode(value) if value is not None else None
    except UNREADABLE:
        return None


def line_of(value: bytes | None) -> str:
    """One line for a person about a record of `actions`; for a value that is no action, its beginning."""
    action = read_action(value)
    return action_line(action) if action else f"no action: {(value or b'')[:80]!r}"


def advice(action: Action) -> Iterator[str]:
    """Hints beyond the numbers: where to look."""
    if action.data.state is State.FIRING:
        yield from (ADVICE[signal.name] for signal in action.data.signals if signal.name in ADVICE)


def action_line(action: Action) -> str:
    """One line for a person, without control characters, whatever the payloads' names hold."""
    data = action.data
    where = "".join(f" {name}={item}" for name, item in (data.segment or {}).items())
    version = f" v{data.model_version}" if data.model_version is not None else ""
    evidence = "; ".join(map(_evidence_text, data.signals[:3]))
    more = f" and {len(data.signals) - 3} more" if len(data.signals) > 3 else ""
    head = f"{data.window.end}  {data.state:<8} {data.action:<13} {data.model}{version}{where}  {data.rule}"
    return plain(head + (f": {evidence}{more}" if evidence else f" ({data.reason})"))


def _evidence_text(item: Evidence) -> str:
    column = f" of {item.feature}" if item.feature else ""
    return f"{item.name}{column} {_short(item.value)} (limit {_short(item.threshold)}, usual {_short(item.baseline)})"


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
