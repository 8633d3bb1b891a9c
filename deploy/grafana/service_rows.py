"""The rows on Foreshock itself: all models at a glance, and whether the processor keeps up."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.grafana.panels import (
    COLOURED,
    NONE_IS_GOOD,
    Json,
    lines,
    link,
    look,
    number,
    rows,
    stat,
    steps,
    table,
    target,
)
from deploy.grafana.queries import (
    BEHAVIOUR,
    HEALTH,
    HERE,
    KEEP,
    MODEL,
    NO_SEGMENT,
    QUALITY,
    WHOLE_CELL,
    breached,
    rate,
)


def overview() -> Iterator[Json]:
    """The state of the model that is chosen, and all models to choose from."""
    yield from _tiles()
    yield _models()


def _tiles() -> Iterator[Json]:
    yield stat(
        "Actions firing",
        (4, 4),
        "Rules that fire now, for the whole model and for its segments. Which ones: in the last row.",
        number(f"sum(foreshock_action_firing{{{MODEL}}}) or vector(0)"),
        thresholds=NONE_IS_GOOD,
    )
    yield _layer("1 · System health", HEALTH, "Volume, latency, errors, freshness.")
    yield _layer("2 · Data quality", QUALITY, "Nulls, types, ranges, categories, drift of the inputs.")
    yield _layer(
        "3 · Model behaviour",
        BEHAVIOUR,
        "Drift of scores and predictions; calibration, performance and flow of the labels.",
    )
    yield stat(
        "Evaluated until",
        (4, 4),
        "End of the last window that was evaluated, in event time: in a replay, the time of the events.",
        number(f"1000 * max(foreshock_judged_until_timestamp_seconds{{{MODEL}}})"),
        unit="dateTimeAsIso",
    )
    yield stat(
        "Events in the last window",
        (4, 4),
        "Of the segment that is chosen above. Small windows say little, and are not evaluated.",
        number(f"sum(foreshock_window_events{{{WHOLE_CELL}}})"),
    )


def _layer(title: str, families: str, text: str) -> Json:
    """How many signals of a layer are beyond their thresholds."""
    query = number(f"sum({breached(f'{families}, {NO_SEGMENT}')}) or vector(0)")
    text = f"{text} Signals beyond their thresholds in the last window of the whole model."
    return stat(title, (4, 4), text, query, thresholds=NONE_IS_GOOD)


def _models() -> Json:
    outcomes = "sum by (model) (foreshock_books_records_total{{outcome{}}})"
    read = outcomes.format('="read"')
    not_counted = outcomes.format('=~"late|rejected|duplicate"')
    return table(
        "Models",
        (24, 6),
        "Every model that the workers have. Choose one here, or above.",
        [
            rows("sum by (model) (foreshock_action_firing) or 0 * max by (model) (foreshock_decisions_total)"),
            rows('sum by (model) (foreshock_signal_breached{segment=""})'),
            rows('sum by (model) (foreshock_window_events{version="", segment=""})'),
            rows("1000 * max by (model) (foreshock_judged_until_timestamp_seconds)"),
            rows(read),
            rows(f"{not_counted} / {read}"),
        ],
        by="model",
        columns={
            "model": "Model",
            "Value #A": "Actions firing",
            "Value #B": "Signals breached",
            "Value #C": "Events in the window",
            "Value #D": "Evaluated until",
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
            look("Evaluated until", unit="dateTimeAsIso"),
            look("Records read", unit="short"),
            look("Not counted", unit="percentunit", decimals=2),
        ],
        sort=("Actions firing", True),
    )


def processor() -> Iterator[Json]:
    """The processor itself."""
    yield from _numbers()
    yield from _reading()
    yield from _records()
    yield from _stages()


def _numbers() -> Iterator[Json]:
    """Whether workers run, and what they have counted."""
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
        "Series that web.max_series keeps out of the metrics. They are evaluated all the same.",
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


def _reading() -> Iterator[Json]:
    """What comes from Kafka, and what waits."""
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


def _records() -> Iterator[Json]:
    """What becomes of the records, and of the sketches of them."""
    unread = rate("foreshock_books_records_total", f'{MODEL}, outcome!="read"')
    yield lines(
        "Records of $model, by result",
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


def _stages() -> Iterator[Json]:
    """How busy the stages are, and how event time passes."""
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
        "Mean time that a stage takes for one batch.",
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
        [target(f"{read_until} or {judged}", "watermark"), target(judged, "evaluated until")],
        unit="none",
    )
    yield lines(
        "What was done again",
        (24, 5),
        "Restarts of workers, rebalances (every worker gives its partitions back, and takes up its own), and "
        "publications that Kafka did not accept at once. Each is harmless; many are not.",
        [
            target("sum(changes(foreshock_start_timestamp_seconds[$__rate_interval]))", "restarts"),
            target("sum(increase(foreshock_rebalances_total[$__rate_interval]))", "rebalances"),
            target("sum(increase(foreshock_publish_retries_total[$__rate_interval]))", "publications"),
            target('sum(foreshock_waiting_for_configuration{stage="sketch"})', "waiting workers"),
        ],
        unit="none",
    )
