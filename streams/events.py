"""JSON of one record → inference event or Reject: the careful path, for what the fast decoder does not take.

Classes of unusual values, all tested:
NaN → null · ±Infinity and numbers beyond a double → ±infinity (out of range) · −0 → 0 · huge integers → their double ·
true/false where a number is declared → wrong type · NUL and any unicode in names and values → kept ·
lone surrogates → rejected, as they have no UTF-8.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from streams.times import NO_TIME, instant_ms

MAX_DEPTH = 16
MAX_NAME = 256
MAX_DETAIL = 200
MIN_TIME_MS, MAX_TIME_MS = -(2**45), 2**47
"""The years 855 and 6429: beyond them a time is a mistake, and they are still far from the ends of datetime."""

Headers = Sequence[tuple[str, bytes]]


class Reason(StrEnum):
    """Why a record is not counted as an event."""

    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    BAD_ENCODING = "bad_encoding"
    BAD_JSON = "bad_json"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    FUTURE = "future"


class Reject(msgspec.Struct, frozen=True):
    """A record that is not counted: its place in the batch, the reason, and the model if it could be read."""

    index: int
    reason: Reason
    detail: str
    model: str = ""


class Invalid(Exception):
    """What makes a record unusable."""

    def __init__(self, reason: Reason, detail: str, model: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.model = reason, detail[:MAX_DETAIL], model


class Event(msgspec.Struct, gc=False, kw_only=True):
    """An inference event in the wire's terms, checked. `extras` are the names of unknown top-level fields."""

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


def checked_size(value: bytes | None, limit: int) -> bytes:
    """The value; Invalid if there is none, or too much of it."""
    if value is None:
        raise Invalid(Reason.NULL_VALUE, "a record without a value")
    if len(value) > limit:
        raise Invalid(Reason.TOO_LARGE, f"{len(value)} bytes, the limit is {limit}")
    return value


def read_event(value: bytes, headers: Headers = ()) -> Event:
    """The event of a record's value, as plain JSON or CloudEvents 1.0 (structured or binary).

    Raises:
        Invalid: with the reason, if the record is no usable event.
    """
    return _event(*read_object(value, headers))


def read_object(value: bytes, headers: Headers) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The JSON object of a record, and the attributes of the CloudEvent that it came in.

    Raises:
        Invalid: if it holds none.
    """
    plain = _parse(value)
    if not isinstance(plain, dict):
        raise Invalid(Reason.WRONG_TYPE, f"expected an object, got {_name(plain)}")
    envelope = {name[3:]: text for name, text in headers if name.startswith("ce_")}
    if "specversion" in plain and "data" in plain and (isinstance(plain["data"], dict) or "model" not in plain):
        return _inner(plain), {key: item for key, item in plain.items() if key != "data"}
    return plain, {key: text.decode("utf-8", "replace") for key, text in envelope.items()}


def _inner(cloud_event: Mapping[str, Any]) -> dict[str, Any]:
    data = cloud_event["data"]
    if not isinstance(data, dict):
        raise Invalid(Reason.WRONG_TYPE, f"expected an object as the CloudEvent's data, got {_name(data)}")
    return data


def _parse(value: bytes) -> Any:
    try:
        plain = msgspec.json.decode(value)
    except UnicodeDecodeError as error:
        raise Invalid(Reason.BAD_ENCODING, f"no UTF-8: {error.reason}") from None
    except RecursionError:
        raise Invalid(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}") from None
    except msgspec.DecodeError as error:
        plain = _parse_leniently(value, str(error))
    if _deeper(plain, MAX_DEPTH):
        raise Invalid(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")
    return plain


def _parse_leniently(value: bytes, complaint: str) -> Any:
    """Python's parser for what Python's writers emit: NaN, Infinity, and numbers beyond a double."""
    try:
        plain = json.loads(value.decode("utf-8"), parse_int=_integer, strict=True)
        msgspec.json.encode(plain)  # lone surrogates have no UTF-8
    except UnicodeDecodeError as error:
        raise Invalid(Reason.BAD_ENCODING, f"no UTF-8: {error.reason}") from None
    except UnicodeEncodeError:
        raise Invalid(Reason.BAD_ENCODING, "a lone surrogate") from None
    except RecursionError:
        raise Invalid(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}") from None
    except ValueError:
        raise Invalid(Reason.BAD_JSON, complaint) from None
    return plain


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= 19 else float(text)


def _deeper(plain: Any, depth: int) -> bool:
    level: list[Any] = [plain]
    for _ in range(depth):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _event(plain: Mapping[str, Any], envelope: Mapping[str, Any]) -> Event:
    model = _model(plain)
    try:
        return Event(
            event_id=_event_id(plain.get("event_id", envelope.get("id"))),
            ts_ms=time_ms(plain.get("ts", envelope.get("time"))),
            model=model,
            model_version=_text(plain, "model_version") or "",
            features=_features(plain),
            segments=_object(plain, "segments"),
            score=_score(plain.get("score")),
            prediction=_prediction(plain.get("prediction")),
            latency_ms=_number("latency_ms", plain.get("latency_ms")),
            error=_text(plain, "error"),
            extras=tuple(name for name in plain if name not in KNOWN_FIELDS),
        )
    except Invalid as invalid:
        invalid.model = model
        raise


def _model(plain: Mapping[str, Any]) -> str:
    model = plain.get("model")
    if model is None:
        raise Invalid(Reason.MISSING_FIELD, "model")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_NAME:
        raise Invalid(Reason.WRONG_TYPE, f"model: expected a text of 1 to {MAX_NAME} characters, got {_name(model)}")
    return model


def _event_id(value: Any) -> str:
    if value is None:
        raise Invalid(Reason.MISSING_FIELD, "event_id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Invalid(Reason.WRONG_TYPE, f"event_id: expected a text, got {_name(value)}")
    return str(value)


def time_ms(value: Any, name: str = "ts") -> int:
    """Epoch milliseconds of an RFC 3339 text (without a zone: UTC) or a number of milliseconds."""
    if value is None:
        raise Invalid(Reason.MISSING_FIELD, name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Invalid(Reason.WRONG_TYPE, f"{name}: expected a time, got {_name(value)}")
    time = instant_ms(value) if isinstance(value, str) else nearest(value)
    if time == NO_TIME:
        raise Invalid(Reason.WRONG_TYPE, f"{name}: expected RFC 3339, got {_short(value)}")
    if not MIN_TIME_MS <= time <= MAX_TIME_MS:
        raise Invalid(Reason.WRONG_TYPE, f"{name}: expected a time between the years 855 and 6429, got {_short(value)}")
    return math.floor(time)


def nearest(value: int | float) -> float:
    """The nearest double; a number beyond all of them is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _features(plain: Mapping[str, Any]) -> dict[str, Any]:
    if "features" not in plain:
        raise Invalid(Reason.MISSING_FIELD, "features")
    features = plain["features"]
    if not isinstance(features, dict):
        raise Invalid(Reason.WRONG_TYPE, f"features: expected an object, got {_name(features)}")
    return features


def _object(plain: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = plain.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(Reason.WRONG_TYPE, f"{name}: expected an object, got {_name(value)}")
    return value


def _text(plain: Mapping[str, Any], name: str) -> str | None:
    value = plain.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Invalid(Reason.WRONG_TYPE, f"{name}: expected a text, got {_name(value)}")


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid(Reason.WRONG_TYPE, f"{name}: expected a number, got {_name(value)}")
    return None if value != value else nearest(value)


def _score(value: Any) -> float | dict[str, float] | None:
    if isinstance(value, dict):
        numbers = {name: _number(f"score.{name}", item) for name, item in value.items()}
        return {name: number for name, number in numbers.items() if number is not None}
    return _number("score", value)


def _prediction(value: Any) -> float | str | bool | None:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return None if value != value else nearest(value)
    raise Invalid(Reason.WRONG_TYPE, f"prediction: expected a number or a text, got {_name(value)}")


def _short(value: object) -> str:
    return repr(value)[:40]


def _name(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
