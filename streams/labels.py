"""Values of the topic `labels` → labels and rejects. A label is the ground truth of one prediction, by `event_id`."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import msgspec

from streams.envelope import Headers, checked_size, read_object
from streams.fields import (
    MAX_NAME,
    MAX_TIME_MS,
    MIN_TIME_MS,
    Invalid,
    Reason,
    Reject,
    identifier,
    scalar,
    text,
    time_ms,
)
from streams.times import NO_TIME, instants_ms


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
    """Labels with their indices in the batch, and rejects.

    Parameters:
        stamps_ms: the records' own times.
    """
    usual: list[tuple[int, _Plain]] = []
    labels: list[tuple[int, Label]] = []
    careful: list[int] = []
    for index, value in enumerate(values):
        plain = _usual(value) if type(value) is bytes and len(value) <= max_record_bytes else None
        if plain is None:
            careful.append(index)
        else:
            usual.append((index, plain))
    texts = [moment for _, plain in usual if isinstance(moment := plain.label_ts, str)]
    times = iter(instants_ms(texts).tolist())
    for index, plain in usual:
        moment = plain.label_ts
        ts_ms = next(times) if isinstance(moment, str) else moment
        if MIN_TIME_MS <= ts_ms <= MAX_TIME_MS and ts_ms - stamps_ms[index] <= future_ms:
            labels.append((index, _of(plain, ts_ms)))
        else:
            careful.append(index)
    if not careful:
        return labels, []
    rejects: list[Reject] = []
    for index in sorted(careful):
        try:
            label = _carefully(checked_size(values[index], max_record_bytes), headers[index] if headers else ())
            ahead = label.ts_ms - stamps_ms[index]
            if ahead > future_ms:
                raise Invalid(Reason.FUTURE, f"{ahead} ms ahead of its record, the limit is {future_ms}", label.model)
            labels.append((index, label))
        except Invalid as invalid:
            rejects.append(Reject(index, invalid.reason, invalid.detail, invalid.model))
    return sorted(labels, key=itemgetter(0)), rejects


def label_time_ms(value: bytes) -> int:
    """The time of a label; NO_TIME for a value that is no label."""
    try:
        plain = _usual(value)
        return _carefully(value, ()).ts_ms if plain is None else time_ms(plain.label_ts, "label_ts")
    except Invalid:
        return NO_TIME


def _usual(value: bytes) -> _Plain | None:
    """A label as it is usually written; None: it has to be looked at closely."""
    try:
        plain = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return plain if plain.event_id and len(plain.model) <= MAX_NAME else None


def _of(plain: _Plain, ts_ms: int) -> Label:
    label = plain.label
    return Label(plain.event_id, None if label != label else label, ts_ms, plain.model)


def _carefully(value: bytes, headers: Headers) -> Label:
    plain, envelope = read_object(value, headers)
    model = "" if plain.get("model") in (None, "") else text(plain, "model")
    try:
        event_id = identifier(plain.get("event_id", envelope.get("id")), "event_id")
        if "label" not in plain:
            raise Invalid(Reason.MISSING_FIELD, "label")
        label = scalar(plain["label"], "label")
        ts_ms = time_ms(plain.get("label_ts", envelope.get("time")), "label_ts")
    except Invalid as invalid:
        invalid.model = model
        raise
    return Label(event_id, label, ts_ms, model)
