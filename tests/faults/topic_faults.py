"""What operators and brokers do to topics under a running worker."""

from __future__ import annotations

from agents import topics
from tests.faults.cluster import alter_topic, bounds, delete_records, partitions_of_topic, read_topic
from tests.faults.stage import Stage

COMPACTED_WITHIN_S = 60.0
KILLS_AFTER_COMPACTION = 2
SMALL_SEGMENTS = {"segment.ms": "300", "min.cleanable.dirty.ratio": "0.001", "min.compaction.lag.ms": "0"}
COMPACTED_TOPICS = tuple(row.name for row in topics.TOPICS if row.compacted)


def compact(stage: Stage) -> None:
    """From now on compacted topics are compacted every moment, while they are written and read; workers die on it."""
    stage.until(lambda: all(partitions_of_topic(stage.connection, name) for name in COMPACTED_TOPICS))
    for row in topics.TOPICS:
        if row.compacted:
            alter_topic(stage.connection, row.name, {**row.configs(), **SMALL_SEGMENTS})
    stage.until(lambda: _was_compacted(stage, "partials"), COMPACTED_WITHIN_S)
    for _ in range(KILLS_AFTER_COMPACTION):
        victim = stage.pick()
        victim.kill()
        del stage.crew[victim.instance]
        stage.start(victim.instance)
        stage.live(1.0, 3.0)


def retention(stage: Stage) -> None:
    """Heads of the logs of events and of labels are deleted, as retention does: what had been counted, or more, workers
    up or down."""
    stage.until(lambda: any(worker.read() for worker in stage.crew.values()))
    names = sorted(stage.crew) if stage.rng.random() < 0.5 else []
    for name in names:
        stage.dismiss(name)
    stage.live(0.5, 2.0)
    for topic in stage.cut_at:
        if partitions_of_topic(stage.connection, topic):
            _delete_head(stage, topic)
    for name in names:
        stage.start(name)
    stage.live(0.5, 2.0)


def _delete_head(stage: Stage, topic: str) -> None:
    """Of each partition another share, all of which was collected before."""
    stage.collect(topic)
    collected = dict.fromkeys(bounds(stage.connection, topic), -1)
    for record in stage.collected[topic]:
        collected[record.partition] = max(record.offset, collected[record.partition])
    stage.cut_at[topic] = {at: stage.rng.randint(0, last + 1) for at, last in collected.items()}
    delete_records(stage.connection, topic, stage.cut_at[topic])


def _was_compacted(stage: Stage, name: str) -> bool:
    """Whether records are gone from before others that are still there."""
    offsets: dict[int, list[int]] = {}
    for record in read_topic(stage.connection, name):
        offsets.setdefault(record.partition, []).append(record.offset)
    return any(last[-1] + 1 > len(last) for last in offsets.values())
