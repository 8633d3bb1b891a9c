"""Values of the labels topic → labels and rejects: what happened, told after the prediction, by `event_id`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from streams.events import MAX_NAME, Headers, Invalid, Reason, Reject, checked_size, read_object, time_ms
from streams.times import NO_TIME


class Label(msgspec.Struct, gc=False):
    """One label. A null withdraws the one before. `model` narrows it where models share event ids."""

    event_id: str
    label: float | str | bool | None
    ts_ms: int
    model: str = ""


class _Plain(msgspec.Struct, gc=False):
    """A label as it is usually written: the fast path. Fields that nobody knows are no matter."""

    event_id: str
    label: float | str | bool | None
    label_ts: str | int
    model: str = ""


_decode = msgspec.json.Decoder(_Plain).decode


def read_labels(
    values: Sequence[bytes | None],
    stamps_ms: Sequence[int],
    headers: Sequence[Headers],
    *,
    max_record_bytes: int,
    future_ms: int,
) -> tuple[list[tuple[int, Label]], list[Reject]]:
    """Labels with their places in the batch, and rejects. `stamps_ms` are the records' own times."""
    labels: list[tuple[int, Label]] = []
    rejects: list[Reject] = []
    for index, value in enumerate(values):
        try:
            label = _read(value, headers[index] if headers else (), max_record_bytes)
            ahead = label.ts_ms - stamps_ms[index]
            if ahead > future_ms:
                raise Invalid(Reason.FUTURE, f"{ahead} ms ahead of its record, the limit is {future_ms}", label.model)
            labels.append((index, label))
        except Invalid as invalid:
            rejects.append(Reject(index, invalid.reason, invalid.detail, invalid.model))
    return labels, rejects


def label_time_ms(value: bytes) -> int:
    """The time of a label; NO_TIME of what is none."""
    try:
        return _read(value, (), len(value)).ts_ms
    except Invalid:
        return NO_TIME


def _read(value: bytes | None, headers: Headers, max_record_bytes: int) -> Label:
    value = checked_size(value, max_record_bytes)
    try:
        plain = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _carefully(value, headers)
    if not plain.event_id or len(plain.model) > MAX_NAME:
        return _carefully(value, headers)
    label = plain.label
    return Label(plain.event_id, None if label != label else label, time_ms(plain.label_ts, "label_ts"), plain.model)


def _carefully(value: bytes, headers: Headers) -> Label:
    plain, envelope = read_object(value, headers)
    model = plain.get("model")
    if model is not None and (not isinstance(model, str) or len(model) > MAX_NAME):
        raise Invalid(Reason.WRONG_TYPE, f"model: expected a text of at most {MAX_NAME} characters")
    event_id = plain.get("event_id", envelope.get("id"))
    if event_id is None or event_id == "":
        raise Invalid(Reason.MISSING_FIELD, "event_id", model or "")
    if isinstance(event_id, bool) or not isinstance(event_id, str | int):
        raise Invalid(Reason.WRONG_TYPE, "event_id: expected a text", model or "")
    if "label" not in plain:
        raise Invalid(Reason.MISSING_FIELD, "label", model or "")
    label: Any = plain["label"]
    if isinstance(label, list | dict):
        raise Invalid(Reason.WRONG_TYPE, "label: expected a number, a text, a boolean or null", model or "")
    if isinstance(label, int) and not isinstance(label, bool):
        label = float(label)
    ts_ms = time_ms(plain.get("label_ts", envelope.get("time")), "label_ts")
    return Label(str(event_id), None if label != label else label, ts_ms, model or "")
