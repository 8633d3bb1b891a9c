"""Work that may not grow with partitions × models, counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml

import streams.chunk
from streams.chunk_merge import ChunkMerge
from streams.configure import load
from streams.judge import BucketJudge
from streams.partial import BooksPartial, Partial, key_of, pack, unpack
from streams.plan import Plan, compile_plan
from streams.records import Records
from streams.signals.reference import Reference
from streams.source import SourceFold
from streams.yaml_reader import YamlReader, _loader

PARTITIONS, MODELS, CLOCK_MS = 12, 40, 1_767_225_600_000
MODEL = """
    pane: 1m
    features: {age: {type: numeric}}
    rules:
      - {name: nulls, signals: [null_rate], response: data_incident}
"""


def plan(models: int = MODELS) -> Plan:
    text = "kafka: {buckets: 4}\nmodels:\n" + "".join(f"  m{number}:{MODEL}" for number in range(models))
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


def folds(plan: Plan) -> list[SourceFold]:
    return [SourceFold(plan, "inference", partition, None, CLOCK_MS) for partition in range(PARTITIONS)]


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


def test_how_far_a_model_has_been_read_is_worked_out_once_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = plan()
    judge = BucketJudge(compiled, 0, "inference", PARTITIONS)
    made = folds(compiled)
    worked = counting(monkeypatch, ChunkMerge, "_marks")
    for item in beat(made, CLOCK_MS):
        if item.bucket == 0:
            judge.apply(item)
    for _ in range(5):
        list(judge.advance())
    assert len(worked) == len(judge.merge.models)


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


@pytest.mark.parametrize("text", ["a: " + "[" * 500 + "]" * 500, "a: [", "{" * 5_000])
def test_what_the_parser_in_c_should_not_read_goes_to_the_other(text: str) -> None:
    assert type(_loader(text)) is yaml.SafeLoader
    assert type(_loader("a: [1, {b: 2}]")) is yaml.CSafeLoader


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
