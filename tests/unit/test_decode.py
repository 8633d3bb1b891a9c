"""Bytes of records → rows and rejects: every class of unusual input, and one meaning however it was decoded."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.batch import Columnizer, Gathered
from streams.decode import MAX_LEARNED_EXTRAS, Decoder, ModelCodec, times_ms
from streams.events import Invalid, Reason, read_event
from streams.fields import Damaged
from streams.sketch.layout import ABSENT, BINS, NULL, WRONG, Column, Kind, Layout, Role
from streams.times import rfc3339

MODEL, MULTI = "fraud", "triage"
NOW_MS = 1_767_571_210_714
FUTURE_MS = 3_600_000
MAX_BYTES = 1_048_576


def feature(name: str, kind: Kind, **options: Any) -> Column:
    return Column(name=name, role=Role.FEATURE, kind=kind, **options)


FEATURES = (
    feature("amount", Kind.NUMERIC, edges=(0.0, 10.0, 20.0)),
    feature("ratio", Kind.NUMERIC),
    feature("country", Kind.CATEGORICAL, categories=("GB", "", "\0", "東京", "a")),
    feature("member", Kind.BOOLEAN, categories=("true",)),
    feature("channel", Kind.CODE, categories=("1", "-3", "18446744073709551616")),
)
TAIL = (
    Column(name="prediction", role=Role.PREDICTION, kind=Kind.CODE, categories=("0", "1")),
    Column(name="latency_ms", role=Role.LATENCY, kind=Kind.NUMERIC, edges=(1.0, 10.0)),
)
SINGLE_SCORE = (Column(name="score", role=Role.SCORE, kind=Kind.NUMERIC, edges=(0.0, 0.5, 1.0)),)
CLASS_SCORES = tuple(
    Column(name=f"score.{name}", role=Role.SCORE, kind=Kind.NUMERIC, edges=(0.0, 1.0)) for name in ("low", "high")
)
SEGMENTS = {"region": ("north", "true", "1.5"), "plan": ("free",)}
LAYOUTS = {
    MODEL: Layout((*FEATURES, *SINGLE_SCORE, *TAIL)),
    MULTI: Layout((*FEATURES, *CLASS_SCORES, *TAIL)),
}
AMOUNT, RATIO, COUNTRY, MEMBER, CHANNEL, SCORE, PREDICTION = range(7)


def codecs() -> dict[str, ModelCodec]:
    return {name: ModelCodec(name, layout.columns, tuple(SEGMENTS)) for name, layout in LAYOUTS.items()}


def decoder() -> Decoder:
    return Decoder(codecs(), MAX_BYTES, FUTURE_MS)


def event(**fields: Any) -> dict[str, Any]:
    return {"event_id": "e1", "ts": NOW_MS, "model": MODEL, "features": {}, **fields}


def raw(fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def outcome(one: Decoder, *values: bytes | None, headers: Any = ()) -> list[Any]:
    """What became of each record: its reason, or all that is counted of it."""
    decoded = one.decode(values, [NOW_MS] * len(values), headers)
    found: list[Any] = [None] * len(values)
    for reject in decoded.rejects:
        found[reject.index] = (reject.reason, reject.model)
    for model, rows in decoded.models.items():
        assert (np.diff(rows.indices) > 0).all()
        if model not in LAYOUTS:
            for index in rows.indices.tolist():
                found[index] = model
            continue
        columnizer = Columnizer(LAYOUTS[model], SEGMENTS)
        columnizer.gather(columnizer.parts(rows), gathered := Gathered())
        batch = columnizer.columns(gathered)
        for at, index in enumerate(rows.indices.tolist()):
            found[index] = _counted(model, batch, rows.rows[at].event_id, at)
    assert None not in found, "every record is a row or a reject"
    return found


def _counted(model: str, batch: Any, event_id: str, at: int) -> Any:
    starts = (0, *LAYOUTS[model].starts)
    return {
        "model": model,
        "event_id": event_id,
        "ts_ms": int(batch.ts_ms[at]),
        "version": batch.versions[at],
        "segments": [int(codes[at]) for codes in batch.segments],
        "places": [int(slot) - start for slot, start in zip(batch.slots[:, at], starts, strict=True)],
        "unseen": {column: text for column, items in batch.unseen.items() for row, text in items if row == at},
        "numbers": {column: str(values[at]) for column, values in batch.numbers.items()},
        "extras": sorted(name for row, name in batch.extras if row == at),
    }


def place(value: str, column: int, model: str = MODEL) -> int:
    """Where a feature's JSON text is counted in its column, or where a whole event's is."""
    names = {column: FEATURES[column].name} if column < len(FEATURES) else {}
    features = f'"{names[column]}":{value}' if names else ""
    own = "" if names else f',"{LAYOUTS[model].columns[column].name}":{value}'
    body = f'{{"event_id":"e","ts":{NOW_MS},"model":"{model}","features":{{{features}}}{own}}}'
    (found,) = outcome(decoder(), body.encode())
    return int(found["places"][column + 1])


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


class TestUnknownFields:
    def test_they_are_counted_by_name_and_the_rest_of_the_event_is_kept(self) -> None:
        (found,) = outcome(decoder(), raw(event(region="eu", trace={"id": 1}, features={"amount": 5, "colour": "red"})))
        assert found["extras"] == ["features.colour", "region", "trace"]
        assert found["places"][1] == BINS + 1

    def test_they_are_counted_alike_once_the_decoder_has_learned_them(self) -> None:
        one = decoder()
        value = raw(event(region="eu", tags=["a"], features={"amount": 5, "colour": None}, segments={"site": "x"}))
        first, second, third = (outcome(one, value)[0] for _ in range(3))
        assert first == second == third
        assert one.codecs[MODEL].extra_names == ["region", "tags", "features.colour", "segments.site"]

    def test_undeclared_segments_are_no_unknown_fields(self) -> None:
        (found,) = outcome(decoder(), raw(event(segments={"site": "x", "region": "north"})))
        assert (found["extras"], found["segments"]) == ([], [0, 1])

    def test_events_with_and_without_segments_go_together_once_one_was_learned(self) -> None:
        one = decoder()
        given = [{"site": "x", "region": "north"}, None, {"region": "north"}, {}]
        values = [raw(event(segments=item)) for item in given]
        outcome(one, values[0])
        assert one.codecs[MODEL].extra_names == ["segments.site"]
        assert [item["segments"] for item in outcome(one, *values)] == [[0, 1], [3, 1], [0, 1], [3, 1]]

    def test_what_is_learned_is_capped_and_all_are_counted(self) -> None:
        one = decoder()
        names = [f"field {i}" for i in range(MAX_LEARNED_EXTRAS + 20)]
        for _ in range(2):
            (found,) = outcome(one, raw(event(**dict.fromkeys(names, 1))))
            assert found["extras"] == sorted(names)
        assert len(one.codecs[MODEL].extra_names) == MAX_LEARNED_EXTRAS

    @pytest.mark.parametrize(
        "name",
        [
            "features.amount",
            "segments.region",
            "features.new",
            "x0",
            "f0",
            "",
            'a"b',
            "a\\b",
            "a\nb",
            "é",
            "\0",
            "ts_ms",
        ],
    )
    def test_no_name_breaks_the_decoder(self, name: str) -> None:
        one = decoder()
        value = raw(event(**{name: 1}, features={name: 2, "amount": 5}))
        first, second = outcome(one, value)[0], outcome(one, value)[0]
        assert first == second
        assert name in first["extras"] or name.startswith("segments.")
        assert first["places"][1] == BINS + 1

    def test_other_models_are_counted_as_one(self) -> None:
        found = outcome(
            decoder(), raw(event(model="a")), raw(event(model="b", features={"x": 1})), raw(event(model="__other__"))
        )
        assert found == ["__other__"] * 3


class TestDuplicateNames:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ('"amount":5,"amount":15', BINS + 2),
            ('"amount":"x","amount":15', BINS + 2),
            ('"amount":15,"amount":null', NULL),
        ],
    )
    def test_the_last_of_two_values_counts(self, fields: str, expected: int) -> None:
        (found,) = outcome(decoder(), b'{"event_id":"e","ts":0,"model":"fraud","features":{%s}}' % fields.encode())
        assert found["places"][1] == expected

    def test_the_last_of_two_models_counts(self) -> None:
        (found,) = outcome(decoder(), b'{"event_id":"e","ts":0,"model":"fraud","features":{},"model":"triage"}')
        assert found["model"] == MULTI


class TestCloudEvents:
    BODY: ClassVar[dict[str, Any]] = {"model": MODEL, "features": {"amount": 5}}

    def test_structured(self) -> None:
        value = raw(
            {
                "specversion": "1.0",
                "id": "ce-7",
                "source": "/serving",
                "type": "inference",
                "time": "2026-01-05T00:00:10.714Z",
                "data": self.BODY,
            }
        )
        (found,) = outcome(decoder(), value)
        assert (found["event_id"], found["ts_ms"], found["extras"]) == ("ce-7", NOW_MS, [])
        assert found["places"][1] == BINS + 1

    def test_structured_with_its_own_id_and_time_inside(self) -> None:
        inner = {**self.BODY, "event_id": "mine", "ts": 5}
        value = raw({"specversion": "1.0", "id": "ce-7", "time": "2026-01-05T00:00:10Z", "data": inner})
        (found,) = outcome(decoder(), value)
        assert (found["event_id"], found["ts_ms"]) == ("mine", 5)

    def test_binary(self) -> None:
        headers = [
            [("ce_specversion", b"1.0"), ("ce_id", b"ce-8"), ("ce_time", b"2026-01-05T00:00:10.714Z"), ("x", b"\xff")]
        ]
        (found,) = outcome(decoder(), raw(self.BODY), headers=headers)
        assert (found["event_id"], found["ts_ms"]) == ("ce-8", NOW_MS)

    def test_binary_with_hostile_headers_is_rejected(self) -> None:
        headers = [[("ce_id", b"\xff\xfe"), ("ce_time", b"\x00")]]
        (found,) = outcome(decoder(), raw(self.BODY), headers=headers)
        assert found == (Reason.WRONG_TYPE, MODEL)

    def test_plain_events_need_no_headers(self) -> None:
        (found,) = outcome(decoder(), raw(event()), headers=[[("ce_id", b"other")]])
        assert found["event_id"] == "e1"

    def test_a_plain_event_may_have_fields_that_are_called_like_a_cloud_events(self) -> None:
        one = decoder()
        value = raw(event(specversion="1.0", data="x"))
        assert outcome(one, value) == outcome(one, value) == outcome(decoder(), value)
        assert outcome(one, value)[0]["extras"] == ["data", "specversion"]


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
