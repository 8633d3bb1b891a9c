"""Work that may not grow with partitions × models, counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import streams.chunk
from streams.configure import load
from streams.decode import Decoder
from streams.judge import BucketJudge
from streams.judge_model import Outcome
from streams.model_panes import Source
from streams.partial import Books, BooksPart, BooksPartial, Partial, key_of, pack, unpack
from streams.plan import Plan, compile_plan
from streams.records import Records
from streams.signals.reference import Reference
from streams.source import SourceFold
from streams.yaml_reader import YamlReader, _loader

PARTITIONS, MODELS, CLOCK_MS = 12, 40, 1_767_225_600_000
MODEL = """
    pane: 1m
    grace: 5s
    features: {age: {type: numeric}}
    rules:
      - {name: nulls, signals: [null_rate], response: data_incident}
"""


def plan(models: int = MODELS, buckets: int = 4) -> Plan:
    text = f"kafka: {{buckets: {buckets}}}\nmodels:\n" + "".join(f"  m{number}:{MODEL}" for number in range(models))
    return compile_plan(load(text), {})


def counting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[None]:
    """An item for each call."""
    calls: list[None] = []
    original: Callable[..., Any] = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)
    return calls


def folds(plan: Plan, partitions: int = PARTITIONS) -> list[SourceFold]:
    return [SourceFold(plan, "inference", partition, None, CLOCK_MS) for partition in range(partitions)]


ONE = plan(1)


def event(model: str, offset: int, **more: Any) -> Records:
    row = {"event_id": f"e{offset}", "ts": CLOCK_MS, "model": model, "features": {"age": 1.5}, **more}
    return Records([offset], [CLOCK_MS], [json.dumps(row).encode()])


def test_structs_are_compiled_once_for_all_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = counting(monkeypatch, msgspec, "defstruct")
    made = folds(plan())
    assert len(compiled) == 3 * (MODELS + 1), "features, segments and event of each model, and of undeclared ones"
    for fold in made:
        fold.take(event("m1", 0, colour="red"), CLOCK_MS)
    assert len(compiled) == 3 * (MODELS + 1) + 3, "an unknown field is learned once"


def test_a_stream_of_new_names_does_not_have_all_models_compiled_at_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names there are: once for as many records as that takes."""
    models = 200
    fold = SourceFold(plan(models), "inference", 0, None, CLOCK_MS)
    whole, structs = counting(monkeypatch, Decoder, "_compile"), counting(monkeypatch, msgspec, "defstruct")
    for block in range(20):
        offsets = range(block * 200, block * 200 + 200)
        rows = [
            {"event_id": f"e{n}", "ts": CLOCK_MS, "model": f"m{n % models}", "features": {f"x{n}": 1}} for n in offsets
        ]
        fold.take(Records(offsets, [CLOCK_MS] * 200, [json.dumps(row).encode() for row in rows]), CLOCK_MS)
    assert 1 <= len(whole) <= 20 * 200 // (8 * models)
    assert len(structs) <= 3 * 64 * len(whole)
    fold.publish(CLOCK_MS, caught_up=True)
    assert sum(share.books.counted for share in fold.shares.values()) == 20 * 200


def test_a_long_name_is_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = SourceFold(plan(1), "inference", 0, None, CLOCK_MS)
    structs = counting(monkeypatch, msgspec, "defstruct")
    fold.take(event("m0", 0, **{"x" * 10_000: 1}), CLOCK_MS)
    assert not structs


def test_the_reference_of_a_model_is_opened_at_its_first_window(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = counting(monkeypatch, Reference, "blocks")
    for bucket in range(4):
        BucketJudge(plan(), bucket, "inference", PARTITIONS)
    assert not opened


def beat(made: list[SourceFold], clock_ms: int) -> list[BooksPartial]:
    partials = [item for fold in made for item in fold.publish(clock_ms, caught_up=True).partials]
    return [item for item in partials if isinstance(item, BooksPartial)]


def test_a_heartbeat_without_news_has_no_models_and_stage_two_knows_the_same() -> None:
    compiled = plan()
    made, whole = folds(compiled), folds(compiled)
    for fold in (*made, *whole):
        fold._introductions = 0
    judges = {full: [BucketJudge(compiled, b, "inference", PARTITIONS) for b in range(4)] for full in (False, True)}

    def apply(full: bool, items: list[BooksPartial]) -> None:
        for item in items:
            judges[full][item.bucket].apply(unpack(pack(item)), key_of(item, "a"))

    for number in range(streams.chunk.FULL_BEATS + 1):
        clock_ms = CLOCK_MS + number * streams.chunk.BEAT_MS
        if number == 3:
            for some in (made, whole):
                some[2].take(event("m7", 0), clock_ms)
        found = beat(made, clock_ms)
        for fold in whole:
            fold._beats = 0
        apply(True, beat(whole, clock_ms))
        apply(False, found)
        parts = sum(len(item.models) for item in found)
        in_its_bucket = len(compiled.in_bucket(compiled.config.bucket("m7")))
        news = {3: in_its_bucket, 4: in_its_bucket}  # an event; and the mark of a stream that pauses after it
        usual = {0: PARTITIONS * MODELS, **news, streams.chunk.FULL_BEATS: PARTITIONS * MODELS}
        assert parts == usual.get(number, 0)
        assert number in (0, streams.chunk.FULL_BEATS) or len({key_of(item, "a") for item in found}) == PARTITIONS * 4
        for light, full in zip(judges[False], judges[True], strict=True):
            for name, model in light.merge.models.items():
                idle_ms = model.plan.config.idle_ms
                assert light.merge.marks(model, idle_ms) == full.merge.marks(full.merge.models[name], idle_ms)
                assert model.books == full.merge.models[name].books


def test_books_of_a_chunk_outlive_the_heartbeats_in_a_compacted_log() -> None:
    """A beat has a key of its own: what the records before it said of the models stays in the log."""
    compiled = plan()
    (fold, *_), log = folds(compiled), dict[bytes, Partial]()
    for number in range(5):
        fold.take(event(f"m{number}", number), CLOCK_MS)
        for _ in range(2):
            for item in fold.publish(CLOCK_MS + 5_000 * number, caught_up=True).partials:
                log[key_of(item, "a")] = item
    judges = [BucketJudge(compiled, bucket, "inference", 1) for bucket in range(4)]
    for key, item in log.items():
        judges[item.bucket].apply(item, key)
    assert sum(model.books.read for judge in judges for model in judge.merge.models.values()) == 5


def lines_of(action: Callable[[], object]) -> int:
    """The lines of `streams/` that an action runs, each turn of a loop for one."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if "/streams/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines


def some_events(compiled: Plan, fold: SourceFold, ts_ms: int) -> None:
    """Takes so many events of each model that stream time follows."""
    values = [
        json.dumps({"event_id": f"e{n}", "ts": ts_ms, "model": model, "features": {"age": 1}}).encode()
        for model in compiled.models
        for n in range(50)
    ]
    fold.take(Records(range(fold.next_offset, fold.next_offset + len(values)), [ts_ms] * len(values), values), ts_ms)


def lines_of_advance(partitions: int) -> float:
    """For a publication: the partitions of a bucket publish one after the other, and reach a pane's end likewise."""
    compiled = plan(4)
    judge, made = BucketJudge(compiled, 0, "inference", partitions), folds(compiled, partitions)
    lines, judged = 0, 0
    for number in range(3):
        at_ms = CLOCK_MS + 40_000 * number
        for fold in made:
            some_events(compiled, fold, at_ms)
            for _ in range(10):
                for item in fold.publish(at_ms, caught_up=False).partials:
                    if item.bucket == 0:
                        judge.apply(item)
                closed: list[Outcome] = []
                taken = lines_of(lambda closed=closed: closed.extend(judge.advance()))
                judged += bool(closed)
                lines += 0 if closed else taken
    assert judged == 1, "the first pane, of all partitions"
    return lines / (30 * partitions)


def test_what_a_publication_costs_a_model_does_not_grow_with_the_partitions() -> None:
    assert lines_of_advance(32) < 1.5 * lines_of_advance(8)


def lines_of_publication(models: int, panes: int) -> int:
    """Of the records of one model, among many that have some in panes of the open chunk; each has its bucket."""
    compiled = plan(models, buckets=4_096)
    fold = SourceFold(compiled, "inference", 0, None, CLOCK_MS)
    for number in range(panes):
        some_events(compiled, fold, CLOCK_MS + 60_000 * number)
    fold.publish(CLOCK_MS + 60_000 * panes, caught_up=False)
    fold.take(event("m1", fold.next_offset, ts=CLOCK_MS + 60_000 * panes), CLOCK_MS + 60_000 * panes)
    return lines_of(lambda: fold.publish(CLOCK_MS + 60_000 * panes, caught_up=False))


def test_a_publication_costs_what_has_changed_since_the_last() -> None:
    """Not what else is declared, or was counted in the chunk before: but for a step for each pane, or bucket."""
    few = lines_of_publication(4, 2)
    assert lines_of_publication(4, 12) - few <= 2 * 10
    assert lines_of_publication(24, 2) - few <= 15 * 20


def lines_of_a_full_chunk(partitions: int) -> int:
    compiled = plan(8)
    judge, made = BucketJudge(compiled, 0, "inference", partitions), folds(compiled, partitions)
    for fold in made:
        for model in compiled.models:
            fold.take(event(model, fold.next_offset, ts=CLOCK_MS), CLOCK_MS)
        for item in fold.publish(CLOCK_MS, caught_up=False).partials:
            if item.bucket == 0:
                judge.apply(item)
    made[0].chunk_size = made[0].next_offset + 1
    step = made[0].take(event("m1", made[0].next_offset), CLOCK_MS)[0]
    books = next(item for item in step.partials if isinstance(item, BooksPartial) and item.bucket == 0)
    lines = lines_of(lambda: judge.apply(books))
    assert all(model.books.read >= partitions for model in judge.merge.models.values())
    assert all(len(model.open_books) == partitions - 1 for model in judge.merge.models.values())
    return lines


def test_a_full_chunk_costs_what_it_holds() -> None:
    """Not what is open of other partitions."""
    assert lines_of_a_full_chunk(24) < 1.2 * lines_of_a_full_chunk(6)


MARK = st.none() | st.integers(0, 5)
SOURCE = st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 9).map(lambda n: n == 9))
PART = st.none() | st.tuples(MARK, st.integers(0, 9))


@given(st.lists(st.tuples(st.none() | SOURCE, PART), min_size=1, max_size=4), st.lists(st.integers(0, 6), max_size=5))
def test_what_is_held_up_is_what_the_marks_say(sides: list[Any], times: list[int]) -> None:
    """`is_held_up` says so of a time where the marks are not known, or an active one is earlier; and nowhere else."""
    merge = BucketJudge(ONE, ONE.config.bucket("m0"), "inference", len(sides)).merge
    model = merge.models["m0"]
    for partition, (source, part) in enumerate(sides):
        if source is not None:
            clock_ms, caught_up, final = source
            merge.sources[partition] = Source(clock_ms=clock_ms, caught_up=caught_up, final=final)
        if part is not None:
            model.marks[partition] = BooksPart("m0", Books(), *part)
    marks = merge.marks(model, 3)
    for time_ms in times:
        held_up = marks is None or any(mark < time_ms for mark in marks.active)
        assert merge.is_held_up(model, time_ms, 3) == held_up


def test_looking_places_up_takes_as_many_steps_as_there_are_models(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    for models in (50, 100):
        with monkeypatch.context() as context:
            reads = counting(context, yaml.nodes.Node, "__init__")
            reader = YamlReader("models:\n" + "".join(f"  m{n}:{MODEL}" for n in range(models)), "foreshock.yaml")
            for number in range(models):
                assert reader.place(("models", f"m{number}", "pane")).startswith("foreshock.yaml, line ")
            steps.append(sum(map(len, reader._children.values())) + len(reads))
    assert steps[1] < 2.2 * steps[0]


@pytest.mark.parametrize("text", ["a: " + "[" * 500 + "]" * 500, "{" * 5_000])
def test_what_is_nested_deep_is_not_read(text: str) -> None:
    with pytest.raises(RecursionError):
        _loader(text, "f.yaml")


def test_the_parser_in_c_reads_what_is_yaml() -> None:
    assert type(_loader("a: [", "f.yaml")) is yaml.SafeLoader, "its message says more"
    assert type(_loader("a: [1, {b: 2}]", "f.yaml")) is yaml.CSafeLoader


def test_books_of_no_model_are_in_one_bucket_alone() -> None:
    """Whatever the buckets get that have no model's books."""
    one = compile_plan(load("kafka: {buckets: 4}\nmodels: {m: {pane: 1m}}"), {})
    fold = SourceFold(one, "t", 0, None, CLOCK_MS)
    steps = fold.take(Records(range(3), [CLOCK_MS] * 3, [b"{", b"[", b"1"]), CLOCK_MS)
    steps.append(fold.publish(CLOCK_MS, caught_up=True, final=True))
    latest = {key_of(p, "w"): p for step in steps for p in step.partials if isinstance(p, BooksPartial)}
    assert {p.bucket for p in latest.values()} == set(range(4))
    read = {p.bucket: part.books.read for p in latest.values() for part in p.models if not part.model}
    assert read[one.config.bucket("")] == sum(read.values()) == 3
