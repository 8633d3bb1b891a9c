"""Values of the topics `feedback`, `runs` and `outcomes` → what they say, or Invalid with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from streams.config import MAX_VERSION, Feedback
from streams.events import (
    MAX_NAME,
    MAX_TIME_MS,
    MIN_TIME_MS,
    Headers,
    Invalid,
    Reason,
    checked_size,
    nearest,
    read_object,
    time_ms,
)

MOST = 1e12
"""A KPI's value beyond ±1e12 is rejected: its sums are exact."""
MAX_RUN_ID = 64


class Told(msgspec.Struct, gc=False, kw_only=True):
    """Feedback of a user or a workflow: about one prediction if it has its id."""

    model: str
    ts_ms: int
    kind: Feedback
    value: str
    event_id: str
    version: str
    segments: dict[str, str]


class Observation(msgspec.Struct, gc=False, kw_only=True):
    """One value of a business KPI."""

    model: str
    ts_ms: int
    kpi: str
    value: float
    version: str
    segments: dict[str, str]


class Turn(StrEnum):
    """What happened to a run."""

    START = "START"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"
    ABORT = "ABORT"


class RunEvent(msgspec.Struct, gc=False, kw_only=True):
    """An OpenLineage RunEvent. `turn`: None of one that changes nothing, such as RUNNING."""

    namespace: str
    job: str
    ts_ms: int
    turn: Turn | None
    run_id: str


def run_text(ts_ms: int, turn: Turn, run_id: str) -> str:
    """One turn of a run, as the value of its cell."""
    return f"{ts_ms}/{turn}/{run_id}"


def run_of(text: str) -> tuple[int, Turn, str]:
    """The reverse of `run_text`; ValueError for what it has not written."""
    ts_ms, turn, run_id = text.split("/", 2)
    found = int(ts_ms)
    if not MIN_TIME_MS <= found <= MAX_TIME_MS:
        raise ValueError(f"{ts_ms[:40]} is no time")
    return found, Turn(turn), run_id


def is_run(job: str, text: str) -> bool:
    """Whether a cell of this dimension and value is a turn of a run."""
    try:
        run_of(text)
    except ValueError:
        return False
    return bool(job)


def read_feedback(value: bytes | None, headers: Headers, limit: int) -> Told:
    plain, envelope = read_object(checked_size(value, limit), headers)
    model = _text(plain, "model")
    kind = _text(plain, "kind", model)
    if kind not in list(Feedback):
        raise Invalid(Reason.WRONG_TYPE, f"kind: expected one of {', '.join(Feedback)}, got {kind[:40]!r}", model)
    return Told(
        model=model,
        ts_ms=_time(plain.get("ts", envelope.get("time")), model),
        kind=Feedback(kind),
        value=_category(plain.get("value"), "value", model),
        event_id=_category(plain.get("event_id"), "event_id", model),
        version=_version(plain, model),
        segments=_segments(plain, model),
    )


def read_outcome(value: bytes | None, headers: Headers, limit: int) -> Observation:
    plain, envelope = read_object(checked_size(value, limit), headers)
    model = _text(plain, "model")
    number = plain.get("value")
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(nearest(number)) <= MOST:
        raise Invalid(Reason.WRONG_TYPE, f"value: expected a number within ±{MOST:g}", model)
    return Observation(
        model=model,
        ts_ms=_time(plain.get("ts", envelope.get("time")), model),
        kpi=_text(plain, "kpi", model),
        value=float(number),
        version=_version(plain, model),
        segments=_segments(plain, model),
    )


def read_run(value: bytes | None, headers: Headers, limit: int) -> RunEvent:
    """The fields of OpenLineage 1.0 that tell when a run of a job began and how it ended."""
    plain, _ = read_object(checked_size(value, limit), headers)
    job, run = (_mapping(plain, name) for name in ("job", "run"))
    turn = str(plain.get("eventType", "OTHER")).upper()
    return RunEvent(
        namespace=_text(job, "namespace", place="job.namespace"),
        job=_text(job, "name", place="job.name"),
        ts_ms=time_ms(plain.get("eventTime"), "eventTime"),
        turn=Turn(turn) if turn in list(Turn) else None,
        run_id=_short(_text(run, "runId", place="run.runId")),
    )


def _text(plain: Mapping[str, Any], name: str, model: str = "", place: str = "") -> str:
    value = plain.get(name)
    if value is None:
        raise Invalid(Reason.MISSING_FIELD, place or name, model)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise Invalid(Reason.WRONG_TYPE, f"{place or name}: expected a text of 1 to {MAX_NAME} characters", model)
    return value


def _mapping(plain: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = plain.get(name)
    if value is None:
        raise Invalid(Reason.MISSING_FIELD, name)
    if not isinstance(value, dict):
        raise Invalid(Reason.WRONG_TYPE, f"{name}: expected an object")
    return value


def _time(value: Any, model: str) -> int:
    try:
        return time_ms(value)
    except Invalid as invalid:
        invalid.model = model
        raise


def _category(value: Any, name: str, model: str) -> str:
    """A text; of a number or a boolean the JSON, of none the empty text."""
    if value is None:
        return ""
    if isinstance(value, dict | list):
        raise Invalid(Reason.WRONG_TYPE, f"{name}: expected a text, a number or a boolean", model)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _version(plain: Mapping[str, Any], model: str) -> str:
    version = _category(plain.get("model_version"), "model_version", model)
    if len(version) > MAX_VERSION:
        raise Invalid(Reason.WRONG_TYPE, f"model_version: expected at most {MAX_VERSION} characters", model)
    return version


def _segments(plain: Mapping[str, Any], model: str) -> dict[str, str]:
    segments = plain.get("segments")
    if segments is None:
        return {}
    if not isinstance(segments, dict):
        raise Invalid(Reason.WRONG_TYPE, "segments: expected an object", model)
    return {name: _category(value, f"segments.{name}", model) for name, value in segments.items()}


def _short(run_id: str) -> str:
    if len(run_id) <= MAX_RUN_ID:
        return run_id
    return hashlib.blake2b(run_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
