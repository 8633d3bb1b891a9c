"""Every decoder, what hostile bytes are drawn for it, and the one error that it may raise: for `make fuzz`.

The property of each: a value, or the documented error; nothing else, in bounded time and memory.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st

from agents.record_batch import Columns
from streams.ack import read_ack
from streams.action import line_of, read_action
from streams.baseline import Baseline
from streams.configure import load
from streams.decode import Decoder, ModelCodec
from streams.errors import ConfigError, SketchError
from streams.events import Invalid
from streams.facts.layout import KPI_DIGEST, RUNS_DIGEST
from streams.facts.read import read_feedback, read_outcome, read_run
from streams.judge import BucketJudge
from streams.labels import read_labels
from streams.ledger import Ledger, pack_ledger, terms_of, unpack_ledger
from streams.partial import (
    Books,
    BooksPart,
    BooksPartial,
    Cell,
    LabelBooks,
    LabelBooksPart,
    LabelBooksPartial,
    OutcomePartial,
    PanePart,
    PanePartial,
    Partial,
    pack,
    unpack,
)
from streams.plan import Facts, Plan
from streams.progress import Progress
from streams.rollup import Unit
from streams.seal import seal
from streams.sketch.counts import Counts
from streams.sketch.profile import Profile
from streams.state import pack_unit, unpack_unit
from tests import scenario
from tests.damage import LIMIT, _json, damaged, headers, records, sealed
from tests.hostile_batches import check_response, each, heads, responses

NOW_MS = scenario.START_MS + scenario.END * scenario.MINUTE_MS
MODEL = scenario.MODEL


@dataclass(frozen=True)
class Target:
    """`check` raises what must not be; it takes what `drawn` gives."""

    drawn: st.SearchStrategy[Any]
    check: Callable[[Any], object]


def only(
    error: type[BaseException] | tuple[type[BaseException], ...], decode: Callable[[Any], object]
) -> Callable[[Any], None]:
    def check(data: Any) -> None:
        try:
            decode(data)
        except error as refused:
            assert str(refused) or refused.args is not None

    return check


# --- Bytes


# --- Records of the topics


def events() -> list[bytes]:
    return scenario.stream()[0][:20]


def labels() -> list[bytes]:
    return scenario.stream()[1][:20]


def told(kind: Facts) -> Callable[[], list[bytes]]:
    return lambda: scenario.stream()[2][kind][:20]


def acks() -> list[bytes]:
    return [_json({"action_id": "a" * 32, "status": "seen", "by": "x", "ts": "2026-01-05T00:00:00Z", "note": "n"})]


def actions() -> list[bytes]:
    from tests.actions import action

    return [msgspec.json.encode(action("f", 1)), msgspec.json.encode(action("r", 2))]


@cache
def codecs() -> dict[str, ModelCodec]:
    model = plan().models[MODEL]
    return {MODEL: ModelCodec(MODEL, model.layout.columns, tuple(model.config.segments))}


def decode_events(batch: list[tuple[bytes, list[tuple[str, bytes]]]]) -> None:
    """In bulk and one by one there is a row or a reject for every record, and the same."""
    values, heads = [value for value, _ in batch], [head for _, head in batch]
    whole = Decoder(codecs(), LIMIT, 3_600_000).decode(values, [NOW_MS] * len(values), heads)
    rejected = {reject.index: reject.reason for reject in whole.rejects}
    read = sorted(index for rows in whole.models.values() for index in rows.indices.tolist())
    assert sorted([*rejected, *read]) == list(range(len(values)))
    for index, value in enumerate(values):
        one = Decoder(codecs(), LIMIT, 3_600_000).decode([value], [NOW_MS], [heads[index]])
        assert [reject.reason for reject in one.rejects] == ([rejected[index]] if index in rejected else [])


def decode_labels(value: bytes) -> None:
    found, rejects = read_labels([value], [NOW_MS], (), max_record_bytes=LIMIT, future_ms=3_600_000)
    assert len(found) + len(rejects) == 1


def read_either(value: bytes) -> None:
    """An action that opens can be told as a line, and so can anything else."""
    read_action(value)
    assert "\n" not in line_of(value)


# --- What workers write


def plan() -> Plan:
    return _plan()


@cache
def _plan() -> Plan:
    return scenario.plan()


def profile(length: int) -> Profile:
    found = Profile.empty(length)
    found.counts = Counts.of(found.counts.dense() + 3)
    return found


def sound_cell(length: int) -> Cell:
    return Cell("1", "", "", profile(length).to_bytes())


@cache
def layouts() -> list[tuple[str, str, int]]:
    """Topic, layout and length of what is counted."""
    model, kafka = plan().models[MODEL], plan().config.kafka
    assert model.outcomes is not None and model.feedback is not None
    return [
        (kafka.inference, model.layout.digest, model.layout.length),
        (kafka.labels, model.outcomes.digest, model.outcomes.length),
        (kafka.feedback, model.feedback.digest, model.feedback.length),
        (kafka.runs, RUNS_DIGEST, 1),
        (kafka.outcomes, KPI_DIGEST, 12),
    ]


def names_of(kind: Facts) -> list[str]:
    return list(plan().facts[kind])


@st.composite
def partials(draw: st.DrawFn) -> Partial:
    """Well formed, of our topics, models and layouts, and for the rest of whatever a liar may write."""
    topic, layout, length = draw(st.sampled_from(layouts()))
    kafka = plan().config.kafka
    bucket = plan().config.bucket(MODEL)
    names = [MODEL, *(name for kind in Facts for name in plan().facts[kind])]
    model = draw(st.sampled_from([*names, "__other__", "", "strange"]))
    at = draw(st.sampled_from([scenario.START_MS + i * 60_000 for i in range(4)] + [0, -1, 1 << 46, 1 << 63, -(2**45)]))
    natural = st.sampled_from([0, 1, 2, 65_536, -1, 2**31, 2**62, 2**63])
    part = PanePart(
        model, draw(st.sampled_from([layout, layout, layout, "other"])), draw(cells(length)), draw(cells(length))
    )
    partition = draw(st.sampled_from([0, 0, 0, 1, 5, -1, 2**31]))
    chunk, end = draw(natural), draw(natural)
    mark = draw(st.sampled_from([None, scenario.START_MS + 600_000, 2**62, -(2**62), 2**47, 0]))
    books = Books(draw(natural), draw(natural), draw(natural), 0, {"bad_json": draw(natural)})
    flags = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    kinds: list[Callable[[], Partial]] = [
        lambda: PanePartial(topic, partition, chunk, end, bucket, at, [part]),
        lambda: OutcomePartial(kafka.labels, partition, flags[0], (chunk, end), bucket, at, [part]),
        lambda: BooksPartial(
            topic, partition, chunk, end, bucket, NOW_MS, *flags, [BooksPart(model, books, mark, NOW_MS)]
        ),
        lambda: LabelBooksPartial(
            kafka.labels,
            partition,
            (chunk, end),
            bucket,
            NOW_MS,
            NOW_MS,
            mark,
            *flags[:2],
            [LabelBooksPart(model, LabelBooks(end), mark)],
        ),
    ]
    return draw(st.sampled_from(kinds))()


@st.composite
def cells(draw: st.DrawFn, length: int) -> list[Cell]:
    found = []
    for _ in range(draw(st.integers(0, 2))):
        dimension = draw(st.sampled_from(["", "region", scenario.JOB, "strange", "0"]))
        value = draw(
            st.sampled_from(["", "north", "__other__", f"{scenario.START_MS}/FAIL/1", "x/FAIL/1", "/", "1/NO/1"])
        )
        slots = draw(st.sampled_from([length, length, length, length + 1, 0, 1]))
        data = st.just(draw(st.sampled_from([Profile.empty(slots), profile(slots)])).to_bytes())
        found.append(
            Cell(draw(st.sampled_from(["1", "", "__other__", "9"])), dimension, value, draw(damaged(data) | data))
        )
    return found


def judge_all(hostile: list[Partial]) -> int:
    """A worker that reads them goes on, and what it then publishes can be read; how many windows those are."""
    windows = 0
    judge = BucketJudge(
        plan(), plan().config.bucket(MODEL), plan().config.kafka.inference, 1, dict.fromkeys(plan().kinds, 1)
    )
    for _ in judge.resume():
        pass
    for partial in (*hostile, *ends()):
        try:
            judge.apply(unpack(pack(partial)), b"key")
        except SketchError:
            continue
        for outcome in judge.advance():
            windows += len(outcome.windows)
            for told in (outcome.windows, outcome.actions, outcome.state):
                json.loads(msgspec.json.encode(told), parse_constant=_no_constant)
            for unit in outcome.units:
                unpack_unit(pack_unit(outcome.model, unit))
        judge.expire()
    return windows


def _no_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


@cache
def ends() -> list[Partial]:
    """What closes every pane: all topics have been read to their ends."""
    kafka, bucket, last, mark = plan().config.kafka, plan().config.bucket(MODEL), 1 << 61, NOW_MS
    found: list[Partial] = []
    for topic in (topic for topic, *_ in layouts() if topic != kafka.labels):
        names = [MODEL] if topic == kafka.inference else [name for kind in Facts for name in plan().facts[kind]]
        books = [BooksPart(name, Books(), mark, mark) for name in names]
        found.append(BooksPartial(topic, 0, last, last, bucket, mark, False, True, True, books))
    labels = [LabelBooksPart(MODEL, LabelBooks(), mark)]
    return [*found, LabelBooksPartial(kafka.labels, 0, (last, last), bucket, mark, mark, mark, True, True, labels)]


@cache
def ledger_bytes() -> bytes:
    return pack_ledger(Ledger(terms_of(plan().models[MODEL])).to_state())


def unit_bytes() -> bytes:
    return pack_unit(MODEL, Unit(3_600_000, scenario.START_MS, {("1", "", ""): profile(4)}, ""))


def sound_partials() -> list[bytes]:
    topic, layout, length = layouts()[0]
    part = PanePart(MODEL, layout, [sound_cell(length)], [])
    books = BooksPart(MODEL, Books(1, 1), 0, 0)
    label_books = LabelBooksPart(MODEL, LabelBooks(1), 0)
    return [
        pack(PanePartial(topic, 0, 0, 9, 1, 0, [part])),
        pack(BooksPartial(topic, 0, 0, 9, 1, 0, True, True, True, [books])),
        pack(OutcomePartial("labels", 0, True, (9, 9), 1, 0, [part])),
        pack(LabelBooksPartial("labels", 0, (9, 9), 1, 0, 0, None, True, True, [label_books])),
    ]


def progress() -> list[bytes]:
    return [Progress(8, {MODEL: 1}).to_bytes()]


@cache
def baseline_bytes() -> bytes:
    return scenario.reference().baseline.to_bytes()


def reinflated(sound: Callable[[], bytes]) -> st.SearchStrategy[bytes]:
    """Damage below the compression, and bombs: a few bytes that become very many."""
    below = st.deferred(lambda: damaged(st.just(zlib.decompress(sound()[9:]))))
    bombs = st.sampled_from([seal(zlib.compress(b"\0" * (200 << 20), 9))])
    return st.one_of(
        below.map(lambda data: seal(zlib.compress(data, 1))), sealed(st.deferred(lambda: st.just(sound()))), bombs
    )


# --- Configuration

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
YAML_BOMBS = (
    LAUGHS + "models: *j\n",
    LAUGHS.replace("a: &a [x", "x: &a [x") + "models: {m: {features: *j}}\n",
    "models: " + "[" * 5_000,
    "models: " + "{a: " * 3_000,
    "models: &m {m: *m}\n",
    "<<: &x {<<: *x}\nmodels: {m: {}}\n",
    "models: {? [a, b] : c}\n",
    "models: !!python/object/apply:os.system ['true']\n",
    "models: {m: {pane: 99999999999999999999d}}\n",
    "models: {m: {pane: 1m, lateness: 1e400}}\n",
    "models: {m: {false_alarms_per_week: .nan}}\n",
)


def configurations() -> st.SearchStrategy[str]:
    text = st.deferred(lambda: damaged(st.just(scenario.text().encode())))
    return st.one_of(
        text.map(lambda data: data.decode("utf-8", "replace")), st.text(max_size=80), st.sampled_from(YAML_BOMBS)
    )


def batches_of_topics() -> dict[str, Target]:
    """For every topic what its reader gets of hostile batches."""
    reading, opening = Invalid, SketchError
    topics: dict[str, tuple[Callable[[], list[bytes]], Callable[[Columns], object]]] = {
        "inference": (events, lambda columns: decode_events(heads(columns)) if columns.offsets else None),
        "labels": (labels, each(decode_labels)),
        "feedback": (told(Facts.FEEDBACK), each(only(reading, lambda v: read_feedback(v, (), LIMIT)))),
        "runs": (told(Facts.RUNS), each(only(reading, lambda v: read_run(v, (), LIMIT)))),
        "outcomes": (told(Facts.OUTCOMES), each(only(reading, lambda v: read_outcome(v, (), LIMIT)))),
        "acks": (acks, each(only(reading, read_ack))),
        "actions": (actions, each(lambda v: (read_action(v), line_of(v or b"")))),
        "partials": (sound_partials, each(only(opening, lambda v: v and unpack(v)))),
        "progress": (progress, each(only(opening, lambda v: v and Progress.from_bytes(v)))),
        "state": (lambda: [unit_bytes()], each(only(opening, lambda v: v and unpack_unit(v)))),
    }

    def target(kind: Callable[[], list[bytes]], read: Callable[[Columns], object]) -> Target:
        drawn = st.deferred(lambda: responses(kind(), damaged(st.sampled_from(kind()))))
        return Target(drawn, check_response(read))

    return {f"batches of {name}": target(*topic) for name, topic in topics.items()}


def targets() -> dict[str, Target]:
    """By name."""
    row = st.tuples(records(events), headers)
    reading, opening = Invalid, SketchError
    return {
        "inference events": Target(st.lists(row, min_size=1, max_size=4), decode_events),
        "labels": Target(records(labels), decode_labels),
        "feedback": Target(records(told(Facts.FEEDBACK)), only(reading, lambda v: read_feedback(v, (), LIMIT))),
        "runs": Target(records(told(Facts.RUNS)), only(reading, lambda v: read_run(v, (), LIMIT))),
        "outcomes": Target(records(told(Facts.OUTCOMES)), only(reading, lambda v: read_outcome(v, (), LIMIT))),
        "acks": Target(records(acks), only(reading, read_ack)),
        "actions": Target(records(actions), read_either),
        "partials": Target(sealed(st.sampled_from(sound_partials())), only(opening, unpack)),
        "partials of a liar": Target(st.lists(partials(), min_size=1, max_size=6), judge_all),
        "progress": Target(sealed(st.just(Progress(8, {MODEL: 1}).to_bytes())), only(opening, Progress.from_bytes)),
        "roll-ups": Target(sealed(st.just(unit_bytes())), only(opening, unpack_unit)),
        "ledgers": Target(reinflated(ledger_bytes), only(opening, unpack_ledger)),
        "baselines": Target(reinflated(baseline_bytes), only(ConfigError, Baseline.from_bytes)),
        "configurations": Target(configurations(), only(ConfigError, load)),
        **batches_of_topics(),
    }
