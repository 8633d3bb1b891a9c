"""Every metric of Foreshock, in the order of the page: name, type, labels, unit and what it says.

`/metrics` is made of this table, `docs/contract/metrics.md` is written from it, and queries of dashboards and alert
rules are checked against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, StrEnum

from prometheus_client.core import Metric


class Kind(StrEnum):
    """What kind of number a metric is."""

    COUNTER = "counter"
    """Rises while the worker runs; its name ends in `_total`."""
    SUM = "sum"
    """Rises too, but its name keeps its own ending, as the parts of a summary do: Prometheus has no type for that."""
    GAUGE = "gauge"
    INFO = "info"
    """Always 1: the labels are what it says. Its name ends in `_info`."""


_TYPES = {Kind.COUNTER: "counter", Kind.SUM: "unknown", Kind.GAUGE: "gauge", Kind.INFO: "info"}
"""As the client library of Prometheus names them; it adds the endings of the names itself."""

SOURCE = ("topic", "partition")
CELL = ("model", "version", "segment")
SIGNAL = (*CELL, "family", "signal", "feature")
PROXY = ("model", "proxy")


class Table(Enum):
    """One metric a member. The value of the metric is in `unit`; times are in seconds since 1970."""

    def __init__(self, exposed: str, kind: Kind, labels: tuple[str, ...], unit: str, text: str) -> None:
        self.exposed = exposed
        self.kind = kind
        self.labels = labels
        self.unit = unit
        self.text = text

    def family(self) -> Metric:
        """The metric without samples."""
        return Metric(self.exposed.removesuffix("_total").removesuffix("_info"), self.text, _TYPES[self.kind])


class WorkerMetric(Table):
    """What `foreshock worker` shows."""

    WORKER = ("foreshock_worker_info", Kind.INFO, ("version",), "", "The release of this worker.")
    START = ("foreshock_start_timestamp_seconds", Kind.GAUGE, (), "s", "When this worker was started.")
    RECORDS = ("foreshock_records_total", Kind.COUNTER, SOURCE, "records", "Records fetched from a source topic.")
    BYTES = ("foreshock_bytes_total", Kind.COUNTER, SOURCE, "bytes", "Bytes of their values.")
    LAG = ("foreshock_lag_records", Kind.GAUGE, SOURCE, "records", "Records still to be fetched.")
    LARGEST = (
        *("foreshock_largest_record_bytes", Kind.GAUGE, ("topic",), "bytes"),
        "Bytes of the largest record that this worker has sent, or has to send, to a topic of its own.",
    )
    BATCH_SECONDS = ("foreshock_batch_seconds_sum", Kind.SUM, ("stage",), "s", "Time spent on batches.")
    BATCHES = ("foreshock_batch_seconds_count", Kind.SUM, ("stage",), "batches", "Batches done.")
    PARTIALS = ("foreshock_partials_total", Kind.COUNTER, ("stage",), "partials", "Partials sent and folded.")
    RETRIES = (
        *("foreshock_publish_retries_total", Kind.COUNTER, ("stage",), "publications"),
        "Publications that Kafka did not accept at once.",
    )
    REBALANCES = (
        *("foreshock_rebalances_total", Kind.COUNTER, ("stage",), "rebalances"),
        "Rebalances in which this worker gave its partitions back.",
    )
    REJECTS = (
        *("foreshock_rejects_total", Kind.COUNTER, ("reason",), "records"),
        "Records sent to the dead letters.",
    )
    WAITING_FOR_CONFIGURATION = (
        *("foreshock_waiting_for_configuration", Kind.GAUGE, ("stage",), "0 or 1"),
        "1 while this worker gets no partitions, because another configuration is active in its group; else 0.",
    )
    REBUILD_SECONDS = ("foreshock_rebuild_seconds", Kind.GAUGE, (), "s", "Time of the last rebuild of stage 2.")
    MERGE_REBUILD = (
        *("foreshock_merge_rebuild_records", Kind.GAUGE, (), "records"),
        "Records to read until the state of stage 2 is rebuilt: of `state`, then of `partials`.",
    )
    STATE_RESTARTED = (
        *("foreshock_state_restarted_total", Kind.COUNTER, ("kind",), "restarts"),
        "Parts of the kept state that did not fit the configuration, or were damaged, and began anew.",
    )
    MERGE_LAG = (
        *("foreshock_merge_lag_records", Kind.GAUGE, ("bucket",), "records"),
        "Partials still to be folded and evaluated.",
    )
    JOIN_REBUILD = (
        *("foreshock_join_rebuild_records", Kind.GAUGE, ("partition",), "records"),
        "Records to read again until the label join is rebuilt.",
    )
    BOOKS = (
        *("foreshock_books_records_total", Kind.COUNTER, ("model", "outcome"), "records"),
        "Records of a model by result: read = counted + late + rejected + duplicate.",
    )
    AHEAD = (
        *("foreshock_ahead_records_total", Kind.COUNTER, ("model",), "records"),
        "Records of a model that were ahead of its stream time, and did not move it: some clock is fast.",
    )
    FOREIGN_PARTIALS = (
        *("foreshock_foreign_partials_total", Kind.COUNTER, ("model",), "partials"),
        "Partials made under another configuration.",
    )
    LABEL_RECORDS = (
        *("foreshock_label_records", Kind.GAUGE, ("model", "outcome"), "records"),
        "Labels of a model by result: read = matched + pending + duplicate + orphan + rejected.",
    )
    SIDE_INPUT_RECORDS = (
        *("foreshock_side_input_records_total", Kind.COUNTER, ("topic", "model", "outcome"), "records"),
        "Feedback, run events and observations of KPIs of a model by result: "
        "read = counted + late + rejected + duplicate.",
    )
    MODEL_PARKED = (
        *("foreshock_model_parked", Kind.GAUGE, ("model", "stage"), "0 or 1"),
        "1 where an exception ended the evaluation of a model until a restart: in the counting of its records "
        "(sketch), or in their evaluation (merge). Else 0.",
    )
    LATER_RELEASE = (
        *("foreshock_later_release_records", Kind.GAUGE, ("topic",), "records"),
        "Records of a later release that this worker cannot read: their models, buckets or partitions stand still. "
        "Of `progress` partitions of its own, of the others records that it read since its start.",
    )
    REPLAY_AWAITED = (
        *("foreshock_replay_awaited_topics", Kind.GAUGE, ("model",), "topics"),
        "Topics that a model waits for, because a past is replayed and they may still come.",
    )
    LOST = (
        *("foreshock_lost_records_total", Kind.COUNTER, ("topic",), "records"),
        "Records that were deleted (retention, DeleteRecords) before they were counted. They are not among the read.",
    )
    LOG_CHANGES = (
        *("foreshock_log_changes_total", Kind.COUNTER, ("topic", "change"), "changes"),
        "Times that a log differed from what it was when it was last read.",
    )
    TOPIC_FAULT = (
        *("foreshock_topic_fault", Kind.GAUGE, ("topic", "fault"), "0 or 1"),
        "1 while a topic fails a check of the start; else 0.",
    )
    WATERMARK = (
        *("foreshock_watermark_timestamp_seconds", Kind.GAUGE, ("model",), "s"),
        "Watermark: event time up to which everything was read.",
    )
    JUDGED_UNTIL = (
        *("foreshock_judged_until_timestamp_seconds", Kind.GAUGE, ("model",), "s"),
        "End of the last pane that was evaluated.",
    )
    LABELS_JUDGED_UNTIL = (
        *("foreshock_labels_judged_until_timestamp_seconds", Kind.GAUGE, ("model",), "s"),
        "End of the last pane whose arrived labels were evaluated.",
    )
    SIGNAL_VALUE = ("foreshock_signal_value", Kind.GAUGE, SIGNAL, "of the signal", "Value in the last window.")
    SIGNAL_THRESHOLD = (
        *("foreshock_signal_threshold", Kind.GAUGE, SIGNAL, "of the signal"),
        "The signal is breached beyond it.",
    )
    SIGNAL_BREACHED = (
        "foreshock_signal_breached",
        Kind.GAUGE,
        SIGNAL,
        "0 or 1",
        "1 while the signal is breached, else 0.",
    )
    WINDOW_EVENTS = ("foreshock_window_events", Kind.GAUGE, CELL, "events", "Events of the last window.")
    WINDOW_ERRORS = ("foreshock_window_errors", Kind.GAUGE, CELL, "events", "Requests in error in it.")
    WINDOW_LABELS = ("foreshock_window_labels", Kind.GAUGE, CELL, "labels", "Labels that came in the last window.")
    CALIBRATION = (
        *("foreshock_calibration", Kind.GAUGE, ("model", "version", "term"), "logit"),
        "Online recalibration of the score's logit, and the standard errors.",
    )
    ACTION_FIRING = (
        *("foreshock_action_firing", Kind.GAUGE, (*CELL, "rule", "response", "severity", "layer"), "1"),
        "1 while a rule fires.",
    )
    ACTIONS = (
        *("foreshock_actions_total", Kind.COUNTER, ("model", "response", "state"), "incidents"),
        "Incidents, by response.",
    )
    SHADOW_INCIDENTS = (
        *("foreshock_shadow_incidents_total", Kind.COUNTER, ("model",), "incidents"),
        "Incidents that shadow rules would have published.",
    )
    DECISIONS = (
        *("foreshock_decisions_total", Kind.COUNTER, ("model", "reason"), "decisions"),
        "Decisions, by reason.",
    )
    LEDGER_ALARMS = (
        *("foreshock_ledger_alarms", Kind.GAUGE, (*PROXY, "verdict"), "alarms"),
        "Alarms of a proxy, by verdict.",
    )
    LEDGER_EPISODES = (
        *("foreshock_ledger_episodes", Kind.GAUGE, (*PROXY, "outcome"), "episodes"),
        "Bad episodes that a proxy caught before the labels, late, or missed.",
    )
    LEDGER_PRECISION = (
        *("foreshock_ledger_precision_ratio", Kind.GAUGE, (*PROXY, "bound"), "ratio"),
        "Confirmed by confirmed and refuted alarms, with the 95 % interval.",
    )
    LEDGER_RECALL = (
        *("foreshock_ledger_recall_ratio", Kind.GAUGE, (*PROXY, "bound"), "ratio"),
        "Caught by all bad episodes, with the 95 % interval.",
    )
    LEDGER_LEAD = (
        *("foreshock_ledger_lead_seconds", Kind.GAUGE, (*PROXY, "quartile"), "s"),
        "From a confirmed alarm to when the labels showed it, by quartile.",
    )
    RULE_ACTIONS = (
        *("foreshock_rule_actions", Kind.GAUGE, ("model", "rule", "status"), "incidents"),
        "Incidents of a rule, by ack.",
    )
    FALSE_ALARMS = (
        *("foreshock_false_alarms_per_week", Kind.GAUGE, ("model", "kind"), "incidents/week"),
        "False alarms a week: the budget, and the realised rate.",
    )
    SERIES_WITHHELD = (
        *("foreshock_series_withheld", Kind.GAUGE, (), "series"),
        "Series of columns and proxies that the cap leaves out.",
    )


class WebhookMetric(Table):
    """What `foreshock webhook --listen` shows."""

    ACTIONS = (
        *("foreshock_webhook_actions_total", Kind.COUNTER, ("result",), "actions"),
        "Actions by result.",
    )
    RETRIES = (
        *("foreshock_webhook_retries_total", Kind.COUNTER, (), "requests"),
        "Requests that were not accepted at once.",
    )


class Families:
    """The metrics of one scrape, filled in any order and shown in the table's."""

    def __init__(self, metrics: Iterable[Table]) -> None:
        self._families = {metric: metric.family() for metric in metrics}

    def add(self, metric: Table, labels: Iterable[str], value: float) -> None:
        """Adds a series; `labels`: their values, in the order of the table."""
        self._families[metric].add_sample(metric.exposed, dict(zip(metric.labels, labels, strict=True)), value)

    def add_all(self, metric: Table, labels: Iterable[str], values: Mapping[str, float]) -> None:
        """Adds a series for each value of the last label."""
        for last, value in values.items():
            self.add(metric, (*labels, last), value)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())
