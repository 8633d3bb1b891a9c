"""Times of a batch: each is what it is alone, and what the standard library says it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.times import NO_TIME, instant_ms, instants_ms

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
_precisions = st.sampled_from(["seconds", "milliseconds", "microseconds"])
_zones = st.sampled_from(["", "Z", "+00:00", "+02:00"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    text = draw(_moments).isoformat(timespec=draw(_precisions)).removesuffix("+00:00") + draw(_zones)
    if draw(st.integers(0, 4)):
        return text
    at = draw(st.integers(0, len(text) - 1))
    return text[:at] + draw(st.sampled_from("0123456789-:.TZ é")) + text[at + 1 :]


@given(st.lists(texts(), max_size=8))
@example(["2026-01-05T00:00:10.71", "4Z2026-01-05T00:00:10.714Z"])
@example(["2026-02-29T00:00:00Z", "2024-02-29T00:00:00Z"])
@example(["2026-01-05T24:00:00Z"])
@example(["2026-01-05T23:59:60Z"])
@example(["0000-01-01T00:00:00Z"])
def test_a_batch_is_read_as_its_texts_are(batch: list[str]) -> None:
    assert instants_ms(batch).tolist() == [instant_ms(text) for text in batch]


@given(st.lists(_moments, min_size=1, max_size=8), _precisions, st.integers(-14 * 60, 14 * 60))
def test_what_python_writes_is_read_back(moments: list[datetime], precision: str, minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    moments = [moment.replace(tzinfo=zone) for moment in moments]
    batch = [moment.isoformat(timespec=precision) for moment in moments]
    expected = [(datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1) for text in batch]
    assert instants_ms(batch).tolist() == expected


@pytest.mark.parametrize(
    "text", ["", "Z", "2026-01-05", "2026-13-05T00:00:00Z", "2026-01-05T00:00:00Zé", "1767571210714"]
)
def test_what_is_no_time_is_told(text: str) -> None:
    assert instants_ms([text, "1970-01-01T00:00:00Z"]).tolist() == [NO_TIME, 0]
