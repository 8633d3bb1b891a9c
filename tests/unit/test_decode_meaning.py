"""A record means the same by the fast and by the careful path, whatever is in it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.decode import times_ms
from streams.events import Invalid, Reason, read_event
from tests.decode_cases import (
    MODEL,
    MULTI,
    SEGMENTS,
    codecs,
    decoder,
    outcome,
)

RAW_VALUES = st.one_of(
    st.sampled_from(
        [
            *("null", "true", "false", "0", "-0", "-0.0", "1", "1.0", "1.5", "-3", "1e5", "1e308", "1e400", "-1e400"),
            *("NaN", "Infinity", "-Infinity", "9007199254740993", "18446744073709551616", "1" + "0" * 30),
            *("1" + "0" * 400, '""', '"a"', '"GB"', '"\\u0000"', '"\\ud83d\\ude00"', '"\\ud800"', '"\u00e9"'),
            *(
                '"NaN"',
                '"1"',
                "[]",
                "{}",
                "[1, null]",
                '{"low":0.5}',
                '{"low":null}',
                "[" * 20 + "]" * 20,
                "01",
                "nope",
            ),
            *("1767571210714", '"2026-01-05T00:00:10.714Z"', "1767571210714.5", '"2026-01-05"', "-35184372088833"),
        ]
    ),
    st.integers().map(str),
    st.floats().map(lambda number: json.dumps(number)),
    st.text(max_size=6).map(json.dumps),
    st.text(st.characters(codec="utf-8"), max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
)
FIELDS = (
    "event_id",
    "ts",
    "model",
    "model_version",
    "features",
    "segments",
    "score",
    "prediction",
    "latency_ms",
    "error",
)
SOUND = {
    "event_id": '"e"',
    "ts": "1767571210714",
    "model": '"fraud"',
    "features": '{"amount":1.5,"country":"GB","member":true,"channel":1}',
    "segments": '{"region":"north"}',
    "score": "0.3",
    "prediction": "1",
    "latency_ms": "3",
}


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}"


_feature_names = st.sampled_from(
    ["amount", "ratio", "country", "member", "channel", "colour", "x0", "f0", "am\u00f6unt", ""]
)
_segment_names = st.sampled_from(["region", "plan", "site", "s0", 'qu"ote'])
_field_names = st.sampled_from([*FIELDS, "extra", "data", "specversion", "features.amount", "segments.site"])
_models = st.sampled_from(['"fraud"', '"triage"', '"nobody"', '"__other__"', "null"])


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """An event with some of its parts replaced by anything, in any order and with repeats."""
    fields = list(SOUND.items())
    if draw(st.booleans()):
        pairs = draw(st.lists(st.tuples(_feature_names, RAW_VALUES), max_size=6))
        fields.append(("features", _object(pairs)))
    if draw(st.booleans()):
        fields.append(("segments", _object(draw(st.lists(st.tuples(_segment_names, RAW_VALUES), max_size=3)))))
    if draw(st.booleans()):
        fields.append(("model", draw(_models)))
    fields += draw(st.lists(st.tuples(_field_names, RAW_VALUES), max_size=2))
    if draw(st.booleans()):
        fields = draw(st.permutations(fields))
    return _object(fields).encode("utf-8", "surrogatepass")


class TestOneMeaning:
    @settings(max_examples=250)
    @given(records())
    @example(b'{"event_id":"e","ts":0,"model":"fraud","features":{},"segments":{"site":"\xff"},"extra":1}')
    @example(
        b'{"event_id":"e","ts":0,"model":"fraud","features":{},"extra":1,"segments":{"site":'
        + b"[" * 30
        + b"]" * 30
        + b"}}"
    )
    @example(b'{"event_id":"e","ts":0,"model":"fraud","features":{"amount":1},"features.amount":2}')
    @example(b'{"event_id":"e","ts":0,"model":"fraud","features":{},"data":"x","specversion":1}')
    @example(b'{"event_id":"e","ts":"0001-01-01T00:00:00Z","model":"fraud","features":{}}')
    @example(b'{"event_id":"e","ts":0,"model":"fraud","features":{},"prediction":10000000000000000000000}')
    def test_what_fits_the_struct_is_read_as_the_careful_path_reads_it(self, value: bytes) -> None:
        """A record counts the same whichever path reads it: a fast result that exists is the careful result."""
        kinds = codecs()
        try:
            fast = msgspec.json.decode(value, type=kinds[MODEL].Row | kinds[MULTI].Row)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        try:
            careful, extras = kinds[read_event(value).model].row(read_event(value))
        except Invalid as invalid:
            # Times are read after the struct, whole batches at a time.
            assert invalid.detail.startswith("ts: expected ")
            assert outcome(decoder(), value)[0] == (Reason.WRONG_TYPE, type(fast).__struct_config__.tag)
            return
        assert extras == []
        assert type(fast) is type(careful)
        assert _readings(fast) == _readings(careful)

    @settings(max_examples=120)
    @given(st.lists(records(), max_size=4), records())
    def test_what_was_read_before_changes_nothing(self, history: list[bytes], value: bytes) -> None:
        """A worker that restarts in the middle of a stream reads the same records in the same way."""
        veteran = decoder()
        for before in (*history, value):
            outcome(veteran, before)
        assert outcome(veteran, value) == outcome(decoder(), value)

    @settings(max_examples=80)
    @given(st.lists(records(), min_size=1, max_size=8))
    def test_a_batch_is_read_as_its_records_are(self, values: list[bytes]) -> None:
        assert outcome(decoder(), *values) == [outcome(decoder(), value)[0] for value in values]

    @settings(max_examples=80)
    @given(st.binary(max_size=60))
    def test_noise_is_rejected(self, noise: bytes) -> None:
        (found,) = outcome(decoder(), noise)
        assert isinstance(found, tuple)

    @settings(max_examples=80)
    @given(records(), st.integers(0, 200), st.integers(0, 255))
    def test_a_damaged_byte_is_never_an_exception(self, value: bytes, at: int, byte: int) -> None:
        damaged = bytearray(value)
        damaged[at % len(damaged)] = byte
        outcome(decoder(), bytes(damaged))

    def test_the_drawn_records_are_of_every_sort(self) -> None:
        """Guards the properties above: fast, careful and rejected records are all drawn."""
        sorts: Counter[str] = Counter()
        kinds = codecs()

        @settings(max_examples=120)
        @given(records())
        def draw(value: bytes) -> None:
            try:
                msgspec.json.decode(value, type=kinds[MODEL].Row | kinds[MULTI].Row)
                sorts["fast"] += 1
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                sorts["careful" if isinstance(outcome(decoder(), value)[0], dict) else "rejected"] += 1

        draw()
        assert min(sorts["fast"], sorts["careful"], sorts["rejected"]) > 10, sorts


def _readings(row: Any) -> Any:
    """Everything in a row, with NaNs told apart by their bytes; no segments are segments without values."""
    values = {name: _plain(getattr(row, name)) for name in row.__struct_fields__}
    return values | {"ts": times_ms([row]).tolist(), "segments": values["segments"] or [None] * len(SEGMENTS)}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return [_plain(getattr(value, name)) for name in value.__struct_fields__]
    return np.float64(value).tobytes() if isinstance(value, float) and value != value else value
