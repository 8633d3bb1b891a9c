"""What metrics and pages get to know of a bucket: frozen records, one a model."""

from __future__ import annotations

import json
import random
from dataclasses import FrozenInstanceError

import pytest

from streams.action import Reason
from streams.config import OTHER
from streams.judge import BucketJudge
from streams.model_panes import ModelBooks
from streams.parking import Phase
from streams.records import Records
from streams.snapshot import IncidentCounts, ModelSnapshot, lost_records, snapshots
from streams.source import SourceFold
from tests.synthetic import EVERY_MS, MINUTE_MS, MODEL, START_MS, event, learned, plan

MINUTES = 6
EVENTS = MINUTES * MINUTE_MS // EVERY_MS
STRANGERS = 3


def buckets(events: int, strangers: int = 0) -> list[BucketJudge]:
    """All buckets, when so many events of the model, and some of a name that none has, have been evaluated."""
    compiled, drawn = plan(learned()), random.Random(7)
    rows = [event(number, drawn) for number in range(events)]
    rows += [{**event(number, drawn), "model": "stranger"} for number in range(strangers)]
    judges = [BucketJudge(compiled, n, "inference", 1) for n in range(compiled.config.kafka.buckets)]
    fold, now_ms = SourceFold(compiled, "inference", 0, None, 0), START_MS + EVENTS * EVERY_MS
    records = Records(range(len(rows)), [now_ms] * len(rows), [json.dumps(row).encode() for row in rows])
    for step in (*(fold.take(records, 0) if rows else ()), fold.publish(now_ms, caught_up=False)):
        for partial in step.partials:
            judges[partial.bucket].apply(partial)
    for judge in judges:
        list(judge.advance())
    return judges


def of_all(judges: list[BucketJudge]) -> dict[str, ModelSnapshot]:
    return {model.model: model for judge in judges for model in snapshots(judge)}


def test_a_model_without_records_has_zeros_and_knows_no_time() -> None:
    models = of_all(buckets(0))
    model = models[MODEL]
    assert models.keys() == {MODEL} and model.books is not None and not model.books.read
    assert model.progress is not None and model.windows is not None and model.decisions is not None
    times_ms = (model.progress.watermark_ms, model.progress.judged_until_ms, model.progress.labels_judged_until_ms)
    assert times_ms == (None, None, None) and model.windows.events == ()
    assert model.decisions.reasons == dict.fromkeys(Reason, 0)
    assert {*model.decisions.incidents.values()} == {IncidentCounts()}


def test_it_says_how_far_a_model_has_been_judged_and_what_its_last_window_holds() -> None:
    model = of_all(buckets(EVENTS))[MODEL]
    assert model.books is not None and model.books.read == model.books.counted == EVENTS
    assert model.progress is not None and model.progress.watermark_ms is not None
    judged_ms = model.progress.judged_until_ms
    assert judged_ms is not None and START_MS < judged_ms <= model.progress.watermark_ms
    assert model.windows is not None and model.decisions is not None
    (whole,) = [c for c in model.windows.events if c.version is None and c.segment == ("", "")]
    assert whole.events == MINUTE_MS // EVERY_MS and whole.errors is not None and whole.results
    assert all(cell.errors is None for cell in model.windows.events if cell.version is not None)
    assert sum(model.decisions.reasons.values()) > 0
    with pytest.raises(FrozenInstanceError):
        model.books = None  # type: ignore[misc]


def test_a_name_that_no_model_has_shows_its_records_and_nothing_else() -> None:
    stranger = of_all(buckets(10, STRANGERS))[OTHER]
    assert stranger.books is not None and stranger.books.read == STRANGERS
    assert (stranger.progress, stranger.windows, stranger.decisions) == (None, None, None)


def test_a_parked_model_shows_what_was_counted_and_no_window_that_is_out_of_date() -> None:
    judges = buckets(EVENTS)
    (judge,) = [judge for judge in judges if MODEL in judge.merge.models]
    judge.parking.park(MODEL, Phase.EVALUATE, ValueError("planted"))
    model = of_all(judges)[MODEL]
    assert model.progress is not None and model.progress.parked and model.windows is None
    assert model.books is not None and model.books.read == EVENTS and model.decisions is not None


def test_the_bucket_may_go_on_between_two_models() -> None:
    (judge,) = [judge for judge in buckets(10, STRANGERS) if MODEL in judge.merge.models]
    models = snapshots(judge)
    assert next(models).model == MODEL
    judge.merge.others["later"] = ModelBooks()
    assert "later" not in [model.model for model in models]


def test_lost_records_are_told_by_topic() -> None:
    judge = buckets(0)[0]
    judge.merge.lost = {0: 3, 1: 4}
    assert lost_records(judge) == {"inference": 7}
