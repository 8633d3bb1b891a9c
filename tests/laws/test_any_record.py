"""Any bytes as a record of any topic become a value or a reject, through all of stage 1 and into stage 2's windows."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.ack import Acks, read_ack
from streams.chunk import Step
from streams.configure import load
from streams.envelope import Headers
from streams.facts.fold import fact_fold
from streams.fields import Invalid
from streams.join.fold import JoinFold
from streams.judge import BucketJudge
from streams.partial import Books, LabelBooks, key_of, pack, unpack
from streams.plan import Facts, Plan, compile_plan
from streams.records import Records
from streams.sketch.outcomes import LABELLED, UNUSABLE
from streams.source import SourceFold
from streams.store import MemoryStore

NOW_MS = 1_767_571_260_000
CONFIG = """
kafka: {buckets: 1}
models:
  price:
    labels: {task: regression}
    segments: {region: [north, south]}
    features: {rooms: {type: numeric}, city: {type: categorical}}
    feedback: {override: {}, workflow_step: {values: [manual]}}
    kpis: {sales: {aggregate: sum, better: higher}, share: {aggregate: ratio, of: [sales, visits], better: near}}
    jobs: {train: {every: 1h}}
    served: served
  fraud:
    labels: {task: binary, classes: ["0", "1"]}
  triage:
    labels: {task: multiclass, classes: [a, b, "3"]}
"""
TOPICS = ("inference", "labels", *(str(kind) for kind in Facts))
SOUND: dict[str, dict[str, object]] = {
    "inference": {
        "event_id": "e",
        "ts": NOW_MS,
        "model": "price",
        "features": {"rooms": 2, "city": "x"},
        "segments": {"region": "north"},
        "prediction": 3.5,
        "score": 0.5,
    },
    "labels": {"event_id": "e", "label": 1, "label_ts": NOW_MS},
    "feedback": {"event_id": "e", "model": "price", "ts": NOW_MS, "kind": "override", "value": "x"},
    "runs": {
        "eventType": "START",
        "eventTime": "2026-01-05T00:00:00Z",
        "job": {"namespace": "n", "name": "train"},
        "run": {"runId": "r"},
    },
    "outcomes": {"model": "price", "ts": NOW_MS, "kpi": "sales", "value": 2.0},
    "acks": {"action_id": "a", "status": "seen", "by": "x", "ts": NOW_MS},
}
ATOMS = (
    *("null", "true", "false", "0", "-0.0", "0.5", "NaN", "Infinity", "-Infinity", "1e308", "1e400", "-1e400"),
    *("9" * 19, "9" * 20, "1" + "0" * 308, "1" + "0" * 400, "-1" + "0" * 400, "9" * 4_300, "9" * 4_301),
    *("-" + "9" * 4_300, "9" * 5_000, "0." + "9" * 5_000, "1e-400", "01", "nope", '""', '"a"', '"\\u0000\\u001b[2J"'),
    *('"\\ud800"', '"' + "x" * 3_000 + '"', str(NOW_MS), str(NOW_MS // 1_000), str(NOW_MS * 1_000), '"2026-01-05"'),
    *("[" * 17 + "]" * 17, '{"a":' * 17 + "1" + "}" * 17, '{"a": 1, "b": [2]}', '"price"', '"e"', '"north"', "1"),
)
numbers = st.one_of(
    st.integers().map(str), st.floats().map(json.dumps), st.integers(0, 4_400).map(lambda digits: "1" + "0" * digits)
)
atoms = st.one_of(
    st.sampled_from(ATOMS), numbers, st.text(max_size=8).map(json.dumps), st.text(max_size=8).map(lambda t: f'"{t}"')
)


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Arrays and objects of JSON texts; names repeat."""
    names = st.sampled_from(["a", "region", "rooms", "name", "data", "model"])
    members = st.lists(st.tuples(names, inner), max_size=3)
    return st.one_of(st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"), members.map(as_object))


def as_object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}"


values = st.recursive(atoms, nested, max_leaves=4)
headers = st.lists(
    st.tuples(st.sampled_from(["ce_id", "CE_TIME", "ce_", "ce_specversion", "x"]), st.binary(max_size=8)), max_size=2
)


@st.composite
def records(draw: st.DrawFn, topic: str) -> bytes:
    """A sound record of a topic with some of its fields replaced by anything, in or out of an envelope; or noise."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=30), values.map(encoded)))
    fields = {name: json.dumps(value) for name, value in SOUND[topic].items()}
    for name in draw(st.lists(st.sampled_from([*fields, "segments", "model_version", "error", "extra"]), max_size=3)):
        fields[name] = draw(values)
    pairs = list(fields.items())
    if draw(st.booleans()):
        pairs.append(draw(st.sampled_from(pairs)))
    record = as_object(pairs)
    if draw(st.integers(0, 3)) == 0:
        key = draw(st.sampled_from(["data", "data_base64"]))
        content = draw(st.sampled_from([record, json.dumps(record)]))
        record = as_object([("specversion", '"1.0"'), ("id", draw(values)), ("time", draw(values)), (key, content)])
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + encoded(record)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@cache
def plan() -> Plan:
    return compile_plan(load(CONFIG), {})


class Pipeline:
    """Both stages over one partition of each topic."""

    def __init__(self) -> None:
        self.join = JoinFold(plan(), "labels", 0, MemoryStore(), NOW_MS)
        self.events = SourceFold(plan(), "inference", 0, None, NOW_MS, join=self.join)
        self.facts = {kind: fact_fold(kind, plan(), 0, None, NOW_MS, self.join) for kind in Facts}
        self.judge = BucketJudge(plan(), 0, "inference", 1, dict.fromkeys(Facts, 1), Acks())
        self.rejected = 0
        for _ in self.judge.resume():
            pass

    def read(self, topic: str, batch: list[tuple[bytes | None, Headers]]) -> None:
        """Reads a whole topic, and publishes."""
        found = Records(range(len(batch)), [NOW_MS] * len(batch), *(list(part) for part in zip(*batch, strict=True)))
        fold = self.events if topic in ("inference", "labels") else self.facts[Facts(topic)]
        steps = self.events.take_labels(found, NOW_MS) if topic == "labels" else fold.take(found, NOW_MS)
        self.rejected += sum(len(step.rejects) for step in steps)
        self._apply([*steps, fold.publish(NOW_MS, caught_up=True)])

    def close(self) -> None:
        for fold in (self.events, *self.facts.values()):
            self._apply([fold.publish(NOW_MS, caught_up=True, final=True)])

    def _apply(self, steps: list[Step]) -> None:
        for partial in (partial for step in steps for partial in step.partials):
            self.judge.apply(unpack(pack(partial)), key_of(partial, "law"))
        for _ in self.judge.advance():
            pass

    def books(self) -> Counter[str]:
        """Of all topics but labels."""
        merge = self.judge.merge
        found = [model.books for model in (*merge.models.values(), *merge.others.values())]
        for topic in self.judge.facts.topics.values():
            found += [panes.books for panes in (*topic.models.values(), *topic.others.values())]
        total: Counter[str] = Counter()
        for books in found:
            total.update(_counts(books))
        return total


def _counts(books: Books) -> dict[str, int]:
    said = {name: getattr(books, name) for name in ("read", "counted", "late", "duplicate")}
    return said | {"rejected": sum(books.rejected.values())}


@st.composite
def batches(draw: st.DrawFn, topic: str) -> list[tuple[bytes | None, Headers]]:
    row = st.tuples(st.one_of(records(topic), records(topic), records(topic), st.none()), headers)
    return draw(st.lists(row, min_size=1, max_size=4))


@pytest.mark.parametrize("topic", TOPICS)
def test_any_record_is_counted_or_rejected_and_stage_one_goes_on(topic: str) -> None:
    @settings(max_examples=60, deadline=None, database=None)
    @given(batches(topic))
    def check(batch: list[tuple[bytes | None, Headers]]) -> None:
        pipeline = Pipeline()
        sound: dict[str, list[tuple[bytes | None, Headers]]] = {
            name: [(json.dumps(SOUND[name]).encode(), ())] for name in TOPICS
        }
        for name in TOPICS:
            pipeline.read(name, [*batch, *sound[name]] if name == topic else sound[name])
        pipeline.close()
        labels = sum((_labels(books) for books in pipeline.join.meta.books.values()), Counter())
        assert labels["read"] == labels["settled"]
        books = pipeline.books()
        assert books["read"] + labels["read"] == len(batch) + len(TOPICS)
        assert books["read"] == books["counted"] + books["late"] + books["duplicate"] + books["rejected"]
        assert pipeline.rejected == books["rejected"] + labels["rejected"]

    check()


def _labels(books: LabelBooks) -> Counter[str]:
    rejected = sum(books.rejected.values())
    settled = books.matched + books.pending + books.duplicate + books.orphan + rejected
    return Counter(read=books.read, settled=settled, rejected=rejected)


@settings(max_examples=150, deadline=None, database=None)
@given(records("acks"), headers)
@example(b'{"action_id":"a","status":"seen","by":"x","ts":' + b"9" * 4_301 + b"}", [])
def test_any_ack_is_an_ack_or_a_reject(value: bytes, found: Headers) -> None:
    try:
        assert read_ack(value, found).action_id
    except Invalid as invalid:
        assert invalid.detail


HUGE = [*("1" + "0" * digits for digits in (309, 400, 4_299, 4_300, 5_000)), "1e400", "Infinity"]


@pytest.mark.parametrize("digits", HUGE, ids=lambda text: text if len(text) < 9 else f"{len(text)} digits")
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_label_beyond_every_double_is_unusable_for_a_regression(digits: str, sign: str) -> None:
    """It is joined to its prediction, counted as unusable, and in no sum."""
    pipeline = Pipeline()
    pipeline.read("inference", [(json.dumps(SOUND["inference"]).encode(), ())])
    label = as_object([("event_id", '"e"'), ("label", sign + digits), ("label_ts", str(NOW_MS)), ("model", '"price"')])
    pipeline.read("labels", [(label.encode(), ())])
    books = pipeline.join.meta.books["price"]
    assert (books.read, books.matched) == (1, 1)
    layout = plan().models["price"].outcomes
    assert layout is not None
    vectors = [cells[key] for cells in pipeline.join.cells.vectors.values() for key in cells]
    assert all(vector[layout.sums_at :].sum() == 0 for vector in vectors)
    labelled = [int(vector[UNUSABLE]) for vector in vectors if vector[LABELLED]]
    assert labelled == [1] * len(labelled)
    assert labelled
