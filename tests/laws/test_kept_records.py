"""Whatever bytes stand in `state`, a record is restored or refused, and what follows is judged without an exception."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.backtest import TOPIC
from streams.errors import SketchError
from streams.judge import BucketJudge
from streams.kept import restore_record
from streams.partial import unpack
from streams.publication import BOOKS_KEY, UNIT_KEY, unit_key
from streams.rollup import Unit
from streams.seal import seal, unseal
from streams.seen import Seen
from streams.sketch.counts import Counts
from streams.sketch.distinct import Distinct
from streams.sketch.profile import Profile
from streams.state import fits, pack_unit, unpack_unit
from tests.laws.test_changed_config import base, before, compiled

Pair = tuple[bytes, bytes]


@cache
def records() -> list[Pair]:
    """What a worker keeps: a state, the books of a bucket, and roll-ups."""
    found = []
    for key, value in before().state.items():
        assert value is not None
        if key == b"books":
            found.append((BOOKS_KEY, value))
        elif key.startswith(b"unit/"):
            name, unit = unpack_unit(value)
            found.append((unit_key(name, unit.id), value))
        else:
            found.append((key, value))
    return found


@cache
def partials() -> list[Pair]:
    return [(key, value) for key, value in before().partials if value is not None]


def survives(kept: list[Pair]) -> tuple[int, BucketJudge]:
    """How many of the records were refused, and the judge after the partials of a stream."""
    plan, refused = compiled(base()), 0
    judge = BucketJudge(plan, 0, TOPIC, 1)
    for key, value in sorted(kept, key=lambda pair: pair[0].startswith(UNIT_KEY)):
        try:
            restore_record(judge, key, value)
        except SketchError as error:
            refused += 1
            assert str(error).isprintable()
    for key, value in partials():
        judge.apply(unpack(value), key, fresh=False)
    list(judge.resume())
    list(judge.advance())
    assert not judge.parking.models, judge.parking.models
    return refused, judge


def test_what_a_worker_wrote_is_restored() -> None:
    refused, judge = survives(records())
    state = judge.judges["credit"].state
    assert not refused and not judge.restarts
    assert state is not None and state.windows


@given(st.binary(max_size=40), st.binary(max_size=200))
def test_any_bytes_are_refused(key: bytes, value: bytes) -> None:
    judge = BucketJudge(compiled(base()), 0, TOPIC, 1)
    with pytest.raises(SketchError):
        restore_record(judge, key, value)


numbers = st.sampled_from([0, -1, 1, 2**31, -(2**45), 2**47, 2**62, -(2**62), 2**63, -(2**63), 1e300, -1e300, 0.5])
keys = ['["values-missing",null,"",""]', '["a","b","c","d"]']
texts = st.sampled_from(["", "[]", "credit", "\x1b[2J\n", *keys, "x" * 5000])
leaves: st.SearchStrategy[Any] = st.none() | st.booleans() | numbers | texts | st.just([]) | st.just({})


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document with something in it replaced, dropped, or under another key."""
    document = json.loads(json.dumps(document))
    at, path = document, []
    while isinstance(at, dict | list) and at and (not path or draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(at))) if isinstance(at, dict) else draw(st.integers(0, len(at) - 1))
        path.append((at, key))
        at = at[key]
    holder, key = path[-1]
    match draw(st.sampled_from(["replace", "drop", "rename"])):
        case "drop":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[draw(texts)] = holder.pop(key)
        case _:
            holder[key] = draw(leaves)
    return document


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_a_state_with_anything_replaced_is_restored_or_refused(data: st.DataObject) -> None:
    kept = dict(records())
    name = data.draw(st.sampled_from([b"credit", BOOKS_KEY]))
    found = json.loads(kept[name])
    for _ in range(data.draw(st.integers(1, 3))):
        if found:
            found = data.draw(damaged(found))
    kept[name] = json.dumps(found).encode()
    survives(list(kept.items()))


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_a_roll_up_with_anything_replaced_is_restored_or_refused(data: st.DataObject) -> None:
    length = data.draw(st.sampled_from([0, 1, 5, compiled(base()).models["credit"].layout.length]))
    counts = Counts.of(np.full(length, data.draw(st.sampled_from([0, 1, 2**40, 2**62])), np.int64))
    key = data.draw(st.tuples(texts, texts, texts))
    start = data.draw(st.sampled_from([0, 3_600_000, 1_767_225_600_000, -(2**44), 7]))
    level = data.draw(st.sampled_from([1, 60_000, 3_600_000, 86_400_000]))
    stream = data.draw(st.sampled_from(["", "feedback", "seen", "predictions", "kpi/a/a", "\x1b"]))
    sealed = pack_unit(data.draw(st.sampled_from(["credit", "x"])), Unit(level, start, {key: Profile(counts)}, stream))
    found = msgspec.msgpack.decode(unseal(sealed))
    place = unit_key(found[0], (stream, level, start))
    survives([*records(), (place, sealed), (place, seal(msgspec.msgpack.encode(found[:-1])))])


def test_requests_of_another_pane_or_under_no_time_are_left_out() -> None:
    hour, cell = 3_600_000, Profile(Counts.of(np.array([7])))
    seen = Seen(60_000, 60_000)
    for level, key in ((hour, ("", "pane", "\x1b")), (hour, ("", "pane", "60001")), (1 << 40, ("", "pane", "0"))):
        seen.restore(Unit(level, 0, {key: cell}, "seen"))
    assert not seen.panes
    seen.restore(Unit(hour, 0, {("", "pane", "60000"): cell}, "seen"))
    assert seen.panes == {60_000: 7}


def test_a_roll_up_with_a_sketch_of_a_column_that_is_none_is_left_out() -> None:
    plan = compiled(base()).models["credit"]
    profile = Profile.empty(plan.layout.length)
    assert fits(Unit(3_600_000, 0, {("1", "", ""): profile}), plan)
    profile.distinct[len(plan.layout.columns)] = Distinct()
    assert not fits(Unit(3_600_000, 0, {("1", "", ""): profile}), plan)
