"""State of the two stages → Prometheus metrics, collected at scrape time from what is there: nothing else counts them.

A model, version or bucket that this worker no longer has gives no series. Series of single columns are capped; how many
were withheld is a metric of its own, and the rest is in the `windows` topic.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from agents.acks import AckReader
from agents.merge import MergeStage
from agents.resuming import REPORTED
from agents.sketch import SketchStage, Work
from agents.topic_watch import Fault, TopicWatch
from streams.ack import Status
from streams.action import segment_object
from streams.backtest import label_summary
from streams.calibrate import standard_errors
from streams.chunk_merge import FINAL_MARK, ModelBooks
from streams.decide import Reason
from streams.events import Reason as RejectReason
from streams.judge import ModelJudge
from streams.ledger import TOTAL, Verdict, rows_of
from streams.partial import Books, LabelBooks
from streams.plan import model_of
from streams.restore import Kind
from streams.signals.evaluate import CellResult
from streams.sketch.layout import ERROR_SLOT

OUTCOMES = ("read", "counted", "late", "rejected", "duplicate")
LABEL_OUTCOMES = ("read", "matched", "pending", "duplicate", "orphan", "rejected", "corrected")
CELL = ["model", "version", "segment"]
SIGNAL = [*CELL, "family", "signal", "feature"]


SERIES_OF_A_PROXY = 17
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
        yield InfoMetricFamily("foreshock_worker", "The release of this worker.", {"version": version("foreshock")})
        yield GaugeMetricFamily("foreshock_start_timestamp_seconds", "When this worker was started.", self.started_s)


class Exporter(Collector):
    """Reads the stages whenever Prometheus asks. Among the families there are PAUSEs, one for each model at most."""

    def __init__(
        self, sketch: SketchStage, merge: MergeStage, acks: AckReader, max_series: int, topics: TopicWatch | None = None
    ) -> None:
        self.sketch, self.merge, self.acks, self.max_series = sketch, merge, acks, max_series
        self.topics = topics
        self.started_s = time.time()

    def describe(self) -> Iterable[Metric]:
        return []  # what there is depends on the models at hand: it is not asked for at registration

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("foreshock_worker", "The release of this worker.", {"version": version("foreshock")})
        yield GaugeMetricFamily("foreshock_start_timestamp_seconds", "When this worker was started.", self.started_s)
        yield from self._sources()
        yield from self._stages()
        yield from self._rebuilds()
        yield from self._books()
        yield self._parked()
        yield self._later()
        yield self._awaited()
        yield from self._logs()
        yield from self._marks()
        room = _Room(self.max_series)
        yield from self._signals(room)
        yield from self._decisions()
        yield from self._ledgers(room)
        yield GaugeMetricFamily(
            "foreshock_series_withheld", "Series of columns and proxies that the cap holds back.", room.withheld
        )

    def _sources(self) -> Iterator[Metric]:
        labels = ["topic", "partition"]
        records = CounterMetricFamily("foreshock_records", "Records fetched of the source.", labels=labels)
        size = CounterMetricFamily("foreshock_bytes", "Bytes of their values.", labels=labels)
        lag = GaugeMetricFamily("foreshock_lag_records", "Records still to be fetched.", labels=labels)
        flows = self.sketch.intake.snapshot() if self.sketch.intake else {}
        for tp, flow in sorted(flows.items()):
            place = [tp.topic, str(tp.partition)]
            records.add_metric(place, flow.records)
            size.add_metric(place, flow.bytes)
            if flow.lag is not None:
                lag.add_metric(place, flow.lag)
        yield from (records, size, lag)

    def _stages(self) -> Iterator[Metric]:
        seconds = CounterMetricFamily("foreshock_batch_seconds_sum", "Time spent on batches.", labels=["stage"])
        count = CounterMetricFamily("foreshock_batch_seconds_count", "Batches done.", labels=["stage"])
        partials = CounterMetricFamily("foreshock_partials", "Partials sent and folded.", labels=["stage"])
        works: dict[str, Work] = {"sketch": self.sketch.work, "merge": self.merge.work}
        for stage, work in works.items():
            seconds.add_metric([stage], work.seconds)
            count.add_metric([stage], work.batches)
            partials.add_metric([stage], work.partials)
        retries = CounterMetricFamily(
            "foreshock_publish_retries", "Publications that Kafka did not take at once.", labels=["stage"]
        )
        rebalances = CounterMetricFamily(
            "foreshock_rebalances", "Times that partitions were given back.", labels=["stage"]
        )
        waiting = GaugeMetricFamily(
            "foreshock_waiting_for_configuration",
            "1 while its group gives this worker nothing, as another configuration is active there; else 0.",
            labels=["stage"],
        )
        for stage, intake in (("sketch", self.sketch.intake), ("merge", self.merge.intake)):
            waiting.add_metric([stage], bool(intake and intake.waits))
        for stage, work in works.items():
            retries.add_metric([stage], work.retries)
        for stage, intake in (("sketch", self.sketch.intake), ("merge", self.merge.intake)):
            rebalances.add_metric([stage], intake.releases if intake else 0)
        rejects = CounterMetricFamily("foreshock_rejects", "Records sent to the dead letters.", labels=["reason"])
        for reason in RejectReason:
            rejects.add_metric([reason], self.sketch.work.rejects[reason])
        rejects.add_metric(["bad_partial"], self.merge.work.rejects["bad_partial"])
        rejects.add_metric(["bad_progress"], self.sketch.resuming.damaged)
        rejects.add_metric(["bad_ack"], self.acks.rejected)
        largest = GaugeMetricFamily(
            "foreshock_largest_record_bytes",
            "Bytes of the largest record that this worker has sent, or has to send, to a topic of its own.",
            labels=["topic"],
        )
        producer = self.sketch.producer
        for topic in self.topics.kept if self.topics is not None else ():
            largest.add_metric([topic], producer.largest.get(topic, 0))
        yield largest
        yield from (*map(_plain_counter, (seconds, count)), partials, retries, rebalances, rejects, waiting)

    def _rebuilds(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "foreshock_rebuild_seconds", "Time of the last rebuild of stage 2.", self.merge.rebuild_seconds
        )
        yield GaugeMetricFamily(
            "foreshock_merge_rebuild_records",
            "Records to read until the state of stage 2 is rebuilt: of `state`, then of `partials`.",
            self.merge.to_rebuild,
        )
        waiting = GaugeMetricFamily(
            "foreshock_merge_lag_records", "Partials still to be folded and judged.", labels=["bucket"]
        )
        flows = self.merge.intake.snapshot() if self.merge.intake else {}
        for tp, flow in sorted(flows.items()):
            if flow.lag is not None:
                waiting.add_metric([str(tp.partition)], flow.lag)
        restarted = CounterMetricFamily(
            "foreshock_state_restarted",
            "What of the kept state did not fit the configuration, or was not sound, and began anew.",
            labels=["kind"],
        )
        for kind in Kind:
            restarted.add_metric([kind], self.merge.restarted[kind])
        yield restarted
        rejoin = GaugeMetricFamily(
            "foreshock_join_rebuild_records",
            "Records to read again until the label join is rebuilt.",
            labels=["partition"],
        )
        for partition, fold in self.sketch.folds.items():
            rejoin.add_metric([str(partition)], fold.to_rejoin)
        yield from (waiting, rejoin)

    def _books(self) -> Iterator[Metric]:
        books = CounterMetricFamily(
            "foreshock_books_records",
            "Records of a model by what became of them: read = counted + late + rejected + duplicate.",
            labels=["model", "outcome"],
        )
        foreign = CounterMetricFamily(
            "foreshock_foreign_partials", "Partials made under another configuration.", labels=["model"]
        )
        ahead = CounterMetricFamily(
            "foreshock_ahead_records",
            "Records of a model that were ahead of its stream time, and moved nothing: some clock is fast.",
            labels=["model"],
        )
        totals: dict[str, Books] = {}
        for judge in self.merge.judges.values():
            for name, other in [*judge.merge.others.items()]:
                if other.books.read:  # buckets without a model of ours have an entry for no model
                    totals[name] = totals.get(name, Books()).merged(other.books)
            for name, model in judge.merge.models.items():
                totals[name] = model.books
                foreign.add_metric([name], model.foreign)
                yield PAUSE
        for name, total in sorted(totals.items()):
            for outcome, number in zip(OUTCOMES, _counts(total), strict=True):
                books.add_metric([name, outcome], number)
            ahead.add_metric([name], total.ahead)
        yield from (books, ahead, foreign)
        yield from self._label_books()
        yield from self._told_books()

    def _parked(self) -> Metric:
        parked = GaugeMetricFamily(
            "foreshock_model_parked",
            "1 where an exception ended the evaluation of a model until a restart: in the counting of its records "
            "(sketch), or in their judgement (merge). Else 0.",
            labels=["model", "stage"],
        )
        counted = {item.model for item in self.sketch.parked}
        for name in self.sketch.plan.models if self.sketch.folds else ():
            parked.add_metric([name, "sketch"], name in counted)
        for judge in self.merge.judges.values():
            for name in judge.merge.models:
                parked.add_metric([name, "merge"], name in judge.parking)
        return parked

    def _later(self) -> Metric:
        later = GaugeMetricFamily(
            "foreshock_later_release_records",
            "Records of a later release that this worker cannot read: what they are of stands still. Of `progress` "
            "partitions of its own, of the others records that it met since its start.",
            labels=["topic"],
        )
        for topic, number in ({"progress": len(self.sketch.resuming.newer)} | self.merge.later).items():
            later.add_metric([topic], number)
        return later

    def _awaited(self) -> Metric:
        awaited = GaugeMetricFamily(
            "foreshock_replay_awaited_topics",
            "Topics of a model whose silence is not judged, for a past is replayed and they may be still to come.",
            labels=["model"],
        )
        topics = self.merge.awaited
        for judge in self.merge.judges.values():
            for name in judge.merge.models:
                awaited.add_metric([name], len(topics.get(name, ())))
        return awaited

    def _logs(self) -> Iterator[Metric]:
        lost = CounterMetricFamily(
            "foreshock_lost_records",
            "Records that were gone (retention, DeleteRecords) before they were counted. They are not among the read.",
            labels=["topic"],
        )
        changes = CounterMetricFamily(
            "foreshock_log_changes",
            "Times that a log was not what it was when it was read last.",
            labels=["topic", "change"],
        )
        events, kinds = self.sketch.plan.config.kafka.inference, self.sketch.plan.kinds
        totals = dict.fromkeys([events, *map(self.sketch.plan.topic_of, kinds)], 0)
        for judge in self.merge.judges.values():
            told = {merge.topic: merge.lost for merge in judge.facts.topics.values()} | {events: judge.merge.lost}
            for topic, by_partition in told.items():
                totals[topic] = totals.get(topic, 0) + sum(by_partition.values())
        if self.sketch.lost_labels:
            totals[self.sketch.plan.config.kafka.labels] = sum(self.sketch.lost_labels.values())
        for topic, number in totals.items():
            lost.add_metric([topic], number)
        for topic in self.sketch.resuming.names:
            for change in REPORTED:
                changes.add_metric([topic, change], self.sketch.resuming.changes[topic, change])
        yield from (lost, changes)
        if self.topics is not None:
            faults = GaugeMetricFamily(
                "foreshock_topic_fault",
                "1 while a topic is not as it must be, whatever it was at the start; else 0.",
                labels=["topic", "fault"],
            )
            for topic in self.topics.topics:
                for fault in Fault:
                    faults.add_metric([topic, fault], (topic, fault) in self.topics.faults)
            yield faults

    def _told_books(self) -> Iterator[Metric]:
        books = CounterMetricFamily(
            "foreshock_told_records",
            "Feedback, run events and observations of KPIs of a model by what became of them: "
            "read = counted + late + rejected + duplicate.",
            labels=["topic", "model", "outcome"],
        )
        totals: dict[tuple[str, str], Books] = {}
        for judge in self.merge.judges.values():
            for kind, merge in judge.facts.topics.items():
                everyone: dict[str, ModelBooks] = {**merge.models, **merge.others}
                for name, found in everyone.items():
                    if name in merge.models or found.books.read:
                        place = (str(kind), model_of(name))
                        totals[place] = totals.get(place, Books()).merged(found.books)
                    yield PAUSE
        for told, total in sorted(totals.items()):
            for outcome, number in zip(OUTCOMES, _counts(total), strict=True):
                books.add_metric([*told, outcome], number)
        yield books

    def _label_books(self) -> Iterator[Metric]:
        books = GaugeMetricFamily(
            "foreshock_label_records",
            "Labels of a model by what became of them: read = matched + pending + duplicate + orphan + rejected.",
            labels=["model", "outcome"],
        )
        totals: dict[str, LabelBooks] = {}
        for judge in self.merge.judges.values():
            for (_, name), other in [*judge.merge.other_labels.items()]:
                if other.read:
                    totals[name] = totals.get(name, LabelBooks()).merged(other)
                yield PAUSE
            for name, model in judge.merge.models.items():
                if model.plan.outcomes is not None:
                    totals[name] = model.outcomes.total()
                    yield PAUSE
        for name, total in sorted(totals.items()):
            counts = label_summary(total)
            for outcome in LABEL_OUTCOMES:
                books.add_metric([name, outcome], counts[outcome])
        yield books

    def _marks(self) -> Iterator[Metric]:
        watermark = GaugeMetricFamily(
            "foreshock_watermark_timestamp_seconds", "Event time up to which all was read.", labels=["model"]
        )
        judged = GaugeMetricFamily(
            "foreshock_judged_until_timestamp_seconds", "End of the last pane that was judged.", labels=["model"]
        )
        labels = GaugeMetricFamily(
            "foreshock_labels_judged_until_timestamp_seconds",
            "End of the last pane whose arrived labels were judged.",
            labels=["model"],
        )
        for judge in self.merge.judges.values():
            for name, model in judge.merge.models.items():
                mark = judge.merge.watermark_ms(model)
                if mark is not None and mark < FINAL_MARK:
                    watermark.add_metric([name], mark / 1000)
                if model.judged_until_ms is not None:
                    judged.add_metric([name], model.judged_until_ms / 1000)
                if model.outcomes.judged_until_ms is not None:
                    labels.add_metric([name], model.outcomes.judged_until_ms / 1000)
                yield PAUSE
        yield from (watermark, judged, labels)

    def _signals(self, room: _Room) -> Iterator[Metric]:
        value = GaugeMetricFamily("foreshock_signal_value", "Value in the last window.", labels=SIGNAL)
        threshold = GaugeMetricFamily("foreshock_signal_threshold", "Where the verdict begins.", labels=SIGNAL)
        breached = GaugeMetricFamily("foreshock_signal_breached", "1 beyond the threshold, else 0.", labels=SIGNAL)
        events = GaugeMetricFamily("foreshock_window_events", "Events of the last window.", labels=CELL)
        errors = GaugeMetricFamily("foreshock_window_errors", "Requests in error in it.", labels=CELL)
        arrived = GaugeMetricFamily("foreshock_window_labels", "Labels that came in the last window.", labels=CELL)
        calibration = GaugeMetricFamily(
            "foreshock_calibration",
            "Online recalibration of the score's logit, and the standard errors.",
            labels=["model", "version", "term"],
        )
        parked = {item.model for item in self.merge.parked}
        for name, judge in self._judges():
            yield PAUSE
            if name in parked:
                continue  # what was last is not what is now
            for cell in judge.latest:
                if cell.version is None:
                    events.add_metric([name, "", _segment(cell)], cell.events)
                    errors.add_metric([name, "", _segment(cell)], int(cell.profile.counts.dense()[ERROR_SLOT]))
            labelled = judge.labelled.latest if judge.labelled else []
            for cell in labelled:
                if cell.version is None:
                    arrived.add_metric([name, "", _segment(cell)], cell.events)
            for calibrated, state in judge.labelled.calibrations.items() if judge.labelled else ():
                calibration.add_metric([name, calibrated, "intercept"], state.intercept)
                calibration.add_metric([name, calibrated, "slope"], state.slope)
                sure = standard_errors(state.information) or ()
                for term, error in zip(("intercept_error", "slope_error"), sure, strict=False):
                    calibration.add_metric([name, calibrated, term], error)
            kpis = [cell for clock in judge.kpis.values() for cell in clock.latest]
            for cell in (*judge.latest, *labelled, *kpis):
                labels = [name, cell.version or "", _segment(cell)]
                for result in cell.results:
                    if not room.takes(3 * len(result.columns)):
                        continue
                    over = result.breached
                    for i, column in enumerate(result.columns):
                        place = [*labels, result.signal.family, result.signal.name, column or ""]
                        if np.isfinite(result.value[i]):
                            value.add_metric(place, result.value[i])
                        if np.isfinite(result.threshold[i]):
                            threshold.add_metric(place, result.threshold[i])
                            breached.add_metric(place, float(over[i]))
        yield from (value, threshold, breached, events, errors, arrived, calibration)

    def _decisions(self) -> Iterator[Metric]:
        firing = GaugeMetricFamily(
            "foreshock_action_firing",
            "1 while a rule fires.",
            labels=[*CELL, "rule", "response", "severity", "layer"],
        )
        actions = CounterMetricFamily(
            "foreshock_actions", "Incidents, by response.", labels=["model", "response", "state"]
        )
        shadows = CounterMetricFamily(
            "foreshock_shadow_incidents", "What shadow rules would have published.", labels=["model"]
        )
        decisions = CounterMetricFamily("foreshock_decisions", "Decisions, by reason.", labels=["model", "reason"])
        for name, judge in self._judges():
            yield PAUSE
            for labels in judge.firing():
                firing.add_metric([name, *labels], 1)
            state = judge.state
            for response in {rule.response for rule in judge.plan.config.rules}:
                actions.add_metric([name, response, "firing"], state.actions.get(response, 0) if state else 0)
                actions.add_metric([name, response, "resolved"], state.resolved.get(response, 0) if state else 0)
                actions.add_metric([name, response, "suppressed"], state.suppressed.get(response, 0) if state else 0)
            shadows.add_metric([name], sum(state.shadow.values()) if state else 0)
            for reason in Reason:
                decisions.add_metric([name, reason], state.decisions.get(reason, 0) if state else 0)
        yield from (firing, actions, shadows, decisions)

    def _ledgers(self, room: _Room) -> Iterator[Metric]:
        proxy = ["model", "proxy"]
        alarms = GaugeMetricFamily(
            "foreshock_ledger_alarms", "Alarms of a proxy, by what the truth says of them.", labels=[*proxy, "verdict"]
        )
        episodes = GaugeMetricFamily(
            "foreshock_ledger_episodes",
            "Bad episodes that a proxy caught before the labels, late, or missed.",
            labels=[*proxy, "outcome"],
        )
        precision = GaugeMetricFamily(
            "foreshock_ledger_precision_ratio", "Confirmed of the judged alarms, at 95 %.", labels=[*proxy, "bound"]
        )
        recall = GaugeMetricFamily(
            "foreshock_ledger_recall_ratio", "Caught of the bad episodes, at 95 %.", labels=[*proxy, "bound"]
        )
        lead = GaugeMetricFamily(
            "foreshock_ledger_lead_seconds",
            "From a confirmed alarm to when the labels showed it, by quartile.",
            labels=[*proxy, "quartile"],
        )
        actions = GaugeMetricFamily(
            "foreshock_rule_actions", "Incidents of a rule, by what was done.", labels=["model", "rule", "status"]
        )
        false = GaugeMetricFamily(
            "foreshock_false_alarms_per_week", "Those that are allowed, and those there were.", labels=["model", "kind"]
        )
        for book in [book for bucket in self.merge.judges.values() for book in bucket.ledgers.values()]:
            yield PAUSE
            rows = rows_of([book])
            for row in rows.proxies:
                if row.proxy != TOTAL and not room.takes(SERIES_OF_A_PROXY):
                    continue
                place = [row.model, row.proxy]
                for verdict in Verdict:
                    alarms.add_metric([*place, verdict], getattr(row, verdict))
                for outcome in ("caught", "late", "missed"):
                    episodes.add_metric([*place, outcome], getattr(row, outcome))
                for family, names, found in (
                    (precision, ("value", "low", "high"), row.precision),
                    (recall, ("value", "low", "high"), row.recall),
                    (lead, ("0.5", "0.25", "0.75"), row.lead_s),
                ):
                    for name, number in zip(names, found or (), strict=False):
                        family.add_metric([*place, name], number)
            for rule in rows.rules:
                for status in ("published", *Status):
                    actions.add_metric([rule.model, rule.rule, status], getattr(rule, status))
            for realised in rows.realised:
                false.add_metric([realised.model, "budget"], realised.budget)
                false.add_metric([realised.model, "realised"], realised.per_week)
        yield from (alarms, episodes, precision, recall, lead, actions, false)

    def _judges(self) -> Iterator[tuple[str, ModelJudge]]:
        for bucket in self.merge.judges.values():
            yield from bucket.judges.items()


def _counts(books: Books) -> tuple[int, ...]:
    """In the order of OUTCOMES."""
    return books.read, books.counted, books.late, sum(books.rejected.values()), books.duplicate


def _segment(cell: CellResult) -> str:
    return "".join(f"{name}={value}" for name, value in (segment_object(cell.segment) or {}).items())


def _plain_counter(family: CounterMetricFamily) -> Metric:
    """A counter whose name keeps its own ending, as the parts of a summary do."""
    metric = Metric(family.name, family.documentation, "unknown")
    for sample in family.samples:
        metric.add_sample(sample.name.removesuffix("_total"), sample.labels, sample.value)
    return metric
