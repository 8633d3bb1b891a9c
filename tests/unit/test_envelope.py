"""The forms in which an event may come: plain JSON and CloudEvents in every mode, and what is rejected by name."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from streams.envelope import Headers
from streams.events import read_event
from streams.facts.read import read_outcome
from streams.fields import Invalid, Reason, time_ms
from streams.labels import read_labels

TS_MS = 1_767_571_200_000
EVENT: dict[str, Any] = {"event_id": "e", "ts": TS_MS, "model": "m", "features": {"a": 1}}
BARE = {name: value for name, value in EVENT.items() if name not in ("event_id", "ts")}
OUTER = {"specversion": "1.0", "id": "e", "source": "/s", "type": "t", "time": "2026-01-05T00:00:00Z"}
BOM = b"\xef\xbb\xbf"


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def wrapped(**data: Any) -> bytes:
    return encoded(OUTER | data)


def base(value: bytes) -> str:
    return base64.b64encode(value).decode()


ATTRIBUTES = [(f"ce_{name}", value.encode()) for name, value in OUTER.items()]
FORMS: dict[str, tuple[bytes, Headers]] = {
    "plain": (encoded(EVENT), ()),
    "a byte order mark": (BOM + encoded(EVENT), ()),
    "binary": (encoded(BARE), ATTRIBUTES),
    "binary, names in capitals": (encoded(BARE), [(name.upper(), value) for name, value in ATTRIBUTES]),
    "binary, names in mixed case": (encoded(BARE), [("Ce_Id", b"e"), ("cE_tIME", OUTER["time"].encode())]),
    "structured": (wrapped(data=BARE), ()),
    "structured, in base64": (wrapped(data_base64=base(encoded(BARE))), ()),
    "structured, in base64, a byte order mark": (BOM + wrapped(data_base64=base(BOM + encoded(BARE))), ()),
    "structured, as JSON text": (wrapped(data=json.dumps(BARE)), ()),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_event(form: str) -> None:
    found = read_event(*FORMS[form])
    assert (found.event_id, found.ts_ms, found.model, found.features) == ("e", TS_MS, "m", {"a": 1})


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        (encoded([OUTER | {"data": EVENT}] * 3), Reason.WRONG_TYPE, "a batch of 3 CloudEvents in one record"),
        (encoded([OUTER | {"data_base64": ""}]), Reason.WRONG_TYPE, "a batch of 1 CloudEvents in one record"),
        (encoded([EVENT]), Reason.WRONG_TYPE, "expected an object, got an array"),
        (wrapped(data_base64="?"), Reason.BAD_ENCODING, "data_base64: expected base64"),
        (wrapped(data_base64="é"), Reason.BAD_ENCODING, "data_base64: expected base64"),
        (wrapped(data_base64=7), Reason.WRONG_TYPE, "data_base64: expected a text, got a number"),
        (wrapped(data_base64=base(b"{")), Reason.BAD_JSON, "the CloudEvent's data_base64: "),
        (wrapped(data_base64=base(b"\xff")), Reason.BAD_ENCODING, "the CloudEvent's data_base64: no UTF-8"),
        (wrapped(data='{"a": '), Reason.BAD_JSON, "the CloudEvent's data: "),
        (wrapped(data="text"), Reason.WRONG_TYPE, "expected an object as the CloudEvent's data, got a text"),
        (b"\0\0\0\0\x07" + encoded(EVENT), Reason.BAD_JSON, "the framing of a schema registry: send plain JSON"),
    ],
)
def test_what_is_no_event_is_rejected_by_name(value: bytes, reason: Reason, detail: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_event(value)
    assert caught.value.reason is reason
    assert detail in caught.value.detail


def test_all_topics_read_the_same_envelopes() -> None:
    label = wrapped(data_base64=base(b'{"label": 1}'))
    labels, rejects = read_labels([label, BOM + label], [TS_MS] * 2, [(), ()], max_record_bytes=1_000, future_ms=0)
    assert [label.event_id for _, label in labels] == ["e", "e"]
    assert not rejects
    observed = {"model": "m", "kpi": "k", "value": 1}
    assert read_outcome(wrapped(data_base64=base(encoded(observed))), (), 1_000).ts_ms == TS_MS


@pytest.mark.parametrize(("scale", "unit"), [(1_000, "microseconds"), (1_000_000, "nanoseconds")])
def test_a_time_in_a_finer_unit_is_rejected_with_the_unit_that_fits(scale: int, unit: str) -> None:
    with pytest.raises(Invalid, match=f"fits {unit}"):
        time_ms(TS_MS * scale)
    with pytest.raises(Invalid) as caught:
        time_ms(-TS_MS * scale * 1_000)
    assert "fits" not in caught.value.detail
