"""What Kafka refuses is told at once; that it does not answer is waited out."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    NodeNotReadyError,
    NotControllerError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
)

from agents import topics
from agents.clients import Connection
from streams.config import OWN_TOPICS
from streams.errors import BrokerAway, BrokerError


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "LOOK_EVERY_S", 0.0)


def asked(error: Exception) -> BrokerError:
    """What becomes of an error that an admin client meets."""

    class Client:
        async def start(self) -> None:
            raise error

        async def close(self) -> None: ...

    class Meeting(Connection):
        def admin(self) -> Client:  # type: ignore[override]
            return Client()

    with pytest.raises(BrokerError) as found:
        asyncio.run(topics.find(Meeting(broker="none:1"), "inference"))
    return found.value


@pytest.mark.parametrize("error", [NodeNotReadyError("node 3"), ConnectionRefusedError(), TimeoutError()])
def test_who_does_not_answer_may_do_so_later(error: Exception) -> None:
    assert isinstance(asked(error), BrokerAway)


def test_a_refusal_is_final() -> None:
    error: KafkaError = TopicAuthorizationFailedError("inference")
    assert not isinstance(asked(error), BrokerAway)


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (InvalidReplicationFactorError, True),  # a broker that was there when they were counted has gone
        (NotControllerError, True),
        (PolicyViolationError, False),
    ],
)
def test_a_topic_that_could_not_be_created_may_be_later(error: type[KafkaError], passing: bool) -> None:
    class Answer:
        topic_errors = (("actions", error.errno, "2 brokers are registered"),)

    class Client:
        async def start(self) -> None: ...

        async def close(self) -> None: ...

        async def describe_topics(self) -> list[dict[str, object]]:
            return []

        async def describe_cluster(self) -> dict[str, list[int]]:
            return {"brokers": [1, 2, 3]}

        async def create_topics(self, topics: object) -> Answer:
            return Answer()

    class Meeting(Connection):
        def admin(self) -> Client:  # type: ignore[override]
            return Client()

    with pytest.raises(BrokerError, match=r"Kafka would not create it: .* 2 brokers are registered") as e:
        asyncio.run(topics.create(Meeting(broker="none:1"), "actions", 4))
    assert isinstance(e.value, BrokerAway) is passing


def test_work_is_begun_anew_until_kafka_answers_and_the_wait_is_told_once() -> None:
    answers = iter([BrokerAway(seen="a"), BrokerAway(seen="b"), None])
    told: list[str] = []

    async def work() -> str:
        if error := next(answers):
            raise error
        return "done"

    assert asyncio.run(topics.until_answered(work, told.append)) == "done"
    assert told == ["a; trying again"]


def test_work_that_is_refused_is_not_begun_anew() -> None:
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)
        raise BrokerError(seen="4 partitions", expected="8")

    with pytest.raises(BrokerError, match="4 partitions"):
        asyncio.run(topics.until_answered(work))
    assert len(begun) == 1


def test_no_source_may_have_the_name_of_a_topic_that_workers_write() -> None:
    assert set(OWN_TOPICS) == {topic.name for topic in topics.TOPICS}
