"""Fields of a record's JSON → checked values: one reader for each kind of field, the same for every topic.

Each returns a value, or raises Invalid with the field's name. A number may be of any size: one beyond a double is
infinite, and NaN is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from streams.times import NO_TIME, instant_ms

MAX_NAME = 256
MAX_DETAIL = 200
MIN_TIME_MS, MAX_TIME_MS = -(2**45), 2**47
"""The years 855 and 6429: a time beyond them is a mistake, and they are still far from the ends of datetime."""
FINER_UNITS = (("microseconds", 1_000), ("nanoseconds", 1_000_000))
"""Units that a time may have by mistake, and how many of them are a millisecond."""


class Reason(StrEnum):
    """Why a record is not counted."""

    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    BAD_ENCODING = "bad_encoding"
    BAD_JSON = "bad_json"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    FUTURE = "future"
    PARKED = "parked"
    BAD_RECORD = "bad_record"
    """Its bytes are no record of Kafka's format."""
    BAD_BATCH = "bad_batch"
    """It is of a batch that cannot be read: a wrong checksum, an unknown codec, one that does not inflate."""


class Reject(msgspec.Struct, frozen=True):
    """A record that is not counted: its index in the batch, the reason, and the model if it could be read."""

    index: int
    reason: Reason
    detail: str
    model: str = ""


class Damaged(bytes):
    """The rest of an unusable value, instead of the value: every reader of values rejects it."""

    reason: Reason
    detail: str
    size: int
    """Bytes of the original value."""

    def __new__(cls, left: bytes, reason: Reason, detail: str, size: int | None = None) -> Damaged:
        damaged = super().__new__(cls, left)
        damaged.reason, damaged.detail, damaged.size = reason, detail, len(left) if size is None else size
        return damaged


class Invalid(Exception):
    """Why a record is unusable."""

    def __init__(self, reason: Reason, detail: str, model: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.model = reason, detail[:MAX_DETAIL], model


def kind_of(value: object) -> str:
    """The JSON type of a value, as messages name it."""
    names: Mapping[type, str] = {
        dict: "an object",
        list: "an array",
        str: "a text",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def wrong(place: str, expected: str, value: object) -> Invalid:
    """The error for a field of another type than it should have."""
    return Invalid(Reason.WRONG_TYPE, f"{place}: expected {expected}, got {kind_of(value)}")


def nearest(value: int | float) -> float:
    """The nearest double; a number beyond all of them is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def number(value: Any, place: str) -> float | None:
    """The double nearest to a number; None for null and NaN."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(place, "a number", value)
    return None if value != value else nearest(value)


def scalar(value: Any, place: str) -> float | str | bool | None:
    """A number (as `number` reads it), a text, a boolean or null."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return number(value, place)
    raise wrong(place, "a number, a text, a boolean or null", value)


def text_of(value: Any) -> str:
    """A category's value as text, as baselines and reports write it.

    >>> text_of(True), text_of(5), text_of("GB")
    ('true', '5', 'GB')
    """
    if value.__class__ is bool:
        return "true" if value else "false"
    return value if value.__class__ is str else str(value)


def category(value: Any, place: str) -> str:
    """A text, or that of a number or a boolean; empty for null."""
    if value is None:
        return ""
    if isinstance(value, dict | list):
        raise wrong(place, "a text, a number or a boolean", value)
    return text_of(value)


def segment_text(value: Any) -> str | None:
    """A segment's value as text; None for a value without a text."""
    return text_of(value) if isinstance(value, str | bool | int | float) and value == value else None


def identifier(value: Any, place: str) -> str:
    """An id: a non-empty text, or a whole number."""
    if value is None or value == "":
        raise Invalid(Reason.MISSING_FIELD, place)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong(place, "a text", value)
    return str(value)


def optional_text(plain: Mapping[str, Any], name: str) -> str | None:
    """A text, or that of a whole number; None where there is none."""
    value = plain.get(name)
    return value if value is None or isinstance(value, str) else identifier(value, name)


def text(plain: Mapping[str, Any], name: str, place: str = "", most: int = MAX_NAME) -> str:
    """A required text of 1 to `most` characters."""
    value = plain.get(name)
    if value is None:
        raise Invalid(Reason.MISSING_FIELD, place or name)
    if not isinstance(value, str) or not 0 < len(value) <= most:
        got = f"one of {len(value)}" if isinstance(value, str) else kind_of(value)
        raise Invalid(Reason.WRONG_TYPE, f"{place or name}: expected a text of 1 to {most} characters, got {got}")
    return value


def mapping(plain: Mapping[str, Any], name: str, *, required: bool = False) -> dict[str, Any]:
    """An object; without one an empty one, or Invalid where it is `required`. Null counts as missing."""
    value = plain.get(name)
    if value is None and required:
        raise Invalid(Reason.MISSING_FIELD, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(name, "an object", value)
    return value


def segments(plain: Mapping[str, Any]) -> dict[str, str]:
    """Dimension → value as text; empty for a value that has no text."""
    return {name: segment_text(value) or "" for name, value in mapping(plain, "segments").items()}


def time_ms(value: Any, name: str = "ts") -> int:
    """Epoch milliseconds of an RFC 3339 text (without a zone: UTC) or a number of milliseconds."""
    if value is None:
        raise Invalid(Reason.MISSING_FIELD, name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong(name, "a time", value)
    time = instant_ms(value) if isinstance(value, str) else nearest(value)
    if time == NO_TIME:
        raise Invalid(Reason.WRONG_TYPE, f"{name}: expected RFC 3339, got {_short(value)}")
    if not MIN_TIME_MS <= time <= MAX_TIME_MS:
        expected = "expected milliseconds of a time between the years 855 and 6429"
        raise Invalid(Reason.WRONG_TYPE, f"{name}: {expected}, got {_short(value)}{_unit_hint(time)}")
    return math.floor(time)


def _unit_hint(time: float) -> str:
    """What a time that is out of range would be in a finer unit; empty if it is none in that either."""
    fits = (f", which fits {unit}" for unit, share in FINER_UNITS if 0 < time / share <= MAX_TIME_MS)
    return next(fits, "")


def _short(value: object) -> str:
    return repr(value)[:40]
