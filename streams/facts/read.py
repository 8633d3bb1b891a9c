"""Values of the topics `feedback`, `runs` and `outcomes` → what they say, or Invalid with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from streams.config import MAX_VERSION, Feedback
from streams.envelope import Headers, checked_size, read_object
from streams.fields import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    Invalid,
    Reason,
    category,
    identifier,
    mapping,
    number,
    optional_text,
    segments,
    text,
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
    model = text(plain, "model")
    try:
        kind = text(plain, "kind")
        if kind not in list(Feedback):
            raise Invalid(Reason.WRONG_TYPE, f"kind: expected one of {', '.join(Feedback)}, got {kind[:40]!r}")
        event_id = plain.get("event_id")
        return Told(
            model=model,
            ts_ms=time_ms(plain.get("ts", envelope.get("time"))),
            kind=Feedback(kind),
            value=category(plain.get("value"), "value"),
            event_id="" if event_id in (None, "") else identifier(event_id, "event_id"),
            version=_version(plain),
            segments=segments(plain),
        )
    except Invalid as invalid:
        invalid.model = model
        raise


def read_outcome(value: bytes | None, headers: Headers, limit: int) -> Observation:
    plain, envelope = read_object(checked_size(value, limit), headers)
    model = text(plain, "model")
    try:
        observed = number(plain.get("value"), "value")
        if observed is None or not abs(observed) <= MOST:
            raise Invalid(Reason.WRONG_TYPE, f"value: expected a number within ±{MOST:g}")
        return Observation(
            model=model,
            ts_ms=time_ms(plain.get("ts", envelope.get("time"))),
            kpi=text(plain, "kpi"),
            value=observed,
            version=_version(plain),
            segments=segments(plain),
        )
    except Invalid as invalid:
        invalid.model = model
        raise


def read_run(value: bytes | None, headers: Headers, limit: int) -> RunEvent:
    """The fields of OpenLineage 1.0 that tell when a run of a job began and how it ended."""
    plain, _ = read_object(checked_size(value, limit), headers)
    job, run = (mapping(plain, name, required=True) for name in ("job", "run"))
    turn = (optional_text(plain, "eventType") or "OTHER").upper()
    return RunEvent(
        namespace=text(job, "namespace", "job.namespace"),
        job=text(job, "name", "job.name"),
        ts_ms=time_ms(plain.get("eventTime"), "eventTime"),
        turn=Turn(turn) if turn in list(Turn) else None,
        run_id=_short(text(run, "runId", "run.runId")),
    )


def _version(plain: Mapping[str, Any]) -> str:
    """The model's version; empty where none is named."""
    version = category(plain.get("model_version"), "model_version")
    if len(version) > MAX_VERSION:
        raise Invalid(Reason.WRONG_TYPE, f"model_version: expected at most {MAX_VERSION} characters")
    return version


def _short(run_id: str) -> str:
    if len(run_id) <= MAX_RUN_ID:
        return run_id
    return hashlib.blake2b(run_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
