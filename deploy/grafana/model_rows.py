"""The rows on the chosen model: its health, its data, its behaviour, its labels, its users."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.grafana.panels import COLOURED, Json, lines, look, number, rows, stat, steps, table, target, timeline
from deploy.grafana.queries import (
    CELL,
    EACH_SEGMENT,
    FEW,
    LIMIT,
    MODEL,
    QUALITY,
    SCORES,
    WHOLE_CELL,
    WHOLE_EACH_SEGMENT,
    breached,
    features,
    nearness,
    signals,
    threshold,
    value,
    with_thresholds,
)


def health() -> Iterator[Json]:
    """Requests, latency, errors, freshness."""
    yield signals(
        "Requests a second",
        (8, 8),
        "Events of a window over its length. Alarms below its threshold.",
        "request_rate",
        unit="reqps",
        labels=WHOLE_CELL,
    )
    yield signals(
        "Freshness",
        (8, 8),
        "Time without events at the end of the window, of the whole model.",
        "freshness",
        unit="s",
        labels=f'{MODEL}, version="", segment=""',
    )
    yield signals(
        "Request errors",
        (8, 8),
        "Share of the requests that ended in an error.",
        "request_error_rate",
        unit="percentunit",
    )
    yield signals(
        "Latency",
        (8, 8),
        "Median and 99th percentile, to within 26 %. A window too small to be tested has no threshold.",
        "latency_p50|latency_p99",
        unit="ms",
    )
    events = f"sum by (segment) (foreshock_window_events{{{WHOLE_EACH_SEGMENT}}})"
    errors = f"sum by (segment) (foreshock_window_errors{{{WHOLE_EACH_SEGMENT}}})"
    yield lines(
        "Events of a window, by segment",
        (8, 8),
        "A segment that falls silent shows here, even if the whole is as usual.",
        [target(events, "{{segment}}")],
        stepped=True,
        stacked=True,
    )
    yield lines(
        "Request errors, by segment",
        (8, 8),
        "Share of a segment's requests that ended in an error.",
        [target(f"{errors} / {events}", "{{segment}}")],
        unit="percentunit",
        stepped=True,
    )


def quality() -> Iterator[Json]:
    """The features nearest to their thresholds."""
    chosen = f"{QUALITY}, {CELL}"
    near = f"topk(15, {nearness(chosen)})"
    yield timeline(
        "Features out of bounds",
        (24, 10),
        "Red while a signal of the feature is beyond its threshold: null, absent, of another type, out of range, "
        "unseen, too many categories, drifted.",
        target(f"sum by (feature) ({breached(chosen)})", "{{feature}}"),
    )
    yield lines(
        "Nearest to their thresholds",
        (12, 9),
        "Value over threshold of any signal of any feature: beyond 1 it alarms. What climbs is the next alarm.",
        [target(f"topk({FEW}, {nearness(chosen)})", "{{feature}}: {{signal}} v{{version}}")],
        unit="none",
        stepped=True,
        limit=1,
    )
    yield table(
        "Nearest to their thresholds, in numbers",
        (12, 9),
        "As of now, in the signals' own units.",
        [rows(f"{value(chosen)} and {near}"), rows(f"{threshold(chosen)} and {near}"), rows(near)],
        columns={
            "feature": "Feature",
            "signal": "Signal",
            "version": "Version",
            "segment": "Segment",
            "Value #A": "Value",
            "Value #B": "Threshold",
            "Value #C": "Of threshold",
        },
        hide=("instance", "job", "family", "model"),
        looks=[
            look("Value", unit="short", decimals=3),
            look("Threshold", unit="short", decimals=3),
            look(
                "Of threshold",
                unit="percentunit",
                decimals=0,
                custom_cellOptions=COLOURED,
                thresholds=steps((None, "transparent"), (0.8, "orange"), (1, "red")),
            ),
        ],
        sort=("Of threshold", True),
    )
    some = f"The {FEW} features nearest to their thresholds."
    for title, name, text, unit in (
        ("Nulls", "null_rate", "Share of events in which the value is null.", "percentunit"),
        ("Absent", "missing_rate", "Share of events that do not have the field.", "percentunit"),
        ("Wrong type", "type_mismatch_rate", "Share of events whose value has another type.", "percentunit"),
        ("Schema", "schema_drift", "Growth of the share that is absent or of another type.", "percentunit"),
        ("Unseen", "unseen_rate", "Share of values that the reference does not know.", "percentunit"),
        ("Out of range", "out_of_range_rate", "Share of values beyond the declared range.", "percentunit"),
        ("Categories", "cardinality", "Number of different values in the window.", "short"),
        ("Drift", "feature_drift", "Distance from the distribution of the reference.", "none"),
    ):
        yield features(title, (6, 7), f"{text} {some}", name, unit=unit)


def behaviour() -> Iterator[Json]:
    """Drift of scores and predictions."""
    yield features(
        "Drift of the scores",
        (12, 8),
        "Distance of the scores' distribution from the reference's: the first sign of trouble as long as labels lack.",
        "score_drift",
        unit="none",
    )
    yield features(
        "Drift of the predictions",
        (12, 8),
        "Distance of the predictions' distribution from the reference's.",
        "prediction_drift",
        unit="none",
    )
    yield timeline(
        "Segments out of bounds",
        (12, 8),
        "Red while a signal, of whatever layer, is beyond its threshold in the segment. If it is one only, look there.",
        target(f"sum by (segment) ({breached(EACH_SEGMENT)})", "{{segment}}"),
    )
    yield lines(
        "Drift of scores and predictions, by segment",
        (12, 8),
        "The larger of the two over its threshold: beyond 1 it alarms.",
        [target(f"max by (segment) ({nearness(f'{SCORES}, {EACH_SEGMENT}')})", "{{segment}}")],
        unit="none",
        stepped=True,
        limit=1,
    )


def labels() -> Iterator[Json]:
    """Labels, and how good the predictions were."""
    yield from _predictions()
    yield from _flow_of_labels()


def _predictions() -> Iterator[Json]:
    """How good the predictions were, by the labels that have come."""
    yield signals(
        "Accuracy, and what the scores lead to expect",
        (8, 8),
        "Of the labels that came in the window. The estimate needs no labels, and holds if only the inputs have moved.",
        "accuracy|estimated_accuracy",
        unit="percentunit",
    )
    yield signals("Log loss", (8, 8), "Mean loss of the probability of the true class.", "log_loss", unit="none")
    yield signals("Ranking", (8, 8), "Area under the ROC curve, over the score's bins.", "auc", unit="none")
    yield signals(
        "Calibration error",
        (8, 8),
        "Mean gap between scores and outcomes, less what chance makes of it. Alarms on a change from the reference.",
        "calibration_error",
        unit="percentunit",
    )
    yield lines(
        "Recalibration",
        (8, 8),
        "Intercept and slope, on the logit of the score, that would make the scores right: learned label by label.",
        [target(f"foreshock_calibration{{{MODEL}}}", "{{term}} v{{version}}")],
        unit="none",
        stepped=True,
    )
    classes = f'signal=~"class_recall|class_precision", {CELL}'
    yield with_thresholds(
        lines(
            "Critical classes",
            (8, 8),
            "Recall and precision of the classes that the configuration calls critical.",
            [
                target(value(classes), "{{signal}} of {{feature}} v{{version}}"),
                target(threshold(classes), "{{signal}} of {{feature}} v{{version}}" + LIMIT),
            ],
            unit="percentunit",
            stepped=True,
        )
    )


def _flow_of_labels() -> Iterator[Json]:
    """How the labels come."""
    yield signals(
        "Labels a second",
        (8, 8),
        "Labels that came, and where the reference's arrival curve says that too few do.",
        "label_rate",
        unit="none",
        labels=WHOLE_CELL,
    )
    yield signals(
        "Labels that were due",
        (8, 8),
        "Share of them that has come, over the time that labels usually take.",
        "label_maturity",
        unit="percentunit",
        labels=WHOLE_CELL,
    )
    labels = f"sum by (segment) (foreshock_window_labels{{{WHOLE_EACH_SEGMENT}}})"
    yield lines(
        "Labels of a window, by segment",
        (12, 8),
        "A segment whose labels stop shows here, even if the whole is as usual.",
        [target(labels, "{{segment}}")],
        stepped=True,
        stacked=True,
    )
    yield stat(
        "Labels evaluated until",
        (4, 8),
        "End of the last window whose arrived labels were evaluated.",
        number(f"1000 * max(foreshock_labels_judged_until_timestamp_seconds{{{MODEL}}})"),
        unit="dateTimeAsIso",
    )
    yield lines(
        "Labels, by result",
        (8, 8),
        "Pending ones wait for their prediction; orphans never met one. Corrected ones are among the matched.",
        [target(f"sum by (outcome) (foreshock_label_records{{{MODEL}}})", "{{outcome}}")],
        stepped=True,
    )


def users() -> Iterator[Json]:
    """Users and business."""
    yield from _people()
    yield from _side_inputs()


def _people() -> Iterator[Json]:
    """What people and the business report."""
    yield signals(
        "Manual overrides, by event",
        (8, 8),
        "How often people decide otherwise than the model, against the same hours of earlier weeks.",
        "override_rate",
        unit="percentunit",
        labels=WHOLE_CELL,
    )
    yield signals(
        "Complaints, by event",
        (8, 8),
        "Long before the labels come; a complaint need not be the model's fault.",
        "complaint_rate",
        unit="percentunit",
        labels=WHOLE_CELL,
    )
    steps_taken = f'signal="workflow_step_rate", {WHOLE_CELL}'
    yield with_thresholds(
        lines(
            "Workflow steps, by event",
            (8, 8),
            "Steps that people take because of the model's answers: either way, a change means something.",
            [target(value(steps_taken), "{{feature}}"), target(threshold(steps_taken), "{{feature}}" + LIMIT)],
            unit="percentunit",
            stepped=True,
        )
    )
    kpis = f'signal="kpi", {WHOLE_CELL}'
    yield with_thresholds(
        lines(
            "Business KPIs",
            (12, 8),
            "As they come, and where they are worse than their target, or than the same hours of earlier weeks.",
            [target(value(kpis), "{{feature}}"), target(threshold(kpis), "{{feature}}" + LIMIT)],
            stepped=True,
        )
    )


def _side_inputs() -> Iterator[Json]:
    """What the serving side and the jobs report."""
    yield signals(
        "Requests served that came",
        (6, 8),
        "Events that were read, by the requests that the serving side counted.",
        "capture_ratio",
        unit="percentunit",
        labels=WHOLE_CELL,
    )
    yield lines(
        "Side inputs, by result",
        (6, 8),
        "Feedback, run events and observations of KPIs a second.",
        [
            target(
                f"sum by (topic, outcome) (rate(foreshock_side_input_records_total{{{MODEL}}}[5m]))",
                "{{topic}} {{outcome}}",
            )
        ],
    )
    jobs = f'signal=~"job_failure|freshness", feature!="", {WHOLE_CELL}'
    yield table(
        "Jobs",
        (24, 6),
        "Of each job the runs that went wrong since its last success, and the seconds since then.",
        [rows(value(jobs)), rows(threshold(jobs))],
        columns={"feature": "Job", "signal": "Signal", "Value #A": "Value", "Value #B": "Threshold"},
        hide=("instance", "job", "family", "model", "segment", "version"),
    )
