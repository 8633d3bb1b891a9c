"""What is to be seen, as a table of panels → deploy/grafana/dashboards/foreshock.json.

    python -m deploy.grafana.make_dashboard           writes the file
    python -m deploy.grafana.make_dashboard --check   exit code 1 when it is not up to date

Rows follow the layers that Foreshock watches: the processor itself, then system health, data quality, model behaviour,
what was decided, and how far it can be trusted. Wherever a signal is drawn, its own threshold is drawn with it, as a
dashed line: there are no other limits on a model here. Made for Grafana 12.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.grafana.panels import (
    COLOURED,
    DATASOURCE,
    NONE_IS_GOOD,
    Json,
    Size,
    datasource_variable,
    lines,
    link,
    look,
    number,
    placed,
    query_variable,
    row,
    rows,
    stat,
    steps,
    table,
    target,
    timeline,
)

FILE = Path(__file__).parent / "dashboards" / "foreshock.json"

# --- What is asked for

MODEL = 'model="$model"'
CELL = f'{MODEL}, version=~"$version", segment=~"$segment"'
EACH_SEGMENT = f'{MODEL}, version=~"$version", segment!=""'
NO_SEGMENT = f'{MODEL}, version=~"$version", segment=""'
# Volume and freshness are of the model as a whole, not of a version.
WHOLE_CELL = f'{MODEL}, version="", segment=~"$segment"'
WHOLE_EACH_SEGMENT = f'{MODEL}, version="", segment!=""'

HEALTH = 'family="health"'
QUALITY = 'family=~"quality|drift"'
SCORES = 'family="score"'
BEHAVIOUR = 'family=~"score|calibration|performance|labels"'

FEW = 5
"""Features that a panel shows: those nearest to their thresholds."""
LIMIT = " · threshold"
THRESHOLD_LOOK = {
    "matcher": {"id": "byRegexp", "options": f"/{LIMIT}$/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}},
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "semi-dark-red"}},
    ],
}


def value(labels: str) -> str:
    return f"foreshock_signal_value{{{labels}}}"


def threshold(labels: str) -> str:
    return f"foreshock_signal_threshold{{{labels}}}"


def breached(labels: str) -> str:
    return f"foreshock_signal_breached{{{labels}}}"


def nearness(labels: str) -> str:
    """1 at the threshold. Not for a signal that alarms when it falls."""
    return f"{value(labels)} / {threshold(labels)}"


def rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])" if labels else f"rate({metric}[$__rate_interval])"


def signals(title: str, size: Size, text: str, name: str, *, unit: str, labels: str = CELL) -> Json:
    """A signal of the model, or several (a regular expression), each with its threshold."""
    legend = "{{signal}}" + ("" if 'version=""' in labels else " v{{version}}")
    chosen = f'signal=~"{name}", {labels}'
    targets = [target(value(chosen), legend), target(threshold(chosen), legend + LIMIT)]
    return _with_thresholds(lines(title, size, text, targets, unit=unit, stepped=True))


def features(title: str, size: Size, text: str, name: str, *, unit: str) -> Json:
    """A signal of the features nearest to their thresholds, each with its threshold."""
    chosen = f'signal="{name}", {CELL}'
    few = f"topk({FEW}, {nearness(chosen)})"
    legend = "{{feature}} v{{version}}"
    targets = [target(f"{value(chosen)} and {few}", legend), target(f"{threshold(chosen)} and {few}", legend + LIMIT)]
    return _with_thresholds(lines(title, size, text, targets, unit=unit, stepped=True))


def _with_thresholds(panel: Json) -> Json:
    panel["fieldConfig"]["overrides"] = [THRESHOLD_LOOK]
    return panel


# --- The rows


def overview() -> Iterator[Json]:
    def layer(title: str, families: str, text: str) -> Json:
        query = number(f"sum({breached(f'{families}, {NO_SEGMENT}')}) or vector(0)")
        text = f"{text} Signals beyond their thresholds in the last window of the whole model."
        return stat(title, (4, 4), text, query, thresholds=NONE_IS_GOOD)

    yield stat(
        "Actions firing",
        (4, 4),
        "Rules that fire now, for the whole model and for its segments. Which ones: in the last row.",
        number(f"sum(foreshock_action_firing{{{MODEL}}}) or vector(0)"),
        thresholds=NONE_IS_GOOD,
    )
    yield layer("1 · System health", HEALTH, "Volume, latency, errors, freshness.")
    yield layer("2 · Data quality", QUALITY, "Nulls, types, ranges, categories, drift of the inputs.")
    yield layer(
        "3 · Model behaviour",
        BEHAVIOUR,
        "Drift of scores and predictions; calibration, performance and flow of the labels.",
    )
    yield stat(
        "Judged until",
        (4, 4),
        "End of the last window that was judged, in event time: in a replay, the time of the events.",
        number(f"1000 * max(foreshock_judged_until_timestamp_seconds{{{MODEL}}})"),
        unit="dateTimeAsIso",
    )
    yield stat(
        "Events in the last window",
        (4, 4),
        "Of the segment that is chosen above. Small windows say little, and are not judged.",
        number(f"sum(foreshock_window_events{{{WHOLE_CELL}}})"),
    )
    outcomes = "sum by (model) (foreshock_books_records_total{{outcome{}}})"
    read = outcomes.format('="read"')
    yield table(
        "Models",
        (24, 6),
        "Every model that the workers have. Choose one here, or above.",
        [
            rows("sum by (model) (foreshock_action_firing) or 0 * max by (model) (foreshock_decisions_total)"),
            rows('sum by (model) (foreshock_signal_breached{segment=""})'),
            rows('sum by (model) (foreshock_window_events{version="", segment=""})'),
            rows("1000 * max by (model) (foreshock_judged_until_timestamp_seconds)"),
            rows(read),
            rows(f"{outcomes.format('=~' + quoted('late|rejected|duplicate'))} / {read}"),
        ],
        by="model",
        columns={
            "model": "Model",
            "Value #A": "Actions firing",
            "Value #B": "Signals breached",
            "Value #C": "Events in the window",
            "Value #D": "Judged until",
            "Value #E": "Records read",
            "Value #F": "Not counted",
        },
        looks=[
            look("Model", links=[link("Show this model", f"{HERE}?var-model=${{__value.raw}}&{KEEP}")]),
            look("Actions firing", custom_cellOptions=COLOURED, thresholds=steps((None, "transparent"), (1, "red"))),
            look(
                "Signals breached", custom_cellOptions=COLOURED, thresholds=steps((None, "transparent"), (1, "orange"))
            ),
            look("Events in the window", unit="short"),
            look("Judged until", unit="dateTimeAsIso"),
            look("Records read", unit="short"),
            look("Not counted", unit="percentunit", decimals=2),
        ],
        sort=("Actions firing", True),
    )


def quoted(text: str) -> str:
    return f'"{text}"'


HERE = "/d/foreshock/foreshock"
KEEP = "${datasource:queryparam}&${__url_time_range}"


def processor() -> Iterator[Json]:
    yield stat(
        "Workers",
        (4, 4),
        "Workers that Prometheus reaches, by release.",
        number("count by (version) (foreshock_worker_info)", "{{version}}"),
        named=True,
    )
    yield stat(
        "Records read",
        (3, 4),
        "Records a second, by all workers.",
        number(f"sum({rate('foreshock_records_total')})"),
        unit="cps",
    )
    yield stat(
        "Records waiting",
        (3, 4),
        "Lag: records of the source topics that have not been fetched.",
        number("sum(foreshock_lag_records)"),
    )
    yield stat(
        "Books",
        (4, 4),
        "What was read less what was counted, late, rejected or a duplicate: anything but 0 is a bug in Foreshock.",
        number(
            'abs(sum(foreshock_books_records_total{outcome="read"})'
            ' - sum(foreshock_books_records_total{outcome!="read"}))'
        ),
        thresholds=NONE_IS_GOOD,
        mappings=[{"type": "value", "options": {"0": {"text": "balanced", "index": 0}}}],
    )
    yield stat(
        "Models parked",
        (3, 4),
        "Models whose evaluation an exception ended; the others go on. The worker's log and /health say where.",
        number("count(max by (model) (foreshock_model_parked) == 1) or vector(0)"),
        thresholds=NONE_IS_GOOD,
    )
    yield stat(
        "Series withheld",
        (3, 4),
        "Series that web.max_series keeps out of the metrics. They are judged all the same.",
        number("sum(foreshock_series_withheld)"),
        thresholds=steps((None, "green"), (1, "orange")),
    )
    yield stat(
        "Last rebuild",
        (4, 4),
        "How long stage 2 took to rebuild its state from the log, after the last start or rebalance; the slowest.",
        number("max(foreshock_rebuild_seconds)"),
        unit="s",
    )
    yield lines(
        "Records read",
        (8, 7),
        "Records a second, by topic.",
        [target(f"sum by (topic) ({rate('foreshock_records_total')})", "{{topic}}")],
        unit="cps",
    )
    yield lines(
        "Records waiting",
        (8, 7),
        "A hump is a backlog being worked off; what only rises is a worker that cannot keep up. A partition that waits "
        "while the others do not holds back the watermark of every model on it. While a past is replayed, models wait "
        "for topics of it that are still to come.",
        [
            target("sum by (topic, partition) (foreshock_lag_records)", "{{topic}}-{{partition}}"),
            target("foreshock_join_rebuild_records", "label join to rebuild, {{partition}}"),
            target("sum(foreshock_merge_lag_records)", "partials"),
            target("sum(foreshock_merge_rebuild_records)", "stage 2 to rebuild"),
            target("sum(max by (model) (foreshock_replay_awaited_topics))", "topics that replays wait for"),
        ],
    )
    yield lines(
        "Bytes read",
        (8, 7),
        "Bytes of values a second, by topic; and the largest record that a worker has written to a topic.",
        [
            target(f"sum by (topic) ({rate('foreshock_bytes_total')})", "{{topic}}, a second"),
            target("max by (topic) (foreshock_largest_record_bytes)", "largest record, {{topic}}"),
        ],
        unit="decbytes",
    )
    unread = rate("foreshock_books_records_total", f'{MODEL}, outcome!="read"')
    yield lines(
        "What became of the records of $model",
        (8, 7),
        "Every record that was read is counted, late, rejected or a duplicate. All but the first should be thin.",
        [target(f"sum by (outcome) ({unread})", "{{outcome}}")],
        unit="cps",
        stacked=True,
    )
    yield lines(
        "Rejects, by reason",
        (8, 7),
        "Records that cannot be read as events, of all models: they are on the topic dead-letter. Lost: the log forgot "
        "them before they were counted. Changed logs: topics that were made anew, truncated or cut. Ahead: counted, "
        "but dated so far ahead that they move no stream time.",
        [
            target(f"sum by (reason) ({rate('foreshock_rejects_total')})", "{{reason}}"),
            target(f"sum({rate('foreshock_lost_records_total')})", "lost"),
            target(f"sum({rate('foreshock_log_changes_total')})", "changed logs"),
            target(f"sum({rate('foreshock_ahead_records_total')})", "ahead of stream time"),
            target("sum(foreshock_topic_fault)", "topics that are not as they must be"),
            target("sum(foreshock_later_release_records)", "records of a later release, which park what they are of"),
        ],
        unit="cps",
        stacked=True,
    )
    yield lines(
        "Partials",
        (8, 7),
        "Sketches that stage 1 sends and stage 2 folds. Foreign: made under another configuration of the model, and "
        "left out.",
        [
            target(f"sum by (stage) ({rate('foreshock_partials_total')})", "{{stage}}"),
            target(f"sum({rate('foreshock_foreign_partials_total', MODEL)})", "foreign"),
            target(f"sum by (kind) ({rate('foreshock_state_restarted_total')})", "state begun anew, {{kind}}"),
        ],
        unit="cps",
    )
    seconds = f"sum by (stage) ({rate('foreshock_batch_seconds_sum')})"
    batches = f"sum by (stage) ({rate('foreshock_batch_seconds_count')})"
    yield lines(
        "How busy the stages are",
        (8, 7),
        "Seconds of work in a second. The stages of a worker share a core: near 100 % together, start another worker.",
        [target(seconds, "{{stage}}")],
        unit="percentunit",
        stacked=True,
    )
    yield lines(
        "Time for a batch",
        (8, 7),
        "Mean time that a stage takes for what it is handed at once.",
        [target(f"{seconds} / {batches}", "{{stage}}")],
        unit="s",
    )
    judged = f"max(deriv(foreshock_judged_until_timestamp_seconds{{{MODEL}}}[$__rate_interval]))"
    read_until = f"max(deriv(foreshock_watermark_timestamp_seconds{{{MODEL}}}[$__rate_interval]))"
    yield lines(
        "Pace of event time in $model",
        (8, 7),
        "Event time that passes in a second. 1: live. More: catching up, or a replay. 0: nothing comes, or a partition "
        "holds the watermark.",
        # A stream that was drained has no watermark any more.
        [target(f"{read_until} or {judged}", "watermark"), target(judged, "judged until")],
        unit="none",
    )
    yield lines(
        "What was done again",
        (24, 5),
        "Restarts of workers, rebalances (every worker gives its partitions back, and takes up its own), and "
        "publications that Kafka did not take at once. Each is harmless; many are not.",
        [
            target("sum(changes(foreshock_start_timestamp_seconds[$__rate_interval]))", "restarts"),
            target("sum(increase(foreshock_rebalances_total[$__rate_interval]))", "rebalances"),
            target("sum(increase(foreshock_publish_retries_total[$__rate_interval]))", "publications"),
            target('sum(foreshock_waiting_for_configuration{stage="sketch"})', "waiting workers"),
        ],
        unit="none",
    )


def health() -> Iterator[Json]:
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
        "Median and 99th percentile, to within 26 %. A window too small for a verdict has no threshold.",
        "latency_p50|latency_p99",
        unit="ms",
    )
    events = f"sum by (segment) (foreshock_window_events{{{WHOLE_EACH_SEGMENT}}})"
    errors = f"sum by (segment) (foreshock_window_errors{{{WHOLE_EACH_SEGMENT}}})"
    yield lines(
        "Events of a window, by segment",
        (8, 8),
        "A segment that falls silent is seen here, even if the whole is as usual.",
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


def worth() -> Iterator[Json]:
    yield signals(
        "Accuracy, and what the scores lead to expect",
        (8, 8),
        "Of the labels that came in the window. The estimate needs no labels, and holds if only the inputs have moved.",
        "accuracy|estimated_accuracy",
        unit="percentunit",
    )
    yield signals(
        "Log loss", (8, 8), "Mean loss of the probability that was given to the truth.", "log_loss", unit="none"
    )
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
    yield _with_thresholds(
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
        "Share of them that has come, over as long as labels take.",
        "label_maturity",
        unit="percentunit",
        labels=WHOLE_CELL,
    )
    labels = f"sum by (segment) (foreshock_window_labels{{{WHOLE_EACH_SEGMENT}}})"
    yield lines(
        "Labels of a window, by segment",
        (12, 8),
        "A segment whose labels stop is seen here, even if the whole is as usual.",
        [target(labels, "{{segment}}")],
        stepped=True,
        stacked=True,
    )
    yield stat(
        "Labels judged until",
        (4, 8),
        "End of the last window whose arrived labels were judged.",
        number(f"1000 * max(foreshock_labels_judged_until_timestamp_seconds{{{MODEL}}})"),
        unit="dateTimeAsIso",
    )
    yield lines(
        "Labels, by what became of them",
        (8, 8),
        "Pending ones wait for their prediction; orphans never met one. Corrected ones are among the matched.",
        [target(f"sum by (outcome) (foreshock_label_records{{{MODEL}}})", "{{outcome}}")],
        stepped=True,
    )


def told() -> Iterator[Json]:
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
    yield _with_thresholds(
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
    yield _with_thresholds(
        lines(
            "Business KPIs",
            (12, 8),
            "As they are told, and where they are worse than their target, or than the same hours of earlier weeks.",
            [target(value(kpis), "{{feature}}"), target(threshold(kpis), "{{feature}}" + LIMIT)],
            stepped=True,
        )
    )
    yield signals(
        "Requests served that came",
        (6, 8),
        "Events that were read, by the requests that the serving side counted.",
        "capture_ratio",
        unit="percentunit",
        labels=WHOLE_CELL,
    )
    yield lines(
        "What was told, by what became of it",
        (6, 8),
        "Feedback, run events and observations of KPIs a second.",
        [
            target(
                f"sum by (topic, outcome) (rate(foreshock_told_records_total{{{MODEL}}}[5m]))", "{{topic}} {{outcome}}"
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


def actions() -> Iterator[Json]:
    severities = {"critical": "red", "warning": "orange", "info": "blue"}
    colours = {name: {"color": color, "index": i} for i, (name, color) in enumerate(severities.items())}
    yield table(
        "Firing now",
        (24, 8),
        "Each is on the topic actions, with its evidence, owner and runbook. Lower layers first: nobody retrains on "
        "broken data.",
        [rows(f"foreshock_action_firing{{{MODEL}}}")],
        columns={
            "layer": "Layer",
            "response": "Response",
            "severity": "Severity",
            "rule": "Rule",
            "version": "Version",
            "segment": "Segment",
        },
        hide=("Value", "instance", "job", "model"),
        looks=[
            look("Severity", custom_cellOptions=COLOURED, mappings=[{"type": "value", "options": colours}]),
            look(
                "Segment",
                links=[
                    link("Show this segment", f"{HERE}?${{model:queryparam}}&var-segment=${{__value.raw}}&{KEEP}"),
                ],
            ),
        ],
        sort=("Layer", False),
        empty="Nothing fires.",
    )
    yield timeline(
        "Rules firing",
        (24, 8),
        "Red while the rule fires.",
        target(
            f"max by (rule, response, segment) (foreshock_action_firing{{{MODEL}}})",
            "{{rule}} → {{response}} {{segment}}",
        ),
        empty="Nothing has fired.",
    )
    yield lines(
        "Incidents",
        (12, 7),
        "Incidents that began to fire, were resolved, or were suppressed by a lower layer, by response, since the "
        "model's state began; and what shadow rules would have begun.",
        [
            target(f"sum by (response, state) (foreshock_actions_total{{{MODEL}}})", "{{response}} {{state}}"),
            target(f"sum(foreshock_shadow_incidents_total{{{MODEL}}})", "shadow rules"),
        ],
        stepped=True,
    )
    loud = rate("foreshock_decisions_total", f'{MODEL}, reason!="quiet"')
    yield lines(
        "Decisions, by reason",
        (12, 7),
        "Every rule decides about every window and segment, and says why. Quiet ones are left out here.",
        [target(f"sum by (reason) ({loud})", "{{reason}}")],
        unit="cps",
        stacked=True,
    )


def ledger() -> Iterator[Json]:
    each = f'{MODEL}, proxy!="total"'
    yield lines(
        "Alarms, by what the truth said of them",
        (12, 8),
        "Alarms of signals that are judged before the labels come. Censored: the system was rolled back meanwhile. "
        "Proxies without an alarm are left out.",
        [target(f"foreshock_ledger_alarms{{{each}}} > 0", "{{proxy}} {{verdict}}")],
        stepped=True,
    )
    yield lines(
        "Bad episodes, by what the proxies did",
        (12, 8),
        "Runs of spans whose labels were bad: caught before the labels showed them, announced late, or missed. Of all "
        "proxies together, and of those that said something.",
        [
            target(f'foreshock_ledger_episodes{{{MODEL}, proxy="total"}}', "{{outcome}}"),
            target(f'foreshock_ledger_episodes{{{each}, outcome!="missed"}} > 0', "{{proxy}} {{outcome}}"),
        ],
        stepped=True,
    )
    for title, metric, text in (
        ("Precision", "precision", "Share of the judged alarms that the truth confirmed, with the interval of all."),
        ("Recall", "recall", "Share of the bad episodes that were caught, with the interval of all."),
    ):
        yield lines(
            title,
            (8, 7),
            text,
            [
                target(f'foreshock_ledger_{metric}_ratio{{{each}, bound="value"}}', "{{proxy}}"),
                target(f'foreshock_ledger_{metric}_ratio{{{MODEL}, proxy="total"}}', "all, {{bound}}"),
            ],
            unit="percentunit",
        )
    yield lines(
        "Lead time",
        (8, 7),
        "From a confirmed alarm to when the labels showed it, the median. Below 0: the labels were faster.",
        [target(f'foreshock_ledger_lead_seconds{{{each}, quartile="0.5"}}', "{{proxy}}")],
        unit="s",
    )
    yield lines(
        "What was done about the rules",
        (12, 7),
        "Incidents of each rule that fired, and those that somebody acted on or dismissed: a rule that nobody acts on "
        "is decoration.",
        [target(f'foreshock_rule_actions{{{MODEL}, status=~"published|acted|dismissed"}} > 0', "{{rule}} {{status}}")],
        stepped=True,
    )
    yield lines(
        "False alarms a week",
        (12, 7),
        "Incidents that the truth refuted or somebody dismissed, over the weeks that were observed, and the budget.",
        [target(f"foreshock_false_alarms_per_week{{{MODEL}}}", "{{kind}}")],
    )


def panels() -> Iterator[Json]:
    yield from overview()
    yield row("0 · Processor: does Foreshock keep up?")
    yield from processor()
    yield row("1 · System health of $model")
    yield from health()
    yield row("2 · Data quality of $model")
    yield from quality()
    yield row("3 · Behaviour of $model")
    yield from behaviour()
    yield row("3 · Labels of $model: what the scores were worth")
    yield from worth()
    yield row("4 · Users and business of $model")
    yield from told()
    yield row("Actions: what is to be done about $model")
    yield from actions()
    yield row("Ledger of $model: how far the proxies can be trusted")
    yield from ledger()


# --- The dashboard


def variables() -> list[Json]:
    versions = f"label_values(foreshock_signal_value{{{MODEL}}}, version)"
    segments = f"label_values(foreshock_window_events{{{MODEL}}}, segment)"
    return [
        datasource_variable("datasource", "Data source", "The Prometheus that scrapes the workers."),
        query_variable("model", "Model", "One model.", "label_values(foreshock_decisions_total, model)"),
        query_variable("version", "Version", "All: every version, a line each.", versions, all_value=".*"),
        query_variable("segment", "Segment", "All: the whole model, not split.", segments, all_value="^$"),
    ]


def fired() -> Json:
    began = f'foreshock_actions_total{{{MODEL}, state="firing"}}'
    return {
        "name": "Actions that began to fire",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "expr": f"sum by (response) (increase({began}[1m])) > 0",
        "step": "30s",
        "titleFormat": "{{response}}",
    }


def dashboard() -> Json:
    return {
        "uid": "foreshock",
        "title": "Foreshock",
        "description": "Models in production, layer by layer: what is measured, its threshold, what was decided",
        "tags": ["foreshock", "ml"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair for all panels
        "timezone": "utc",
        "time": {"from": "now-30m", "to": "now"},
        "refresh": "10s",
        "templating": {"list": variables()},
        "annotations": {"list": [fired()]},
        "links": [],
        "panels": placed(panels()),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """0: written, or up to date."""
    if "--check" not in arguments:
        FILE.write_text(text(), encoding="utf-8")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == text():
        return 0
    print(f"{FILE.name} is out of date: run python -m deploy.grafana.make_dashboard", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
