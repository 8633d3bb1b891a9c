"""State of the two stages → Prometheus metrics, collected at scrape time from what is there: nothing else counts them.

A model, version or bucket that this worker no longer has gives no series. Series of single columns are capped; how many
were withheld is a metric of its own, and the rest is in the `windows` topic. The metrics stand in `agents.metrics`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain

import numpy as np
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from agents.acks import AckReader
from agents.merge import MergeStage
from agents.metrics import Families, WorkerMetric
from agents.resuming import REPORTED
from agents.sketch import SketchStage
from agents.topic_watch import Fault, TopicWatch
from streams.ack import Status
from streams.action import segment_object
from streams.backtest import label_summary
from streams.events import Reason as RejectReason
from streams.ledger import TOTAL
from streams.ledger_rows import LedgerRows, ProxyRow
from streams.ledger_tally import Verdict
from streams.partial import Books, LabelBooks
from streams.restore import Kind
from streams.signals.result import Result
from streams.snapshot import (
    CellSnapshot,
    DecisionsSnapshot,
    ModelSnapshot,
    ProgressSnapshot,
    WindowsSnapshot,
    lost_records,
    snapshots,
)

RECORD_FATES = ("read", "counted", "late", "rejected", "duplicate")
LABEL_FATES = ("read", "matched", "pending", "duplicate", "orphan", "rejected", "corrected")

SERIES_PER_PROXY = 17
"""At the most; the row of all proxies of a model is always shown."""

PAUSE = Metric("foreshock_pause", "Where whoever collects may let others have their turn; no family.", "unknown")


@dataclass(slots=True)
class _Room:
    """What the cap leaves of a scrape's series, and how many it held back."""

    left: int
    withheld: int = 0

    def takes(self, series: int) -> bool:
        fits = series <= self.left
        self.left -= series if fits else 0
        self.withheld += 0 if fits else series
        return fits


class Starting(Collector):
    """What there is to export of a worker that has no stages yet, for it waits for Kafka or a topic."""

    def __init__(self) -> None:
        self.started_s = time.time()

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        families = Families((WorkerMetric.WORKER, WorkerMetric.START))
        _add_worker(families, self.started_s)
        return iter(families)


class Exporter(Collector):
    """Reads the stages whenever Prometheus asks.

    Before the families it gives PAUSEs: between two of them lies the work on one model.
    """

    def __init__(
        self, sketch: SketchStage, merge: MergeStage, acks: AckReader, max_series: int, topics: TopicWatch | None = None
    ) -> None:
        self.sketch, self.merge, self.acks, self.max_series = sketch, merge, acks, max_series
        self.topics = topics
        self.started_s = time.time()

    def describe(self) -> Iterable[Metric]:
        return []  # what there is depends on the models at hand: it is not asked for at registration

    def collect(self) -> Iterator[Metric]:
        families, room = Families(WorkerMetric), _Room(self.max_series)
        _add_worker(families, self.started_s)
        self._add_sources(families)
        self._add_stages(families)
        self._add_rejects(families)
        self._add_rebuilds(families)
        self._add_topics(families)
        self._add_parked_in_sketch(families)
        models: list[ModelSnapshot] = []
        for judge in self.merge.judges.values():
            for model in snapshots(judge):
                models.append(model)
                yield PAUSE
        _add_books(families, models)
        for model in models:
            _add_model(families, model, room)
            yield PAUSE
        for decisions in (model.decisions for model in models if model.decisions is not None):
            if decisions.ledger is not None:
                _add_ledger(families, decisions.ledger, room)
                yield PAUSE
        families.add(WorkerMetric.SERIES_WITHHELD, (), room.withheld)
        yield from families

    def _add_sources(self, families: Families) -> None:
        flows = self.sketch.intake.snapshot() if self.sketch.intake else {}
        for tp, flow in sorted(flows.items()):
            source = (tp.topic, str(tp.partition))
            families.add(WorkerMetric.RECORDS, source, flow.records)
            families.add(WorkerMetric.BYTES, source, flow.bytes)
            if flow.lag is not None:
                families.add(WorkerMetric.LAG, source, flow.lag)

    def _add_stages(self, families: Families) -> None:
        for name, stage in (("sketch", self.sketch), ("merge", self.merge)):
            work, intake = stage.work, stage.intake
            for metric, number in (
                (WorkerMetric.BATCH_SECONDS, work.seconds),
                (WorkerMetric.BATCHES, work.batches),
                (WorkerMetric.PARTIALS, work.partials),
                (WorkerMetric.RETRIES, work.retries),
                (WorkerMetric.REBALANCES, intake.releases if intake else 0),
                (WorkerMetric.WAITING_FOR_CONFIGURATION, bool(intake and intake.waits)),
            ):
                families.add(metric, (name,), number)

    def _add_rejects(self, families: Families) -> None:
        rejects = {str(reason): self.sketch.work.rejects[reason] for reason in RejectReason}
        rejects["bad_partial"] = self.merge.work.rejects["bad_partial"]
        rejects["bad_progress"] = self.sketch.resuming.damaged
        rejects["bad_ack"] = self.acks.rejected
        families.add_all(WorkerMetric.REJECTS, (), rejects)

    def _add_rebuilds(self, families: Families) -> None:
        families.add(WorkerMetric.REBUILD_SECONDS, (), self.merge.rebuild_seconds)
        families.add(WorkerMetric.MERGE_REBUILD, (), self.merge.to_rebuild)
        flows = self.merge.intake.snapshot() if self.merge.intake else {}
        for tp, flow in sorted(flows.items()):
            if flow.lag is not None:
                families.add(WorkerMetric.MERGE_LAG, (str(tp.partition),), flow.lag)
        for kind in Kind:
            families.add(WorkerMetric.STATE_RESTARTED, (kind,), self.merge.restarted[kind])
        for partition, fold in self.sketch.folds.items():
            families.add(WorkerMetric.JOIN_REBUILD, (str(partition),), fold.to_rejoin)

    def _add_topics(self, families: Families) -> None:
        later = {"progress": len(self.sketch.resuming.newer)} | self.merge.later
        families.add_all(WorkerMetric.LATER_RELEASE, (), later)
        families.add_all(WorkerMetric.LOST, (), self._lost())
        for topic in self.sketch.resuming.names:
            for change in REPORTED:
                families.add(WorkerMetric.LOG_CHANGES, (topic, change), self.sketch.resuming.changes[topic, change])
        if self.topics is None:
            return
        for topic in self.topics.kept:
            families.add(WorkerMetric.LARGEST, (topic,), self.sketch.producer.largest.get(topic, 0))
        for topic in self.topics.topics:
            for fault in Fault:
                families.add(WorkerMetric.TOPIC_FAULT, (topic, fault), (topic, fault) in self.topics.faults)

    def _lost(self) -> dict[str, int]:
        """By topic, zeros included, records that were gone before they were counted."""
        plan = self.sketch.plan
        totals = dict.fromkeys([plan.config.kafka.inference, *map(plan.topic_of, plan.kinds)], 0)
        for judge in self.merge.judges.values():
            for topic, number in lost_records(judge).items():
                totals[topic] = totals.get(topic, 0) + number
        if self.sketch.lost_labels:
            totals[plan.config.kafka.labels] = sum(self.sketch.lost_labels.values())
        return totals

    def _add_parked_in_sketch(self, families: Families) -> None:
        parked = {item.model for item in self.sketch.parked}
        for name in self.sketch.plan.models if self.sketch.folds else ():
            families.add(WorkerMetric.MODEL_PARKED, (name, "sketch"), name in parked)


def _add_worker(families: Families, started_s: float) -> None:
    families.add(WorkerMetric.WORKER, (version("foreshock"),), 1)
    families.add(WorkerMetric.START, (), started_s)


def _add_books(families: Families, models: list[ModelSnapshot]) -> None:
    """Records by what became of them. A name that no model has may stand in more buckets than one: it is summed."""
    books: dict[str, Books] = {}
    labels: dict[str, LabelBooks] = {}
    side_inputs: dict[tuple[str, str], Books] = {}
    for model in models:
        name = model.model
        if model.books is not None:
            books[name] = books.get(name, Books()).merged(model.books)
        if model.labels is not None:
            labels[name] = labels.get(name, LabelBooks()).merged(model.labels)
        for kind, found in model.side_inputs.items():
            side_inputs[kind, name] = side_inputs.get((kind, name), Books()).merged(found)
    for name, total in sorted(books.items()):
        families.add_all(WorkerMetric.BOOKS, (name,), _fates(total))
        families.add(WorkerMetric.AHEAD, (name,), total.ahead)
    for name, of_labels in sorted(labels.items()):
        counts = label_summary(of_labels)
        families.add_all(WorkerMetric.LABEL_RECORDS, (name,), {fate: counts[fate] for fate in LABEL_FATES})
    for place, total in sorted(side_inputs.items()):
        families.add_all(WorkerMetric.SIDE_INPUT_RECORDS, place, _fates(total))


def _fates(books: Books) -> dict[str, int]:
    counts = (books.read, books.counted, books.late, sum(books.rejected.values()), books.duplicate)
    return dict(zip(RECORD_FATES, counts, strict=True))


def _add_model(families: Families, model: ModelSnapshot, room: _Room) -> None:
    if model.progress is not None:
        _add_progress(families, model.model, model.progress)
    if model.windows is not None:
        _add_windows(families, model.model, model.windows, room)
    if model.decisions is not None:
        _add_decisions(families, model.model, model.decisions)


def _add_progress(families: Families, name: str, progress: ProgressSnapshot) -> None:
    families.add(WorkerMetric.FOREIGN_PARTIALS, (name,), progress.foreign_partials)
    families.add(WorkerMetric.MODEL_PARKED, (name, "merge"), progress.parked)
    families.add(WorkerMetric.REPLAY_AWAITED, (name,), len(progress.awaited_topics))
    for metric, time_ms in (
        (WorkerMetric.WATERMARK, progress.watermark_ms),
        (WorkerMetric.JUDGED_UNTIL, progress.judged_until_ms),
        (WorkerMetric.LABELS_JUDGED_UNTIL, progress.labels_judged_until_ms),
    ):
        if time_ms is not None:
            families.add(metric, (name,), time_ms / 1000)


def _add_windows(families: Families, name: str, windows: WindowsSnapshot, room: _Room) -> None:
    for cell in windows.events:
        if cell.version is None:
            place = _place(name, cell)
            families.add(WorkerMetric.WINDOW_EVENTS, place, cell.events)
            families.add(WorkerMetric.WINDOW_ERRORS, place, cell.errors or 0)
    for cell in windows.labels:
        if cell.version is None:
            families.add(WorkerMetric.WINDOW_LABELS, _place(name, cell), cell.events)
    for (calibrated, term), value in windows.calibration.items():
        families.add(WorkerMetric.CALIBRATION, (name, calibrated, term), value)
    for cell in chain(windows.events, windows.labels, windows.kpis):
        place = _place(name, cell)
        for result in cell.results:
            if room.takes(3 * len(result.columns)):
                _add_signal(families, place, result)


def _add_signal(families: Families, place: tuple[str, str, str], result: Result) -> None:
    signal = (*place, result.signal.family, result.signal.name)
    breached = result.breached
    for i, column in enumerate(result.columns):
        labels = (*signal, column or "")
        if np.isfinite(result.value[i]):
            families.add(WorkerMetric.SIGNAL_VALUE, labels, result.value[i])
        if np.isfinite(result.threshold[i]):
            families.add(WorkerMetric.SIGNAL_THRESHOLD, labels, result.threshold[i])
            families.add(WorkerMetric.SIGNAL_BREACHED, labels, float(breached[i]))


def _place(name: str, cell: CellSnapshot) -> tuple[str, str, str]:
    """Model, version and segment, as labels."""
    segment = segment_object(cell.segment) or {}
    return name, cell.version or "", "".join(f"{dimension}={value}" for dimension, value in segment.items())


def _add_decisions(families: Families, name: str, decisions: DecisionsSnapshot) -> None:
    for rule in decisions.firing:
        families.add(WorkerMetric.ACTION_FIRING, (name, *rule), 1)
    for response, counts in decisions.incidents.items():
        states = {"firing": counts.firing, "resolved": counts.resolved, "suppressed": counts.suppressed}
        families.add_all(WorkerMetric.ACTIONS, (name, response), states)
    families.add(WorkerMetric.SHADOW_INCIDENTS, (name,), decisions.shadow_incidents)
    for reason, number in decisions.reasons.items():
        families.add(WorkerMetric.DECISIONS, (name, reason), number)


def _add_ledger(families: Families, rows: LedgerRows, room: _Room) -> None:
    for row in rows.proxies:
        if row.proxy == TOTAL or room.takes(SERIES_PER_PROXY):
            _add_proxy(families, row)
    for rule in rows.rules:
        statuses = {str(status): getattr(rule, status) for status in ("published", *Status)}
        families.add_all(WorkerMetric.RULE_ACTIONS, (rule.model, rule.rule), statuses)
    for realised in rows.realised:
        rates = {"budget": realised.budget, "realised": realised.per_week}
        families.add_all(WorkerMetric.FALSE_ALARMS, (realised.model,), rates)


def _add_proxy(families: Families, row: ProxyRow) -> None:
    proxy, bounds = (row.model, row.proxy), ("value", "low", "high")
    verdicts = {str(verdict): getattr(row, verdict) for verdict in Verdict}
    families.add_all(WorkerMetric.LEDGER_ALARMS, proxy, verdicts)
    results = {"caught": row.caught, "late": row.late, "missed": row.missed}
    families.add_all(WorkerMetric.LEDGER_EPISODES, proxy, results)
    for metric, names, numbers in (
        (WorkerMetric.LEDGER_PRECISION, bounds, row.precision),
        (WorkerMetric.LEDGER_RECALL, bounds, row.recall),
        (WorkerMetric.LEDGER_LEAD, ("0.5", "0.25", "0.75"), row.lead_s),
    ):
        families.add_all(metric, proxy, dict(zip(names, numbers or (), strict=False)))
