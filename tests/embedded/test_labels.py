"""Late labels through a whole worker on the embedded broker: what a backtest of the same files says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents import topics
from agents.app import Worker
from agents.broker import EmbeddedBroker
from agents.replay import generate
from agents.web_options import WebOptions
from streams.errors import BrokerError
from tests.embedded.conftest import until
from tests.embedded.test_worker import FINISHED_WITHIN_S, on_topic, project, running, windows
from tests.faults.published import expected
from tests.faults.stream import PARTITIONS, labels_of, make_stream


def test_a_live_run_with_labels_says_what_a_backtest_says(broker: EmbeddedBroker, topic: str, tmp_path: Path) -> None:
    config, plan, connection = project(broker, topic, tmp_path, labelled=True, chunk_size=1_024)
    stream = make_stream(24_000, 31)
    labels = labels_of(stream.pairs, 32)
    reference = expected(config, stream, labels)
    state = tmp_path / "state"

    async def main() -> None:
        for name in ("inference", "labels"):
            await topics.create(connection, connection.topic(name), PARTITIONS)
        async with running(plan, connection, state=state) as worker:
            await generate(connection, connection.topic("inference"), stream.pairs[:9_000])
            await generate(connection, connection.topic("labels"), labels[:14_000])
            await until(lambda: worker.merge.work.partials > 20)
        await generate(connection, connection.topic("inference"), stream.pairs[9_000:])
        await generate(connection, connection.topic("labels"), labels[14_000:])
        last = Worker(plan, connection, WebOptions(), drain=True, state=state)
        await asyncio.wait_for(last.run(), FINISHED_WITHIN_S)
        found = await windows(connection)
        assert found == reference.windows
        assert {window["clock"] for window in found.values()} == {"event", "arrival", "cohort", "truth"}
        actions = await on_topic(connection, "actions")
        assert {action["id"] for action in actions} == reference.action_ids
        assert "performance-falling" in {action["data"]["rule"] for action in actions}

    asyncio.run(main())


def test_labels_of_another_key_end_in_an_error_that_says_what_to_do(
    broker: EmbeddedBroker, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, plan, connection = project(broker, topic, tmp_path, labelled=True)
    stream = make_stream(12_000, 33)
    strangers = [
        (b"x" + (key or b""), value.replace(b'"event_id":"', b'"event_id":"x'))
        for key, value in labels_of(stream.pairs, 34)
    ]

    async def main() -> None:
        for name in ("inference", "labels"):
            await topics.create(connection, connection.topic(name), PARTITIONS)
        await generate(connection, connection.topic("inference"), stream.pairs)
        await generate(connection, connection.topic("labels"), strangers)
        last = Worker(plan, connection, WebOptions(), drain=True)
        await asyncio.wait_for(last.run(), FINISHED_WITHIN_S)

    asyncio.run(main())
    (said, *_) = [record.getMessage() for record in caplog.records if "no prediction" in record.getMessage()]
    assert "labels meet no prediction: give each the key of its event" in said


def test_a_labels_topic_with_other_partitions_is_refused(broker: EmbeddedBroker, topic: str, tmp_path: Path) -> None:
    _, plan, connection = project(broker, topic, tmp_path, labelled=True)

    async def main() -> str:
        await topics.create(connection, connection.topic("inference"), PARTITIONS)
        await topics.create(connection, connection.topic("labels"), PARTITIONS + 1)
        try:
            await asyncio.wait_for(Worker(plan, connection, WebOptions()).run(), FINISHED_WITHIN_S)
        except BrokerError as error:
            return str(error)
        return ""

    said = asyncio.run(main())
    assert f"{PARTITIONS + 1} partitions; expected {PARTITIONS}" in said and "\n" not in said
