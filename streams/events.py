"""JSON of one record → inference event or Reject: the careful path, for what the fast decoder does not accept.

Classes of unusual values, all tested: NaN → null · ±Infinity and numbers beyond a double → ±infinity (out of range) ·
−0 → 0 · huge integers → their double · true/false where a number is declared → wrong type · NUL and any unicode in
names and values → kept · lone surrogates → rejected, as they have no UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from streams.envelope import MAX_DEPTH, Headers, checked_size, read_object
from streams.fields import (
    MAX_DETAIL,
    MAX_NAME,
    MAX_TIME_MS,
    MIN_TIME_MS,
    Invalid,
    Reason,
    Reject,
    category,
    identifier,
    mapping,
    nearest,
    number,
    optional_text,
    scalar,
    text,
    time_ms,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_DETAIL",
    "MAX_NAME",
    "MAX_TIME_MS",
    "MIN_TIME_MS",
    "Event",
    "Headers",
    "Invalid",
    "Reason",
    "Reject",
    "checked_size",
    "nearest",
    "read_event",
    "read_object",
    "time_ms",
]


class Event(msgspec.Struct, gc=False, kw_only=True):
    """A checked inference event. `extras` are the names of unknown top-level fields."""

    event_id: str
    ts_ms: int
    model: str
    model_version: str
    features: dict[str, Any]
    segments: dict[str, Any]
    score: float | dict[str, float] | None
    prediction: float | str | bool | None
    latency_ms: float | None
    error: str | None
    extras: tuple[str, ...]


KNOWN_FIELDS = frozenset(Event.__struct_fields__) - {"ts_ms", "extras"} | {"ts"}


def read_event(value: bytes, headers: Headers = ()) -> Event:
    """The event of a record's value, as plain JSON or CloudEvents 1.0 (structured or binary).

    Raises:
        Invalid: with the reason, if the record is no usable event.
    """
    return _event(*read_object(value, headers))


def _event(plain: Mapping[str, Any], envelope: Mapping[str, Any]) -> Event:
    model = text(plain, "model")
    try:
        return Event(
            event_id=_event_id(plain.get("event_id", envelope.get("id"))),
            ts_ms=time_ms(plain.get("ts", envelope.get("time"))),
            model=model,
            model_version=category(plain.get("model_version"), "model_version"),
            features=mapping(plain, "features", required=True),
            segments=mapping(plain, "segments"),
            score=_score(plain.get("score")),
            prediction=scalar(plain.get("prediction"), "prediction"),
            latency_ms=number(plain.get("latency_ms"), "latency_ms"),
            error=optional_text(plain, "error"),
            extras=tuple(name for name in plain if name not in KNOWN_FIELDS),
        )
    except Invalid as invalid:
        invalid.model = model
        raise


def _event_id(value: Any) -> str:
    """As `identifier`; the fast path takes an empty one too."""
    return "" if value == "" else identifier(value, "event_id")


def _score(value: Any) -> float | dict[str, float] | None:
    if isinstance(value, dict):
        numbers = {name: number(item, f"score.{name}") for name, item in value.items()}
        return {name: found for name, found in numbers.items() if found is not None}
    return number(value, "score")
