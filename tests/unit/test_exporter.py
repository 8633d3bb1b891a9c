"""What Prometheus is told of the ledgers, from the start and under the cap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.exporter import Exporter
from agents.work import Work
from streams.judge import BucketJudge
from streams.records import Records
from streams.source import SourceFold
from tests.synthetic import MODEL, learned, plan

PROXIES = {"out_of_range_rate", "unseen_rate", "feature_drift", "score_drift"}


def scraped(
    max_series: int, judges: Mapping[int, BucketJudge] | None = None
) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and values by name; without `judges`, of a worker that owns the model and has read nothing."""
    compiled = plan(learned())
    bucket = compiled.config.bucket(MODEL)
    judges = judges or {bucket: BucketJudge(compiled, bucket, "inference", 1)}
    resuming = SimpleNamespace(names={"inference": ""}, changes=Counter(), damaged=0, newer={})
    sketch = SimpleNamespace(
        intake=None,
        folds={},
        work=Work(),
        parked=[],
        plan=compiled,
        resuming=resuming,
        lost_labels={},
        producer=SimpleNamespace(largest={}),
    )
    merge = SimpleNamespace(
        intake=None, judges=judges, work=Work(), rebuild_seconds=0.0, to_rebuild=0, later={}, restarted=Counter()
    )
    exporter = Exporter(cast(Any, sketch), cast(Any, merge), cast(Any, SimpleNamespace(rejected=0)), max_series)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in exporter.collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_every_proxy_and_rule_has_its_zeros_from_the_start() -> None:
    found = scraped(20_000)
    alarms = found["foreshock_ledger_alarms"]
    assert {labels["proxy"] for labels, _ in alarms} >= PROXIES | {"total"}
    assert {labels["verdict"] for labels, _ in alarms} == {"confirmed", "refuted", "open", "unknown", "censored"}
    assert {labels["outcome"] for labels, _ in found["foreshock_ledger_episodes"]} == {"caught", "late", "missed"}
    statuses = {labels["status"] for labels, _ in found["foreshock_rule_actions"]}
    assert statuses == {"published", "seen", "acted", "dismissed", "done"}
    assert not any(value for name in ("alarms", "episodes") for _, value in found[f"foreshock_ledger_{name}"])
    rates = {labels["kind"]: value for labels, value in found["foreshock_false_alarms_per_week"]}
    assert rates == {"budget": 1.0, "realised": 0.0}
    assert "foreshock_ledger_precision_ratio" not in found, "of nothing there is no share"
    assert found["foreshock_series_withheld"] == [({}, 0)]


@pytest.mark.parametrize(("room", "shown"), [(0, 1), (40, 3)])
def test_the_cap_holds_proxies_back_and_says_so_and_never_the_total(room: int, shown: int) -> None:
    every = {labels["proxy"] for labels, _ in scraped(20_000)["foreshock_ledger_alarms"]}
    found = scraped(room)
    some = {labels["proxy"] for labels, _ in found["foreshock_ledger_alarms"]}
    assert "total" in some and len(some) == shown
    assert found["foreshock_series_withheld"] == [({}, 17 * (len(every) - shown))]


def test_lost_records_and_logs_that_changed_have_their_zeros_from_the_start() -> None:
    found = scraped(20_000)
    assert found["foreshock_lost_records_total"] == [({"topic": "inference"}, 0)]
    changes = {labels["change"]: value for labels, value in found["foreshock_log_changes_total"]}
    assert changes == {"made anew": 0, "truncated": 0, "cut": 0, "beyond": 0}


def test_a_bucket_without_a_model_shows_no_model_of_no_name() -> None:
    """After a start every bucket is sent something; records without a model show once there are some."""
    compiled = plan(learned())
    fold = SourceFold(compiled, "inference", 0, None, 0)
    judges = {n: BucketJudge(compiled, n, "inference", 1) for n in range(compiled.config.kafka.buckets)}
    names: list[set[str]] = []
    for values in ((), (b"{",)):
        if values:
            fold.take(Records(range(1), [0], list(values)), 0)
        for item in fold.publish(0, caught_up=True).partials:
            judges[item.bucket].apply(item)
        names.append({labels["model"] for labels, _ in scraped(100, judges)["foreshock_books_records_total"]})
    assert any("" in judge.merge.others for judge in judges.values())
    assert names == [{MODEL}, {MODEL, ""}]
