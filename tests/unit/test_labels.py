"""Records of the labels topic: what is a label, and why the others are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.events import Headers, Reason
from streams.labels import Label, read_labels

NOW_MS = 1_767_571_200_000
SOUND = {"event_id": "a1", "label": 1, "label_ts": "2026-01-05T00:00:00Z"}


def read(value: bytes | None, headers: Headers = ()) -> Any:
    """The label, or the reason why there is none."""
    labels, rejects = read_labels([value], [NOW_MS], [headers], max_record_bytes=400, future_ms=60_000)
    assert len(labels) + len(rejects) == 1
    return labels[0][1] if labels else rejects[0].reason


def raw(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in (SOUND | changes).items() if value != "left out"}).encode()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Label("a1", 1.0, NOW_MS)),
        ({"label": "fraud", "model": "m"}, Label("a1", "fraud", NOW_MS, "m")),
        ({"label": True}, Label("a1", True, NOW_MS)),
        ({"label": None}, Label("a1", None, NOW_MS)),
        ({"label": float("nan")}, Label("a1", None, NOW_MS)),
        ({"event_id": 17}, Label("17", 1.0, NOW_MS)),
        ({"label_ts": NOW_MS - 5}, Label("a1", 1.0, NOW_MS - 5)),
        ({"label_ts": NOW_MS - 5.5}, Label("a1", 1.0, NOW_MS - 6)),
        ({"who": "labeller 7"}, Label("a1", 1.0, NOW_MS)),
    ],
)
def test_a_label_in_any_form(changes: dict[str, Any], expected: Label) -> None:
    assert read(raw(**changes)) == expected


def test_a_label_in_a_cloud_event() -> None:
    envelope = {"specversion": "1.0", "id": "a1", "time": "2026-01-05T00:00:00Z", "type": "label", "source": "/x"}
    assert read(json.dumps(envelope | {"data": {"label": 1}}).encode()) == Label("a1", 1.0, NOW_MS)
    headers = [(f"ce_{name}", value.encode()) for name, value in envelope.items()]
    assert read(b'{"label": 1}', headers) == Label("a1", 1.0, NOW_MS)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NULL_VALUE),
        (b"{", Reason.BAD_JSON),
        (b"\xff\xfe", Reason.BAD_ENCODING),
        (b"[]", Reason.WRONG_TYPE),
        (raw(event_id="left out"), Reason.MISSING_FIELD),
        (raw(event_id=""), Reason.MISSING_FIELD),
        (raw(event_id=True), Reason.WRONG_TYPE),
        (raw(label="left out"), Reason.MISSING_FIELD),
        (raw(label=[1]), Reason.WRONG_TYPE),
        (raw(label_ts="left out"), Reason.MISSING_FIELD),
        (raw(label_ts="yesterday"), Reason.WRONG_TYPE),
        (raw(label_ts=NOW_MS + 60_001), Reason.FUTURE),
        (raw(model=["m"]), Reason.WRONG_TYPE),
        (raw(label="x" * 400), Reason.TOO_LARGE),
    ],
)
def test_what_is_no_label_is_told_why(value: bytes | None, reason: Reason) -> None:
    assert read(value) is reason


@given(st.binary(max_size=60), st.integers(0, 70), st.integers(0, 255))
def test_damage_is_never_an_exception(noise: bytes, at: int, byte: int) -> None:
    damaged = bytearray(raw())
    damaged[at % len(damaged)] = byte
    read(bytes(damaged))
    read(noise)
