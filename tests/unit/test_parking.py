"""One model's exception, at each place where it can come: it is parked, and the others are as if nothing had been."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest

from streams.backtest import Backtest
from streams.batch import Columnizer, Gathered
from streams.codecs import columnizer_of
from streams.configure import load
from streams.errors import ForeshockError, NewerError, StoreError
from streams.events import Reason
from streams.facts.history import History
from streams.join.fold import JoinFold
from streams.join.match import Matcher
from streams.judge import BucketJudge
from streams.judge_facts import FactsJudge
from streams.judge_kpi import KpiClock
from streams.judge_model import ModelJudge, Outcome
from streams.judge_outcomes import LabelledJudge
from streams.ledger import Ledger
from streams.model_panes import PaneState
from streams.parking import MAX_MESSAGE, Parking, Phase, check_none, parked
from streams.partial import Books, BooksPartial, key_of, pack, unpack
from streams.plan import Facts, ModelPlan, Plan, compile_plan
from streams.records import Records
from streams.rollup import Rollup, Unit
from streams.sketch.outcomes import OutcomeLayout
from streams.source import SourceFold
from streams.state import ModelState

MINUTE_MS, START_MS = 60_000, 1_767_225_600_000
BAD, GOOD = "bad", "good"
MODEL = """
    pane: 1m
    grace: 10s
    idle: 1s
    features: {age: {type: numeric}, plan: {type: categorical}}
    segments: {region: [north, south]}
    labels: {task: binary, classes: ["0", "1"], horizon: 10m}
    feedback: {override: {usual: 0.02}}
    kpis: {loss: {aggregate: sum, better: lower, target: 100}}
    rules:
      - {name: nulls, signals: [null_rate], response: data_incident, over: [1m, 5m]}
      - {name: wrong, signals: [accuracy, label_rate], response: retrain, over: 5m}
      - {name: overridden, signals: [override_rate], response: human_review, over: 5m}
      - {name: losing, signals: [kpi], features: [loss], response: human_review, over: 5m, min_n: 1}
"""
MINUTES = 12


@cache
def plan() -> Plan:
    text = "kafka: {buckets: 1, chunk_size: 256}\nmodels:\n" + "".join(f"  {name}:{MODEL}" for name in (BAD, GOOD))
    return compile_plan(load(text), {})


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panes close between them."""
    monkeypatch.setattr("streams.backtest.BATCH", 120)


Row = dict[str, Any]


@cache
def stream() -> dict[str, list[bytes]]:
    """Events of both models in turn, and what else is reported of them."""
    drawn = random.Random(7)
    found: dict[str, list[Row]] = {name: [] for name in ("events", "labels", *Facts)}
    for number in range(MINUTES * 60):
        model, ts = (BAD, GOOD)[number % 2], START_MS + number * 1_000
        made = {"event_id": f"e{number}", "ts": ts, "model": model}
        found["events"].append(
            {
                **made,
                "model_version": "1",
                "features": {"age": drawn.gauss(40, 9) if number % 7 else None, "plan": drawn.choice("abc")},
                "segments": {"region": drawn.choice(("north", "south"))},
                "score": drawn.random(),
                "prediction": number % 2,
            }
        )
        found["labels"].append({"event_id": f"e{number}", "label": drawn.randrange(2), "label_ts": ts + 90_000})
        if number % 5 == 0:
            found[Facts.FEEDBACK].append({**made, "kind": "override"})
        if number % 9 == 0:
            found[Facts.OUTCOMES].append({"model": model, "ts": ts, "kpi": "loss", "value": 50 + drawn.random()})
    return {name: [json.dumps(row).encode() for row in rows] for name, rows in found.items()}


def run() -> tuple[Backtest, list[Outcome]]:
    """A backtest of all."""
    told = {kind: stream()[kind] for kind in (Facts.FEEDBACK, Facts.OUTCOMES)}
    test = Backtest(plan(), START_MS + MINUTES * MINUTE_MS, labelled=True, told=told)
    return test, list(test.run(stream()["events"], stream()["labels"], told))


@cache
def undisturbed() -> list[Outcome]:
    return run()[1]


def published(outcomes: Sequence[Outcome], model: str) -> list[Any]:
    return [(out.windows, out.actions, out.state) for out in outcomes if out.model == model and out.parked is None]


def fail_after(calls: int, of_bad: Callable[..., bool], original: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises for the model from a call on."""
    seen: list[None] = []

    def failing(*arguments: Any, **named: Any) -> Any:
        if of_bad(*arguments):
            seen.append(None)
            if len(seen) > calls:
                raise ValueError("of\x1b[31m no\nuse " + "x" * 1_000)
        return original(*arguments, **named)

    return failing


def of_plan(thing: Any, *_: object) -> bool:
    return bool(thing.plan.name == BAD)


def named(_: object, model: Any, *__: object) -> bool:
    return bool(getattr(model, "name", model) == BAD)


PLACES: dict[str, tuple[type, str, Callable[..., bool], Phase]] = {
    "events": (ModelJudge, "close", of_plan, Phase.EVALUATE),
    "window": (FactsJudge, "with_results", of_plan, Phase.EVALUATE),
    "labels": (LabelledJudge, "close", of_plan, Phase.LABELS),
    "cohorts": (LabelledJudge, "revise_cohort", of_plan, Phase.LABELS),
    "kpis": (KpiClock, "close", of_plan, Phase.KPIS),
    "ledger": (Ledger, "take_window", lambda ledger, _: ledger.terms.model == BAD, Phase.EVALUATE),
    "fold": (PaneState, "fold", lambda pane, _: pane.segmentation is plan().models[BAD].segmentation, Phase.FOLD),
    "columns": (Columnizer, "columns", lambda made, _: made is columnizer_of(plan().models[BAD]), Phase.COUNT),
    "gather": (Columnizer, "gather", lambda made, *_: made is columnizer_of(plan().models[BAD]), Phase.COUNT),
    "join": (JoinFold, "take_predictions", named, Phase.COUNT),
    "label": (Matcher, "join", lambda matcher, terms, given, *_: given.model == BAD, Phase.JOIN),
    "outcomes": (OutcomeLayout, "contributions", lambda made, *_: made is plan().models[BAD].outcomes, Phase.JOIN),
}


@pytest.mark.parametrize("calls", [0, 2])
@pytest.mark.parametrize("place", PLACES)
def test_the_others_are_evaluated_as_if_nothing_had_been(
    place: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = undisturbed()
    owner, name, of_bad, phase = PLACES[place]
    monkeypatch.setattr(owner, name, fail_after(calls, of_bad, getattr(owner, name)))
    test, outcomes = run()
    assert published(outcomes, GOOD) == published(sound, GOOD)
    assert any(out.actions for out in sound if out.model == GOOD), "or the test would show nothing of actions"
    report = test.parked[BAD]
    assert test.parked.keys() == {BAD} and report.phase is phase
    assert re.fullmatch(r"streams/[\w/]+\.py:\d+", report.place)
    assert report.error.startswith("ValueError: of?[31m no use x") and len(report.error) <= MAX_MESSAGE + 12
    assert [out.parked for out in outcomes if out.parked] == (
        [report] if phase not in (Phase.COUNT, Phase.JOIN) else []
    )
    summary = test.summary().models
    for books in summary.values():
        assert books.read == books.counted + books.late + books.rejected + books.duplicate
        assert books.labels["read"] == sum(
            books.labels[name] for name in books.labels if name not in ("read", "corrected")
        )
    assert (summary[BAD].read, summary[BAD].parked) == (summary[GOOD].read, str(report))
    with pytest.raises(ForeshockError, match=r"model bad: .*exception"):
        check_none(test.parked.values())


# Stage 1


def taken_apart(fold: SourceFold, sizes: Sequence[int]) -> Books:
    """The books of the model when its events are read in batches of these sizes, and published after each."""
    values, at = stream()["events"], 0
    found: list[BooksPartial] = []
    while at < len(values):
        size = sizes[len(found) % len(sizes)]
        records = Records(range(at, at + size), [START_MS + MINUTES * MINUTE_MS] * size, values[at : at + size])
        at += len(records.values)
        records = Records(range(records.offsets[0], at), records.stamps_ms[: len(records.values)], records.values)
        steps = [*fold.take(records, START_MS), fold.publish(START_MS, caught_up=False)]
        found += [partial for step in steps for partial in step.partials if isinstance(partial, BooksPartial)]
    last = {item.chunk: part.books for item in found for part in item.models if part.model == BAD}
    total = Books()
    for books in last.values():
        total = total.merged(books)
    return total


@pytest.mark.parametrize("place", ["columns", "gather"])
@pytest.mark.parametrize("sizes", [(720,), (1,), (7, 130, 64)])
def test_the_count_ends_before_the_record_that_raises_however_the_log_is_read(
    place: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    columnizer, poison_ms = columnizer_of(plan().models[BAD]), START_MS + 400_000

    def columns(self: Columnizer, gathered: Gathered, whole: Any = Columnizer.columns) -> Any:
        if self is columnizer and any(poison_ms in part for part in gathered.ts_ms):
            raise ValueError("poison")
        return whole(self, gathered)

    def gather(self: Columnizer, parts: Any, into: Gathered, whole: Any = Columnizer.gather) -> None:
        whole(self, parts, into)
        if self is columnizer and poison_ms in parts.rows.times_ms:
            raise ValueError("poison")

    monkeypatch.setattr(Columnizer, place, {"columns": columns, "gather": gather}[place])
    fold = SourceFold(plan(), "inference", 0, None, START_MS)
    books = taken_apart(fold, sizes)
    assert (books.read, books.counted, books.rejected) == (360, 200, {Reason.PARKED: 160})
    assert fold.parking.models[BAD].phase is Phase.COUNT


# State, and a restart


def judge() -> BucketJudge:
    return BucketJudge(plan(), 0, "inference", 1, {Facts.OUTCOMES: 1})


def log() -> list[tuple[bytes, bytes]]:
    """What stage 1 publishes of the events."""
    fold, found = SourceFold(plan(), "inference", 0, None, START_MS), list[tuple[bytes, bytes]]()
    values = stream()["events"]
    for at in range(0, len(values), 60):
        part = values[at : at + 60]
        records = Records(range(at, at + len(part)), [START_MS + MINUTES * MINUTE_MS] * len(part), part)
        for step in (*fold.take(records, START_MS), fold.publish(START_MS, caught_up=False)):
            found += [(key_of(item, "a"), pack(item)) for item in step.partials]
    return found


def folded(
    judge: BucketJudge, log: Sequence[tuple[bytes, bytes]], *, expire: bool = False
) -> Iterator[Outcome | bytes]:
    """Outcomes, and keys that are to be deleted."""
    for key, value in log:
        judge.apply(unpack(value), key)
        yield from judge.advance()
        if expire:
            yield from judge.expire()


def test_a_restart_evaluates_a_parked_model_from_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = log()
    sound = [out for out in folded(judge(), written) if isinstance(out, Outcome)]
    with monkeypatch.context() as context:
        context.setattr(ModelJudge, "close", fail_after(3, of_plan, ModelJudge.close))
        first = list(folded(judge(), written, expire=True))
    before = [out for out in first if isinstance(out, Outcome)]
    deleted = {key for key in first if isinstance(key, bytes)}
    assert any(out.parked for out in before)
    states = {out.model: out.state for out in before if out.state is not None}
    again = judge()
    for state in states.values():
        again.restore(state)
    for key, value in written:
        if key not in deleted:
            again.apply(unpack(value), key, fresh=False)
    assert list(again.resume()) is not None
    after = list(again.advance())
    assert not again.parking.models
    both = [out for out in [*before, *after] if out.model == BAD and out.state is not None]
    assert [out.state for out in both] == [out.state for out in sound if out.model == BAD and out.state is not None]
    assert {w.start for out in both for w in out.windows} == {
        w.start for out in sound if out.model == BAD for w in out.windows
    }


def test_partials_of_a_parked_model_are_neither_deleted_nor_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelJudge, "close", fail_after(0, of_plan, ModelJudge.close))
    parked_judge = judge()
    keys = [key for key in folded(parked_judge, log(), expire=True) if isinstance(key, bytes) and b"/books/" not in key]
    assert keys == [] and parked_judge.merge.models[BAD].panes == {}
    assert len(parked_judge.merge.keys) == MINUTES
    monkeypatch.setattr("streams.chunk_merge.HELD_MS", 5 * MINUTE_MS)
    parked_judge.merge.models[GOOD].expired_before_ms = START_MS + MINUTES * MINUTE_MS
    parked_judge.merge.models[GOOD].panes.clear()
    assert parked_judge.merge.forgotten(), "but not for ever"
    assert sorted(parked_judge.merge.keys)[0] == START_MS + (MINUTES - 1 - 5) * MINUTE_MS


@pytest.mark.parametrize(
    ("owner", "name"), [(ModelJudge, "__init__"), (Rollup, "restore"), (History, "restore"), (ModelJudge, "drop_units")]
)
def test_a_state_that_raises_parks_its_model(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(owner, name)

    def failing(self: Any, *arguments: Any, **more: Any) -> Any:
        plans = [thing for thing in (self, *arguments) if isinstance(thing, ModelPlan)]
        first = plans[0].name if plans else getattr(getattr(self, "plan", None), "name", BAD)
        state = any(isinstance(thing, ModelState) for thing in arguments) or owner is not ModelJudge
        if first == BAD and (state or name != "__init__"):
            raise KeyError("rule")
        return original(self, *arguments, **more)

    found = judge()
    monkeypatch.setattr(owner, name, failing)
    for model in (BAD, GOOD):
        found.restore(ModelState(model=model, judged_until_ms=START_MS, first_pane_ms=0, last_event_pane_ms=0))
    stream_name = "" if owner is Rollup else "feedback"
    found.restore_unit(BAD, Unit(3_600_000, START_MS - 3_600_000, {}, stream_name))
    assert list(found.resume()) == []
    (outcome,) = found.advance()
    assert outcome.parked is not None and outcome.model == BAD
    assert (outcome.parked.phase, outcome.parked.error) == (Phase.RESTORE, "KeyError: 'rule'")
    assert list(found.advance()) == [], "it is reported once"


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "full"), NewerError(seen=""), StoreError(seen="")])
def test_what_is_not_of_one_model_parks_none(error: Exception) -> None:
    parking = Parking()
    with pytest.raises(type(error)), parking.guard(BAD, Phase.FOLD):
        raise error
    with pytest.raises(type(error)):
        list(parking.guarded(BAD, Phase.FOLD, (_raised(error) for _ in range(1))))
    with pytest.raises(KeyboardInterrupt), parking.guard(BAD, Phase.FOLD):
        raise KeyboardInterrupt
    assert not parking.models


def _raised(error: Exception) -> None:
    raise error


def test_a_report_has_no_place_if_there_is_none() -> None:
    assert str(parked(BAD, Phase.PACK, ValueError())) == "pack: unknown: ValueError: "
