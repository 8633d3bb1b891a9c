"""What is checked at a worker's start and watched from then on, on Apache Kafka."""

from __future__ import annotations

import asyncio
import logging
from uuid import uuid4

import pytest

from agents import topics
from agents.clients import Connection
from agents.topic_watch import Fault, TopicWatch, lines_of
from deploy.kafka import Broker
from streams.configure import load
from streams.errors import BrokerError
from streams.needs import needs_of
from streams.plan import compile_plan
from tests.faults.cluster import alter_topic, create_topic, delete_topic, grow_topic, partitions_of_topic, wait_until

YAML = """
models:
  shop:
    labels: {task: binary, classes: ["0", "1"], horizon: 1d}
    rules:
      - {name: wrong, signals: [accuracy], response: retrain}
"""


@pytest.fixture
def connection(kafka: Broker) -> Connection:
    found = Connection(broker=kafka.bootstrap, prefix=f"w{uuid4().hex[:8]}-")
    for name in ("inference", "labels"):
        create_topic(found, name, 2)
    asyncio.run(topics.ensure(found, inference_partitions=2, buckets=3))
    return found


@pytest.fixture
def watch(connection: Connection) -> TopicWatch:
    found = TopicWatch(connection, needs_of(compile_plan(load(YAML), {})))
    asyncio.run(found.look())
    assert found.faults == {}
    return found


def test_labels_are_given_the_partitions_that_the_events_are_given(connection: Connection, watch: TopicWatch) -> None:
    grow_topic(connection, "inference", 4)
    asyncio.run(watch.look())
    assert partitions_of_topic(connection, "labels") == 4 and watch.faults == {}


def test_a_worker_that_starts_gives_labels_the_partitions_that_they_lack(connection: Connection) -> None:
    """The events' topic may have grown while no worker was up: none may refuse to start for it."""
    source, labels = (connection.topic(name) for name in ("inference", "labels"))
    grow_topic(connection, "inference", 4)
    for _ in range(2):
        assert asyncio.run(topics.co_partitioned(connection, labels, source)) == labels
        assert partitions_of_topic(connection, "labels") == 4
    grow_topic(connection, "labels", 5)
    with pytest.raises(BrokerError, match="5 partitions; expected 4"):
        asyncio.run(topics.co_partitioned(connection, labels, source))


def test_more_labels_partitions_than_the_events_have_are_reported_until_they_have_as_many(
    connection: Connection, watch: TopicWatch, caplog: pytest.LogCaptureFixture
) -> None:
    grow_topic(connection, "labels", 3)
    with caplog.at_level(logging.WARNING):
        asyncio.run(watch.look())
        asyncio.run(watch.look())
        assert watch.faults.keys() == {(connection.topic("labels"), Fault.PARTITIONS)}
        assert len([line for line in caplog.messages if "wrong partition" in line]) == 1
        grow_topic(connection, "inference", 3)
        asyncio.run(watch.look())
    assert watch.faults == {} and "is as it must be again" in caplog.messages[-1]


def test_settings_that_forget_and_topics_that_are_gone_are_reported(connection: Connection, watch: TopicWatch) -> None:
    alter_topic(connection, "state", {"cleanup.policy": "delete"})
    alter_topic(connection, "labels", {"retention.ms": "3600000"})
    plan = compile_plan(load(YAML), {})
    wait_until(lambda: any("labels keeps records for 1h" in line for line in asyncio.run(lines_of(connection, plan))))
    delete_topic(connection, "acks")
    delete_topic(connection, "partials")
    create_topic(connection, "partials", 3, {"cleanup.policy": "compact"})
    asyncio.run(watch.look())
    names = {(name.removeprefix(connection.prefix), fault) for name, fault in watch.faults}
    assert names == {
        ("state", Fault.CLEANUP_POLICY),
        ("labels", Fault.RETENTION),
        ("acks", Fault.MISSING),
        ("partials", Fault.MADE_ANEW),
    }
    assert "keeps records for 1h" in watch.faults[connection.topic("labels"), Fault.RETENTION]
