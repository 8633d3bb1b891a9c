"""Bytes of records → rows and rejects: every class of unusual input, and one meaning however it was decoded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams.events import Reason
from streams.fields import Damaged
from streams.sketch.layout import ABSENT, BINS, NULL, WRONG
from streams.times import rfc3339
from tests.decode_cases import (
    AMOUNT,
    CHANNEL,
    COUNTRY,
    FUTURE_MS,
    MAX_BYTES,
    MEMBER,
    MODEL,
    MULTI,
    NOW_MS,
    PREDICTION,
    RATIO,
    SCORE,
    decoder,
    event,
    outcome,
    place,
    raw,
)


class TestClassesOfValues:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("null", NULL),
            ("NaN", NULL),
            ("true", WRONG),
            ('"12"', WRONG),
            ("[]", WRONG),
            ("{}", WRONG),
            ("-0.001", BINS),
            ("-Infinity", BINS),
            ("-1e400", BINS),
            ("-0", BINS + 1),
            ("-0.0", BINS + 1),
            ("0", BINS + 1),
            ("9.999", BINS + 1),
            ("10", BINS + 2),
            ("20", BINS + 3),
            ("1e308", BINS + 3),
            ("1e400", BINS + 3),
            ("1" + "0" * 30, BINS + 3),
            ("1" + "0" * 400, BINS + 3),
            ("-1" + "0" * 400, BINS),
            ("1" + "0" * 9_000, BINS + 3),
            ("Infinity", BINS + 3),
        ],
    )
    def test_numeric(self, value: str, expected: int) -> None:
        assert place(value, AMOUNT) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("null", NULL),
            ("NaN", NULL),
            ('"GB"', BINS),
            ('""', BINS + 1),
            ('"\\u0000"', BINS + 2),
            ('"東京"', BINS + 3),
            ('"\\u6771\\u4eac"', BINS + 3),
            ('"gb"', BINS + 5),
            ("1", WRONG),
            ("false", WRONG),
        ],
    )
    def test_categorical(self, value: str, expected: int) -> None:
        assert place(value, COUNTRY) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [("true", BINS), ("false", BINS + 1), ("null", NULL), ("1", WRONG), ('"true"', WRONG), ("0.0", WRONG)],
    )
    def test_boolean(self, value: str, expected: int) -> None:
        assert place(value, MEMBER) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("1", BINS),
            ("-3", BINS + 1),
            ("18446744073709551616", BINS + 2),
            ("2", BINS + 3),
            ("-0", BINS + 3),
            ("1" + "0" * 400, BINS + 3),
            ("1.0", WRONG),
            ("true", WRONG),
            ('"1"', WRONG),
            ("null", NULL),
        ],
    )
    def test_integer_codes(self, value: str, expected: int) -> None:
        assert place(value, CHANNEL) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("0", BINS),
            ("1", BINS + 1),
            ("1.0", BINS + 1),
            ("-0.0", BINS),
            ("7", BINS + 2),
            ("0.5", WRONG),
            ("true", WRONG),
            ('"1"', WRONG),
            ("1e400", WRONG),
            ("NaN", NULL),
            ("null", NULL),
        ],
    )
    def test_predicted_codes(self, value: str, expected: int) -> None:
        assert place(value, PREDICTION) == expected

    def test_an_absent_field_is_not_a_null_one(self) -> None:
        (absent,), (null,) = outcome(decoder(), raw(event())), outcome(decoder(), raw(event(features={"amount": None})))
        assert (absent["places"][1], null["places"][1]) == (ABSENT, NULL)

    def test_minus_zero_is_shown_as_zero(self) -> None:
        (found,) = outcome(decoder(), b'{"event_id":"e","ts":0,"model":"fraud","features":{"ratio":-0.0}}')
        assert found["numbers"][RATIO] == "0.0"

    @pytest.mark.parametrize(
        ("score", "low", "high"),
        [
            ({"low": 0.2, "high": 0.8}, BINS + 1, BINS + 1),
            ({"low": 0.2}, BINS + 1, ABSENT),
            ({"low": None, "high": 2}, ABSENT, BINS + 2),
            (0.5, WRONG, WRONG),
            (None, NULL, NULL),
        ],
    )
    def test_a_multi_class_score_has_a_column_per_class(self, score: Any, low: int, high: int) -> None:
        (found,) = outcome(decoder(), raw(event(model=MULTI, score=score)))
        assert found["places"][SCORE + 1 : SCORE + 3] == [low, high]

    def test_classes_where_one_score_is_expected_are_a_wrong_type(self) -> None:
        (found,) = outcome(decoder(), raw(event(score={"low": 0.2})))
        assert found["places"][SCORE + 1] == WRONG

    def test_an_error_is_a_failed_request(self) -> None:
        failed, coded, fine = outcome(
            decoder(), *map(raw, (event(error="timeout"), event(error=500), event(error=None)))
        )
        assert [found["places"][0] for found in (failed, coded, fine)] == [1, 1, 0]

    def test_segments_outside_the_declared_values_are_other(self) -> None:
        given_segments = [
            {"region": "north"},
            {"region": "south"},
            {"region": True},
            {"region": 1.5},
            {"plan": ["x"]},
            None,
        ]
        found = outcome(decoder(), *(raw(event(segments=item)) for item in given_segments))
        assert [item["segments"] for item in found] == [[0, 1], [3, 1], [1, 1], [2, 1], [3, 1], [3, 1]]

    def test_a_segment_that_is_no_number_is_other(self) -> None:
        (found,) = outcome(
            decoder(), b'{"event_id":"e","ts":0,"model":"fraud","features":{},"segments":{"region":NaN}}'
        )
        assert found["segments"] == [3, 1]

    @pytest.mark.parametrize(("version", "text"), [("v2", "v2"), (2, "2"), (None, ""), ("", "")])
    def test_versions_are_texts(self, version: Any, text: str) -> None:
        (found,) = outcome(decoder(), raw(event(model_version=version)))
        assert found["version"] == text


REJECTS: dict[str, tuple[bytes | None, Reason, str]] = {
    "no value": (None, Reason.NULL_VALUE, ""),
    "empty": (b"", Reason.BAD_JSON, ""),
    "no JSON": (b"not json", Reason.BAD_JSON, ""),
    "half an object": (b'{"event_id":"e","ts":1', Reason.BAD_JSON, ""),
    "two objects": (raw(event()) * 2, Reason.BAD_JSON, ""),
    "single quotes": (b"{'event_id': 'e'}", Reason.BAD_JSON, ""),
    "a bare control character": (b'{"event_id":"a\x00b","ts":0,"model":"fraud","features":{}}', Reason.BAD_JSON, ""),
    "an invalid byte": (b'{"event_id":"\xff","ts":0,"model":"fraud","features":{}}', Reason.BAD_ENCODING, ""),
    "an invalid byte in a feature": (
        b'{"event_id":"e","ts":0,"model":"fraud","features":{"country":"\xc3\x28"}}',
        Reason.BAD_ENCODING,
        "",
    ),
    "UTF-16": (json.dumps(event()).encode("utf-16"), Reason.BAD_ENCODING, ""),
    "a lone surrogate": (
        b'{"event_id":"e","ts":0,"model":"fraud","features":{"country":"\\ud800"}}',
        Reason.BAD_ENCODING,
        "",
    ),
    "a lone surrogate in a name": (
        b'{"event_id":"e","ts":0,"model":"fraud","features":{"\\udc00":1}}',
        Reason.BAD_ENCODING,
        "",
    ),
    "5 MB": (raw(event(features={"country": "x" * 5_000_000})), Reason.TOO_LARGE, ""),
    "one byte too many": (raw(event()).ljust(MAX_BYTES + 1), Reason.TOO_LARGE, ""),
    "10,000 deep": (
        b'{"event_id":"e","ts":0,"model":"fraud","features":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        Reason.TOO_DEEP,
        "",
    ),
    "10,000 deep, of objects": (b'{"features":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001, Reason.TOO_DEEP, ""),
    "17 deep": (
        b'{"event_id":"e","ts":0,"model":"fraud","features":{"country":' + b"[" * 15 + b"]" * 15 + b"}}",
        Reason.TOO_DEEP,
        "",
    ),
    "an array": (b"[1]", Reason.WRONG_TYPE, ""),
    "a text": (b'"event"', Reason.WRONG_TYPE, ""),
    "null": (b"null", Reason.WRONG_TYPE, ""),
    "no model": (raw({"event_id": "e", "ts": 0, "features": {}}), Reason.MISSING_FIELD, ""),
    "model null": (raw(event(model=None)), Reason.MISSING_FIELD, ""),
    "model a number": (raw(event(model=7)), Reason.WRONG_TYPE, ""),
    "model empty": (raw(event(model="")), Reason.WRONG_TYPE, ""),
    "model of 257 characters": (raw(event(model="m" * 257)), Reason.WRONG_TYPE, ""),
    "no event_id": (raw({"ts": 0, "model": MODEL, "features": {}}), Reason.MISSING_FIELD, MODEL),
    "event_id null": (raw(event(event_id=None)), Reason.MISSING_FIELD, MODEL),
    "event_id an object": (raw(event(event_id={})), Reason.WRONG_TYPE, MODEL),
    "event_id a boolean": (raw(event(event_id=True)), Reason.WRONG_TYPE, MODEL),
    "no ts": (raw({"event_id": "e", "model": MODEL, "features": {}}), Reason.MISSING_FIELD, MODEL),
    "ts null": (raw(event(ts=None)), Reason.MISSING_FIELD, MODEL),
    "ts a boolean": (raw(event(ts=True)), Reason.WRONG_TYPE, MODEL),
    "ts no time": (raw(event(ts="yesterday")), Reason.WRONG_TYPE, MODEL),
    "ts NaN": (raw(event(ts=float("nan"))), Reason.WRONG_TYPE, MODEL),
    "ts infinite": (raw(event(ts=float("inf"))), Reason.WRONG_TYPE, MODEL),
    "ts of 400 digits": (raw(event(ts=10**400)), Reason.WRONG_TYPE, MODEL),
    "ts in the year 7000": (raw(event(ts=158_742_201_600_000)), Reason.WRONG_TYPE, MODEL),
    "ts in the year 1": (raw(event(ts="0001-01-01T00:00:00Z")), Reason.WRONG_TYPE, MODEL),
    "ts in the year -2490": (raw(event(ts=-(2**47))), Reason.WRONG_TYPE, MODEL),
    "ts in nanoseconds": (raw(event(ts=NOW_MS * 1_000_000)), Reason.WRONG_TYPE, MODEL),
    "ts in microseconds": (raw(event(ts=NOW_MS * 1_000)), Reason.WRONG_TYPE, MODEL),
    "an hour and a bit ahead": (raw(event(ts=NOW_MS + FUTURE_MS + 1)), Reason.FUTURE, MODEL),
    "a year ahead": (raw(event(ts=rfc3339(NOW_MS + 365 * 86_400_000))), Reason.FUTURE, MODEL),
    "a year ahead, read carefully": (raw(event(ts=NOW_MS * 1.02, news=1)), Reason.FUTURE, MODEL),
    "no features": (raw({"event_id": "e", "ts": 0, "model": MODEL}), Reason.MISSING_FIELD, MODEL),
    "features null": (raw(event(features=None)), Reason.MISSING_FIELD, MODEL),
    "features an array": (raw(event(features=[1])), Reason.WRONG_TYPE, MODEL),
    "segments an array": (raw(event(segments=[1])), Reason.WRONG_TYPE, MODEL),
    "score a text": (raw(event(score="0.5")), Reason.WRONG_TYPE, MODEL),
    "score a boolean": (raw(event(score=True)), Reason.WRONG_TYPE, MODEL),
    "score with a text": (raw(event(score={"low": "0.5"})), Reason.WRONG_TYPE, MODEL),
    "prediction an object": (raw(event(prediction={})), Reason.WRONG_TYPE, MODEL),
    "latency a text": (raw(event(latency_ms="5")), Reason.WRONG_TYPE, MODEL),
    "latency a boolean": (raw(event(latency_ms=False)), Reason.WRONG_TYPE, MODEL),
    "error an object": (raw(event(error={"code": 1})), Reason.WRONG_TYPE, MODEL),
    "error a boolean": (raw(event(error=False)), Reason.WRONG_TYPE, MODEL),
    "model_version an array": (raw(event(model_version=[1])), Reason.WRONG_TYPE, MODEL),
    "an undeclared model's bad time": (raw(event(model="nobody", ts="?")), Reason.WRONG_TYPE, "__other__"),
    "a damaged record": (Damaged(raw(event()), Reason.BAD_RECORD, "no length"), Reason.BAD_RECORD, ""),
    "of a damaged batch": (Damaged(b"", Reason.BAD_BATCH, "a wrong checksum", 900), Reason.BAD_BATCH, ""),
    "a CloudEvent of a text": (raw({"specversion": "1.0", "id": "e", "data": "x"}), Reason.WRONG_TYPE, ""),
    "a CloudEvent without a model": (
        raw({"specversion": "1.0", "id": "e", "data": {"ts": 0}}),
        Reason.MISSING_FIELD,
        "",
    ),
}


class TestRejects:
    @pytest.mark.parametrize(("value", "reason", "model"), REJECTS.values(), ids=REJECTS.keys())
    def test_each_is_rejected_for_its_reason_and_its_neighbours_are_counted(
        self, value: bytes | None, reason: Reason, model: str
    ) -> None:
        before, found, after = outcome(decoder(), raw(event(event_id="a")), value, raw(event(event_id="b")))
        assert found == (reason, model)
        assert (before["event_id"], after["event_id"]) == ("a", "b")

    def test_every_reason_is_covered_here(self) -> None:
        assert {reason for _, reason, _ in REJECTS.values()} == set(Reason) - {Reason.PARKED}

    def test_a_detail_is_short_however_long_the_input(self) -> None:
        long_name = raw(event(score={"x" * 100_000: "no number"}))
        decoded = decoder().decode([long_name], [NOW_MS])
        assert "score.xxx" in decoded.rejects[0].detail
        assert len(decoded.rejects[0].detail) <= 200

    @pytest.mark.parametrize(
        ("detail", "value"),
        [
            ("no UTF-8: invalid start byte", b'{"event_id":"\xff"}'),
            ("nested deeper than 16", b"[" * 10_000),
            ("5000091 bytes, the limit is 1048576", raw(event(features={"country": "x" * 5_000_000})).ljust(5_000_091)),
            ("ts: expected RFC 3339, got 'yesterday'", raw(event(ts="yesterday"))),
            ("features: expected an object, got an array", raw(event(features=[]))),
            ("model", raw({"event_id": "e"})),
            ("latency_ms: expected a number, got a text", raw(event(latency_ms="5"))),
            ("3600001 ms ahead of its record, the limit is 3600000", raw(event(ts=NOW_MS + FUTURE_MS + 1))),
        ],
    )
    def test_a_detail_says_what_was_seen(self, detail: str, value: bytes) -> None:
        assert decoder().decode([value], [NOW_MS]).rejects[0].detail == detail

    def test_a_thousand_bad_records_cost_no_neighbour(self) -> None:
        bad = [value for value, _, _ in REJECTS.values() if value is None or len(value) < 10_000]
        values = [item for i in range(20) for item in (*bad, raw(event(event_id=f"good {i}")))]
        found = outcome(decoder(), *values)
        assert [item["event_id"] for item in found if isinstance(item, dict)] == [f"good {i}" for i in range(20)]


class TestTime:
    @pytest.mark.parametrize(
        ("ts", "expected_ms"),
        [
            ("2026-01-05T00:00:10.714Z", 1_767_571_210_714),
            ("2026-01-05T01:00:10.714+01:00", 1_767_571_210_714),
            ("2026-01-04T14:30:10.714-09:30", 1_767_571_210_714),
            ("2026-01-05T00:00:10.714", 1_767_571_210_714),
            ("2026-01-05 00:00:10.714Z", 1_767_571_210_714),
            ("2026-01-05T00:00:10.714999Z", 1_767_571_210_714),
            ("2026-01-05T00:00:10Z", 1_767_571_210_000),
            (1_767_571_210_714, 1_767_571_210_714),
            (1_767_571_210_714.0, 1_767_571_210_714),
            (1_767_571_210_714.9, 1_767_571_210_714),
            (0, 0),
            (-1, -1),
            (-0.5, -1),
            ("1969-12-31T23:59:59.9995Z", -1),
            ("1970-01-01T00:00:00Z", 0),
        ],
    )
    def test_every_form_gives_its_millisecond(self, ts: Any, expected_ms: int) -> None:
        (found,) = outcome(decoder(), raw(event(ts=ts)))
        assert found["ts_ms"] == expected_ms

    def test_the_future_begins_after_the_tolerance_of_the_record_itself(self) -> None:
        decoded = decoder().decode([raw(event(ts=NOW_MS))] * 2, [NOW_MS - FUTURE_MS, NOW_MS - FUTURE_MS - 1])
        assert [reject.index for reject in decoded.rejects] == [1]
        assert decoded.models[MODEL].indices.tolist() == [0]

    def test_every_accepted_time_can_be_written(self) -> None:
        for ts in (-(2**45), 2**47):
            decoded = decoder().decode([raw(event(ts=ts))], [2**47])
            assert rfc3339(int(decoded.models[MODEL].times_ms[0]) // 60_000 * 60_000)
