"""What is read of the acks topic: strictly, capped, and never with a crash."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streams.ack
from streams.ack import MAX_ACK_BYTES, Ack, Acks, Status, read_ack
from streams.events import Invalid, Reason

SAID = {"action_id": "a1", "status": "seen", "by": "ann", "ts": "2026-01-05T00:00:10Z"}


def refused(value: bytes | None) -> Reason:
    with pytest.raises(Invalid) as found:
        read_ack(value)
    return found.value.reason


def test_an_ack_is_read_with_its_time_as_text_or_number() -> None:
    for ts in ("2026-01-05T00:00:10Z", "2026-01-05T01:00:10+01:00", 1_767_571_210_000):
        ack = read_ack(json.dumps(SAID | {"ts": ts, "note": "so"}).encode())
        assert (ack.ts_ms, ack.status, ack.note) == (1_767_571_210_000, Status.SEEN, "so")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "forgotten"}, Reason.WRONG_TYPE),
        ({"status": None}, Reason.WRONG_TYPE),
        ({"by": ""}, Reason.WRONG_TYPE),
        ({"by": "x" * 257}, Reason.WRONG_TYPE),
        ({"action_id": "x" * 129}, Reason.WRONG_TYPE),
        ({"note": "x" * 2_001}, Reason.WRONG_TYPE),
        ({"ts": "yesterday"}, Reason.WRONG_TYPE),
        ({"ts": 10**18}, Reason.WRONG_TYPE),
        ({"ts": True}, Reason.WRONG_TYPE),
        ({"model": "m"}, Reason.WRONG_TYPE),
        ({"note": "x" * MAX_ACK_BYTES}, Reason.TOO_LARGE),
    ],
)
def test_what_is_no_ack_is_refused_with_the_reason(change: dict[str, Any], reason: Reason) -> None:
    assert refused(json.dumps(SAID | change).encode()) is reason


@pytest.mark.parametrize("name", SAID)
def test_a_field_that_is_missing_is_named(name: str) -> None:
    value = json.dumps({key: item for key, item in SAID.items() if key != name}).encode()
    assert refused(value) is Reason.MISSING_FIELD


def test_values_that_are_not_json_are_refused() -> None:
    assert refused(None) is Reason.NULL_VALUE
    assert refused(b"{") is Reason.BAD_JSON
    assert refused(b'{"by": "\xff"}') is Reason.BAD_ENCODING
    assert refused(b"[" * 10_000) is Reason.TOO_DEEP


@given(
    st.one_of(
        st.binary(max_size=200), st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr).map(str.encode)
    )
)
def test_no_value_does_more_than_be_refused(value: bytes) -> None:
    with pytest.raises(Invalid):
        read_ack(value)


def ack(action_id: str, ts: int, by: str = "ann", status: Status = Status.SEEN) -> Ack:
    return Ack(action_id=action_id, status=status, by=by, ts=ts)


@given(st.permutations([ack("a", 3), ack("a", 1, "bob"), ack("a", 1), ack("a", 2, status=Status.DONE), ack("b", 9)]))
def test_of_each_status_the_first_ack_counts_whatever_their_order(given_: list[Ack]) -> None:
    found = Acks(given_)
    first = sorted((one.ts_ms, one.status) for one in found.of("a"))
    assert first == [(1, Status.SEEN), (2, Status.DONE)]
    assert list(found.of("c")) == []
    assert len(list(found)) == 3


def test_no_more_actions_are_remembered_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.ack, "MOST_ACKED", 10)
    found = Acks(ack(str(number), number) for number in range(100))
    assert {one.action_id for one in found} == {str(number) for number in range(90, 100)}


def test_acks_with_the_longest_texts_stay_within_their_bytes() -> None:
    def longest(number: int) -> list[Ack]:
        name, text = "\U0001f40d" * 122 + f"{number:06}", "\U0001f40d" * 2_000
        return [Ack(action_id=name, status=status, by=text[:256], ts=number, note=text) for status in Status]

    tracemalloc.start()
    try:
        found = Acks(one for number in range(40_000) for one in longest(number))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept = {one.ts_ms for one in found}
    assert 20_000 < len(kept) < 40_000 and max(kept) == 39_999 and min(kept) == 40_000 - len(kept)
    assert held < streams.ack.MAX_KEPT_BYTES + (8 << 20)
