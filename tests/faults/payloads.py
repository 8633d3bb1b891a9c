"""Values that a record may have and an event may not; and those that are unusual, and yet an event's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

DEEP = 10_000


def changed(value: bytes, **fields: Any) -> bytes:
    """The event with other fields."""
    return json.dumps({**json.loads(value), **fields}).encode()


def is_event(value: bytes) -> bool:
    """Whether it is an object with an event id."""
    try:
        row = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("event_id"), str)


def without(value: bytes, name: str) -> bytes:
    return json.dumps({key: item for key, item in json.loads(value).items() if key != name}).encode()


BROKEN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "no JSON": ("bad_json", lambda good: good[:-1]),
    "two values": ("bad_json", lambda good: good + good),
    "empty": ("bad_json", lambda good: b""),
    "a NUL": ("bad_json", lambda good: b"\x00"),
    "no UTF-8": ("bad_encoding", lambda good: good.replace(b'"web"', b'"\xff\xfe"').replace(b'"app"', b'"\xc3\x28"')),
    "a lone surrogate": ("bad_encoding", lambda good: good.replace(b'"shop"', b'"\\ud800"')),
    "an array": ("wrong_type", lambda good: b"[" + good + b"]"),
    "a number": ("wrong_type", lambda good: b"1"),
    "features are no object": ("wrong_type", lambda good: changed(good, features=[1, 2])),
    "the id is an object": ("wrong_type", lambda good: changed(good, event_id={})),
    "the time is a word": ("wrong_type", lambda good: changed(good, ts="yesterday")),
    "the time is a boolean": ("wrong_type", lambda good: changed(good, ts=True)),
    "the score is a list": ("wrong_type", lambda good: changed(good, score=[0.5])),
    "no model": ("missing_field", lambda good: without(good, "model")),
    "no time": ("missing_field", lambda good: without(good, "ts")),
    "deep and closed": ("too_deep", lambda good: good[:-1] + b', "x": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "deep objects": ("too_deep", lambda good: good[:-1] + b', "x": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"),
    "deep and open": ("too_deep", lambda good: b"[" * DEEP),
}
"""What comes → the reason it is rejected for, and how it is made of a good event."""

ODD: tuple[dict[str, Any], ...] = (
    {"amount": float("nan")},
    {"amount": float("inf")},
    {"amount": -0.0},
    {"amount": 10**400},
    {"age": -(2**70)},
    {"age": True},
    {"age": "41"},
    {"country": "D\x00E"},
    {"country": "日本 🦔"},
    {"country": ""},
    {"naïve\x00": 1},
    {"line\nbreak": "x", "\u202eright to left": None},
)
"""Features that replace an event's own, or come beside them."""
