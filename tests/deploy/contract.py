"""The metrics that dashboards and alerts may rely on: name → labels. Taking one away breaks somebody's screen."""

from collections.abc import Mapping

CELL = ("model", "version", "segment")
SIGNAL = (*CELL, "family", "signal", "feature")
SOURCE = ("topic", "partition")
PROXY = ("model", "proxy")

METRICS: Mapping[str, tuple[str, ...]] = {
    "foreshock_records_total": SOURCE,
    "foreshock_bytes_total": SOURCE,
    "foreshock_lag_records": SOURCE,
    "foreshock_batch_seconds_sum": ("stage",),
    "foreshock_batch_seconds_count": ("stage",),
    "foreshock_rebuild_seconds": (),
    "foreshock_merge_rebuild_records": (),
    "foreshock_merge_lag_records": ("bucket",),
    "foreshock_publish_retries_total": ("stage",),
    "foreshock_rebalances_total": ("stage",),
    "foreshock_start_timestamp_seconds": (),
    "foreshock_join_rebuild_records": ("partition",),
    "foreshock_state_restarted_total": ("kind",),
    "foreshock_rejects_total": ("reason",),
    "foreshock_partials_total": ("stage",),
    "foreshock_books_records_total": ("model", "outcome"),
    "foreshock_waiting_for_configuration": ("stage",),
    "foreshock_topic_fault": ("topic", "fault"),
    "foreshock_lost_records_total": ("topic",),
    "foreshock_log_changes_total": ("topic", "change"),
    "foreshock_ahead_records_total": ("model",),
    "foreshock_told_records_total": ("topic", "model", "outcome"),
    "foreshock_watermark_timestamp_seconds": ("model",),
    "foreshock_judged_until_timestamp_seconds": ("model",),
    "foreshock_labels_judged_until_timestamp_seconds": ("model",),
    "foreshock_label_records": ("model", "outcome"),
    "foreshock_calibration": ("model", "version", "term"),
    "foreshock_window_labels": CELL,
    "foreshock_signal_value": SIGNAL,
    "foreshock_signal_threshold": SIGNAL,
    "foreshock_signal_breached": SIGNAL,
    "foreshock_window_events": CELL,
    "foreshock_window_errors": CELL,
    "foreshock_action_firing": (*CELL, "rule", "response", "severity", "layer"),
    "foreshock_actions_total": ("model", "response", "state"),
    "foreshock_decisions_total": ("model", "reason"),
    "foreshock_shadow_incidents_total": ("model",),
    "foreshock_ledger_alarms": (*PROXY, "verdict"),
    "foreshock_ledger_episodes": (*PROXY, "outcome"),
    "foreshock_ledger_precision_ratio": (*PROXY, "bound"),
    "foreshock_ledger_recall_ratio": (*PROXY, "bound"),
    "foreshock_ledger_lead_seconds": (*PROXY, "quartile"),
    "foreshock_rule_actions": ("model", "rule", "status"),
    "foreshock_false_alarms_per_week": ("model", "kind"),
    "foreshock_series_withheld": (),
    "foreshock_foreign_partials_total": ("model",),
    "foreshock_model_parked": ("model", "stage"),
    "foreshock_later_release_records": ("topic",),
    "foreshock_largest_record_bytes": ("topic",),
    "foreshock_replay_awaited_topics": ("model",),
    "foreshock_worker_info": ("version",),
}
FROM_PROMETHEUS: Mapping[str, tuple[str, ...]] = {"up": ()}
"""Metrics that Prometheus makes of every target."""
TARGET_LABELS = frozenset({"job", "instance"})
"""Labels that Prometheus puts on everything."""
