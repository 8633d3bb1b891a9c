"""A broker that has just come back may not know a topic yet, or no leader of it: neither is taken for its absence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from agents import topics
from agents.acks import AckReader
from agents.clients import Connection
from agents.follow import read_all
from agents.replay import generate
from deploy.kafka import Broker
from streams.ack import Ack
from streams.errors import BrokerAway, TopicMissing

ACK = b'{"action_id": "a1", "status": "done", "by": "tests", "ts": "2026-01-01T00:00:00Z"}'


@pytest.fixture
def connection(kafka: Broker) -> Connection:
    return Connection(broker=kafka.bootstrap, prefix=f"b{uuid4().hex[:8]}-")


def without_leader(described: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """As a broker answers that knows the topic, and not who leads its last partition."""
    found = [dict(item, partitions=[dict(part) for part in item["partitions"]]) for item in described]
    for item in found:
        if item["topic"] == name:
            item["partitions"][-1]["leader"] = -1
    return found


def unknown(described: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [item for item in described if item["topic"] != name]


def answer_at_first(monkeypatch: pytest.MonkeyPatch, name: str, *answers: Any) -> list[int]:
    """Has the first descriptions of topics be those of a broker that has just come back; counts all of them."""
    describe, asked = AIOKafkaAdminClient.describe_topics, [0]

    async def answer(self: AIOKafkaAdminClient, *arguments: Any) -> Any:
        described = await describe(self, *arguments)
        asked[0] += 1
        return answers[asked[0] - 1](described, name) if asked[0] <= len(answers) else described

    monkeypatch.setattr(AIOKafkaAdminClient, "describe_topics", answer)
    return asked


def test_a_topic_without_a_leader_is_not_taken_for_a_missing_one(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = connection.topic("acks")

    async def scenario() -> None:
        await topics.create(connection, name, 3)
        answer_at_first(monkeypatch, name, without_leader, without_leader, unknown)
        with pytest.raises(BrokerAway, match="no leader"):
            await topics.find(connection, name)
        with pytest.raises(BrokerAway, match="no leader"):
            await read_all(connection, lambda records: None, "acks")
        with pytest.raises(TopicMissing):
            await read_all(connection, lambda records: None, "acks")
        assert await topics.find(connection, name) == 3

    asyncio.run(scenario())


def test_a_worker_waits_for_its_acks_until_the_broker_knows_them_again(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, taken = connection.topic("acks"), list[Ack]()

    async def scenario() -> None:
        await topics.create(connection, name, 1)
        await generate(connection, name, [(b"a1", ACK)])
        asked = answer_at_first(monkeypatch, name, unknown, without_leader, unknown)
        reader = AckReader(connection, taken.append)
        async with asyncio.timeout(60):
            await reader.on_start()
        assert asked[0] >= 4

    asyncio.run(scenario())
    assert [ack.action_id for ack in taken] == ["a1"]
