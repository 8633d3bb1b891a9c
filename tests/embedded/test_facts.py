"""Feedback, runs and outcomes through a whole worker on the embedded broker: what a backtest of the same files says."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agents import topics
from agents.app import Worker
from agents.broker import EmbeddedBroker
from agents.clients import Connection
from agents.files import read_plan
from agents.loader import read_to_end
from agents.replay import generate
from agents.web_options import WebOptions
from tests.embedded.conftest import until
from tests.embedded.test_worker import FINISHED_WITHIN_S, on_topic, running, samples, windows
from tests.faults.oracle import differences
from tests.faults.published import replayed
from tests.faults.stream import PARTITIONS
from tests.scenario import records, stream, write


def test_a_live_run_over_all_topics_says_what_a_backtest_says(
    broker: EmbeddedBroker, topic: str, tmp_path: Path
) -> None:
    """Cut in two by a restart, with what else is told far behind the events, and ahead of them."""
    plan = read_plan(write(tmp_path, f"{topic}-"))
    connection = broker.connection(prefix=f"{topic}-")
    reference, pairs = replayed(plan, *stream()), records()

    async def send(first: bool) -> None:
        for name, found in pairs.items():
            cut = len(found) // (3 if name in ("inference", "labels") else 2)
            await generate(connection, connection.topic(name), found[:cut] if first else found[cut:])

    async def main() -> None:
        for name in ("inference", "labels"):
            await topics.create(connection, connection.topic(name), PARTITIONS)
        async with running(plan, connection, state=tmp_path / "state") as worker:
            await send(first=True)
            await until(lambda: any(judge.judges for judge in worker.merge.judges.values()))
            await until(lambda: worker.merge.work.partials > 20)
            told = await samples(worker, "foreshock_side_input_records_total")
            assert {sample.labels["topic"] for sample in told} == {"feedback", "runs", "outcomes"}
        await send(first=False)
        last = Worker(plan, connection, WebOptions(), drain=True, state=tmp_path / "state")
        await asyncio.wait_for(last.run(), FINISHED_WITHIN_S)
        found = await windows(connection)
        assert not (wrong := differences(found, reference.windows)), "\n".join(wrong[:40])
        assert {window["clock"] for window in found.values()} == {"event", "arrival", "cohort", "truth", "kpi"}
        actions = await on_topic(connection, "actions")
        assert {action["id"] for action in actions} == reference.action_ids

    asyncio.run(main())


def test_what_cannot_be_read_of_any_topic_is_a_dead_letter(broker: EmbeddedBroker, topic: str, tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, f"{topic}-"))
    connection = broker.connection(prefix=f"{topic}-")
    broken = {
        "feedback": b'{"model": "credit", "ts": 0, "kind": "applause"}',
        "runs": b'{"eventTime": "2026-01-01T00:00:00Z", "eventType": "START", "job": {"name": "x"}}',
        "outcomes": b'{"model": "credit", "ts": 0, "kpi": "conversion", "value": 1e300}',
    }

    async def main() -> None:
        for name in ("inference", "labels"):
            await topics.create(connection, connection.topic(name), PARTITIONS)
        async with running(plan, connection, state=tmp_path / "state") as worker:
            for name, value in broken.items():
                await generate(connection, connection.topic(name), [(b"k", value)])
            await until(lambda: worker.sketch.work.rejects.total() == 3)
        last = Worker(plan, connection, WebOptions(), drain=True, state=tmp_path / "state")
        await asyncio.wait_for(last.run(), FINISHED_WITHIN_S)

    asyncio.run(main())
    letters = asyncio.run(dead_letters(connection))
    assert set(letters) == {(connection.topic(name), value) for name, value in broken.items()}


async def dead_letters(connection: Connection) -> list[tuple[str, bytes]]:
    """Topic and value of each."""
    found: list[tuple[str, bytes]] = []
    name = connection.topic("dead-letter")
    await read_to_end(
        connection,
        name,
        range(await topics.find(connection, name) or 0),
        lambda records: found.extend((dict(r.headers)["foreshock.topic"].decode(), r.value) for r in records),
        deadline_s=30,
    )
    return found
