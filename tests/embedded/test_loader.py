"""`agents/loader.py` on the embedded broker. What compaction and transactions leave in a log: `tests/kafka`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from agents import topics
from agents.clients import Connection
from agents.loader import read_to_end
from agents.replay import generate
from streams.errors import BrokerError


async def fill(connection: Connection, topic: str, count: int, partitions: int) -> None:
    await topics.create(connection, topic, partitions)
    await generate(connection, topic, ((b"k%d" % n, b"v%d" % n) for n in range(count)))


def test_all_records_of_the_chosen_partitions_come_in_order(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 5_000, 4)
        seen: dict[int, list[int]] = {}
        told: list[tuple[int, int]] = []

        def take(records: list[Any]) -> None:
            assert len({record.partition for record in records}) == 1
            seen.setdefault(records[0].partition, []).extend(record.offset for record in records)

        ends = await read_to_end(
            connection, topic, [0, 2, 3], take, deadline_s=20, progress=lambda done, of: told.append((done, of))
        )
        assert set(ends) == {0, 2, 3}
        assert seen == {partition: list(range(end)) for partition, end in ends.items()}
        assert sum(ends.values()) > 3_000
        assert told[-1] == (sum(ends.values()), sum(ends.values()))
        assert told == sorted(told)

    asyncio.run(main())


def test_an_empty_partition_ends_at_once(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await topics.create(connection, topic, 2)
        begun = time.monotonic()
        assert await read_to_end(connection, topic, [0, 1], lambda records: None, deadline_s=20) == {0: 0, 1: 0}
        assert time.monotonic() - begun < 2

    asyncio.run(main())


def test_no_partitions_are_read_without_asking(topic: str) -> None:
    nowhere = Connection(broker="127.0.0.1:9")
    assert asyncio.run(read_to_end(nowhere, topic, [], lambda records: None, deadline_s=0.1)) == {}


def test_the_error_names_the_place_where_reading_stood(connection: Connection, topic: str) -> None:
    async def main() -> None:
        await fill(connection, topic, 10, 1)
        with pytest.raises(BrokerError) as caught:
            await read_to_end(connection, topic, [0, 9], lambda records: None, deadline_s=1)
        line = str(caught.value)
        assert f"topic {topic}, partition 9" in line
        assert "within 1 s" in line and "position unknown" in line

    asyncio.run(main())


def test_a_broker_that_is_away_is_waited_for_until_the_deadline(topic: str) -> None:
    async def main() -> None:
        begun = time.monotonic()
        with pytest.raises(BrokerError):
            await read_to_end(Connection(broker="127.0.0.1:9"), topic, [0], lambda records: None, deadline_s=1.5)
        assert 1.4 < time.monotonic() - begun < 4

    asyncio.run(main())


def test_what_takes_the_records_may_fail(connection: Connection, topic: str) -> None:
    def take(records: list[Any]) -> None:
        raise ValueError("no sketch")

    async def main() -> None:
        await fill(connection, topic, 10, 1)
        with pytest.raises(ValueError, match="no sketch"):
            await read_to_end(connection, topic, [0], take, deadline_s=20)

    asyncio.run(main())


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device"), KafkaConnectionError()])
def test_what_fails_to_take_records_is_no_outage(connection: Connection, topic: str, error: Exception) -> None:
    """It is raised at once, and no record is handed over again."""
    taken: list[int] = []

    def take(records: list[Any]) -> None:
        taken.extend(record.offset for record in records)
        raise error

    async def main() -> None:
        await fill(connection, topic, 50, 1)
        await read_to_end(connection, topic, [0], take, deadline_s=5)

    with pytest.raises(type(error)) as raised:
        asyncio.run(main())
    assert raised.value is error
    assert taken == sorted(set(taken))
