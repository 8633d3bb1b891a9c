"""Fields that nobody declared, names that come twice, and CloudEvents."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from streams.decode import MAX_LEARNED_EXTRAS
from streams.events import Reason
from streams.sketch.layout import BINS, NULL
from tests.decode_cases import (
    MODEL,
    MULTI,
    NOW_MS,
    decoder,
    event,
    outcome,
    raw,
)


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
